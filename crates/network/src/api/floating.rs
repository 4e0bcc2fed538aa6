//! Floating addresses.

use super::attrs::Attrs;
use super::list::{self, Kind, Spec};
use super::{View, authorize_found, caller, if_revision, is_admin, member, networks, reader, with_std};
use crate::logic::State;
use crate::logic::floating::{FloatingChange, FloatingInput};
use crate::store::{FloatingIp, Port};
use caelum_base::Result;
use caelum_policy::Target;
use caelum_rest::{Ctx, Op, Reply, h};
use caelum_store::{Filter, Query};
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub const OPS: &[Op<State>] = &[
    Op::get("floatingip_list", "/floatingips", reader("get_floatingip"), h!(index)),
    Op::post("floatingip_create", "/floatingips", member("create_floatingip"), h!(create)),
    Op::get("floatingip_show", "/floatingips/{id}", reader("get_floatingip"), h!(show)),
    Op::put("floatingip_update", "/floatingips/{id}", member("update_floatingip"), h!(update)),
    Op::delete("floatingip_delete", "/floatingips/{id}", member("delete_floatingip"), h!(delete)),
];

const SPEC: Spec = Spec {
    singular: "floatingip",
    plural: "floatingips",
    columns: &[
        ("id", "id", Kind::Text),
        ("project_id", "project_id", Kind::Text),
        ("description", "description", Kind::Text),
        ("floating_network_id", "floating_network_id", Kind::Text),
        ("floating_ip_address", "floating_ip_address", Kind::Text),
        ("fixed_ip_address", "fixed_ip_address", Kind::Text),
        ("port_id", "port_id", Kind::Text),
        ("router_id", "router_id", Kind::Text),
        ("status", "status", Kind::Text),
        ("revision_number", "revision", Kind::Int),
    ],
    others: &["created_at", "updated_at"],
    handled: &[],
};

fn view(f: &FloatingIp, port: Option<&Port>) -> View {
    let details = port.map(|p| {
        json!({
            "name": p.name,
            "network_id": p.network_id,
            "mac_address": p.mac_address,
            "admin_state_up": p.admin_state_up,
            "status": p.status,
            "device_id": p.device_id,
            "device_owner": p.device_owner,
        })
    });
    with_std(
        json!({
            "id": f.id,
            "tenant_id": f.project_id,
            "project_id": f.project_id,
            "floating_network_id": f.floating_network_id,
            "floating_ip_address": f.floating_ip_address,
            "port_id": f.port_id,
            "fixed_ip_address": f.fixed_ip_address,
            "router_id": f.router_id,
            "status": f.status,
            "port_details": details,
        }),
        &f.std,
    )
}

async fn full_view(cx: &Ctx<State>, f: &FloatingIp) -> Result<View> {
    let port = match &f.port_id {
        Some(id) => cx.state.db.get::<Port>(id).await?,
        None => None,
    };
    Ok(view(f, port.as_deref()))
}

async fn index(cx: Ctx<State>) -> Result<Reply> {
    cx.filtered();
    let filters = if is_admin(&cx) { Vec::new() } else { vec![Filter::Eq("project_id", super::own_rows(&cx, "get_floatingip")?.into())] };
    let mut q = Query::new().filter(Filter::NotNull("port_id"));
    q.filters.extend(filters.iter().cloned());
    let ports: BTreeMap<String, Port> = cx
        .state
        .db
        .read(move |tx| {
            let mut out = BTreeMap::new();
            for f in tx.list::<FloatingIp>(&q)? {
                if let Some(id) = &f.port_id
                    && let Some(p) = tx.get::<Port>(id)?
                {
                    out.insert(id.clone(), p.value);
                }
            }
            Ok(out)
        })
        .await?;
    list::list::<FloatingIp>(&cx, &SPEC, filters, |f| view(f, f.port_id.as_ref().and_then(|id| ports.get(id)))).await
}

async fn found(cx: &Ctx<State>) -> Result<FloatingIp> {
    let f: FloatingIp = super::find(cx, "floatingip").await?;
    authorize_found(cx, "floatingip", &f.id, &f.project_id)?;
    Ok(f)
}

async fn show(cx: Ctx<State>) -> Result<Reply> {
    let f = found(&cx).await?;
    let v = full_view(&cx, &f).await?;
    Reply::ok(&json!({"floatingip": list::pick(&cx, v)}))
}

/// An address, null or absent.
fn address(a: &mut Attrs, key: &str) -> Result<Option<std::net::IpAddr>> {
    if matches!(a.peek(key), Some(Value::Null)) {
        a.take(key);
        return Ok(None);
    }
    a.ip(key)
}

async fn create(mut cx: Ctx<State>) -> Result<Reply> {
    cx.authorize_own()?;
    let mut a = Attrs::read_one(&mut cx, "floatingip").await?;
    let floating_network_id = a.required_id("floating_network_id")?;
    networks::reference(&cx, &floating_network_id).await?;
    let floating_ip_address = address(&mut a, "floating_ip_address")?;
    if floating_ip_address.is_some() {
        cx.require("create_floatingip:floating_ip_address", &Target::project(cx.auth().project_id()?.to_string()))?;
    }
    let i = FloatingInput {
        project_id: a.project(&cx)?,
        floating_network_id,
        subnet_id: a.id_or_null("subnet_id")?.flatten(),
        floating_ip_address,
        port_id: a.id_or_null("port_id")?.flatten(),
        fixed_ip_address: address(&mut a, "fixed_ip_address")?,
        description: a.text_or_null("description", 255)?.unwrap_or_default(),
        tags: a.strings("tags", 50)?.unwrap_or_default(),
    };
    a.finish()?;
    let f = cx.state.floating_create(i, caller(&cx)).await?;
    let v = full_view(&cx, &f).await?;
    Reply::json(201, &json!({"floatingip": v}))
}

async fn update(mut cx: Ctx<State>) -> Result<Reply> {
    let f = found(&cx).await?;
    let mut a = Attrs::read_one(&mut cx, "floatingip").await?;
    a.frozen(&["id", "tenant_id", "project_id", "floating_network_id", "floating_ip_address", "router_id", "status"])?;
    let change = FloatingChange {
        port_id: a.id_or_null("port_id")?,
        fixed_ip_address: address(&mut a, "fixed_ip_address")?,
        description: a.text_or_null("description", 255)?,
        if_revision: if_revision(&cx)?,
    };
    a.finish()?;
    let f = cx.state.floating_update(f.id, change, caller(&cx)).await?;
    let v = full_view(&cx, &f).await?;
    Reply::ok(&json!({"floatingip": v}))
}

async fn delete(cx: Ctx<State>) -> Result<Reply> {
    let f = found(&cx).await?;
    cx.state.floating_delete(f.id).await?;
    Ok(Reply::no_content())
}
