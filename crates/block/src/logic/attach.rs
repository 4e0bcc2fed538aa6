//! Attachments, and what a volume's status is because of them.

use crate::State;
use crate::store::rows::{self, attachments_of};
use crate::store::{Attachment, Volume};
use caelum_base::{Error, Result, Timestamp};
use caelum_store::{Stored, Tx};
use serde_json::Value;

/// A checked request for an attachment.
#[derive(Clone, Debug, Default)]
pub struct NewAttachment {
    pub id: String,
    pub volume_id: String,
    pub instance_uuid: Option<String>,
    pub mode: Option<String>,
    pub now: Timestamp,
}

/// Statuses that follow from attachments alone.
const DERIVED: [&str; 6] = ["available", "reserved", "attaching", "in-use", "detaching", "error_attaching"];

/// Sets the status that the attachments imply.
pub fn settle(tx: &mut Tx<'_>, v: &mut Stored<Volume>, now: Timestamp) -> Result<()> {
    if !DERIVED.contains(&v.status.as_str()) {
        // An operation is under way; it goes back to what it found, which must be kept right.
        if v.previous_status.as_deref().is_some_and(|s| DERIVED.contains(&s)) {
            v.previous_status = Some(implied(tx, &v.id)?.into());
            tx.update(v)?;
        }
        return Ok(());
    }
    v.status = implied(tx, &v.id)?.into();
    v.updated_at = Some(now);
    tx.update(v)
}

fn implied(tx: &mut Tx<'_>, volume_id: &str) -> Result<&'static str> {
    let all = attachments_of(tx, volume_id)?;
    let any = |status: &str| all.iter().any(|a| a.status == status);
    Ok(match (any("attached"), any("attaching"), any("reserved")) {
        (true, _, _) => "in-use",
        (false, true, _) => "attaching",
        (false, false, true) => "reserved",
        (false, false, false) => "available",
    })
}

/// The status that the attachments imply, when the volume has another of that kind. One that is
/// `detaching` is about to change; `error_attaching` is an operator's word.
pub fn differs(tx: &mut Tx<'_>, v: &Volume) -> Result<Option<&'static str>> {
    if !DERIVED.contains(&v.status.as_str()) || matches!(v.status.as_str(), "detaching" | "error_attaching") {
        return Ok(None);
    }
    let right = implied(tx, &v.id)?;
    Ok((right != v.status).then_some(right))
}

fn unusable(v: &Volume) -> Error {
    Error::invalid(format!(
        "Invalid volume: Volume {} status must be available or downloading to reserve, but the current status is {}.",
        v.id, v.status
    ))
}

/// Reserves a volume for a server. Only a multiattach volume can be reserved twice.
pub fn reserve(tx: &mut Tx<'_>, new: &NewAttachment) -> Result<Stored<Attachment>> {
    let mut v = rows::volume(tx, &new.volume_id)?;
    let shared = v.multiattach && matches!(v.status.as_str(), "in-use" | "reserved" | "attaching");
    if v.status != "available" && !shared {
        return Err(unusable(&v));
    }
    let existing = attachments_of(tx, &v.id)?;
    if !v.multiattach && !existing.is_empty() {
        return Err(unusable(&v));
    }
    if new.instance_uuid.is_some() && existing.iter().any(|a| a.instance_uuid == new.instance_uuid) {
        return Err(Error::invalid(format!("Invalid volume: Volume {} is already attached to this server.", v.id)));
    }
    let read_only = v.readonly == Some(true);
    if read_only && new.mode.as_deref() == Some("rw") {
        return Err(Error::invalid("Invalid volume: Volume attach mode rw is not allowed for a read-only volume."));
    }
    let mode = new.mode.clone().unwrap_or_else(|| if read_only { "ro" } else { "rw" }.into());
    let a = tx.insert(&Attachment {
        id: new.id.clone(),
        project_id: v.project_id.clone(),
        volume_id: v.id.clone(),
        instance_uuid: new.instance_uuid.clone(),
        status: "reserved".into(),
        mode,
        created_at: new.now,
        ..Attachment::default()
    })?;
    settle(tx, &mut v, new.now)?;
    Ok(a)
}

fn attachment(tx: &mut Tx<'_>, id: &str) -> Result<Stored<Attachment>> {
    tx.get(id)?.ok_or_else(|| missing(id))
}

pub fn missing(id: &str) -> Error {
    Error::not_found(format!("Volume attachment could not be found with filter: attachment_id = {id}."))
}

/// Tells a host how to reach the volume.
pub fn connect(tx: &mut Tx<'_>, state: &State, id: &str, connector: &Value) -> Result<Stored<Attachment>> {
    let mut a = attachment(tx, id)?;
    let mut v = rows::volume(tx, &a.volume_id)?;
    if a.status == "attached" {
        return Err(Error::invalid(format!("Invalid input received: Attachment {id} is attached already.")));
    }
    if matches!(v.status.as_str(), "deleting" | "error" | "maintenance" | "error_deleting") {
        return Err(Error::invalid(format!("Invalid volume: Volume {} is {}.", v.id, v.status)));
    }
    let text = |k: &str| connector.get(k).and_then(Value::as_str).map(String::from);
    a.host = text("host");
    a.mountpoint = text("mountpoint").or_else(|| a.mountpoint.clone());
    if let Some(mode) = text("mode").filter(|m| m == "ro" || m == "rw") {
        a.mode = mode;
    }
    a.connector = connector.clone();
    a.connection_info = state.driver.connection(&v.disk(), a.mode == "ro")?;
    a.status = "attaching".into();
    tx.update(&mut a)?;
    settle(tx, &mut v, state.env.now())?;
    Ok(a)
}

/// The host has the volume.
pub fn complete(tx: &mut Tx<'_>, id: &str, now: Timestamp) -> Result<()> {
    let mut a = attachment(tx, id)?;
    let mut v = rows::volume(tx, &a.volume_id)?;
    if a.status != "attached" {
        a.status = "attached".into();
        a.attached_at = Some(now);
        tx.update(&mut a)?;
    }
    settle(tx, &mut v, now)
}

/// Ends an attachment. Ending one that is gone is no error here.
pub fn remove(tx: &mut Tx<'_>, id: &str, now: Timestamp) -> Result<()> {
    let Some(a) = tx.get::<Attachment>(id)? else { return Ok(()) };
    tx.delete(&a)?;
    match tx.get::<Volume>(&a.volume_id)? {
        Some(mut v) => {
            // A volume with a user was whole; the error was about the attachment, which is gone.
            if v.status == "error" {
                v.status = "detaching".into();
            }
            settle(tx, &mut v, now)
        }
        None => Ok(()),
    }
}

/// The old way in one step: `os-attach` makes an attachment that is attached at once. An
/// attachment reserved by `os-reserve` is taken over.
pub fn attach_now(tx: &mut Tx<'_>, new: &NewAttachment, host: Option<&str>, mountpoint: &str) -> Result<()> {
    let mut v = rows::volume(tx, &new.volume_id)?;
    let reserved = attachments_of(tx, &v.id)?.into_iter().find(|a| a.legacy && a.status != "attached");
    let mut a = match reserved {
        Some(a) => a,
        None => reserve(tx, new)?,
    };
    a.instance_uuid.clone_from(&new.instance_uuid);
    a.host = host.map(String::from);
    a.mountpoint = Some(mountpoint.to_string());
    if let Some(mode) = &new.mode {
        a.mode.clone_from(mode);
    }
    a.legacy = true;
    a.status = "attached".into();
    a.attached_at = Some(new.now);
    tx.update(&mut a)?;
    v = rows::volume(tx, &v.id)?;
    settle(tx, &mut v, new.now)
}

/// The old `os-reserve`: the volume is `attaching` for whoever asked.
pub fn reserve_legacy(tx: &mut Tx<'_>, new: &NewAttachment) -> Result<()> {
    let mut a = reserve(tx, new)?;
    a.legacy = true;
    a.status = "attaching".into();
    tx.update(&mut a)?;
    let mut v = rows::volume(tx, &new.volume_id)?;
    settle(tx, &mut v, new.now)
}

/// The old `os-unreserve`: reservations that no server took are given back.
pub fn unreserve_legacy(tx: &mut Tx<'_>, volume_id: &str, now: Timestamp) -> Result<()> {
    for a in attachments_of(tx, volume_id)?.iter().filter(|a| a.legacy && a.status != "attached") {
        tx.delete(a)?;
    }
    let mut v = rows::volume(tx, volume_id)?;
    settle(tx, &mut v, now)
}

/// The attachment the old `os-detach` means: the named one, or the only one.
pub fn to_detach(tx: &mut Tx<'_>, volume_id: &str, id: Option<&str>) -> Result<Stored<Attachment>> {
    let mut all = attachments_of(tx, volume_id)?;
    if let Some(id) = id {
        return all.into_iter().find(|a| a.id == id).ok_or_else(|| missing(id));
    }
    if all.len() > 1 {
        return Err(Error::invalid("Invalid volume: Detach volume failed: More than one attachment, but no attachment_id provided."));
    }
    all.pop().ok_or_else(|| Error::invalid(format!("Invalid volume: Unable to detach volume. Volume {volume_id} is not attached.")))
}
