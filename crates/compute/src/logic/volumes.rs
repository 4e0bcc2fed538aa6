//! Calls to the block storage service. Attachments are found again by their `instance_uuid`, the
//! server's id; volumes made for a server by their description, which names the mapping.

use crate::State;
use crate::logic::network::path;
use crate::store::servers::ServerVolume;
use caelum_base::{Error, Result, Secret};
use caelum_hypervisor::VolumeDisk;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;

/// Where a disk of a new server comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Source {
    Volume,
    Image { image_id: String },
    Snapshot { snapshot_id: String },
    Blank,
}

/// A disk to attach while a server is built; `bdm_id` ties it to the server's row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DiskRequest {
    pub bdm_id: String,
    pub source: Source,
    /// For volumes to be made; 0 takes the snapshot's size.
    pub size_gb: i64,
    pub volume_type: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub struct Volume {
    pub id: String,
    #[serde(default)]
    pub status: String,
    #[serde(default)]
    pub size: i64,
    #[serde(default)]
    pub multiattach: bool,
    #[serde(default)]
    pub description: Option<String>,
    #[serde(default)]
    pub attachments: Vec<Value>,
    #[serde(default, deserialize_with = "loose_bool")]
    pub bootable: bool,
    #[serde(default)]
    pub volume_image_metadata: serde_json::Map<String, Value>,
}

fn loose_bool<'de, D: serde::Deserializer<'de>>(d: D) -> std::result::Result<bool, D::Error> {
    let v = Value::deserialize(d)?;
    Ok(v.as_bool().unwrap_or_else(|| v.as_str().is_some_and(|t| t.eq_ignore_ascii_case("true"))))
}

#[derive(Deserialize)]
struct VolumeBody {
    volume: Volume,
}
#[derive(Deserialize)]
struct VolumesBody {
    volumes: Vec<Volume>,
}
#[derive(Deserialize)]
struct Attachment {
    id: String,
    #[serde(default)]
    status: String,
    #[serde(default, alias = "volume_uuid")]
    volume_id: String,
    /// The server.
    #[serde(default)]
    instance: Option<String>,
    #[serde(default)]
    connection_info: Value,
}
#[derive(Deserialize)]
struct AttachmentBody {
    attachment: Attachment,
}
#[derive(Deserialize)]
struct AttachmentsBody {
    attachments: Vec<Attachment>,
}

/// A volume the user may see. Errors: `NotFound`.
pub async fn volume_of_user(state: &State, token: &Secret<String>, id: &str) -> Result<Volume> {
    let found: Result<VolumeBody> = state.block()?.get(format!("/v3/volumes/{}", path(id)?)).as_user(token).fetch().await;
    match found {
        Ok(b) => Ok(b.volume),
        Err(e) if e.is_not_found() => Err(Error::not_found(format!("Volume {id} could not be found."))),
        Err(e) => Err(e),
    }
}

/// A snapshot the user may see: its size in GB.
pub async fn snapshot_of_user(state: &State, token: &Secret<String>, id: &str) -> Result<i64> {
    let body: Value = state.block()?.get(format!("/v3/snapshots/{}", path(id)?)).as_user(token).fetch().await?;
    Ok(body["snapshot"]["size"].as_i64().unwrap_or(0))
}

/// Makes a snapshot of a volume as the user, even while it is in use. Returns its id.
pub async fn snapshot_create(state: &State, token: &Secret<String>, volume_id: &str, name: &str) -> Result<String> {
    let body = json!({"snapshot": {"volume_id": volume_id, "name": name, "force": true}});
    let made: Value = state.block()?.post("/v3/snapshots").as_user(token).json(&body).fetch().await?;
    made["snapshot"]["id"].as_str().map(String::from).ok_or_else(|| Error::internal("block storage gave a snapshot without id"))
}

pub async fn snapshot_delete(state: &State, id: &str) -> Result<()> {
    state.block()?.delete(format!("/v3/snapshots/{id}")).done_or_gone().await
}

async fn volume(state: &State, id: &str) -> Result<Volume> {
    let body: VolumeBody = state.block()?.get(format!("/v3/volumes/{id}")).fetch().await?;
    Ok(body.volume)
}

fn description(server_id: &str, bdm_id: &str) -> String {
    format!("Made for server {server_id}, mapping {bdm_id}")
}

/// Volumes made for a server that its row may not know of yet.
async fn made_for(state: &State, server_id: &str, project_id: &str) -> Result<Vec<Volume>> {
    let path = format!("/v3/volumes/detail?all_tenants=1&project_id={project_id}&limit=1000&sort=created_at:desc");
    let body: VolumesBody = state.block()?.get(path).fetch().await?;
    let prefix = format!("Made for server {server_id}, ");
    Ok(body.volumes.into_iter().filter(|v| v.description.as_deref().is_some_and(|d| d.starts_with(&prefix))).collect())
}

/// Makes the volume of a mapping as the user, or finds the one an earlier try made. Returns its id.
pub async fn volume_ensure(
    state: &State,
    token: Option<&Secret<String>>,
    server_id: &str,
    project_id: &str,
    zone: Option<&str>,
    disk: &DiskRequest,
) -> Result<String> {
    let wanted = description(server_id, &disk.bdm_id);
    if let Some(v) = made_for(state, server_id, project_id).await?.into_iter().find(|v| v.description.as_deref() == Some(&wanted)) {
        return Ok(v.id);
    }
    let token = token.ok_or_else(|| Error::conflict("The build was interrupted before its volumes were made."))?;
    let mut body = json!({"name": "", "description": wanted});
    if disk.size_gb > 0 {
        body["size"] = json!(disk.size_gb);
    }
    match &disk.source {
        Source::Image { image_id } => body["imageRef"] = json!(image_id),
        Source::Snapshot { snapshot_id } => body["snapshot_id"] = json!(snapshot_id),
        Source::Volume | Source::Blank => {}
    }
    if let Some(t) = &disk.volume_type {
        body["volume_type"] = json!(t);
    }
    if let Some(z) = zone {
        body["availability_zone"] = json!(z);
    }
    let made: VolumeBody = state.block()?.post("/v3/volumes").as_user(token).json(&json!({"volume": body})).fetch().await?;
    Ok(made.volume.id)
}

/// Waits until a volume can be attached. Errors: `Conflict` when making it failed.
pub async fn volume_wait(state: &State, id: &str) -> Result<()> {
    let mut wait = Duration::from_millis(20);
    loop {
        let v = volume(state, id).await?;
        match v.status.as_str() {
            "available" | "in-use" | "reserved" | "attaching" => return Ok(()),
            s if s.starts_with("error") => {
                return Err(Error::conflict(format!("Volume {id} did not finish being created; its status is {s}.")));
            }
            _ => {}
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(Duration::from_secs(2));
    }
}

/// Attaches a volume to a server on a host: reserves, connects, and says what the host needs.
/// An attachment of the same volume and server left by an earlier try is used.
pub async fn attach(state: &State, server_id: &str, host: &str, row: &mut ServerVolume) -> Result<()> {
    let block = state.block()?;
    let mut known = attachments_of(state, server_id).await?.into_iter().find(|a| a.volume_id == row.volume_id);
    // One that is in use (of a shelved server, on another host) cannot be connected a second time.
    if let Some(old) = known.take_if(|a| a.status == "attached") {
        detach(state, &old.id).await?;
    }
    let id = match known {
        Some(a) => a.id,
        None => {
            let body = json!({"attachment": {"volume_uuid": row.volume_id, "instance_uuid": server_id}});
            let made: AttachmentBody = block.post("/v3/attachments").json(&body).fetch().await?;
            made.attachment.id
        }
    };
    row.attachment_id = Some(id.clone());
    let mut connector =
        json!({"host": host, "multipath": false, "platform": "x86_64", "os_type": "linux", "initiator": format!("iqn.caelum:{host}")});
    if let Some(d) = &row.device {
        connector["mountpoint"] = json!(d);
    }
    let body = json!({"attachment": {"connector": connector}});
    let connected: AttachmentBody = block.put(format!("/v3/attachments/{id}")).json(&body).fetch().await?;
    read_connection(&connected.attachment.connection_info, row);
    if row.path.is_empty() {
        return Err(Error::conflict(format!("Volume {} cannot be reached from host {host}.", row.volume_id)));
    }
    if row.size_bytes == 0 {
        let v = volume(state, &row.volume_id).await?;
        row.size_bytes = u64::try_from(v.size).unwrap_or(0) << 30;
    }
    Ok(())
}

fn read_connection(info: &Value, row: &mut ServerVolume) {
    let data = info.get("data").unwrap_or(info);
    let text = |k: &str| data.get(k).and_then(Value::as_str);
    row.path = text("device_path").or_else(|| text("path")).unwrap_or("").to_string();
    row.format = text("format").unwrap_or("raw").to_string();
    row.read_only = text("access_mode") == Some("ro");
    row.size_bytes = data.get("size_bytes").and_then(Value::as_u64).unwrap_or(row.size_bytes);
}

/// Says that the guest has the disk: the volume becomes `in-use`.
pub async fn complete(state: &State, attachment_id: &str) -> Result<()> {
    let path = format!("/v3/attachments/{attachment_id}/action");
    state.block()?.post(path).json(&json!({"os-complete": {}})).done().await
}

async fn attachments_of(state: &State, server_id: &str) -> Result<Vec<Attachment>> {
    let path = format!("/v3/attachments/detail?all_tenants=1&instance_id={server_id}");
    let body: AttachmentsBody = state.block()?.get(path).fetch().await?;
    Ok(body.attachments)
}

/// Every attachment there is, with the server it names.
pub async fn all_attachments(state: &State) -> Result<Vec<(String, String)>> {
    let body: AttachmentsBody = state.block()?.get("/v3/attachments/detail?all_tenants=1").fetch().await?;
    Ok(body.attachments.into_iter().map(|a| (a.id, a.instance.unwrap_or_default())).collect())
}

/// Ends one attachment.
pub async fn detach(state: &State, attachment_id: &str) -> Result<()> {
    state.block()?.delete(format!("/v3/attachments/{attachment_id}")).done_or_gone().await
}

/// Ends the attachment of one volume to a server.
pub async fn detach_volume_of(state: &State, server_id: &str, volume_id: &str) -> Result<()> {
    for a in attachments_of(state, server_id).await?.iter().filter(|a| a.volume_id == volume_id) {
        detach(state, &a.id).await?;
    }
    Ok(())
}

/// Ends every attachment of a server, known or not.
pub async fn detach_all(state: &State, server_id: &str) -> Result<()> {
    if state.peers.block.is_none() {
        return Ok(());
    }
    for a in attachments_of(state, server_id).await? {
        detach(state, &a.id).await?;
    }
    Ok(())
}

pub async fn volume_delete(state: &State, id: &str) -> Result<()> {
    state.block()?.delete(format!("/v3/volumes/{id}")).done_or_gone().await
}

/// Takes back what a failed build did: attachments end, volumes made for it go.
pub async fn undo_build(state: &State, server_id: &str, project_id: &str, made_any: bool) -> Result<()> {
    detach_all(state, server_id).await?;
    if made_any {
        for v in made_for(state, server_id, project_id).await? {
            volume_delete(state, &v.id).await?;
        }
    }
    Ok(())
}

/// The row's volume as the host wants it.
pub fn disk(v: &ServerVolume) -> VolumeDisk {
    VolumeDisk {
        volume_id: v.volume_id.clone(),
        path: PathBuf::from(&v.path),
        format: v.format.clone(),
        size_bytes: v.size_bytes,
        device: v.device.as_deref().map(|d| d.trim_start_matches("/dev/").to_string()),
        boot_index: v.boot_index,
        read_only: v.read_only,
        shareable: v.shareable,
    }
}
