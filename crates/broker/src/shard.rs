//! A range of object names that a shard container holds, and how two views of it are merged.

use crate::record::loose_int;
use caelum_swiftkit::{Timestamp, md5_hex};
use serde::{Deserialize, Serialize, Serializer};
use std::cmp::Ordering;

/// Where a shard range stands. The numbers are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(i64)]
pub enum ShardState {
    #[default]
    Found = 10,
    Created = 20,
    Cleaved = 30,
    Active = 40,
    Shrinking = 50,
    Sharding = 60,
    Sharded = 70,
    Shrunk = 80,
}

impl ShardState {
    pub const ALL: [Self; 8] =
        [Self::Found, Self::Created, Self::Cleaved, Self::Active, Self::Shrinking, Self::Sharding, Self::Sharded, Self::Shrunk];
    /// Own states in which a container gives its objects away.
    pub const CLEAVING: [Self; 4] = [Self::Shrinking, Self::Shrunk, Self::Sharding, Self::Sharded];
    /// Whose statistics count for the whole.
    pub const STATS: [Self; 3] = [Self::Active, Self::Sharding, Self::Shrinking];
    /// Where listings are taken from.
    pub const LISTING: [Self; 4] = [Self::Active, Self::Sharding, Self::Shrinking, Self::Cleaved];
    /// Where new objects are recorded.
    pub const UPDATING: [Self; 4] = [Self::Created, Self::Cleaved, Self::Active, Self::Sharding];
    /// What a shard asks its root about.
    pub const AUDITING: [Self; 7] =
        [Self::Created, Self::Cleaved, Self::Active, Self::Sharding, Self::Sharded, Self::Shrinking, Self::Shrunk];

    pub fn number(self) -> i64 {
        self as i64
    }

    pub fn from_number(n: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.number() == n)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Found => "found",
            Self::Created => "created",
            Self::Cleaved => "cleaved",
            Self::Active => "active",
            Self::Shrinking => "shrinking",
            Self::Sharding => "sharding",
            Self::Sharded => "sharded",
            Self::Shrunk => "shrunk",
        }
    }

    /// A name or a number as text.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim().to_ascii_lowercase();
        Self::ALL.into_iter().find(|s| s.name() == text || s.number().to_string() == text)
    }

    /// `states=` of a request: names, numbers and the groups `listing`, `updating`, `auditing`.
    /// `None` when one is unknown.
    pub fn resolve<'a>(names: impl Iterator<Item = &'a str>) -> Option<Vec<Self>> {
        let mut out = Vec::new();
        for name in names {
            match name {
                "listing" => out.extend(Self::LISTING),
                "updating" => out.extend(Self::UPDATING),
                "auditing" => out.extend(Self::AUDITING),
                other => out.push(Self::parse(other)?),
            }
        }
        out.sort();
        out.dedup();
        Some(out)
    }
}

/// Names after `lower` up to and including `upper`; empty means no bound on that side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardRange {
    /// `account/container` of the shard.
    pub name: String,
    pub timestamp: Timestamp,
    pub lower: String,
    pub upper: String,
    pub object_count: i64,
    pub bytes_used: i64,
    pub meta_timestamp: Timestamp,
    pub deleted: bool,
    pub state: ShardState,
    pub state_timestamp: Timestamp,
    pub epoch: Option<Timestamp>,
    /// The root knows these statistics.
    pub reported: bool,
    /// Deleted rows; -1 when not known.
    pub tombstones: i64,
}

/// The JSON form: what replicas, servers and the proxy exchange.
#[derive(Serialize, Deserialize)]
struct Wire {
    name: String,
    timestamp: Stamp,
    lower: Option<String>,
    upper: Option<String>,
    #[serde(deserialize_with = "loose_int")]
    object_count: i64,
    #[serde(deserialize_with = "loose_int")]
    bytes_used: i64,
    meta_timestamp: Option<Stamp>,
    #[serde(deserialize_with = "loose_int")]
    deleted: i64,
    state: StateWire,
    state_timestamp: Option<Stamp>,
    epoch: Option<Stamp>,
    #[serde(default, deserialize_with = "loose_int")]
    reported: i64,
    #[serde(default = "unknown", deserialize_with = "loose_int")]
    tombstones: i64,
}

fn unknown() -> i64 {
    -1
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Stamp {
    Text(String),
    Number(f64),
}

impl Serialize for Stamp {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(t) => s.serialize_str(t),
            Self::Number(n) => s.serialize_f64(*n),
        }
    }
}

impl Stamp {
    fn read(&self) -> Option<Timestamp> {
        match self {
            // Python writes `NormalTimestamp(str)`: an offset is not allowed here.
            Self::Text(t) => Timestamp::parse(t).filter(|t| t.offset == 0),
            Self::Number(n) => Timestamp::parse(&format!("{n:.5}")),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum StateWire {
    Number(i64),
    Text(String),
    None,
}

impl Serialize for ShardRange {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let t = |t: Timestamp| Stamp::Text(t.normal());
        Wire {
            name: self.name.clone(),
            timestamp: t(self.timestamp),
            lower: Some(self.lower.clone()),
            upper: Some(self.upper.clone()),
            object_count: self.object_count,
            bytes_used: self.bytes_used,
            meta_timestamp: Some(t(self.meta_timestamp)),
            deleted: i64::from(self.deleted),
            state: StateWire::Number(self.state.number()),
            state_timestamp: Some(t(self.state_timestamp)),
            epoch: self.epoch.map(t),
            reported: i64::from(self.reported),
            tombstones: self.tombstones,
        }
        .serialize(s)
    }
}

impl<'de> Deserialize<'de> for ShardRange {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let w = Wire::deserialize(d)?;
        Self::from_wire(&w).map_err(serde::de::Error::custom)
    }
}

impl ShardRange {
    /// A new range. Statistics are zero, the state is `Found`.
    pub fn new(name: impl Into<String>, timestamp: Timestamp, lower: &str, upper: &str) -> Self {
        Self {
            name: name.into(),
            timestamp,
            lower: lower.into(),
            upper: upper.into(),
            meta_timestamp: timestamp,
            state_timestamp: timestamp,
            tombstones: -1,
            ..Self::default()
        }
    }

    fn from_wire(w: &Wire) -> Result<Self, String> {
        let stamp = |s: &Stamp| s.read().ok_or_else(|| "invalid timestamp".to_string());
        let optional = |s: &Option<Stamp>| s.as_ref().map(stamp).transpose();
        let timestamp = stamp(&w.timestamp)?;
        let out = Self {
            name: w.name.clone(),
            timestamp,
            lower: w.lower.clone().unwrap_or_default(),
            upper: w.upper.clone().unwrap_or_default(),
            object_count: w.object_count,
            bytes_used: w.bytes_used,
            meta_timestamp: optional(&w.meta_timestamp)?.unwrap_or(timestamp),
            deleted: w.deleted != 0,
            state: match &w.state {
                StateWire::Number(n) => ShardState::from_number(*n).ok_or_else(|| format!("Invalid state {n}"))?,
                StateWire::Text(t) => ShardState::parse(t).ok_or_else(|| format!("Invalid state '{t}'"))?,
                StateWire::None => ShardState::Found,
            },
            state_timestamp: optional(&w.state_timestamp)?.unwrap_or(timestamp),
            epoch: optional(&w.epoch)?,
            reported: w.reported != 0,
            tombstones: w.tombstones,
        };
        out.check().map(|()| out)
    }

    fn check(&self) -> Result<(), String> {
        let mut parts = self.name.split('/');
        if parts.clone().count() != 2 || parts.any(str::is_empty) {
            return Err(format!("Name must be of the form '<account>/<container>', got '{}'", self.name));
        }
        if !self.upper.is_empty() && self.lower > self.upper {
            return Err(format!("lower ('{}') must be less than or equal to upper ('{}')", self.lower, self.upper));
        }
        if self.object_count < 0 {
            return Err("object_count cannot be < 0".into());
        }
        if self.bytes_used < 0 {
            return Err("bytes_used cannot be < 0".into());
        }
        Ok(())
    }

    pub fn account(&self) -> &str {
        self.name.split('/').next().unwrap_or("")
    }

    pub fn container(&self) -> &str {
        self.name.split('/').nth(1).unwrap_or("")
    }

    /// The name of a new shard: `.shards_account/root-md5(parent)-time-index`.
    pub fn make_path(shards_account: &str, root: &str, parent: &str, timestamp: Timestamp, index: usize) -> String {
        format!("{shards_account}/{root}-{}-{}-{index}", md5_hex(parent.as_bytes()), timestamp.normal())
    }

    /// Whether this shard was cut out of `parent`, by its name.
    pub fn is_child_of(&self, parent: &ShardRange) -> bool {
        let Some((root, hash)) = shard_name(self.container()) else { return false };
        let parent_root = shard_name(parent.container()).map_or(parent.container(), |(root, _)| root);
        root == parent_root && hash == md5_hex(parent.container().as_bytes())
    }

    pub fn contains(&self, name: &str) -> bool {
        !name.is_empty() && self.lower.as_str() < name && (self.upper.is_empty() || name <= self.upper.as_str())
    }

    pub fn overlaps(&self, other: &ShardRange) -> bool {
        let lower = self.lower.as_str().max(&other.lower);
        match cmp_upper(&self.upper, &other.upper) {
            Ordering::Less => lower < self.upper.as_str(),
            _ => other.upper.is_empty() || lower < other.upper.as_str(),
        }
    }

    pub fn includes(&self, other: &ShardRange) -> bool {
        self.lower <= other.lower && cmp_upper(&other.upper, &self.upper) != Ordering::Greater
    }

    pub fn entire(&self) -> bool {
        self.lower.is_empty() && self.upper.is_empty()
    }

    /// Upper bound, state, lower bound, name: the order in which ranges are used.
    pub fn order(&self, other: &ShardRange) -> Ordering {
        cmp_upper(&self.upper, &other.upper)
            .then(self.state.cmp(&other.state))
            .then_with(|| self.lower.cmp(&other.lower))
            .then_with(|| self.name.cmp(&other.name))
    }

    pub fn row_count(&self) -> i64 {
        self.object_count + self.tombstones.max(0)
    }

    /// Bound for a listing of this range alone: just past `upper`.
    pub fn end_marker(&self) -> String {
        if self.upper.is_empty() { String::new() } else { format!("{}\0", self.upper) }
    }

    pub fn update_meta(&mut self, objects: i64, bytes: i64, at: Timestamp) {
        if (self.object_count, self.bytes_used) != (objects, bytes) {
            (self.object_count, self.bytes_used) = (objects, bytes);
            self.reported = false;
        }
        self.meta_timestamp = at;
    }

    pub fn update_tombstones(&mut self, tombstones: i64, at: Timestamp) {
        if tombstones >= 0 && tombstones != self.tombstones {
            self.tombstones = tombstones;
            self.reported = false;
        }
        self.meta_timestamp = at;
    }

    /// Without a time, only a change of state counts. True when something changed.
    pub fn update_state(&mut self, state: ShardState, at: Option<Timestamp>) -> bool {
        if at.is_none() && self.state == state {
            return false;
        }
        self.state = state;
        if let Some(at) = at {
            self.state_timestamp = at;
        }
        self.reported = false;
        true
    }

    pub fn set_deleted(&mut self, at: Timestamp) {
        self.deleted = true;
        self.timestamp = at;
    }

    /// Widens the range to take in others. True when it grew.
    pub fn expand<'a>(&mut self, donors: impl Iterator<Item = &'a ShardRange>) -> bool {
        let before = (self.lower.clone(), self.upper.clone());
        for d in donors {
            if d.lower < self.lower {
                self.lower = d.lower.clone();
            }
            if cmp_upper(&d.upper, &self.upper) == Ordering::Greater {
                self.upper = d.upper.clone();
            }
        }
        before != (self.lower.clone(), self.upper.clone())
    }

    /// The ranges of two lists in their order, the newer of those with one name, without deleted ones.
    pub fn combined(new: &[ShardRange], mut existing: Vec<ShardRange>) -> Vec<ShardRange> {
        for range in new {
            let mut range = range.clone();
            let at = existing.iter().position(|e| e.name == range.name);
            if !range.merge_from(at.map(|i| &existing[i])) {
                continue;
            }
            match at {
                Some(i) => existing[i] = range,
                None => existing.push(range),
            }
        }
        existing.retain(|r| !r.deleted);
        existing.sort_by(Self::order);
        existing
    }

    /// Takes over from `existing` what is newer there. False when `self` has nothing new.
    pub(crate) fn merge_from(&mut self, existing: Option<&ShardRange>) -> bool {
        let Some(old) = existing else { return true };
        match old.timestamp.cmp(&self.timestamp) {
            // A later creation has nothing to do with the earlier one.
            Ordering::Less => {
                self.reported = false;
                return true;
            }
            Ordering::Greater => return false,
            Ordering::Equal => {}
        }
        let mut new = false;
        self.lower = old.lower.clone();
        self.upper = old.upper.clone();
        self.deleted = old.deleted;
        if old.meta_timestamp >= self.meta_timestamp {
            (self.object_count, self.bytes_used, self.tombstones) = (old.object_count, old.bytes_used, old.tombstones);
            self.meta_timestamp = old.meta_timestamp;
        } else {
            new = true;
        }
        let same = |r: &ShardRange| (r.object_count, r.bytes_used, r.tombstones, r.state, r.epoch);
        if old.reported && same(old) == same(self) {
            self.reported = true;
        } else if self.reported && !old.reported {
            new = true;
        }
        if old.state_timestamp == self.state_timestamp && self.state > old.state {
            new = true;
        } else if old.state_timestamp >= self.state_timestamp {
            (self.state, self.state_timestamp, self.epoch) = (old.state, old.state_timestamp, old.epoch);
        } else {
            new = true;
        }
        new
    }
}

/// Compares upper bounds, where empty is the greatest.
pub fn cmp_upper(a: &str, b: &str) -> Ordering {
    match (a.is_empty(), b.is_empty()) {
        (true, true) => Ordering::Equal,
        (true, false) => Ordering::Greater,
        (false, true) => Ordering::Less,
        (false, false) => a.cmp(b),
    }
}

/// Root container and parent's hash in a shard container's name.
pub(crate) fn shard_name(container: &str) -> Option<(&str, &str)> {
    let mut parts = container.rsplitn(4, '-');
    let (index, time, hash, root) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let valid = index.parse::<i64>().is_ok() && Timestamp::parse(time).is_some();
    valid.then_some((root, hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn t(n: u64) -> Timestamp {
        Timestamp::from_raw(n * 100_000)
    }

    #[test]
    fn bounds() {
        let r = |l: &str, u: &str| ShardRange::new("a/c", t(1), l, u);
        assert!(r("a", "b").contains("b") && !r("a", "b").contains("a"));
        assert!(r("", "").contains("x") && !r("", "").contains(""));
        assert!(r("a", "c").overlaps(&r("b", "")) && !r("a", "b").overlaps(&r("b", "c")));
        assert!(r("", "").includes(&r("a", "b")) && !r("a", "b").includes(&r("a", "")));
        let mut x = r("b", "c");
        assert!(x.expand([&r("a", "b"), &r("c", "")].into_iter()));
        assert_eq!((x.lower.as_str(), x.upper.as_str()), ("a", ""));
    }

    #[test]
    fn merging() {
        let mut old = ShardRange::new("a/c", t(1), "a", "b");
        old.update_meta(3, 30, t(5));
        old.update_state(ShardState::Active, Some(t(4)));
        let mut new = ShardRange::new("a/c", t(1), "x", "y");
        new.update_meta(1, 1, t(2));
        assert!(!new.merge_from(Some(&old)));
        assert_eq!((new.lower.as_str(), new.object_count, new.state), ("a", 3, ShardState::Active));
        let mut later = ShardRange::new("a/c", t(2), "x", "y");
        assert!(later.merge_from(Some(&old)) && later.lower == "x");
        let mut state = old.clone();
        state.state = ShardState::Sharding;
        assert!(state.merge_from(Some(&old)) && state.state == ShardState::Sharding);
    }

    #[test]
    fn json_as_upstream_writes_it() {
        let text = r#"{"name":".shards_a/c-5d41402abc4b2a76b9719d911017c592-0000000001.00000-0","timestamp":"0000000001.00000","lower":"","upper":"m","object_count":1,"bytes_used":2,"meta_timestamp":"0000000003.00000","deleted":0,"state":40,"state_timestamp":"0000000002.00000","epoch":null,"reported":1,"tombstones":-1}"#;
        let r: ShardRange = serde_json::from_str(text).unwrap();
        assert_eq!((r.state, r.reported, r.meta_timestamp), (ShardState::Active, true, t(3)));
        assert_eq!(serde_json::to_string(&r).unwrap(), text);
        assert!(!r.is_child_of(&ShardRange::new("a/hello", t(1), "", "")));
        let path = ShardRange::make_path(".shards_a", "hello", "hello", t(1), 0);
        assert_eq!(path, ".shards_a/hello-5d41402abc4b2a76b9719d911017c592-0000000001.00000-0");
        assert!(ShardRange::new(path, t(1), "", "").is_child_of(&ShardRange::new("a/hello", t(1), "", "")));
        for bad in [text.replace(":40", ":41"), text.replace(".shards_a/", ""), text.replace("\"lower\":\"\"", "\"lower\":\"n\"")] {
            assert!(serde_json::from_str::<ShardRange>(&bad).is_err());
        }
    }

    #[test]
    fn states() {
        assert_eq!(ShardState::parse("Active"), Some(ShardState::Active));
        assert_eq!(ShardState::parse("60"), Some(ShardState::Sharding));
        assert_eq!(ShardState::resolve(["listing"].into_iter()).unwrap().len(), 4);
        assert_eq!(ShardState::resolve(["listing", "bad"].into_iter()), None);
    }
}
