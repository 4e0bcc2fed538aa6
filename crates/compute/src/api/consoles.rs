//! Remote consoles of servers and what a console token leads to.

use super::servers::lookup;
use crate::State;
use crate::console;
use caelum_base::{Error, Result};
use caelum_hypervisor::VncEndpoint;
use caelum_policy::personas::{ADMIN, PROJECT, PROJECT_MEMBER_OR_ADMIN};
use caelum_rest::{Access, Ctx, Op, Reply, Version, h};
use serde::Deserialize;
use serde_json::{Value, json};

const CONSOLES: Access = Access::rule("os_compute_api:os-remote-consoles", PROJECT_MEMBER_OR_ADMIN, PROJECT);

pub const OPS: &[Op<State>] = &[
    Op::post("remote_console_create", "/servers/{id}/remote-consoles", CONSOLES, h!(create)).since(2, 6),
    Op::post("server_vnc_console", "/servers/{id}/action", CONSOLES, h!(vnc)).action("os-getVNCConsole").until(2, 5),
    Op::get(
        "console_token_show",
        "/os-console-auth-tokens/{token}",
        Access::rule("os_compute_api:os-console-auth-tokens", ADMIN, PROJECT),
        h!(token),
    )
    .since(2, 31),
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    remote_console: Wanted,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    protocol: String,
    #[serde(rename = "type")]
    kind: String,
}

async fn create(mut cx: Ctx<State>) -> Result<Reply> {
    let s = lookup(&cx).await?;
    let w = cx.json::<Body>().await?.remote_console;
    let known = match w.protocol.as_str() {
        "vnc" => matches!(w.kind.as_str(), "novnc"),
        "spice" => w.kind == "spice-html5" || (w.kind == "spice-direct" && cx.version >= Version(2, 99)),
        "serial" => w.kind == "serial",
        "rdp" => w.kind == "rdp-html5",
        "mks" => w.kind == "webmks" && cx.version >= Version(2, 8),
        _ => false,
    };
    if !known {
        return Err(Error::invalid(format!("Invalid input for field/attribute remote_console. Value: {} {}.", w.protocol, w.kind)));
    }
    let url = console::open(&cx.state, &s, &w.kind).await?;
    Reply::ok(&json!({"remote_console": {"protocol": w.protocol, "type": w.kind, "url": url}}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VncBody {
    #[serde(rename = "os-getVNCConsole")]
    wanted: VncType,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VncType {
    #[serde(rename = "type")]
    kind: String,
}

async fn vnc(mut cx: Ctx<State>) -> Result<Reply> {
    let s = lookup(&cx).await?;
    let kind = cx.json::<VncBody>().await?.wanted.kind;
    let url = console::open(&cx.state, &s, &kind).await?;
    Reply::ok(&json!({"console": {"type": kind, "url": url}}))
}

async fn token(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let s = console::redeem(&cx.state, cx.param("token")).await?;
    let (host, port, path) = match console::endpoint(&cx.state, &s).await? {
        VncEndpoint::Tcp { host, port } => (host, port, Value::Null),
        // A socket of the host's file system: it has a path and no port.
        VncEndpoint::Unix { path } => (s.host.clone().unwrap_or_default(), 0, json!(path)),
    };
    let mut v = json!({"instance_uuid": s.id, "host": host, "port": port, "internal_access_path": path});
    if cx.version >= Version(2, 99) {
        v["tls_port"] = Value::Null;
    }
    Reply::ok(&json!({"console": v}))
}
