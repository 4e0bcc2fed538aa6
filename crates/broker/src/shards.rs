//! A container's shard ranges, and its way from one file to many containers.

use crate::container::{ContainerBroker, DbState};
use crate::db::sync_dir;
use crate::error::{At, Result};
use crate::paths::with_epoch;
use crate::pool::{value_int, value_text};
use crate::shard::{ShardRange, ShardState, cmp_upper};
use caelum_swiftkit::Timestamp;
use rusqlite::types::Value;
use rusqlite::{Row, params, params_from_iter};
use std::cmp::Ordering;

const COLUMNS: &str = "name, timestamp, lower, upper, object_count, bytes_used, meta_timestamp, deleted, state, \
    state_timestamp, epoch, reported, tombstones";

/// Which shard ranges are wanted.
#[derive(Clone, Debug, Default)]
pub struct ShardQuery {
    /// `None` and empty: no bound.
    pub marker: String,
    pub end_marker: String,
    /// Only the first range holding this name.
    pub includes: Option<String>,
    pub reverse: bool,
    /// Empty: all.
    pub states: Vec<ShardState>,
    pub include_deleted: bool,
    pub include_own: bool,
    pub exclude_others: bool,
    /// Append a range for what no range covers, up to the wanted end.
    pub fill_gaps: bool,
}

/// Ranges that were found by counting objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundRange {
    pub index: usize,
    pub lower: String,
    pub upper: String,
    pub object_count: i64,
}

impl ContainerBroker {
    /// What the container's files say of its sharding.
    pub fn db_state(&self) -> Result<DbState> {
        match self.files().len() {
            0 => return Ok(DbState::NotFound),
            1 => {}
            _ => return Ok(DbState::Sharding),
        }
        let Some(epoch) = self.epoch() else { return Ok(DbState::Unsharded) };
        if self.own_shard_range()?.epoch != Timestamp::parse(&epoch) {
            return Ok(DbState::Unsharded);
        }
        Ok(if self.has_other_shard_ranges()? { DbState::Sharded } else { DbState::Collapsed })
    }

    /// The files as brokers of their own: the retiring one first while sharding.
    pub fn brokers(&self) -> Vec<ContainerBroker> {
        let files = self.files();
        let last_two = files.get(files.len().saturating_sub(2)..).unwrap_or(files);
        let n = last_two.len();
        let one = |(i, file): (usize, &std::path::PathBuf)| {
            let mut b = ContainerBroker::forced(&self.db().pool, file, i + 1 < n);
            b.db_mut().pending_timeout = self.db().pending_timeout;
            b.db_mut().stale_reads_ok = self.db().stale_reads_ok;
            b
        };
        last_two.iter().enumerate().map(one).collect()
    }

    fn shard_rows(&self, q: &ShardQuery, limit: Option<usize>) -> Result<Vec<ShardRange>> {
        let own = self.path()?;
        let (mut conditions, mut args): (Vec<String>, Vec<Value>) = (Vec::new(), Vec::new());
        if !q.include_deleted {
            conditions.push("deleted = 0".into());
        }
        if !q.states.is_empty() {
            let numbers: Vec<String> = q.states.iter().map(|s| s.number().to_string()).collect();
            conditions.push(format!("state IN ({})", numbers.join(",")));
        }
        let mut arg = |condition: &str, value: &str| {
            conditions.push(condition.into());
            args.push(Value::Text(value.into()));
        };
        if !q.include_own {
            arg("name != ?", &own);
        }
        if q.exclude_others {
            arg("name = ?", &own);
        }
        if let Some(name) = &q.includes {
            arg("lower < ?", name);
            arg("(upper = '' OR upper >= ?)", name);
        } else {
            if !q.end_marker.is_empty() {
                arg("lower < ?", &q.end_marker);
            }
            if !q.marker.is_empty() {
                arg("(upper = '' OR upper > ?)", &q.marker);
            }
        }
        let mut sql = format!("SELECT {COLUMNS} FROM shard_range");
        if !conditions.is_empty() {
            sql.push_str(" WHERE ");
            sql.push_str(&conditions.join(" AND "));
        }
        if let Some(limit) = limit {
            sql.push_str(&format!(" LIMIT {limit}"));
        }
        self.db().with(|c| {
            let mut st = c.prepare_cached(&sql)?;
            let rows = st.query_map(params_from_iter(args), read_shard)?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
    }

    /// Shard ranges in order of their upper bounds.
    pub fn shard_ranges(&self, q: &ShardQuery) -> Result<Vec<ShardRange>> {
        let mut q = q.clone();
        if q.reverse {
            std::mem::swap(&mut q.marker, &mut q.end_marker);
        }
        if q.exclude_others && !q.include_own || !q.marker.is_empty() && !q.end_marker.is_empty() && q.marker >= q.end_marker {
            return Ok(Vec::new());
        }
        let mut ranges = self.shard_rows(&q, None)?;
        ranges.sort_by(ShardRange::order);
        if q.includes.as_deref().is_some_and(|i| !i.is_empty()) {
            ranges.truncate(1);
            return Ok(ranges);
        }
        if q.fill_gaps
            && let Some(filler) = self.filler(&ranges, &q)?
        {
            ranges.push(filler);
        }
        if q.reverse {
            ranges.reverse();
        }
        Ok(ranges)
    }

    fn filler(&self, ranges: &[ShardRange], q: &ShardQuery) -> Result<Option<ShardRange>> {
        if ranges.last().is_some_and(|r| r.upper.is_empty()) {
            return Ok(None);
        }
        let mut own = self.own_shard_range()?;
        let lower = match ranges.last() {
            Some(last) => last.upper.clone(),
            None => own.lower.as_str().max(&q.marker).to_string(),
        };
        let upper = match (q.end_marker.is_empty(), cmp_upper(&q.end_marker, &own.upper)) {
            (false, Ordering::Less) => q.end_marker.clone(),
            _ => own.upper.clone(),
        };
        if !upper.is_empty() && upper <= lower {
            return Ok(None);
        }
        (own.lower, own.upper) = (lower, upper);
        Ok(Some(own))
    }

    /// The range the container itself stands for, if one is recorded.
    pub fn recorded_own_range(&self) -> Result<Option<ShardRange>> {
        let q = ShardQuery { include_own: true, include_deleted: true, exclude_others: true, ..ShardQuery::default() };
        Ok(self.shard_rows(&q, Some(1))?.pop())
    }

    /// The range the container itself stands for; everything when none is recorded.
    pub fn own_shard_range(&self) -> Result<ShardRange> {
        if let Some(own) = self.recorded_own_range()? {
            return Ok(own);
        }
        let mut own = ShardRange::new(self.path()?, self.db().pool.now(), "", "");
        own.state = ShardState::Active;
        Ok(own)
    }

    pub fn is_own(&self, range: &ShardRange) -> Result<bool> {
        Ok(range.name == self.path()?)
    }

    pub fn has_other_shard_ranges(&self) -> Result<bool> {
        let own = self.path()?;
        self.db().with(|c| {
            let mut st = c.prepare_cached("SELECT 1 FROM shard_range WHERE deleted = 0 AND name != ? LIMIT 1")?;
            Ok(st.exists([own])?)
        })
    }

    /// Objects and bytes in all shards.
    pub fn shard_usage(&self) -> Result<(i64, i64)> {
        let own = self.path()?;
        let states: Vec<String> = ShardState::STATS.iter().map(|s| s.number().to_string()).collect();
        let sql = format!(
            "SELECT coalesce(sum(object_count), 0), coalesce(sum(bytes_used), 0) FROM shard_range \
             WHERE state IN ({}) AND deleted = 0 AND name != ?",
            states.join(",")
        );
        self.db().with(|c| Ok(c.prepare_cached(&sql)?.query_row([own], |r| Ok((r.get(0)?, r.get(1)?)))?))
    }

    /// Every range, deleted ones and the own one too: what replicas exchange.
    pub fn all_shard_ranges(&self) -> Result<Vec<ShardRange>> {
        self.shard_ranges(&ShardQuery { include_deleted: true, include_own: true, ..ShardQuery::default() })
    }

    pub fn sharding_initiated(&self) -> Result<bool> {
        Ok(match self.recorded_own_range()? {
            Some(own) if ShardState::CLEAVING.contains(&own.state) => self.has_other_shard_ranges()?,
            _ => false,
        })
    }

    pub fn sharding_required(&self) -> Result<bool> {
        Ok(match self.db_state()? {
            DbState::Sharding => true,
            DbState::Unsharded => self.sharding_initiated()?,
            _ => false,
        })
    }

    /// Merges views of ranges: for each the newest of every part.
    pub fn merge_shard_ranges(&self, ranges: Vec<ShardRange>) -> Result<()> {
        if ranges.is_empty() {
            return Ok(());
        }
        self.db().write(|c| {
            let mut find = c.prepare_cached(&format!("SELECT {COLUMNS} FROM shard_range WHERE deleted IN (0, 1) AND name = ?"))?;
            let mut add: Vec<(ShardRange, bool)> = Vec::new();
            for mut range in ranges {
                let existing = find.query_map([&range.name], read_shard)?.last().transpose()?;
                if !range.merge_from(existing.as_ref()) {
                    continue;
                }
                match add.iter().position(|(r, _)| r.name == range.name) {
                    Some(i) => {
                        if range.merge_from(Some(&add[i].0)) {
                            add[i].0 = range;
                        }
                    }
                    None => add.push((range, existing.is_some())),
                }
            }
            let mut delete = c.prepare_cached("DELETE FROM shard_range WHERE deleted IN (0, 1) AND name = ?")?;
            for (range, _) in add.iter().filter(|(_, replaces)| *replaces) {
                delete.execute([&range.name])?;
            }
            let mut insert =
                c.prepare_cached(&format!("INSERT INTO shard_range ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"))?;
            for (r, _) in &add {
                insert.execute(params![
                    r.name,
                    r.timestamp.normal(),
                    r.lower,
                    r.upper,
                    r.object_count,
                    r.bytes_used,
                    r.meta_timestamp.normal(),
                    i64::from(r.deleted),
                    r.state.number(),
                    r.state_timestamp.normal(),
                    r.epoch.map(Timestamp::normal),
                    i64::from(r.reported),
                    r.tombstones,
                ])?;
            }
            Ok(())
        })
    }

    /// Marks the container for sharding as of `epoch`.
    pub fn enable_sharding(&self, epoch: Timestamp) -> Result<ShardRange> {
        let mut own = self.own_shard_range()?;
        own.update_state(ShardState::Sharding, Some(epoch));
        own.epoch = Some(epoch);
        self.merge_shard_ranges(vec![own.clone()])?;
        Ok(own)
    }

    /// Begins sharding: a fresh database beside the retiring one takes what comes from now on. False
    /// when the container is not ready for it.
    pub fn set_sharding_state(&mut self) -> Result<bool> {
        let Some(epoch) = self.own_shard_range()?.epoch else { return Ok(false) };
        if self.db_state()? != DbState::Unsharded {
            return Ok(false);
        }
        let info = self.get_info()?;
        let tmp = self.db().dir().join(format!("fresh{}.db.tmp", self.db().pool.env.uuid()));
        let mut fresh = ContainerBroker::forced(&self.db().pool, &tmp, false);
        fresh.initialize(&info.account, &info.container, &info.put_timestamp, info.storage_policy_index)?;
        fresh.db().update_metadata(&self.metadata()?, false)?;
        fresh.merge_shard_ranges(self.all_shard_ranges()?)?;
        for incoming in [true, false] {
            let points: Vec<_> = self.db().get_syncs(incoming)?.into_iter().map(|p| (p.remote_id, p.sync_point)).collect();
            fresh.db().merge_syncs(&points, incoming)?;
        }
        let max_row = self.db().max_row(None)?;
        let now = self.db().pool.now().internal();
        fresh.db().write(|c| {
            // Row numbers go on where the retiring database ends, so that other replicas' sync points hold.
            c.execute(
                "INSERT INTO object (ROWID, name, created_at, size, content_type, etag) VALUES (?, 'tmp_sharding', ?, 0, '', ?)",
                params![max_row, now, "d41d8cd98f00b204e9800998ecf8427e"],
            )?;
            c.execute("DELETE FROM object WHERE ROWID = ?", [max_row])?;
            c.execute(
                "UPDATE container_stat SET created_at = ?, delete_timestamp = ?, status = ?, status_changed_at = ?",
                params![info.created_at, info.delete_timestamp, info.status, info.status_changed_at],
            )?;
            Ok(())
        })?;
        self.db().pool.forget(&tmp);
        let to = with_epoch(self.db().base(), Some(&epoch.normal()));
        std::fs::rename(&tmp, &to).at(&to)?;
        sync_dir(self.db().dir())?;
        self.reload()?;
        Ok(true)
    }

    /// Ends sharding: removes the retiring database. False when the container is not at that point.
    pub fn set_sharded_state(&mut self) -> Result<bool> {
        self.reload()?;
        if self.db_state()? != DbState::Sharding {
            return Ok(false);
        }
        let files = self.files();
        let Some(retiring) = files.len().checked_sub(2).and_then(|i| files.get(i)).cloned() else { return Ok(false) };
        self.db().pool.forget(&retiring);
        std::fs::remove_file(&retiring).at(&retiring)?;
        self.reload()?;
        Ok(self.files().len() < 2)
    }

    // ---- root and shard

    /// The container that this one is a shard of, as recorded: `account/container`.
    pub fn recorded_root(&self) -> Result<Option<String>> {
        let metadata = self.metadata()?;
        let get =
            |key: &str| metadata.iter().find(|(k, _)| k.eq_ignore_ascii_case(key)).map(|(_, v)| v.0.clone()).filter(|v| !v.is_empty());
        if let Some(quoted) = get("X-Container-Sysmeta-Shard-Quoted-Root") {
            return Ok(Some(unquote(&quoted)));
        }
        Ok(get("X-Container-Sysmeta-Shard-Root"))
    }

    /// `account/container` of the root; the container's own path when it is no shard.
    pub fn root_path(&self) -> Result<String> {
        match self.recorded_root()? {
            Some(path) => Ok(path),
            None => self.path(),
        }
    }

    pub fn is_root(&self) -> Result<bool> {
        if let Some(root) = self.recorded_root()? {
            return Ok(self.path()? == root);
        }
        // A deleted shard has forgotten its root, but its own range is marked deleted.
        Ok(self.recorded_own_range()?.is_none_or(|own| !own.deleted))
    }

    /// `X-Container-Sysmeta-Shard-…` by the rest of its name.
    pub fn sharding_sysmeta(&self, key: &str) -> Result<Option<String>> {
        let name = format!("X-Container-Sysmeta-Shard-{key}");
        Ok(self.metadata()?.remove(&name).map(|(v, _)| v).filter(|v| !v.is_empty()))
    }

    pub fn set_sharding_sysmeta(&self, key: &str, value: &str) -> Result<()> {
        let now = self.db().pool.now().internal();
        let update = [(format!("X-Container-Sysmeta-Shard-{key}"), (value.to_string(), now))].into();
        self.db().update_metadata(&update, false)
    }

    // ---- finding ranges

    fn nth_name(&self, n: i64, after: &str) -> Result<Option<String>> {
        self.commit_pending()?;
        let sql = "SELECT name FROM object WHERE deleted = 0 AND name > ? ORDER BY name LIMIT 1 OFFSET ?";
        self.db().with(|c| {
            let mut st = c.prepare_cached(sql)?;
            let mut rows = st.query(params![after, n - 1])?;
            Ok(rows.next()?.map(|r| r.get_ref(0).map(value_text)).transpose()?)
        })
    }

    /// Cuts the container's names into ranges of `shard_size` objects, after those that exist. The last is
    /// at least `minimum` objects. Returns the ranges and whether they reach the end.
    pub fn find_shard_ranges(
        &self,
        shard_size: i64,
        limit: Option<usize>,
        existing: &[ShardRange],
        minimum: i64,
    ) -> Result<(Vec<FoundRange>, bool)> {
        let minimum = minimum.max(1);
        let object_count = self.get_info()?.object_count;
        if shard_size < 1 || shard_size + minimum > object_count {
            return Ok((Vec::new(), false));
        }
        let own = self.own_shard_range()?;
        let reliable = existing.iter().all(|r| r.state == ShardState::Found);
        let mut progress: i64 = if reliable { existing.iter().map(|r| r.object_count).sum() } else { 0 };
        let mut lower = match existing.last() {
            Some(last) if cmp_upper(&last.upper, &own.upper) != Ordering::Less => return Ok((Vec::new(), true)),
            Some(last) => last.upper.clone(),
            None => own.lower.clone(),
        };
        let (mut found, mut size) = (Vec::new(), shard_size);
        let brokers = self.brokers();
        let Some(source) = brokers.first() else { return Ok((found, false)) };
        while limit.is_none_or(|l| found.len() < l) {
            let next = if progress + size + minimum > object_count { None } else { source.nth_name(size, &lower)? };
            let upper = match next {
                Some(name) if own.upper.is_empty() || name <= own.upper => name,
                _ => {
                    if reliable {
                        size = object_count - progress;
                    }
                    own.upper.clone()
                }
            };
            let last = upper == own.upper;
            found.push(FoundRange { index: existing.len() + found.len(), lower, upper: upper.clone(), object_count: size });
            if last {
                return Ok((found, true));
            }
            progress += size;
            lower = upper;
        }
        Ok((found, false))
    }
}

fn read_shard(r: &Row<'_>) -> rusqlite::Result<ShardRange> {
    let text = |i: usize| Ok::<_, rusqlite::Error>(value_text(r.get_ref(i)?));
    let int = |i: usize| Ok::<_, rusqlite::Error>(value_int(r.get_ref(i)?));
    let time = |i: usize| Ok::<_, rusqlite::Error>(Timestamp::parse(&text(i)?));
    let timestamp = time(1)?.unwrap_or(Timestamp::ZERO);
    Ok(ShardRange {
        name: text(0)?,
        timestamp,
        lower: text(2)?,
        upper: text(3)?,
        object_count: int(4)?,
        bytes_used: int(5)?,
        meta_timestamp: time(6)?.unwrap_or(timestamp),
        deleted: int(7)? != 0,
        state: ShardState::from_number(int(8)?).unwrap_or_default(),
        state_timestamp: time(9)?.unwrap_or(timestamp),
        epoch: time(10)?,
        reported: int(11)? != 0,
        tombstones: int(12)?,
    })
}

/// Percent-decoding; what is not an escape stays.
fn unquote(text: &str) -> String {
    let (bytes, mut out, mut i) = (text.as_bytes(), Vec::with_capacity(text.len()), 0);
    while let Some(b) = bytes.get(i) {
        let hex = text.get(i + 1..i + 3).filter(|_| *b == b'%').and_then(|h| u8::from_str_radix(h, 16).ok());
        out.push(hex.unwrap_or(*b));
        i += if hex.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}
