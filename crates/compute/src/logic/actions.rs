//! What the actions on servers mean.

use crate::State;
use crate::flows::shelve::{Shelve, Unshelve};
use crate::flows::snapshot::Snapshot;
use crate::logic::ops::{self, Begin};
use crate::logic::{images, volume_image};
use crate::store::flavors::Flavor;
use crate::store::servers::{self, ImageFacts, Server, ServerData, VmState};
use caelum_base::{Error, Result};
use caelum_rest::Auth;
use caelum_store::Tx;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The end of a console log as text.
pub fn last_lines(bytes: &[u8], lines: Option<usize>) -> String {
    let text = String::from_utf8_lossy(bytes);
    // JSON carries control characters, but terminals of readers need none of them.
    let clean: String = text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t' | '\r' | '\x1b')).collect();
    let Some(n) = lines else { return clean };
    let all: Vec<&str> = clean.split_inclusive('\n').collect();
    all.iter().skip(all.len().saturating_sub(n)).copied().collect()
}

/// What a rebuild changes of the row.
pub struct RebuildChange {
    pub image: Option<ImageFacts>,
    pub name: Option<String>,
    pub metadata: Option<BTreeMap<String, String>>,
    pub description: Option<Option<String>>,
    /// Name and public key; an inner `None` takes the key away.
    pub key: Option<Option<(String, String)>>,
    pub user_data: Option<Option<String>>,
    pub hostname: Option<String>,
    pub access_ipv4: Option<String>,
    pub access_ipv6: Option<String>,
    pub disk_config: Option<String>,
}

impl RebuildChange {
    pub fn apply(&self, tx: &mut Tx<'_>, s: &mut Server) -> Result<()> {
        if self.image.is_some() && !s.volume_backed() {
            s.image.clone_from(&self.image);
        }
        let set = |field: &mut String, value: &Option<String>| {
            if let Some(v) = value {
                field.clone_from(v);
            }
        };
        set(&mut s.name, &self.name);
        set(&mut s.hostname, &self.hostname);
        set(&mut s.access_ipv4, &self.access_ipv4);
        set(&mut s.access_ipv6, &self.access_ipv6);
        set(&mut s.disk_config, &self.disk_config);
        if let Some(m) = &self.metadata {
            s.metadata.clone_from(m);
        }
        if let Some(d) = &self.description {
            s.description.clone_from(d);
        }
        if let Some(key) = &self.key {
            s.key_name = key.as_ref().map(|k| k.0.clone());
            s.public_key = key.as_ref().map(|k| k.1.clone());
        }
        if let Some(data) = &self.user_data {
            s.has_user_data = data.is_some();
            tx.delete_id::<ServerData>(&s.id)?;
            if data.is_some() {
                tx.insert(&ServerData { id: s.id.clone(), user_data: data.clone(), files: Vec::new() })?;
            }
        }
        Ok(())
    }
}

/// Makes the image record as the user and starts filling it. Returns the image's id.
pub async fn snapshot(state: &Arc<State>, auth: &Auth, s: &Server, b: Begin, name: &str, more: &Map<String, Value>) -> Result<String> {
    ops::check(s, b.verb, b.states)?;
    ops::host(s)?;
    if s.volume_backed() {
        return volume_image::create(state, auth, s, b, name, more).await;
    }
    let record = images::snapshot_record(name, &s.id, auth.user_id(), s.image.as_ref(), more);
    let image_id = images::image_create(state, &auth.token, &record).await?;
    let (id, image) = (s.id.clone(), image_id.clone());
    let begun = ops::begin(state, b, move |_, _, action_id| {
        Ok(Snapshot { server_id: id.clone(), action_id: action_id.to_string(), image_id: image.clone() })
    })
    .await;
    drop_on_error(state, &image_id, begun.map(drop)).await?;
    Ok(image_id)
}

/// An image record that no flow will fill goes at once.
async fn drop_on_error(state: &State, image_id: &str, r: Result<()>) -> Result<()> {
    if r.is_err()
        && let Err(e) = images::image_delete(state, image_id).await
    {
        tracing::warn!(image = image_id, error = %e.chain(), "compute: an unused image record stays");
    }
    r
}

/// Shelves: the disk becomes an image, the host is given back.
pub async fn shelve(state: &Arc<State>, auth: &Auth, s: &Server, b: Begin) -> Result<()> {
    ops::check(s, b.verb, b.states)?;
    ops::host(s)?;
    let image_id = if s.volume_backed() {
        None
    } else {
        let record = images::snapshot_record(&format!("{}-shelved", s.name), &s.id, auth.user_id(), s.image.as_ref(), &Map::new());
        Some(images::image_create(state, &auth.token, &record).await?)
    };
    let (id, image, grace_s) = (s.id.clone(), image_id.clone(), state.config.shutdown_grace.as_secs());
    let begun = ops::begin(state, b, move |_, s, action_id| {
        Ok(Shelve { server_id: id.clone(), action_id: action_id.to_string(), image_id: image.clone(), old_state: s.state, grace_s })
    })
    .await;
    match &image_id {
        Some(i) => drop_on_error(state, i, begun.map(drop)).await,
        None => begun.map(drop),
    }
}

/// Builds a shelved server again.
pub async fn unshelve(state: &Arc<State>, s: &Server, b: Begin) -> Result<()> {
    let image = match &s.shelved_image {
        Some(id) => Some(images::image(state, id).await?),
        None => None,
    };
    let id = s.id.clone();
    ops::begin(state, b, move |_, _, action_id| {
        Ok(Unshelve {
            server_id: id.clone(),
            action_id: action_id.to_string(),
            image: image.clone(),
            host: String::new(),
            zone: String::new(),
            ports: Vec::new(),
            volumes: Vec::new(),
        })
    })
    .await
    .map(drop)
}

/// Whether a server may get this flavor.
pub fn check_resize(s: &Server, new: &Flavor) -> Result<()> {
    if new.id == s.flavor.id && *new == s.flavor {
        return Err(Error::invalid("When resizing, instances must change flavor!"));
    }
    if new.disabled {
        return Err(Error::invalid(format!("Flavor {} could not be found.", new.id)));
    }
    if s.volume_backed() {
        return Ok(());
    }
    if new.root_gb == 0 && s.flavor.root_gb != 0 {
        return Err(Error::invalid("Resize to zero disk flavor is not allowed."));
    }
    if new.root_gb < s.flavor.root_gb || new.ephemeral_gb < s.flavor.ephemeral_gb {
        return Err(Error::invalid("Unable to resize disk down."));
    }
    Ok(())
}

/// An administrator's word on the state; the reconciler corrects it if the host knows better.
pub async fn reset_state(state: &Arc<State>, id: &str, wanted: VmState) -> Result<()> {
    let (app, id) = (state.clone(), id.to_string());
    state
        .db
        .write(move |tx| {
            let mut s = servers::require(tx, &id)?;
            if app.flows.busy(tx, &id)? {
                app.flows.cancel(tx, &id)?;
            }
            s.state = wanted;
            s.task = None;
            s.updated_at = app.env.now();
            tx.update(&mut s)
        })
        .await
}
