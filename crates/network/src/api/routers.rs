//! Routers.

use super::attrs::Attrs;
use super::list::{self, Kind, Spec};
use super::{View, admin, authorize_found, caller, if_revision, is_admin, member, networks, reader, subnets, with_std};
use crate::logic::ipam::Wanted;
use crate::logic::net::invalid_input;
use crate::logic::routers::{GatewayInput, Leg, LegDone, RouterChange, RouterInput};
use crate::logic::{State, not_found};
use crate::store::{Port, Route, Router};
use caelum_base::Result;
use caelum_policy::Target;
use caelum_rest::{Ctx, Op, Reply, h};
use caelum_store::Filter;
use serde_json::{Value, json};

pub const OPS: &[Op<State>] = &[
    Op::get("router_list", "/routers", reader("get_router"), h!(index)),
    Op::post("router_create", "/routers", member("create_router"), h!(create)),
    Op::get("router_show", "/routers/{id}", reader("get_router"), h!(show)),
    Op::put("router_update", "/routers/{id}", member("update_router"), h!(update)),
    Op::delete("router_delete", "/routers/{id}", member("delete_router"), h!(delete)),
    Op::put("router_interface_add", "/routers/{id}/add_router_interface", member("add_router_interface"), h!(add_interface)),
    Op::put("router_interface_remove", "/routers/{id}/remove_router_interface", member("remove_router_interface"), h!(remove_interface)),
    Op::put("router_routes_add", "/routers/{id}/add_extraroutes", member("add_extraroutes"), h!(add_routes)),
    Op::put("router_routes_remove", "/routers/{id}/remove_extraroutes", member("remove_extraroutes"), h!(remove_routes)),
    Op::get("router_l3_agents", "/routers/{id}/l3-agents", admin("get_l3-agents"), h!(l3_agents)),
];

const SPEC: Spec = Spec {
    singular: "router",
    plural: "routers",
    columns: &[
        ("id", "id", Kind::Text),
        ("name", "name", Kind::Text),
        ("project_id", "project_id", Kind::Text),
        ("description", "description", Kind::Text),
        ("admin_state_up", "admin_state_up", Kind::Bool),
        ("status", "status", Kind::Text),
        ("revision_number", "revision", Kind::Int),
    ],
    others: &["created_at", "updated_at", "routes"],
    handled: &[],
};

fn routes_view(routes: &[Route]) -> Vec<Value> {
    routes.iter().map(|r| json!({"destination": r.destination.to_string(), "nexthop": r.nexthop})).collect()
}

pub fn view(cx: &Ctx<State>, r: &Router) -> View {
    let gateway = r.gateway.as_ref().map(|g| {
        let ips: Vec<Value> = g.fixed_ips.iter().map(|f| json!({"subnet_id": f.subnet_id, "ip_address": f.ip_address})).collect();
        json!({"network_id": g.network_id, "enable_snat": g.enable_snat, "external_fixed_ips": ips})
    });
    with_std(
        json!({
            "id": r.id,
            "name": r.name,
            "tenant_id": r.project_id,
            "project_id": r.project_id,
            "admin_state_up": r.admin_state_up,
            "status": r.status,
            "external_gateway_info": gateway,
            "routes": routes_view(&r.routes),
            "availability_zone_hints": r.az_hints,
            "availability_zones": [cx.state.options.availability_zone],
        }),
        &r.std,
    )
}

async fn index(cx: Ctx<State>) -> Result<Reply> {
    cx.filtered();
    let filters = if is_admin(&cx) { Vec::new() } else { vec![Filter::Eq("project_id", super::own_rows(&cx, "get_router")?.into())] };
    list::list::<Router>(&cx, &SPEC, filters, |r| view(&cx, r)).await
}

async fn found(cx: &Ctx<State>) -> Result<Router> {
    let r: Router = super::find(cx, "router").await?;
    authorize_found(cx, "router", &r.id, &r.project_id)?;
    Ok(r)
}

async fn show(cx: Ctx<State>) -> Result<Reply> {
    let r = found(&cx).await?;
    Reply::ok(&json!({"router": list::pick(&cx, view(&cx, &r))}))
}

/// Reads `external_gateway_info`; null or empty means none.
async fn gateway(cx: &Ctx<State>, a: &mut Attrs, verb: &str, t: &Target<'_>) -> Result<Option<Option<GatewayInput>>> {
    let Some(v) = a.take("external_gateway_info") else { return Ok(None) };
    cx.require(&format!("{verb}_router:external_gateway_info"), t)?;
    if v.is_null() || v == json!({}) {
        return Ok(Some(None));
    }
    let mut g = Attrs::from_value(v).map_err(|_| invalid_input("external_gateway_info", "it is not a dictionary"))?;
    for key in ["enable_snat", "external_fixed_ips"] {
        if g.has(key) {
            cx.require(&format!("{verb}_router:external_gateway_info:{key}"), t)?;
        }
    }
    let network_id = g.required_id("network_id")?;
    networks::reference(cx, &network_id).await?;
    let fixed_ips = match g.objects("external_fixed_ips", 10)? {
        None => None,
        Some(list) => {
            let mut out = Vec::new();
            for mut f in list {
                out.push(Wanted { subnet_id: f.id_or_null("subnet_id")?.flatten(), ip_address: f.ip("ip_address")? });
                f.finish()?;
            }
            Some(out)
        }
    };
    let enable_snat = g.boolean("enable_snat")?;
    g.finish()?;
    Ok(Some(Some(GatewayInput { network_id, enable_snat, fixed_ips })))
}

async fn create(mut cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let mut a = Attrs::read_one(&mut cx, "router").await?;
    let t = Target::project(cx.auth().project_id()?.to_string());
    let gateway = gateway(&cx, &mut a, "create", &t).await?.flatten();
    let i = RouterInput {
        project_id: a.project(&cx)?,
        name: a.name()?.unwrap_or_default(),
        description: a.description()?.unwrap_or_default(),
        admin_state_up: a.boolean("admin_state_up")?.unwrap_or(true),
        gateway,
        az_hints: a.strings("availability_zone_hints", 10)?.unwrap_or_default(),
    };
    networks::check_zones(&cx, &i.az_hints)?;
    a.finish()?;
    let r = cx.state.router_create(i).await?;
    Reply::json(201, &json!({"router": view(&cx, &r)}))
}

async fn update(mut cx: Ctx<State>) -> Result<Reply> {
    let r = found(&cx).await?;
    let mut a = Attrs::read_one(&mut cx, "router").await?;
    a.frozen(&["id", "tenant_id", "project_id", "status"])?;
    let t = Target::project(r.project_id.clone());
    let change = RouterChange {
        gateway: gateway(&cx, &mut a, "update", &t).await?,
        name: a.name()?,
        description: a.description()?,
        admin_state_up: a.boolean("admin_state_up")?,
        routes: a.routes("routes", 100)?,
        if_revision: if_revision(&cx)?,
    };
    a.finish()?;
    let r = cx.state.router_update(r.id, change).await?;
    Reply::ok(&json!({"router": view(&cx, &r)}))
}

async fn delete(cx: Ctx<State>) -> Result<Reply> {
    let r = found(&cx).await?;
    cx.state.router_delete(r.id).await?;
    Ok(Reply::no_content())
}

async fn read_leg(cx: &mut Ctx<State>) -> Result<Leg> {
    let mut a = Attrs::from_value(cx.json().await?)?;
    let leg = Leg { subnet_id: a.id_or_null("subnet_id")?.flatten(), port_id: a.id_or_null("port_id")?.flatten() };
    for k in ["tenant_id", "project_id"] {
        a.take(k);
    }
    a.finish()?;
    Ok(leg)
}

fn leg_view(d: &LegDone) -> Value {
    json!({
        "id": d.router.id,
        "tenant_id": d.router.project_id,
        "project_id": d.router.project_id,
        "port_id": d.port_id,
        "network_id": d.network_id,
        "subnet_id": d.subnet_ids.first(),
        "subnet_ids": d.subnet_ids,
        "tags": d.router.std.tags,
    })
}

async fn add_interface(mut cx: Ctx<State>) -> Result<Reply> {
    let r = found(&cx).await?;
    let leg = read_leg(&mut cx).await?;
    if let Some(s) = &leg.subnet_id {
        subnets::reference(&cx, s).await?;
    }
    if let Some(id) = &leg.port_id {
        let who = caller(&cx);
        let p = cx.state.db.get::<Port>(id).await?.filter(|p| who.admin || p.project_id == who.project_id);
        p.ok_or_else(|| not_found("port", id))?;
    }
    let done = cx.state.router_add_interface(r.id, leg).await?;
    Reply::ok(&leg_view(&done))
}

async fn remove_interface(mut cx: Ctx<State>) -> Result<Reply> {
    let r = found(&cx).await?;
    let leg = read_leg(&mut cx).await?;
    let done = cx.state.router_remove_interface(r.id, leg).await?;
    Reply::ok(&leg_view(&done))
}

async fn change_routes(mut cx: Ctx<State>, add: bool) -> Result<Reply> {
    let r = found(&cx).await?;
    let mut a = Attrs::read_one(&mut cx, "router").await?;
    let routes = a.routes("routes", 100)?.unwrap_or_default();
    a.finish()?;
    let r = cx.state.router_routes(r.id, routes, add).await?;
    Reply::ok(&json!({"router": view(&cx, &r)}))
}

async fn add_routes(cx: Ctx<State>) -> Result<Reply> {
    change_routes(cx, true).await
}

async fn remove_routes(cx: Ctx<State>) -> Result<Reply> {
    change_routes(cx, false).await
}

async fn l3_agents(cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let r: Router = super::find(&cx, "router").await?;
    let agents = if r.unhosted { Vec::new() } else { super::availability::l3_agents(&cx) };
    Reply::ok(&json!({"agents": agents}))
}
