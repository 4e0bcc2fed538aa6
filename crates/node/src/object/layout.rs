//! Where the embedded store keeps what: its devices, policies and rings.
//!
//! Rings are computed, the same at each start: a device's places depend on its name alone, so that a device more moves
//! little more data than it gets. What is durable: the devices' names (links below the store's directory) and each
//! policy's way of keeping bytes (`object-policies`), as data that lies there can be read in no other way.

use crate::DataDir;
use caelum_base::{Error, Result};
use caelum_erasure::{Codec, Scheme};
use caelum_ring::{Device, Ring, Rings};
use caelum_swiftkit::{Policies, PolicyKind, StoragePolicy};
use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Partitions of the embedded rings: 2^10. It must never change, as data lies in directories named by partition.
const PART_POWER: u32 = 10;
/// Copies at most.
const MAX_REPLICAS: usize = 3;
/// Under these the rings name the servers of this process; nothing listens there.
pub const IP: &str = "127.0.0.1";
pub const OBJECT_PORT: u16 = 6200;
pub const CONTAINER_PORT: u16 = 6201;
pub const ACCOUNT_PORT: u16 = 6202;
/// Unless a policy names another: any k fragments give the data back whatever k and m are, which `isa_l_rs_vand` does
/// not promise from five parities on.
const SCHEME: Scheme = Scheme::IsaLRsCauchy;
/// Swift's default. Like the scheme it stands in every object's metadata.
const SEGMENT: u64 = 1 << 20;
/// Most fragments of an object, copies included: each needs a device of its own.
const MAX_FRAGMENTS: usize = 64;
const RECORD: &str = "object-policies";

fn make_dir(path: &Path) -> Result<()> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|e| Error::unavailable(format!("cannot create {}: {e}", path.display())))
}

/// Makes the devices' directories and gives their names. A directory given by option appears as a link whose name
/// stays the same whatever other directories are given later.
pub fn prepare(root: &Path, wanted: &[String]) -> Result<Vec<String>> {
    make_dir(root)?;
    if wanted.is_empty() {
        make_dir(&root.join("d0"))?;
        return Ok(vec!["d0".into()]);
    }
    let mut names = Vec::new();
    for text in wanted {
        let target = PathBuf::from(text);
        if !target.is_absolute() {
            return Err(Error::invalid(format!("object.devices: {text} is not an absolute path")));
        }
        make_dir(&target)?;
        let name = device_name(root, &target)?;
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// The name that a directory has had from its first day on.
fn device_name(root: &Path, target: &Path) -> Result<String> {
    for n in 1..=10_000 {
        let link = root.join(format!("d{n}"));
        match std::fs::read_link(&link) {
            Ok(to) if to == target => return Ok(format!("d{n}")),
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                std::os::unix::fs::symlink(target, &link)
                    .map_err(|e| Error::unavailable(format!("cannot create {}: {e}", link.display())))?;
                return Ok(format!("d{n}"));
            }
            Err(e) => return Err(Error::unavailable(format!("cannot read {}: {e}", link.display()))),
        }
    }
    Err(Error::invalid("object.devices: too many directories"))
}

fn number(text: &str) -> u64 {
    let hash = caelum_swiftkit::md5_hex(text.as_bytes());
    u64::from_str_radix(&hash[..16], 16).unwrap_or(0)
}

/// How much a device wants a partition. Devices are ranked by it, so that one more takes over an even share of the
/// partitions and the others keep theirs.
fn copies(names: &[String], partition: u32, replicas: usize) -> Vec<usize> {
    let mut ids: Vec<usize> = (0..names.len()).collect();
    ids.sort_by_key(|i| std::cmp::Reverse((number(&format!("{}/{partition}", names[*i])), names[*i].clone())));
    ids.truncate(replicas);
    ids
}

/// Fragments belong to a place of the ring, not only to its set of devices: so devices compete for each place, and one
/// device more displaces few of the others from theirs.
fn fragments(names: &[String], partition: u32, replicas: usize) -> Vec<usize> {
    let mut bids: Vec<(u64, usize, usize)> = Vec::with_capacity(names.len() * replicas);
    for (device, name) in names.iter().enumerate() {
        bids.extend((0..replicas).map(|place| (number(&format!("{name}/{partition}/{place}")), device, place)));
    }
    bids.sort_unstable_by(|a, b| b.cmp(a));
    let (mut places, mut is_used) = (vec![None; replicas], vec![false; names.len()]);
    for (_, device, place) in bids {
        if places[place].is_none() && !is_used[device] {
            (places[place], is_used[device]) = (Some(device), true);
        }
    }
    places.into_iter().flatten().collect()
}

fn ring(names: &[String], port: u16, replicas: usize, places: fn(&[String], u32, usize) -> Vec<usize>) -> Ring {
    let device = |(id, name): (usize, &String)| {
        Some(Device {
            id: u32::try_from(id).unwrap_or(0),
            region: 1,
            zone: 1,
            ip: IP.into(),
            port,
            replication_ip: IP.into(),
            replication_port: port,
            device: name.clone(),
            weight: 100.0,
            meta: String::new(),
        })
    };
    let mut rows = vec![Vec::with_capacity(1 << PART_POWER); replicas];
    for partition in 0..1u32 << PART_POWER {
        for (row, id) in rows.iter_mut().zip(places(names, partition, replicas)) {
            row.push(u32::try_from(id).unwrap_or(0));
        }
    }
    Ring::new(names.iter().enumerate().map(device).collect(), rows, PART_POWER)
}

/// Errors: `Invalid` when a policy has more fragments than there are devices.
pub fn rings(names: &[String], policies: &Policies) -> Result<Rings> {
    let n = names.len().min(MAX_REPLICAS);
    let mut objects = Vec::new();
    for p in policies.iter() {
        let made = match p.kind {
            PolicyKind::Replication => ring(names, OBJECT_PORT, n, copies),
            PolicyKind::ErasureCoding { data, parity, duplication, .. } => {
                let need = (data + parity) * duplication.max(1);
                if names.len() < need {
                    let have = names.len();
                    return Err(Error::invalid(format!(
                        "object.policies: {} keeps {need} fragments on as many devices, and object.devices names {have}",
                        p.name
                    )));
                }
                ring(names, OBJECT_PORT, need, fragments)
            }
        };
        objects.push((p.index, made));
    }
    Ok(Rings::fixed(ring(names, ACCOUNT_PORT, n, copies), ring(names, CONTAINER_PORT, n, copies), objects))
}

/// How a policy keeps bytes: nothing for copies, or `ec:K+M`, with `xN` for N copies of each fragment, and `:SCHEME`.
fn kind(name: &str, text: &str) -> Result<PolicyKind> {
    let bad = |why: &str| Error::invalid(format!("object.policies: {name}={text}: {why}"));
    let form = || bad("erasure coding is written as ec:4+2, ec:4+2x2 (two copies of each fragment) or ec:4+2:isa_l_rs_cauchy");
    let rest = text.strip_prefix("ec:").ok_or_else(form)?;
    let (numbers, scheme) = rest.split_once(':').unwrap_or((rest, SCHEME.name()));
    let (numbers, duplication) = numbers.split_once('x').unwrap_or((numbers, "1"));
    let (data, parity) = numbers.split_once('+').ok_or_else(form)?;
    let count = |t: &str| t.parse::<usize>().ok().filter(|n| (1..=MAX_FRAGMENTS).contains(n)).ok_or_else(form);
    let (data, parity, duplication) = (count(data)?, count(parity)?, count(duplication)?);
    if (data + parity) * duplication > MAX_FRAGMENTS {
        return Err(bad(&format!("more than {MAX_FRAGMENTS} fragments")));
    }
    if scheme == Scheme::IsaLRsVand.name() && parity > 4 {
        return Err(bad("with five parities and more this scheme can lose data; use isa_l_rs_cauchy"));
    }
    Codec::new(scheme, data, parity).map_err(|e| bad(&e.to_string()))?;
    Ok(PolicyKind::ErasureCoding { ec_type: scheme.into(), data, parity, segment_size: SEGMENT, duplication })
}

/// A policy's number is its place in the list: data lies under it.
pub fn policies(entries: &[String]) -> Result<Policies> {
    let policy = |(i, entry): (usize, &String)| {
        let (name, how) = entry.split_once('=').map_or((entry.trim(), None), |(n, h)| (n.trim(), Some(h.trim())));
        Ok(StoragePolicy {
            index: u32::try_from(i).unwrap_or(0),
            name: name.to_string(),
            is_default: i == 0,
            kind: how.map_or(Ok(PolicyKind::Replication), |h| kind(name, h))?,
            ..StoragePolicy::zero()
        })
    };
    Policies::new(entries.iter().enumerate().map(policy).collect::<Result<_>>()?)
}

/// As `object-policies` has it.
fn recorded(kind: &PolicyKind) -> String {
    match kind {
        PolicyKind::Replication => "copies".into(),
        PolicyKind::ErasureCoding { ec_type, data, parity, duplication, .. } => format!("ec:{data}+{parity}x{duplication}:{ec_type}"),
    }
}

/// Writes down how each policy keeps its bytes. Errors: `Invalid` when one was declared otherwise before.
pub fn remember(data: &DataDir, policies: &Policies) -> Result<()> {
    let path = data.join(RECORD);
    let old = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(Error::unavailable(format!("cannot read {}: {e}", path.display()))),
    };
    let pair = |line: &str| line.split_once(' ').and_then(|(i, k)| Some((i.parse::<u32>().ok()?, k.to_string())));
    let mut all: BTreeMap<u32, String> = old.lines().filter_map(pair).collect();
    for p in policies.iter() {
        let now = recorded(&p.kind);
        if let Some(before) = all.insert(p.index, now.clone()).filter(|b| *b != now) {
            return Err(Error::invalid(format!(
                "object.policies: {} (number {}) is {before} since it was first used and cannot become {now}",
                p.name, p.index
            )));
        }
    }
    let new: String = all.iter().map(|(i, k)| format!("{i} {k}\n")).collect();
    if new == old { Ok(()) } else { data.write(RECORD, &new) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(n: usize) -> Vec<String> {
        (1..=n).map(|i| format!("d{i}")).collect()
    }

    fn replicated(n: usize) -> Ring {
        ring(&names(n), 1, n.min(MAX_REPLICAS), copies)
    }

    #[test]
    fn rings_are_even_and_change_little() {
        let (three, four) = (replicated(3), replicated(4));
        assert_eq!((three.replica_count(), four.replica_count(), replicated(1).replica_count()), (3, 3, 1));
        let mut count = [0usize; 4];
        let mut moved = 0;
        for p in 0..four.partition_count() {
            let now: Vec<u32> = four.primaries(p).iter().map(|d| d.id).collect();
            assert_eq!(now.len(), 3);
            now.iter().for_each(|id| count[*id as usize] += 1);
            moved += now.iter().filter(|id| **id == 3).count();
        }
        assert!(count.iter().all(|c| (690..850).contains(c)), "{count:?}");
        // Nothing moves but to the new device.
        assert_eq!(moved, count[3]);
        assert_eq!(replicated(3).replica2part2dev, three.replica2part2dev);
    }

    #[test]
    fn fragments_stay_where_they_are() {
        let (before, after) = (ring(&names(8), 1, 6, fragments), ring(&names(9), 1, 6, fragments));
        let (mut moved, mut count) = (0, [0usize; 9]);
        for p in 0..after.partition_count() {
            let (a, b) = (before.primaries(p), after.primaries(p));
            assert_eq!((a.len(), b.len()), (6, 6));
            moved += a.iter().zip(&b).filter(|(a, b)| a.id != b.id).count();
            b.iter().for_each(|d| count[d.id as usize] += 1);
        }
        // The new device gets 683 of 6144; some of those that it displaces displace others.
        assert!((600..1_000).contains(&moved), "{moved}");
        assert!(count.iter().all(|c| (600..770).contains(c)), "{count:?}");
        assert_eq!(after.replica2part2dev.iter().map(|r| r[0]).collect::<Vec<_>>(), [0, 7, 2, 4, 8, 1]);
    }

    #[test]
    fn devices_keep_their_names() {
        let dir = tempfile::tempdir().unwrap();
        let (root, a, b) = (dir.path().join("objects"), dir.path().join("a"), dir.path().join("b"));
        let text = |p: &Path| p.display().to_string();
        assert_eq!(prepare(&root, &[]).unwrap(), ["d0"]);
        assert_eq!(prepare(&root, &[text(&a), text(&b)]).unwrap(), ["d1", "d2"]);
        assert_eq!(prepare(&root, &[text(&b)]).unwrap(), ["d2"]);
        assert_eq!(prepare(&root, &[text(&dir.path().join("c")), text(&b)]).unwrap(), ["d2", "d3"]);
        assert!(prepare(&root, &["relative".into()]).is_err());
    }

    #[test]
    fn named_policies() {
        let p = policies(&["gold".into(), "silver".into()]).unwrap();
        assert_eq!((p.default_policy().name.as_str(), p.by_name("Silver").unwrap().index), ("gold", 1));
        assert!(policies(&["a".into(), "a".into()]).is_err());
        assert_eq!(policies(&[]).unwrap().default_policy().name, "Policy-0");
        assert!(rings(&names(1), &p).unwrap().object(1).is_some());
    }

    #[test]
    fn coded_policies() {
        let p = policies(&["gold".into(), "deep=ec:4+2".into(), "far = ec:2+1x2:liberasurecode_rs_vand".into()]).unwrap();
        let coded = |ec_type: &str, data, parity, duplication| PolicyKind::ErasureCoding {
            ec_type: ec_type.into(),
            data,
            parity,
            segment_size: SEGMENT,
            duplication,
        };
        assert_eq!(p.by_name("deep").unwrap().kind, coded("isa_l_rs_cauchy", 4, 2, 1));
        assert_eq!(p.by_name("far").unwrap().kind, coded("liberasurecode_rs_vand", 2, 1, 2));
        assert_eq!(rings(&names(7), &p).unwrap().object(2).unwrap().replica_count(), 6);
        let too_few = rings(&names(5), &p).err().unwrap().to_string();
        assert!(too_few.contains("deep keeps 6 fragments") && too_few.contains("names 5"), "{too_few}");
        for bad in
            ["ec", "ec:", "ec:4", "ec:0+2", "ec:4+0", "ec:4+2x0", "ec:4+2:none", "ec:4+5:isa_l_rs_vand", "ec:40+20x2", "copies", "ec:+4+2"]
        {
            assert!(policies(&[format!("a={bad}")]).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_policy_stays_what_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let set = |entries: &[&str]| {
            let entries: Vec<String> = entries.iter().map(|e| e.to_string()).collect();
            remember(&data, &policies(&entries).unwrap())
        };
        set(&["a"]).unwrap();
        set(&["a", "b=ec:4+2"]).unwrap();
        set(&["other-name", "b=ec:4+2:isa_l_rs_cauchy"]).unwrap();
        set(&["a"]).unwrap();
        assert!(set(&["a", "b"]).unwrap_err().to_string().contains("b (number 1) is ec:4+2x1:isa_l_rs_cauchy"));
        assert!(set(&["a", "b=ec:3+2"]).is_err() && set(&["a=ec:1+1", "b=ec:4+2"]).is_err());
    }
}
