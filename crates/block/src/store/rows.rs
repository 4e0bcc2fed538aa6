//! Queries over several rows.

use super::{Attachment, Message, Snapshot, Volume, VolumeType};
use caelum_base::{Env, Error, Result, Timestamp};
use caelum_store::{Dir, Query, Record, Stored, Tx};
use std::time::Duration;

/// How long a message is kept at least.
const MESSAGE_AGE: Duration = Duration::from_secs(30 * 86_400);
/// Messages kept per project; the oldest make room.
const MESSAGES_PER_PROJECT: usize = 1_000;

pub fn volume_missing(id: &str) -> Error {
    Error::not_found(format!("Volume {id} could not be found.")).code("VolumeNotFound")
}

pub fn snapshot_missing(id: &str) -> Error {
    Error::not_found(format!("Snapshot {id} could not be found.")).code("SnapshotNotFound")
}

pub fn volume(tx: &mut Tx<'_>, id: &str) -> Result<Stored<Volume>> {
    tx.get(id)?.ok_or_else(|| volume_missing(id))
}

pub fn snapshot(tx: &mut Tx<'_>, id: &str) -> Result<Stored<Snapshot>> {
    tx.get(id)?.ok_or_else(|| snapshot_missing(id))
}

/// A record by id, or by exact name when no id matches.
pub fn type_by_ref(tx: &mut Tx<'_>, wanted: &str) -> Result<Option<Stored<VolumeType>>> {
    if let Some(t) = tx.get::<VolumeType>(wanted)? {
        return Ok(Some(t));
    }
    tx.first(&Query::new().eq("name", wanted))
}

pub fn attachments_of(tx: &mut Tx<'_>, volume_id: &str) -> Result<Vec<Stored<Attachment>>> {
    tx.list(&Query::new().eq("volume_id", volume_id).sort("created_at", Dir::Asc))
}

pub fn snapshots_of(tx: &mut Tx<'_>, volume_id: &str) -> Result<Vec<Stored<Snapshot>>> {
    tx.list(&Query::new().eq("volume_id", volume_id).sort("created_at", Dir::Asc))
}

/// Rows whose ids are among `ids`, in one query.
pub fn by_ids<R: Record>(tx: &mut Tx<'_>, column: &'static str, ids: &[String]) -> Result<Vec<Stored<R>>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    tx.list(&Query::new().is_in(column, ids.iter().map(String::as_str)))
}

/// What failed, for whom.
pub struct Notice<'a> {
    pub project_id: &'a str,
    pub request_id: &'a str,
    pub resource_type: &'a str,
    pub resource_uuid: &'a str,
    /// `VOLUME_<resource>_<action>_<detail>` numbers, as upstream's message ids.
    pub event: &'a str,
    pub text: &'a str,
}

/// Leaves a message for the project's users.
pub fn tell(tx: &mut Tx<'_>, env: &Env, n: &Notice<'_>) -> Result<()> {
    let now: Timestamp = env.now();
    let old: Vec<Stored<Message>> = tx
        .list(&Query { offset: Some(MESSAGES_PER_PROJECT), ..Query::new().eq("project_id", n.project_id).sort("created_at", Dir::Desc) })?;
    for m in &old {
        tx.delete(m)?;
    }
    tx.insert(&Message {
        id: env.uuid(),
        project_id: n.project_id.into(),
        request_id: n.request_id.into(),
        resource_type: n.resource_type.into(),
        resource_uuid: n.resource_uuid.into(),
        event_id: n.event.into(),
        message_level: "ERROR".into(),
        user_message: n.text.into(),
        created_at: now,
        guaranteed_until: now.plus(MESSAGE_AGE),
    })
    .map(drop)
}
