//! Starting, daemonising and stopping.

use crate::cli::RunArgs;
use crate::panel;
use caelum_base::{Error, Result};
use caelum_config::{Layers, Schema};
use caelum_node::{DataDir, Node, Settings, Summary, admin};
use http::Method;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

/// Longest start that is waited for in the background.
const START_LIMIT: Duration = Duration::from_secs(120);
/// Longest stop.
const STOP_LIMIT: Duration = Duration::from_secs(60);

pub fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|e| Error::unavailable("cannot start threads").caused_by(e))
}

pub fn schema() -> Result<Schema> {
    Schema::new(vec![caelum_node::OPTIONS])
}

/// The data directory: as given, else by user.
pub fn data_path(given: Option<&Path>) -> Result<PathBuf> {
    if let Some(p) = given {
        return Ok(p.to_path_buf());
    }
    if nix::unistd::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/caelum"));
    }
    let home = std::env::var_os("HOME").ok_or_else(|| Error::invalid("HOME is not set; name a data directory with --data"))?;
    Ok(PathBuf::from(home).join(".local/share/caelum"))
}

/// Reads configuration from all layers.
pub fn settings(run: &RunArgs) -> Result<Settings> {
    let data = data_path(run.data.as_deref())?;
    let file = run.config.clone().or_else(|| Some(data.join("caelum.toml")).filter(|p| p.exists()));
    let mut layers = Layers::new();
    if let Some(path) = &file {
        let text = fs::read_to_string(path).map_err(|e| Error::invalid(format!("cannot read {}: {e}", path.display())))?;
        layers = layers.file(path.display().to_string(), text);
    }
    // These choose directories and files, or belong to the tests, and are no options.
    let own = |k: &str| {
        k.starts_with("CAELUM_")
            && !k.starts_with("CAELUM_TEST_")
            && !matches!(k, "CAELUM_DATA" | "CAELUM_CONFIG" | "CAELUM_CACHE" | "CAELUM_PROGRAM")
    };
    let env = std::env::vars().filter(|(k, _)| own(k));
    let mut cli = Vec::new();
    if let Some(h) = &run.hypervisor {
        cli.push(("hypervisor.driver".to_string(), h.clone()));
    }
    if let Some(l) = &run.listen {
        cli.push(("api.listen".to_string(), l.clone()));
    }
    for pair in &run.set {
        let (k, v) = pair.split_once('=').ok_or_else(|| Error::invalid(format!("--set wants KEY=VALUE, not {pair}")))?;
        cli.push((k.to_string(), v.to_string()));
    }
    let config = schema()?.load(&layers.env(env).cli(cli))?;
    Ok(Settings { data: DataDir::open(&data)?, config })
}

/// Runs the cloud in this process until a signal or `caelum down`.
pub fn foreground(run: &RunArgs, panel: bool) -> Result<ExitCode> {
    let settings = settings(run)?;
    let data = settings.data.clone();
    if panel && let Some(s) = running(&data)? {
        println!("Caelum is already running.\n{}", panel::text(&s));
        return Ok(ExitCode::SUCCESS);
    }
    let started = Instant::now();
    let progress_file = data.join("run/progress");
    let progress = move |line: &str| {
        println!("[{:5.1} s] {line}", started.elapsed().as_secs_f64());
        // The parent of a detached start reads this file; a foreground start does not need it.
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&progress_file);
        if let Ok(mut f) = file {
            let _ = writeln!(f, "{line}");
        }
    };
    runtime()?.block_on(async move {
        let node = Node::start(settings, &progress).await?;
        if panel {
            println!("{}", panel::text(&node.summary()));
        }
        wait_for_end(&node).await?;
        node.stop(Duration::from_secs(20)).await;
        Ok(ExitCode::SUCCESS)
    })
}

async fn wait_for_end(node: &Node) -> Result<()> {
    let fail = |e: std::io::Error| Error::unavailable("signals").caused_by(e);
    let mut term = signal(SignalKind::terminate()).map_err(fail)?;
    let mut int = signal(SignalKind::interrupt()).map_err(fail)?;
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
        () = node.stop_requested() => {}
    }
    Ok(())
}

/// Resolves at SIGTERM or SIGINT; at once when the program cannot hear them.
pub async fn signalled() {
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else { return };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}

/// The running program's summary, if one runs on this data directory.
fn running(data: &DataDir) -> Result<Option<Summary>> {
    let socket = data.join("run/admin.sock");
    if !socket.exists() {
        return Ok(None);
    }
    match runtime()?.block_on(admin::ask(&socket, Method::GET, "/summary")) {
        Ok(v) => serde_json::from_value(v).map(Some).map_err(|e| Error::internal("summary").caused_by(e)),
        Err(_) => Ok(None),
    }
}

/// Starts the cloud in the background and returns when it answers.
pub fn detached(run: &RunArgs) -> Result<ExitCode> {
    let settings = settings(run)?;
    let data = settings.data;
    if let Some(s) = running(&data)? {
        println!("Caelum is already running.\n{}", panel::text(&s));
        return Ok(ExitCode::SUCCESS);
    }
    let progress = data.join("run/progress");
    // A line of an earlier start must not be taken for one of this start.
    let _ = fs::remove_file(&progress);
    let log_path = data.join("log/caelum.log");
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(&log_path);
    let log = log.map_err(|e| Error::unavailable(format!("cannot write {}: {e}", log_path.display())))?;
    let errors = log.try_clone().map_err(|e| Error::unavailable("log file").caused_by(e))?;
    let program = std::env::current_exe().map_err(|e| Error::unavailable("own program").caused_by(e))?;
    let mut command = Command::new(program);
    command.arg("serve").arg("--data").arg(data.root());
    for (flag, value) in [("--hypervisor", &run.hypervisor), ("--listen", &run.listen)] {
        if let Some(v) = value {
            command.arg(flag).arg(v);
        }
    }
    if let Some(c) = &run.config {
        command.arg("--config").arg(c);
    }
    for s in &run.set {
        command.arg("--set").arg(s);
    }
    command.stdin(Stdio::null()).stdout(Stdio::from(log)).stderr(Stdio::from(errors)).process_group(0);
    let mut child = command.spawn().map_err(|e| Error::unavailable(format!("cannot start: {e}")))?;
    watch(&data, &mut child, &progress, &log_path)
}

fn watch(data: &DataDir, child: &mut std::process::Child, progress: &Path, log: &Path) -> Result<ExitCode> {
    let started = Instant::now();
    let mut shown = 0;
    loop {
        let text = fs::read_to_string(progress).unwrap_or_default();
        for line in text.lines().skip(shown) {
            println!("[{:5.1} s] {line}", started.elapsed().as_secs_f64());
            shown += 1;
        }
        if let Some(s) = running(data)? {
            println!("{}", panel::text(&s));
            return Ok(ExitCode::SUCCESS);
        }
        if let Ok(Some(_)) = child.try_wait() {
            let tail = fs::read_to_string(log).unwrap_or_default();
            let reason = tail.lines().rev().find_map(|l| l.strip_prefix("caelum: ")).unwrap_or("it ended at once").to_string();
            return Err(Error::unavailable(format!("the start failed: {reason}\n  log: {}", log.display())));
        }
        if started.elapsed() > START_LIMIT {
            return Err(Error::timeout(format!("no answer after {} s; see {}", START_LIMIT.as_secs(), log.display())));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Stops the services; with `wipe`, removes everything.
pub fn down(data: Option<&Path>, wipe: bool) -> Result<ExitCode> {
    let path = data_path(data)?;
    if !path.exists() {
        println!("Nothing to stop: {} does not exist.", path.display());
        return Ok(ExitCode::SUCCESS);
    }
    let data = DataDir::open(&path)?;
    let was_running = running(&data)?.is_some();
    if was_running {
        let socket = data.join("run/admin.sock");
        runtime()?.block_on(admin::ask(&socket, Method::POST, "/stop"))?;
        let started = Instant::now();
        while caelum_node::is_locked(&data) {
            if started.elapsed() > STOP_LIMIT {
                return Err(Error::timeout("the program did not stop in time"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    if wipe {
        let settings = settings(&RunArgs { data: Some(path.clone()), ..RunArgs::default() })?;
        runtime()?.block_on(caelum_node::wipe(&settings))?;
        fs::remove_dir_all(&path).map_err(|e| Error::unavailable(format!("cannot remove {}: {e}", path.display())))?;
        println!("Everything of this cloud is gone.");
    } else if was_running {
        println!("Stopped. Guests go on running; caelum up finds them again.");
    } else {
        println!("Caelum was not running.");
    }
    Ok(ExitCode::SUCCESS)
}
