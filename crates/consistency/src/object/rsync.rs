//! Pushing suffixes with the `rsync` program, as upstream's replicator does by default.

use super::{Config, node};
use caelum_ring::Device;
use caelum_swiftkit::StoragePolicy;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// How `rsync` is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RsyncConfig {
    /// The program.
    pub program: String,
    /// Where the other node takes objects; `{replication_ip}`, `{ip}`, `{device}` and the like stand for what its ring
    /// says.
    pub module: String,
    /// Of one call.
    pub timeout: Duration,
    /// Of silence, in seconds.
    pub io_timeout: u32,
    /// KiB per second; 0: no limit.
    pub bwlimit: u32,
    /// Between regions.
    pub compress: bool,
}

impl Default for RsyncConfig {
    fn default() -> Self {
        Self {
            program: "rsync".into(),
            module: "{replication_ip}::object".into(),
            timeout: Duration::from_secs(900),
            io_timeout: 30,
            bwlimit: 0,
            compress: false,
        }
    }
}

impl RsyncConfig {
    fn module_for(&self, node: &Device) -> String {
        let bracketed = |ip: &str| if ip.contains(':') { format!("[{ip}]") } else { ip.to_string() };
        self.module
            .trim_end_matches('/')
            .replace("{replication_ip}", &bracketed(&node.replication_ip))
            .replace("{replication_port}", &node.replication_port.to_string())
            .replace("{ip}", &bracketed(&node.ip))
            .replace("{port}", &node.port.to_string())
            .replace("{device}", &node.device)
            .replace("{region}", &node.region.to_string())
            .replace("{zone}", &node.zone.to_string())
            .replace("{id}", &node.id.to_string())
            .replace("{meta}", &node.meta)
    }

    pub(crate) fn args(
        &self,
        node: &Device,
        same_region: bool,
        sources: &[String],
        policy: &StoragePolicy,
        partition: &str,
    ) -> Vec<String> {
        let mut args: Vec<String> =
            ["--recursive", "--whole-file", "--human-readable", "--xattrs", "--itemize-changes", "--ignore-existing"]
                .map(String::from)
                .to_vec();
        args.push(format!("--timeout={}", self.io_timeout));
        args.push(format!("--contimeout={}", self.io_timeout));
        args.push(format!("--bwlimit={}", self.bwlimit));
        // Files that another rsync is writing.
        args.push(format!("--exclude=.*.{}", "[0-9a-zA-Z]".repeat(6)));
        if self.compress && !same_region {
            args.push("--compress".into());
        }
        args.extend_from_slice(sources);
        args.push(format!("{}/{}/{}/{partition}", self.module_for(node), node.device, policy.dir("objects")));
        args
    }
}

/// Pushes suffixes and tells the node that they have changed. Errors: not all of it arrived.
pub(crate) async fn push(
    config: &Config,
    rsync: &RsyncConfig,
    node: &Device,
    local: &Device,
    policy: &StoragePolicy,
    partition: &str,
    suffixes: &[String],
) -> Result<(), String> {
    let dir = config.disks.partition_path(&local.device, policy, partition);
    let mut sources = Vec::new();
    for suffix in suffixes {
        let path = dir.join(suffix);
        if tokio::fs::try_exists(&path).await.unwrap_or(false) {
            sources.push(path.display().to_string());
        }
    }
    if sources.is_empty() {
        return Err("nothing to push".into());
    }
    let args = rsync.args(node, node.region == local.region, &sources, policy, partition);
    let child = Command::new(&rsync.program)
        .args(&args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(rsync.timeout, child).await.map_err(|_| format!("{} took too long", rsync.program))?;
    let output = output.map_err(|e| format!("{}: {e}", rsync.program))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{}: {} {:.1024}", rsync.program, output.status, text.trim()));
    }
    node::invalidate(config, node, partition, policy.index, suffixes).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments() {
        let node =
            Device { replication_ip: "fd00::1".into(), replication_port: 6200, device: "sdb".into(), region: 2, ..Device::default() };
        let rsync = RsyncConfig { compress: true, ..RsyncConfig::default() };
        let args = rsync.args(&node, false, &["/srv/node/sda/objects/7/abc".into()], &StoragePolicy::zero(), "7");
        assert_eq!(args[args.len() - 2..], ["/srv/node/sda/objects/7/abc", "[fd00::1]::object/sdb/objects/7"]);
        assert!(args.contains(&"--compress".to_string()) && args.contains(&"--ignore-existing".to_string()));
        assert!(!rsync.args(&node, true, &[], &StoragePolicy::zero(), "7").contains(&"--compress".to_string()));
    }
}
