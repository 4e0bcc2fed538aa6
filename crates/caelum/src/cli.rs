use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// A cloud in one program: OpenStack's APIs, nothing to assemble.
#[derive(Parser)]
#[command(name = "caelum", version, about)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Start the whole cloud.
    Up {
        /// Return when the cloud answers; it goes on in the background.
        #[arg(short, long)]
        detach: bool,
        #[command(flatten)]
        run: RunArgs,
    },
    /// Run in the foreground without the panel, for a service manager.
    Serve {
        #[command(flatten)]
        run: RunArgs,
    },
    /// Stop the services; guests go on running and are found again by the next start.
    Down {
        #[arg(long, env = "CAELUM_DATA")]
        data: Option<PathBuf>,
        /// Also destroy every guest, network and volume, and remove the data directory.
        #[arg(long)]
        wipe: bool,
    },
    /// Ask every service for its health.
    Check {
        #[arg(long, env = "CAELUM_DATA")]
        data: Option<PathBuf>,
    },
    /// Look for anything leaked or stuck: rows, allocations, ports, volumes, things on the host.
    Audit {
        #[arg(long, env = "CAELUM_DATA")]
        data: Option<PathBuf>,
        /// Repair what was found.
        #[arg(long)]
        heal: bool,
    },
    /// Tell what happened to a resource.
    Why {
        #[arg(long, env = "CAELUM_DATA")]
        data: Option<PathBuf>,
        /// Id of a server.
        id: String,
    },
    /// Show the options in force, or their reference.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Boot a guest and reach it, as a first user would.
    Demo {
        #[arg(long, env = "CAELUM_DATA")]
        data: Option<PathBuf>,
        /// A qcow2 guest image to upload when the cloud has none.
        #[arg(long)]
        image: Option<PathBuf>,
        /// Leave the guest running.
        #[arg(long)]
        keep: bool,
    },
    /// Make and inspect object storage rings, with the commands of swift-ring-builder.
    #[command(disable_help_flag = true)]
    Ring {
        /// BUILDER_FILE [COMMAND …]; none: the list of commands
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run one process of an object storage cluster that is made of Swift's own files.
    Object {
        /// Directory of swift.conf and the ring files.
        #[arg(long, default_value = "/etc/swift")]
        swift_dir: PathBuf,
        /// The role's configuration file [default: the one of its name in the directory]
        #[arg(long)]
        config: Option<PathBuf>,
        /// Daemons: one pass, then end.
        #[arg(long)]
        once: bool,
        /// Object daemons: only these devices of this node, separated by commas
        #[arg(long, value_delimiter = ',')]
        devices: Vec<String>,
        /// Object daemons: only these partitions
        #[arg(long, value_delimiter = ',')]
        partitions: Vec<u32>,
        /// Object daemons: only the storage policies of these numbers
        #[arg(long, value_delimiter = ',')]
        policies: Vec<u32>,
        /// proxy, account-server, container-server, object-server, or a daemon such as object-replicator
        role: String,
    },
    /// List every API operation served.
    #[command(hide = true)]
    Operations,
}

#[derive(Subcommand)]
pub enum ConfigCommand {
    /// Every option with its value and where the value comes from.
    Show {
        #[command(flatten)]
        run: RunArgs,
    },
    /// The reference of all options, in Markdown.
    Docs,
    /// A commented configuration file.
    Sample,
}

#[derive(Args, Clone, Debug, Default)]
pub struct RunArgs {
    /// Data directory [default: /var/lib/caelum for root, else ~/.local/share/caelum]
    #[arg(long, env = "CAELUM_DATA")]
    pub data: Option<PathBuf>,
    /// Configuration file [default: DATA/caelum.toml if it exists]
    #[arg(long, env = "CAELUM_CONFIG")]
    pub config: Option<PathBuf>,
    /// What runs guests: libvirt or sim
    #[arg(long)]
    pub hypervisor: Option<String>,
    /// Address and port of the front door
    #[arg(long)]
    pub listen: Option<String>,
    /// Any option: --set store.url=… (see `caelum config docs`)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}
