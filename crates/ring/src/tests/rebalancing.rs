//! What every rebalance must leave behind.

use crate::Device;
use crate::builder::Builder;
use caelum_base::SeededRng;

const HOUR: i64 = 3_600;

fn device(region: u32, zone: u32, server: u32, n: u32, weight: f64) -> Device {
    let ip = format!("10.{region}.{zone}.{server}");
    Device {
        id: 0,
        region,
        zone,
        replication_ip: ip.clone(),
        ip,
        port: 6200,
        replication_port: 6200,
        device: format!("sd{n}"),
        weight,
        meta: String::new(),
    }
}

fn cluster(power: i64, replicas: f64, zones: u32, servers: u32, disks: u32) -> Builder {
    let mut b = Builder::new(power, replicas, 1).unwrap();
    for z in 0..zones {
        for s in 0..servers {
            for d in 0..disks {
                b.add(device(1, z, s, d, 100.0 + f64::from(d * 20)));
            }
        }
    }
    b
}

fn moved(before: &Builder, after: &Builder) -> usize {
    let pairs = before.assignment.iter().flatten().zip(after.assignment.iter().flatten());
    pairs.filter(|(a, b)| a != b).count()
}

#[test]
fn balanced_dispersed_and_quiet() {
    for (replicas, zones) in [(3.0, 3), (3.0, 5), (2.0, 4), (3.25, 5), (1.0, 1), (14.0, 3)] {
        let mut b = cluster(8, replicas, zones, 3, 3);
        let done = b.rebalance(&SeededRng::new(1), 100 * HOUR).unwrap();
        b.validate().unwrap();
        // One part-replica more or less on the least of devices.
        assert!(done.balance < 7.0, "{replicas} {zones}: {done:?}");
        assert_eq!(b.dispersion, Some(0.0), "{replicas} {zones}");
        let before = b.clone();
        b.pretend_min_part_hours_passed();
        assert_eq!(b.rebalance(&SeededRng::new(2), 200 * HOUR).unwrap().changed, 0, "{replicas} {zones}");
        assert_eq!(moved(&before, &b), 0);
    }
}

#[test]
fn the_same_seed_gives_the_same_ring() {
    let make = |seed| {
        let mut b = cluster(8, 3.0, 4, 2, 3);
        b.rebalance(&SeededRng::new(seed), HOUR).unwrap();
        b.assignment
    };
    assert_eq!(make(5), make(5));
    assert_ne!(make(5), make(6));
}

#[test]
fn one_replica_at_a_time_and_not_again_soon() {
    let mut b = cluster(8, 3.0, 3, 2, 2);
    b.rebalance(&SeededRng::new(1), 100 * HOUR).unwrap();
    b.add(device(1, 7, 1, 0, 300.0));
    let before = b.clone();
    // Too soon: nothing may move.
    assert_eq!(b.rebalance(&SeededRng::new(1), 100 * HOUR + 60).unwrap().changed, 0);
    assert!(b.rebalance(&SeededRng::new(1), 102 * HOUR).unwrap().changed > 0);
    for part in 0..b.parts() {
        let changed = (0..3).filter(|r| b.assignment[*r][part] != before.assignment[*r][part]).count();
        assert!(changed <= 1, "{changed} replicas of partition {part} moved at once");
    }
}

#[test]
fn removed_devices_are_left_at_once() {
    let mut b = cluster(8, 3.0, 3, 2, 2);
    b.rebalance(&SeededRng::new(1), 100 * HOUR).unwrap();
    b.remove(3);
    let done = b.rebalance(&SeededRng::new(1), 100 * HOUR + 1).unwrap();
    assert_eq!(done.removed_devices, 1);
    b.validate().unwrap();
    assert!(b.assignment.iter().flatten().all(|id| *id != 3));
    assert!(b.device(3).is_none());
    assert_eq!(b.add(device(1, 0, 0, 9, 1.0)), 3);
}

#[test]
fn drained_and_refilled() {
    let mut b = cluster(8, 3.0, 3, 2, 2);
    b.rebalance(&SeededRng::new(1), 100 * HOUR).unwrap();
    b.change(0, "weight", |d| d.weight = 0.0).unwrap();
    for round in 0..3 {
        b.rebalance(&SeededRng::new(round), (110 + 10 * i64::try_from(round).unwrap()) * HOUR).unwrap();
    }
    assert_eq!(b.device(0).unwrap().parts, 0);
    b.set_replicas(2.0);
    b.rebalance(&SeededRng::new(9), 200 * HOUR).unwrap();
    b.validate().unwrap();
    assert_eq!(b.assignment.len(), 2);
    b.set_replicas(2.5);
    b.rebalance(&SeededRng::new(9), 210 * HOUR).unwrap();
    b.validate().unwrap();
    assert_eq!(b.assignment[2].len(), 128);
}

#[test]
fn too_few_devices() {
    let mut b = cluster(4, 3.0, 1, 1, 2);
    let before = b.clone();
    let e = b.rebalance(&SeededRng::new(1), HOUR).unwrap_err();
    assert_eq!(e.message, "Replica count of 3.0 requires more than 2 devices");
    assert_eq!(b, before);
    assert!(Builder::new(33, 3.0, 1).is_err());
    assert!(Builder::new(-1, 3.0, 1).is_err());
    assert!(Builder::new(8, 0.5, 1).is_err());
    assert!(Builder::new(8, f64::NAN, 1).is_err());
}

#[test]
fn part_power() {
    let mut b = cluster(4, 3.0, 3, 1, 1);
    b.rebalance(&SeededRng::new(1), HOUR).unwrap();
    assert!(!b.increase_part_power());
    assert!(b.prepare_increase_part_power());
    assert!(!b.prepare_increase_part_power());
    assert_eq!(b.ring().next_part_power, Some(5));
    let before = b.ring();
    assert!(b.increase_part_power());
    b.validate().unwrap();
    let after = b.ring();
    for part in 0..32 {
        assert_eq!(after.primaries(part), before.primaries(part / 2));
    }
    assert!(b.finish_increase_part_power());
    assert!(!b.finish_increase_part_power());
    assert!(b.prepare_increase_part_power() && b.cancel_increase_part_power() && b.finish_increase_part_power());
    assert_eq!(b.ring().next_part_power, None);
}
