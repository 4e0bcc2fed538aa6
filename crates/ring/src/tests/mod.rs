//! Against what upstream wrote, and through the commands.

mod commands;
mod golden;
mod rebalancing;

use crate::builder;
use crate::{Device, Ring, Rings, Version, encode, file, save};
use base64::Engine;
use caelum_swiftkit::Policies;
use md5::{Digest, Md5};

fn bytes(text: &str) -> Vec<u8> {
    base64::engine::general_purpose::STANDARD.decode(text).unwrap()
}

#[test]
fn both_versions_read_the_same() {
    let (one, two) = (file::parse(&bytes(golden::RING_V1)).unwrap(), file::parse(&bytes(golden::RING_V2)).unwrap());
    assert_eq!(one.devices, two.devices);
    assert_eq!(one.replica2part2dev, two.replica2part2dev);
    assert_eq!((one.part_power(), one.version, one.replicas()), (4, two.version, 2.5));
    assert_eq!(one.device(0).unwrap().meta, "é \"q\"");
    assert!(one.device(1).is_none());
}

#[test]
fn nodes_and_handoffs_as_upstream_names_them() {
    let ring = file::parse(&bytes(golden::RING_V2)).unwrap();
    for (part, (primaries, handoffs)) in (0..).zip(golden::NODES) {
        assert_eq!(ring.primaries(part).iter().map(|d| d.id).collect::<Vec<_>>(), primaries, "{part}");
        assert_eq!(ring.handoffs(part).map(|d| d.id).collect::<Vec<_>>(), handoffs, "{part}");
    }
}

/// Steps above one begin with 2^17 partitions.
#[test]
fn handoffs_of_large_rings() {
    let digests =
        [(10, "73093d2437fcd5ff5f8eca86c1cae0ca"), (17, "984b731b56ca905b363570769384e81a"), (18, "8928a30730515c188c0fea989872c0e2")];
    for (power, digest) in digests {
        let device = |i: u32| Device { id: i, region: i % 2, zone: i % 3, ip: format!("10.0.0.{}", i % 5), ..Device::default() };
        let cell = |p: u64, r: u64| u32::try_from((((p * 2_654_435_761) >> 7) + r * 5) % 12).unwrap();
        let table = (0..3).map(|r| (0..1 << power).map(|p| cell(p, r)).collect()).collect();
        let ring = Ring::new((0..12).map(|i| Some(device(i))).collect(), table, power);
        let mut md5 = Md5::new();
        for part in (0..1 << power).step_by((1 << power) / 64) {
            let ids: Vec<String> = ring.handoffs(part).map(|d| d.id.to_string()).collect();
            md5.update(format!("{};", ids.join(",")));
        }
        assert_eq!(caelum_swiftkit::to_hex(&md5.finalize()), digest, "part power {power}");
    }
}

/// The plain bytes are upstream's; and what is written reads back.
#[test]
fn written_as_upstream_writes() {
    use std::io::Read;
    let plain = |data: &[u8]| {
        let mut out = Vec::new();
        flate2::read::GzDecoder::new(data).read_to_end(&mut out).unwrap();
        out
    };
    let theirs = bytes(golden::RING_V1);
    let ring = file::parse(&theirs).unwrap();
    assert_eq!(plain(&encode(&ring, Version::One, false, "g1.ring.gz").unwrap()), plain(&theirs));
    for wide in [false, true] {
        let ours = encode(&ring, Version::Two, wide, "g2.ring.gz").unwrap();
        let back = file::parse(&ours).unwrap();
        assert_eq!(back.devices, ring.devices);
        assert_eq!(back.replica2part2dev, ring.replica2part2dev);
        // The index of the compressed stream, 31 bytes from the end, as other readers look for it.
        let tail = &ours[ours.len() - 31..];
        let start = u64::from_be_bytes(tail[5..13].try_into().unwrap()) as usize;
        let mut index = Vec::new();
        let cut = flate2::read::DeflateDecoder::new(&ours[start..]).read_to_end(&mut index);
        assert!(index[8..].starts_with(b"{\"swift/ring/assignments\": ["), "{cut:?}");
    }
    assert!(encode(&ring, Version::One, true, "").is_err());
}

#[test]
fn damaged_files_are_refused() {
    for good in [bytes(golden::RING_V1), bytes(golden::RING_V2)] {
        for cut in (0..good.len()).step_by(7) {
            assert!(file::parse(&good[..cut]).is_err(), "{cut}");
        }
        for at in (0..good.len()).step_by(5) {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            // Some bytes of the gzip header mean nothing; none may end the program.
            let _ = file::parse(&bad);
        }
    }
    assert!(file::parse(b"").is_err());
}

#[test]
fn builders_are_read_and_written() {
    let b = builder::decode(&bytes(golden::BUILDER)).unwrap();
    assert_eq!((b.part_power, b.replicas, b.min_part_hours, b.removed.as_slice()), (4, 2.5, 1, &[6][..]));
    assert_eq!(b.id.as_deref(), Some("00112233445566778899aabbccddeeff"));
    assert_eq!(b.ring().replica2part2dev, file::parse(&bytes(golden::RING_V1)).unwrap().replica2part2dev);
    b.validate().unwrap();
    assert_eq!(builder::decode(&builder::encode(&b)).unwrap(), b);
    let whole = bytes(golden::BUILDER);
    for cut in (0..whole.len()).step_by(11) {
        assert!(builder::decode(&whole[..cut]).is_err());
    }
}

#[test]
fn rings_follow_their_files() {
    let dir = tempfile::tempdir().unwrap();
    let ring = file::parse(&bytes(golden::RING_V1)).unwrap();
    let path = |n: &str| dir.path().join(n);
    assert!(Rings::open(dir.path(), &Policies::default()).is_err());
    save(&ring, &path("account.ring.gz"), Version::One, false).unwrap();
    save(&ring, &path("container.ring.gz"), Version::Two, false).unwrap();
    let rings = Rings::open(dir.path(), &Policies::default()).unwrap();
    assert!(rings.object(0).is_none());
    assert!(rings.object(7).is_none());
    save(&ring, &path("object.ring.gz"), Version::Two, false).unwrap();
    rings.check_now().unwrap();
    assert_eq!(rings.object(0).unwrap().part_power(), 4);
    // A broken successor leaves the ring in use.
    std::fs::write(path("object.ring.gz"), b"nonsense").unwrap();
    assert!(rings.check_now().is_err());
    assert_eq!(rings.object(0).unwrap().part_power(), 4);
    assert_eq!(rings.account().replica_count(), 3);
}
