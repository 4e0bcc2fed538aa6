//! Durable writes of 4 KiB per second: `durable_writes DEVICES_DIR plain|grouped THREADS SECONDS`.
//! `plain` is what a server does that syncs each file and each directory by itself.

use caelum_base::Env;
use caelum_diskfile::{Config, Ext, Look, Manager, Metadata, Reserve};
use caelum_swiftkit::{SwiftConf, Timestamp};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const BODY: &[u8] = &[7; 4096];

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn plain(m: &Manager, device: &str, partition: &str, name: &str) -> Result<()> {
    let policy = m.policy(0)?;
    let hash = m.object_hash("a", "c", name);
    let dir = m.hash_dir(device, policy, partition, &hash);
    let tmp_dir = m.config.devices.join(device).join("tmp");
    std::fs::create_dir_all(&tmp_dir)?;
    let tmp = tmp_dir.join(&hash);
    let mut f = File::create(&tmp)?;
    f.write_all(BODY)?;
    f.sync_all()?;
    std::fs::create_dir_all(&dir)?;
    std::fs::rename(&tmp, dir.join("1.data"))?;
    let sync = |p: &Path| File::open(p).and_then(|d| d.sync_all());
    sync(&dir)?;
    sync(dir.parent().unwrap_or(&dir))?;
    sync(dir.ancestors().nth(2).unwrap_or(&dir))?;
    Ok(())
}

fn grouped(m: &Arc<Manager>, device: &str, partition: &str, name: &str, at: Timestamp) -> Result<()> {
    let object = m.object(device, partition, 0, ("a", "c", name), Look::default())?;
    let mut w = object.writer(Some(BODY.len() as u64), Ext::Data)?;
    w.write(BODY)?;
    let (size, etag) = w.finish();
    let mut meta = Metadata::new();
    meta.set("X-Timestamp", at.internal());
    meta.set("Content-Type", "application/octet-stream");
    meta.set("Content-Length", size.to_string());
    meta.set("ETag", etag.unwrap_or_default());
    w.put(meta)?.wait_blocking()?;
    Ok(())
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [devices, mode, threads, seconds] = args.as_slice() else { return Err("DEVICES plain|grouped THREADS SECONDS".into()) };
    let mut config = Config::new(devices, Arc::new(SwiftConf::default()), Env::system());
    config.mount_check = false;
    config.reserve = Reserve::Bytes(0);
    let m = Manager::new(config);
    let names = m.device_names();
    let until = Instant::now() + Duration::from_secs(seconds.parse()?);
    let count = Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    let run = m.now().raw;
    let jobs: Vec<_> = (0..threads.parse::<usize>()?)
        .map(|t| {
            let (m, names, count, mode) = (m.clone(), names.clone(), count.clone(), mode.clone());
            std::thread::spawn(move || -> Result<()> {
                let mut i = 0;
                while Instant::now() < until {
                    let name = format!("{run}-{t}-{i}");
                    let device = &names[(t + i) % names.len()];
                    let partition = (i % 64).to_string();
                    if mode == "plain" {
                        plain(&m, device, &partition, &name)?;
                    } else {
                        grouped(&m, device, &partition, &name, m.now())?;
                    }
                    count.fetch_add(1, Ordering::Relaxed);
                    i += 1;
                }
                Ok(())
            })
        })
        .collect();
    for j in jobs {
        j.join().map_err(|_| "a thread panicked")??;
    }
    let n = count.load(Ordering::Relaxed);
    println!("{mode}: {n} writes, {:.0}/s on {} devices", n as f64 / start.elapsed().as_secs_f64(), names.len());
    Ok(())
}
