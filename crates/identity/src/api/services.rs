//! The catalog's services and endpoints.

use super::fields::{Cx, Fields, merge_extra};
use super::lists::{load, reply, url};
use super::rules::{ADMIN, ADMIN_OR_SYSTEM_READER, ruled};
use super::{found, guard, not_found};
use crate::logic::{catalog, lifecycle};
use crate::state::Identity;
use crate::store::{CatalogService, Endpoint, Extra, Region};
use caelum_base::{Error, Result};
use caelum_rest::{Op, Reply, h};
use caelum_store::{Stored, Tx};
use serde_json::{Value, json};

pub const OPS: &[Op<Identity>] = &[
    Op::get("service_list", "/services", ruled("identity:list_services", ADMIN_OR_SYSTEM_READER), h!(service_list)),
    Op::post("service_create", "/services", ruled("identity:create_service", ADMIN), h!(service_create)),
    Op::get("service_show", "/services/{service_id}", ruled("identity:get_service", ADMIN_OR_SYSTEM_READER), h!(service_show)),
    Op::patch("service_update", "/services/{service_id}", ruled("identity:update_service", ADMIN), h!(service_update)),
    Op::delete("service_delete", "/services/{service_id}", ruled("identity:delete_service", ADMIN), h!(service_delete)),
    Op::get("endpoint_list", "/endpoints", ruled("identity:list_endpoints", ADMIN_OR_SYSTEM_READER), h!(endpoint_list)),
    Op::post("endpoint_create", "/endpoints", ruled("identity:create_endpoint", ADMIN), h!(endpoint_create)),
    Op::get("endpoint_show", "/endpoints/{endpoint_id}", ruled("identity:get_endpoint", ADMIN_OR_SYSTEM_READER), h!(endpoint_show)),
    Op::patch("endpoint_update", "/endpoints/{endpoint_id}", ruled("identity:update_endpoint", ADMIN), h!(endpoint_update)),
    Op::delete("endpoint_delete", "/endpoints/{endpoint_id}", ruled("identity:delete_endpoint", ADMIN), h!(endpoint_delete)),
];

fn service_view(cx: &Cx, s: &CatalogService) -> Value {
    let mut v = s.extra.clone();
    v.insert("id".into(), json!(s.id));
    v.insert("type".into(), json!(s.kind));
    v.insert("name".into(), json!(s.name));
    v.insert("enabled".into(), json!(s.enabled));
    if let Some(d) = &s.description {
        v.insert("description".into(), json!(d));
    }
    v.insert("links".into(), json!({"self": url(cx, &format!("services/{}", s.id))}));
    Value::Object(v)
}

async fn find_service(cx: &Cx) -> Result<Stored<CatalogService>> {
    let id = cx.param("service_id");
    let service = cx.state.db.get::<CatalogService>(id).await?;
    found(cx, "service", id, service, |_| Value::Null)
}

async fn service_list(cx: Cx) -> Result<Reply> {
    guard(&cx, &Value::Null)?;
    let rows: Vec<CatalogService> = load(&cx, &[("type", "type"), ("name", "name")], Vec::new()).await?;
    reply(&cx, "services", rows.iter().map(|s| service_view(&cx, s)).collect(), &["type", "name"])
}

async fn service_create(mut cx: Cx) -> Result<Reply> {
    guard(&cx, &Value::Null)?;
    let mut f = Fields::read(&mut cx, "service").await?;
    let mut s = CatalogService {
        id: cx.env.hex_id(),
        kind: f.require_name("type", 255)?,
        name: f.name("name", 255)?.unwrap_or_default(),
        enabled: f.boolean("enabled")?.unwrap_or(true),
        description: f.text("description")?.flatten(),
        extra: Extra::new(),
    };
    s.extra = f.extra()?;
    let made = cx.state.write(move |tx| tx.insert(&s)).await?;
    Reply::json(201, &json!({"service": service_view(&cx, &made)}))
}

async fn service_show(cx: Cx) -> Result<Reply> {
    let s = find_service(&cx).await?;
    Reply::ok(&json!({"service": service_view(&cx, &s)}))
}

async fn service_update(mut cx: Cx) -> Result<Reply> {
    let s = find_service(&cx).await?;
    let mut f = Fields::read(&mut cx, "service").await?;
    let (kind, name, enabled) = (f.name("type", 255)?, f.name("name", 255)?, f.boolean("enabled")?);
    let (description, extra, id) = (f.text("description")?, f.extra()?, s.id.clone());
    let done = cx
        .state
        .write(move |tx| {
            let mut s = tx.get::<CatalogService>(&id)?.ok_or_else(|| not_found("service", &id))?;
            if let Some(k) = &kind {
                s.kind.clone_from(k);
            }
            if let Some(n) = &name {
                s.name.clone_from(n);
            }
            if let Some(d) = &description {
                s.description.clone_from(d);
            }
            s.enabled = enabled.unwrap_or(s.enabled);
            merge_extra(&mut s.value.extra, extra.clone());
            tx.update(&mut s)?;
            Ok(s.value)
        })
        .await?;
    Reply::ok(&json!({"service": service_view(&cx, &done)}))
}

async fn service_delete(cx: Cx) -> Result<Reply> {
    let s = find_service(&cx).await?;
    let id = s.id.clone();
    cx.state.write(move |tx| lifecycle::delete_service(tx, &id)).await?;
    Ok(Reply::no_content())
}

// Endpoints

pub fn endpoint_view(cx: &Cx, e: &Endpoint) -> Value {
    let mut v = e.extra.clone();
    v.insert("id".into(), json!(e.id));
    v.insert("service_id".into(), json!(e.service_id));
    v.insert("interface".into(), json!(e.interface));
    v.insert("region_id".into(), json!(e.region_id));
    v.insert("region".into(), json!(e.region_id));
    v.insert("url".into(), json!(e.url));
    v.insert("enabled".into(), json!(e.enabled));
    v.insert("links".into(), json!({"self": url(cx, &format!("endpoints/{}", e.id))}));
    Value::Object(v)
}

async fn find_endpoint(cx: &Cx) -> Result<Stored<Endpoint>> {
    let id = cx.param("endpoint_id");
    let endpoint = cx.state.db.get::<Endpoint>(id).await?;
    found(cx, "endpoint", id, endpoint, |_| Value::Null)
}

async fn endpoint_list(cx: Cx) -> Result<Reply> {
    guard(&cx, &Value::Null)?;
    let columns = [("service_id", "service_id"), ("interface", "interface"), ("region_id", "region_id"), ("region", "region_id")];
    let rows: Vec<Endpoint> = load(&cx, &columns, Vec::new()).await?;
    reply(&cx, "endpoints", rows.iter().map(|e| endpoint_view(&cx, e)).collect(), &["interface", "service_id", "region_id"])
}

/// What a body says of an endpoint.
#[derive(Clone)]
struct EndpointChange {
    interface: Option<String>,
    service_id: Option<String>,
    /// The old way to name a region: it is made when missing.
    region: Option<Option<String>>,
    region_id: Option<Option<String>>,
    url: Option<String>,
    enabled: Option<bool>,
    extra: Extra,
}

impl EndpointChange {
    fn read(mut f: Fields) -> Result<Self> {
        let c = Self {
            interface: f.name("interface", 8)?,
            service_id: f.id("service_id")?.flatten(),
            region: f.id("region")?,
            region_id: f.id("region_id")?,
            url: f.name("url", 2_048)?,
            enabled: f.boolean("enabled")?,
            extra: f.extra()?,
        };
        if c.interface.as_deref().is_some_and(|i| !matches!(i, "public" | "internal" | "admin")) {
            return Err(Error::invalid("Invalid input for field 'interface': it is one of admin, internal, public"));
        }
        if c.url.as_deref().is_some_and(|u| !catalog::valid_template(u)) {
            return Err(Error::invalid("Invalid input for field 'url': it has a place that the catalog cannot fill"));
        }
        Ok(c)
    }

    fn apply(&self, tx: &mut Tx<'_>, e: &mut Endpoint) -> Result<()> {
        if let Some(s) = &self.service_id {
            if tx.get::<CatalogService>(s)?.is_none() {
                return Err(Error::invalid(format!("service {s} does not exist")));
            }
            e.service_id.clone_from(s);
        }
        if let Some(r) = &self.region {
            if let Some(r) = r {
                catalog::ensure_region(tx, r)?;
            }
            e.region_id.clone_from(r);
        }
        if let Some(r) = &self.region_id {
            if let Some(r) = r
                && tx.get::<Region>(r)?.is_none()
            {
                return Err(Error::invalid(format!("region {r} does not exist")));
            }
            e.region_id.clone_from(r);
        }
        if let Some(i) = &self.interface {
            e.interface.clone_from(i);
        }
        if let Some(u) = &self.url {
            e.url.clone_from(u);
        }
        e.enabled = self.enabled.unwrap_or(e.enabled);
        merge_extra(&mut e.extra, self.extra.clone());
        Ok(())
    }
}

async fn endpoint_create(mut cx: Cx) -> Result<Reply> {
    guard(&cx, &Value::Null)?;
    let change = EndpointChange::read(Fields::read(&mut cx, "endpoint").await?)?;
    for (key, there) in
        [("interface", change.interface.is_some()), ("service_id", change.service_id.is_some()), ("url", change.url.is_some())]
    {
        if !there {
            return Err(Error::invalid(format!("'{key}' is a required property")));
        }
    }
    let id = cx.env.hex_id();
    let made = cx
        .state
        .write(move |tx| {
            let mut e = Endpoint {
                id: id.clone(),
                service_id: String::new(),
                region_id: None,
                interface: String::new(),
                url: String::new(),
                enabled: true,
                extra: Extra::new(),
            };
            change.apply(tx, &mut e)?;
            tx.insert(&e)
        })
        .await?;
    Reply::json(201, &json!({"endpoint": endpoint_view(&cx, &made)}))
}

async fn endpoint_show(cx: Cx) -> Result<Reply> {
    let e = find_endpoint(&cx).await?;
    Reply::ok(&json!({"endpoint": endpoint_view(&cx, &e)}))
}

async fn endpoint_update(mut cx: Cx) -> Result<Reply> {
    let e = find_endpoint(&cx).await?;
    let change = EndpointChange::read(Fields::read(&mut cx, "endpoint").await?)?;
    let id = e.id.clone();
    let done = cx
        .state
        .write(move |tx| {
            let mut e = tx.get::<Endpoint>(&id)?.ok_or_else(|| not_found("endpoint", &id))?;
            change.apply(tx, &mut e.value)?;
            tx.update(&mut e)?;
            Ok(e.value)
        })
        .await?;
    Reply::ok(&json!({"endpoint": endpoint_view(&cx, &done)}))
}

async fn endpoint_delete(cx: Cx) -> Result<Reply> {
    let e = find_endpoint(&cx).await?;
    let id = e.id.clone();
    cx.state.write(move |tx| catalog::drop_endpoint(tx, &id)).await?;
    Ok(Reply::no_content())
}
