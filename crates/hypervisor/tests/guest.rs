//! A real operating system on the real host: boot, hot-plug, graceful stop, snapshot, restarts of everything around it.
//!
//! Runs as root where `CAELUM_GUEST_IMAGE` names a qcow2 image whose serial console ends in a login prompt.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use async_trait::async_trait;
use caelum_base::{Env, Result};
use caelum_hypervisor::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const WAIT: Duration = Duration::from_secs(60);

struct File(PathBuf);

#[async_trait]
impl ImageSource for File {
    async fn fetch(&self, _: &str, dest: &Path) -> Result<()> {
        tokio::fs::copy(&self.0, dest).await.map(drop).map_err(|e| caelum_base::Error::internal("copy").caused_by(e))
    }
}

fn spec(image: &Path) -> GuestSpec {
    use sha2::{Digest, Sha512};
    let bytes = std::fs::read(image).unwrap();
    let id = Env::system().uuid();
    let meta = format!("{{\"uuid\": \"{id}\", \"name\": \"boot-test\", \"hostname\": \"boot-test\"}}");
    let props = std::env::var("CAELUM_GUEST_PROPS").unwrap_or_default();
    GuestSpec {
        domain: format!("instance-{}", &id[..8]),
        id,
        name: "boot-test".to_owned(),
        project_id: "p".to_owned(),
        user_id: "u".to_owned(),
        vcpus: 1,
        memory_mib: 128,
        root_gib: 1,
        ephemeral_gib: 0,
        swap_mib: 0,
        extra_specs: BTreeMap::new(),
        image_props: props.split(',').filter_map(|p| p.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
        root: RootDisk::Image {
            image_id: "img".to_owned(),
            format: "qcow2".to_owned(),
            sha512: Sha512::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect(),
            size_bytes: bytes.len() as u64,
        },
        volumes: Vec::new(),
        nics: Vec::new(),
        config_drive: Some(ConfigDrive { files: [("openstack/latest/meta_data.json".to_owned(), meta)].into() }),
        running: true,
    }
}

/// Waits until the console shows `text` at least `n` times.
async fn console(host: &LibvirtHost, id: &str, text: &str, n: usize) -> Duration {
    let started = Instant::now();
    loop {
        let log = String::from_utf8_lossy(&host.console_log(id, 1 << 20).await.unwrap()).into_owned();
        if log.matches(text).count() >= n {
            return started.elapsed();
        }
        if started.elapsed() > WAIT {
            panic!("no {text:?} in the console:\n{}", &log[log.len().saturating_sub(3000)..]);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn ip(args: &[&str]) -> bool {
    std::process::Command::new("ip").args(args).status().is_ok_and(|s| s.success())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_guest_lives_through_everything() {
    let Some(image) = std::env::var_os("CAELUM_GUEST_IMAGE").map(PathBuf::from) else {
        eprintln!("skipped: CAELUM_GUEST_IMAGE names no image");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let tap = format!("tapc{}", std::process::id());
    assert!(ip(&["tuntap", "add", "dev", &tap, "mode", "tap"]), "a tap can be made");
    let started = Instant::now();
    let host = LibvirtHost::open(LibvirtConfig::new(dir.path().to_owned()), Env::system()).await.unwrap();
    eprintln!("t= open {:?}", started.elapsed());
    let task = {
        let (path, tap) = (dir.path().to_owned(), tap.clone());
        tokio::spawn(async move { (life(&host, &path, &image, &tap).await, host) })
    };
    let outcome = task.await;
    let host = match outcome {
        Ok(((), host)) => host,
        Err(e) => {
            let host = LibvirtHost::open(LibvirtConfig::new(dir.path().to_owned()), Env::system()).await.unwrap();
            host.wipe().await.unwrap();
            ip(&["link", "del", &tap]);
            std::panic::resume_unwind(e.into_panic());
        }
    };
    host.wipe().await.unwrap();
    assert!(ip(&["link", "del", &tap]), "the tap outlives the guest");
}

async fn life(host: &LibvirtHost, dir: &Path, image: &Path, tap: &str) {
    let s = spec(image);
    let id = s.id.as_str();
    let started = Instant::now();
    host.spawn(&s, &File(image.to_owned())).await.unwrap();
    eprintln!("t= first spawn {:?}", started.elapsed());
    console(host, id, "boot-test login:", 1).await;
    eprintln!("t= login prompt {:?} after the spawn began", started.elapsed());
    let volume = hot_plug(host, id, dir, tap).await;
    let started = Instant::now();
    let shot = host.snapshot_root(id).await.unwrap();
    eprintln!("t= snapshot {:?}, {} bytes", started.elapsed(), std::fs::metadata(&shot).unwrap().len());
    let reboot = Instant::now();
    host.power(id, PowerAction::SoftReboot { grace: Duration::from_secs(20) }).await.unwrap();
    eprintln!("t= soft reboot {:?}", reboot.elapsed());
    console(host, id, "login:", 2).await;
    let stop = Instant::now();
    host.power(id, PowerAction::Stop { grace: Duration::from_secs(30) }).await.unwrap();
    eprintln!("t= graceful stop {:?}", stop.elapsed());
    assert!(stop.elapsed() < Duration::from_secs(25), "the guest obeys its power button");
    let started = Instant::now();
    host.power(id, PowerAction::Start).await.unwrap();
    console(host, id, "login:", 3).await;
    eprintln!("t= second boot {:?}", started.elapsed());
    // The snapshot boots as an image of its own.
    let second = spec(&shot);
    let started = Instant::now();
    host.spawn(&second, &File(shot.clone())).await.unwrap();
    console(host, &second.id, "login:", 1).await;
    eprintln!("t= boot from the snapshot {:?}", started.elapsed());
    host.destroy(&second.id).await.unwrap();
    std::fs::remove_file(shot).unwrap();
    assert!(!host.get(id).await.unwrap().unwrap().volume_ids.contains(&volume));
    let again = Instant::now();
    host.destroy(id).await.unwrap();
    eprintln!("t= destroy {:?}", again.elapsed());
    let started = Instant::now();
    let third = spec(image);
    host.spawn(&third, &File(image.to_owned())).await.unwrap();
    eprintln!("t= spawn with cached image {:?}", started.elapsed());
    console(host, &third.id, "login:", 1).await;
    eprintln!("t= its login prompt {:?} after the spawn began", started.elapsed());
    host.destroy(&third.id).await.unwrap();
}

async fn hot_plug(host: &LibvirtHost, id: &str, dir: &Path, tap: &str) -> String {
    let path = dir.join("volume.raw");
    std::fs::File::create(&path).unwrap().set_len(64 << 20).unwrap();
    let volume = VolumeDisk {
        volume_id: Env::system().uuid(),
        path: path.clone(),
        format: "raw".to_owned(),
        size_bytes: 64 << 20,
        device: None,
        boot_index: None,
        read_only: false,
        shareable: false,
    };
    let nic = Nic {
        port_id: Env::system().uuid(),
        mac: "fa:16:3e:11:22:33".to_owned(),
        tap: tap.to_owned(),
        mtu: 1450,
        model: "virtio".to_owned(),
    };
    for round in 0..2 {
        let started = Instant::now();
        assert_eq!(host.attach_volume(id, &volume).await.unwrap(), "vdb");
        host.attach_nic(id, &nic).await.unwrap();
        host.attach_nic(id, &nic).await.unwrap();
        let seen = host.get(id).await.unwrap().unwrap();
        assert_eq!((seen.volume_ids.len(), seen.port_ids.len()), (1, 1));
        eprintln!("t= attach both {:?}", started.elapsed());
        if round == 0 {
            std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(128 << 20).unwrap();
            host.resize_volume(id, &volume.volume_id, 128 << 20).await.unwrap();
        }
        let started = Instant::now();
        host.detach_volume(id, &volume.volume_id).await.unwrap();
        eprintln!("t= detach volume {:?}", started.elapsed());
        let started = Instant::now();
        host.detach_nic(id, &nic.port_id).await.unwrap();
        eprintln!("t= detach nic {:?}", started.elapsed());
    }
    volume.volume_id
}
