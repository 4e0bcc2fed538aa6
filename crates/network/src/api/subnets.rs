//! Subnets.

use super::attrs::Attrs;
use super::list::{self, Kind, Spec};
use super::{View, if_revision, is_admin, networks, with_std};
use crate::logic::net::{invalid_input, parse_ip, version};
use crate::logic::subnets::{GatewayWish, SubnetChange, SubnetInput};
use crate::logic::{State, not_found};
use crate::store::{self, Network, Pool, Subnet, SubnetPool};
use caelum_base::Result;
use caelum_policy::{Target, personas};
use caelum_rest::{Access, Ctx, Op, Reply, h};
use caelum_store::{Filter, Query};
use serde_json::{Value, json};

const READ: &str = "rule:admin_only or (role:reader and project_id:%(project_id)s) or rule:shared";
/// The network's owner makes subnets on it.
const CREATE: &str = "rule:admin_only or (role:member and rule:network_owner)";
const WRITE: &str = "rule:admin_only or (role:member and rule:network_owner) or (role:member and project_id:%(project_id)s)";

pub const OPS: &[Op<State>] = &[
    Op::get("subnet_list", "/subnets", Access::rule("get_subnet", READ, personas::PROJECT), h!(index)),
    Op::post("subnet_create", "/subnets", Access::rule("create_subnet", CREATE, personas::PROJECT), h!(create)),
    Op::get("subnet_show", "/subnets/{id}", Access::rule("get_subnet", READ, personas::PROJECT), h!(show)),
    Op::put("subnet_update", "/subnets/{id}", Access::rule("update_subnet", WRITE, personas::PROJECT), h!(update)),
    Op::delete("subnet_delete", "/subnets/{id}", Access::rule("delete_subnet", WRITE, personas::PROJECT), h!(delete)),
];

const SPEC: Spec = Spec {
    singular: "subnet",
    plural: "subnets",
    columns: &[
        ("id", "id", Kind::Text),
        ("name", "name", Kind::Text),
        ("project_id", "project_id", Kind::Text),
        ("network_id", "network_id", Kind::Text),
        ("description", "description", Kind::Text),
        ("ip_version", "ip_version", Kind::Int),
        ("cidr", "cidr", Kind::Text),
        ("gateway_ip", "gateway_ip", Kind::Text),
        ("enable_dhcp", "enable_dhcp", Kind::Bool),
        ("subnetpool_id", "subnetpool_id", Kind::Text),
        ("revision_number", "revision", Kind::Int),
    ],
    others: &[
        "shared",
        "ipv6_ra_mode",
        "ipv6_address_mode",
        "service_types",
        "segment_id",
        "created_at",
        "updated_at",
        "dns_nameservers",
        "router:external",
    ],
    handled: &[],
};

pub fn view(s: &Subnet) -> View {
    let pools: Vec<Value> = s.pools.iter().map(|p| json!({"start": p.start, "end": p.end})).collect();
    let routes: Vec<Value> = s.host_routes.iter().map(|r| json!({"destination": r.destination, "nexthop": r.nexthop})).collect();
    with_std(
        json!({
            "id": s.id,
            "name": s.name,
            "tenant_id": s.project_id,
            "project_id": s.project_id,
            "network_id": s.network_id,
            "ip_version": s.ip_version,
            "subnetpool_id": s.subnetpool_id,
            "enable_dhcp": s.enable_dhcp,
            "ipv6_ra_mode": s.ipv6_ra_mode,
            "ipv6_address_mode": s.ipv6_address_mode,
            "gateway_ip": s.gateway_ip,
            "cidr": s.cidr.to_string(),
            "allocation_pools": pools,
            "host_routes": routes,
            "dns_nameservers": s.dns_nameservers,
            "service_types": s.service_types,
        }),
        &s.std,
    )
}

/// The subnet with its network, if the caller may see it.
async fn found(cx: &Ctx<State>) -> Result<(Subnet, Target<'static>)> {
    let s: Subnet = super::find(cx, "subnet").await?;
    let n = cx.state.db.get::<Network>(&s.network_id).await?.ok_or_else(|| not_found("subnet", &s.id))?;
    let t = networks::target(cx, &n).await?;
    let mut full = Target::project(s.project_id.clone()).with("network:project_id", n.project_id.clone());
    if cx.allows("shared", &t) {
        full = full.with_bool("shared", true);
    }
    if !cx.allows("get_subnet", &full) {
        return Err(not_found("subnet", &s.id));
    }
    Ok((s, full))
}

/// A subnet the caller may see, for references. Errors: `SubnetNotFound`.
pub async fn reference(cx: &Ctx<State>, id: &str) -> Result<Subnet> {
    let s = cx.state.db.get::<Subnet>(id).await?.ok_or_else(|| not_found("subnet", id))?.into_inner();
    if is_admin(cx) || cx.auth().creds.project_id.as_deref() == Some(&s.project_id) {
        return Ok(s);
    }
    let n = cx.state.db.get::<Network>(&s.network_id).await?.ok_or_else(|| not_found("subnet", id))?;
    let t = networks::target(cx, &n).await?;
    if cx.allows("shared", &t) || cx.allows("network_owner", &t) { Ok(s) } else { Err(not_found("subnet", id)) }
}

async fn index(cx: Ctx<State>) -> Result<Reply> {
    cx.filtered();
    let mut filters = Vec::new();
    if !is_admin(&cx) {
        let project = super::own_rows(&cx, "get_subnet")?;
        let p = project.clone();
        let mut networks = cx
            .state
            .db
            .read(move |tx| {
                let mut ids = store::rbac_objects(tx, "network", &p, "access_as_shared")?;
                ids.extend(store::own_network_ids(tx, &p)?);
                Ok(ids)
            })
            .await?;
        let shared = cx.state.db.list::<Network>(Query::new().eq("shared", true)).await?;
        networks.extend(shared.into_iter().map(|n| n.value.id));
        filters.push(Filter::Any(vec![
            Filter::Eq("project_id", project.into()),
            Filter::In("network_id", networks.into_iter().map(Into::into).collect()),
        ]));
    }
    list::list::<Subnet>(&cx, &SPEC, filters, view).await
}

async fn show(cx: Ctx<State>) -> Result<Reply> {
    let (s, t) = found(&cx).await?;
    cx.authorize(&t)?;
    Reply::ok(&json!({"subnet": list::pick(&cx, view(&s))}))
}

fn gateway(a: &mut Attrs) -> Result<Option<GatewayWish>> {
    match a.nullable("gateway_ip", 64)? {
        None => Ok(None),
        Some(None) => Ok(Some(GatewayWish::None)),
        Some(Some(t)) => {
            let ip = parse_ip(&t).ok_or_else(|| invalid_input("gateway_ip", format!("'{t}' is not a valid IP address")))?;
            Ok(Some(GatewayWish::Address(ip)))
        }
    }
}

fn pools(a: &mut Attrs) -> Result<Option<Vec<Pool>>> {
    let Some(list) = a.objects("allocation_pools", 100)? else { return Ok(None) };
    let mut out = Vec::new();
    for mut p in list {
        let missing = || invalid_input("allocation_pools", "a pool needs start and end");
        out.push(Pool { start: p.ip("start")?.ok_or_else(missing)?, end: p.ip("end")?.ok_or_else(missing)? });
        p.finish()?;
    }
    Ok(Some(out))
}

async fn pool_of(cx: &Ctx<State>, a: &mut Attrs, ip_version: Option<i64>) -> Result<Option<SubnetPool>> {
    let named = a.nullable("subnetpool_id", 64)?.flatten();
    let by_default = a.boolean("use_default_subnetpool")?.unwrap_or(false);
    let found = match named {
        Some(id) => {
            let p = cx.state.db.get::<SubnetPool>(&id).await?;
            let p = p.filter(|p| p.shared || super::is_admin(cx) || cx.auth().creds.project_id.as_deref() == Some(&p.project_id));
            Some(p.ok_or_else(|| not_found("subnetpool", &id))?.into_inner())
        }
        None if by_default => {
            let q = Query::new().eq("is_default", true).eq("ip_version", ip_version.unwrap_or(4));
            let p = cx.state.db.list::<SubnetPool>(q).await?.into_iter().next();
            let none = || caelum_base::Error::not_found("No default subnetpool found.").code("HTTPNotFound");
            Some(p.ok_or_else(none)?.into_inner())
        }
        None => None,
    };
    Ok(found)
}

async fn input(cx: &Ctx<State>, mut a: Attrs) -> Result<SubnetInput> {
    let network_id = a.required_id("network_id")?;
    let (n, t) = networks::reference(cx, &network_id).await?;
    cx.authorize(&t)?;
    if a.has("service_types") && a.peek("service_types") != Some(&json!([])) {
        cx.require("create_subnet:service_types", &t)?;
    }
    let asked = a.integer("ip_version")?;
    let cidr = if a.peek("cidr") == Some(&Value::Null) { a.take("cidr").and(None) } else { a.prefix("cidr")? };
    let pool = pool_of(cx, &mut a, asked).await?;
    let ip_version = match (asked, &cidr, &pool) {
        (Some(4), ..) => 4,
        (Some(6), ..) => 6,
        (Some(v), ..) => return Err(invalid_input("ip_version", format!("'{v}' is not in [4, 6]"))),
        (None, Some(c), _) => version(c.addr()),
        (None, None, Some(p)) => p.ip_version,
        (None, None, None) => return Err(invalid_input("ip_version", "it is not given")),
    };
    let owner = n.project_id;
    let project_id = if a.has("project_id") || a.has("tenant_id") { a.project(cx)? } else { cx.auth().project_id()?.to_string() };
    let project_id = if is_admin(cx) { project_id } else { owner };
    let s = SubnetInput {
        project_id,
        network_id,
        name: a.name()?.unwrap_or_default(),
        description: a.description()?.unwrap_or_default(),
        ip_version,
        cidr,
        prefixlen: a.integer("prefixlen")?.map(u8::try_from).transpose().map_err(|_| invalid_input("prefixlen", "it is out of range"))?,
        subnetpool_id: pool.map(|p| p.id),
        gateway: gateway(&mut a)?.unwrap_or_default(),
        enable_dhcp: a.boolean("enable_dhcp")?.unwrap_or(true),
        pools: pools(&mut a)?,
        dns_nameservers: a.strings("dns_nameservers", 100)?.unwrap_or_default(),
        host_routes: a.routes("host_routes", 100)?.unwrap_or_default(),
        ipv6_ra_mode: a.nullable("ipv6_ra_mode", 32)?.flatten(),
        ipv6_address_mode: a.nullable("ipv6_address_mode", 32)?.flatten(),
        service_types: a.strings("service_types", 20)?.unwrap_or_default(),
    };
    a.finish()?;
    Ok(s)
}

async fn create(mut cx: Ctx<State>) -> Result<Reply> {
    let (all, bulk) = Attrs::read(&mut cx, "subnet", "subnets").await?;
    let mut inputs = Vec::with_capacity(all.len());
    for a in all {
        inputs.push(input(&cx, a).await?);
    }
    let made = cx.state.subnet_create(inputs).await?;
    super::created("subnet", "subnets", made.iter().map(view).collect(), bulk)
}

async fn update(mut cx: Ctx<State>) -> Result<Reply> {
    let (s, t) = found(&cx).await?;
    cx.authorize(&t)?;
    let mut a = Attrs::read_one(&mut cx, "subnet").await?;
    if a.has("service_types") {
        cx.require("update_subnet:service_types", &t)?;
    }
    a.frozen(&["id", "tenant_id", "project_id", "network_id", "cidr", "ip_version", "ipv6_ra_mode", "ipv6_address_mode", "subnetpool_id"])?;
    let change = SubnetChange {
        name: a.name()?,
        description: a.description()?,
        gateway: gateway(&mut a)?,
        enable_dhcp: a.boolean("enable_dhcp")?,
        pools: pools(&mut a)?,
        dns_nameservers: a.strings("dns_nameservers", 100)?,
        host_routes: a.routes("host_routes", 100)?,
        service_types: a.strings("service_types", 20)?,
        if_revision: if_revision(&cx)?,
    };
    a.finish()?;
    let s = cx.state.subnet_update(s.id, change).await?;
    Reply::ok(&json!({"subnet": view(&s)}))
}

async fn delete(cx: Ctx<State>) -> Result<Reply> {
    let (s, t) = found(&cx).await?;
    cx.authorize(&t)?;
    cx.state.subnet_delete(s.id, if_revision(&cx)?).await?;
    Ok(Reply::no_content())
}
