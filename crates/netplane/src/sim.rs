//! A simulated host: remembers what it was told and reports everything as up.
//!
//! It checks generations as the real plane does and does no I/O, so a test cloud can run thousands
//! of ports. Failures are injected by object id or for the whole host. Nothing survives a drop, as
//! with a host that loses power; `audit` therefore compares with objects planted by the test.

use crate::{Applied, HostPatch, HostState, NetworkHost};
use async_trait::async_trait;
use caelum_base::{Error, Result};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A network host without a kernel.
#[derive(Default)]
pub struct SimPlane {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    state: HostState,
    broken: BTreeMap<String, String>,
    down: Option<String>,
    orphans: Vec<String>,
    calls: u64,
}

impl SimPlane {
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic of another test thread cannot leave the maps half-written in a way that matters.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state as applied so far.
    pub fn state(&self) -> HostState {
        self.lock().state.clone()
    }

    /// How many applies and patches arrived, refused ones included.
    pub fn calls(&self) -> u64 {
        self.lock().calls
    }

    /// Makes the object fail from now on with this reason; `None` repairs it.
    pub fn fail_object(&self, id: &str, reason: Option<&str>) {
        let mut inner = self.lock();
        match reason {
            Some(reason) => inner.broken.insert(id.to_string(), reason.to_string()),
            None => inner.broken.remove(id),
        };
    }

    /// Makes every call fail with `Unavailable`; `None` repairs the host.
    pub fn fail_host(&self, reason: Option<&str>) {
        self.lock().down = reason.map(str::to_string);
    }

    /// Plants an orphan that `audit` finds and `audit(true)` and `wipe` remove.
    pub fn plant_orphan(&self, line: &str) {
        self.lock().orphans.push(line.to_string());
    }
}

impl Inner {
    fn admit(&mut self, generation: u64) -> Result<()> {
        self.calls += 1;
        if let Some(reason) = &self.down {
            return Err(Error::unavailable(reason.clone()));
        }
        crate::check_generation(self.state.generation, generation)
    }

    fn applied(&self) -> Applied {
        let up = |ids: Vec<&String>| -> Vec<String> { ids.into_iter().filter(|id| !self.broken.contains_key(*id)).cloned().collect() };
        let known =
            |id: &String| self.state.ports.contains_key(id) || self.state.networks.contains_key(id) || self.state.routers.contains_key(id);
        Applied {
            generation: self.state.generation,
            ports_up: up(self.state.ports.keys().collect()),
            routers_up: up(self.state.routers.keys().collect()),
            networks_up: up(self.state.networks.keys().collect()),
            failed: self.broken.iter().filter(|(id, _)| known(id)).map(|(k, v)| (k.clone(), v.clone())).collect(),
        }
    }
}

#[async_trait]
impl NetworkHost for SimPlane {
    async fn apply(&self, state: &HostState) -> Result<Applied> {
        let mut inner = self.lock();
        inner.admit(state.generation)?;
        inner.state = state.clone();
        inner.orphans.clear();
        Ok(inner.applied())
    }

    async fn patch(&self, patch: &HostPatch) -> Result<Applied> {
        let mut inner = self.lock();
        inner.admit(patch.generation)?;
        inner.state.merge(patch);
        Ok(inner.applied())
    }

    async fn check(&self) -> Vec<String> {
        self.lock().down.iter().cloned().collect()
    }

    async fn audit(&self, heal: bool) -> Result<Vec<String>> {
        let mut inner = self.lock();
        if let Some(reason) = &inner.down {
            return Err(Error::unavailable(reason.clone()));
        }
        Ok(if heal { std::mem::take(&mut inner.orphans) } else { inner.orphans.clone() })
    }

    async fn wipe(&self) -> Result<()> {
        let mut inner = self.lock();
        inner.state = HostState::default();
        inner.orphans.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Port;
    use caelum_base::ErrorKind;

    fn port(id: &str) -> Port {
        Port {
            id: id.to_string(),
            network_id: "n".to_string(),
            tap: format!("tap{id}"),
            mac: "fa:16:3e:00:00:01".to_string(),
            addresses: vec![],
            admin_up: true,
            port_security: true,
            allowed_pairs: vec![],
            rules: vec![],
        }
    }

    #[tokio::test]
    async fn refuses_older_generations_and_merges_patches() {
        let sim = SimPlane::new();
        sim.apply(&HostState { generation: 5, ..HostState::default() }).await.unwrap();
        let old = sim.apply(&HostState { generation: 4, ..HostState::default() }).await.unwrap_err();
        assert_eq!(old.kind, ErrorKind::Generation);
        let mut patch = HostPatch { generation: 6, ..HostPatch::default() };
        patch.ports.insert("a".into(), Some(port("a")));
        patch.ports.insert("b".into(), Some(port("b")));
        sim.fail_object("b", Some("no tap"));
        let applied = sim.patch(&patch).await.unwrap();
        assert_eq!(applied.ports_up, ["a"]);
        assert_eq!(applied.failed["b"], "no tap");
        patch.generation = 7;
        patch.ports.insert("a".into(), None);
        assert!(sim.patch(&patch).await.unwrap().ports_up.is_empty());
        assert_eq!(sim.state().generation, 7);
    }

    #[tokio::test]
    async fn a_broken_host_is_unavailable() {
        let sim = SimPlane::new();
        sim.fail_host(Some("cable pulled"));
        assert_eq!(sim.apply(&HostState::default()).await.unwrap_err().kind, ErrorKind::Unavailable);
        assert_eq!(sim.check().await, ["cable pulled"]);
    }
}
