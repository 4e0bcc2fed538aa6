//! Invariants that hold whenever nothing runs, checked over all services; with `heal`, restored.
//! One line of text per finding.

use crate::State;
use crate::flows::delete::DeleteServer;
use crate::logic::create::new_action;
use crate::logic::scheduler::{self, Request};
use crate::logic::{network, volumes};
use crate::store::actions;
use crate::store::servers::{Fault, Server, Task, VmState};
use caelum_base::Result;
use caelum_store::{Filter, Query};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

/// Runs every check.
pub async fn audit(state: &Arc<State>, heal: bool) -> Result<Vec<String>> {
    let mut out = stuck(state, heal).await?;
    out.extend(state.flows.overdue().await?);
    let rows: BTreeMap<String, Server> =
        state.db.list::<Server>(Query::new()).await?.into_iter().map(|s| (s.id.clone(), s.value)).collect();
    out.extend(guests(state, &rows, heal).await?);
    out.extend(allocations(state, &rows, heal).await?);
    out.extend(ports(state, &rows, heal).await?);
    out.extend(attachments(state, &rows, heal).await?);
    if heal {
        state.db.write(actions::prune).await?;
    }
    Ok(out)
}

/// Servers that say they are busy while no flow works on them.
async fn stuck(state: &Arc<State>, heal: bool) -> Result<Vec<String>> {
    let busy = state.db.list::<Server>(Query::new().filter(Filter::NotNull("task"))).await?;
    let mut out = Vec::new();
    for s in busy {
        let (app, id) = (state.clone(), s.id.clone());
        let found = state
            .db
            .write(move |tx| {
                let Some(mut s) = tx.get::<Server>(&id)? else { return Ok(None) };
                let Some(task) = s.task else { return Ok(None) };
                if app.flows.busy(tx, &id)? {
                    return Ok(None);
                }
                if heal {
                    release(tx, &app, &mut s)?;
                }
                Ok(Some(task.name()))
            })
            .await?;
        if let Some(task) = found {
            out.push(format!("server {}: in task {task} without a flow", s.id));
        }
    }
    Ok(out)
}

fn release(tx: &mut caelum_store::Tx<'_>, app: &State, s: &mut caelum_store::Stored<Server>) -> Result<()> {
    let now = app.env.now();
    if s.task == Some(Task::Deleting) {
        let action_id = app.env.uuid();
        tx.insert(&new_action(&action_id, s, &s.user_id, &app.env.request_id(), "delete", "compute_terminate_instance", now))?;
        let user_ports = s.ports.iter().filter(|p| !p.ours).map(|p| p.port_id.clone()).collect();
        let flow = DeleteServer { server_id: s.id.clone(), action_id, user_ports };
        app.flows.start(tx, &s.id, &s.project_id, &flow)?;
        return Ok(());
    }
    s.task = None;
    if s.state == VmState::Building {
        s.state = VmState::Error;
        let message = "The build was interrupted.".to_string();
        s.fault = Some(Fault { code: 500, created: now, message, details: String::new() });
    }
    s.updated_at = now;
    tx.update(s)
}

/// Guests and their leftovers that no row knows; rows whose guest is missing.
async fn guests(state: &Arc<State>, rows: &BTreeMap<String, Server>, heal: bool) -> Result<Vec<String>> {
    let mut out = Vec::new();
    for (name, host) in state.hosts.iter() {
        // A server that is being built has its guest before its row says where.
        let mine = rows.values().filter(|s| s.host.as_ref() == Some(name) || (s.host.is_none() && s.task.is_some()));
        let known: HashSet<String> = mine.map(|s| s.id.clone()).collect();
        out.extend(host.audit(&known, heal).await?.into_iter().map(|l| format!("host {name}: {l}")));
        let seen: HashSet<String> = host.list().await?.into_iter().map(|g| g.id).collect();
        let settled = |s: &&Server| s.host.as_ref() == Some(name) && s.task.is_none() && s.state != VmState::Error;
        for s in rows.values().filter(settled).filter(|s| !seen.contains(&s.id)) {
            out.push(format!("server {}: its guest is not on host {name}", s.id));
        }
        if heal {
            super::power::sync_host(state, name).await?;
        }
    }
    Ok(out)
}

/// Bookings without a server; servers without a booking.
async fn allocations(state: &Arc<State>, rows: &BTreeMap<String, Server>, heal: bool) -> Result<Vec<String>> {
    let mut out = Vec::new();
    let mut booked: BTreeSet<String> = BTreeSet::new();
    for view in state.host_views() {
        let path = format!("/resource_providers/{}/allocations", view.provider_id);
        let body: Value = state.peers.placement.get(path).fetch().await?;
        let consumers: Vec<String> = body["allocations"].as_object().into_iter().flat_map(|m| m.keys().cloned()).collect();
        for id in consumers {
            booked.insert(id.clone());
            if gone(state, rows, &id).await? {
                out.push(format!("host {}: resources are booked for {id}, which is no server", view.name));
                if heal {
                    scheduler::release(state, &id).await?;
                }
            }
        }
        let here = |s: &&Server| s.host.as_ref() == Some(&view.name) && s.task.is_none() && s.state != VmState::Error;
        for s in rows.values().filter(here).filter(|s| !booked.contains(&s.id)) {
            if scheduler::resources(&s.flavor, s.volume_backed()).is_empty() {
                continue;
            }
            out.push(format!("server {}: nothing is booked for it on host {}", s.id, view.name));
            if heal {
                scheduler::claim(state, &Request::of(s), &view.provider_id).await?;
            }
        }
    }
    Ok(out)
}

/// Whether no row has this id, asked again: the rows were read a moment ago.
async fn gone(state: &State, rows: &BTreeMap<String, Server>, id: &str) -> Result<bool> {
    Ok(!rows.contains_key(id) && state.db.get::<Server>(id).await?.is_none())
}

/// Ports that say they belong to servers that are not there. They are given back, not deleted:
/// whose they were cannot be known any more.
async fn ports(state: &Arc<State>, rows: &BTreeMap<String, Server>, heal: bool) -> Result<Vec<String>> {
    let body: Value = state.peers.network.get("/v2.0/ports?fields=id&fields=device_id&fields=device_owner").fetch().await?;
    let mut out = Vec::new();
    for p in body["ports"].as_array().into_iter().flatten() {
        let text = |k: &str| p[k].as_str().unwrap_or("").to_string();
        let (id, server, owner) = (text("id"), text("device_id"), text("device_owner"));
        if !owner.starts_with("compute:") || server.is_empty() || !gone(state, rows, &server).await? {
            continue;
        }
        out.push(format!("port {id}: belongs to {server}, which is no server"));
        if heal {
            network::port_unbind(state, &id, &server).await?;
        }
    }
    Ok(out)
}

/// Attachments of volumes to servers that are not there.
async fn attachments(state: &Arc<State>, rows: &BTreeMap<String, Server>, heal: bool) -> Result<Vec<String>> {
    if state.peers.block.is_none() {
        return Ok(Vec::new());
    }
    let mut out = Vec::new();
    for (id, server) in volumes::all_attachments(state).await? {
        if server.is_empty() || !gone(state, rows, &server).await? {
            continue;
        }
        out.push(format!("volume attachment {id}: belongs to {server}, which is no server"));
        if heal {
            volumes::detach(state, &id).await?;
        }
    }
    Ok(out)
}

/// What happened to a server, as lines of text.
pub async fn why(state: &Arc<State>, id: &str) -> Result<Vec<String>> {
    let (app, key) = (state.clone(), id.to_string());
    state
        .db
        .read(move |tx| {
            let mut out = Vec::new();
            if let Some(s) = tx.get::<Server>(&key)? {
                let task = s.task.map_or("none", Task::name);
                let host = s.host.clone().unwrap_or_else(|| "none".to_string());
                out.push(format!("server {} ({}): {}, state {}, task {task}, host {host}", s.id, s.name, s.status(), s.state.name()));
                if let Some(f) = &s.fault {
                    out.push(format!("fault {} at {}: {} ({})", f.code, f.created.iso_z(), f.message, f.details));
                }
            }
            for f in app.flows.of_resource(tx, &key)? {
                out.push(format!(
                    "flow {} {}: {}, at step {}, since {}, until {}",
                    f.kind,
                    f.id,
                    f.state,
                    f.step,
                    f.created_at.iso_z(),
                    f.deadline.iso_z()
                ));
            }
            for a in actions::of_server(tx, &key)? {
                out.push(format!(
                    "{} {} by {} ({}) {}",
                    a.started_at.iso_z(),
                    a.action,
                    a.user_id,
                    a.request_id,
                    a.message.clone().unwrap_or_default()
                ));
                for e in &a.events {
                    let result = e.result.clone().unwrap_or_else(|| "running".to_string());
                    out.push(format!("    {}: {result} {}", e.event, e.details.clone().unwrap_or_default()));
                }
            }
            Ok(out)
        })
        .await
}
