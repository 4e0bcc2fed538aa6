//! `[container-sharder]` as upstream reads it.

use super::SharderConfig;
use caelum_base::{Error, Result};

struct Reader<'a>(&'a dyn Fn(&str) -> Option<String>);

impl Reader<'_> {
    fn number<T: std::str::FromStr>(&self, key: &str, default: T) -> Result<T> {
        match (self.0)(key) {
            None => Ok(default),
            Some(text) => text.trim().parse().map_err(|_| Error::invalid(format!("Error setting {key}: {text} is not such a number"))),
        }
    }

    fn positive(&self, key: &str, default: i64) -> Result<i64> {
        let n = self.number(key, default)?;
        if n > 0 { Ok(n) } else { Err(Error::invalid(format!("Error setting {key}: it must be greater than 0"))) }
    }

    fn count(&self, key: &str, default: usize) -> Result<usize> {
        let n = self.positive(key, i64::try_from(default).unwrap_or(i64::MAX))?;
        usize::try_from(n).map_err(|_| Error::invalid(format!("Error setting {key}: too large")))
    }

    /// A part of `whole` in percent, as older configurations have it.
    fn percent(&self, key: &str, default: f64, whole: i64) -> Result<i64> {
        let percent: f64 = self.number(key, default)?;
        if !(0.0..=100.0).contains(&percent) {
            return Err(Error::invalid(format!("Error setting {key}: it must be between 0 and 100")));
        }
        Ok((percent / 100.0 * whole as f64) as i64)
    }

    fn quorum(&self, key: &str) -> Result<Option<usize>> {
        match (self.0)(key).as_deref().map(str::trim) {
            None | Some("auto" | "") => Ok(None),
            Some(_) => self.number(key, 0).map(Some),
        }
    }
}

impl SharderConfig {
    /// Reads options by name. Errors: `Invalid` for what is no number, and for sizes that contradict each other.
    pub fn from_options(get: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let (r, d) = (Reader(get), Self::default());
        let threshold = r.positive("shard_container_threshold", d.threshold)?;
        let rows_per_shard = r.positive("rows_per_shard", (threshold / 2).max(1))?;
        let shrink_threshold = r.percent("shard_shrink_point", 10.0, threshold)?;
        let expansion_limit = r.percent("shard_shrink_merge_point", 75.0, threshold)?;
        let quorum = r.quorum("shard_replication_quorum")?;
        let c = Self {
            auto_shard: get("auto_shard")
                .is_some_and(|v| matches!(v.trim().to_ascii_lowercase().as_str(), "true" | "1" | "yes" | "on" | "t" | "y")),
            threshold,
            rows_per_shard,
            minimum_shard_size: r.positive("minimum_shard_size", (rows_per_shard / 5).max(1))?,
            shrink_threshold: r.number("shrink_threshold", shrink_threshold)?,
            expansion_limit: r.number("expansion_limit", expansion_limit)?,
            // Below 0: without limit.
            max_shrinking: usize::try_from(r.number::<i64>("max_shrinking", 1)?).unwrap_or(0),
            max_expanding: usize::try_from(r.number::<i64>("max_expanding", -1)?).ok(),
            scanner_batch: r.count("shard_scanner_batch_size", d.scanner_batch)?,
            cleave_batch: r.count("cleave_batch_size", d.cleave_batch)?,
            cleave_rows: r.count("cleave_row_batch_size", d.cleave_rows)?,
            quorum,
            existing_quorum: r.quorum("existing_shard_replication_quorum")?.or(quorum),
        };
        let at_most = |a: i64, what: &str, b: i64, other: &str| match a <= b {
            true => Ok(()),
            false => Err(Error::invalid(format!("{what} ({a}) must be <= {other} ({b})"))),
        };
        at_most(c.minimum_shard_size, "minimum_shard_size", c.rows_per_shard, "rows_per_shard")?;
        at_most(c.shrink_threshold, "shrink_threshold", c.minimum_shard_size, "minimum_shard_size")?;
        for (n, what) in [(c.rows_per_shard, "rows_per_shard"), (c.expansion_limit, "expansion_limit")] {
            if n >= c.threshold {
                return Err(Error::invalid(format!("{what} ({n}) must be < shard_container_threshold ({})", c.threshold)));
            }
        }
        Ok(c)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &'static str) -> Result<SharderConfig> {
        let pairs: Vec<(&str, &str)> = text.split_whitespace().filter_map(|p| p.split_once('=')).collect();
        SharderConfig::from_options(&|key| pairs.iter().find(|(k, _)| *k == key).map(|(_, v)| v.to_string()))
    }

    #[test]
    fn sizes() {
        let c = read("").unwrap();
        let d = SharderConfig::default();
        let of = |c: &SharderConfig| (c.threshold, c.rows_per_shard, c.minimum_shard_size, c.shrink_threshold, c.expansion_limit);
        assert_eq!(of(&c), of(&d));
        let c = read("auto_shard=yes shard_container_threshold=100 max_expanding=3 shard_shrink_merge_point=50").unwrap();
        assert_eq!(of(&c), (100, 50, 10, 10, 50));
        assert_eq!((c.auto_shard, c.max_expanding, c.max_shrinking), (true, Some(3), 1));
        assert_eq!(read("shard_replication_quorum=3").unwrap().existing_quorum, Some(3));
        let bad = read("shrink_threshold=20 minimum_shard_size=10").unwrap_err().to_string();
        assert_eq!(bad, "shrink_threshold (20) must be <= minimum_shard_size (10)");
        for bad in
            ["shard_container_threshold=0", "rows_per_shard=x", "expansion_limit=1000000", "cleave_batch_size=-1", "shard_shrink_point=101"]
        {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
