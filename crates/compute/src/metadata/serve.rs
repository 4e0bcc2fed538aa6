//! The metadata service. Its callers are the metadata proxies in the networks, which say for which
//! address in which router or network a guest asked; their signature proves that they say so.
//! Anything without a right signature learns nothing.

use super::documents::{EC2_VERSIONS, Facts, VERSIONS, ec2, openstack};
use crate::State;
use crate::cache::Cache;
use crate::logic::network::path as checked;
use crate::store::servers::{Server, ServerData};
use caelum_base::{Error, ErrorKind, Result};
use caelum_rest::{Body, HttpService, full, read_limited};
use caelum_store::Tx;
use futures_util::future::BoxFuture;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use serde::Deserialize;
use sha2::Sha256;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// How long it is remembered which server has an address; also how stale documents can be.
const CACHE_AGE: Duration = Duration::from_secs(15);
/// Longest password a guest may post, in bytes (upstream's limit).
const MAX_PASSWORD: usize = 1_024;

/// Serves guests through the proxies.
#[derive(Clone)]
pub struct MetadataService(Arc<Inner>);

struct Inner {
    state: Arc<State>,
    /// Server ids by router or network and address.
    servers: Cache<String>,
}

impl MetadataService {
    pub fn new(state: Arc<State>) -> Self {
        Self(Arc::new(Inner { servers: Cache::new(state.env.clone(), CACHE_AGE), state }))
    }
}

impl HttpService for MetadataService {
    fn call(&self, req: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        let inner = self.0.clone();
        Box::pin(async move {
            let path = req.uri().path().to_string();
            inner.answer(req).await.unwrap_or_else(|e| {
                if e.kind == ErrorKind::Internal {
                    tracing::error!(path, error = e.chain(), "metadata request failed");
                }
                let status = StatusCode::from_u16(e.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                text(status, "text/plain; charset=UTF-8", format!("{status}\n\n{}\n", e.message))
            })
        })
    }
}

fn text(status: StatusCode, kind: &'static str, body: impl Into<bytes::Bytes>) -> Response<Body> {
    let mut r = Response::new(full(body));
    *r.status_mut() = status;
    r.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    r
}

fn gone() -> Error {
    Error::not_found("The resource could not be found.")
}

/// Where a request comes from, as the proxy says.
struct Origin {
    address: IpAddr,
    /// Id of the router or network.
    scope: String,
    router: bool,
}

fn one<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h str>> {
    let mut all = headers.get_all(name).iter();
    let (first, second) = (all.next(), all.next());
    if second.is_some() {
        return Err(Error::forbidden(format!("{name} was given twice.")));
    }
    Ok(first.and_then(|v| v.to_str().ok()))
}

/// Errors: `Forbidden` when the signature is missing or does not fit.
fn origin(headers: &HeaderMap, secret: &str) -> Result<Origin> {
    let denied = || Error::forbidden("Invalid proxy request signature.");
    let signature = one(headers, "x-metadata-proxy-signature")?.ok_or_else(denied)?;
    let address = one(headers, "x-forwarded-for")?.ok_or_else(denied)?;
    let (router, network) = (one(headers, "x-neutron-router-id")?, one(headers, "x-neutron-network-id")?);
    let (scope, router) = match (router, network) {
        (Some(r), None) => (r, true),
        (None, Some(n)) => (n, false),
        _ => return Err(denied()),
    };
    if secret.is_empty() {
        return Err(denied());
    }
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).map_err(|_| denied())?;
    mac.update(format!("{address}|{scope}").as_bytes());
    mac.verify_slice(&unhex(signature).ok_or_else(denied)?).map_err(|_| denied())?;
    checked(scope).map_err(|_| denied())?;
    Ok(Origin { address: address.parse().map_err(|_| denied())?, scope: scope.to_string(), router })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || text.len() > 128 || !text.is_ascii() {
        return None;
    }
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).ok()).collect()
}

#[derive(Deserialize)]
struct Ports {
    ports: Vec<Port>,
}

#[derive(Deserialize)]
struct Port {
    #[serde(default)]
    device_id: Option<String>,
    network_id: String,
}

impl Inner {
    async fn answer(&self, req: Request<Body>) -> Result<Response<Body>> {
        let path = req.uri().path().trim_matches('/').to_string();
        let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
        let origin = origin(req.headers(), self.state.config.metadata_secret.expose())?;
        let (server, data) = self.server(&origin).await?;
        let allowed = matches!(*req.method(), Method::GET | Method::HEAD);
        if *req.method() == Method::POST && matches!(parts[..], ["openstack", _, "password"]) {
            return self.set_password(&server, req).await;
        }
        if !allowed {
            return Err(Error::status(405, "The method is not allowed for this resource."));
        }
        match parts[..] {
            [] => Ok(plain(listing(EC2_VERSIONS.iter().map(|v| format!("{v}/")).chain(["openstack/".to_string()])))),
            ["openstack"] => Ok(plain(listing(VERSIONS.iter().map(|v| format!("{v}/"))))),
            ["openstack", ref rest @ ..] => {
                let facts = Facts::gather(&self.state, &server, &data).await?;
                openstack_reply(openstack(&facts), rest)
            }
            [version, ref rest @ ..] if EC2_VERSIONS.contains(&version) => {
                let facts = Facts::gather(&self.state, &server, &data).await?;
                ec2_reply(&facts, rest)
            }
            _ => Err(gone()),
        }
    }

    async fn server(&self, o: &Origin) -> Result<(Server, ServerData)> {
        let key = format!("{}|{}", o.scope, o.address);
        if let Some(id) = self.servers.get(&key)
            && let Ok(found) = self.load(&id).await
        {
            return Ok(found);
        }
        let id = self.owner(o).await?;
        let found = self.load(&id).await?;
        self.servers.put(&key, id);
        Ok(found)
    }

    async fn load(&self, id: &str) -> Result<(Server, ServerData)> {
        let id = id.to_string();
        let read = move |tx: &mut Tx<'_>| {
            let server = tx.get::<Server>(&id)?.ok_or_else(gone)?.into_inner();
            Ok((server, tx.get::<ServerData>(&id)?.map(|d| d.into_inner()).unwrap_or_default()))
        };
        self.state.db.read(read).await
    }

    /// The device of the port that has the address in the network, or in one of the router's.
    async fn owner(&self, o: &Origin) -> Result<String> {
        let network = &self.state.peers.network;
        let networks: Vec<String> = if o.router {
            let found: Ports = network.get(format!("/v2.0/ports?device_id={}", o.scope)).fetch().await?;
            found.ports.into_iter().map(|p| p.network_id).collect()
        } else {
            vec![o.scope.clone()]
        };
        let address = o.address.to_string().replace(':', "%3A");
        for id in networks.iter().collect::<BTreeSet<_>>() {
            let query = format!("/v2.0/ports?network_id={}&fixed_ips=ip_address%3D{address}", checked(id)?);
            let found: Ports = network.get(query).fetch().await?;
            let here = found.ports.into_iter().filter(|p| p.network_id == *id);
            // Networks of one router never overlap, so an address has one port there.
            if let Some(owner) = here.filter_map(|p| p.device_id).find(|d| !d.is_empty()) {
                return Ok(owner);
            }
        }
        Err(gone())
    }

    async fn set_password(&self, server: &Server, req: Request<Body>) -> Result<Response<Body>> {
        let bytes = read_limited(req.into_body(), MAX_PASSWORD).await.map_err(|e| match e.kind {
            ErrorKind::TooLarge => Error::invalid("Request is too large."),
            _ => e,
        })?;
        let password = String::from_utf8(bytes.to_vec()).map_err(|_| Error::invalid("The password is not text."))?;
        if !server.guest_password.is_empty() {
            return Err(Error::conflict("The password is set already."));
        }
        let id = server.id.clone();
        let write = move |tx: &mut Tx<'_>| {
            let mut s = tx.get::<Server>(&id)?.ok_or_else(gone)?;
            s.guest_password.clone_from(&password);
            tx.update(&mut s)
        };
        self.state.db.write(write).await?;
        Ok(plain(String::new()))
    }
}

fn plain(body: String) -> Response<Body> {
    text(StatusCode::OK, "text/plain; charset=UTF-8", body)
}

fn listing(names: impl Iterator<Item = String>) -> String {
    names.collect::<Vec<_>>().join("\n")
}

fn openstack_reply(files: BTreeMap<String, Vec<u8>>, rest: &[&str]) -> Result<Response<Body>> {
    let path = rest.join("/");
    if let Some(bytes) = files.get(&path) {
        let kind = match path.rsplit('.').next() {
            Some("json") => "application/json",
            _ if path.ends_with("user_data") => "application/octet-stream",
            _ => "text/plain; charset=UTF-8",
        };
        return Ok(text(StatusCode::OK, kind, bytes.clone()));
    }
    let [version] = rest else { return Err(gone()) };
    let known = VERSIONS.contains(version);
    let within = format!("{version}/");
    let names: Vec<String> = files.keys().filter_map(|k| k.strip_prefix(&within)).map(String::from).collect();
    if !known || names.is_empty() {
        return Err(gone());
    }
    Ok(plain(listing(names.into_iter())))
}

fn ec2_reply(facts: &Facts<'_>, rest: &[&str]) -> Result<Response<Body>> {
    match rest {
        [] => {
            let user = facts.data.user_data.as_ref().map(|_| "user-data".to_string());
            Ok(plain(listing(["meta-data/".to_string()].into_iter().chain(user))))
        }
        ["user-data"] => {
            let bytes = facts.user_data().ok_or_else(gone)?;
            Ok(text(StatusCode::OK, "application/octet-stream", bytes))
        }
        ["meta-data", below @ ..] => {
            let leaves = ec2(facts);
            let path = below.join("/");
            if let Some(value) = leaves.get(&path) {
                return Ok(plain(value.clone()));
            }
            // EC2 lists keys as `index=name`.
            if path == "public-keys" && leaves.contains_key("public-keys/0/openssh-key") {
                return Ok(plain(format!("0={}", facts.server.key_name.as_deref().unwrap_or_default())));
            }
            let within = if path.is_empty() { String::new() } else { format!("{path}/") };
            let mut names: Vec<String> = leaves.keys().filter_map(|k| k.strip_prefix(&within)).map(child).collect();
            names.dedup();
            if names.is_empty() { Err(gone()) } else { Ok(plain(listing(names.into_iter()))) }
        }
        _ => Err(gone()),
    }
}

/// First step of a path; a directory ends in a slash.
fn child(path: &str) -> String {
    path.split_once('/').map_or_else(|| path.to_string(), |(first, _)| format!("{first}/"))
}
