//! `compose` and `show`: the commands of `swift-ring-composer`.

use super::options::Options;
use super::{DONE, ERROR, Terminal};
use crate::composite::Composite;
use crate::write::{self, Version};
use std::path::{Path, PathBuf};

/// FILE is the composite builder file.
pub(super) fn run(file: &Path, command: &str, args: &[String], terminal: &mut Terminal<'_>) -> u8 {
    let result = if command == "show" { show(file, terminal) } else { compose(file, args) };
    match result {
        Ok(()) => DONE,
        Err(text) => {
            terminal.warn(text);
            ERROR
        }
    }
}

fn show(file: &Path, terminal: &mut Terminal<'_>) -> Result<(), String> {
    let described = Composite::load(file).map_err(|e| e.message)?.describe();
    terminal.say(serde_json::to_string_pretty(&described).map_err(|e| e.to_string())?);
    Ok(())
}

fn compose(file: &Path, args: &[String]) -> Result<(), String> {
    let options = Options::parse(&[('\0', "output", true), ('\0', "force", false)], args)?;
    let output = options.text("output").ok_or("the following arguments are required: --output")?;
    let mut composite = if file.exists() { Composite::load(file).map_err(|e| e.message)? } else { Composite::default() };
    let files: Vec<PathBuf> = options.args.iter().map(PathBuf::from).collect();
    let ring = composite
        .compose(&files, options.flag("force"))
        .map_err(|e| format!("An error occurred while composing the ring.\n{}", e.message))?;
    let wide = ring.devices.len() > usize::from(u16::MAX);
    let version = if wide { Version::Two } else { Version::One };
    write::save(&ring, Path::new(output), version, false).map_err(|e| e.message)?;
    composite.save(file).map_err(|e| e.message)
}
