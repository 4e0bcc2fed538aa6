//! What crosses hosts, IPv6 from the router, and connections that a change must end.

use crate::rig::*;
use caelum_netplane::*;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

#[test]
fn taking_a_rule_away_ends_what_it_let_in() {
    on_host("ct", |rig| async move {
        let plane = LinuxPlane::new(rig.config.clone());
        let a = port("a", "n", 1, "10.0.0.5");
        let mut b = port("b", "n", 2, "10.0.0.6");
        b.rules.push(Rule { port_min: Some(7000), port_max: Some(7000), ..rule(true, Some("tcp")) });
        let (ga, gb) = (guest(&a, Some("10.0.0.5/24"), None), guest(&b, Some("10.0.0.6/24"), None));
        plane.apply(&state(1, &[network("n", None)], &[&a, &b], &[])).await.unwrap();
        let listener = inside(&gb, || TcpListener::bind("10.0.0.6:7000").unwrap()).await;
        let mut client = inside(&ga, || TcpStream::connect("10.0.0.6:7000").unwrap()).await;
        let (mut server, _) = listener.accept().unwrap();
        server.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
        let mut byte = [0];
        client.write_all(b"1").unwrap();
        server.read_exact(&mut byte).unwrap();
        b.rules.pop();
        let mut patch = HostPatch { generation: 2, ..HostPatch::default() };
        patch.ports.insert("b".into(), Some(b));
        plane.patch(&patch).await.unwrap();
        client.write_all(b"2").unwrap();
        assert!(server.read_exact(&mut byte).is_err(), "the established connection is cut");
        plane.wipe().await.unwrap();
    });
}

#[test]
fn a_guest_makes_its_address_from_the_routers_advertisement() {
    on_host("ra", |rig| async move {
        let plane = LinuxPlane::new(rig.config.clone());
        let mut a = port("a", "n", 1, "2001:db8:1:0:f816:3eff:fe00:1");
        a.rules.push(Rule { ip_version: 6, ..rule(false, None) });
        let ga = guest(&a, None, None);
        let r = Router {
            id: "r".into(),
            admin_up: true,
            interfaces: vec![RouterInterface {
                port_id: "ri".into(),
                network_id: "n".into(),
                mac: mac(200),
                addresses: vec!["2001:db8:1::1/64".parse().unwrap()],
                advertise: vec![("2001:db8:1::/64".parse().unwrap(), "slaac".into())],
            }],
            gateway: None,
            floating_ips: vec![],
            routes: vec![],
        };
        let applied = plane.apply(&state(1, &[network("n", None)], &[&a], &[&r])).await.unwrap();
        assert!(applied.failed.is_empty(), "{:?}", applied.failed);
        sh(&format!("ip -n {ga} link set eth0 down; ip -n {ga} link set eth0 up"));
        let end = Instant::now() + Duration::from_secs(20);
        while !sh(&format!("ip -n {ga} -6 addr show dev eth0")).contains("2001:db8:1:0:f816:3eff:fe00:1/64") {
            assert!(Instant::now() < end, "no address from the advertisement");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(reaches(&ga, "2001:db8:1::1"));
        plane.wipe().await.unwrap();
    });
}

#[test]
fn a_vxlan_network_spans_two_hosts() {
    on_host("va", |rig| async move {
        sh(
            "ip netns add other && ip link add u0 type veth peer name u1 netns other && ip addr add 192.0.2.1/24 dev u0 && ip link set u0 up",
        );
        sh("ip -n other addr add 192.0.2.2/24 dev u1 && ip -n other link set u1 up && ip -n other link set lo up");
        let vxlan = |local: &str, peer: &str| Network {
            id: "n".into(),
            kind: NetworkKind::Vxlan {
                vni: 1001,
                local: Some(local.parse().unwrap()),
                peers: vec![local.parse().unwrap(), peer.parse().unwrap()],
            },
            mtu: 1450,
            dhcp: None,
        };
        let (mut a, mut b) = (port("a", "n", 1, "10.0.0.5"), port("b", "n", 2, "10.0.0.6"));
        for p in [&mut a, &mut b] {
            p.rules.push(rule(true, Some("icmp")));
        }
        let (ga, _) = (guest(&a, Some("10.0.0.5/24"), None), guest(&b, Some("10.0.0.6/24"), None));
        sh("ip link set tapb netns other");
        let plane = LinuxPlane::new(rig.config.clone());
        let applied = plane.apply(&state(1, &[vxlan("192.0.2.1", "192.0.2.2")], &[&a], &[])).await.unwrap();
        assert!(applied.failed.is_empty(), "{:?}", applied.failed);
        let mut config = rig.config.clone();
        config.tag = "vb".into();
        config.run_dir = rig.dir.path().join("other");
        config.physical.clear();
        let wanted = state(1, &[vxlan("192.0.2.2", "192.0.2.1")], &[&b], &[]);
        let apply = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let applied = runtime.block_on(LinuxPlane::new(config).apply(&wanted)).unwrap();
            assert!(applied.failed.is_empty(), "{:?}", applied.failed);
        };
        inside("other", apply).await;
        assert!(reaches(&ga, "10.0.0.6"), "across the tunnel");
        plane.wipe().await.unwrap();
    });
}

#[test]
fn a_moved_floating_address_is_announced() {
    on_host("mv", |rig| async move {
        let plane = LinuxPlane::new(rig.config.clone());
        let router = |id: &str, network: &str, n: u8, fixed: Option<&str>| Router {
            id: id.into(),
            admin_up: true,
            interfaces: vec![RouterInterface {
                port_id: format!("i{id}"),
                network_id: network.into(),
                mac: mac(n),
                addresses: vec!["10.0.0.1/24".parse().unwrap()],
                advertise: vec![],
            }],
            gateway: Some(RouterGateway {
                port_id: format!("g{id}"),
                network_id: "ext".into(),
                mac: mac(n + 1),
                addresses: vec![format!("203.0.113.{n}/24").parse().unwrap()],
                next_hops: vec!["203.0.113.1".parse().unwrap()],
                snat: true,
            }),
            floating_ips: fixed
                .map(|f| FloatingIp { id: "f".into(), floating: "203.0.113.20".parse().unwrap(), fixed: f.parse().unwrap() })
                .into_iter()
                .collect(),
            routes: vec![],
        };
        // Two tenants with the same addresses, one floating address that moves.
        let (mut a, mut b) = (port("a", "n", 1, "10.0.0.5"), port("b", "m", 2, "10.0.0.5"));
        for p in [&mut a, &mut b] {
            p.rules.push(rule(true, Some("icmp")));
            guest(p, Some("10.0.0.5/24"), Some("10.0.0.1"));
        }
        let networks = [network("n", None), network("m", None), external("ext")];
        let (r, q) = (router("r", "n", 100, Some("10.0.0.5")), router("q", "m", 110, None));
        let applied = plane.apply(&state(1, &networks, &[&a, &b], &[&r, &q])).await.unwrap();
        assert!(applied.failed.is_empty(), "{:?}", applied.failed);
        let answers = || (0..3).any(|_| try_sh("busybox ping -c 1 -W 1 203.0.113.20").0);
        let neighbour = || sh("ip neigh show 203.0.113.20");
        assert!(answers() && neighbour().contains(&mac(101)));
        let mut patch = HostPatch { generation: 2, ..HostPatch::default() };
        patch.routers.insert("r".into(), Some(router("r", "n", 100, None)));
        patch.routers.insert("q".into(), Some(router("q", "m", 110, Some("10.0.0.5"))));
        plane.patch(&patch).await.unwrap();
        assert!(neighbour().contains(&mac(111)), "{}", neighbour());
        assert!(ping("gb", "203.0.113.1") && answers());
        plane.wipe().await.unwrap();
    });
}

#[test]
fn any_rule_that_is_accepted_can_be_loaded() {
    on_host("fz", |rig| async move {
        let plane = LinuxPlane::new(rig.config.clone());
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut roll = move |n: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % n
        };
        let protocols = [
            "tcp",
            "udp",
            "icmp",
            "icmpv6",
            "ipv6-icmp",
            "sctp",
            "dccp",
            "udplite",
            "vrrp",
            "gre",
            "esp",
            "ah",
            "ipv6-frag",
            "ipv6-opts",
            "ipv6-route",
            "ipv6-nonxt",
            "igmp",
            "0",
            "254",
            "255",
            "47",
            "TCP",
        ];
        let mut wanted = state(1, &[network("n", None)], &[], &[]);
        wanted.groups.insert("grp".into(), vec!["10.0.0.5".parse().unwrap(), "2001:db8::5".parse().unwrap()]);
        for i in 0..40u8 {
            let mut p = port(&format!("p{i}"), "n", i, &format!("10.0.0.{}", i + 10));
            p.rules.clear();
            for _ in 0..30 {
                let v6 = roll(2) == 1;
                let icmp = roll(3) == 0;
                let top = if icmp { 300 } else { 65_536 };
                let prefix = match (roll(3), v6) {
                    (0, _) => None,
                    (_, false) => Some(format!("{}.{}.3.4/{}", roll(256), roll(256), roll(33)).parse().unwrap()),
                    (_, true) => Some(format!("2001:{:x}::7/{}", roll(65_536), roll(129)).parse().unwrap()),
                };
                p.rules.push(Rule {
                    ingress: roll(2) == 1,
                    ip_version: if v6 { 6 } else { 4 },
                    protocol: (roll(6) > 0).then(|| protocols[roll(protocols.len() as u64) as usize].to_string()),
                    port_min: (roll(2) == 1).then(|| roll(top) as u16),
                    port_max: (roll(2) == 1).then(|| roll(top) as u16),
                    remote_prefix: prefix,
                    remote_group: (roll(4) == 0).then(|| "grp".to_string()),
                    stateful: roll(5) > 0,
                });
            }
            wanted.ports.insert(p.id.clone(), p);
        }
        let applied = plane.apply(&wanted).await.unwrap();
        assert_eq!(applied.ports_up.len(), 40);
        for why in applied.failed.values() {
            assert!(why.starts_with("a security group rule is left out"), "{why}");
        }
        assert_eq!(plane.audit(false).await.unwrap(), Vec::<String>::new());
        plane.wipe().await.unwrap();
    });
}

#[test]
fn uses_the_hosts_own_bridge_or_device_and_leaves_it() {
    on_host("hd", |mut rig| async move {
        sh("ip link add hostbr type bridge && ip addr add 198.51.100.1/24 dev hostbr && ip link set hostbr up");
        sh("ip netns add out && ip link add nic0 type veth peer name far netns out && ip link set nic0 up");
        sh("ip -n out addr add 198.51.100.2/24 dev far && ip -n out link set far up");
        for (round, (device, target)) in [("hostbr", "198.51.100.1"), ("nic0", "198.51.100.2")].into_iter().enumerate() {
            let before = snapshot();
            let device = device.to_string();
            rig.config.physical.insert("public".into(), PhysicalNetwork::HostDevice { device: device.clone() });
            let plane = LinuxPlane::new(rig.config.clone());
            let mut p = port(&format!("p{round}"), "ext", 1, "198.51.100.9");
            p.rules.push(rule(true, Some("icmp")));
            let ns = guest(&p, Some("198.51.100.9/24"), None);
            let applied = plane.apply(&state(1, &[external("ext")], &[&p], &[])).await.unwrap();
            assert!(applied.failed.is_empty(), "{:?}", applied.failed);
            assert_eq!(plane.audit(false).await.unwrap(), Vec::<String>::new());
            assert!(reaches(&ns, target), "{device}");
            plane.wipe().await.unwrap();
            sh(&format!("ip netns del {ns}"));
            assert_eq!(snapshot(), before);
        }
        // A device that is not there fails its network and nothing else.
        rig.config.physical.insert("public".into(), PhysicalNetwork::HostDevice { device: "nic9".into() });
        let plane = LinuxPlane::new(rig.config.clone());
        let applied = plane.apply(&state(1, &[external("ext"), network("n", None)], &[], &[])).await.unwrap();
        assert_eq!(applied.networks_up, ["n"]);
        assert!(applied.failed["ext"].contains("nic9"), "{:?}", applied.failed);
        plane.wipe().await.unwrap();
    });
}
