//! Calls to the image service.

use crate::State;
use crate::logic::network::path;
use crate::store::servers::ImageFacts;
use async_trait::async_trait;
use caelum_base::{Error, Result, Secret};
use caelum_hypervisor::ImageSource;
use http_body_util::BodyExt;
use serde_json::{Map, Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// Time to move one image's bytes.
const TRANSFER_DEADLINE: Duration = Duration::from_secs(3600);

/// Keys of an image that are no properties.
const BASE: &[&str] = &[
    "id",
    "name",
    "status",
    "visibility",
    "owner",
    "checksum",
    "size",
    "virtual_size",
    "container_format",
    "disk_format",
    "created_at",
    "updated_at",
    "min_disk",
    "min_ram",
    "protected",
    "tags",
    "self",
    "file",
    "schema",
    "os_hash_algo",
    "os_hash_value",
    "os_hidden",
    "direct_url",
    "locations",
    "stores",
    "owner_specified.openstack.md5",
    "owner_specified.openstack.sha256",
    "owner_specified.openstack.object",
];

/// An image the user may use. Errors: `Invalid` for one that is not there (create's own words) or
/// not ready.
pub async fn image_of_user(state: &State, token: &Secret<String>, project_id: &str, id: &str) -> Result<ImageFacts> {
    let key = format!("{project_id}/{id}");
    if let Some(facts) = state.images.get(&key) {
        return Ok(facts);
    }
    let body: Result<Map<String, Value>> = state.peers.image.get(format!("/v2/images/{}", path(id)?)).as_user(token).fetch().await;
    let body = match body {
        Err(e) if e.is_not_found() => return Err(Error::invalid(format!("Image {id} could not be found."))),
        other => other?,
    };
    let facts = facts(&body);
    if body.get("status").and_then(Value::as_str) != Some("active") {
        return Err(Error::invalid(format!("Image {id} is not active.")));
    }
    state.images.put(&key, facts.clone());
    Ok(facts)
}

fn facts(body: &Map<String, Value>) -> ImageFacts {
    let text = |k: &str| body.get(k).and_then(Value::as_str).unwrap_or("").to_string();
    let properties =
        body.iter().filter(|(k, _)| !BASE.contains(&k.as_str())).filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_string()))).collect();
    ImageFacts {
        id: text("id"),
        disk_format: text("disk_format"),
        sha512: if text("os_hash_algo") == "sha512" { text("os_hash_value") } else { String::new() },
        size_bytes: body.get("size").and_then(Value::as_u64).unwrap_or(0),
        min_disk_gb: body.get("min_disk").and_then(Value::as_i64).unwrap_or(0),
        min_ram_mb: body.get("min_ram").and_then(Value::as_i64).unwrap_or(0),
        properties,
    }
}

/// Gives hosts the bytes of images.
pub struct Source(pub Arc<State>);

#[async_trait]
impl ImageSource for Source {
    async fn fetch(&self, image_id: &str, dest: &Path) -> Result<()> {
        let call = self.0.peers.image.get(format!("/v2/images/{}/file", path(image_id)?)).deadline(TRANSFER_DEADLINE);
        let mut body = call.send().await?.into_body();
        let broken = |e: std::io::Error| Error::unavailable("The image cannot be written on the host.").caused_by(e);
        let mut file = tokio::fs::File::create(dest).await.map_err(broken)?;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| Error::unavailable("The image service broke the transfer off.").caused_by(e))?;
            if let Ok(data) = frame.into_data() {
                file.write_all(&data).await.map_err(broken)?;
            }
        }
        file.flush().await.map_err(broken)
    }
}

/// An image by the service's own rights.
pub async fn image(state: &State, id: &str) -> Result<ImageFacts> {
    let body: Map<String, Value> = state.peers.image.get(format!("/v2/images/{}", path(id)?)).fetch().await?;
    Ok(facts(&body))
}

/// Makes an image record for a snapshot, as the user. Returns its id.
pub async fn image_create(state: &State, token: &Secret<String>, record: &Value) -> Result<String> {
    let body: Value = state.peers.image.post("/v2/images").as_user(token).json(record).fetch().await?;
    body["id"].as_str().map(String::from).ok_or_else(|| Error::internal("the image service gave no id"))
}

/// Removes a server's oldest backups of one type beyond `keep`, as the user.
pub async fn rotate_backups(state: &State, token: &Secret<String>, server_id: &str, kind: &str, keep: usize) -> Result<()> {
    let path = "/v2/images?image_type=backup&visibility=private&sort_key=created_at&sort_dir=desc&limit=1000";
    let body: Value = state.peers.image.get(format!("{path}&instance_uuid={server_id}")).as_user(token).fetch().await?;
    let all = body["images"].as_array().into_iter().flatten();
    let mine = all.filter(|i| i["instance_uuid"] == server_id && i["backup_type"] == kind);
    for id in mine.skip(keep).filter_map(|i| i["id"].as_str()) {
        state.peers.image.delete(format!("/v2/images/{id}")).as_user(token).done_or_gone().await?;
    }
    Ok(())
}

/// Uploads a file as an image's data.
pub async fn image_upload(state: &State, image_id: &str, file: &Path) -> Result<()> {
    let (tx, body) = caelum_rest::stream_channel(8);
    let path_text = file.to_path_buf();
    let reader = tokio::spawn(async move {
        use tokio::io::AsyncReadExt;
        let mut f = match tokio::fs::File::open(&path_text).await {
            Ok(f) => f,
            Err(e) => {
                // The receiver going away ends the transfer too.
                let _ = tx.send(Err(e.into())).await;
                return;
            }
        };
        loop {
            let mut buffer = bytes::BytesMut::with_capacity(1 << 18);
            let item = match f.read_buf(&mut buffer).await {
                Ok(0) => return,
                Ok(_) => Ok(buffer.freeze()),
                Err(e) => Err(e.into()),
            };
            let failed = item.is_err();
            if tx.send(item).await.is_err() || failed {
                return;
            }
        }
    });
    let call = state.peers.image.put(format!("/v2/images/{image_id}/file")).stream(body, "application/octet-stream");
    let result = call.deadline(TRANSFER_DEADLINE).done().await;
    reader.abort();
    result
}

/// Uploads a few bytes as an image's data.
pub async fn image_put(state: &State, image_id: &str, bytes: &'static [u8]) -> Result<()> {
    let body = caelum_rest::full(bytes);
    state.peers.image.put(format!("/v2/images/{image_id}/file")).stream(body, "application/octet-stream").done().await
}

/// Removes an image that a failed snapshot left.
pub async fn image_delete(state: &State, image_id: &str) -> Result<()> {
    state.peers.image.delete(format!("/v2/images/{image_id}")).done_or_gone().await
}

/// Whether an image already has its data.
pub async fn image_status(state: &State, image_id: &str) -> Result<String> {
    let body: Value = state.peers.image.get(format!("/v2/images/{image_id}")).fetch().await?;
    Ok(body["status"].as_str().unwrap_or("").to_string())
}

/// The record of a snapshot image.
pub fn snapshot_record(name: &str, server_id: &str, user_id: &str, base: Option<&ImageFacts>, more: &Map<String, Value>) -> Value {
    let mut record = json!({
        "name": name, "disk_format": "qcow2", "container_format": "bare", "visibility": "private",
        "image_type": "snapshot", "instance_uuid": server_id, "user_id": user_id,
    });
    if let (Some(base), Some(map)) = (base, record.as_object_mut()) {
        map.insert("base_image_ref".into(), json!(base.id));
        map.insert("min_disk".into(), json!(base.min_disk_gb));
        map.insert("min_ram".into(), json!(base.min_ram_mb));
        for (k, v) in &base.properties {
            map.entry(k.clone()).or_insert_with(|| json!(v));
        }
    }
    if let Some(map) = record.as_object_mut() {
        map.extend(more.iter().map(|(k, v)| (k.clone(), v.clone())));
    }
    record
}
