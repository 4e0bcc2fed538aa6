//! How far the relinker has come on a device: `relink.objects.json` beside the data, as upstream keeps it, so that a step
//! that was broken off goes on where it was, with either program.
//!
//! The file is written after each partition, whole or not at all. One that belongs to another step or to an earlier
//! increase is thrown away.

use caelum_diskfile::DiskResult;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// Larger than any such file.
const MAX_FILE: u64 = 1 << 30;

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Saved {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    prev_part_power: Option<u32>,
    part_power: u32,
    next_part_power: u32,
    /// By partition, whether it is done.
    state: BTreeMap<String, bool>,
}

/// The state of one device and policy.
#[derive(Debug)]
pub(super) struct State {
    dir: PathBuf,
    datadir: String,
    saved: Saved,
}

impl State {
    /// Reads what is on the device. Blocks.
    pub fn load(device: &Path, datadir: &str, part_power: u32, next_part_power: u32) -> DiskResult<Self> {
        let mut own = Self {
            dir: device.to_path_buf(),
            datadir: datadir.to_string(),
            saved: Saved { part_power, next_part_power, ..Saved::default() },
        };
        let path = own.path();
        let raw = match std::fs::metadata(&path) {
            Ok(m) if m.len() > MAX_FILE => Vec::new(),
            Ok(_) => std::fs::read(&path)?,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(own),
            Err(e) => return Err(e.into()),
        };
        match serde_json::from_slice::<Saved>(&raw) {
            Ok(s) if (s.part_power, s.next_part_power) == (part_power, next_part_power) => own.saved = s,
            other => {
                if let Ok(s) = other
                    && s.next_part_power == next_part_power
                {
                    own.saved.prev_part_power = Some(s.part_power);
                }
                std::fs::remove_file(&path)?;
            }
        }
        Ok(own)
    }

    fn path(&self) -> PathBuf {
        self.dir.join(format!("relink.{}.json", self.datadir))
    }

    /// The lock that keeps a second relinker away.
    pub fn lock_path(device: &Path, datadir: &str) -> PathBuf {
        device.join(format!(".relink.{datadir}.lock"))
    }

    /// Which of a device's partitions are to be looked at, from above: what is linked into a lower one need not be looked
    /// at again. Partitions that appeared since the step began hold nothing to link, as servers know of the increase.
    pub fn remaining(&mut self, partitions: &[u32], relinking: bool) -> Vec<u32> {
        let is_new = self.saved.state.is_empty();
        for p in partitions {
            self.saved.state.entry(p.to_string()).or_insert(relinking && !is_new);
        }
        let mut out: Vec<u32> = self.saved.state.iter().filter(|(_, done)| !**done).filter_map(|(p, _)| p.parse().ok()).collect();
        out.sort_unstable_by(|a, b| b.cmp(a));
        out
    }

    /// Notes that a partition is done. Blocks.
    pub fn done(&mut self, partition: u32) -> DiskResult<()> {
        self.saved.state.insert(partition.to_string(), true);
        let temporary = self.dir.join(format!(".relink.{}.json.tmp", self.datadir));
        let mut file = std::fs::File::create(&temporary)?;
        file.write_all(&serde_json::to_vec(&self.saved).map_err(std::io::Error::from)?)?;
        file.sync_all()?;
        Ok(std::fs::rename(&temporary, self.path())?)
    }

    /// Partitions done, and all.
    pub fn progress(&self) -> (usize, usize) {
        (self.saved.state.values().filter(|done| **done).count(), self.saved.state.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_on_where_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let load = |a, b| State::load(dir.path(), "objects", a, b).unwrap();
        let mut s = load(8, 9);
        assert_eq!(s.remaining(&[1, 20, 3], true), [20, 3, 1]);
        s.done(20).unwrap();
        let text = std::fs::read_to_string(dir.path().join("relink.objects.json")).unwrap();
        // As upstream writes it.
        let expected = serde_json::json!({"part_power": 8, "next_part_power": 9, "state": {"1": false, "20": true, "3": false}});
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), expected);
        let mut s = load(8, 9);
        assert_eq!(s.remaining(&[1, 3, 20, 40], true), [3, 1]);
        assert_eq!(s.progress(), (2, 4));
        // The clean-up begins anew, and looks at partitions that it did not know as well.
        let mut s = load(9, 9);
        assert!(!dir.path().join("relink.objects.json").exists());
        assert_eq!((s.remaining(&[1, 3], false), s.saved.prev_part_power), (vec![3, 1], Some(8)));
        s.done(3).unwrap();
        assert_eq!(load(9, 9).remaining(&[1, 3, 5], false), [5, 1]);
        std::fs::write(dir.path().join("relink.objects.json"), b"[]").unwrap();
        assert_eq!(load(9, 9).remaining(&[1], false), [1]);
    }
}
