//! Images of servers that boot from a volume: snapshots of the volumes, and an image whose
//! `block_device_mapping` property names them; and the way back, booting from such an image.

use crate::State;
use crate::logic::bdm::BdmIn;
use crate::logic::create::new_action;
use crate::logic::ops::{self, Begin};
use crate::logic::{images, volumes};
use crate::store::actions;
use crate::store::servers::{ImageFacts, Server};
use caelum_base::{Error, Result};
use caelum_rest::Auth;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// The image service takes no image without bytes; the mapping says what the disk really is.
const PLACEHOLDER: [u8; 512] = [0; 512];

/// Makes the snapshots and the image as the user. Returns the image's id. What was made goes again
/// when a later part fails.
pub async fn create(state: &Arc<State>, auth: &Auth, s: &Server, b: Begin, name: &str, more: &Map<String, Value>) -> Result<String> {
    let mut made = Vec::new();
    let image = match snapshots(state, auth, s, name, &mut made).await {
        Ok(mapping) => image(state, auth, s, name, &mapping, more).await,
        Err(e) => Err(e),
    };
    let image = match image {
        Ok(id) => id,
        Err(e) => {
            for id in &made {
                if let Err(e) = volumes::snapshot_delete(state, id).await {
                    tracing::warn!(snapshot = id, error = %e.chain(), "compute: a snapshot of a failed image stays");
                }
            }
            return Err(e);
        }
    };
    let (app, row, action_id) = (state.clone(), s.clone(), state.env.uuid());
    state
        .db
        .write(move |tx| {
            let now = app.env.now();
            tx.insert(&new_action(&action_id, &row, &b.user_id, &b.request_id, b.action, b.event, now))?;
            actions::finish(tx, &action_id, now, row.host.as_deref(), None)
        })
        .await?;
    Ok(image)
}

async fn snapshots(state: &State, auth: &Auth, s: &Server, name: &str, made: &mut Vec<String>) -> Result<Vec<Value>> {
    ops::host(s)?;
    let mut mapping = Vec::new();
    for v in s.volumes.iter().filter(|v| !v.volume_id.is_empty()) {
        let id = volumes::snapshot_create(state, &auth.token, &v.volume_id, &format!("snapshot for {name}")).await?;
        made.push(id.clone());
        mapping.push(json!({
            "source_type": "snapshot", "destination_type": "volume", "snapshot_id": id, "boot_index": v.boot_index,
            "volume_size": v.size_bytes >> 30, "device_name": v.device, "delete_on_termination": v.delete_on_termination,
        }));
    }
    Ok(mapping)
}

async fn image(state: &State, auth: &Auth, s: &Server, name: &str, mapping: &[Value], more: &Map<String, Value>) -> Result<String> {
    let mut record = images::snapshot_record(name, &s.id, auth.user_id(), None, more);
    let text = serde_json::to_string(mapping).map_err(|e| Error::internal("a mapping does not serialise").caused_by(e))?;
    record["disk_format"] = json!("raw");
    record["block_device_mapping"] = json!(text);
    record["bdm_v2"] = json!("True");
    record["root_device_name"] =
        json!(s.volumes.iter().find(|v| v.boot_index == Some(0)).and_then(|v| v.device.clone()).unwrap_or_default());
    let id = images::image_create(state, &auth.token, &record).await?;
    if let Err(e) = images::image_put(state, &id, &PLACEHOLDER).await {
        images::image_delete(state, &id).await?;
        return Err(e);
    }
    Ok(id)
}

/// The disks an image asks for, when it is one of the above.
pub fn mapping(image: &ImageFacts) -> Result<Vec<BdmIn>> {
    let Some(text) = image.properties.get("block_device_mapping") else { return Ok(Vec::new()) };
    let bad = || Error::invalid(format!("Image {} has a block_device_mapping that cannot be read.", image.id));
    let list: Vec<Value> = serde_json::from_str(text).map_err(|_| bad())?;
    let mut out = Vec::with_capacity(list.len());
    for v in list {
        let uuid = ["snapshot_id", "volume_id", "image_id"].iter().find_map(|k| v[*k].as_str());
        let mut clean = Map::new();
        for k in
            ["source_type", "destination_type", "boot_index", "volume_size", "device_name", "delete_on_termination", "volume_type", "tag"]
        {
            if !v[k].is_null() {
                clean.insert(k.to_string(), v[k].clone());
            }
        }
        clean.insert("uuid".into(), json!(uuid));
        out.push(serde_json::from_value(Value::Object(clean)).map_err(|_| bad())?);
    }
    Ok(out)
}
