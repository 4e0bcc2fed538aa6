//! Databases on disk: life, merging, listings, sharding states, damage, several writers. The hashes and
//! texts marked so were written by upstream's own broker from the same input.

use super::*;
use caelum_base::Env;
use caelum_swiftkit::Timestamp;
use std::path::PathBuf;
use std::sync::Arc;

struct Place {
    dir: tempfile::TempDir,
    pool: Arc<Pool>,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), pool: Pool::new(Env::system(), 8) }
    }

    fn path(&self, kind: &str, n: u32) -> PathBuf {
        let hash = format!("{n:032x}");
        let dir = storage_directory(kind, "1", &hash);
        self.dir.path().join("sda").join(dir).join(format!("{hash}.db"))
    }

    fn container(&self, n: u32) -> ContainerBroker {
        let mut b = ContainerBroker::new(&self.pool, &self.path(CONTAINER_DIR, n)).unwrap();
        b.initialize("a", "c", &at(0), 0).unwrap();
        b
    }
}

fn at(n: u64) -> String {
    Timestamp::from_raw(160_000_000_000_000 + n * 100_000).internal()
}

fn row(name: &str, n: u64) -> ObjectRow {
    ObjectRow {
        name: name.into(),
        created_at: at(n),
        size: 10,
        content_type: "text/plain".into(),
        etag: "e".into(),
        ..ObjectRow::default()
    }
}

fn list(b: &ContainerBroker, q: &Listing) -> Vec<String> {
    let mut out = Vec::new();
    b.list_objects(q, 0, &mut |e| {
        out.push(match e {
            Entry::Object(o) => o.name.to_string(),
            Entry::Subdir(d) => format!("[{d}]"),
        });
        Ok(())
    })
    .unwrap();
    out
}

fn all() -> Listing {
    Listing { limit: 10_000, ..Listing::default() }
}

#[test]
fn a_container_lives() {
    let p = Place::new();
    let path = p.path(CONTAINER_DIR, 1);
    let absent = ContainerBroker::new(&p.pool, &path).unwrap();
    assert!(absent.is_deleted().unwrap() && absent.info_if_exists().unwrap().is_none());
    assert!(matches!(absent.put_object(row("o", 1)), Err(BrokerError::Missing(_))));
    let mut b = p.container(1);
    assert!(matches!(b.initialize("a", "c", &at(0), 0), Err(BrokerError::Exists(_))));
    assert!(!b.is_deleted().unwrap() && b.is_empty().unwrap());
    b.put_object(row("o", 1)).unwrap();
    let i = b.get_info().unwrap();
    assert_eq!((i.object_count, i.bytes_used, i.db_state), (1, 10, DbState::Unsharded));
    assert_eq!((i.account.as_str(), i.container.as_str()), ("a", "c"));
    assert!(i.id.ends_with("-sda"));
    b.delete_db(&at(2)).unwrap();
    assert!(!b.is_deleted().unwrap(), "an object keeps it");
    b.put_object(ObjectRow::tombstone("o", &at(3), 0)).unwrap();
    assert!(b.is_deleted().unwrap());
    assert!(!b.is_reclaimable(Timestamp::parse(&at(2)).unwrap()).unwrap());
    assert!(b.is_reclaimable(Timestamp::parse(&at(3)).unwrap()).unwrap());
    b.db().update_put_timestamp(&at(4)).unwrap();
    assert!(!b.is_deleted().unwrap());
    let (removed, left) = b.reclaim(Timestamp::parse(&at(9)).unwrap(), Timestamp::ZERO).unwrap();
    assert_eq!((removed, left), (1, 0));
}

#[test]
fn what_is_pending_survives_and_is_merged_once() {
    let p = Place::new();
    let b = p.container(1);
    b.put_objects((0..10).map(|i| row(&format!("o{i}"), i)).collect()).unwrap();
    let pending = PathBuf::from(format!("{}.pending", b.db().file().display()));
    let text = std::fs::read(&pending).unwrap();
    assert!(!text.is_empty());
    // Another process sees them.
    let other = ContainerBroker::new(&Pool::new(Env::system(), 1), b.db().file()).unwrap();
    assert_eq!(list(&other, &all()).len(), 10);
    assert_eq!(std::fs::metadata(&pending).unwrap().len(), 0);
    let before = b.get_info().unwrap();
    // A crash between the transaction and the emptying of the file: the same rows again, with a torn one.
    let mut again = text.clone();
    again.extend_from_slice(b":gAIoWAE");
    std::fs::write(&pending, again).unwrap();
    let after = b.get_info().unwrap();
    assert_eq!((before.hash, before.object_count), (after.hash, after.object_count));
    assert_eq!(b.db().max_row(None).unwrap(), 10);
}

#[test]
fn a_full_pending_file_is_merged_by_the_writer() {
    let p = Place::new();
    let b = p.container(1);
    let pending = PathBuf::from(format!("{}.pending", b.db().file().display()));
    let mut largest = 0;
    for i in 0..120 {
        b.put_objects((0..20).map(|j| row(&format!("name-{i}-{j}"), 1)).collect()).unwrap();
        largest = largest.max(std::fs::metadata(&pending).unwrap().len());
    }
    assert!(largest > PENDING_CAP && largest < PENDING_CAP + 8_192, "{largest}");
    assert_eq!(b.get_info().unwrap().object_count, 2_400);
}

#[test]
fn hashes_as_upstream_computes_them() {
    // chexor('00…', 'o', '1600000000.00000') in Python.
    let zero = "0".repeat(32);
    assert_eq!(chexor(&zero, "o", "1600000000.00000"), "0712b3d475169b0dc5dc11042b36c8ae");
    let once = chexor(&zero, "ü", "1");
    assert_eq!(chexor(&once, "ü", "1"), zero);
}

#[test]
fn policies_are_counted_apart() {
    let p = Place::new();
    let b = p.container(1);
    let other = ObjectRow { storage_policy_index: 1, ..row("o", 5) };
    b.put_objects(vec![row("o", 1), other]).unwrap();
    assert_eq!(b.get_info().unwrap().object_count, 1);
    assert_eq!(b.policy_stats().unwrap(), [(0, 1, 10), (1, 1, 10)]);
    assert_eq!(b.get_misplaced_since(-1, 10).unwrap().len(), 1);
    assert_eq!(list(&b, &all()), ["o"]);
    b.set_storage_policy_index(1, &at(9)).unwrap();
    assert_eq!(b.storage_policy_index().unwrap(), 1);
    assert_eq!(b.get_info().unwrap().status_changed_at, at(9));
    assert_eq!(b.get_misplaced_since(-1, 10).unwrap()[0].storage_policy_index, 0);
}

#[test]
fn listings() {
    let p = Place::new();
    let b = p.container(1);
    let names = ["a", "a/b", "a/b/c", "a//d", "b/", "b/x", "c", "\0hidden", "ü/1", "ü/2", "\u{10ffff}/z"];
    b.put_objects(names.iter().map(|n| row(n, 1)).collect()).unwrap();
    let get = |f: &dyn Fn(&mut Listing)| {
        let mut q = all();
        f(&mut q);
        list(&b, &q)
    };
    assert_eq!(get(&|_| ()).len(), 10);
    assert_eq!(get(&|q| q.allow_reserved = true).len(), 11);
    let slash = |q: &mut Listing| q.delimiter = Some("/".into());
    assert_eq!(get(&slash), ["a", "[a/]", "[b/]", "c", "[ü/]", "[\u{10ffff}/]"]);
    let reverse = |q: &mut Listing| {
        slash(q);
        q.reverse = true;
    };
    assert_eq!(get(&reverse), ["[\u{10ffff}/]", "[ü/]", "c", "[b/]", "[a/]", "a"]);
    assert_eq!(
        get(&|q| {
            slash(q);
            q.prefix = Some("a/".into());
        }),
        ["[a//]", "a/b", "[a/b/]"]
    );
    assert_eq!(
        get(&|q| {
            slash(q);
            q.marker = "a/".into();
            q.limit = 2;
        }),
        ["[b/]", "c"]
    );
    assert_eq!(get(&|q| q.delimiter = Some("//".into())), ["a", "[a//]", "a/b", "a/b/c", "b/", "b/x", "c", "ü/1", "ü/2", "\u{10ffff}/z"]);
    assert_eq!(get(&|q| q.path = Some("a".into())), ["a/b"]);
    assert_eq!(get(&|q| q.path = Some("b".into())), ["b/x"]);
    assert_eq!(get(&|q| q.path = Some(String::new())), ["a", "b/", "c"]);
    assert_eq!(get(&|q| q.prefix = Some("\u{10ffff}".into())), ["\u{10ffff}/z"]);
    assert_eq!(get(&|q| q.end_marker = "a/b".into()), ["a", "a//d"]);
    assert!(get(&|q| q.limit = 0).is_empty());
}

#[test]
fn metadata_by_time() {
    let p = Place::new();
    let b = p.container(1);
    let set = |k: &str, v: &str, n: u64| -> Metadata { [(k.to_string(), (v.to_string(), at(n)))].into() };
    b.db().update_metadata(&set("X-Container-Meta-A", "new", 5), true).unwrap();
    b.db().update_metadata(&set("X-Container-Meta-A", "old", 4), true).unwrap();
    assert_eq!(b.metadata().unwrap()["X-Container-Meta-A"].0, "new");
    let long = set("X-Container-Meta-B", &"v".repeat(5_000), 6);
    assert!(matches!(b.db().update_metadata(&long, true), Err(BrokerError::Invalid(_))));
    assert!(!b.metadata().unwrap().contains_key("X-Container-Meta-B"));
    b.db().update_metadata(&set("X-Container-Sysmeta-Sharding", "True", 5), true).unwrap();
    b.delete_db(&at(7)).unwrap();
    assert_eq!(b.metadata().unwrap()["X-Container-Meta-A"].0, "");
    assert_eq!(b.metadata().unwrap()["X-Container-Sysmeta-Sharding"].0, "True");
    b.reclaim(Timestamp::parse(&at(8)).unwrap(), Timestamp::ZERO).unwrap();
    assert_eq!(b.metadata().unwrap().len(), 1);
}

#[test]
fn sync_points_only_rise() {
    let p = Place::new();
    let b = p.container(1);
    assert_eq!(b.db().get_sync("x", true).unwrap(), -1);
    b.db().merge_syncs(&[("x".into(), 5)], true).unwrap();
    b.db().merge_syncs(&[("x".into(), 3), ("y".into(), 1)], true).unwrap();
    assert_eq!(b.db().get_sync("x", true).unwrap(), 5);
    assert_eq!(b.db().get_syncs(true).unwrap().len(), 2);
    assert!(b.db().get_syncs(false).unwrap().is_empty());
    let rows = vec![ObjectRow { row_id: 7, ..row("o", 1) }, ObjectRow { row_id: 9, ..row("p", 1) }];
    b.merge_items(rows, Some("x")).unwrap();
    assert_eq!(b.db().get_sync("x", true).unwrap(), 9);
}

#[test]
fn sharding_states() {
    let p = Place::new();
    let mut b = p.container(1);
    b.put_objects((0..30).map(|i| row(&format!("o{i:02}"), i)).collect()).unwrap();
    let (found, last) = b.find_shard_ranges(10, None, &[], 1).unwrap();
    let bounds: Vec<_> = found.iter().map(|f| (f.lower.as_str(), f.upper.as_str(), f.object_count)).collect();
    assert_eq!((bounds, last), (vec![("", "o09", 10), ("o09", "o19", 10), ("o19", "", 10)], true));
    assert_eq!(b.find_shard_ranges(10, None, &[], 11).unwrap().0.len(), 2);
    assert_eq!(b.find_shard_ranges(31, None, &[], 1).unwrap(), (Vec::new(), false));
    assert!(!b.set_sharding_state().unwrap(), "without an epoch");
    b.enable_sharding(Timestamp::parse(&at(100)).unwrap()).unwrap();
    let mut shard = ShardRange::new(".shards_a/x", Timestamp::parse(&at(100)).unwrap(), "", "");
    shard.state = ShardState::Active;
    shard.object_count = 30;
    b.merge_shard_ranges(vec![shard]).unwrap();
    assert!(b.set_sharding_state().unwrap());
    assert_eq!((b.db_state().unwrap(), b.files().len()), (DbState::Sharding, 2));
    assert_eq!(b.get_info().unwrap().object_count, 30);
    // New rows go to the fresh database and keep counting from the retiring one's.
    b.put_object(row("later", 200)).unwrap();
    assert_eq!(b.get_items_since(-1, 10).unwrap()[0].row_id, 31);
    assert!(b.set_sharded_state().unwrap());
    assert_eq!(b.db_state().unwrap(), DbState::Sharded);
    assert_eq!(b.get_info().unwrap().object_count, 30);
    assert!(!b.is_empty().unwrap() && b.is_root().unwrap());
}

#[test]
fn damage_is_quarantined() {
    let p = Place::new();
    let b = p.container(1);
    p.pool.forget(b.db().dir());
    std::fs::write(b.db().file(), vec![7u8; 4_096]).unwrap();
    assert!(matches!(b.get_info(), Err(BrokerError::Quarantined(_))));
    assert!(!b.db().exists());
    assert!(p.dir.path().join("sda/quarantined/containers").join(format!("{:032x}", 1)).exists());
    // A second one of the same name finds another place.
    let b = p.container(1);
    p.pool.forget(b.db().dir());
    std::fs::write(b.db().file(), vec![7u8; 4_096]).unwrap();
    assert!(b.get_info().is_err());
    assert_eq!(std::fs::read_dir(p.dir.path().join("sda/quarantined/containers")).unwrap().count(), 2);
}

#[test]
fn older_tables_are_brought_up_to_date() {
    let p = Place::new();
    for old in ["DROP TABLE shard_range", "ALTER TABLE shard_range DROP COLUMN tombstones; ALTER TABLE shard_range DROP COLUMN reported"] {
        let b = p.container(1);
        p.pool.forget(b.db().dir());
        rusqlite::Connection::open(b.db().file()).unwrap().execute_batch(old).unwrap();
        let range = ShardRange::new(".shards_a/x", Timestamp::parse(&at(1)).unwrap(), "", "");
        b.merge_shard_ranges(vec![range.clone()]).unwrap();
        assert_eq!(b.all_shard_ranges().unwrap(), [range]);
        std::fs::remove_dir_all(b.db().dir()).unwrap();
    }
}

#[test]
fn a_replaced_file_is_noticed() {
    let p = Place::new();
    let b = p.container(1);
    b.put_object(row("old", 1)).unwrap();
    b.commit_pending().unwrap();
    let copy = p.dir.path().join("copy");
    b.db().copy_to(&copy).unwrap();
    b.put_object(row("new", 1)).unwrap();
    b.commit_pending().unwrap();
    std::fs::rename(&copy, b.db().file()).unwrap();
    assert_eq!(list(&b, &all()), ["old"]);
}

#[test]
fn writers_at_the_same_time() {
    let p = Place::new();
    let b = p.container(1);
    let threads: Vec<_> = (0..4)
        .map(|t| {
            // A pool for each, as if they were processes.
            let (path, pool) = (b.db().file().to_path_buf(), Pool::new(Env::system(), 2));
            std::thread::spawn(move || {
                let b = ContainerBroker::new(&pool, &path).unwrap();
                for i in 0..100 {
                    b.put_object(row(&format!("{t}-{i}"), 1)).unwrap();
                    if i % 20 == t {
                        b.get_info().unwrap();
                    }
                }
            })
        })
        .collect();
    for t in threads {
        t.join().unwrap();
    }
    assert_eq!(b.get_info().unwrap().object_count, 400);
}

#[test]
fn the_pool_is_bounded() {
    let p = Place::new();
    let pool = Pool::new(Env::system(), 3);
    for n in 0..20 {
        p.container(n);
        ContainerBroker::new(&pool, &p.path(CONTAINER_DIR, n)).unwrap().get_info().unwrap();
    }
    assert!(pool.idle_count() <= 3);
    pool.forget(p.dir.path());
    assert_eq!(pool.idle_count(), 0);
}

#[test]
fn an_account_lives() {
    let p = Place::new();
    let b = AccountBroker::new(&p.pool, &p.path(ACCOUNT_DIR, 1));
    b.initialize("a", &at(0)).unwrap();
    let report = |name: &str, put: u64, delete: Option<u64>, objects: i64| ContainerRow {
        name: name.into(),
        put_timestamp: at(put),
        delete_timestamp: delete.map_or_else(|| "0000000000.00000".into(), at),
        object_count: objects,
        bytes_used: objects * 2,
        ..ContainerRow::default()
    };
    b.put_container(report("c", 1, None, 3)).unwrap();
    b.put_container(report("d", 1, None, 0)).unwrap();
    let i = b.get_info().unwrap();
    assert_eq!((i.container_count, i.object_count, i.bytes_used), (2, 3, 6));
    // An older report brings counts but no older times; an empty one deleted later goes.
    b.put_container(report("c", 0, None, 4)).unwrap();
    b.put_container(report("d", 1, Some(2), 0)).unwrap();
    let i = b.get_info().unwrap();
    assert_eq!((i.container_count, i.object_count), (1, 4));
    assert_eq!(b.policy_stats().unwrap(), [(0, 1, 4, 8)]);
    let mut names = Vec::new();
    b.list_containers(&all(), &mut |e| {
        if let AccountEntry::Container { name, put_timestamp, .. } = e {
            names.push((name.to_string(), put_timestamp.to_string()));
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(names, [("c".to_string(), at(1))]);
    b.delete_db(&at(5)).unwrap();
    assert!(b.is_deleted().unwrap() && !b.is_empty().unwrap());
}

#[test]
fn an_old_report_does_not_bring_a_deleted_container_back() {
    let report = |put: u64, deleted: u64, count: i64| ContainerRow {
        name: "c".into(),
        put_timestamp: at(put),
        delete_timestamp: if deleted == 0 { "0".into() } else { at(deleted) },
        object_count: count,
        bytes_used: count * 10,
        ..ContainerRow::default()
    };
    // Reports by time of creation, time of deletion and number of objects; the containers and objects the account then has.
    for (n, (first, second, listed)) in (0..).zip([
        (report(1, 0, 3), report(1, 5, 0), (0, 0)),
        (report(1, 5, 0), report(1, 0, 3), (0, 0)),
        (report(1, 0, 3), report(7, 5, 2), (1, 2)),
        (report(7, 5, 2), report(1, 0, 3), (1, 2)),
        // Created anew by a server that missed the deletion.
        (report(1, 5, 0), report(7, 0, 2), (1, 2)),
        // Known to be deleted, and filled all the same.
        (report(1, 5, 0), report(1, 5, 2), (1, 2)),
    ]) {
        let p = Place::new();
        let b = AccountBroker::new(&p.pool, &p.path(ACCOUNT_DIR, n));
        b.initialize("a", &at(0)).unwrap();
        b.put_container(first).unwrap();
        b.get_info().unwrap();
        b.put_container(second).unwrap();
        let info = b.get_info().unwrap();
        assert_eq!((info.container_count, info.object_count, info.bytes_used), (listed.0, listed.1, listed.1 * 10), "{n}");
    }
}
