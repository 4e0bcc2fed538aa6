//! Ports.

use super::attrs::Attrs;
use super::list::{self, Kind, Spec};
use super::{View, if_revision, is_admin, member, networks, with_std};
use crate::logic::ipam::Wanted;
use crate::logic::net::{invalid_input, parse_mac, parse_prefix};
use crate::logic::ports::{PortChange, PortInput};
use crate::logic::{State, not_found};
use crate::store::{self, AddressPair, DhcpOption, Network, Port, Subnet};
use caelum_base::{Error, Result};
use caelum_policy::{Target, personas};
use caelum_rest::{Access, Ctx, Op, Reply, h};
use caelum_store::Filter;
use serde_json::{Map, Value, json};

const READ: &str = "rule:admin_only or role:service or (role:reader and project_id:%(project_id)s) or (role:reader and rule:network_owner)";
const WRITE: &str = "rule:admin_only or role:service or (role:member and project_id:%(project_id)s)";
const DELETE: &str =
    "rule:admin_only or role:service or (role:member and project_id:%(project_id)s) or (role:member and rule:network_owner)";

pub const OPS: &[Op<State>] = &[
    Op::get("port_list", "/ports", Access::rule("get_port", READ, personas::PROJECT), h!(index)),
    // The brief path of servers: many ports at once.
    Op::post("port_create", "/ports", member("create_port"), h!(create)),
    Op::get("port_show", "/ports/{id}", Access::rule("get_port", READ, personas::PROJECT), h!(show)),
    Op::put("port_update", "/ports/{id}", Access::rule("update_port", WRITE, personas::PROJECT), h!(update)),
    Op::delete("port_delete", "/ports/{id}", Access::rule("delete_port", DELETE, personas::PROJECT), h!(delete)),
];

const SPEC: Spec = Spec {
    singular: "port",
    plural: "ports",
    columns: &[
        ("id", "id", Kind::Text),
        ("name", "name", Kind::Text),
        ("project_id", "project_id", Kind::Text),
        ("network_id", "network_id", Kind::Text),
        ("description", "description", Kind::Text),
        ("mac_address", "mac", Kind::Text),
        ("device_id", "device_id", Kind::Text),
        ("device_owner", "device_owner", Kind::Text),
        ("binding:host_id", "host_id", Kind::Text),
        ("status", "status", Kind::Text),
        ("admin_state_up", "admin_state_up", Kind::Bool),
        ("revision_number", "revision", Kind::Int),
    ],
    others: &["binding:vnic_type", "binding:vif_type", "port_security_enabled", "created_at", "updated_at", "dns_name"],
    handled: &["fixed_ips", "security_groups"],
};

/// Attributes only administrators and services see.
pub struct Shown {
    binding: bool,
}

impl Shown {
    pub fn new(cx: &Ctx<State>) -> Self {
        Self { binding: cx.allows("get_port:binding:host_id", &Target::new()) }
    }
}

pub fn fixed_ips(p: &Port) -> Vec<Value> {
    p.fixed_ips.iter().map(|f| json!({"subnet_id": f.subnet_id, "ip_address": f.ip_address})).collect()
}

pub fn view(st: &State, p: &Port, shown: &Shown) -> View {
    let options: Vec<Value> =
        p.extra_dhcp_opts.iter().map(|o| json!({"opt_name": o.opt_name, "opt_value": o.opt_value, "ip_version": o.ip_version})).collect();
    let mut v = with_std(
        json!({
            "id": p.id,
            "name": p.name,
            "tenant_id": p.project_id,
            "project_id": p.project_id,
            "network_id": p.network_id,
            "admin_state_up": p.admin_state_up,
            "status": p.status,
            "mac_address": p.mac_address,
            "fixed_ips": fixed_ips(p),
            "device_id": p.device_id,
            "device_owner": p.device_owner,
            "security_groups": p.security_groups,
            "allowed_address_pairs": p.allowed_address_pairs,
            "extra_dhcp_opts": options,
            "port_security_enabled": p.port_security_enabled,
            "binding:vnic_type": p.vnic_type,
        }),
        &p.std,
    );
    if shown.binding {
        let (kind, details) = vif(st, p);
        v.insert("binding:host_id".into(), p.host_id.clone().into());
        v.insert("binding:profile".into(), Value::Object(p.profile.clone()));
        v.insert("binding:vif_type".into(), kind.into());
        v.insert("binding:vif_details".into(), details);
    }
    v
}

/// How the host plugs the port.
fn vif(st: &State, p: &Port) -> (&'static str, Value) {
    if p.host_id.is_empty() {
        return ("unbound", json!({}));
    }
    if st.hosts.get(&p.host_id).is_none() {
        return ("binding_failed", json!({}));
    }
    let bridge = format!("brq{}", p.network_id.get(..11).unwrap_or(&p.network_id));
    ("bridge", json!({"connectivity": "l2", "port_filter": true, "bridge_name": bridge, "bound_drivers": {"0": "linuxbridge"}}))
}

/// `fixed_ips=ip_address=…`, `subnet_id=…`, `ip_address_substr=…`: port ids that match.
async fn by_fixed_ips(cx: &Ctx<State>) -> Result<Option<Filter>> {
    let (mut addresses, mut subnets, mut parts) = (Vec::new(), Vec::new(), Vec::new());
    for text in cx.query.all("fixed_ips") {
        match text.split_once('=') {
            // Addresses are compared in their usual spelling.
            Some(("ip_address", v)) => addresses.push(v.parse::<std::net::IpAddr>().map_or_else(|_| v.to_string(), |a| a.to_string())),
            Some(("subnet_id", v)) => subnets.push(v.to_string()),
            Some(("ip_address_substr", v)) => parts.push(v.to_string()),
            _ => return Err(Error::invalid(format!("Invalid filter fixed_ips={text}.")).code("HTTPBadRequest")),
        }
    }
    if addresses.is_empty() && subnets.is_empty() && parts.is_empty() {
        return Ok(None);
    }
    let sets = cx
        .state
        .db
        .read(move |tx| {
            let mut sets: Vec<Vec<String>> = Vec::new();
            if !addresses.is_empty() {
                sets.push(store::ports_with_addresses(tx, &addresses)?);
            }
            if !parts.is_empty() {
                sets.push(store::ports_with_substring(tx, &parts)?);
            }
            if !subnets.is_empty() {
                let mut ids = Vec::new();
                for s in &subnets {
                    ids.extend(store::ports_in_subnet(tx, s)?);
                }
                sets.push(ids);
            }
            Ok(sets)
        })
        .await?;
    Ok(Some(Filter::All(sets.into_iter().map(|ids| Filter::In("id", ids.into_iter().map(Into::into).collect())).collect())))
}

async fn by_groups(cx: &Ctx<State>) -> Result<Option<Filter>> {
    let groups: Vec<String> = cx.query.all("security_groups").map(String::from).collect();
    if groups.is_empty() {
        return Ok(None);
    }
    let ids = cx.state.db.read(move |tx| store::group_ports(tx, &groups)).await?;
    Ok(Some(Filter::In("id", ids.into_iter().map(Into::into).collect())))
}

async fn index(cx: Ctx<State>) -> Result<Reply> {
    cx.filtered();
    let mut filters = Vec::new();
    if !is_admin(&cx) && !cx.auth().creds.has_role("service") {
        let project = super::own_rows(&cx, "get_port")?;
        let p = project.clone();
        let networks = cx.state.db.read(move |tx| store::own_network_ids(tx, &p)).await?;
        filters.push(Filter::Any(vec![
            Filter::Eq("project_id", project.into()),
            Filter::In("network_id", networks.into_iter().map(Into::into).collect()),
        ]));
    }
    filters.extend(by_fixed_ips(&cx).await?);
    filters.extend(by_groups(&cx).await?);
    let (st, shown) = (cx.state.clone(), Shown::new(&cx));
    list::list::<Port>(&cx, &SPEC, filters, |p| view(&st, p, &shown)).await
}

/// The port with its policy target, if the caller may see it.
async fn found(cx: &Ctx<State>) -> Result<(Port, Target<'static>, Network)> {
    let p: Port = super::find(cx, "port").await?;
    let n = cx.state.db.get::<Network>(&p.network_id).await?.ok_or_else(|| not_found("port", &p.id))?.into_inner();
    let shared = networks::target(cx, &n).await?;
    let mut t = Target::project(p.project_id.clone()).with("network:project_id", n.project_id.clone());
    if !cx.allows("get_port", &t) {
        return Err(not_found("port", &p.id));
    }
    if cx.allows("shared", &shared) {
        t = t.with_bool("shared", true);
    }
    Ok((p, t, n))
}

async fn show(cx: Ctx<State>) -> Result<Reply> {
    let (p, t, _) = found(&cx).await?;
    cx.authorize(&t)?;
    let shown = Shown::new(&cx);
    Reply::ok(&json!({"port": list::pick(&cx, view(&cx.state, &p, &shown))}))
}

fn wanted_ips(a: &mut Attrs) -> Result<Option<Vec<Wanted>>> {
    let Some(list) = a.objects("fixed_ips", 100)? else { return Ok(None) };
    let mut out: Vec<Wanted> = Vec::with_capacity(list.len());
    for mut f in list {
        let ip_address = if f.peek("ip_address") == Some(&Value::Null) { f.take("ip_address").and(None) } else { f.ip("ip_address")? };
        let w = Wanted { subnet_id: f.id_or_null("subnet_id")?.flatten(), ip_address };
        f.finish()?;
        if w.ip_address.is_some() && out.iter().any(|o| o.ip_address == w.ip_address && o.subnet_id == w.subnet_id) {
            return Err(invalid_input(
                "fixed_ips",
                format!("Duplicate IP address '{}'", w.ip_address.map(|i| i.to_string()).unwrap_or_default()),
            ));
        }
        out.push(w);
    }
    Ok(Some(out))
}

fn pairs(a: &mut Attrs) -> Result<Option<Vec<AddressPair>>> {
    let Some(list) = a.objects("allowed_address_pairs", 1_000)? else { return Ok(None) };
    if list.len() > 10 {
        let m = "The number of allowed address pair exceeds the maximum 10.";
        return Err(Error::invalid(m).code("AllowedAddressPairExhausted"));
    }
    let mut out = Vec::new();
    for mut p in list {
        let missing = || Error::invalid("AllowedAddressPair must contain ip_address").code("AddressPairMissingIp");
        let ip = p.text("ip_address", 64)?.ok_or_else(missing)?;
        let net = parse_prefix(&ip).ok_or_else(|| invalid_input("allowed_address_pairs", format!("'{ip}' is not a valid IP subnet")))?;
        if net.prefix_len() == 0 {
            return Err(invalid_input("allowed_address_pairs", format!("'{ip}' would allow every address")));
        }
        let mac_address = match p.nullable("mac_address", 32)?.flatten() {
            None => String::new(),
            Some(m) => parse_mac(&m).ok_or_else(|| invalid_input("allowed_address_pairs", format!("'{m}' is not a valid MAC address")))?,
        };
        p.finish()?;
        out.push(AddressPair { ip_address: ip, mac_address });
    }
    Ok(Some(out))
}

/// DHCP option text goes into a generated file: printable characters only.
fn option_text(key: &str, text: &str) -> Result<()> {
    if text.is_empty() || text.len() > 255 || text.chars().any(char::is_control) {
        return Err(invalid_input("extra_dhcp_opts", format!("{key} is empty, too long or has control characters")));
    }
    Ok(())
}

fn dhcp_options(a: &mut Attrs) -> Result<Option<Vec<(DhcpOption, bool)>>> {
    let Some(list) = a.objects("extra_dhcp_opts", 64)? else { return Ok(None) };
    let mut out = Vec::new();
    for mut o in list {
        let opt_name = o.required("opt_name")?;
        option_text("opt_name", &opt_name)?;
        let value = o.nullable("opt_value", 255)?.flatten();
        if let Some(v) = &value {
            option_text("opt_value", v)?;
        }
        let ip_version = match o.integer("ip_version")? {
            None | Some(4) => 4,
            Some(6) => 6,
            Some(v) => return Err(invalid_input("extra_dhcp_opts", format!("ip_version '{v}' is not in [4, 6]"))),
        };
        o.finish()?;
        let keep = value.is_some();
        out.push((DhcpOption { opt_name, opt_value: value.unwrap_or_default(), ip_version }, keep));
    }
    Ok(Some(out))
}

fn profile(a: &mut Attrs) -> Result<Option<Map<String, Value>>> {
    match a.take("binding:profile") {
        None => Ok(None),
        Some(Value::Null) => Ok(Some(Map::new())),
        Some(Value::Object(m)) if Value::Object(m.clone()).to_string().len() <= 4_096 => Ok(Some(m)),
        Some(_) => Err(invalid_input("binding:profile", "it is not a dictionary of at most 4096 bytes")),
    }
}

fn vnic_type(a: &mut Attrs) -> Result<Option<String>> {
    let v = a.text("binding:vnic_type", 64)?;
    const KNOWN: [&str; 10] = [
        "normal",
        "direct",
        "macvtap",
        "baremetal",
        "direct-physical",
        "virtio-forwarder",
        "smart-nic",
        "accelerator-direct",
        "accelerator-direct-physical",
        "remote-managed",
    ];
    match &v {
        Some(t) if !KNOWN.contains(&t.as_str()) => Err(invalid_input("binding:vnic_type", format!("'{t}' is not in {KNOWN:?}"))),
        _ => Ok(v),
    }
}

fn dns_name(a: &mut Attrs) -> Result<Option<String>> {
    let Some(name) = a.text_or_null("dns_name", 255)? else { return Ok(None) };
    let label = |l: &str| {
        !l.is_empty()
            && l.len() <= 63
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    if name.is_empty() || name.trim_end_matches('.').split('.').all(label) {
        return Ok(Some(name.to_ascii_lowercase()));
    }
    Err(invalid_input("dns_name", format!("'{name}' is not a valid PQDN or FQDN")))
}

/// Asks the attribute rules of what the body names.
fn attribute_rules(cx: &Ctx<State>, a: &Attrs, verb: &str, t: &Target<'_>) -> Result<()> {
    for key in [
        "mac_address",
        "fixed_ips",
        "port_security_enabled",
        "allowed_address_pairs",
        "binding:host_id",
        "binding:profile",
        "binding:vnic_type",
    ] {
        if a.has(key) {
            cx.require(&format!("{verb}_port:{key}"), t)?;
        }
    }
    if let Some(Value::Array(ips)) = a.peek("fixed_ips")
        && ips.iter().any(|f| f.get("ip_address").is_some())
    {
        cx.require(&format!("{verb}_port:fixed_ips:ip_address"), t)?;
    }
    if let Some(Value::String(owner)) = a.peek("device_owner") {
        let t = t.clone().with("device_owner", owner.clone());
        cx.require(&format!("{verb}_port:device_owner"), &t)?;
    }
    Ok(())
}

/// Every subnet named in the addresses must be one the caller may see; foreign ids are unknown.
async fn check_subnets(cx: &Ctx<State>, wanted: Option<&Vec<Wanted>>, network_id: &str) -> Result<()> {
    for id in wanted.into_iter().flatten().filter_map(|w| w.subnet_id.as_ref()) {
        let s = cx.state.db.get::<Subnet>(id).await?;
        if s.is_none_or(|s| s.network_id != network_id) {
            let m = format!("Failed to create port on network {network_id}, because fixed_ips included invalid subnet {id}");
            return Err(Error::invalid(format!("Invalid input for operation: {m}.")).code("InvalidInput"));
        }
    }
    Ok(())
}

async fn input(cx: &Ctx<State>, mut a: Attrs) -> Result<PortInput> {
    let network_id = a.required_id("network_id")?;
    let (n, t) = networks::reference(cx, &network_id).await?;
    if !cx.allows("shared", &t) && !cx.allows("admin_or_network_owner", &t) && !cx.auth().creds.has_role("service") {
        // An external network is visible, but ports on it are the routers'.
        return Err(Error::forbidden(format!("rule:create_port is disallowed by policy for network {}", n.id)).code("PolicyNotAuthorized"));
    }
    attribute_rules(cx, &a, "create", &t)?;
    let mac = match a.peek("mac_address") {
        Some(Value::Null) => a.take("mac_address").and(None),
        _ => a.mac("mac_address")?,
    };
    let options = dhcp_options(&mut a)?.unwrap_or_default();
    let i = PortInput {
        project_id: a.project(cx)?,
        network_id,
        name: a.name()?.unwrap_or_default(),
        description: a.description()?.unwrap_or_default(),
        admin_state_up: a.boolean("admin_state_up")?.unwrap_or(true),
        mac_address: mac,
        fixed_ips: wanted_ips(&mut a)?,
        device_id: a.text_or_null("device_id", 255)?.unwrap_or_default(),
        device_owner: a.text_or_null("device_owner", 255)?.unwrap_or_default(),
        security_groups: a.ids("security_groups", 100)?,
        allowed_address_pairs: pairs(&mut a)?.unwrap_or_default(),
        extra_dhcp_opts: options.into_iter().filter(|(_, keep)| *keep).map(|(o, _)| o).collect(),
        host_id: a.text_or_null("binding:host_id", 255)?.unwrap_or_default(),
        profile: profile(&mut a)?.unwrap_or_default(),
        vnic_type: vnic_type(&mut a)?,
        port_security_enabled: a.boolean("port_security_enabled")?,
        dns_name: dns_name(&mut a)?.unwrap_or_default(),
        tags: a.strings("tags", 50)?.unwrap_or_default(),
    };
    a.finish()?;
    check_subnets(cx, i.fixed_ips.as_ref(), &i.network_id).await?;
    Ok(i)
}

async fn create(mut cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let (all, bulk) = Attrs::read(&mut cx, "port", "ports").await?;
    let mut inputs = Vec::with_capacity(all.len());
    for a in all {
        inputs.push(input(&cx, a).await?);
    }
    let made = cx.state.port_create(inputs, is_admin(&cx)).await?;
    let shown = Shown::new(&cx);
    super::created("port", "ports", made.iter().map(|p| view(&cx.state, p, &shown)).collect(), bulk)
}

async fn update(mut cx: Ctx<State>) -> Result<Reply> {
    let (p, t, _) = found(&cx).await?;
    cx.authorize(&t)?;
    let mut a = Attrs::read_one(&mut cx, "port").await?;
    attribute_rules(&cx, &a, "update", &t)?;
    a.frozen(&["id", "tenant_id", "project_id", "network_id", "status"])?;
    let change = PortChange {
        name: a.name()?,
        description: a.description()?,
        admin_state_up: a.boolean("admin_state_up")?,
        mac_address: a.mac("mac_address")?,
        fixed_ips: wanted_ips(&mut a)?,
        device_id: a.text_or_null("device_id", 255)?,
        device_owner: a.text_or_null("device_owner", 255)?,
        security_groups: a.ids("security_groups", 100)?,
        allowed_address_pairs: pairs(&mut a)?,
        extra_dhcp_opts: dhcp_options(&mut a)?,
        host_id: a.text_or_null("binding:host_id", 255)?,
        profile: profile(&mut a)?,
        vnic_type: vnic_type(&mut a)?,
        port_security_enabled: a.boolean("port_security_enabled")?,
        dns_name: dns_name(&mut a)?,
        if_revision: if_revision(&cx)?,
    };
    a.finish()?;
    check_subnets(&cx, change.fixed_ips.as_ref(), &p.network_id).await?;
    let p = cx.state.port_update(p.id, change, is_admin(&cx)).await?;
    Reply::ok(&json!({"port": view(&cx.state, &p, &Shown::new(&cx))}))
}

async fn delete(cx: Ctx<State>) -> Result<Reply> {
    let (p, t, _) = found(&cx).await?;
    cx.authorize(&t)?;
    cx.state.port_delete(p.id, if_revision(&cx)?).await?;
    Ok(Reply::no_content())
}
