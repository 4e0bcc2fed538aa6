//! `caelum ring`: the commands, texts and exit codes of `swift-ring-builder`, for operators and for the
//! scripts they have. Exit codes: 0 done, 1 done with a warning, 2 error. Source: Swift's manual page
//! `swift-ring-builder(1)`.

mod address;
mod composite;
mod devices;
mod options;
mod partpower;
mod show;

use crate::builder::{self, Builder};
use crate::write::{self, Version};
use caelum_base::{Clock, ErrorKind, Rng, SystemClock, SystemRng};
use options::Options;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const DONE: u8 = 0;
const WARNING: u8 = 1;
const ERROR: u8 = 2;

/// Where a command reads and writes.
pub struct Terminal<'a> {
    pub out: &'a mut dyn Write,
    pub err: &'a mut dyn Write,
    /// A line the operator types; `None` at the end of input.
    pub answer: &'a mut dyn FnMut() -> Option<String>,
    /// Seconds since 1970.
    pub now: i64,
    pub rng: &'a dyn Rng,
}

impl Terminal<'_> {
    /// A closed pipe is the reader's choice.
    fn say(&mut self, line: impl AsRef<str>) {
        let _ = writeln!(self.out, "{}", line.as_ref());
    }

    fn warn(&mut self, line: impl AsRef<str>) {
        let _ = writeln!(self.err, "{}", line.as_ref());
    }
}

/// A command's exit code, or what to print before exit code 2.
type Outcome = Result<u8, String>;

/// One invocation.
struct Run<'a, 't> {
    terminal: &'a mut Terminal<'t>,
    builder_file: PathBuf,
    ring_file: PathBuf,
    builder: Builder,
    /// Everything after the command.
    args: &'a [String],
}

const USAGE: &str = "\
caelum ring BUILDER_FILE [COMMAND …]
    create PART_POWER REPLICAS MIN_PART_HOURS
    add [rREGION]zZONE-IP:PORT[RIP:RPORT]/DEVICE[_META] WEIGHT …
    add --region N --zone N --ip IP --port N --device NAME --weight W [--replication-ip IP] [--replication-port N] [--meta TEXT]
    set_weight SEARCH WEIGHT …      set_region SEARCH REGION …      set_zone SEARCH ZONE …      [--yes]
    set_info SEARCH [IP][:PORT][R[RIP][:RPORT]][/DEVICE][_META] … [--yes]
    remove SEARCH … [--yes]
    search SEARCH        list_parts SEARCH …
    rebalance [SEED] [--force] [--seed SEED] [--format-version 1|2]
    dispersion [REGEX] [--recalculate] [--verbose]
    validate        pretend_min_part_hours_passed        set_min_part_hours HOURS
    set_replicas N[.N]        set_overload N[.N][%]
    write_ring [--format-version 1|2] [--dev-id-bytes 2|4]
    write_builder [MIN_PART_HOURS]        version
    prepare_increase_partition_power        increase_partition_power
    cancel_increase_partition_power         finish_increase_partition_power
caelum ring COMPOSITE_FILE compose BUILDER_FILE BUILDER_FILE … --output RING_FILE [--force]
caelum ring COMPOSITE_FILE show

SEARCH: d<id>r<region>z<zone>-<ip>:<port>R<replication ip>:<replication port>/<device>_<meta>, any part of it, or the
options of add. Without a command: what the builder holds.
Exit codes: 0 done, 1 done with warnings, 2 error";

/// Runs a command line on the process's own streams, clock and randomness.
pub fn main(argv: &[String]) -> ExitCode {
    let mut answer = || {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).ok().filter(|n| *n > 0).map(|_| line)
    };
    let mut terminal = Terminal {
        out: &mut std::io::stdout().lock(),
        err: &mut std::io::stderr().lock(),
        answer: &mut answer,
        now: SystemClock.now().secs(),
        rng: &SystemRng,
    };
    ExitCode::from(run(argv, &mut terminal))
}

/// Runs a command line without the program's name: builder or ring file, command, arguments.
pub fn run(argv: &[String], terminal: &mut Terminal<'_>) -> u8 {
    let Some(file) = argv.first() else {
        terminal.say(USAGE);
        return DONE;
    };
    let command = argv.get(1).map_or("", String::as_str);
    if matches!(command, "compose" | "show") {
        return composite::run(Path::new(file), command, argv.get(2..).unwrap_or(&[]), terminal);
    }
    let (builder_file, ring_file) = file_names(file);
    if builder_file != Path::new(file) && !matches!(command, "write_builder" | "version") {
        terminal.say(format!("Note: using {} instead of {file} as builder file", builder_file.display()));
    }
    let builder = match builder::load(&builder_file) {
        Ok(b) => b,
        Err(e)
            if matches!(e.kind, ErrorKind::NotFound | ErrorKind::Forbidden)
                && matches!(command, "create" | "write_builder" | "version") =>
        {
            // A place holder: these commands do not read it.
            match Builder::new(0, 1.0, 0) {
                Ok(b) => b,
                Err(_) => return ERROR,
            }
        }
        Err(e) => {
            terminal.say(&e.message);
            return ERROR;
        }
    };
    let args = argv.get(2..).unwrap_or(&[]);
    let mut run = Run { terminal, builder_file, ring_file, builder, args };
    match run.command(command) {
        Ok(code) => code,
        Err(text) => {
            run.terminal.say(text);
            ERROR
        }
    }
}

/// Builder and ring file from either's name.
fn file_names(file: &str) -> (PathBuf, PathBuf) {
    if let Some(stem) = file.strip_suffix(".ring.gz") {
        return (format!("{stem}.builder").into(), file.into());
    }
    let stem = file.strip_suffix(".builder").unwrap_or(file);
    (file.into(), format!("{stem}.ring.gz").into())
}

impl Run<'_, '_> {
    fn command(&mut self, command: &str) -> Outcome {
        self.make_backup_dir()?;
        match command {
            "" | "default" => self.show(),
            "create" => self.create(),
            "add" => self.add(),
            "set_weight" => self.set_weight(),
            "set_region" => self.set_region(),
            "set_zone" => self.set_zone(),
            "set_info" => self.set_info(),
            "remove" => self.remove(),
            "search" => self.search(),
            "list_parts" => self.list_parts(),
            "rebalance" => self.rebalance(),
            "dispersion" => self.dispersion(),
            "validate" => self.builder.validate().map(|()| DONE).map_err(|e| e.message),
            "pretend_min_part_hours_passed" => {
                self.builder.pretend_min_part_hours_passed();
                self.save()
            }
            "set_min_part_hours" => self.set_min_part_hours(),
            "set_replicas" => self.set_replicas(),
            "set_overload" => self.set_overload(),
            "write_ring" => self.write_ring(),
            "write_builder" => self.write_builder(),
            "version" => self.version(),
            "prepare_increase_partition_power" => self.prepare_increase(),
            "increase_partition_power" => self.increase(),
            "cancel_increase_partition_power" => self.cancel_increase(),
            "finish_increase_partition_power" => self.finish_increase(),
            other => Err(format!("Unknown command: {other}")),
        }
    }

    fn usage<T>(&self, command: &str) -> Result<T, String> {
        let lines: Vec<&str> = USAGE.lines().filter(|l| l.contains(command)).collect();
        Err(lines.join("\n"))
    }

    fn need(&self, n: usize, command: &str) -> Result<(), String> {
        if self.args.len() < n { self.usage(command) } else { Ok(()) }
    }

    fn backup_dir(&self) -> PathBuf {
        self.builder_file.parent().unwrap_or(Path::new("")).join("backups")
    }

    fn make_backup_dir(&self) -> Result<(), String> {
        match std::fs::create_dir(self.backup_dir()) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(format!("{}: {e}", self.backup_dir().display())),
            _ => Ok(()),
        }
    }

    fn backup(&self, of: &Path) -> PathBuf {
        let name = of.file_name().and_then(|n| n.to_str()).unwrap_or("ring");
        self.backup_dir().join(format!("{}.{name}", self.terminal.now))
    }

    fn save(&mut self) -> Outcome {
        builder::save(&mut self.builder, &self.builder_file).map(|()| DONE).map_err(|e| e.message)
    }

    fn save_backup(&mut self) -> Outcome {
        let path = self.backup(&self.builder_file);
        builder::save(&mut self.builder, &path).map(|()| DONE).map_err(|e| e.message)
    }

    fn create(&mut self) -> Outcome {
        self.need(3, "create")?;
        let int = |s: &String| s.parse::<i64>().map_err(|_| format!("invalid literal for int() with base 10: '{s}'"));
        let replicas = float(&self.args[1])?;
        self.builder = Builder::new(int(&self.args[0])?, replicas, int(&self.args[2])?).map_err(|e| e.message)?;
        self.save_backup()?;
        self.save()
    }

    fn set_min_part_hours(&mut self) -> Outcome {
        self.need(1, "set_min_part_hours")?;
        let hours = &self.args[0];
        self.builder.min_part_hours =
            hours.parse().ok().filter(|h| *h >= 0).ok_or_else(|| format!("\"{hours}\" is not a valid number."))?;
        self.terminal.say(format!("The minimum number of hours before a partition can be reassigned is now set to {hours}"));
        self.save()
    }

    fn set_replicas(&mut self) -> Outcome {
        self.need(1, "set_replicas")?;
        let text = &self.args[0];
        let Ok(replicas) = text.parse::<f64>() else { return Err(format!("\"{text}\" is not a valid number.")) };
        if replicas.is_nan() || replicas < 1.0 {
            return Err("Replica count must be at least 1.".into());
        }
        self.builder.set_replicas(replicas);
        self.terminal.say(format!("The replica count is now {replicas:.6}."));
        self.terminal.say("The change will take effect after the next rebalance.");
        self.save()
    }

    fn set_overload(&mut self) -> Outcome {
        self.need(1, "set_overload")?;
        let text = &self.args[0];
        let percent = text.ends_with('%');
        let number = text.trim_end_matches('%');
        let Ok(mut overload) = number.parse::<f64>() else {
            return Err(format!("{} is not a valid number.", caelum_swiftkit::python::repr(number)));
        };
        if percent {
            overload *= 0.01;
        }
        if overload.is_nan() || overload < 0.0 {
            return Err("Overload must be non-negative.".into());
        }
        let mut code = DONE;
        if overload > 1.0 && !percent {
            self.terminal.say("!?! Warning overload is greater than 100% !?!");
            code = WARNING;
        }
        self.builder.overload = overload;
        self.terminal.say(format!("The overload factor is now {:.2}% ({overload:.6})", overload * 100.0));
        self.terminal.say("The change will take effect after the next rebalance.");
        self.save()?;
        Ok(code)
    }

    fn format(options: &Options) -> Result<Version, String> {
        match options.text("format-version") {
            // What every release of upstream reads.
            None | Some("1") => Ok(Version::One),
            Some("2") => Ok(Version::Two),
            Some(v) => Err(format!("option --format-version: invalid choice: '{v}' (choose from '1', '2')")),
        }
    }

    fn save_ring(&self, version: Version, wide: bool) -> Result<(), String> {
        let ring = self.builder.ring();
        for path in [self.backup(&self.ring_file), self.ring_file.clone()] {
            write::save(&ring, &path, version, wide).map_err(|e| e.message)?;
        }
        Ok(())
    }

    fn write_ring(&mut self) -> Outcome {
        let options = Options::parse(&[('\0', "format-version", true), ('\0', "dev-id-bytes", true)], self.args)?;
        let version = Self::format(&options)?;
        let wide = match options.text("dev-id-bytes") {
            None | Some("2") => false,
            Some("4") => true,
            Some(v) => return Err(format!("option --dev-id-bytes: invalid choice: '{v}' (choose from '2', '4')")),
        };
        if self.builder.devices.is_empty() {
            return Err("Unable to write empty ring.".into());
        }
        if self.builder.assignment.is_empty() {
            self.terminal
                .warn("WARNING: Writing a ring with no partition assignments but with devices; did you forget to run \"rebalance\"?");
        }
        self.save_ring(version, wide)?;
        Ok(DONE)
    }

    fn write_builder(&mut self) -> Outcome {
        if self.builder_file.exists() {
            return Err(format!("Cowardly refusing to overwrite existing Ring Builder file: {}", self.builder_file.display()));
        }
        let hours = match self.args.first() {
            Some(text) => text.parse().map_err(|_| format!("invalid literal for int() with base 10: '{text}'"))?,
            None => {
                self.terminal.warn("WARNING: default min_part_hours may not match the value in the lost builder.\n");
                24
            }
        };
        let ring = crate::file::load(&self.ring_file).map_err(|e| e.message)?;
        self.builder = Builder::from_ring(&ring, hours).map_err(|e| e.message)?;
        self.save()
    }

    fn version(&mut self) -> Outcome {
        let (version, id_bytes, ring) = crate::file::describe(&self.ring_file).map_err(|e| e.message)?;
        self.terminal.say(format!(
            "{}: Serialization version: {version} ({id_bytes}-byte IDs), build version: {}",
            self.ring_file.display(),
            ring.version
        ));
        Ok(DONE)
    }

    fn rebalance(&mut self) -> Outcome {
        let known = [('f', "force", false), ('s', "seed", true), ('d', "debug", false), ('\0', "format-version", true)];
        let options = Options::parse(&known, self.args)?;
        let version = Self::format(&options)?;
        if self.builder.next_part_power.is_some() {
            return Err("Partition power increase in progress.\nYou need to finish the increase first before rebalancing.".into());
        }
        let seed = options.text("seed").or(options.args.first().map(String::as_str)).filter(|s| !s.is_empty());
        let (changed_before, left) = (self.builder.devices_changed, self.builder.min_part_seconds_left(self.terminal.now));
        let (last_balance, last_dispersion) = (self.builder.balance().map_err(failed)?, self.builder.dispersion);
        let seeded = seed.map(seeded);
        let rng = seeded.as_ref().map_or(self.terminal.rng, |r| r as &dyn Rng);
        let done = self.builder.rebalance(rng, self.terminal.now).map_err(failed)?;
        let force = options.flag("force");
        if done.changed == 0 && done.removed_devices == 0 && !force {
            self.nothing_moved(left);
            return Ok(WARNING);
        }
        let dispersion = self.builder.dispersion.unwrap_or(0.0);
        let better = (last_balance - done.balance).abs() >= 1.0
            || last_balance == builder::MAX_BALANCE && done.balance == builder::MAX_BALANCE
            || last_dispersion.is_none_or(|d| (d - dispersion).abs() >= 1.0);
        if !(force || changed_before || better) {
            self.terminal.say("Cowardly refusing to save rebalance as it did not change at least 1%.");
            return Ok(WARNING);
        }
        self.builder.validate().map_err(failed)?;
        self.terminal.say(format!(
            "Reassigned {} ({:.2}%) partitions. Balance is now {:.2}.  Dispersion is now {dispersion:.2}",
            done.changed,
            100.0 * done.changed as f64 / self.builder.parts() as f64,
            done.balance,
        ));
        let code = self.advise(dispersion, done.balance);
        self.save_ring(version, false)?;
        self.save_backup()?;
        self.save()?;
        Ok(code)
    }

    fn nothing_moved(&mut self, seconds_left: i64) {
        self.terminal.say("No partitions could be reassigned.");
        self.terminal.say(if seconds_left > 0 {
            format!(
                "The time between rebalances must be at least min_part_hours: {} hours ({} remaining)",
                self.builder.min_part_hours,
                crate::python::duration(self.builder.min_part_seconds_left(self.terminal.now))
            )
        } else {
            "There is no need to do so at this time".into()
        });
    }

    fn advise(&mut self, dispersion: f64, balance: f64) -> u8 {
        let note = if dispersion > 0.0 {
            format!(
                "NOTE: Dispersion of {dispersion:.6} indicates some parts are not\n      optimally dispersed.\n\n      Adjust \
                 weights, raise the overload or look at the dispersion report."
            )
        } else if balance > 5.0 && balance / 100.0 > self.builder.overload {
            format!(
                "NOTE: Balance of {balance:.2} indicates you should push this \n      ring, wait at least {} hours, and \
                 rebalance/repush.",
                self.builder.min_part_hours
            )
        } else {
            return DONE;
        };
        let line = "-".repeat(79);
        self.terminal.say(format!("{line}\n{note}\n{line}"));
        WARNING
    }
}

fn failed(e: caelum_base::Error) -> String {
    let line = "-".repeat(79);
    format!(
        "{line}\nAn error has occurred during ring validation: the ring may be empty or have too few\ndevices for its \
         replica count.\nOriginal exception message:\n {}\n{line}",
        e.message
    )
}

/// The same seed gives the same ring.
fn seeded(text: &str) -> caelum_base::SeededRng {
    use md5::{Digest, Md5};
    let digest: [u8; 16] = Md5::digest(text.as_bytes()).into();
    caelum_base::SeededRng::new(digest.iter().take(8).fold(0, |acc, b| acc << 8 | u64::from(*b)))
}

fn float(text: &str) -> Result<f64, String> {
    text.trim()
        .parse::<f64>()
        .ok()
        .filter(|f| f.is_finite())
        .ok_or_else(|| format!("could not convert string to float: {}", caelum_swiftkit::python::repr(text)))
}
