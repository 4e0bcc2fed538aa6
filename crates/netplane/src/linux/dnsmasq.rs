//! One dnsmasq process per namespace that needs one.
//!
//! The configuration file's name carries a hash of its content, so the command line of a running
//! process says which configuration it has: after a restart of ours a matching process in the right
//! namespace is adopted, any other one of the same directory is replaced. Files are replaced
//! atomically. dnsmasq keeps root's user id because it re-reads files from a directory only root
//! may enter; it runs inside its own network namespace.

use super::exec::{self, Outcome};
use super::names::hex;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sha2::{Digest, Sha256};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A wanted server.
pub(super) struct Server {
    pub dir: PathBuf,
    pub ns: String,
    /// Lines that need a restart when they change.
    pub conf: String,
    /// File names and contents that are read again on a signal.
    pub files: Vec<(&'static str, String)>,
}

fn say(path: &Path) -> impl Fn(std::io::Error) -> String + '_ {
    move |e| format!("{}: {e}", path.display())
}

/// Writes a file atomically if its content differs; says whether it did.
pub(super) fn write(path: &Path, content: &str) -> Outcome<bool> {
    if std::fs::read_to_string(path).is_ok_and(|now| now == content) {
        return Ok(false);
    }
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    std::fs::write(&part, content).map_err(say(&part))?;
    std::fs::rename(&part, path).map_err(say(path))?;
    Ok(true)
}

/// Makes a directory only root may enter.
pub(super) fn make_dir(dir: &Path) -> Outcome<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(say(dir))
}

fn pid_of(dir: &Path) -> Option<i32> {
    std::fs::read_to_string(dir.join("pid")).ok()?.trim().parse().ok().filter(|pid| *pid > 1)
}

fn command_line(pid: i32) -> String {
    std::fs::read(format!("/proc/{pid}/cmdline")).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
}

/// Inode of a process's network namespace.
fn net_of(pid: &str) -> Option<u64> {
    std::fs::metadata(format!("/proc/{pid}/ns/net")).ok().map(|m| m.ino())
}

/// Whether the process runs this configuration in this namespace.
fn matches(pid: i32, conf: &Path, ns: &str) -> bool {
    let text = command_line(pid);
    text.contains("dnsmasq")
        && text.contains(&format!("--conf-file={}\0", conf.display()))
        && net_of(&pid.to_string()).is_some_and(|ino| exec::ns_inode(ns) == Some(ino))
}

/// Ends a process and waits until it is gone.
fn end(pid: i32) {
    let target = Pid::from_raw(pid);
    let begin = Instant::now();
    let mut signal = Signal::SIGTERM;
    while kill(target, signal).is_ok() && begin.elapsed() < Duration::from_secs(3) {
        std::thread::sleep(Duration::from_millis(2));
        if begin.elapsed() > Duration::from_secs(1) {
            signal = Signal::SIGKILL;
        }
        // A finished child of another parent may stay as a zombie; it holds nothing.
        if command_line(pid).is_empty() {
            return;
        }
    }
}

/// Ends the directory's server, if it is one.
pub(super) fn stop(dir: &Path) {
    if let Some(pid) = pid_of(dir) {
        let text = command_line(pid);
        if text.contains("dnsmasq") && text.contains(&format!("--conf-file={}/", dir.display())) {
            end(pid);
        }
    }
}

impl Server {
    fn conf_path(&self) -> PathBuf {
        let mut hash = Sha256::new();
        hash.update(&self.conf);
        self.dir.join(format!("conf-{}", &hex(&hash.finalize())[..16]))
    }

    /// Whether the wanted server runs.
    pub fn runs(&self) -> bool {
        pid_of(&self.dir).is_some_and(|pid| matches(pid, &self.conf_path(), &self.ns))
    }

    /// Makes the server run with these files. `reread` makes it read them again even if they are
    /// unchanged (a crash may have come between writing and signalling).
    pub fn ensure(&self, reread: bool) -> Outcome<()> {
        make_dir(&self.dir)?;
        let mut changed = false;
        for (name, content) in &self.files {
            changed |= write(&self.dir.join(name), content)?;
        }
        let conf = self.conf_path();
        if let Some(pid) = pid_of(&self.dir).filter(|pid| matches(*pid, &conf, &self.ns)) {
            if changed || reread {
                kill(Pid::from_raw(pid), Signal::SIGHUP).map_err(|e| format!("dnsmasq {pid}: {e}"))?;
            }
            return Ok(());
        }
        stop(&self.dir);
        for entry in std::fs::read_dir(&self.dir).map_err(say(&self.dir))?.flatten() {
            if entry.file_name().to_string_lossy().starts_with("conf-") {
                std::fs::remove_file(entry.path()).map_err(say(&entry.path()))?;
            }
        }
        write(&conf, &self.conf)?;
        let arg = format!("--conf-file={}", conf.display());
        let pid = format!("--pid-file={}", self.dir.join("pid").display());
        exec::in_ns(&self.ns, || exec::run("dnsmasq", &[&arg, &pid], "").map(drop))
    }
}

/// Ends every dnsmasq that runs inside one of the namespaces, whatever started it.
pub(super) fn end_in(namespaces: &[String]) {
    let inodes: Vec<u64> = namespaces.iter().filter_map(|ns| exec::ns_inode(ns)).collect();
    if inodes.is_empty() {
        return;
    }
    let Ok(processes) = std::fs::read_dir("/proc") else { return };
    for name in processes.flatten().filter_map(|e| e.file_name().into_string().ok()) {
        let Ok(pid) = name.parse::<i32>() else { continue };
        if net_of(&name).is_some_and(|ino| inodes.contains(&ino)) && command_line(pid).contains("dnsmasq") {
            end(pid);
        }
    }
}
