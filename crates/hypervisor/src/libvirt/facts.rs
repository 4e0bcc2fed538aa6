//! What the host is: capacity, CPU, version. And the console log.

use super::{Inner, absent, watch, xml_read};
use crate::HostInfo;
use caelum_base::{Error, Result};
use std::path::Path;

/// Whether the CPU controller of cgroups can be used, in either version.
pub fn cpu_tuning() -> bool {
    let v1 = Path::new("/sys/fs/cgroup/cpu/cpu.shares");
    let v2 = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    v1.exists() || v2.split_whitespace().any(|c| c == "cpu")
}

/// The machine's name as the kernel has it.
pub fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "localhost".to_owned() } else { name.trim().to_owned() }
}

/// The host's CPU in the form of Nova's `cpu_info`.
fn cpu_info(capabilities: &str) -> serde_json::Value {
    let cpu = xml_read::content(capabilities, "cpu").unwrap_or("");
    let features: Vec<&str> =
        xml_read::elements(cpu, "feature").into_iter().filter_map(|f| xml_read::attribute(f, "feature", "name")).collect();
    let count = |attr| xml_read::attribute(cpu, "topology", attr).and_then(|v| v.parse::<u32>().ok()).unwrap_or(1);
    serde_json::json!({
        "arch": xml_read::content(cpu, "arch").unwrap_or("x86_64"),
        "model": xml_read::content(cpu, "model").unwrap_or("unknown"),
        "vendor": xml_read::content(cpu, "vendor").unwrap_or("unknown"),
        "features": features,
        "topology": {"cells": 1, "sockets": count("sockets"), "cores": count("cores"), "threads": count("threads")},
    })
}

impl Inner {
    pub(super) async fn host_info(&self) -> Result<HostInfo> {
        let node = self.conn.node_info().await?;
        let version = self.conn.hypervisor_version().await?;
        let ask = || async { Ok::<_, Error>(cpu_info(&self.conn.capabilities().await?)) };
        let cpu_info = self.cpu_info.get_or_try_init(ask).await?.clone();
        let stat = nix::sys::statvfs::statvfs(&self.config.data_dir).map_err(|e| Error::internal("no file system").caused_by(e))?;
        Ok(HostInfo {
            hostname: self.hostname.clone(),
            hypervisor_type: "QEMU".to_owned(),
            hypervisor_version: i64::try_from(version).unwrap_or(i64::MAX),
            vcpus: node.cpus,
            memory_mib: node.memory_kib / 1024,
            disk_gib: (stat.blocks() * stat.fragment_size()) >> 30,
            cpu_info,
            virt_type: if self.facts.kvm { "kvm" } else { "qemu" }.to_owned(),
        })
    }

    pub(super) async fn console_log(&self, id: &str, max_bytes: u64) -> Result<Vec<u8>> {
        let paths = self.disks.paths(id)?;
        let fail = |e: std::io::Error| {
            if e.kind() == std::io::ErrorKind::NotFound { absent(id) } else { Error::internal("cannot read a console log").caused_by(e) }
        };
        let now = watch::read_end(&paths.console(), max_bytes).await.map_err(fail)?;
        let missing = max_bytes.saturating_sub(now.len() as u64);
        if missing == 0 || !paths.console_old().exists() {
            return Ok(now);
        }
        let mut out = watch::read_end(&paths.console_old(), missing).await.map_err(fail)?;
        out.extend_from_slice(&now);
        Ok(out)
    }
}
