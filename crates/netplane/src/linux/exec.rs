//! Running the system's tools: values go through standard input, each run has a time limit.
//!
//! Anything that must happen inside a network namespace runs on a thread that entered it; such a
//! thread ends afterwards, so no thread of the caller ever changes its namespace. A crash leaves at
//! most a finished or unfinished tool run, which the next apply repeats.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// No tool of ours needs longer, even on a loaded machine with thousands of rules.
const LIMIT: Duration = Duration::from_secs(60);
/// Error text kept from a tool.
const MAX_ERROR: usize = 600;
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(super) type Outcome<T> = std::result::Result<T, String>;

/// Whether a tool is installed.
pub(super) fn have(tool: &str) -> bool {
    PATH.split(':').any(|dir| std::path::Path::new(dir).join(tool).exists())
}

struct Finished {
    ok: bool,
    stdout: String,
    stderr: String,
}

fn run_raw(tool: &str, args: &[&str], stdin: &str) -> Outcome<Finished> {
    let mut child = Command::new(tool)
        .args(args)
        .env_clear()
        .env("PATH", PATH)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("{tool} cannot be started: {e}"))?;
    let mut input = child.stdin.take().ok_or("no standard input")?;
    let mut errors = child.stderr.take().ok_or("no standard error")?;
    let mut output = child.stdout.take().ok_or("no standard output")?;
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).map_err(|e| e.to_string())?);
    let (done, waiting) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // A tool that stops reading early reports why itself.
            let _ = input.write_all(stdin.as_bytes());
        });
        let stderr = scope.spawn(move || {
            let mut text = Vec::new();
            let _ = errors.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        scope.spawn(move || {
            if waiting.recv_timeout(LIMIT) == Err(mpsc::RecvTimeoutError::Timeout) {
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            }
        });
        let mut stdout = Vec::new();
        let _ = output.read_to_end(&mut stdout);
        let stderr = stderr.join().unwrap_or_default();
        let status = child.wait();
        drop(done);
        Ok(Finished { ok: status.map_err(|e| e.to_string())?.success(), stdout: String::from_utf8_lossy(&stdout).into_owned(), stderr })
    })
}

fn first_words(tool: &str, stderr: &str) -> String {
    let text = stderr.trim().replace('\n', "; ");
    let cut: String = text.chars().take(MAX_ERROR).collect();
    format!("{tool}: {cut}")
}

/// Runs a tool and returns its output.
pub(super) fn run(tool: &str, args: &[&str], stdin: &str) -> Outcome<String> {
    let end = run_raw(tool, args, stdin)?;
    if end.ok { Ok(end.stdout) } else { Err(first_words(tool, &end.stderr)) }
}

/// Runs `work` on a thread inside the namespace.
pub(super) fn in_ns<T: Send>(ns: &str, work: impl FnOnce() -> Outcome<T> + Send) -> Outcome<T> {
    let file = File::open(ns_path(ns)).map_err(|e| format!("namespace {ns}: {e}"))?;
    std::thread::scope(|scope| {
        scope
            .spawn(move || {
                nix::sched::setns(&file, nix::sched::CloneFlags::CLONE_NEWNET).map_err(|e| format!("namespace {ns}: {e}"))?;
                work()
            })
            .join()
            .unwrap_or_else(|_| Err("the namespace thread stopped".to_string()))
    })
}

/// Where iproute2 keeps named namespaces.
pub(super) fn ns_path(ns: &str) -> PathBuf {
    PathBuf::from("/run/netns").join(ns)
}

/// Names of all named namespaces.
pub(super) fn ns_list() -> Vec<String> {
    std::fs::read_dir("/run/netns").map(|dir| dir.flatten().filter_map(|e| e.file_name().into_string().ok()).collect()).unwrap_or_default()
}

/// Inode of a named namespace; it identifies the namespace while it exists.
pub(super) fn ns_inode(ns: &str) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(ns_path(ns)).ok().map(|m| m.ino())
}

/// Writes one network setting of the calling thread's namespace, if it differs.
pub(super) fn sysctl(name: &str, value: &str) -> Outcome<()> {
    let path = format!("/proc/sys/net/{name}");
    match std::fs::read_to_string(&path) {
        Ok(now) if now.trim() == value => Ok(()),
        Ok(_) => std::fs::write(&path, value).map_err(|e| format!("{path}: {e}")),
        Err(e) => Err(format!("{path}: {e}")),
    }
}

/// Lines for `ip -batch` or `bridge -batch`, each owned by an object, so that a failing line fails
/// only its object.
#[derive(Default)]
pub(super) struct Batch {
    lines: Vec<(String, String)>,
}

impl Batch {
    pub fn push(&mut self, owner: &str, line: impl Into<String>) {
        self.lines.push((owner.to_string(), line.into()));
    }

    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Runs all lines in one process; returns the owners whose lines failed and why.
    pub fn run(self, tool: &str) -> BTreeMap<String, String> {
        let mut failed = BTreeMap::new();
        if self.lines.is_empty() {
            return failed;
        }
        let text: String = self.lines.iter().flat_map(|(_, line)| [line.as_str(), "\n"]).collect();
        let end = match run_raw(tool, &["-force", "-batch", "-"], &text) {
            Ok(end) => end,
            Err(e) => {
                return self.lines.into_iter().map(|(owner, _)| (owner, e.clone())).collect();
            }
        };
        let mut reason = String::new();
        for line in end.stderr.lines() {
            let Some(number) = line.strip_prefix("Command failed -:").and_then(|n| n.trim().parse::<usize>().ok()) else {
                reason = line.to_string();
                continue;
            };
            if let Some((owner, command)) = number.checked_sub(1).and_then(|i| self.lines.get(i)) {
                failed.entry(owner.clone()).or_insert_with(|| format!("{tool} {command}: {reason}"));
            }
            reason.clear();
        }
        if !end.ok && failed.is_empty() {
            let why = first_words(tool, &end.stderr);
            failed = self.lines.into_iter().map(|(owner, _)| (owner, why.clone())).collect();
        }
        failed
    }
}
