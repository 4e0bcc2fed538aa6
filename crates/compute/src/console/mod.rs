//! Graphical consoles: tokens, the page with the viewer, and the proxy between a browser's WebSocket
//! and the guest's VNC server.
//!
//! A token is good for ten minutes and one server; it is looked at when a connection is made. Guests'
//! VNC servers are reachable by no other way.

mod bridge;
mod serve;

pub use serve::ConsoleService;

use crate::State;
use crate::store::console_tokens::{self, ConsoleToken};
use crate::store::servers::Server;
use caelum_base::{Error, Result};
use caelum_hypervisor::VncEndpoint;
use std::time::Duration;

/// Life of a token (upstream's `consoleauth.token_ttl`).
const LIFE: Duration = Duration::from_secs(600);

fn not_ready(s: &Server) -> Error {
    Error::conflict(format!("Instance {} is not ready", s.id))
}

/// Where the server's VNC server is. Errors: `Conflict` when the server does not run.
pub async fn endpoint(state: &State, s: &Server) -> Result<VncEndpoint> {
    let host = s.host.as_deref().ok_or_else(|| not_ready(s))?;
    state.hosts.get(host)?.vnc(&s.id).await.map_err(|e| if e.is_not_found() { not_ready(s).caused_by(e) } else { e })
}

/// Makes a token for the server's console and gives the URL of the page that uses it.
pub async fn open(state: &State, s: &Server, kind: &str) -> Result<String> {
    if kind != "novnc" || state.config.console_url.is_empty() {
        return Err(Error::invalid(format!("Unavailable console type {kind}.")));
    }
    endpoint(state, s).await?;
    let (token, now) = (state.env.uuid(), state.env.now());
    let row =
        ConsoleToken { id: console_tokens::hash(&token), server_id: s.id.clone(), kind: kind.to_string(), expires_at: now.plus(LIFE) };
    state.db.write(move |tx| console_tokens::insert(tx, &row, now)).await?;
    Ok(page_url(&state.config.console_url, &token))
}

/// The page's `path` parameter says where its WebSocket is, from the root of the host, as noVNC and
/// other clients understand it.
fn page_url(page: &str, token: &str) -> String {
    let rest = page.split_once("://").map_or(page, |(_, r)| r);
    let path = rest.split_once('/').map_or("", |(_, p)| p);
    let directory = path.rsplit_once('/').map_or(String::new(), |(d, _)| format!("{d}/").replace('/', "%2F"));
    format!("{page}?path={directory}websockify%3Ftoken%3D{token}")
}

/// The server a token opens. Errors: `NotFound` for a token that is unknown or has expired.
pub async fn redeem(state: &State, token: &str) -> Result<Server> {
    let (token, now) = (token.to_string(), state.env.now());
    let missing = || Error::not_found("Token not found");
    let read = move |tx: &mut caelum_store::Tx<'_>| {
        let found = console_tokens::valid(tx, &token, now)?.ok_or_else(missing)?;
        Ok(tx.get::<Server>(&found.server_id)?.ok_or_else(missing)?.into_inner())
    };
    state.db.read(read).await
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_url_leads_to_the_socket() {
        let url = super::page_url("http://h:1/vnc/vnc_auto.html", "t");
        assert_eq!(url, "http://h:1/vnc/vnc_auto.html?path=vnc%2Fwebsockify%3Ftoken%3Dt");
        assert_eq!(super::page_url("http://h:1/vnc_auto.html", "t"), "http://h:1/vnc_auto.html?path=websockify%3Ftoken%3Dt");
    }
}
