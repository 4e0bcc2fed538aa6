//! The program: `caelum up` and everything else an operator types.

mod ask;
mod cli;
mod demo;
mod panel;
mod up;

use caelum_base::Result;
use clap::Parser;
use cli::{Cli, Command, ConfigCommand};
use std::process::ExitCode;

/// Requests allocate on many threads at once; the C library's allocator took a fifth of a small upload's time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if !matches!(cli.command, Command::Serve { .. } | Command::Up { detach: false, .. } | Command::Object { .. }) {
        quiet_pipes();
    }
    match run(&cli) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("caelum: {}", e.message);
            ExitCode::FAILURE
        }
    }
}

/// `caelum … | head` ends quietly, as other programs do. Not for the running cloud: a client that goes
/// away must not end it.
fn quiet_pipes() {
    use nix::sys::signal::{SigHandler, Signal, signal};
    // SAFETY: the default action is no handler of ours, and no other thread runs yet.
    if let Err(e) = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) } {
        eprintln!("caelum: {e}");
    }
}

fn run(cli: &Cli) -> Result<ExitCode> {
    match &cli.command {
        Command::Up { detach, run } if *detach => up::detached(run),
        Command::Up { run, .. } => up::foreground(run, true),
        Command::Serve { run } => up::foreground(run, false),
        Command::Down { data, wipe } => up::down(data.as_deref(), *wipe),
        Command::Check { data } => ask::check(data.as_deref()),
        Command::Audit { data, heal } => ask::audit(data.as_deref(), *heal),
        Command::Why { data, id } => ask::why(data.as_deref(), id),
        Command::Config { command } => config(command),
        Command::Demo { data, image, keep } => demo::run(data.as_deref(), image.as_deref(), *keep),
        Command::Ring { args } => Ok(caelum_ring::cli::main(args)),
        Command::Object { swift_dir, config, once, devices, partitions, policies, role } => object(caelum_node::SwiftNode {
            swift_dir: swift_dir.clone(),
            config: config.clone(),
            role: role.clone(),
            once: *once,
            devices: devices.clone(),
            partitions: partitions.clone(),
            policies: policies.clone(),
        }),
        Command::Operations => operations(),
    }
}

fn config(command: &ConfigCommand) -> Result<ExitCode> {
    match command {
        ConfigCommand::Show { run } => {
            let settings = up::settings(run)?;
            for row in settings.config.show() {
                println!("{:32} {:40} {}", row.name, row.value, row.source);
            }
        }
        ConfigCommand::Docs => print!("{}", up::schema()?.docs_markdown()),
        ConfigCommand::Sample => print!("{}", up::schema()?.sample_toml()),
    }
    Ok(ExitCode::SUCCESS)
}

/// One process of a cluster made of Swift's files, until a signal.
fn object(node: caelum_node::SwiftNode) -> Result<ExitCode> {
    up::runtime()?.block_on(async move {
        let (stop, stopped) = tokio::sync::watch::channel(false);
        tokio::spawn(async move {
            up::signalled().await;
            stop.send_replace(true);
        });
        caelum_node::run_swift(node, stopped).await
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Every operation the program serves, one per line, tab-separated: for the coverage table.
fn operations() -> Result<ExitCode> {
    for op in up::runtime()?.block_on(caelum_node::operations())? {
        println!("{}\t{}\t{}\t{}\t{}", op.service, op.method, op.path, op.action.unwrap_or("-"), op.name);
    }
    Ok(ExitCode::SUCCESS)
}
