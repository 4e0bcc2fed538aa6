//! DHCP, security groups and spoofing on one network.

use crate::rig::*;
use caelum_netplane::*;

#[test]
fn a_guest_gets_its_lease_and_only_its_own() {
    on_host("dh", |rig| async move {
        let plane = LinuxPlane::new(rig.config.clone());
        let (a, b) = (port("a", "n", 1, "10.0.0.5"), port("b", "n", 2, "10.0.0.6"));
        let (ga, gb) = (guest(&a, None, None), guest(&b, None, None));
        let mut server = dhcp("10.0.0", &[&a], false);
        server.hosts[0].options =
            vec![("bootfile-name".into(), "pxelinux.0".into(), 4), ("bootfile-name".into(), "x\ndhcp-range=10.0.0.9,10.0.0.10".into(), 4)];
        let options = server.hosts[0].options.clone();
        let applied = plane.apply(&state(1, &[network("n", Some(server.clone()))], &[&a, &b], &[])).await.unwrap();
        assert_eq!(applied.ports_up, ["a", "b"]);
        assert!(applied.failed["a"].contains("bootfile-name"), "{:?}", applied.failed);
        let got = lease(&ga, rig.dir.path()).await;
        for want in [
            "ip='10.0.0.5'",
            "router='10.0.0.1'",
            "dns='192.0.2.53'",
            "mtu='1450'",
            "domain='cloud.example'",
            "169.254.169.254/32 10.0.0.1",
            "0.0.0.0/0 10.0.0.1",
            "boot_file='pxelinux.0'",
        ] {
            assert!(got.contains(want), "{want} in {got}");
        }
        let none = lease(&gb, rig.dir.path()).await;
        assert!(!none.contains("ip='"), "{none}");
        // The new host is known after a patch, without a restart of the server.
        let pid = std::fs::read_to_string(rig.config.run_dir.join("dhcp/n/pid")).unwrap();
        let mut server = dhcp("10.0.0", &[&a, &b], false);
        server.hosts[0].options = options;
        let mut patch = HostPatch { generation: 2, ..HostPatch::default() };
        patch.networks.insert("n".into(), Some(network("n", Some(server))));
        plane.patch(&patch).await.unwrap();
        let got = lease(&gb, rig.dir.path()).await;
        assert!(got.contains("ip='10.0.0.6'"), "{got}");
        assert_eq!(std::fs::read_to_string(rig.config.run_dir.join("dhcp/n/pid")).unwrap(), pid);
        // Options gone: the same host without them, and nothing to complain about.
        let mut patch = HostPatch { generation: 3, ..HostPatch::default() };
        patch.networks.insert("n".into(), Some(network("n", Some(dhcp("10.0.0", &[&a, &b], false)))));
        let applied = plane.patch(&patch).await.unwrap();
        assert!(applied.failed.is_empty(), "{:?}", applied.failed);
        let got = lease(&ga, rig.dir.path()).await;
        assert!(got.contains("ip='10.0.0.5'") && !got.contains("pxelinux"), "{got}");
        plane.wipe().await.unwrap();
    });
}

#[test]
fn security_groups_deny_by_default_and_follow_changes() {
    on_host("sg", |rig| async move {
        let plane = LinuxPlane::new(rig.config.clone());
        let mut a = port("a", "n", 1, "10.0.0.5");
        let mut b = port("b", "n", 2, "10.0.0.6");
        let (ga, gb) = (guest(&a, Some("10.0.0.5/24"), None), guest(&b, Some("10.0.0.6/24"), None));
        let mut wanted = state(1, &[network("n", None)], &[&a, &b], &[]);
        let applied = plane.apply(&wanted).await.unwrap();
        assert!(applied.failed.is_empty(), "{:?}", applied.failed);
        assert!(!ping(&ga, "10.0.0.6"), "nothing is allowed in");

        b.rules.push(rule(true, Some("icmp")));
        let mut patch = HostPatch { generation: 2, ..HostPatch::default() };
        patch.ports.insert("b".into(), Some(b.clone()));
        plane.patch(&patch).await.unwrap();
        assert!(reaches(&ga, "10.0.0.6"), "the rule lets the ping in and its answer out");
        assert!(!ping(&gb, "10.0.0.5"), "a is still closed");

        // Members of a group only.
        b.rules = vec![rule(false, None), Rule { remote_group: Some("grp".into()), ..rule(true, Some("icmp")) }];
        let mut patch = HostPatch { generation: 3, ..HostPatch::default() };
        patch.ports.insert("b".into(), Some(b.clone()));
        patch.groups.insert("grp".into(), Some(vec!["10.0.0.77".parse().unwrap()]));
        let applied = plane.patch(&patch).await.unwrap();
        assert!(applied.failed.is_empty(), "{:?}", applied.failed);
        assert!(!ping(&ga, "10.0.0.6"), "a is no member");
        let mut patch = HostPatch { generation: 4, ..HostPatch::default() };
        patch.groups.insert("grp".into(), Some(vec!["10.0.0.5".parse().unwrap()]));
        plane.patch(&patch).await.unwrap();
        assert!(reaches(&ga, "10.0.0.6"), "a became a member");

        // No egress rule, no traffic out.
        a.rules.clear();
        let mut patch = HostPatch { generation: 5, ..HostPatch::default() };
        patch.ports.insert("a".into(), Some(a.clone()));
        plane.patch(&patch).await.unwrap();
        assert!(!ping(&ga, "10.0.0.6"));

        // TCP by port range, and a rule that cannot be loaded harms nobody.
        a.rules.push(rule(false, None));
        b.rules = vec![
            rule(false, None),
            Rule { port_min: Some(8000), port_max: Some(8010), ..rule(true, Some("tcp")) },
            Rule { port_min: Some(1), port_max: Some(2), ..rule(true, Some("vrrp")) },
        ];
        wanted.generation = 6;
        wanted.ports.insert("a".into(), a);
        wanted.ports.insert("b".into(), b);
        let applied = plane.apply(&wanted).await.unwrap();
        assert_eq!(applied.failed.keys().collect::<Vec<_>>(), ["b"]);
        let listen = |p: u16| {
            std::process::Command::new("ip")
                .args(["netns", "exec", &gb, "busybox", "nc", "-l", "-p", &p.to_string(), "-e", "true"])
                .spawn()
                .unwrap()
        };
        let (mut open, mut closed) = (listen(8005), listen(9000));
        let try_port = |p: u16| (0..20).any(|_| try_sh(&format!("ip netns exec {ga} busybox nc -w 1 10.0.0.6 {p} </dev/null")).0);
        assert!(try_port(8005));
        assert!(!try_sh(&format!("ip netns exec {ga} busybox nc -w 1 10.0.0.6 9000 </dev/null")).0);
        for child in [&mut open, &mut closed] {
            let _ = child.kill();
            child.wait().unwrap();
        }
        plane.wipe().await.unwrap();
    });
}

#[test]
fn forged_sources_do_not_leave_the_guest() {
    on_host("sp", |rig| async move {
        let plane = LinuxPlane::new(rig.config.clone());
        let mut a = port("a", "n", 1, "10.0.0.5");
        let mut b = port("b", "n", 2, "10.0.0.6");
        b.rules.push(rule(true, None));
        a.addresses.push("2001:db8::5".parse().unwrap());
        b.addresses.push("2001:db8::6".parse().unwrap());
        for p in [&mut a, &mut b] {
            p.rules.push(Rule { ip_version: 6, ..rule(true, None) });
            p.rules.push(Rule { ip_version: 6, ..rule(false, None) });
        }
        let (ga, gb) = (guest(&a, Some("10.0.0.5/24"), None), guest(&b, Some("10.0.0.6/24"), None));
        for (ns, address) in [(&ga, "2001:db8::5/64"), (&gb, "2001:db8::6/64")] {
            sh(&format!("ip -n {ns} addr add {address} dev eth0 nodad"));
        }
        let mut wanted = state(1, &[network("n", None)], &[&a, &b], &[]);
        let applied = plane.apply(&wanted).await.unwrap();
        assert!(applied.failed.is_empty(), "{:?}", applied.failed);
        assert!(reaches(&ga, "10.0.0.6"));
        assert!(reaches(&ga, "2001:db8::6"));
        let arping = |from: &str| try_sh(&format!("ip netns exec {ga} busybox arping -c 1 -w 1 -I eth0 -s {from} 10.0.0.6")).0;
        assert!(arping("10.0.0.5"));

        sh(&format!("ip -n {ga} addr add 10.0.0.66/24 dev eth0; ip -n {ga} addr add 2001:db8::66/64 dev eth0 nodad"));
        let from = |source: &str, to: &str| try_sh(&format!("ip netns exec {ga} busybox ping -c 1 -W 1 -I {source} {to}")).0;
        assert!(from("10.0.0.5", "10.0.0.6"));
        assert!(!from("10.0.0.66", "10.0.0.6"), "forged IPv4 source");
        assert!(!from("2001:db8::66", "2001:db8::6"), "forged IPv6 source");
        assert!(!arping("10.0.0.66"), "forged ARP sender");

        // An allowed pair opens exactly that range.
        a.allowed_pairs.push(("10.0.0.64/28".parse().unwrap(), a.mac.clone()));
        let mut patch = HostPatch { generation: 2, ..HostPatch::default() };
        patch.ports.insert("a".into(), Some(a.clone()));
        plane.patch(&patch).await.unwrap();
        assert!(from("10.0.0.66", "10.0.0.6"));

        sh(&format!("ip -n {ga} link set eth0 address fa:16:3e:ee:ee:ee"));
        assert!(!ping(&ga, "10.0.0.6"), "forged MAC");

        // Without port security everything passes.
        a.port_security = false;
        wanted.generation = 3;
        wanted.ports.insert("a".into(), a);
        let applied = plane.apply(&wanted).await.unwrap();
        assert!(applied.failed.is_empty(), "{:?}", applied.failed);
        assert!(reaches(&ga, "10.0.0.6"));
        plane.wipe().await.unwrap();
    });
}

#[test]
fn dhcpv6_offers_the_ports_address() {
    on_host("d6", |rig| async move {
        let plane = LinuxPlane::new(rig.config.clone());
        let mut a = port("a", "n", 1, "2001:db8:2::55");
        a.rules.push(Rule { ip_version: 6, ..rule(false, None) });
        let ga = guest(&a, None, None);
        let mut server = dhcp("10.0.0", &[&a], false);
        server.subnets[0] = DhcpSubnet {
            cidr: "2001:db8:2::/64".parse().unwrap(),
            address: "2001:db8:2::2".parse().unwrap(),
            gateway: Some("2001:db8:2::1".parse().unwrap()),
            dns: vec!["2001:db8::53".parse().unwrap()],
            ipv6_mode: Some("dhcpv6-stateful".into()),
            ..server.subnets[0].clone()
        };
        server.hosts[0].options = vec![("bootfile-url".into(), "http://[2001:db8::9]/boot".into(), 6)];
        let applied = plane.apply(&state(1, &[network("n", Some(server))], &[&a], &[])).await.unwrap();
        assert!(applied.failed.is_empty(), "{:?}", applied.failed);
        let link_local = "fe80::f816:3eff:fe00:1";
        sh(&format!("ip -n {ga} addr replace {link_local}/64 dev eth0 nodad"));
        let offer = inside(&ga, || {
            let socket = std::net::UdpSocket::bind("[::]:546").unwrap();
            socket.set_read_timeout(Some(std::time::Duration::from_millis(500))).unwrap();
            let index = nix::net::if_::if_nametoindex("eth0").unwrap();
            let server = std::net::SocketAddrV6::new("ff02::1:2".parse().unwrap(), 547, 0, index);
            // Solicit: client identifier from the MAC, one address association, the options wanted.
            let mut solicit = vec![1, 1, 2, 3, 0, 1, 0, 10, 0, 3, 0, 1, 0xfa, 0x16, 0x3e, 0, 0, 1];
            solicit.extend([0, 3, 0, 12, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0]);
            solicit.extend([0, 6, 0, 4, 0, 23, 0, 59]);
            let mut buffer = [0; 1500];
            let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
            while std::time::Instant::now() < end {
                // Fails until the link-local address is checked for duplicates.
                if socket.send_to(&solicit, server).is_err() {
                    std::thread::yield_now();
                    continue;
                }
                if let Ok(n) = socket.recv(&mut buffer) {
                    return buffer[..n].to_vec();
                }
            }
            Vec::new()
        })
        .await;
        let has = |bytes: &[u8]| offer.windows(bytes.len()).any(|w| w == bytes);
        assert_eq!(offer.first(), Some(&2), "an advertise message");
        assert!(has(&"2001:db8:2::55".parse::<std::net::Ipv6Addr>().unwrap().octets()));
        assert!(has(&"2001:db8::53".parse::<std::net::Ipv6Addr>().unwrap().octets()));
        assert!(has(b"http://[2001:db8::9]/boot"), "the extra option");
        plane.wipe().await.unwrap();
    });
}
