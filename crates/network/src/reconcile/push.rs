//! Sends a host what changed and writes down what it reports.

use super::build::{Builder, whole};
use super::{Changes, Host};
use crate::logic::State;
use crate::store::{self, FloatingIp, Port, Router};
use caelum_base::{Error, ErrorKind, Result};
use caelum_netplane::{Applied, HostPatch, HostState};
use caelum_reconcile::{BoxFuture, Next, Reconcile};
use caelum_store::Query;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Generations taken from the database at once.
const BLOCK: i64 = 10_000;
/// How often everything is computed and compared.
const FULL_EVERY: Duration = Duration::from_secs(55);
/// Longest rest between two runs. A run may cost as much as its networks are large, so a host rests
/// as long as it worked; changes of that time travel together. After a longer pause the first change
/// travels at once.
const REST_MAX: Duration = Duration::from_millis(100);
/// When to look again at ports the host does not report as up.
const PENDING: Duration = Duration::from_secs(1);

/// The controller of all hosts; keys are host names.
pub struct HostController(pub Weak<State>);

impl Reconcile for HostController {
    fn reconcile<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Next>> {
        Box::pin(async move {
            let Some(st) = self.0.upgrade() else { return Ok(Next::Done) };
            let Some(host) = st.hosts.get(key).cloned() else { return Ok(Next::Done) };
            st.push(&host).await
        })
    }

    fn scan(&self) -> BoxFuture<'_, Result<Vec<String>>> {
        Box::pin(async move {
            let st = self.0.upgrade();
            Ok(st.map(|s| s.hosts.all().map(|h| h.name.clone()).collect()).unwrap_or_default())
        })
    }
}

/// What one run sends: everything, or a patch.
enum Message {
    Full(HostState),
    Patch(HostPatch),
}

impl State {
    /// One run for one host.
    async fn push(self: &Arc<Self>, host: &Arc<Host>) -> Result<Next> {
        let rest = {
            let inner = host.lock();
            inner.cost.min(REST_MAX).saturating_sub(self.env.now().since(inner.ended))
        };
        if !rest.is_zero() {
            tokio::time::sleep(rest).await;
        }
        let now = self.env.now();
        let (dirty, full) = {
            let mut inner = host.lock();
            let due = now.since(caelum_base::Timestamp(inner.last_full)) >= FULL_EVERY;
            let full = std::mem::take(&mut inner.full) || due || inner.sent.is_none();
            (std::mem::take(&mut inner.dirty), full)
        };
        let result = self.send(host, &dirty, full).await;
        {
            let mut inner = host.lock();
            inner.ended = self.env.now();
            inner.cost = inner.ended.since(now);
        }
        match result {
            Ok(next) => {
                if full {
                    host.lock().last_full = now.0;
                }
                Ok(next)
            }
            Err(e) => {
                let mut inner = host.lock();
                inner.full = true;
                inner.sent = None;
                if e.kind == ErrorKind::Generation {
                    // The host has seen later numbers than this database; go past them.
                    inner.generations = (0, 0);
                }
                Err(e)
            }
        }
    }

    async fn send(self: &Arc<Self>, host: &Arc<Host>, dirty: &Changes, full: bool) -> Result<Next> {
        let message = if full { self.compute_all(host).await? } else { self.compute_patch(host, dirty).await? };
        let Some(message) = message else { return Ok(Next::Done) };
        let applied = match message {
            Message::Full(mut state) => {
                state.generation = self.generation(host).await?;
                let applied = host.plane.apply(&state).await?;
                host.lock().sent = Some(state);
                applied
            }
            Message::Patch(mut patch) => {
                patch.generation = self.generation(host).await?;
                let applied = host.plane.patch(&patch).await?;
                if let Some(sent) = &mut host.lock().sent {
                    sent.merge(&patch);
                }
                applied
            }
        };
        self.report(host, applied).await
    }

    async fn generation(&self, host: &Host) -> Result<u64> {
        {
            let mut inner = host.lock();
            let (next, end) = inner.generations;
            if next < end {
                inner.generations.0 = next + 1;
                return Ok(next);
            }
        }
        let name = format!("generation:{}", host.name);
        let end = self.db.write(move |tx| store::raise_counter(tx, &name, BLOCK)).await?;
        let end = u64::try_from(end).map_err(|_| Error::internal("the generation counter is negative"))?;
        let first = end - BLOCK.unsigned_abs() + 1;
        host.lock().generations = (first + 1, end + 1);
        Ok(first)
    }

    /// `None` when the host has it all already.
    async fn compute_all(&self, host: &Arc<Host>) -> Result<Option<Message>> {
        let (name, network_host, domain) = self.names(host);
        let state = self.db.read(move |tx| whole(&mut Builder::new(tx, &name, &network_host, &domain))).await?;
        let inner = host.lock();
        let same = !inner.waiting && inner.sent.as_ref().is_some_and(|sent| same_objects(sent, &state));
        Ok((!same).then_some(Message::Full(state)))
    }

    fn names(&self, host: &Host) -> (String, String, String) {
        (host.name.clone(), self.hosts.network_host().to_string(), self.options.dns_domain.clone())
    }

    async fn compute_patch(&self, host: &Arc<Host>, dirty: &Changes) -> Result<Option<Message>> {
        let (name, network_host, domain) = self.names(host);
        let dirty = dirty.clone();
        let quiet = dirty.is_empty();
        let mut patch = self
            .db
            .read(move |tx| {
                let mut b = Builder::new(tx, &name, &network_host, &domain);
                let mut patch = HostPatch::default();
                for id in &dirty.networks {
                    patch.networks.insert(id.clone(), b.network(id)?);
                }
                for id in &dirty.ports {
                    patch.ports.insert(id.clone(), b.port(id)?);
                }
                for id in &dirty.routers {
                    patch.routers.insert(id.clone(), b.router(id)?);
                }
                for id in &dirty.groups {
                    patch.groups.insert(id.clone(), b.group(id)?);
                }
                let named = patch.ports.values().flatten().flat_map(|p| p.rules.iter()).filter_map(|r| r.remote_group.clone());
                for id in named.collect::<BTreeSet<_>>() {
                    if let std::collections::btree_map::Entry::Vacant(slot) = patch.groups.entry(id) {
                        let addresses = b.group(slot.key())?;
                        slot.insert(addresses);
                    }
                }
                Ok(patch)
            })
            .await?;
        let inner = host.lock();
        let Some(sent) = &inner.sent else { return Ok(Some(Message::Patch(patch))) };
        only_news(&mut patch.networks, &sent.networks);
        only_news(&mut patch.ports, &sent.ports);
        only_news(&mut patch.routers, &sent.routers);
        only_news(&mut patch.groups, &sent.groups);
        let empty = patch.networks.is_empty() && patch.ports.is_empty() && patch.routers.is_empty() && patch.groups.is_empty();
        // Even with nothing new for the host its report is wanted when a port waits for its status.
        if empty && quiet && !inner.waiting { Ok(None) } else { Ok(Some(Message::Patch(patch))) }
    }

    /// Writes statuses the host reports, and tells whom they concern.
    async fn report(self: &Arc<Self>, host: &Arc<Host>, applied: Applied) -> Result<Next> {
        for (id, reason) in &applied.failed {
            if host.lock().failed.get(id) != Some(reason) {
                tracing::warn!(host = host.name, object = id, reason, "the host could not make an object");
            }
        }
        let failing = !applied.failed.is_empty();
        host.lock().failed.clone_from(&applied.failed);
        let name = host.name.clone();
        let candidates = self.db.read(move |tx| down_ports(tx, &name)).await?;
        let ports: BTreeSet<&String> = applied.ports_up.iter().collect();
        let networks: BTreeSet<&String> = applied.networks_up.iter().collect();
        let routers: BTreeSet<&String> = applied.routers_up.iter().collect();
        // A router that is switched off has nothing to bring up: its ports wait for nothing.
        let idle: BTreeSet<String> = {
            let inner = host.lock();
            let off = inner.sent.iter().flat_map(|s| s.routers.values()).filter(|r| !r.admin_up && !applied.failed.contains_key(&r.id));
            off.map(|r| r.id.clone()).collect()
        };
        let up = |p: &Port| match p.device_owner.as_str() {
            "network:dhcp" => networks.contains(&p.network_id),
            o if o.starts_with("network:router") => routers.contains(&p.device_id) || idle.contains(&p.device_id),
            _ => ports.contains(&p.id),
        };
        let (now_up, waiting): (Vec<Port>, Vec<Port>) = candidates.into_iter().filter(|p| p.admin_state_up).partition(up);
        if !now_up.is_empty() {
            self.activate(host, now_up.into_iter().map(|p| p.id).collect()).await?;
        }
        self.floating_status(routers.into_iter().cloned().collect()).await?;
        let guests_wait = waiting.iter().any(|p| p.has_tap() && host.lock().sent.as_ref().is_some_and(|s| s.ports.contains_key(&p.id)));
        host.lock().waiting = guests_wait;
        if guests_wait || failing {
            host.lock().full |= failing;
            return Ok(Next::Again(if failing { PENDING * 5 } else { PENDING }));
        }
        Ok(Next::Done)
    }

    async fn activate(self: &Arc<Self>, host: &Arc<Host>, ids: Vec<String>) -> Result<()> {
        let name = host.name.clone();
        let changed = self
            .db
            .write({
                let env = self.env.clone();
                move |tx| {
                    let mut out = Vec::new();
                    for id in &ids {
                        let Some(mut p) = tx.get::<Port>(id)? else { continue };
                        if p.host_id == name && p.status == "DOWN" && p.admin_state_up {
                            p.status = "ACTIVE".into();
                            p.std.touch(env.now());
                            tx.update(&mut p)?;
                            out.push(p.value);
                        }
                    }
                    Ok(out)
                }
            })
            .await?;
        for p in &changed {
            self.hosts.notifier().port_status(&p.id, "ACTIVE");
            self.hosts.notifier().compute(p, "network-vif-plugged");
        }
        Ok(())
    }

    /// Associated floating addresses of routers that are up become `ACTIVE`.
    async fn floating_status(self: &Arc<Self>, routers: BTreeSet<String>) -> Result<()> {
        let q = Query::new().eq("status", "DOWN").filter(caelum_store::Filter::NotNull("router_id"));
        let mut ids: Vec<String> = Vec::new();
        for f in self.db.list::<FloatingIp>(q).await? {
            if f.router_id.as_ref().is_some_and(|r| routers.contains(r)) {
                ids.push(f.id.clone());
            }
        }
        if ids.is_empty() {
            return Ok(());
        }
        self.db
            .write(move |tx| {
                for id in &ids {
                    let Some(mut f) = tx.get::<FloatingIp>(id)? else { continue };
                    if let Some(router) = f.router_id.clone()
                        && tx.get::<Router>(&router)?.is_some()
                        && f.status == "DOWN"
                    {
                        f.status = "ACTIVE".into();
                        tx.update(&mut f)?;
                    }
                }
                Ok(())
            })
            .await
    }
}

/// Ports bound to the host that are not active.
fn down_ports(tx: &mut caelum_store::Tx<'_>, host: &str) -> Result<Vec<Port>> {
    let q = Query::new().eq("host_id", host).eq("status", "DOWN");
    Ok(tx.list::<Port>(&q)?.into_iter().map(|p| p.value).collect())
}

fn same_objects(a: &HostState, b: &HostState) -> bool {
    a.networks == b.networks && a.ports == b.ports && a.routers == b.routers && a.groups == b.groups
}

/// Leaves only what differs from what was sent.
fn only_news<T: PartialEq>(changes: &mut BTreeMap<String, Option<T>>, sent: &BTreeMap<String, T>) {
    changes.retain(|id, new| sent.get(id) != new.as_ref());
}
