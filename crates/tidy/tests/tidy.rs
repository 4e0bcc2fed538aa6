//! The house rules, applied to the workspace.

use caelum_tidy::{MAX_FILE_LINES, MAX_FN_LINES, allowed, files, functions, root, strip};
use std::fs;
use std::path::Path;

fn sources() -> Vec<(String, String)> {
    let root = root();
    let list = files(&root.join("crates"), "rs");
    assert!(list.len() > 20, "the scan must find the workspace's sources");
    let read = |p: &Path| (p.strip_prefix(&root).unwrap_or(p).display().to_string(), fs::read_to_string(p).expect("readable source"));
    list.iter().map(|p| read(p)).collect()
}

fn report(mut findings: Vec<String>) {
    findings.sort();
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

#[test]
fn files_are_not_too_long() {
    let long = sources().into_iter().filter(|(_, s)| s.lines().count() > MAX_FILE_LINES);
    report(long.map(|(p, s)| format!("{p}: {} lines, {MAX_FILE_LINES} allowed", s.lines().count())).collect());
}

#[test]
fn functions_are_not_too_long() {
    let mut found = Vec::new();
    for (path, source) in sources() {
        for f in functions(&source).into_iter().filter(|f| f.lines > MAX_FN_LINES) {
            found.push(format!("{path}:{}: fn {} has {} lines, {MAX_FN_LINES} allowed", f.line, f.name, f.lines));
        }
    }
    report(found);
}

#[test]
fn crates_depend_only_downwards() {
    let mut found = Vec::new();
    for entry in fs::read_dir(root().join("crates")).expect("crates").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(manifest) = fs::read_to_string(entry.path().join("Cargo.toml")) else { continue };
        let runtime = manifest.split("[dev-dependencies]").next().unwrap_or("");
        for line in runtime.lines() {
            let Some(dep) = line.strip_prefix("caelum-").and_then(|l| l.split(['.', ' ', '=']).next()) else { continue };
            if !allowed(&name).contains(&dep) {
                found.push(format!("crates/{name} may not depend on {dep}"));
            }
        }
    }
    report(found);
}

#[test]
fn lint_exceptions_give_a_reason() {
    let mut found = Vec::new();
    for (path, source) in sources().into_iter().filter(|(p, _)| !p.contains("crates/tidy/")) {
        let lines: Vec<&str> = source.lines().collect();
        for (i, line) in lines.iter().enumerate().filter(|(_, l)| l.contains("#[allow(") || l.contains("#![allow(")) {
            let before = i > 0 && lines[i - 1].trim_start().starts_with("//");
            if !before && !line.contains("reason") && !line.contains("//") {
                found.push(format!("{path}:{}: lint exception without a reason", i + 1));
            }
        }
    }
    report(found);
}

#[test]
fn forbidden_things_do_not_appear() {
    let rules: &[(&str, &[&str])] = &[
        ("#[ignore", &[]),
        ("SystemTime::now", &["crates/base/src/clock.rs"]),
        ("thread_rng", &[]),
        ("danger_accept_invalid", &[]),
        ("println!", &["crates/caelum/", "/src/bin/", "tests.rs", "/examples/", "/tests/", "/benches/"]),
    ];
    let mut found = Vec::new();
    for (path, source) in sources().into_iter().filter(|(p, _)| !p.contains("crates/tidy/")) {
        let clean = strip(&source);
        for (word, places) in rules {
            // `eprintln!` contains `println!` and is as unwelcome in libraries.
            if clean.contains(word) && !places.iter().any(|p| path.contains(p)) {
                found.push(format!("{path}: {word}"));
            }
        }
    }
    report(found);
}

#[test]
fn unwanted_crates_stay_out_of_the_lock_file() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).expect("Cargo.lock");
    let banned = ["openssl-sys", "native-tls", "aws-lc-rs", "aws-lc-sys", "fernet", "virt", "virt-sys", "sqlx", "reqwest"];
    report(banned.iter().filter(|b| lock.contains(&format!("name = \"{b}\"\n"))).map(|b| format!("Cargo.lock contains {b}")).collect());
}
