//! Runs `qemu-img`, which must never be trusted with a file it could be talked into guessing about.
//!
//! Invariants: every format is given explicitly; the child has limits on memory, CPU, time and
//! files, an empty environment, no input and its own process group, which is killed as a whole on
//! timeout or when the caller goes away. Paths come from us and are absolute, so that they can be
//! read neither as an option nor as a `protocol:` name. A crash may leave a partial destination
//! file: callers write to a temporary name and rename.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use caelum_base::{Error, Result};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getpid, getppid};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

use crate::inspect::Format;

/// Threads of a conversion get stacks of this size; the usual 8 MiB each would use up the address
/// space that the limit leaves.
const STACK_BYTES: u64 = 2 << 20;

/// Output kept from the child, bytes per stream.
const OUTPUT_MAX: u64 = 1 << 20;

/// Limits for one run.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub cpu_seconds: u64,
    /// Wall clock.
    pub timeout: Duration,
    pub address_space_bytes: u64,
}

impl Limits {
    /// For reading headers.
    pub const QUICK: Self = Self { cpu_seconds: 30, timeout: Duration::from_secs(60), address_space_bytes: 1 << 30 };
    /// For copying whole images.
    pub const BULK: Self = Self { cpu_seconds: 3600, timeout: Duration::from_secs(4 * 3600), address_space_bytes: 1 << 30 };
}

/// What `qemu-img info` says, as far as we use it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Info {
    pub format: String,
    /// Bytes a guest sees.
    pub virtual_size: u64,
    /// Bytes allocated on disk.
    #[serde(default)]
    pub actual_size: u64,
    pub backing_filename: Option<String>,
    pub backing_filename_format: Option<String>,
}

/// Copies `src` to a new image at `dst`. `options` go to `-o`, as `key=value`.
pub async fn convert(src: &Path, src_format: Format, dst: &Path, dst_format: Format, options: &[&str], limits: Limits) -> Result<()> {
    let mut args = vec!["convert", "-f", driver(src_format)?, "-O", driver(dst_format)?];
    let joined = join_options(options)?;
    if !joined.is_empty() {
        args.extend(["-o", &joined]);
    }
    args.extend([path(src)?, path(dst)?]);
    run(&args, limits).await.map(drop)
}

/// Makes an image; `size` in bytes may be left out when there is a backing file.
pub async fn create(dst: &Path, format: Format, size: Option<u64>, backing: Option<(&Path, Format)>) -> Result<()> {
    let mut args = vec!["create", "-q", "-f", driver(format)?];
    if let Some((file, backing_format)) = backing {
        args.extend(["-F", driver(backing_format)?, "-b", path(file)?]);
    }
    args.push(path(dst)?);
    let size = size.map(|s| s.to_string());
    args.extend(size.as_deref());
    run(&args, Limits::QUICK).await.map(drop)
}

/// Reads a header. Shares the lock, so that a disk in use can be looked at.
pub async fn info(file: &Path, format: Format) -> Result<Info> {
    let text = run(&["info", "-U", "--output=json", "-f", driver(format)?, path(file)?], Limits::QUICK).await?;
    serde_json::from_slice(&text).map_err(|e| Error::internal("qemu-img info printed unexpected JSON").caused_by(e))
}

/// Grows an image to `size` bytes; qemu-img refuses to shrink.
pub async fn grow(file: &Path, format: Format, size: u64) -> Result<()> {
    run(&["resize", "-q", "-f", driver(format)?, path(file)?, &size.to_string()], Limits::QUICK).await.map(drop)
}

/// Checks the consistency of an image without repairing it; an error when it is damaged.
pub async fn check(file: &Path, format: Format) -> Result<()> {
    run(&["check", "-q", "-f", driver(format)?, path(file)?], Limits::BULK).await.map(drop)
}

/// qemu's name of a format.
fn driver(format: Format) -> Result<&'static str> {
    match format {
        Format::Raw | Format::Iso | Format::Ami | Format::Aki | Format::Ari => Ok("raw"),
        Format::Qcow2 => Ok("qcow2"),
        Format::Vmdk => Ok("vmdk"),
        Format::Vdi => Ok("vdi"),
        Format::Vhd => Ok("vpc"),
        Format::Vhdx => Ok("vhdx"),
        Format::Qed | Format::Luks | Format::Unsupported => {
            Err(Error::invalid(format!("Images of format {} cannot be converted.", format.as_str())))
        }
    }
}

/// An absolute path that qemu cannot take for anything but a file.
fn path(path: &Path) -> Result<&str> {
    match path.to_str() {
        Some(text) if text.starts_with('/') && !text.chars().any(char::is_control) => Ok(text),
        _ => Err(Error::internal(format!("qemu-img path is not absolute and clean: {path:?}"))),
    }
}

fn join_options(options: &[&str]) -> Result<String> {
    let clean = |o: &&str| o.chars().all(|c| c.is_ascii_alphanumeric() || "_-.=".contains(c));
    if !options.iter().all(clean) || options.iter().any(|o| o.contains("file=") || o.contains("backing")) {
        return Err(Error::internal("qemu-img option is not plain"));
    }
    Ok(options.join(","))
}

/// Kills the whole process group unless told that the child has ended.
struct KillGroup(Option<Pid>);

impl Drop for KillGroup {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            // The child was not reaped yet, so its id cannot have been given to another process.
            let _ = killpg(pid, Signal::SIGKILL);
        }
    }
}

async fn run(args: &[&str], limits: Limits) -> Result<Vec<u8>> {
    let mut command = Command::new("qemu-img");
    command.args(args).env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("LC_ALL", "C").env("MALLOC_ARENA_MAX", "1");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.process_group(0).kill_on_drop(true).current_dir("/");
    let parent = getpid();
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; the closure makes
    // a few system calls and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            // A run that outlived us would go on writing the file that the next process makes anew.
            // The thread that starts it lives as long as the process: it is one of the runtime's.
            set_pdeathsig(Signal::SIGKILL)?;
            if getppid() != parent {
                return Err(std::io::ErrorKind::Interrupted.into());
            }
            setrlimit(Resource::RLIMIT_AS, limits.address_space_bytes, limits.address_space_bytes)?;
            setrlimit(Resource::RLIMIT_CPU, limits.cpu_seconds, limits.cpu_seconds)?;
            setrlimit(Resource::RLIMIT_NOFILE, 64, 64)?;
            setrlimit(Resource::RLIMIT_STACK, STACK_BYTES, STACK_BYTES)?;
            Ok(())
        });
    }
    let mut child = command.spawn().map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::unavailable("qemu-img is not installed: apt-get install qemu-utils").caused_by(e),
        _ => Error::internal("start qemu-img").caused_by(e),
    })?;
    let mut guard = KillGroup(child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw));
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let work = async {
        let (out, err) = tokio::join!(bounded(stdout), bounded(stderr));
        (child.wait().await, out, err)
    };
    let Ok((status, out, err)) = tokio::time::timeout(limits.timeout, work).await else {
        return Err(Error::timeout("qemu-img took too long."));
    };
    guard.0 = None;
    let status = status.map_err(|e| Error::internal("wait for qemu-img").caused_by(e))?;
    if status.success() { Ok(out) } else { Err(failure(args[0], status, &err)) }
}

/// Reads to the end, keeping a bounded part, so that the child never blocks on a full pipe.
async fn bounded(stream: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut kept = Vec::new();
    if let Some(mut stream) = stream {
        // A broken pipe only shortens what we log or parse; the exit status decides.
        let _ = (&mut stream).take(OUTPUT_MAX).read_to_end(&mut kept).await;
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    }
    kept
}

fn failure(verb: &str, status: ExitStatus, stderr: &[u8]) -> Error {
    let text = String::from_utf8_lossy(&stderr[..stderr.len().min(2000)]).trim().to_owned();
    tracing::warn!(verb, %status, stderr = %text, "qemu-img failed");
    if text.contains("No space left on device") {
        return Error::unavailable("The storage is full.").caused_by(text);
    }
    Error::internal(format!("qemu-img {verb} failed: {status}")).caused_by(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn create_convert_grow_info_check() {
        let dir = tempfile::tempdir().unwrap();
        let at = |n: &str| dir.path().join(n);
        create(&at("base"), Format::Qcow2, Some(1 << 20), None).await.unwrap();
        create(&at("top"), Format::Qcow2, None, Some((&at("base"), Format::Qcow2))).await.unwrap();
        grow(&at("top"), Format::Qcow2, 4 << 20).await.unwrap();
        let top = info(&at("top"), Format::Qcow2).await.unwrap();
        assert_eq!(top.virtual_size, 4 << 20);
        assert_eq!(top.backing_filename_format.as_deref(), Some("qcow2"));
        check(&at("top"), Format::Qcow2).await.unwrap();
        convert(&at("top"), Format::Qcow2, &at("flat"), Format::Raw, &[], Limits::BULK).await.unwrap();
        assert_eq!(std::fs::metadata(at("flat")).unwrap().len(), 4 << 20);
        let whole = crate::inspect::inspect_file(&at("base"), Some(Format::Qcow2)).unwrap();
        assert_eq!(whole.virtual_size, 1 << 20);
        assert!(crate::inspect::inspect_file(&at("top"), Some(Format::Qcow2)).is_err());
        for (name, format, options) in [
            ("s.vmdk", Format::Vmdk, &["subformat=streamOptimized"][..]),
            ("m.vmdk", Format::Vmdk, &[]),
            ("d.vdi", Format::Vdi, &[]),
            ("d.vhd", Format::Vhd, &["force_size=on"]),
            ("d.vhdx", Format::Vhdx, &[]),
        ] {
            convert(&at("flat"), Format::Raw, &at(name), format, options, Limits::BULK).await.unwrap();
            let found = crate::inspect::inspect_file(&at(name), Some(format)).expect(name);
            assert_eq!(found.virtual_size, 4 << 20, "{name}");
        }
    }

    #[tokio::test]
    async fn never_guesses_and_reports_failure() {
        assert!(info(Path::new("relative"), Format::Raw).await.is_err());
        assert!(info(Path::new("/nonexistent/x"), Format::Raw).await.is_err());
        assert!(info(Path::new("/dev/null"), Format::Qed).await.is_err());
        assert!(join_options(&["backing_file=/etc/passwd"]).is_err() && join_options(&["a,b"]).is_err());
    }
}
