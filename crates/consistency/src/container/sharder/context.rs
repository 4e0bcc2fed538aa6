//! How far the cleaving of a retiring database has come. Kept as system metadata of the fresh one.

use caelum_broker::{ContainerBroker, Result};
use caelum_swiftkit::Timestamp;
use serde::{Deserialize, Serialize};

const PREFIX: &str = "X-Container-Sysmeta-Shard-Context-";
/// A finished context is kept for so many seconds.
const KEEP_SECS: u64 = 43_200;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Context {
    /// Identity of the retiring database.
    #[serde(rename = "ref")]
    pub reference: String,
    /// Upper bound of the last range done.
    #[serde(default)]
    pub cursor: String,
    /// The retiring database's last row.
    #[serde(default)]
    pub max_row: Option<i64>,
    /// Rows to move: fixed when cleaving starts.
    #[serde(default)]
    pub cleave_to_row: Option<i64>,
    /// Rows moved in a round before.
    #[serde(default)]
    pub last_cleave_to_row: Option<i64>,
    #[serde(default)]
    pub cleaving_done: bool,
    #[serde(default)]
    pub misplaced_done: bool,
    #[serde(default)]
    pub ranges_done: i64,
    #[serde(default)]
    pub ranges_todo: i64,
    #[serde(default)]
    pub replication_time: f64,
}

impl Context {
    pub fn load(broker: &ContainerBroker) -> Result<Self> {
        let brokers = broker.brokers();
        let (first, last) = (brokers.first().unwrap_or(broker), brokers.last().unwrap_or(broker));
        let reference = first.get_info()?.id;
        let stored = last.sharding_sysmeta(&format!("Context-{reference}"))?;
        let context: Option<Self> = stored.and_then(|text| serde_json::from_str(&text).ok());
        Ok(Self { reference, max_row: Some(first.db().max_row(None)?), ..context.unwrap_or_default() })
    }

    pub fn store(&self, broker: &ContainerBroker) -> Result<()> {
        let text = serde_json::to_string(self).map_err(|e| caelum_broker::BrokerError::Invalid(e.to_string()))?;
        broker.set_sharding_sysmeta(&format!("Context-{}", self.reference), &text)
    }

    /// Another round, for rows that have come since.
    pub fn reset(&mut self) {
        self.last_cleave_to_row = self.cleave_to_row;
        self.cursor.clear();
        (self.ranges_done, self.ranges_todo) = (0, 0);
        (self.cleaving_done, self.misplaced_done) = (false, false);
    }

    pub fn start(&mut self, lower: &str) {
        self.cursor = lower.to_string();
        (self.ranges_done, self.ranges_todo) = (0, 0);
        self.cleaving_done = false;
        self.cleave_to_row = self.max_row;
    }

    pub fn range_done(&mut self, upper: &str) {
        self.ranges_done += 1;
        self.ranges_todo -= 1;
        self.cursor = upper.to_string();
    }

    pub fn done(&self) -> bool {
        self.misplaced_done && self.cleaving_done && self.max_row == self.cleave_to_row
    }
}

/// Removes contexts that are finished and old, and those that nothing was done with since `stale`: their databases are gone.
pub(super) fn forget_old(broker: &ContainerBroker, stale: Timestamp) -> Result<()> {
    let old = broker.db().now().minus(std::time::Duration::from_secs(KEEP_SECS));
    for (key, (value, time)) in broker.metadata()? {
        let Some(reference) = key.strip_prefix(PREFIX).filter(|_| !value.is_empty()) else { continue };
        let context: Option<Context> = serde_json::from_str(&value).ok();
        let finished = context.is_some_and(|c| c.done());
        if Timestamp::parse(&time).is_some_and(|t| finished && t < old || t < stale) {
            broker.set_sharding_sysmeta(&format!("Context-{reference}"), "")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stored_form() {
        let text = r#"{"ref": "id", "cursor": "m", "max_row": 5, "cleave_to_row": 5, "last_cleave_to_row": null, "cleaving_done": true, "misplaced_done": true, "ranges_done": 2, "ranges_todo": 0, "replication_time": 0.25}"#;
        let c: Context = serde_json::from_str(text).unwrap();
        assert!(c.done() && c.cursor == "m");
        let back: serde_json::Value = serde_json::to_value(&c).unwrap();
        assert_eq!(back, serde_json::from_str::<serde_json::Value>(text).unwrap());
    }
}
