//! Networks.

use super::attrs::{Attrs, check_id};
use super::list::{self, Kind, Spec};
use super::{View, admin, if_revision, is_admin, member, with_std};
use crate::logic::networks::{NetworkChange, NetworkInput};
use crate::logic::{State, not_found};
use crate::store::{self, Network, Subnet};
use caelum_base::{Error, Result};
use caelum_policy::{Target, personas};
use caelum_rest::{Access, Ctx, Op, Reply, h};
use caelum_store::{Filter, Query};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

const READ: &str =
    "rule:admin_only or (role:reader and project_id:%(project_id)s) or rule:shared or rule:external or rule:context_is_advsvc";

pub const OPS: &[Op<State>] = &[
    Op::get("network_list", "/networks", Access::rule("get_network", READ, personas::PROJECT), h!(index)),
    Op::post("network_create", "/networks", member("create_network"), h!(create)),
    Op::get("network_show", "/networks/{id}", Access::rule("get_network", READ, personas::PROJECT), h!(show)),
    Op::put("network_update", "/networks/{id}", member("update_network"), h!(update)),
    Op::delete("network_delete", "/networks/{id}", member("delete_network"), h!(delete)),
    Op::get("network_dhcp_agents", "/networks/{id}/dhcp-agents", admin("get_dhcp-agents"), h!(super::availability::dhcp_agents)),
];

const SPEC: Spec = Spec {
    singular: "network",
    plural: "networks",
    columns: &[
        ("id", "id", Kind::Text),
        ("name", "name", Kind::Text),
        ("project_id", "project_id", Kind::Text),
        ("description", "description", Kind::Text),
        ("admin_state_up", "admin_state_up", Kind::Bool),
        ("router:external", "external", Kind::Bool),
        ("is_default", "is_default", Kind::Bool),
        ("provider:network_type", "network_type", Kind::Text),
        ("provider:physical_network", "physical_network", Kind::Text),
        ("provider:segmentation_id", "segmentation_id", Kind::Int),
        ("mtu", "mtu", Kind::Int),
        ("revision_number", "revision", Kind::Int),
    ],
    others: &["shared", "status", "subnets", "port_security_enabled", "created_at", "updated_at", "dns_domain"],
    handled: &[],
};

/// What views need that the network's row does not say.
pub struct Extras {
    /// Subnet ids by network.
    subnets: BTreeMap<String, Vec<String>>,
    /// Networks shared with the caller's project by policy.
    shared: BTreeSet<String>,
    provider: bool,
    zone: String,
}

impl Extras {
    /// `one` limits the look-up to a network.
    pub async fn load(cx: &Ctx<State>, one: Option<&str>) -> Result<Self> {
        let project = cx.auth().creds.project_id.clone().unwrap_or_default();
        let mut q = Query::new();
        if let Some(id) = one {
            q = q.eq("network_id", id);
        }
        let (rows, shared) = cx
            .state
            .db
            .read(move |tx| Ok((tx.list::<Subnet>(&q)?, store::rbac_objects(tx, "network", &project, "access_as_shared")?)))
            .await?;
        let mut subnets: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for s in rows {
            subnets.entry(s.network_id.clone()).or_default().push(s.value.id);
        }
        let provider = cx.allows("get_network:provider:network_type", &Target::new());
        Ok(Self { subnets, shared: shared.into_iter().collect(), provider, zone: cx.state.options.availability_zone.clone() })
    }
}

pub fn view(n: &Network, x: &Extras) -> View {
    let subnets = x.subnets.get(&n.id).cloned().unwrap_or_default();
    let mut v = with_std(
        json!({
            "id": n.id,
            "name": n.name,
            "tenant_id": n.project_id,
            "project_id": n.project_id,
            "admin_state_up": n.admin_state_up,
            "mtu": n.mtu,
            "status": "ACTIVE",
            "subnets": subnets,
            "shared": n.shared || x.shared.contains(&n.id),
            "availability_zone_hints": n.az_hints,
            "availability_zones": if subnets.is_empty() { vec![] } else { vec![x.zone.clone()] },
            "ipv4_address_scope": null,
            "ipv6_address_scope": null,
            "router:external": n.external,
            "port_security_enabled": n.port_security_enabled,
        }),
        &n.std,
    );
    if n.external {
        v.insert("is_default".into(), n.is_default.into());
    }
    if x.provider {
        v.insert("provider:network_type".into(), n.network_type.clone().into());
        v.insert("provider:physical_network".into(), json!(n.physical_network));
        v.insert("provider:segmentation_id".into(), json!(n.segmentation_id));
    }
    v
}

/// What a caller who is no administrator sees of networks: its own, shared and external ones.
pub async fn visible(cx: &Ctx<State>) -> Result<Vec<Filter>> {
    if is_admin(cx) {
        return Ok(Vec::new());
    }
    let p = cx.auth().project_id()?.to_string();
    let opened = cx
        .state
        .db
        .read(move |tx| {
            let mut ids = store::rbac_objects(tx, "network", &p, "access_as_shared")?;
            for who in [p.as_str(), "*"] {
                ids.extend(store::rbac_objects(tx, "network", who, "access_as_external")?);
            }
            Ok(ids)
        })
        .await?;
    Ok(vec![Filter::Any(vec![
        Filter::Eq("project_id", super::own_rows(cx, "get_network")?.into()),
        Filter::Eq("shared", true.into()),
        Filter::In("id", opened.into_iter().map(Into::into).collect()),
    ])])
}

/// What policy is told about a network.
pub async fn target(cx: &Ctx<State>, n: &Network) -> Result<Target<'static>> {
    let project = cx.auth().creds.project_id.clone().unwrap_or_default();
    let id = n.id.clone();
    let (shared, external) = cx
        .state
        .db
        .read(move |tx| {
            let shared = store::rbac_allows(tx, "network", &id, &project, "access_as_shared")?;
            Ok((shared, store::rbac_allows(tx, "network", &id, &project, "access_as_external")?))
        })
        .await?;
    Ok(Target::project(n.project_id.clone())
        .with("network:project_id", n.project_id.clone())
        .with_bool("shared", n.shared || shared)
        .with_bool("router:external", external))
}

/// A network the caller may see, for references from other resources. Errors: `NetworkNotFound`.
pub async fn reference(cx: &Ctx<State>, id: &str) -> Result<(Network, Target<'static>)> {
    check_id("network_id", id)?;
    let n = cx.state.db.get::<Network>(id).await?.ok_or_else(|| not_found("network", id))?.into_inner();
    let t = target(cx, &n).await?;
    if !is_admin(cx) && !cx.allows("get_network", &t) {
        return Err(not_found("network", id));
    }
    Ok((n, t))
}

async fn index(cx: Ctx<State>) -> Result<Reply> {
    cx.filtered();
    let filters = visible(&cx).await?;
    let x = Extras::load(&cx, None).await?;
    list::list::<Network>(&cx, &SPEC, filters, |n| view(n, &x)).await
}

async fn show(cx: Ctx<State>) -> Result<Reply> {
    let n: Network = super::find(&cx, "network").await?;
    let t = target(&cx, &n).await?;
    cx.authorize(&t).map_err(|_| not_found("network", &n.id))?;
    let x = Extras::load(&cx, Some(&n.id)).await?;
    Reply::ok(&json!({"network": list::pick(&cx, view(&n, &x))}))
}

fn provider(a: &mut Attrs, n: &mut NetworkInput) -> Result<()> {
    n.network_type = a.nullable("provider:network_type", 255)?.flatten();
    n.physical_network = a.nullable("provider:physical_network", 255)?.flatten();
    n.segmentation_id = a.integer("provider:segmentation_id")?;
    let Some(segments) = a.objects("segments", 2)? else { return Ok(()) };
    if n.network_type.is_some() || segments.len() != 1 {
        return Err(Error::invalid("Invalid input for segments. Reason: exactly one segment is supported.").code("HTTPBadRequest"));
    }
    segments.into_iter().try_for_each(|mut s| {
        provider(&mut s, n)?;
        s.finish()
    })
}

fn input(cx: &Ctx<State>, mut a: Attrs) -> Result<NetworkInput> {
    let t = Target::project(cx.auth().project_id()?.to_string());
    for key in ["shared", "router:external", "is_default", "port_security_enabled"] {
        let harmless = key != "port_security_enabled" && a.keys().iter().any(|k| k == key) && is_false(&a, key);
        if a.has(key) && !harmless {
            cx.require(&format!("create_network:{key}"), &t)?;
        }
    }
    for key in ["provider:network_type", "provider:physical_network", "provider:segmentation_id"] {
        if a.has(key) || a.has("segments") {
            cx.require(&format!("create_network:{key}"), &t)?;
        }
    }
    let mut n = NetworkInput {
        project_id: a.project(cx)?,
        name: a.name()?.unwrap_or_default(),
        description: a.description()?.unwrap_or_default(),
        admin_state_up: a.boolean("admin_state_up")?.unwrap_or(true),
        shared: a.boolean("shared")?.unwrap_or(false),
        external: a.boolean("router:external")?.unwrap_or(false),
        is_default: a.boolean("is_default")?.unwrap_or(false),
        mtu: a.integer("mtu")?,
        port_security_enabled: a.boolean("port_security_enabled")?.unwrap_or(true),
        az_hints: a.strings("availability_zone_hints", 10)?.unwrap_or_default(),
        ..NetworkInput::default()
    };
    check_zones(cx, &n.az_hints)?;
    provider(&mut a, &mut n)?;
    a.finish()?;
    Ok(n)
}

fn is_false(a: &Attrs, key: &str) -> bool {
    matches!(a.peek(key), Some(Value::Bool(false)))
}

/// Refuses zones that do not exist.
pub fn check_zones(cx: &Ctx<State>, hints: &[String]) -> Result<()> {
    match hints.iter().find(|h| **h != cx.state.options.availability_zone) {
        Some(h) => Err(Error::not_found(format!("AvailabilityZone {h} could not be found.")).code("AvailabilityZoneNotFound")),
        None => Ok(()),
    }
}

async fn create(mut cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let (all, bulk) = Attrs::read(&mut cx, "network", "networks").await?;
    let inputs = all.into_iter().map(|a| input(&cx, a)).collect::<Result<Vec<_>>>()?;
    let made = cx.state.network_create(inputs).await?;
    let x = Extras::load(&cx, Some("")).await?;
    let views: Vec<View> = made.iter().map(|n| view(n, &x)).collect();
    super::created("network", "networks", views, bulk)
}

async fn update(mut cx: Ctx<State>) -> Result<Reply> {
    let n: Network = super::find(&cx, "network").await?;
    let t = target(&cx, &n).await?;
    authorize_update(&cx, &n, &t)?;
    let mut a = Attrs::read_one(&mut cx, "network").await?;
    for key in ["shared", "router:external", "is_default", "port_security_enabled"] {
        if a.has(key) {
            cx.require(&format!("update_network:{key}"), &t)?;
        }
    }
    a.frozen(&[
        "id",
        "tenant_id",
        "project_id",
        "provider:network_type",
        "provider:physical_network",
        "provider:segmentation_id",
        "status",
    ])?;
    let change = NetworkChange {
        name: a.name()?,
        description: a.description()?,
        admin_state_up: a.boolean("admin_state_up")?,
        shared: a.boolean("shared")?,
        external: a.boolean("router:external")?,
        is_default: a.boolean("is_default")?,
        mtu: a.integer("mtu")?,
        port_security_enabled: a.boolean("port_security_enabled")?,
        dns_domain: None,
        if_revision: if_revision(&cx)?,
    };
    a.finish()?;
    let n = cx.state.network_update(n.id, change).await?;
    let x = Extras::load(&cx, Some(&n.id)).await?;
    Reply::ok(&json!({"network": view(&n, &x)}))
}

/// Forbidden for a network one sees but does not own, unknown for one that is invisible.
fn authorize_update(cx: &Ctx<State>, n: &Network, t: &Target<'_>) -> Result<()> {
    let verdict = cx.authorize(&Target::project(n.project_id.clone()));
    if verdict.is_err() && !cx.allows("get_network", t) {
        return Err(not_found("network", &n.id));
    }
    verdict
}

async fn delete(cx: Ctx<State>) -> Result<Reply> {
    let n: Network = super::find(&cx, "network").await?;
    let t = target(&cx, &n).await?;
    authorize_update(&cx, &n, &t)?;
    cx.state.network_delete(n.id, if_revision(&cx)?).await?;
    Ok(Reply::no_content())
}
