//! House rules as a test: sizes of files and functions, direction of crate dependencies, reasons
//! for lint exceptions, things that must not appear in code.

mod scan;

pub use scan::{Function, functions, strip};

use std::fs;
use std::path::{Path, PathBuf};

/// Longest Rust file in lines.
pub const MAX_FILE_LINES: usize = 1_000;
/// Longest function in lines, braces included.
pub const MAX_FN_LINES: usize = 70;

const KIT: &[&str] = &["base", "safeio", "config", "store", "bus", "policy", "flow", "reconcile", "rest", "client"];

const SERVICES: &[&str] = &["identity", "image", "placement", "compute", "network", "block", "hypervisor", "netplane"];

const OBJECT: &[&str] = &["swiftkit", "ring", "erasure", "diskfile", "broker", "objserver", "consistency", "object", "s3"];

/// Crates of this workspace that a crate may depend on (ARCHITECTURE.md, map).
pub fn allowed(krate: &str) -> Vec<&'static str> {
    let with = |extra: &[&'static str]| KIT.iter().copied().chain(extra.iter().copied()).collect();
    match krate {
        "base" | "tidy" => vec![],
        "safeio" | "config" | "store" | "bus" | "policy" => vec!["base"],
        "flow" | "reconcile" => vec!["base", "store"],
        "rest" => vec!["base", "policy"],
        "client" => vec!["base", "policy", "rest"],
        "hypervisor" | "netplane" => vec!["base", "safeio"],
        "identity" | "image" | "placement" | "block" => with(&[]),
        "compute" => with(&["hypervisor"]),
        "network" => with(&["netplane"]),
        "swiftkit" => vec!["base", "rest"],
        "ring" => vec!["base", "swiftkit"],
        "erasure" => vec!["base"],
        "diskfile" | "broker" => vec!["base", "swiftkit"],
        "objserver" => vec!["base", "rest", "swiftkit", "ring", "erasure", "diskfile", "broker"],
        "consistency" => vec!["base", "rest", "swiftkit", "ring", "erasure", "diskfile", "broker", "objserver"],
        "object" => with(&["swiftkit", "ring", "erasure"]),
        "s3" => with(&["swiftkit", "object"]),
        "node" => [with(SERVICES), OBJECT.to_vec()].concat(),
        "testkit" | "caelum" => [with(SERVICES), OBJECT.to_vec(), vec!["node", "testkit"]].concat(),
        _ => vec![],
    }
}

/// All files below `dir` with this extension, sorted; build output and hidden folders are left out.
pub fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut out = Vec::new();
    let mut todo = vec![dir.to_path_buf()];
    while let Some(d) = todo.pop() {
        for entry in fs::read_dir(&d).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if path.is_dir() && name != "target" && name != "node_modules" && !name.starts_with('.') {
                todo.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                out.push(path);
            }
        }
    }
    out.sort();
    out
}

/// The workspace's root.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}
