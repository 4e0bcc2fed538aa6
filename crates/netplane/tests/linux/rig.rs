//! A host of its own for each test: fresh network and mount namespaces on a thread, so that nothing
//! of the machine is touched and nothing is left behind. Guests are namespaces whose device stands
//! where a tap would be.

use caelum_base::Secret;
use caelum_netplane::*;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::process::Command;

pub struct Rig {
    pub dir: tempfile::TempDir,
    pub config: PlaneConfig,
}

impl Drop for Rig {
    /// Ends servers that a failed test left; the namespaces end with the thread.
    fn drop(&mut self) {
        let line = format!("find {} -name pid -exec cat {{}} +", self.dir.path().display());
        let ours = |pid: &i32| {
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&command).contains(&self.dir.path().display().to_string())
        };
        for pid in try_sh(&line).1.split_whitespace().filter_map(|p| p.parse().ok()).filter(ours) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
        }
    }
}

pub const SECRET: &str = "metadata-secret";

/// Why these tests cannot run here, if so.
fn cannot() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("needs root".to_string());
    }
    let have = |tool: &str| ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].iter().any(|d| std::path::Path::new(d).join(tool).exists());
    let tools = ["ip", "iptables-restore", "nft", "ipset", "dnsmasq", "busybox"];
    tools.iter().find(|t| !have(t)).map(|t| format!("needs {t}"))
}

/// Runs a test on a host of its own.
pub fn on_host<F, T>(tag: &str, test: F)
where
    F: FnOnce(Rig) -> T + Send + 'static,
    T: Future<Output = ()>,
{
    if let Some(why) = cannot() {
        eprintln!("skipped: {why}");
        return;
    }
    let tag = tag.to_string();
    let run = move || {
        std::fs::create_dir_all("/run/netns").unwrap();
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount(Some("tmpfs"), "/run/netns", Some("tmpfs"), MsFlags::empty(), none).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let own = PhysicalNetwork::OwnBridge {
            bridge: format!("br{tag}"),
            host_addresses: vec!["203.0.113.1/24".parse().unwrap()],
            masquerade: true,
        };
        let config = PlaneConfig {
            run_dir: dir.path().join("net"),
            tag,
            physical: BTreeMap::from([("public".to_string(), own)]),
            metadata: SocketAddr::from(([127, 0, 0, 1], 9)),
            metadata_secret: Secret::new(SECRET.to_string()),
        };
        sh("ip link set lo up");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let rig = Rig { dir, config };
        runtime.block_on(test(rig));
    };
    std::thread::spawn(run).join().unwrap();
}

/// Runs a shell line; panics with its output if it fails.
pub fn sh(line: &str) -> String {
    let (ok, text) = try_sh(line);
    assert!(ok, "{line}: {text}");
    text
}

pub fn try_sh(line: &str) -> (bool, String) {
    let out = Command::new("sh").args(["-c", line]).output().unwrap();
    (out.status.success(), String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr))
}

/// As [`try_sh`], without blocking the runtime (a proxy of ours may have to answer meanwhile).
pub async fn async_sh(line: &str) -> (bool, String) {
    let out = tokio::process::Command::new("sh").args(["-c", line]).output().await.unwrap();
    (out.status.success(), String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr))
}

pub fn mac(n: u8) -> String {
    format!("fa:16:3e:00:00:{n:02x}")
}

/// A guest: a namespace with `eth0`, whose other end is the port's tap.
pub fn guest(port: &Port, address: Option<&str>, gateway: Option<&str>) -> String {
    let ns = format!("g{}", port.id);
    sh(&format!("ip netns add {ns}"));
    sh(&format!("ip link add {} mtu 1450 type veth peer name eth0 netns {ns} address {} mtu 1450", port.tap, port.mac));
    sh(&format!("ip -n {ns} link set lo up; ip -n {ns} link set eth0 up"));
    if let Some(address) = address {
        sh(&format!("ip -n {ns} addr add {address} dev eth0"));
    }
    if let Some(gateway) = gateway {
        sh(&format!("ip -n {ns} route add default via {gateway}"));
    }
    ns
}

pub fn ping(ns: &str, to: &str) -> bool {
    try_sh(&format!("ip netns exec {ns} busybox ping -c 1 -W 1 {to}")).0
}

/// Whether a ping gets through within a few tries (bridges and neighbours need a moment).
pub fn reaches(ns: &str, to: &str) -> bool {
    (0..3).any(|_| ping(ns, to))
}

pub fn rule(ingress: bool, protocol: Option<&str>) -> Rule {
    Rule {
        ingress,
        ip_version: 4,
        protocol: protocol.map(str::to_string),
        port_min: None,
        port_max: None,
        remote_prefix: None,
        remote_group: None,
        stateful: true,
    }
}

pub fn port(id: &str, network: &str, n: u8, address: &str) -> Port {
    Port {
        id: id.to_string(),
        network_id: network.to_string(),
        tap: format!("tap{id}"),
        mac: mac(n),
        addresses: vec![address.parse().unwrap()],
        admin_up: true,
        port_security: true,
        allowed_pairs: vec![],
        rules: vec![rule(false, None)],
    }
}

pub fn network(id: &str, dhcp: Option<Dhcp>) -> Network {
    Network { id: id.to_string(), kind: NetworkKind::Local, mtu: 1450, dhcp }
}

pub fn external(id: &str) -> Network {
    Network { id: id.to_string(), kind: NetworkKind::Flat { physical_network: "public".to_string() }, mtu: 1500, dhcp: None }
}

/// A DHCP server at `.2` of a /24 whose router is at `.1`.
pub fn dhcp(prefix: &str, ports: &[&Port], metadata: bool) -> Dhcp {
    Dhcp {
        port_id: format!("dhcp-{}", prefix.replace('.', "-")),
        mac: mac(240),
        subnets: vec![DhcpSubnet {
            subnet_id: format!("sub-{}", prefix.replace('.', "-")),
            cidr: format!("{prefix}.0/24").parse().unwrap(),
            address: format!("{prefix}.2").parse().unwrap(),
            gateway: Some(format!("{prefix}.1").parse().unwrap()),
            dns: vec!["192.0.2.53".parse().unwrap()],
            routes: vec![],
            ipv6_mode: None,
        }],
        hosts: ports
            .iter()
            .map(|p| DhcpHost {
                port_id: p.id.clone(),
                mac: p.mac.clone(),
                hostname: format!("host-{}", p.id),
                addresses: p.addresses.clone(),
                options: vec![],
            })
            .collect(),
        domain: "cloud.example".to_string(),
        metadata,
    }
}

pub fn state(generation: u64, networks: &[Network], ports: &[&Port], routers: &[&Router]) -> HostState {
    HostState {
        generation,
        networks: networks.iter().map(|n| (n.id.clone(), n.clone())).collect(),
        ports: ports.iter().map(|p| (p.id.clone(), (*p).clone())).collect(),
        routers: routers.iter().map(|r| (r.id.clone(), (*r).clone())).collect(),
        groups: BTreeMap::new(),
    }
}

/// A lease from the network's DHCP server, as `key=value` lines.
pub async fn lease(ns: &str, dir: &std::path::Path) -> String {
    let script = dir.join("lease.sh");
    std::fs::write(&script, "#!/bin/sh\n[ \"$1\" = bound ] && set\nexit 0\n").unwrap();
    sh(&format!("chmod +x {}", script.display()));
    let line = format!("ip netns exec {ns} busybox udhcpc -i eth0 -f -q -n -t 3 -T 1 -O 26 -O 121 -O domain -s {}", script.display());
    async_sh(&line).await.1
}

/// Everything of the host that a plane may change, as text.
pub fn snapshot() -> String {
    sh(
        "ip -o link | sed 's/^[0-9]*: //' | cut -d: -f1 | sort; ip netns; iptables-save | grep -v '^[#:*C]' ; ip6tables-save | grep -v '^[#:*C]'; ipset list -n; nft list tables bridge",
    )
}

/// Runs blocking work on a thread inside a namespace while the runtime goes on.
pub async fn inside<T: Send + 'static>(ns: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let ns = format!("/run/netns/{ns}");
    // A thread of its own: it may not go back to the runtime from another namespace.
    let thread = std::thread::spawn(move || {
        nix::sched::setns(std::fs::File::open(ns).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
        work()
    });
    while !thread.is_finished() {
        tokio::task::yield_now().await;
    }
    thread.join().unwrap()
}

/// Sends a request from inside a namespace and returns the whole answer.
pub async fn http(ns: &str, to: &str, request: String) -> String {
    let to = to.to_string();
    inside(ns, move || {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(to).unwrap();
        stream.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    })
    .await
}
