//! `dispersion.conf`: the sample that shows whether everything is where the rings say.

use super::{Common, Section};
use caelum_base::{Error, Result};
use caelum_consistency::dispersion::{Dispersion, Kind};
use caelum_rest::HttpService;
use http::Request;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);

/// The account that the sample is in: the one named, or that of the user whom the authentication service knows.
async fn account(c: &Common, s: &Section) -> Result<String> {
    if let Some(account) = s.get("account").filter(|a| !a.is_empty()) {
        return Ok(account.to_string());
    }
    let url = s.str("auth_url", "");
    let cannot =
        |why: &str| Error::invalid(format!("dispersion.conf: no account from auth_url = {url}: {why}; account = NAME does without"));
    let uri: http::Uri = url.parse().map_err(|_| cannot("not a URL"))?;
    let host = uri.host().filter(|_| uri.scheme_str() == Some("http")).ok_or_else(|| cannot("only http:// with version 1"))?;
    let key = s.get("auth_key").unwrap_or_default();
    let req = Request::get(uri.path())
        .header("X-Auth-User", s.str("auth_user", ""))
        .header("X-Auth-Key", key)
        .body(caelum_rest::empty())
        .map_err(|e| cannot(&e.to_string()))?;
    let answer = c.nodes.send(host, uri.port_u16().unwrap_or(80), req, PATIENCE).await.map_err(|e| cannot(&e.to_string()))?;
    let storage = answer.headers().get("x-storage-url").and_then(|v| v.to_str().ok()).unwrap_or_default();
    let name = storage.rsplit('/').next().unwrap_or_default();
    if !answer.status().is_success() || name.is_empty() {
        return Err(cannot(&format!("the answer is {}", answer.status())));
    }
    Ok(name.to_string())
}

async fn setting(c: &Common, s: &Section, client: Arc<dyn HttpService>) -> Result<Dispersion> {
    let wanted = s.get("policy").filter(|p| !p.is_empty());
    let policies = &c.swift.policies;
    let policy = match wanted {
        Some(name) => policies.iter().find(|p| p.name.eq_ignore_ascii_case(name)),
        None => policies.iter().find(|p| p.is_default),
    };
    let policy =
        policy.ok_or_else(|| Error::invalid(format!("dispersion.conf: policy = {} is not in swift.conf", wanted.unwrap_or("default"))))?;
    let objects = c.rings.object(policy.index).ok_or_else(|| Error::invalid(format!("policy {} has no ring", policy.name)))?;
    Ok(Dispersion {
        client,
        nodes: c.nodes.clone(),
        containers: c.rings.container(),
        objects,
        hash: c.swift.hash.clone(),
        account: account(c, s).await?,
        policy: (policy.index, policy.name.clone()),
        coverage: s.number("dispersion_coverage", 1.0)?,
        concurrency: s.number("concurrency", 25)?,
        retries: s.number("retries", 5)?,
        node_timeout: PATIENCE,
    })
}

fn say(text: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{text}").map_err(|e| Error::unavailable(e.to_string()))
}

/// Makes the sample, or reports on it.
pub async fn run(c: &Common, s: &Section, report: bool, client: Arc<dyn HttpService>) -> Result<()> {
    let d = setting(c, s, client).await?;
    let task = if report { "report" } else { "populate" };
    say(&format!("Using storage policy: {}", d.policy.1))?;
    for (kind, name) in [(Kind::Containers, "container"), (Kind::Objects, "object")] {
        if !s.yes(&format!("{name}_{task}"), true) {
            continue;
        }
        if report {
            match d.report(kind).await.map_err(Error::unavailable)? {
                Some(found) => say(&found.to_string())?,
                None => say(&format!("No {name}s to query: dispersion-populate makes them"))?,
            }
        } else {
            let n = d.populate(kind).await.map_err(Error::unavailable)?;
            say(&format!("Created {n} {name}s for dispersion reporting"))?;
        }
    }
    Ok(())
}
