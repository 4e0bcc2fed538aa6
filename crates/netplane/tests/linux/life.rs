//! Restart, repetition, audit, wipe, and what a change costs.

use crate::rig::*;
use caelum_base::ErrorKind;
use caelum_netplane::*;
use std::time::{Duration, Instant};

fn world(generation: u64) -> (HostState, Port, Port) {
    let mut a = port("a", "n", 1, "10.0.0.5");
    let mut b = port("b", "n", 2, "10.0.0.6");
    for p in [&mut a, &mut b] {
        p.rules.push(Rule { remote_group: Some("grp".into()), ..rule(true, None) });
    }
    let r = Router {
        id: "r".into(),
        admin_up: true,
        interfaces: vec![RouterInterface {
            port_id: "ri".into(),
            network_id: "n".into(),
            mac: mac(200),
            addresses: vec!["10.0.0.1/24".parse().unwrap(), "2001:db8:1::1/64".parse().unwrap()],
            advertise: vec![("2001:db8:1::/64".parse().unwrap(), "slaac".into())],
        }],
        gateway: Some(RouterGateway {
            port_id: "gw".into(),
            network_id: "ext".into(),
            mac: mac(220),
            addresses: vec!["203.0.113.10/24".parse().unwrap()],
            next_hops: vec!["203.0.113.1".parse().unwrap()],
            snat: true,
        }),
        floating_ips: vec![],
        routes: vec![("10.77.0.0/16".parse().unwrap(), "10.0.0.5".parse().unwrap())],
    };
    let vxlan = Network {
        id: "vx".into(),
        kind: NetworkKind::Vxlan {
            vni: 77,
            local: Some("127.0.0.1".parse().unwrap()),
            peers: vec!["192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap()],
        },
        mtu: 1400,
        dhcp: None,
    };
    let networks = [network("n", Some(dhcp("10.0.0", &[&a, &b], true))), vxlan, external("ext")];
    let mut wanted = state(generation, &networks, &[&a, &b], &[&r]);
    wanted.groups.insert("grp".into(), vec!["10.0.0.5".parse().unwrap(), "10.0.0.6".parse().unwrap()]);
    (wanted, a, b)
}

#[test]
fn survives_restarts_finds_orphans_and_leaves_nothing() {
    on_host("lf", |rig| async move {
        let before = snapshot();
        let plane = LinuxPlane::new(rig.config.clone());
        assert_eq!(plane.check().await, Vec::<String>::new());
        let (wanted, _, _) = world(5);
        let applied = plane.apply(&wanted).await.unwrap();
        assert!(applied.failed.is_empty(), "{:?}", applied.failed);
        assert_eq!(plane.audit(false).await.unwrap(), Vec::<String>::new());
        let full = snapshot();
        let pid = |path: &str| std::fs::read_to_string(rig.config.run_dir.join(path)).unwrap();
        let (dhcp_pid, ra_pid) = (pid("dhcp/n/pid"), pid("ra/r/pid"));
        let flood = || sh("bridge fdb show dev $(ip -o link | grep -o 'cxlf[0-9a-f]*' | head -1) | grep -c '^00:00:00:00:00:00'");
        assert_eq!(flood().trim(), "2");

        // The same again changes nothing; an older one is refused, also by a new process.
        plane.apply(&wanted).await.unwrap();
        assert_eq!(snapshot(), full);
        drop(plane);
        let plane = LinuxPlane::new(rig.config.clone());
        assert_eq!(plane.generation().await.unwrap(), 5);
        let (old, _, _) = world(4);
        assert_eq!(plane.apply(&old).await.unwrap_err().kind, ErrorKind::Generation);
        plane.apply(&wanted).await.unwrap();
        assert_eq!(snapshot(), full);
        assert_eq!((pid("dhcp/n/pid"), pid("ra/r/pid")), (dhcp_pid.clone(), ra_pid), "servers are adopted");

        // Orphans and losses are found and healed.
        sh("ip link add cblf0000aaaa type bridge; ip netns add cae-lf-rt-gone; ipset create cae-lf-4-x hash:net");
        sh("iptables -N cae-lf-o-gone; ip link del tapb");
        sh(&format!("kill {}", dhcp_pid.trim()));
        // The killed server is a zombie of init at most; its command line is gone at once or soon.
        let end = Instant::now() + Duration::from_secs(2);
        while std::fs::read(format!("/proc/{}/cmdline", dhcp_pid.trim())).is_ok_and(|c| !c.is_empty()) && Instant::now() < end {
            tokio::task::yield_now().await;
        }
        let found = plane.audit(true).await.unwrap().join("\n");
        for part in [
            "cblf0000aaaa belongs",
            "cae-lf-rt-gone belongs",
            "cae-lf-4-x belongs",
            "cae-lf-o-gone belongs",
            "tapb is missing",
            "the DHCP server of network n",
        ] {
            assert!(found.contains(part), "{part} in {found}");
        }
        assert_eq!(plane.audit(false).await.unwrap(), Vec::<String>::new());
        assert_eq!(snapshot(), full);

        // Removing by patch, then everything.
        let mut patch = HostPatch { generation: 6, ..HostPatch::default() };
        patch.ports.insert("b".into(), None);
        patch.networks.insert("vx".into(), None);
        let applied = plane.patch(&patch).await.unwrap();
        assert_eq!(applied.ports_up, ["a"]);
        assert!(!snapshot().contains("tapb") && !snapshot().contains("cxlf"));
        assert_eq!(plane.audit(false).await.unwrap(), Vec::<String>::new());
        plane.wipe().await.unwrap();
        assert_eq!(snapshot(), before);
        assert!(!rig.config.run_dir.join("state.json").exists());
    });
}

#[test]
fn a_patch_heals_flushed_filters_and_a_bad_object_stands_alone() {
    on_host("hl", |rig| async move {
        let plane = LinuxPlane::new(rig.config.clone());
        let (mut wanted, a, _) = world(5);
        plane.apply(&wanted).await.unwrap();
        sh("iptables -F; iptables -X; nft flush ruleset bridge 2>/dev/null || true");
        let mut patch = HostPatch { generation: 6, ..HostPatch::default() };
        let mut changed = a.clone();
        changed.rules.push(rule(true, Some("icmp")));
        patch.ports.insert("a".into(), Some(changed));
        assert_eq!(plane.patch(&patch).await.unwrap().ports_up, ["a", "b"]);
        assert_eq!(plane.audit(false).await.unwrap(), Vec::<String>::new());
        let mut bad = a.clone();
        bad.tap = "eth0".into();
        wanted.generation = 7;
        wanted.ports.insert("bad".into(), Port { id: "bad".into(), ..bad });
        let applied = plane.apply(&wanted).await.unwrap();
        assert!(applied.failed["bad"].contains("not a tap"), "{:?}", applied.failed);
        plane.wipe().await.unwrap();
    });
}

#[test]
fn changes_are_quick() {
    on_host("qk", |rig| async move {
        let plane = LinuxPlane::new(rig.config.clone());
        let mut wanted = state(1, &[network("n", None), external("ext")], &[], &[]);
        for i in 0..100u8 {
            let mut p = port(&format!("p{i}"), "n", i, &format!("10.0.0.{}", i + 10));
            p.rules.extend([
                rule(true, Some("icmp")),
                Rule { port_min: Some(22), port_max: Some(22), ..rule(true, Some("tcp")) },
                Rule { remote_group: Some("grp".into()), ..rule(true, None) },
                Rule { ip_version: 6, ..rule(false, None) },
            ]);
            wanted.ports.insert(p.id.clone(), p);
        }
        let timed = |name: &str, begin: Instant, limit_ms: u128| {
            let ms = begin.elapsed().as_millis();
            eprintln!("{name}: {ms} ms");
            assert!(ms < limit_ms, "{name} took {ms} ms");
        };
        let begin = Instant::now();
        let applied = plane.apply(&wanted).await.unwrap();
        timed("full apply of 100 ports", begin, 10_000);
        assert!(applied.failed.is_empty() && applied.ports_up.len() == 100, "{:?}", applied.failed);
        let begin = Instant::now();
        wanted.generation = 2;
        plane.apply(&wanted).await.unwrap();
        timed("the same again", begin, 5_000);
        let mut patch = HostPatch { generation: 3, ..HostPatch::default() };
        let p = port("x", "n", 150, "10.0.0.200");
        patch.ports.insert("x".into(), Some(p));
        let begin = Instant::now();
        plane.patch(&patch).await.unwrap();
        timed("plug one port beside 100", begin, 2_000);
        patch = HostPatch { generation: 4, ..HostPatch::default() };
        patch.ports.insert("x".into(), None);
        let begin = Instant::now();
        plane.patch(&patch).await.unwrap();
        timed("unplug it", begin, 2_000);
        let (small, _, _) = world(5);
        let mut patch = HostPatch { generation: 5, ..HostPatch::default() };
        patch.routers.insert("r".into(), small.routers.get("r").cloned());
        let begin = Instant::now();
        let applied = plane.patch(&patch).await.unwrap();
        timed("make a router", begin, 3_000);
        assert!(applied.failed.is_empty(), "{:?}", applied.failed);
        let begin = Instant::now();
        plane.wipe().await.unwrap();
        timed("wipe", begin, 10_000);
    });
}
