//! Finds a libvirt daemon or starts one of our own.
//!
//! Our own daemon lives in a mount namespace where libvirt's directories are ours (`DIR/libvirt/…`), so nothing of a
//! system daemon is touched and both may run on one kernel. Where KVM does not work, `/dev/kvm` is left out of
//! that namespace: libvirt would otherwise wait a minute for a guest that hangs on it.
//! The daemon is detached: it and the guests outlive this process, and the guests outlive it as well. A crash
//! at any point leaves either no daemon (the next start makes one) or a running one (the next start finds it).

use super::probe;
use caelum_base::{Env, Error, Result};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(15);
const MISSING: &str =
    "libvirt is not installed; install it with: apt-get install libvirt-daemon-system libvirt-daemon qemu-system-x86 qemu-utils";

const DRIVER_USER: &str = "libvirt-qemu";
const NO_USER: &str = "The user libvirt-qemu is missing; install it with: apt-get install libvirt-daemon-system";

/// Runs inside the new mount namespace. The shell stays: it is the reaper of the daemon and the guests, which
/// matters where the machine's first process reaps late or never (containers); a shell waiting for `sleep`
/// reaps every child. It ends when it has no children. Arguments: directory, `hide` or `keep` for /dev/kvm, daemon, its name.
const SCRIPT: &str = r#"set -eu
dir=$1 kvm=$2 daemon=$3 name=$4
mkdir -p /run/libvirt /var/lib/libvirt /var/cache/libvirt /var/log/libvirt /etc/libvirt
mount --bind "$dir/run" /run/libvirt
mount --bind "$dir/lib" /var/lib/libvirt
mount --bind "$dir/cache" /var/cache/libvirt
mount --bind "$dir/log" /var/log/libvirt
mount --bind "$dir/etc" /etc/libvirt
if [ "$kvm" = hide ] && [ -e /dev/kvm ]; then
  mkdir -p "$dir/dev"
  mount -t tmpfs -o mode=755,nosuid,noexec tmpfs "$dir/dev"
  find /dev -mindepth 1 -maxdepth 1 ! -type d ! -name kvm -exec cp -a -t "$dir/dev" {} +
  for d in /dev/*/; do
    d=${d%/}
    if [ -L "$d" ]; then continue; fi
    mkdir "$dir/dev/${d#/dev/}"
    mount --rbind "$d" "$dir/dev/${d#/dev/}"
  done
  mount --move "$dir/dev" /dev
fi
"$daemon" -d -f "/etc/libvirt/$name.conf" -p "/run/libvirt/$name.pid"
echo $$ > /run/libvirt/reaper.pid
echo started
exec > /dev/null 2>&1 < /dev/null
children=x
while [ -n "$children" ]; do
  sleep 20
  children=
  read -r children < /proc/$$/task/$$/children || :
done
"#;

/// Where the daemon's files are and what it may see.
#[derive(Clone, Debug)]
pub struct DaemonConfig {
    /// Directory of our own daemon.
    pub dir: PathBuf,
    /// A daemon somebody else runs; ours is started only when this is `None`.
    pub socket: Option<PathBuf>,
    pub hide_kvm: bool,
}

/// A daemon that answers.
#[derive(Clone, Debug)]
pub struct Daemon {
    pub socket: PathBuf,
    /// Our own, so that we may restart or stop it.
    pub own: bool,
}

/// Connects, also where the path is longer than a socket address can hold.
pub async fn connect(path: &Path) -> std::io::Result<tokio::net::UnixStream> {
    const MAX: usize = 107;
    let (Some(dir), Some(name), true) = (path.parent(), path.file_name(), path.as_os_str().len() > MAX) else {
        return tokio::net::UnixStream::connect(path).await;
    };
    use std::os::fd::AsRawFd;
    let dir = std::fs::File::open(dir)?;
    let short = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name);
    tokio::net::UnixStream::connect(short).await
}

/// The daemon's program and the name of its files: the monolithic daemon, else the modular one.
fn program() -> Option<(PathBuf, &'static str)> {
    const DIRS: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/usr/local/sbin"];
    ["libvirtd", "virtqemud"]
        .into_iter()
        .find_map(|name| DIRS.iter().map(|d| Path::new(d).join(name)).find(|p| p.exists()).map(|p| (p, name)))
}

fn socket_name(name: &str) -> String {
    if name == "libvirtd" { "libvirt-sock".to_owned() } else { format!("{name}-sock") }
}

/// Finds the configured daemon, or our own, or starts our own.
pub async fn ensure(config: &DaemonConfig, env: &Env) -> Result<Daemon> {
    if let Some(socket) = &config.socket {
        return match connect(socket).await {
            Ok(_) => Ok(Daemon { socket: socket.clone(), own: false }),
            Err(e) => Err(Error::unavailable(format!("No libvirt daemon answers at {}.", socket.display())).caused_by(e)),
        };
    }
    probe::qemu_version().await?;
    let (program, name) = program().ok_or_else(|| Error::unavailable(MISSING))?;
    let socket = config.dir.join("run").join(socket_name(name));
    if connect(&socket).await.is_ok() {
        return Ok(Daemon { socket, own: true });
    }
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::unavailable("Starting libvirt needs root; run as root or name the socket of a running daemon."));
    }
    // Compiled into Debian's driver as its default; the driver does not start without it.
    if matches!(nix::unistd::User::from_name(DRIVER_USER), Ok(None)) {
        return Err(Error::unavailable(NO_USER));
    }
    // A daemon that lives but does not answer is of no use; guests do not depend on it.
    stop(&config.dir).await?;
    prepare(&config.dir, name, env).await?;
    start(config, &program, name).await?;
    match connect(&socket).await {
        Ok(_) => Ok(Daemon { socket, own: true }),
        Err(e) => Err(Error::unavailable("The libvirt daemon was started but does not answer.").caused_by(e)),
    }
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    move |e| Error::internal(format!("cannot prepare {}", path.display())).caused_by(e)
}

async fn prepare(dir: &Path, name: &str, env: &Env) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let run = dir.join("run");
    let stamp = dir.join("boot_id");
    let boot = probe::boot_id().await;
    // What a daemon noted of running guests is void after a reboot of the kernel.
    if tokio::fs::read_to_string(&stamp).await.unwrap_or_default() != boot {
        let _ = tokio::fs::remove_dir_all(&run).await;
    }
    for sub in ["run", "lib", "cache", "log", "etc"] {
        let path = dir.join(sub);
        tokio::fs::create_dir_all(&path).await.map_err(io(&path))?;
    }
    tokio::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).await.map_err(io(dir))?;
    tokio::fs::write(&stamp, boot).await.map_err(io(&stamp))?;
    let uuid_file = dir.join("host_uuid");
    let uuid = match tokio::fs::read_to_string(&uuid_file).await {
        Ok(u) if caelum_base::is_uuid(&u) => u,
        _ => {
            let u = env.uuid();
            tokio::fs::write(&uuid_file, &u).await.map_err(io(&uuid_file))?;
            u
        }
    };
    for (file, text) in [(format!("{name}.conf"), daemon_conf(&uuid, name)), ("qemu.conf".to_owned(), qemu_conf())] {
        let path = dir.join("etc").join(file);
        tokio::fs::write(&path, text).await.map_err(io(&path))?;
    }
    Ok(())
}

fn daemon_conf(uuid: &str, name: &str) -> String {
    format!(
        "unix_sock_dir = \"/run/libvirt\"\nunix_sock_rw_perms = \"0700\"\nunix_sock_ro_perms = \"0700\"\nauth_unix_rw = \"none\"\nauth_unix_ro = \"none\"\n\
         host_uuid = \"{uuid}\"\nmin_workers = 2\nmax_workers = 20\nprio_workers = 2\nkeepalive_interval = 10\nkeepalive_count = 6\n\
         log_level = 3\nlog_outputs = \"3:file:/var/log/libvirt/{name}.log\"\n"
    )
}

/// Guests run as root: their files and taps belong to root and no label has to be changed at each start.
fn qemu_conf() -> String {
    "security_driver = \"none\"\nuser = \"root\"\ngroup = \"root\"\ndynamic_ownership = 0\nremember_owner = 0\n\
     stdio_handler = \"file\"\nnamespaces = []\nvnc_listen = \"127.0.0.1\"\nset_process_name = 1\nmax_core = 0\n"
        .to_owned()
}

async fn start(config: &DaemonConfig, program: &Path, name: &str) -> Result<()> {
    let kvm = if config.hide_kvm { "hide" } else { "keep" };
    let mut command = Command::new("unshare");
    // Slave: file systems mounted on the host later appear inside, ours never appear outside.
    command.args(["--mount", "--propagation", "slave", "/bin/sh", "-c", SCRIPT, "sh"]);
    command.arg(&config.dir).arg(kvm).arg(program).arg(name);
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin").env("LC_ALL", "C");
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped());
    // SAFETY: setsid and prctl are single system calls without memory effects, allowed between fork and exec.
    unsafe {
        command.pre_exec(|| {
            nix::unistd::setsid()?;
            nix::sys::prctl::set_child_subreaper(true)?;
            Ok(())
        });
    }
    let log_path = config.dir.join("log/start.log");
    let log = std::fs::File::create(&log_path).map_err(io(&log_path))?;
    command.stderr(log);
    let mut child = command.spawn().map_err(|e| Error::unavailable("The program unshare (util-linux) cannot be started.").caused_by(e))?;
    let failed = |why: String| {
        let said = std::fs::read_to_string(&log_path).unwrap_or_default();
        Error::unavailable("The libvirt daemon could not be started.").caused_by(format!("{why}: {}", said.trim()))
    };
    let mut said = [0; 8];
    let out = child.stdout.take().ok_or_else(|| Error::internal("no pipe to the daemon's start"))?;
    let started = tokio::time::timeout(START_LIMIT, tokio::io::AsyncReadExt::read_exact(&mut { out }, &mut said)).await;
    match started {
        Ok(Ok(_)) => {
            tracing::info!(program = %program.display(), "started a libvirt daemon");
            Ok(())
        }
        Ok(Err(e)) => Err(failed(e.to_string())),
        Err(_) => {
            let _ = child.start_kill();
            Err(failed("no end within the time limit".to_owned()))
        }
    }
}

/// The process id of our own daemon, if it runs.
pub async fn pid(dir: &Path) -> Option<i32> {
    for name in ["libvirtd", "virtqemud"] {
        let Ok(text) = tokio::fs::read_to_string(dir.join("run").join(format!("{name}.pid"))).await else { continue };
        let Ok(pid) = text.trim().parse::<i32>() else { continue };
        // The number may belong to another process by now: ours sees our files under its root.
        let theirs = format!("/proc/{pid}/root/run/libvirt/{name}.pid");
        let (Ok(a), Ok(b)) = (tokio::fs::metadata(&theirs).await, tokio::fs::metadata(dir.join("run").join(format!("{name}.pid"))).await)
        else {
            continue;
        };
        use std::os::unix::fs::MetadataExt;
        let comm = tokio::fs::read_to_string(format!("/proc/{pid}/comm")).await.unwrap_or_default();
        if a.ino() == b.ino() && a.dev() == b.dev() && comm.trim() == name {
            return Some(pid);
        }
    }
    None
}

/// Ends the reaper of a daemon that is stopped for good, without guests.
pub async fn end_reaper(dir: &Path) {
    use nix::sys::signal::{Signal, kill};
    let text = tokio::fs::read_to_string(dir.join("run/reaper.pid")).await.unwrap_or_default();
    let Ok(number) = text.trim().parse::<i32>() else { return };
    let command = tokio::fs::read(format!("/proc/{number}/cmdline")).await.unwrap_or_default();
    if String::from_utf8_lossy(&command).contains(&*dir.to_string_lossy()) {
        // It may have ended by itself.
        let _ = kill(nix::unistd::Pid::from_raw(number), Signal::SIGTERM);
    }
}

/// Ends our own daemon; guests keep running. No daemon is success.
pub async fn stop(dir: &Path) -> Result<()> {
    use nix::sys::signal::{Signal, kill};
    let Some(number) = pid(dir).await else { return Ok(()) };
    let target = nix::unistd::Pid::from_raw(number);
    for (signal, limit) in [(Signal::SIGTERM, STOP_LIMIT), (Signal::SIGKILL, Duration::from_secs(5))] {
        // The process may have ended in between.
        let _ = kill(target, signal);
        let gone = async {
            while pid(dir).await == Some(number) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(limit, gone).await.is_ok() {
            return Ok(());
        }
    }
    Err(Error::unavailable("The libvirt daemon does not end."))
}
