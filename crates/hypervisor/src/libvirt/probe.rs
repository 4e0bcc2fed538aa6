//! Does KVM really work here? Only a guest that ran proves it.
//!
//! `/dev/kvm` may be there and guests on it still hang for ever, so a small boot sector is
//! started under KVM; it must write to QEMU's debug-exit port within the time limit. The answer is kept in a
//! file together with the kernel's boot id and QEMU's version and asked again when one of them changes.

use caelum_base::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;

const LIMIT: Duration = Duration::from_secs(3);
/// What the boot sector writes; QEMU exits with `2 * value + 1`.
const EXIT_VALUE: u8 = 0x10;
pub const QEMU: &str = "qemu-system-x86_64";

/// What was found out, and under which circumstances.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Answer {
    boot_id: String,
    qemu: String,
    kvm: bool,
}

/// Machine code of the probe, loaded at 0x7c00: builds page tables at 0x1000, enters 64-bit mode with
/// paging, runs twenty million rounds of push, pop, decrement, executes CPUID and writes 0x10 to port 0xf4.
///
/// Real mode alone proves nothing: some KVMs run the firmware and then never or hardly get on in 64-bit mode.
/// Working ones need a few hundredths of a second for the loop, TCG some tenths.
#[rustfmt::skip]
const PROBE_CODE: [u8; 166] = [
    0xfa, 0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0, 0xfc, 0xbf, 0x00, 0x10, 0xb9, 0x00, 0x18, 0xf3, 0xab,
    0xc7, 0x06, 0x00, 0x10, 0x03, 0x20, 0xc7, 0x06, 0x00, 0x20, 0x03, 0x30, 0xc7, 0x06, 0x00, 0x30, 0x83, 0x00,
    0x66, 0x0f, 0x01, 0x16, 0xa0, 0x7c, 0x66, 0xb8, 0x20, 0x00, 0x00, 0x00, 0x0f, 0x22, 0xe0, 0x66, 0xb8, 0x00,
    0x10, 0x00, 0x00, 0x0f, 0x22, 0xd8, 0x66, 0xb9, 0x80, 0x00, 0x00, 0xc0, 0x0f, 0x32, 0x66, 0x0d, 0x00, 0x01,
    0x00, 0x00, 0x0f, 0x30, 0x66, 0xb8, 0x01, 0x00, 0x00, 0x80, 0x0f, 0x22, 0xc0, 0xea, 0x5a, 0x7c, 0x08, 0x00,
    0xb8, 0x10, 0x00, 0x00, 0x00, 0x8e, 0xd8, 0x8e, 0xd0, 0xbc, 0x00, 0x70, 0x00, 0x00, 0xb9, 0x00, 0x2d, 0x31,
    0x01, 0x51, 0x59, 0xff, 0xc9, 0x75, 0xfa, 0x31, 0xc0, 0x0f, 0xa2, 0x66, 0xba, 0xf4, 0x00, 0xb0, 0x10, 0xee,
    0xf4, 0xeb, 0xfd, 0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x9a, 0x20, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x92, 0x00, 0x00, 0x17, 0x00,
    0x88, 0x7c, 0x00, 0x00,
];

/// The probe's code as a floppy of 1.44 MB, as the firmware expects one.
fn boot_sector() -> Vec<u8> {
    let mut s = PROBE_CODE.to_vec();
    s.resize(510, 0);
    s.extend_from_slice(&[0x55, 0xaa]);
    s.resize(1_474_560, 0);
    s
}

/// The kernel's id of this boot, or nothing where there is none.
pub async fn boot_id() -> String {
    tokio::fs::read_to_string("/proc/sys/kernel/random/boot_id").await.unwrap_or_default().trim().to_owned()
}

/// QEMU's version line; `Unavailable` with what to install when it is missing.
pub async fn qemu_version() -> Result<String> {
    let missing = "QEMU is not installed; install it with: apt-get install qemu-system-x86 qemu-utils";
    let run = Command::new(QEMU).arg("--version").kill_on_drop(true).output();
    match tokio::time::timeout(Duration::from_secs(10), run).await {
        Ok(Ok(out)) if out.status.success() => Ok(String::from_utf8_lossy(&out.stdout).lines().next().unwrap_or("").to_owned()),
        Ok(Err(e)) => Err(Error::unavailable(missing).caused_by(e)),
        _ => Err(Error::unavailable(missing)),
    }
}

/// Whether guests can use KVM. `dir` keeps the answer.
pub async fn kvm_works(dir: &Path) -> Result<bool> {
    let qemu = qemu_version().await?;
    if !Path::new("/dev/kvm").exists() {
        return Ok(false);
    }
    let boot_id = boot_id().await;
    let file: PathBuf = dir.join("kvm-probe.json");
    let known = tokio::fs::read(&file).await.ok().and_then(|b| serde_json::from_slice::<Answer>(&b).ok());
    if let Some(a) = known.filter(|a| a.boot_id == boot_id && a.qemu == qemu) {
        return Ok(a.kvm);
    }
    let kvm = run_guest(dir, "kvm").await?;
    tracing::info!(kvm, "started a tiny guest to see whether KVM works");
    let bytes = serde_json::to_vec(&Answer { boot_id, qemu, kvm }).map_err(|e| Error::internal("cannot encode").caused_by(e))?;
    if let Err(e) = tokio::fs::write(&file, bytes).await {
        tracing::warn!(error = %e, "the answer of the KVM probe cannot be kept");
    }
    Ok(kvm)
}

/// Runs the boot sector under `accel`; true when it ended as it should within the limit.
async fn run_guest(dir: &Path, accel: &str) -> Result<bool> {
    let image = dir.join(format!("probe-{accel}.img"));
    tokio::fs::write(&image, boot_sector()).await.map_err(|e| Error::internal("cannot write the probe's image").caused_by(e))?;
    let mut command = Command::new(QEMU);
    command.args(["-machine", "pc", "-accel", accel, "-m", "16", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04", "-boot", "a", "-drive"]);
    command.arg(format!("file={},if=floppy,format=raw,readonly=on", image.display().to_string().replace(',', ",,")));
    command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut child = command.kill_on_drop(true).spawn().map_err(|e| Error::unavailable("QEMU cannot be started.").caused_by(e))?;
    let status = tokio::time::timeout(LIMIT, child.wait()).await;
    if status.is_err() {
        // A guest hanging in the kernel may not even be waited for; the signal is all one can do.
        let _ = child.start_kill();
    }
    let _ = tokio::fs::remove_file(&image).await;
    Ok(matches!(status, Ok(Ok(s)) if s.code() == Some(i32::from(EXIT_VALUE) * 2 + 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_boot_sector_ends_under_tcg_and_the_answer_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let Ok(qemu) = qemu_version().await else { return };
        assert!(run_guest(dir.path(), "tcg").await.unwrap());
        let answer = Answer { boot_id: boot_id().await, qemu, kvm: true };
        std::fs::write(dir.path().join("kvm-probe.json"), serde_json::to_vec(&answer).unwrap()).unwrap();
        assert_eq!(kvm_works(dir.path()).await.unwrap(), Path::new("/dev/kvm").exists());
    }
}
