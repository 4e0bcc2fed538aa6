//! Routers, NAT, floating addresses and the metadata proxy.

use crate::rig::*;
use caelum_netplane::*;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn router(networks: &[(&str, &str)]) -> Router {
    Router {
        id: "r".into(),
        admin_up: true,
        interfaces: networks
            .iter()
            .enumerate()
            .map(|(i, (network, address))| RouterInterface {
                port_id: format!("ri-{network}"),
                network_id: network.to_string(),
                mac: mac(200 + i as u8),
                addresses: vec![address.parse().unwrap()],
                advertise: vec![],
            })
            .collect(),
        gateway: Some(RouterGateway {
            port_id: "gw".into(),
            network_id: "ext".into(),
            mac: mac(220),
            addresses: vec!["203.0.113.10/24".parse().unwrap()],
            next_hops: vec!["203.0.113.1".parse().unwrap()],
            snat: true,
        }),
        floating_ips: vec![],
        routes: vec![],
    }
}

fn floating(id: &str, floating: &str, fixed: &str) -> FloatingIp {
    FloatingIp { id: id.into(), floating: floating.parse().unwrap(), fixed: fixed.parse().unwrap() }
}

#[test]
fn routes_translates_and_takes_floating_addresses_away() {
    on_host("rt", |rig| async move {
        let plane = LinuxPlane::new(rig.config.clone());
        let mut a = port("a", "n", 1, "10.0.0.5");
        let mut b = port("b", "m", 2, "10.0.1.6");
        for p in [&mut a, &mut b] {
            p.rules.push(rule(true, Some("icmp")));
        }
        let ga = guest(&a, Some("10.0.0.5/24"), Some("10.0.0.1"));
        let gb = guest(&b, Some("10.0.1.6/24"), Some("10.0.1.1"));
        let mut r = router(&[("n", "10.0.0.1/24"), ("m", "10.0.1.1/24")]);
        let networks = [network("n", None), network("m", None), external("ext")];
        let applied = plane.apply(&state(1, &networks, &[&a, &b], &[&r])).await.unwrap();
        assert!(applied.failed.is_empty(), "{:?}", applied.failed);
        assert_eq!(applied.routers_up, ["r"]);
        assert!(reaches(&ga, "10.0.1.6"), "between networks");
        assert!(reaches(&ga, "203.0.113.1"), "to the outside, translated");

        let service = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        let at = std::net::SocketAddr::from(([203, 0, 113, 1], service.local_addr().unwrap().port()));
        assert!(std::net::TcpStream::connect(at).is_ok());
        let wait = std::time::Duration::from_millis(300);
        assert!(inside(&ga, move || std::net::TcpStream::connect_timeout(&at, wait).is_err()).await, "the host's services are closed");

        r.floating_ips = vec![floating("f1", "203.0.113.20", "10.0.0.5"), floating("f2", "203.0.113.21", "10.0.1.6")];
        let mut patch = HostPatch { generation: 2, ..HostPatch::default() };
        patch.routers.insert("r".into(), Some(r.clone()));
        let applied = plane.patch(&patch).await.unwrap();
        assert!(applied.failed.is_empty(), "{:?}", applied.failed);
        let from_host = |to: &str| (0..3).any(|_| try_sh(&format!("busybox ping -c 1 -W 1 {to}")).0);
        assert!(from_host("203.0.113.20") && from_host("203.0.113.21"));
        assert!(reaches(&ga, "203.0.113.21"), "guest to another's floating address");
        assert!(reaches(&gb, "203.0.113.21"), "guest to its own floating address");

        r.floating_ips.pop();
        let mut patch = HostPatch { generation: 3, ..HostPatch::default() };
        patch.routers.insert("r".into(), Some(r.clone()));
        plane.patch(&patch).await.unwrap();
        assert!(!try_sh("busybox ping -c 1 -W 1 203.0.113.21").0);
        assert!(from_host("203.0.113.20"));

        // Nothing of the host answers guests on their own bridges.
        sh("ip addr add 198.51.100.1/32 dev lo");
        let bridge_mac = sh(
            "cat /sys/class/net/lo/address >/dev/null; ip -o link show type bridge | grep cbrt | head -1 | sed 's/.*ether //' | cut -d' ' -f1",
        );
        sh(&format!("ip -n {ga} route add 198.51.100.1 dev eth0; ip -n {ga} neigh add 198.51.100.1 lladdr {} dev eth0", bridge_mac.trim()));
        assert!(!ping(&ga, "198.51.100.1"), "the host must not answer");

        let mut patch = HostPatch { generation: 4, ..HostPatch::default() };
        patch.routers.insert("r".into(), None);
        plane.patch(&patch).await.unwrap();
        assert!(!ping(&ga, "10.0.1.6"));
        assert!(!sh("ip netns").contains("-rt-r"));
        plane.wipe().await.unwrap();
    });
}

/// A metadata service that answers with the request it got.
async fn service() -> (std::net::SocketAddr, Arc<Mutex<String>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::new(Mutex::new(String::new()));
    let log = seen.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut text = Vec::new();
            let mut buffer = [0; 4096];
            while !text.windows(4).any(|w| w == b"\r\n\r\n") {
                let n = stream.read(&mut buffer).await.unwrap();
                if n == 0 {
                    break;
                }
                text.extend(&buffer[..n]);
            }
            *log.lock().unwrap() = String::from_utf8_lossy(&text).to_ascii_lowercase();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello").await.unwrap();
        }
    });
    (address, seen)
}

fn signed(what: &str) -> String {
    use hmac::{Hmac, KeyInit, Mac};
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(what.as_bytes());
    mac.finalize().into_bytes().iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn metadata_requests_say_who_asks_whatever_the_guest_claims() {
    on_host("md", |mut rig| async move {
        let (address, seen) = service().await;
        rig.config.metadata = address;
        let plane = LinuxPlane::new(rig.config.clone());
        let (a, b) = (port("a", "n", 1, "10.0.0.5"), port("b", "iso", 2, "10.0.9.6"));
        let ga = guest(&a, Some("10.0.0.5/24"), Some("10.0.0.1"));
        let gb = guest(&b, Some("10.0.9.6/24"), None);
        sh(&format!("ip -n {gb} route add 169.254.169.254 via 10.0.9.2"));
        let networks = [network("n", None), network("iso", Some(dhcp("10.0.9", &[&b], true))), external("ext")];
        let wanted = state(1, &networks, &[&a, &b], &[&router(&[("n", "10.0.0.1/24")])]);
        let applied = plane.apply(&wanted).await.unwrap();
        assert!(applied.failed.is_empty(), "{:?}", applied.failed);
        let request = "GET /latest/meta-data?x=1 HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: close\r\nX-Forwarded-For: 6.6.6.6\r\n\
                       X-Instance-ID: i\r\nX-Tenant-ID: t\r\nX-Neutron-Router-ID: z\r\nX-Metadata-Proxy-Signature: s\r\n\r\n";
        let ask = async |ns: &str| http(ns, "169.254.169.254:80", request.to_string()).await;
        for (ns, ip, header, id) in [(&ga, "10.0.0.5", "x-neutron-router-id", "r"), (&gb, "10.0.9.6", "x-neutron-network-id", "iso")] {
            let text = ask(ns).await;
            assert!(text.ends_with("hello"), "{text}");
            let request = seen.lock().unwrap().clone();
            assert!(request.starts_with("get /latest/meta-data?x=1 http/1.1\r\n"), "{request}");
            for line in [
                format!("x-forwarded-for: {ip}\r\n"),
                format!("{header}: {id}\r\n"),
                format!("x-metadata-proxy-signature: {}\r\n", signed(&format!("{ip}|{id}"))),
            ] {
                assert!(request.contains(&line), "{line} in {request}");
            }
            for forged in ["6.6.6.6", "x-instance-id", "x-tenant-id", ": z\r\n", ": s\r\n"] {
                assert!(!request.contains(forged), "{forged} in {request}");
            }
        }
        // A restarted process listens again after resuming.
        drop(plane);
        let plane = LinuxPlane::new(rig.config.clone());
        plane.resume().await.unwrap();
        let text = ask(&ga).await;
        assert!(text.ends_with("hello"), "{text}");
        plane.wipe().await.unwrap();
    });
}
