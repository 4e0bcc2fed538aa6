//! Questions to the running program over its own socket.

use crate::up::{data_path, runtime};
use caelum_base::Result;
use caelum_node::admin;
use http::Method;
use serde_json::Value;
use std::path::Path;
use std::process::ExitCode;

fn ask(data: Option<&Path>, method: Method, path: &str) -> Result<Value> {
    let socket = data_path(data)?.join("run/admin.sock");
    runtime()?.block_on(admin::ask(&socket, method, path))
}

/// Prints one line per check; fails when one does.
pub fn check(data: Option<&Path>) -> Result<ExitCode> {
    let answer = ask(data, Method::GET, "/check")?;
    let mut all = true;
    for row in answer["checks"].as_array().into_iter().flatten() {
        let ok = row["ok"].as_bool().unwrap_or(false);
        all &= ok;
        println!("{:4} {:16} {}", if ok { "ok" } else { "FAIL" }, row["name"].as_str().unwrap_or(""), row["detail"].as_str().unwrap_or(""));
    }
    Ok(if all { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints one line per finding; fails when there are any.
pub fn audit(data: Option<&Path>, heal: bool) -> Result<ExitCode> {
    let answer = ask(data, Method::POST, if heal { "/audit?heal=true" } else { "/audit" })?;
    let findings: Vec<&str> = answer["findings"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for line in &findings {
        println!("{line}");
    }
    match findings.len() {
        0 => println!("nothing stuck, nothing leaked"),
        n if heal => println!("{n} findings, healed"),
        n => println!("{n} findings; caelum audit --heal repairs them"),
    }
    Ok(if findings.is_empty() || heal { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints what happened to a resource, oldest first.
pub fn why(data: Option<&Path>, id: &str) -> Result<ExitCode> {
    let plain: String = id.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
    let answer = ask(data, Method::GET, &format!("/why/{plain}"))?;
    for line in answer["lines"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        println!("{line}");
    }
    Ok(ExitCode::SUCCESS)
}
