//! Which disks a new server gets: `block_device_mapping_v2`.

use crate::State;
use crate::logic::images;
use crate::logic::volumes::{self, DiskRequest, Source};
use crate::store::servers::{ImageFacts, ServerVolume};
use caelum_base::{Env, Error, ErrorKind, Result, Secret};
use serde::Deserialize;
use serde_json::Value;

/// One entry of `block_device_mapping_v2`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BdmIn {
    #[serde(default)]
    pub boot_index: Option<Value>,
    #[serde(default)]
    pub uuid: Option<String>,
    #[serde(default)]
    pub source_type: Option<String>,
    #[serde(default)]
    pub destination_type: Option<String>,
    #[serde(default)]
    pub volume_size: Option<Value>,
    #[serde(default)]
    pub delete_on_termination: Option<Value>,
    #[serde(default)]
    pub device_name: Option<String>,
    #[serde(default)]
    pub guest_format: Option<String>,
    #[serde(default)]
    pub disk_bus: Option<String>,
    #[serde(default)]
    pub device_type: Option<String>,
    #[serde(default)]
    pub no_device: Option<Value>,
    #[serde(default)]
    pub tag: Option<String>,
    #[serde(default)]
    pub volume_type: Option<String>,
}

/// What was found about the disks.
#[derive(Debug, Default)]
pub struct Disks {
    /// Root disk on the host from this image.
    pub image_id: Option<String>,
    /// Rows of the server, one per disk request.
    pub volumes: Vec<ServerVolume>,
    pub requests: Vec<DiskRequest>,
    /// Image properties of a boot volume.
    pub boot_image: Option<ImageFacts>,
}

fn bad(reason: &str) -> Error {
    Error::invalid(format!("Block Device Mapping is Invalid: {reason}"))
}

fn number(v: &Value) -> Result<Option<i64>> {
    match v {
        Value::Null => Ok(None),
        Value::Number(n) => n.as_i64().map(Some).ok_or_else(|| bad("a number is not an integer.")),
        Value::String(t) if t.is_empty() => Ok(None),
        Value::String(t) => t.parse().map(Some).map_err(|_| bad("a number is not an integer.")),
        _ => Err(bad("a number is not an integer.")),
    }
}

fn flag(v: Option<&Value>) -> Result<bool> {
    match v {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(b)) => Ok(*b),
        Some(Value::String(t)) if matches!(t.to_ascii_lowercase().as_str(), "true" | "1" | "yes" | "on") => Ok(true),
        Some(Value::String(t)) if matches!(t.to_ascii_lowercase().as_str(), "false" | "0" | "no" | "off") => Ok(false),
        Some(_) => Err(bad("delete_on_termination is not a boolean.")),
    }
}

/// Who asks, and what for.
pub struct Asker<'a> {
    pub state: &'a State,
    pub env: &'a Env,
    pub token: &'a Secret<String>,
    pub project_id: &'a str,
    pub multiattach: bool,
}

/// Checks the mapping against `imageRef` and the block storage service.
pub async fn resolve(a: &Asker<'_>, image_id: Option<String>, list: &[BdmIn]) -> Result<Disks> {
    let mut out = Disks { image_id, ..Disks::default() };
    let mut boot_order: Vec<i64> = Vec::new();
    let boots = |b: &&BdmIn| b.boot_index.as_ref().and_then(|v| number(v).ok().flatten()) == Some(0);
    match list.iter().find(boots) {
        None if out.image_id.is_some() => boot_order.push(0),
        // The image then only says what the boot volume holds.
        Some(b) if !is_local_image(b) => out.image_id = None,
        _ => {}
    }
    for b in list {
        if b.no_device.as_ref().is_some_and(|v| flag(Some(v)).unwrap_or(true)) {
            continue;
        }
        let index = b.boot_index.as_ref().map_or(Ok(None), number)?.filter(|i| *i >= 0);
        boot_order.extend(index);
        if is_local_image(b) {
            if index != Some(0) {
                return Err(bad("a local disk from an image must have boot_index 0."));
            }
            let id = b.uuid.clone().ok_or_else(|| bad("an image disk needs a uuid."))?;
            if out.image_id.as_ref().is_some_and(|i| *i != id) {
                return Err(bad("the image and the boot disk differ."));
            }
            out.image_id = Some(id);
            continue;
        }
        disk(a, &mut out, b, index).await?;
    }
    boot_order.sort_unstable();
    let in_order = boot_order.iter().enumerate().all(|(i, b)| i64::try_from(i) == Ok(*b));
    if !list.is_empty() && (!in_order || boot_order.is_empty()) {
        return Err(bad("Boot sequence for the instance and image/block device mapping combination is not valid."));
    }
    Ok(out)
}

fn is_local_image(b: &BdmIn) -> bool {
    b.source_type.as_deref() == Some("image") && b.destination_type.as_deref().unwrap_or("local") == "local"
}

async fn disk(a: &Asker<'_>, out: &mut Disks, b: &BdmIn, index: Option<i64>) -> Result<()> {
    let kind = b.source_type.as_deref().unwrap_or("volume");
    let destination = b.destination_type.as_deref().unwrap_or("volume");
    if !matches!(destination, "volume" | "local") || (kind == "volume" && destination == "local") {
        return Err(bad(&format!("destination_type {destination} does not go with source_type {kind}.")));
    }
    if destination == "local" {
        return Err(bad("only volumes and one local image disk can be mapped; the flavor brings local ephemeral and swap disks."));
    }
    let size = b.volume_size.as_ref().map_or(Ok(None), number)?.unwrap_or(0);
    let uuid = || b.uuid.clone().filter(|u| !u.is_empty()).ok_or_else(|| bad("a uuid is missing."));
    let mut row = ServerVolume {
        bdm_id: a.env.uuid(),
        device: b.device_name.clone().filter(|d| !d.is_empty()).map(device_name).transpose()?,
        boot_index: index.map(|i| i32::try_from(i).unwrap_or(i32::MAX)),
        delete_on_termination: flag(b.delete_on_termination.as_ref())?,
        tag: b.tag.clone(),
        ..ServerVolume::default()
    };
    let source = match kind {
        "volume" => {
            let volume = existing(a, &uuid()?).await?;
            if index == Some(0) {
                if !volume.bootable {
                    return Err(Error::invalid(format!("Block Device {} is not bootable.", volume.id)));
                }
                out.boot_image = Some(boot_image(&volume));
            }
            row.shareable = volume.multiattach;
            row.volume_id = volume.id;
            Source::Volume
        }
        "image" => {
            let id = uuid()?;
            let gone = |e: Error| if e.kind == ErrorKind::Invalid { bad(&format!("failed to get image {id}.")) } else { e };
            images::image_of_user(a.state, a.token, a.project_id, &id).await.map_err(gone)?;
            Source::Image { image_id: id }
        }
        "snapshot" => {
            let id = uuid()?;
            let gone = |e: Error| if e.is_not_found() { bad(&format!("failed to get snapshot {id}.")) } else { e };
            volumes::snapshot_of_user(a.state, a.token, &id).await.map_err(gone)?;
            Source::Snapshot { snapshot_id: id }
        }
        "blank" => Source::Blank,
        other => return Err(bad(&format!("source_type {other} is unknown."))),
    };
    if matches!(source, Source::Image { .. } | Source::Blank) && size < 1 {
        return Err(bad("Images and blank disks with destination_type 'volume' need a volume_size of at least 1."));
    }
    a.state.block()?;
    out.requests.push(DiskRequest { bdm_id: row.bdm_id.clone(), source, size_gb: size, volume_type: b.volume_type.clone() });
    out.volumes.push(row);
    Ok(())
}

/// `/dev/vdb` and `vdb`, nothing else.
pub fn device_name(text: String) -> Result<String> {
    let name = text.strip_prefix("/dev/").unwrap_or(&text);
    let fine = !name.is_empty() && name.len() <= 16 && name.bytes().all(|b| b.is_ascii_alphanumeric());
    if !fine {
        return Err(Error::invalid(format!("The supplied device path ({text}) is invalid.")));
    }
    Ok(format!("/dev/{name}"))
}

async fn existing(a: &Asker<'_>, id: &str) -> Result<volumes::Volume> {
    let gone = |e: Error| if e.is_not_found() { bad(&format!("failed to get volume {id}.")) } else { e };
    let volume = volumes::volume_of_user(a.state, a.token, id).await.map_err(gone)?;
    attachable(&volume, a.multiattach)?;
    Ok(volume)
}

/// Errors: `Invalid` for a volume that cannot be attached now.
pub fn attachable(volume: &volumes::Volume, multiattach: bool) -> Result<()> {
    let shared = volume.multiattach && volume.status == "in-use";
    if volume.status != "available" && !shared {
        return Err(Error::invalid(format!(
            "Invalid volume: volume '{}' status must be 'available'. Currently in '{}'",
            volume.id, volume.status
        )));
    }
    if volume.multiattach && !multiattach {
        return Err(Error::conflict("Multiattach volumes are only supported starting with compute API version 2.60."));
    }
    Ok(())
}

fn boot_image(v: &volumes::Volume) -> ImageFacts {
    let text = |k: &str| v.volume_image_metadata.get(k).and_then(Value::as_str).and_then(|t| t.parse().ok()).unwrap_or(0);
    ImageFacts {
        min_disk_gb: 0,
        min_ram_mb: text("min_ram"),
        properties: v.volume_image_metadata.iter().filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_string()))).collect(),
        ..ImageFacts::default()
    }
}
