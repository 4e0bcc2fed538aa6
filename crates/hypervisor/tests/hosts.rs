//! One contract for every kind of host, run over the simulated one and, where root, libvirt and QEMU are there, the real one.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use async_trait::async_trait;
use caelum_base::{Env, ErrorKind, Result};
use caelum_hypervisor::*;
use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::time::{Duration, Instant};

const WAIT: Duration = Duration::from_secs(20);

/// An image of one boot sector: prints `ok` on the serial port, then halts.
fn boot_image() -> Vec<u8> {
    let mut s: Vec<u8> = vec![0xba, 0xf8, 0x03];
    for c in b"ok\n" {
        s.extend_from_slice(&[0xb0, *c, 0xee]);
    }
    s.extend_from_slice(&[0xf4, 0xeb, 0xfd]);
    s.resize(510, 0);
    s.extend_from_slice(&[0x55, 0xaa]);
    s.resize(1 << 20, 0);
    s
}

struct Images(Vec<u8>);

#[async_trait]
impl ImageSource for Images {
    async fn fetch(&self, _: &str, dest: &Path) -> Result<()> {
        tokio::fs::write(dest, &self.0).await.map_err(|e| caelum_base::Error::internal("write").caused_by(e))
    }
}

fn sha512(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha512};
    Sha512::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn spec(env: &Env, image: &[u8]) -> GuestSpec {
    let id = env.uuid();
    GuestSpec {
        domain: format!("instance-{}", &id[..8]),
        id,
        name: "contract".to_owned(),
        project_id: "p".to_owned(),
        user_id: "u".to_owned(),
        vcpus: 1,
        memory_mib: 64,
        root_gib: 1,
        ephemeral_gib: 0,
        swap_mib: 4,
        extra_specs: BTreeMap::new(),
        image_props: BTreeMap::new(),
        root: RootDisk::Image {
            image_id: "img".to_owned(),
            format: "raw".to_owned(),
            sha512: sha512(image),
            size_bytes: image.len() as u64,
        },
        volumes: Vec::new(),
        nics: Vec::new(),
        config_drive: Some(ConfigDrive { files: [("openstack/latest/meta_data.json".to_owned(), "{}".to_owned())].into() }),
        running: true,
    }
}

async fn power(host: &dyn Hypervisor, id: &str) -> PowerState {
    host.get(id).await.unwrap().expect("the guest is there").power
}

/// What every host promises.
async fn contract(host: &dyn Hypervisor, volume_dir: &Path) {
    let env = Env::system();
    let image = boot_image();
    let images = Images(image.clone());
    let s = spec(&env, &image);
    let id = s.id.as_str();
    let mut events = host.events();
    assert!(host.get(id).await.unwrap().is_none());
    host.destroy(id).await.unwrap();
    assert_eq!(host.power(id, PowerAction::Start).await.unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(host.redefine(&s).await.unwrap_err().kind, ErrorKind::NotFound);
    host.spawn(&s, &images).await.unwrap();
    host.spawn(&s, &images).await.unwrap();
    assert_eq!(power(host, id).await, PowerState::Running);
    let event = tokio::time::timeout(WAIT, events.recv()).await.unwrap().unwrap();
    assert_eq!((event.id.as_str(), event.power), (id, PowerState::Running));
    power_contract(host, id).await;
    volume_contract(host, id, volume_dir).await;
    let shot = host.snapshot_root(id).await.unwrap();
    assert_eq!(&std::fs::read(&shot).unwrap()[..4], b"QFI\xfb");
    std::fs::remove_file(&shot).unwrap();
    host.vnc(id).await.unwrap();
    assert_eq!(host.list().await.unwrap().iter().filter(|g| g.id == id).count(), 1);
    let known = HashSet::from([id.to_owned()]);
    assert_eq!(host.audit(&known, true).await.unwrap(), Vec::<String>::new());
    let mut bigger = s.clone();
    bigger.root_gib = 2;
    bigger.running = false;
    host.redefine(&bigger).await.unwrap();
    assert_eq!(power(host, id).await, PowerState::Shutdown);
    assert_eq!(host.audit(&HashSet::new(), true).await.unwrap().len(), 1);
    assert!(host.get(id).await.unwrap().is_none());
    assert_eq!(host.audit(&known, false).await.unwrap(), Vec::<String>::new());
}

async fn power_contract(host: &dyn Hypervisor, id: &str) {
    use PowerAction as A;
    let short = Duration::from_millis(300);
    let steps = [
        (A::Pause, PowerState::Paused),
        (A::Pause, PowerState::Paused),
        (A::Unpause, PowerState::Running),
        (A::Unpause, PowerState::Running),
        (A::Suspend, PowerState::Suspended),
        (A::Suspend, PowerState::Suspended),
        (A::Resume, PowerState::Running),
        (A::SoftReboot { grace: short }, PowerState::Running),
        (A::HardReboot, PowerState::Running),
        (A::Stop { grace: short }, PowerState::Shutdown),
        (A::Stop { grace: short }, PowerState::Shutdown),
        (A::HardReboot, PowerState::Running),
        (A::Stop { grace: Duration::ZERO }, PowerState::Shutdown),
        (A::Start, PowerState::Running),
        (A::Start, PowerState::Running),
    ];
    for (action, want) in steps {
        let started = Instant::now();
        host.power(id, action).await.unwrap_or_else(|e| panic!("{action:?}: {e:?}"));
        eprintln!("t= {action:?} {:?}", started.elapsed());
        assert_eq!(power(host, id).await, want, "after {action:?}");
    }
    host.power(id, A::Stop { grace: Duration::ZERO }).await.unwrap();
    for action in [A::Pause, A::Unpause, A::Suspend, A::Resume] {
        assert_eq!(host.power(id, action).await.unwrap_err().kind, ErrorKind::Conflict, "{action:?}");
    }
}

/// Volumes on a guest that is off.
async fn volume_contract(host: &dyn Hypervisor, id: &str, dir: &Path) {
    let path = dir.join("volume");
    std::fs::write(&path, vec![0; 1 << 20]).unwrap();
    let volume = VolumeDisk {
        volume_id: Env::system().uuid(),
        path,
        format: "raw".to_owned(),
        size_bytes: 1 << 20,
        device: None,
        boot_index: None,
        read_only: false,
        shareable: false,
    };
    assert_eq!(host.attach_volume(id, &volume).await.unwrap(), "vdc");
    assert_eq!(host.attach_volume(id, &volume).await.unwrap(), "vdc");
    host.power(id, PowerAction::Start).await.unwrap();
    assert_eq!(host.get(id).await.unwrap().unwrap().volume_ids, std::slice::from_ref(&volume.volume_id));
    let other = VolumeDisk { volume_id: Env::system().uuid(), device: Some("/dev/vdc".to_owned()), ..volume.clone() };
    assert_eq!(host.attach_volume(id, &other).await.unwrap_err().kind, ErrorKind::Conflict);
    host.power(id, PowerAction::Stop { grace: Duration::ZERO }).await.unwrap();
    host.detach_volume(id, &volume.volume_id).await.unwrap();
    host.detach_volume(id, &volume.volume_id).await.unwrap();
    assert!(host.get(id).await.unwrap().unwrap().volume_ids.is_empty());
    host.power(id, PowerAction::Start).await.unwrap();
}

#[tokio::test]
async fn the_simulated_host_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let config = SimConfig { state_dir: Some(dir.path().to_owned()), ..SimConfig::default() };
    contract(&SimHost::open(config, Env::system()).unwrap(), dir.path()).await;
}

/// Whether this machine has what the real host needs; says why not.
fn real_host_possible() -> bool {
    let missing = |what: &str| {
        eprintln!("skipped: {what}");
        false
    };
    if !nix::unistd::geteuid().is_root() {
        return missing("needs root");
    }
    for program in ["/usr/sbin/libvirtd", "/usr/bin/qemu-system-x86_64", "/usr/bin/qemu-img"] {
        if !Path::new(program).exists() {
            return missing(program);
        }
    }
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn the_libvirt_host_keeps_the_contract() {
    if !real_host_possible() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let mut config = LibvirtConfig::new(dir.path().to_owned());
    config.detach_limit = Duration::from_secs(2);
    let host = LibvirtHost::open(config.clone(), Env::system()).await.unwrap();
    eprintln!("t= open {:?} {}", started.elapsed(), host.virt_type());
    let outcome = std::panic::AssertUnwindSafe(async {
        contract(&host, dir.path()).await;
        real_extras(&host, config).await;
    });
    let result = catch_panic(outcome).await;
    let started = Instant::now();
    host.wipe().await.unwrap();
    eprintln!("t= wipe {:?}", started.elapsed());
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a future so that a panic inside does not skip the clean-up.
async fn catch_panic<F: Future>(f: std::panic::AssertUnwindSafe<F>) -> std::result::Result<F::Output, Box<dyn std::any::Any + Send>> {
    let mut f = Box::pin(f.0);
    std::future::poll_fn(move |cx| match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| f.as_mut().poll(cx))) {
        Ok(std::task::Poll::Pending) => std::task::Poll::Pending,
        Ok(std::task::Poll::Ready(v)) => std::task::Poll::Ready(Ok(v)),
        Err(e) => std::task::Poll::Ready(Err(e)),
    })
    .await
}

/// What only a real guest can show.
async fn real_extras(host: &LibvirtHost, config: LibvirtConfig) {
    let image = boot_image();
    let mut s = spec(&Env::system(), &image);
    s.extra_specs.insert("quota:cpu_shares".to_owned(), "512".to_owned());
    let started = Instant::now();
    host.spawn(&s, &Images(image.clone())).await.unwrap();
    eprintln!("t= spawn with cached image {:?}", started.elapsed());
    let printed = async {
        while !String::from_utf8_lossy(&host.console_log(&s.id, 1000).await.unwrap()).contains("ok\n") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(WAIT, printed).await.expect("the guest prints on its serial port");
    eprintln!("t= printed after {:?}", started.elapsed());
    let VncEndpoint::Unix { path } = host.vnc(&s.id).await.unwrap() else { panic!("a Unix socket") };
    let mut banner = [0; 3];
    tokio::io::AsyncReadExt::read_exact(&mut tokio::net::UnixStream::connect(path).await.unwrap(), &mut banner).await.unwrap();
    assert_eq!(&banner, b"RFB");
    daemon_dies(host, &config, &s.id).await;
    // A second host object over the same directory finds the same daemon and guest.
    let second = LibvirtHost::open(config, Env::system()).await.unwrap();
    assert_eq!(power(&second, &s.id).await, PowerState::Running);
    drop(second);
    let many: Vec<GuestSpec> = (0..4).map(|_| spec(&Env::system(), &image)).collect();
    let images = Images(image.clone());
    let started = Instant::now();
    let [a, b, c, d] = &many[..] else { panic!("four") };
    let (a, b, c, d) = tokio::join!(host.spawn(a, &images), host.spawn(b, &images), host.spawn(c, &images), host.spawn(d, &images));
    a.and(b).and(c).and(d).unwrap();
    eprintln!("t= four spawns at once {:?}", started.elapsed());
    assert_eq!(host.list().await.unwrap().len(), 5);
    let started = Instant::now();
    for g in &many {
        host.destroy(&g.id).await.unwrap();
    }
    eprintln!("t= four destroys {:?}", started.elapsed());
    let bad = Images(vec![0; 1 << 20]);
    let mut other = spec(&Env::system(), &vec![1; 1 << 20]);
    let e = host.spawn(&other, &bad).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::Unavailable, "wrong bytes: {e:?}");
    assert!(host.get(&other.id).await.unwrap().is_none());
    other.nics.push(Nic {
        port_id: other.id.clone(),
        mac: "fa:16:3e:00:00:02".to_owned(),
        tap: "no-such-tap".to_owned(),
        mtu: 1500,
        model: "virtio".to_owned(),
    });
    other.root = s.root.clone();
    let e = host.spawn(&other, &Images(image)).await.unwrap_err();
    eprintln!("t= no tap: {e:?}");
    assert!(host.get(&other.id).await.unwrap().is_none());
    assert_eq!(host.audit(&HashSet::from([s.id.clone()]), false).await.unwrap(), Vec::<String>::new());
    host.destroy(&s.id).await.unwrap();
}

/// The daemon is killed: the guest does not notice, and the host starts another one by itself.
async fn daemon_dies(host: &LibvirtHost, config: &LibvirtConfig, id: &str) {
    let pid = std::fs::read_to_string(config.data_dir.join("libvirt/run/libvirtd.pid")).unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.trim())).unwrap();
    eprintln!("t= daemon {}", status.lines().filter(|l| l.starts_with("VmRSS") || l.starts_with("RssAnon")).collect::<Vec<_>>().join(" "));
    let pid = nix::unistd::Pid::from_raw(pid.trim().parse().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    let started = Instant::now();
    let back = async {
        loop {
            match host.get(id).await {
                Ok(Some(g)) if g.power == PowerState::Running => break,
                Ok(other) => panic!("the guest is {other:?}"),
                Err(e) => assert!(e.is_retryable(), "{e:?}"),
            }
        }
    };
    tokio::time::timeout(WAIT, back).await.expect("the daemon comes back");
    eprintln!("t= daemon back after {:?}", started.elapsed());
}
