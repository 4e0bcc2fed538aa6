use super::*;
use caelum_base::{Env, ManualClock, SystemRng};
use caelum_swiftkit::{PolicyKind, SwiftConf, Timestamp};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const NOW: i64 = 1_700_000_000;

struct Bed {
    m: Arc<Manager>,
    clock: Arc<ManualClock>,
    _dir: tempfile::TempDir,
    root: PathBuf,
}

fn bed() -> Bed {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().to_path_buf();
    std::fs::create_dir(root.join("sda")).unwrap();
    let conf = "[swift-hash]\nswift_hash_path_prefix = pre\nswift_hash_path_suffix = suf\n[storage-policy:0]\nname = gold\ndefault = yes\n\
                [storage-policy:1]\nname = ec\npolicy_type = erasure_coding\nec_type = isa_l_rs_vand\nec_num_data_fragments = 2\n\
                ec_num_parity_fragments = 1\n";
    let clock = Arc::new(ManualClock::at(caelum_base::Timestamp::from_secs(NOW)));
    let env = Env { clock: clock.clone(), rng: Arc::new(SystemRng) };
    let mut config = Config::new(&root, Arc::new(SwiftConf::parse(conf).unwrap()), env);
    config.mount_check = false;
    config.reserve = Reserve::Bytes(0);
    Bed { m: Manager::new(config), clock, _dir: dir, root }
}

fn at(secs: u64) -> Timestamp {
    Timestamp::from_raw((NOW as u64 + secs) * 100_000)
}

impl Bed {
    fn object(&self, name: &str) -> DiskFile {
        self.m.object("sda", "5", 0, ("a", "c", name), Look::default()).unwrap()
    }

    fn fragment(&self, name: &str, wish: FragWish) -> DiskFile {
        self.m.object("sda", "5", 1, ("a", "c", name), Look { wish, ..Look::default() }).unwrap()
    }

    fn names(&self, o: &DiskFile) -> Vec<String> {
        let mut names: Vec<String> =
            std::fs::read_dir(o.dir()).into_iter().flatten().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn put(o: &DiskFile, body: &[u8], t: Timestamp, extra: &[(&str, &str)]) {
    let mut w = o.writer(Some(body.len() as u64), Ext::Data).unwrap();
    w.write(body).unwrap();
    let (size, etag) = w.finish();
    let etag = etag.unwrap();
    let mut m = Metadata::new();
    for (k, v) in [("X-Timestamp", t.internal().as_str()), ("Content-Length", &size.to_string()), ("ETag", &etag), ("Content-Type", "a/b")]
    {
        m.set(k, v);
    }
    for (k, v) in extra {
        m.set(k, *v);
    }
    w.put(m).unwrap().wait_blocking().unwrap();
}

fn read_all(o: &DiskFile) -> DiskResult<Vec<u8>> {
    let mut r = o.reader(at(0))?;
    let mut out = Vec::new();
    loop {
        let b = r.read(1000)?;
        if b.is_empty() {
            return Ok(out);
        }
        out.extend_from_slice(&b);
    }
}

#[test]
fn an_object_s_life() {
    let b = bed();
    let o = b.object("o");
    assert!(matches!(o.open(at(0)), Err(DiskError::NotExist)));
    put(&o, &[7; 2500], at(0), &[("X-Object-Meta-A", "1"), ("X-Object-Sysmeta-S", "s"), ("X-Static-Large-Object", "True")]);
    assert_eq!(read_all(&o).unwrap(), vec![7; 2500]);
    put(&o, b"new", at(1), &[("X-Object-Meta-A", "2"), ("X-Object-Sysmeta-S", "t")]);
    assert_eq!(b.names(&o), [format!("{}.data", at(1).internal())]);

    let mut m = Metadata::new();
    m.set("X-Timestamp", at(2).internal());
    m.set("X-Object-Meta-B", "3");
    o.write_metadata(m).unwrap().wait_blocking().unwrap();
    let opened = o.open(at(3)).unwrap();
    assert_eq!((opened.timestamp(), opened.data_timestamp(), opened.size), (at(2), at(1), 3));
    assert_eq!((opened.metadata.get("x-object-meta-a"), opened.metadata.get("X-Object-Meta-B")), (None, Some("3")));
    assert_eq!((opened.metadata.get("X-Object-Sysmeta-S"), opened.content_type()), (Some("t"), "a/b"));
    assert_eq!(opened.content_type_timestamp(), at(1));

    // A newer content type in an older `.meta` file outlives a newer `.meta` without one.
    let mut m = Metadata::new();
    m.set("X-Timestamp", at(2).next().internal());
    m.set("Content-Type", "x/y");
    m.set("Content-Type-Timestamp", at(2).internal());
    o.write_metadata(m).unwrap().wait_blocking().unwrap();
    let mut m = Metadata::new();
    m.set("X-Timestamp", at(4).internal());
    o.write_metadata(m).unwrap().wait_blocking().unwrap();
    assert_eq!(b.names(&o).len(), 3);
    assert_eq!(o.open(at(5)).unwrap().content_type(), "x/y");

    o.delete(at(6)).unwrap().wait_blocking().unwrap();
    assert_eq!(b.names(&o), [format!("{}.ts", at(6).internal())]);
    assert!(matches!(o.open(at(7)), Err(DiskError::Deleted { timestamp }) if timestamp == at(6)));
    let hashes = b.m.get_hashes("sda", "5", &[], b.m.policy(0).unwrap(), false).unwrap();
    assert_eq!(hashes.len(), 1);
    // Past the reclaim age nothing is left, not even the suffix.
    b.clock.advance(Duration::from_secs(8 * 86_400));
    let suffix = vec![hashes.keys().next().unwrap().clone()];
    assert!(b.m.get_hashes("sda", "5", &suffix, b.m.policy(0).unwrap(), false).unwrap().is_empty());
    assert!(!o.dir().exists() && !o.dir().parent().unwrap().exists());
}

#[test]
fn metadata_goes_where_its_data_went() {
    let b = bed();
    let o = b.object("o");
    put(&o, b"x", at(0), &[]);
    let metadata = |t: Timestamp| {
        let mut m = Metadata::new();
        m.set("X-Timestamp", t.internal());
        m
    };
    o.write_metadata(metadata(at(1))).unwrap().wait_blocking().unwrap();
    let hash = o.dir().file_name().unwrap().to_str().unwrap().to_string();
    let times = |meta| ObjectTimes { data: at(0), meta, ctype: None, durable: None };
    let remove = |meta| b.m.remove_if_unchanged("sda", o.policy(), "5", &hash, &times(meta)).unwrap();
    assert!(!remove(None), "the state is another");
    assert!(remove(Some(at(1))));
    assert!(matches!(o.write_metadata(metadata(at(2))), Err(DiskError::NotExist)));
    assert!(!o.dir().exists());
    // Nor beside what says that the object is gone.
    o.delete(at(3)).unwrap().wait_blocking().unwrap();
    assert!(matches!(o.write_metadata(metadata(at(4))), Err(DiskError::NotExist)));
    assert_eq!(b.names(&o), [format!("{}.ts", at(3).internal())]);
}

#[test]
fn lone_metadata_does_not_keep_a_partition() {
    let b = bed();
    let o = b.object("o");
    put(&o, b"x", at(0), &[]);
    let mut m = Metadata::new();
    m.set("X-Timestamp", at(1).internal());
    o.write_metadata(m).unwrap().wait_blocking().unwrap();
    let remove = || b.m.remove_empty_partition("sda", o.policy(), "5").unwrap();
    let later = |secs| {
        b.clock.set(Env::system().now());
        b.clock.advance(Duration::from_secs(secs));
    };
    later(3600);
    assert!(!remove());
    assert_eq!(b.names(&o).len(), 2);
    std::fs::remove_file(o.dir().join(format!("{}.data", at(0).internal()))).unwrap();
    later(30);
    assert!(!remove(), "its data may be on its way");
    later(90);
    assert!(remove());
    assert!(!o.dir().exists());
}

#[test]
fn an_abandoned_write_leaves_nothing() {
    let b = bed();
    let o = b.object("o");
    put(&o, b"old", at(0), &[]);
    let mut w = o.writer(Some(3), Ext::Data).unwrap();
    w.write(b"new").unwrap();
    drop(w);
    // A process that dies after the data and before the name leaves the same.
    assert_eq!(b.names(&o), [format!("{}.data", at(0).internal())]);
    assert_eq!(read_all(&o).unwrap(), b"old");
    assert!(std::fs::read_dir(b.root.join("sda/tmp")).map_or(0, Iterator::count) == 0);
    // A clean-up removed the directory while the file was being written.
    let p = b.object("p");
    let mut w = p.writer(None, Ext::Data).unwrap();
    w.write(b"x").unwrap();
    std::fs::remove_dir(p.dir()).unwrap();
    let etag = w.finish().1.unwrap();
    let m = [("X-Timestamp", at(0).internal()), ("Content-Length", "1".into()), ("ETag", etag)];
    w.put(m.into_iter().map(|(k, v)| (k.to_string(), v)).collect()).unwrap().wait_blocking().unwrap();
    assert_eq!(read_all(&p).unwrap(), b"x");
}

#[test]
fn what_was_checked_and_stayed_in_memory_is_not_checked_again() {
    let b = bed();
    let o = b.object("o");
    let body: Vec<u8> = (0..700_000_u32).map(|i| (i % 251) as u8).collect();
    put(&o, &body, at(0), &[]);
    let mut r = o.reader(at(0)).unwrap();
    assert!(r.read_cached().is_some(), "it has just been written");
    // Another process knows nothing of that.
    let other = Manager::new(b.m.config.clone());
    let same = || other.object("sda", "5", 0, ("a", "c", "o"), Look::default()).unwrap();
    assert!(same().reader(at(0)).unwrap().read_cached().is_none(), "nobody has looked at it yet");
    let o = same();
    assert_eq!(read_all(&o).unwrap(), body);
    let mut r = o.reader(at(0)).unwrap();
    let first = r.read_cached().expect("known to be right");
    assert_eq!(first, body[..first.len()]);
    // What comes from the disk in the middle is checked with all that came before.
    let mut all = first.to_vec();
    while all.len() < body.len() {
        all.extend_from_slice(&r.read(1 << 20).unwrap());
    }
    assert_eq!(all, body);
    // A change of the file ends the trust, and also for a reader that has begun with it.
    let mut begun = o.reader(at(0)).unwrap();
    begun.read_cached().expect("still known");
    let data = o.dir().join(&b.names(&o)[0]);
    let f = std::fs::OpenOptions::new().write(true).open(data).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&f, b"!", 600_000).unwrap();
    let mut r = o.reader(at(0)).unwrap();
    assert!(r.read_cached().is_none());
    let rest = std::iter::from_fn(|| Some(begun.read(1 << 20))).find(|r| r.as_ref().map_or(true, |b| b.is_empty()));
    assert!(matches!(rest, Some(Err(DiskError::Quarantined { .. }))));
}

#[test]
fn from_memory_or_not_at_all() {
    let b = bed();
    let o = b.object("o");
    put(&o, b"body", at(0), &[]);
    assert_eq!(read_all(&o).unwrap(), b"body");
    let mut r = o.clone().in_memory().reader(at(0)).expect("its directory and file have just been read");
    match r.read(10) {
        Ok(bytes) => assert_eq!(bytes, &b"body"[..]),
        // Not all file systems can tell (tmpfs of older kernels).
        Err(DiskError::Io(e)) => assert_eq!(e.kind(), std::io::ErrorKind::WouldBlock),
        Err(e) => panic!("{e}"),
    }
    // Nothing is invented for what was never looked at.
    match b.object("absent").in_memory().open(at(0)) {
        Err(DiskError::NotExist) => {}
        Err(DiskError::Io(e)) => assert_eq!(e.kind(), std::io::ErrorKind::WouldBlock),
        other => panic!("{:?}", other.map(|o| o.size)),
    }
}

/// What is known of an object without its files being opened: its bytes and metadata.
fn known(b: &Bed) -> Option<(Vec<u8>, Option<String>)> {
    let (object, opened) = b.m.recent("sda", "5", 0, ("a", "c", "o"), &Look::default())?;
    let colour = opened.metadata.get("X-Object-Meta-Colour").map(str::to_string);
    let mut r = Reader::new(object, opened);
    let all = r.read_cached().unwrap().to_vec();
    assert!(r.read_cached().is_none(), "the end");
    r.range(1, 2);
    assert_eq!(r.read(10).unwrap(), all[1..2]);
    Some((all, colour))
}

#[test]
fn large_objects_stay_in_memory_once_they_are_wanted_again() {
    let b = bed();
    let o = b.object("o");
    put(&o, &vec![7; 6 << 20], at(0), &[]);
    let read = |mut r: Reader| while !r.read(1 << 20).unwrap().is_empty() {};
    let known = || o.reader(at(0)).unwrap().read_cached().is_some();
    // Daemons do not ask on anybody's behalf.
    for _ in 0..3 {
        read(o.reader(at(0)).unwrap());
        assert!(!known());
    }
    read(o.reader(at(0)).unwrap().wanted());
    assert!(!known(), "once is not enough");
    read(o.reader(at(0)).unwrap().wanted());
    assert!(known());
}

#[test]
fn small_objects_read_a_moment_ago_are_known_until_they_change() {
    let b = bed();
    let o = b.object("o");
    // Directories' times are the kernel's.
    let settle = || {
        b.clock.set(Env::system().now());
        b.clock.advance(Duration::from_secs(1));
    };
    let read = || {
        read_all(&o).unwrap();
        let Ok(mut r) = o.clone().in_memory().reader(at(0)) else { return false };
        r.read(100).is_ok()
    };
    put(&o, b"body", at(0), &[("X-Object-Meta-Colour", "red")]);
    b.clock.set(Env::system().now());
    if !read() {
        // Not all file systems can tell what is in memory (tmpfs of older kernels).
        return;
    }
    assert!(known(&b).is_none(), "changed just now");
    settle();
    assert!(read());
    assert_eq!(known(&b), Some((b"body".to_vec(), Some("red".into()))));
    let mut m = Metadata::new();
    m.set("X-Timestamp", at(1).internal());
    o.write_metadata(m).unwrap().wait_blocking().unwrap();
    assert!(known(&b).is_none(), "new metadata");
    settle();
    assert!(read());
    assert_eq!(known(&b), Some((b"body".to_vec(), None)));
    put(&o, b"more", at(2), &[("X-Delete-At", "4000000000")]);
    assert!(known(&b).is_none(), "new data");
    settle();
    assert!(read());
    assert!(known(&b).is_none(), "it will expire");
    put(&o, b"last", at(3), &[]);
    settle();
    assert!(read());
    assert_eq!(known(&b).unwrap().0, b"last");
    o.delete(at(4)).unwrap().wait_blocking().unwrap();
    assert!(known(&b).is_none(), "deleted");
}

#[test]
fn damage_is_found_and_moved_away() {
    type Harm = fn(&Path);
    let flip: Harm = |p| {
        let mut data = std::fs::read(p).unwrap();
        data[1500] ^= 1;
        std::fs::OpenOptions::new().write(true).open(p).map(|f| std::os::unix::fs::FileExt::write_all_at(&f, &data, 0)).unwrap().unwrap();
    };
    let cut: Harm = |p| std::fs::OpenOptions::new().write(true).open(p).unwrap().set_len(2000).unwrap();
    let spoil: Harm = |p| {
        let f = std::fs::File::open(p).unwrap();
        rustix::fs::fsetxattr(&f, "user.swift.metadata", b"nonsense", rustix::fs::XattrFlags::empty()).unwrap();
    };
    let strip: Harm = |p| {
        let f = std::fs::File::open(p).unwrap();
        rustix::fs::fremovexattr(&f, "user.swift.metadata").unwrap();
    };
    for (i, harm) in [flip, cut, spoil, strip].into_iter().enumerate() {
        let b = bed();
        let o = b.object("o");
        put(&o, &[7; 2500], at(0), &[]);
        harm(&o.dir().join(format!("{}.data", at(0).internal())));
        assert!(matches!(read_all(&o), Err(DiskError::Quarantined { .. })), "{i}");
        assert!(matches!(o.open(at(1)), Err(DiskError::NotExist)), "{i}");
        let hash = o.dir().file_name().unwrap();
        assert!(b.root.join("sda/quarantined/objects").join(hash).is_dir(), "{i}");
        // The suffix is to be hashed again.
        let invalid = std::fs::read_to_string(b.root.join("sda/objects/5/hashes.invalid")).unwrap();
        assert!(invalid.lines().last().unwrap().ends_with(&hash.to_str().unwrap()[29..]), "{i}");
    }
}

#[test]
fn a_part_is_served_unchecked_but_the_whole_never_wrong() {
    let b = bed();
    let o = b.object("o");
    put(&o, &[7; 3000], at(0), &[]);
    let mut r = o.reader(at(0)).unwrap();
    r.range(1000, 2000);
    assert_eq!(r.read(5000).unwrap().len(), 1000);
    assert!(r.read(10).unwrap().is_empty());
    // The last piece of a damaged object is not given out.
    let path = o.dir().join(format!("{}.data", at(0).internal()));
    std::os::unix::fs::FileExt::write_all_at(&std::fs::OpenOptions::new().write(true).open(path).unwrap(), b"x", 5).unwrap();
    let mut r = o.reader(at(0)).unwrap();
    let mut got = 0;
    let error = loop {
        match r.read(1000) {
            Ok(b) => got += b.len(),
            Err(e) => break e,
        }
    };
    assert_eq!(got, 2000);
    assert!(matches!(error, DiskError::Quarantined { .. }));
}

#[test]
fn names_and_expiry() {
    let b = bed();
    let o = b.object("o");
    put(&o, b"x", at(0), &[("X-Delete-At", &(NOW + 10).to_string())]);
    assert!(o.open(at(9)).is_ok());
    assert!(matches!(o.open(at(10)), Err(DiskError::Expired { timestamp, .. }) if timestamp == at(0)));
    let look = Look { open_expired: true, ..Look::default() };
    assert!(b.m.object("sda", "5", 0, ("a", "c", "o"), look).unwrap().open(at(11)).is_ok());
    // Another object's directory under this name.
    let p = b.object("p");
    std::fs::create_dir_all(p.dir().parent().unwrap()).unwrap();
    std::fs::rename(o.dir(), p.dir()).unwrap();
    assert!(matches!(p.open(at(0)), Err(DiskError::Collision)));
    let hash = p.dir().file_name().unwrap().to_str().unwrap().to_string();
    let unknown = b.m.object_at("sda", "5", 0, &hash, Look::default()).unwrap();
    assert!(matches!(unknown.open(at(0)), Err(DiskError::Quarantined { .. })));
    for bad in ["", "..", "sd a", "a/b", "nope"] {
        assert!(matches!(b.m.object(bad, "5", 0, ("a", "c", "o"), Look::default()), Err(DiskError::DeviceUnavailable)), "{bad}");
    }
}

#[test]
fn fragments() {
    let b = bed();
    let any = FragWish { index: None, prefs: Some(Vec::new()) };
    let o = b.fragment("o", FragWish::default());
    put(&o, b"frag", at(0), &[("X-Object-Sysmeta-Ec-Frag-Index", "1")]);
    assert_eq!(b.names(&o), [format!("{}#1.data", at(0).internal())]);
    assert!(matches!(o.open(at(1)), Err(DiskError::NotExist)), "not durable yet");
    let opened = b.fragment("o", any.clone()).open(at(1)).unwrap();
    assert_eq!((opened.durable_timestamp(), opened.size), (None, 4));
    o.commit(at(0), Some(1)).unwrap().wait_blocking().unwrap();
    assert_eq!(b.names(&o), [format!("{}#1#d.data", at(0).internal())]);
    assert_eq!(o.open(at(1)).unwrap().durable_timestamp(), Some(at(0)));
    // A newer one that never became durable does not hide the older.
    put(&o, b"next", at(1), &[("X-Object-Sysmeta-Ec-Frag-Index", "2")]);
    assert_eq!(o.open(at(2)).unwrap().data_timestamp(), at(0));
    assert_eq!(b.fragment("o", any).open(at(2)).unwrap().data_timestamp(), at(1));
    let prefs = vec![FragPref { timestamp: at(1), exclude: vec![2] }];
    assert_eq!(b.fragment("o", FragWish { index: None, prefs: Some(prefs) }).open(at(2)).unwrap().data_timestamp(), at(0));
    assert!(matches!(o.commit(at(9), Some(1)), Err(DiskError::Io(_))));
    o.commit(at(0), Some(1)).unwrap().wait_blocking().unwrap();
    o.purge(at(0), Some(1), Duration::ZERO, None).unwrap();
    assert_eq!(b.names(&o), [format!("{}#2.data", at(1).internal())]);
}

/// Directories and the hashes that Swift 2.38.3 computes of them.
#[test]
fn suffix_hashes_as_swift_s() {
    let b = bed();
    for (policy, frags) in [(0, ["", "", "", "", ""]), (1, ["#1#d", "#0", "#2", "#0#d", "#2#d"])] {
        let policy = b.m.policy(policy).unwrap();
        let sets: [(char, Vec<String>); 4] = [
            ('0', vec![format!("9000000000.00000{}.data", frags[0]), "9000000005.00000-2.meta".into()]),
            ('1', vec![format!("9000000000.00000{}.data", frags[1]), "9000000001.00000.ts".into()]),
            ('2', vec![format!("9000000002.00000{}.data", frags[2]), format!("9000000001.00000{}.data", frags[3])]),
            ('3', vec![format!("9000000002.00000_0000000000000001{}.data", frags[4]), "9000000002.00000.meta".into(), "junk".into()]),
        ];
        for (first, files) in sets {
            let dir = b.m.hash_dir("sda", policy, "5", &format!("{first}123456789abcdef0123456789abcabc"));
            std::fs::create_dir_all(&dir).unwrap();
            for f in files {
                std::fs::write(dir.join(f), "").unwrap();
            }
        }
        let got = b.m.get_hashes("sda", "5", &[], policy, false).unwrap().remove("abc").unwrap();
        if matches!(policy.kind, PolicyKind::Replication) {
            assert_eq!(got, SuffixHash::Whole("813bfffe41d57f78b58bea803f606bee".into()));
        } else {
            let want = [
                (None, "0667b9c95458ed985ebbb13e3423e0f7"),
                (Some(1), "8512f59eb8ef61800de4e9c8bb43459d"),
                (Some(2), "376395d3989bfb11a7514e839265ff9f"),
                (Some(0), "12ac3434190890470175faf8fa028771"),
            ];
            assert_eq!(got, SuffixHash::Fragments(want.into_iter().map(|(k, v)| (k, v.to_string())).collect()));
        }
    }
}

#[test]
fn hashes_follow_changes() {
    let b = bed();
    let policy = b.m.policy(0).unwrap().clone();
    let hashes = || b.m.get_hashes("sda", "5", &[], &policy, false).unwrap();
    assert!(hashes().is_empty());
    put(&b.object("o"), b"1", at(0), &[]);
    let first = hashes();
    assert_eq!(hashes(), first);
    assert_eq!(b.m.get_hashes_counted("sda", "5", &[], &policy, false).unwrap().0, 0, "nothing is hashed twice");
    put(&b.object("o"), b"2", at(1), &[]);
    assert_ne!(hashes(), first);
    // A damaged cache is made anew.
    let now = hashes();
    for damaged in [&b""[..], b"junk", b"\x80\x02}q\x00X\x04\x00\x00\x00../xq\x01Ns."] {
        std::fs::write(b.root.join("sda/objects/5/hashes.pkl"), damaged).unwrap();
        assert_eq!(hashes(), now);
    }
    assert_eq!(load_hashes(&dump_hashes(&now)).unwrap(), now);
}

#[test]
fn listings_for_daemons() {
    let b = bed();
    let policy = b.m.policy(0).unwrap().clone();
    put(&b.object("o"), b"1", at(0), &[]);
    b.object("p").delete(at(1)).unwrap().wait_blocking().unwrap();
    assert_eq!(b.m.device_names(), ["sda"]);
    assert_eq!(b.m.partitions("sda", &policy).unwrap(), ["5"]);
    let mut seen = Vec::new();
    b.m.for_each_hash("sda", "5", &policy, None, &FragWish::default(), |_, t| {
        seen.push((t.data, t.durable));
        ControlFlow::Continue(())
    })
    .unwrap();
    seen.sort();
    assert_eq!(seen, [(at(0), None), (at(1), None)]);
    let audit = |kind| b.m.audit_locations("sda", &policy, kind).unwrap().map(Result::unwrap).collect::<Vec<_>>();
    let all = audit("ALL");
    assert_eq!(all.len(), 2);
    let names: Vec<_> = all.iter().filter_map(|l| b.m.object_at_location(l).unwrap().open(at(2)).ok()).map(|o| o.name).collect();
    assert_eq!(names, ["/a/c/o"]);
    // The pass is over; the next begins when its state is cleared.
    assert!(audit("ALL").is_empty());
    b.m.clear_auditor_status("sda", &policy, "ALL").unwrap();
    assert_eq!(audit("ALL").len(), 2);
}

#[test]
fn queued_updates() {
    let b = bed();
    let policy = b.m.policy(0).unwrap().clone();
    let update = PendingUpdate {
        op: "PUT".into(),
        account: "a".into(),
        container: "c".into(),
        object: "ö".into(),
        headers: vec![("X-Size".into(), "1".into())],
        container_path: Some(".shards_a/x".into()),
        db_state: None,
        successes: vec![3],
    };
    b.m.queue_update("sda", &policy, &update, at(0), ("a", "c", "o")).unwrap();
    b.m.queue_update("sda", &policy, &update, at(1), ("a", "c", "o")).unwrap();
    // Where Swift puts the update of /a/c/o at that time.
    let path = b.root.join("sda/async_pending/a1f/3c455f4c36c2927865b8822a4cef8a1f-1700000000.00000");
    assert_eq!(PendingUpdate::load(&std::fs::read(&path).unwrap()).unwrap(), update);
    let queue = b.m.pending_updates("sda", &policy).unwrap();
    assert_eq!(queue.iter().map(|f| f.timestamp).collect::<Vec<_>>(), [at(1), at(0)]);
    assert_eq!(queue[1].path, path);
    for f in &queue {
        b.m.remove_update(f).unwrap();
    }
    assert!(!path.parent().unwrap().exists());
    assert!(PendingUpdate::load(b"cos\nsystem\n(S'x'\ntR.").is_err());
}

#[test]
fn the_reserve_stays_free() {
    let b = bed();
    let mut config = b.m.config.clone();
    config.reserve = Reserve::Percent(100.0);
    let m = Manager::new(config);
    let o = m.object("sda", "5", 0, ("a", "c", "o"), Look::default()).unwrap();
    assert!(matches!(o.writer(Some(10), Ext::Data), Err(DiskError::NoSpace)));
    assert!(matches!(o.writer(None, Ext::Meta), Err(DiskError::NoSpace)));
    o.delete(at(0)).unwrap().wait_blocking().unwrap();
    assert_eq!(Reserve::parse("1%"), Some(Reserve::Percent(1.0)));
    assert_eq!(Reserve::parse("10"), Some(Reserve::Bytes(10)));
    assert_eq!(Reserve::parse("101%"), None);
}

#[test]
fn many_writers_at_once() {
    let b = bed();
    let jobs: Vec<_> = (0..16)
        .map(|i| {
            let m = b.m.clone();
            std::thread::spawn(move || {
                for k in 0..10_u64 {
                    let o = m.object("sda", "5", 0, ("a", "c", &format!("o{}", i % 4)), Look::default()).unwrap();
                    put(&o, format!("{i}-{k}").as_bytes(), at(k * 16 + i), &[]);
                }
            })
        })
        .collect();
    for j in jobs {
        j.join().unwrap();
    }
    for i in 0..4 {
        let o = b.object(&format!("o{i}"));
        assert_eq!(o.open(at(999)).unwrap().data_timestamp(), at(9 * 16 + 12 + i));
        assert_eq!(read_all(&o).unwrap(), format!("{}-9", 12 + i).as_bytes());
    }
}

#[test]
fn locks() {
    let b = bed();
    let dir = b.root.join("sda");
    let one = lock_dir(&dir, "x", 2, Duration::ZERO).unwrap();
    let _two = lock_dir(&dir, "x", 2, Duration::ZERO).unwrap();
    assert!(matches!(lock_dir(&dir, "x", 2, Duration::from_millis(5)), Err(DiskError::LockTimeout(_))));
    drop(one);
    assert!(lock_dir(&dir, "x", 2, Duration::ZERO).is_ok());
}
