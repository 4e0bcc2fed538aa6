//! `POST /servers`: reading the body.

use super::views::Viewer;
use super::wire::{self, LooseBool, LooseInt, LooseText, gate};
use crate::State;
use crate::logic::bdm::BdmIn;
use crate::logic::create::{self, NewServers};
use crate::logic::nics::{NicIn, NicsIn};
use base64::Engine;
use caelum_base::{Error, Result};
use caelum_policy::Target;
use caelum_rest::{Ctx, Reply, Version};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Longest user data in bytes, as base64.
const MAX_USER_DATA: usize = 65_535;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    server: ServerIn,
    #[serde(default, rename = "os:scheduler_hints", alias = "OS-SCH-HNT:scheduler_hints")]
    hints: Option<Map<String, Value>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ServerIn {
    name: String,
    #[serde(default, rename = "imageRef")]
    image: Option<String>,
    #[serde(rename = "flavorRef")]
    flavor: LooseText,
    #[serde(default)]
    networks: Option<NetworksIn>,
    #[serde(default)]
    security_groups: Option<Vec<GroupIn>>,
    #[serde(default)]
    key_name: Option<String>,
    #[serde(default)]
    user_data: Option<String>,
    #[serde(default)]
    config_drive: Option<LooseBool>,
    #[serde(default)]
    metadata: Option<BTreeMap<String, String>>,
    #[serde(default)]
    availability_zone: Option<String>,
    #[serde(default)]
    block_device_mapping_v2: Option<Vec<BdmIn>>,
    #[serde(default)]
    tags: Option<Vec<String>>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    hostname: Option<String>,
    #[serde(default)]
    host: Option<String>,
    #[serde(default)]
    hypervisor_hostname: Option<String>,
    #[serde(default)]
    min_count: Option<LooseInt>,
    #[serde(default)]
    max_count: Option<LooseInt>,
    #[serde(default)]
    return_reservation_id: Option<LooseBool>,
    #[serde(default, rename = "adminPass")]
    admin_pass: Option<String>,
    #[serde(default)]
    personality: Option<Vec<FileIn>>,
    #[serde(default, rename = "OS-DCF:diskConfig")]
    disk_config: Option<String>,
    #[serde(default, rename = "accessIPv4")]
    access_ipv4: Option<String>,
    #[serde(default, rename = "accessIPv6")]
    access_ipv6: Option<String>,
    #[serde(default)]
    trusted_image_certificates: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum NetworksIn {
    Word(String),
    List(Vec<NicIn>),
}

#[derive(Deserialize)]
struct GroupIn {
    name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileIn {
    path: String,
    contents: String,
}

pub async fn server_create(mut cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let body: Body = cx.json().await?;
    let many = body.server.return_reservation_id.is_some_and(|b| b.0);
    let pass = admin_pass(&cx, body.server.admin_pass.as_deref())?;
    let new = read(&cx, body)?;
    let made = create::servers_create(&cx.state, cx.auth(), &cx.request_id, new).await?;
    let first = made.first().ok_or_else(|| Error::internal("a create made nothing"))?;
    let view = Viewer::of(&cx);
    if many {
        return Reply::json(202, &json!({"reservation_id": first.reservation_id}));
    }
    let groups: Vec<Value> = first.security_groups.iter().map(|g| json!({"name": g})).collect();
    let body = json!({"server": {
        "id": first.id, "links": view.links("servers", &first.id), "OS-DCF:diskConfig": first.disk_config,
        "security_groups": groups, "adminPass": pass,
    }});
    Ok(Reply::json(202, &body)?.header("location", format!("{}/v2.1/servers/{}", view.base, first.id)))
}

/// The password given or a made-up one. It is told once and kept nowhere.
pub fn admin_pass(cx: &Ctx<State>, given: Option<&str>) -> Result<String> {
    match given {
        Some(p) if p.chars().any(char::is_control) => Err(Error::invalid("Invalid input for field/attribute adminPass.")),
        Some(p) => Ok(p.to_string()),
        None => Ok(cx.env.password().expose().chars().take(12).collect()),
    }
}

fn read(cx: &Ctx<State>, body: Body) -> Result<NewServers> {
    let s = body.server;
    gates(cx, &s)?;
    let name = wire::name("name", &s.name)?;
    let metadata = s.metadata.unwrap_or_default();
    wire::metadata(&metadata)?;
    let tags = s.tags.unwrap_or_default();
    tags.iter().try_for_each(|t| wire::tag(t))?;
    let tags: BTreeSet<String> = tags.into_iter().collect();
    if tags.len() > 50 {
        return Err(Error::invalid("A server may have at most 50 tags."));
    }
    if let Some(data) = &s.user_data {
        user_data(data)?;
    }
    let (min_count, max_count) = counts(s.min_count.map(|c| c.0), s.max_count.map(|c| c.0))?;
    let (zone, forced_host) = zone(cx, s.availability_zone.as_deref())?;
    let own = own_target(cx);
    let requested_host = s.host.or(s.hypervisor_hostname);
    if requested_host.is_some() {
        cx.require("compute:servers:create:requested_destination", &own)?;
        if forced_host.is_some() {
            return Err(Error::invalid(
                "One mechanism with host and/or hypervisor_hostname and another mechanism with zone:host:node are mutually exclusive.",
            ));
        }
    }
    let hostname = s.hostname.map(|h| wire::hostname(&h, cx.version >= Version(2, 94))).transpose()?;
    if hostname.is_some() && max_count > 1 && cx.version < Version(2, 94) {
        return Err(Error::invalid("hostname cannot be specified when creating multiple instances."));
    }
    let networks = networks(cx, s.networks)?;
    let nic_tags = matches!(&networks, NicsIn::List(l) if l.iter().any(|n| n.tag.is_some()));
    let disk_tags = s.block_device_mapping_v2.iter().flatten().any(|b| b.tag.is_some());
    gate(cx, "tag", nic_tags || disk_tags, 32, u32::MAX)?;
    Ok(NewServers {
        name,
        image_id: s.image.filter(|i| !i.is_empty()),
        flavor_id: s.flavor.0,
        networks,
        security_groups: s.security_groups.unwrap_or_default().into_iter().map(|g| g.name).collect(),
        key_name: s.key_name,
        user_data: s.user_data,
        files: files(s.personality.unwrap_or_default())?,
        config_drive: s.config_drive.is_some_and(|b| b.0),
        metadata,
        tags,
        description: wire::description(s.description)?,
        hostname,
        zone,
        forced_host,
        requested_host,
        disks: s.block_device_mapping_v2.unwrap_or_default(),
        hints: body.hints.unwrap_or_default(),
        min_count,
        max_count,
        access_ipv4: ip(s.access_ipv4, false)?,
        access_ipv6: ip(s.access_ipv6, true)?,
        disk_config: disk_config(s.disk_config)?,
        zero_disk: cx.allows("os_compute_api:servers:create:zero_disk_flavor", &own),
        multiattach: cx.version >= Version(2, 60),
        external_networks: cx.allows("network:attach_external_network", &own),
    })
}

/// What the body says about networks; from 2.37 it must say something.
fn networks(cx: &Ctx<State>, given: Option<NetworksIn>) -> Result<NicsIn> {
    Ok(match given {
        None if cx.version >= Version(2, 37) => {
            return Err(Error::invalid("Invalid input for field/attribute server. 'networks' is a required property"));
        }
        None => NicsIn::Default,
        Some(NetworksIn::Word(w)) if cx.version >= Version(2, 37) && w == "auto" => NicsIn::Auto,
        Some(NetworksIn::Word(w)) if cx.version >= Version(2, 37) && w == "none" => NicsIn::None,
        Some(NetworksIn::Word(w)) => return Err(Error::invalid(format!("Invalid input for field/attribute networks. Value: {w}."))),
        Some(NetworksIn::List(l)) if l.is_empty() => NicsIn::Default,
        Some(NetworksIn::List(l)) => NicsIn::List(l),
    })
}

fn own_target(cx: &Ctx<State>) -> Target<'_> {
    Target::new().with_opt("project_id", cx.auth().creds.project_id.as_deref())
}

fn gates(cx: &Ctx<State>, s: &ServerIn) -> Result<()> {
    let last = u32::MAX;
    gate(cx, "tags", s.tags.is_some(), 52, last)?;
    gate(cx, "description", s.description.is_some(), 19, last)?;
    gate(cx, "hostname", s.hostname.is_some(), 90, last)?;
    gate(cx, "host", s.host.is_some(), 74, last)?;
    gate(cx, "hypervisor_hostname", s.hypervisor_hostname.is_some(), 74, last)?;
    gate(cx, "personality", s.personality.is_some(), 1, 56)?;
    gate(cx, "trusted_image_certificates", s.trusted_image_certificates.is_some(), 63, last)?;
    let typed = s.block_device_mapping_v2.iter().flatten().any(|b| b.volume_type.is_some());
    gate(cx, "volume_type", typed, 67, last)?;
    if s.trusted_image_certificates.as_ref().is_some_and(|c| !c.is_empty()) {
        return Err(Error::invalid("This cloud does not validate image certificates."));
    }
    Ok(())
}

/// Base64 of at most 65 535 characters.
pub fn user_data(text: &str) -> Result<()> {
    let invalid = || Error::invalid("Invalid input for field/attribute user_data. It must be base64 of at most 65535 characters.");
    if text.len() > MAX_USER_DATA {
        return Err(invalid());
    }
    let plain: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    base64::engine::general_purpose::STANDARD.decode(plain).map(drop).map_err(|_| invalid())
}

fn files(list: Vec<FileIn>) -> Result<Vec<(String, String)>> {
    if list.len() > 5 {
        return Err(Error::over_quota("Quota exceeded for resources: injected_files"));
    }
    list.into_iter()
        .map(|f| {
            let bytes = base64::engine::general_purpose::STANDARD
                .decode(&f.contents)
                .map_err(|_| Error::invalid(format!("Personality file {} is not base64.", f.path)))?;
            if bytes.len() > 10_240 || f.path.len() > 255 {
                return Err(Error::over_quota("Quota exceeded for resources: injected_file_content_bytes"));
            }
            Ok((f.path, f.contents))
        })
        .collect()
}

fn counts(min: Option<i64>, max: Option<i64>) -> Result<(usize, usize)> {
    let min = min.unwrap_or(1);
    let max = max.unwrap_or(min);
    if min < 1 || max < 1 {
        return Err(Error::invalid("min_count and max_count must be at least 1."));
    }
    if min > max {
        return Err(Error::invalid("min_count must be <= max_count"));
    }
    let fits = |n: i64| usize::try_from(n).ok().filter(|n| *n <= 1000);
    fits(min).zip(fits(max)).ok_or_else(|| Error::invalid("At most 1000 servers can be made at once."))
}

/// `zone`, or for administrators `zone:host` and `zone:host:node`.
fn zone(cx: &Ctx<State>, text: Option<&str>) -> Result<(Option<String>, Option<String>)> {
    let Some(text) = text.filter(|t| !t.is_empty()) else { return Ok((None, None)) };
    let parts: Vec<&str> = text.split(':').collect();
    if parts.len() > 3 {
        return Err(Error::invalid("Invalid availability_zone"));
    }
    let host = parts.iter().skip(1).rev().find(|p| !p.is_empty()).map(|h| (*h).to_string());
    if parts.len() > 1 {
        cx.require("os_compute_api:servers:create:forced_host", &own_target(cx))?;
    }
    Ok((parts.first().filter(|z| !z.is_empty()).map(|z| (*z).to_string()), host))
}

/// An access address, or nothing.
pub fn ip(text: Option<String>, v6: bool) -> Result<String> {
    let Some(text) = text.filter(|t| !t.is_empty()) else { return Ok(String::new()) };
    match text.parse::<IpAddr>() {
        Ok(a) if a.is_ipv6() == v6 => Ok(a.to_string()),
        _ => Err(Error::invalid(format!("Invalid input for field/attribute accessIP. Value: {text}."))),
    }
}

pub fn disk_config(text: Option<String>) -> Result<String> {
    match text.as_deref() {
        None => Ok("MANUAL".into()),
        Some(t @ ("AUTO" | "MANUAL")) => Ok(t.to_string()),
        Some(t) => Err(Error::invalid(format!("Invalid input for field/attribute OS-DCF:diskConfig. Value: {t}."))),
    }
}
