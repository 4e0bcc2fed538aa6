//! Creating, changing and deleting volumes.

use crate::State;
use crate::flows::create::{CreateVolume, Source};
use crate::flows::delete::DeleteVolume;
use crate::flows::extend::ExtendVolume;
use crate::logic::images::{self, Image};
use crate::logic::types;
use crate::store::quota::{self, Wanted};
use crate::store::rows::{self, attachments_of, snapshot_missing, snapshots_of, volume_missing};
use crate::store::{Backup, Group, Metadata, Transfer, Volume, VolumeType};
use caelum_base::{Error, Result, Secret, Timestamp};
use caelum_store::{Query, Stored, Tx};

/// Largest size in GiB that is believed.
pub const MAX_SIZE: i64 = 16_777_216;

/// Who asks, as far as rows need it.
#[derive(Clone, Debug)]
pub struct Caller {
    pub project_id: String,
    pub user_id: String,
    pub admin: bool,
    pub request_id: String,
    pub token: Secret<String>,
}

impl Caller {
    fn sees(&self, project_id: &str) -> bool {
        self.admin || self.project_id == project_id
    }
}

/// A checked request for a volume.
#[derive(Clone, Debug, Default)]
pub struct NewVolume {
    pub name: Option<String>,
    pub description: Option<String>,
    pub size: Option<i64>,
    pub volume_type: Option<String>,
    pub availability_zone: Option<String>,
    pub metadata: Metadata,
    pub image_id: Option<String>,
    pub snapshot_id: Option<String>,
    pub source_volid: Option<String>,
    pub backup_id: Option<String>,
    pub group_id: Option<String>,
}

fn bad_input(text: impl std::fmt::Display) -> Error {
    Error::invalid(format!("Invalid input received: {text}"))
}

/// What the source of a new volume settles.
struct Origin {
    source: Source,
    least: i64,
    type_id: Option<String>,
    bootable: bool,
    image_metadata: Metadata,
    zone: Option<String>,
}

impl Origin {
    fn blank() -> Self {
        Self { source: Source::Blank, least: 0, type_id: None, bootable: false, image_metadata: Metadata::new(), zone: None }
    }
}

fn check_image(image: &Image, size: Option<i64>) -> Result<()> {
    image.format()?;
    let Some(size) = size else { return Ok(()) };
    let bytes = image.virtual_size.unwrap_or(0).max(image.size.unwrap_or(0));
    let need = i64::try_from(bytes.div_ceil(1 << 30)).unwrap_or(i64::MAX);
    if need > size {
        return Err(bad_input(format!("Size of specified image {need}GB is larger than volume size {size}GB.")));
    }
    if image.min_disk > size {
        return Err(bad_input(format!("Volume size {size}GB cannot be smaller than the image minDisk size {}GB.", image.min_disk)));
    }
    Ok(())
}

/// Records a volume and starts making it.
pub async fn create(state: &State, caller: &Caller, new: NewVolume) -> Result<Stored<Volume>> {
    let sources = [&new.image_id, &new.snapshot_id, &new.source_volid, &new.backup_id];
    if sources.iter().filter(|s| s.is_some()).count() > 1 {
        return Err(bad_input("A volume has one source at most."));
    }
    if let Some(zone) = new.availability_zone.as_deref().filter(|z| *z != state.options.availability_zone) {
        return Err(bad_input(format!("Availability zone '{zone}' is invalid.")));
    }
    let image = match &new.image_id {
        Some(id) => {
            let image = images::show_as_user(state, &caller.token, id).await?;
            check_image(&image, new.size)?;
            Some(image)
        }
        None => None,
    };
    let (flows, env, caller) = (state.flows.clone(), state.env.clone(), caller.clone());
    let (options, pool) = (state.options.clone(), state.pool());
    let id = env.uuid();
    let now = env.now();
    state
        .db
        .write(move |tx| {
            let origin = origin(tx, &caller, &new, image.as_ref())?;
            let size = size_of(&new, &origin)?;
            let kind = kind_of(tx, &caller, &new, &origin, &options.default_type)?;
            let v = Volume {
                id: id.clone(),
                project_id: caller.project_id.clone(),
                user_id: caller.user_id.clone(),
                name: new.name.clone(),
                description: new.description.clone(),
                size,
                status: "creating".into(),
                volume_type_id: kind.id.clone(),
                availability_zone: origin.zone.clone().unwrap_or_else(|| options.availability_zone.clone()),
                host: pool.clone(),
                format: options.volume_format.clone(),
                bootable: origin.bootable,
                multiattach: kind.multiattach(),
                metadata: new.metadata.clone(),
                image_metadata: origin.image_metadata.clone(),
                snapshot_id: new.snapshot_id.clone(),
                source_volid: new.source_volid.clone(),
                group_id: new.group_id.clone(),
                created_at: now,
                ..Volume::default()
            };
            insert(tx, &v, &kind)?;
            let made = tx.get::<Volume>(&v.id)?.ok_or_else(|| Error::internal("a new row is missing"))?;
            let flow = CreateVolume {
                volume_id: v.id.clone(),
                project_id: v.project_id.clone(),
                request_id: caller.request_id.clone(),
                format: v.format.clone(),
                bytes: v.bytes(),
                source: origin.source,
                timeout_secs: options.data_timeout.as_secs(),
                refusal: types::unmet(&kind).map(|_| "Could not find any available weighted backend.".to_string()),
                image_metadata: Metadata::new(),
            };
            flows.start(tx, &v.id, &v.project_id, &flow)?;
            Ok(made)
        })
        .await
}

/// Adds a volume's row if the project's quota has room.
pub fn insert(tx: &mut Tx<'_>, v: &Volume, kind: &VolumeType) -> Result<()> {
    let wanted = Wanted {
        volumes: 1,
        gigabytes: v.size,
        volume_size: v.size,
        volume_type: Some(&kind.name),
        volume_type_id: Some(&kind.id),
        ..Wanted::default()
    };
    quota::check(tx, &v.project_id, &wanted)?;
    tx.insert(v).map(drop)
}

fn size_of(new: &NewVolume, origin: &Origin) -> Result<i64> {
    let size = new.size.or(Some(origin.least).filter(|n| *n > 0));
    let size = size.ok_or_else(|| bad_input("Volume size must be specified as an option."))?;
    if size < origin.least {
        let what = match origin.source {
            Source::Snapshot { .. } => "snapshot size",
            Source::Volume { .. } => "original volume size",
            _ => "source size",
        };
        return Err(bad_input(format!(
            "Volume size '{size}'GB cannot be smaller than the {what} {}GB. They must be >= original size.",
            origin.least
        )));
    }
    Ok(size)
}

fn kind_of(tx: &mut Tx<'_>, caller: &Caller, new: &NewVolume, origin: &Origin, configured: &str) -> Result<Stored<VolumeType>> {
    if let Some(wanted) = &new.volume_type {
        return types::usable(tx, wanted, &caller.project_id, caller.admin);
    }
    if let Some(id) = &origin.type_id
        && let Some(t) = tx.get::<VolumeType>(id)?
    {
        return Ok(t);
    }
    types::default_for(tx, configured, &caller.project_id)
}

fn origin(tx: &mut Tx<'_>, caller: &Caller, new: &NewVolume, image: Option<&Image>) -> Result<Origin> {
    if let Some(id) = &new.group_id {
        let group = tx.get::<Group>(id)?.filter(|g| caller.sees(&g.project_id));
        group.ok_or_else(|| Error::not_found(format!("Group {id} could not be found.")))?;
    }
    if let Some(image) = image {
        let wanted = image.other.get("cinder_img_volume_type").and_then(|v| v.as_str());
        let type_id = match wanted {
            Some(name) => Some(types::usable(tx, name, &caller.project_id, caller.admin)?.id.clone()),
            None => None,
        };
        return Ok(Origin { source: Source::Image { image_id: image.id.clone() }, type_id, ..Origin::blank() });
    }
    if let Some(id) = &new.snapshot_id {
        let s = rows::snapshot(tx, id).ok().filter(|s| caller.sees(&s.project_id)).ok_or_else(|| snapshot_missing(id))?;
        if !matches!(s.status.as_str(), "available" | "in-use") {
            return Err(Error::invalid(format!(
                "Invalid snapshot: Originating snapshot status must be one of 'available' values, but the current status is {}.",
                s.status
            )));
        }
        let d = s.disk();
        let s = s.into_inner();
        return Ok(Origin {
            source: Source::Snapshot { id: d.id, format: d.format, bytes: d.bytes },
            least: s.size,
            type_id: Some(s.volume_type_id),
            bootable: s.bootable,
            image_metadata: s.image_metadata,
            zone: None,
        });
    }
    if let Some(id) = &new.source_volid {
        let v = rows::volume(tx, id).ok().filter(|v| caller.sees(&v.project_id)).ok_or_else(|| volume_missing(id))?;
        if !matches!(v.status.as_str(), "available" | "in-use") {
            return Err(Error::invalid(format!(
                "Invalid volume: Unable to create a volume from source volume {id}: its status is {}.",
                v.status
            )));
        }
        let d = v.disk();
        let v = v.into_inner();
        return Ok(Origin {
            source: Source::Volume { id: d.id, format: d.format, bytes: d.bytes },
            least: v.size,
            type_id: Some(v.volume_type_id),
            bootable: v.bootable,
            image_metadata: v.image_metadata,
            zone: Some(v.availability_zone),
        });
    }
    if let Some(id) = &new.backup_id {
        let missing = || Error::not_found(format!("Backup {id} could not be found."));
        let b = tx.get::<Backup>(id)?.filter(|b| caller.sees(&b.project_id)).ok_or_else(missing)?;
        if b.status != "available" {
            return Err(Error::invalid("Invalid backup: Backup status must be available."));
        }
        let d = b.disk();
        return Ok(Origin {
            source: Source::Backup { id: d.id, format: d.format, bytes: d.bytes },
            least: b.size,
            bootable: b.bootable,
            image_metadata: b.image_metadata.clone(),
            ..Origin::blank()
        });
    }
    Ok(Origin::blank())
}

/// How a delete was asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct DeleteHow {
    pub cascade: bool,
    pub force: bool,
}

const DELETABLE: [&str; 9] = [
    "available",
    "error",
    "error_restoring",
    "error_extending",
    "error_managing",
    "error_deleting",
    "creating",
    "downloading",
    "error_backing-up",
];

/// Marks a volume as going and starts removing it; a creation under way is cancelled.
pub fn delete(tx: &mut Tx<'_>, state: &State, id: &str, request_id: &str, how: DeleteHow) -> Result<()> {
    let mut v = rows::volume(tx, id)?;
    // An administrator may have set the status by hand: only a running removal counts.
    if v.status == "deleting" && state.flows.busy(tx, id)? {
        return Ok(());
    }
    let attached = attachments_of(tx, id)?.iter().any(|a| a.status == "attached");
    let allowed = how.force || DELETABLE.contains(&v.status.as_str());
    let transfer = tx.count::<Transfer>(&Query::new().eq("volume_id", id))? > 0;
    if !allowed || attached || (transfer && !how.force) {
        return Err(Error::invalid(format!(
            "Invalid volume: Volume status must be available or error or error_restoring or error_extending or error_managing and must not be migrating, attached, belong to a group, have snapshots, awaiting a transfer, or be disassociated from snapshots after volume transfer. (Current status: {})",
            v.status
        )));
    }
    if v.group_id.is_some() && !how.force {
        return Err(Error::invalid("Invalid volume: Volume cannot be deleted while it belongs to a group."));
    }
    let mut gone = Vec::new();
    for mut s in snapshots_of(tx, id)? {
        if !how.cascade {
            return Err(Error::invalid(format!("Invalid volume: Volume {id} still has dependent snapshots.")));
        }
        if !matches!(s.status.as_str(), "available" | "error" | "error_deleting" | "deleting") {
            return Err(Error::invalid(format!("Invalid snapshot: Snapshot {} is {}; it cannot be deleted now.", s.id, s.status)));
        }
        s.status = "deleting".into();
        tx.update(&mut s)?;
        gone.push(s.id.clone());
    }
    state.flows.cancel(tx, id)?;
    v.status = "deleting".into();
    v.updated_at = Some(state.env.now());
    tx.update(&mut v)?;
    let flow = DeleteVolume { volume_id: id.into(), project_id: v.project_id.clone(), request_id: request_id.into(), snapshots: gone };
    state.flows.start(tx, id, &v.project_id, &flow).map(drop)
}

/// Starts growing a volume. `in_use`: the version allows it while attached.
pub fn extend(tx: &mut Tx<'_>, state: &State, id: &str, request_id: &str, new_size: i64, in_use: bool) -> Result<()> {
    let mut v = rows::volume(tx, id)?;
    let ok = v.status == "available" || (in_use && v.status == "in-use" && !v.multiattach);
    if !ok {
        return Err(Error::invalid(format!(
            "Invalid volume: Volume {id} status must be available to extend, but the current status is {}.",
            v.status
        )));
    }
    if new_size <= v.size {
        return Err(bad_input(format!(
            "New size for extend must be greater than current size. (current: {}, extended: {new_size}).",
            v.size
        )));
    }
    let kind = tx.get::<VolumeType>(&v.volume_type_id)?;
    let wanted = Wanted {
        gigabytes: new_size - v.size,
        volume_size: new_size,
        volume_type: kind.as_ref().map(|t| t.name.as_str()),
        volume_type_id: kind.as_ref().map(|t| t.id.as_str()),
        ..Wanted::default()
    };
    quota::check(tx, &v.project_id, &wanted)?;
    let servers = attachments_of(tx, id)?.into_iter().filter_map(|a| a.into_inner().instance_uuid).collect();
    v.previous_status = Some(std::mem::replace(&mut v.status, "extending".into()));
    v.pending_size = Some(new_size);
    v.updated_at = Some(state.env.now());
    tx.update(&mut v)?;
    let flow = ExtendVolume {
        volume_id: id.into(),
        project_id: v.project_id.clone(),
        request_id: request_id.into(),
        format: v.format.clone(),
        new_size,
        servers,
    };
    state.flows.start(tx, id, &v.project_id, &flow).map(drop)
}

/// Gives a volume another type. All types live on the one backend, so no data moves.
pub fn retype(tx: &mut Tx<'_>, id: &str, wanted: &str, caller: &Caller, now: Timestamp) -> Result<()> {
    let mut v = rows::volume(tx, id)?;
    if !matches!(v.status.as_str(), "available" | "in-use") {
        return Err(Error::invalid(format!("Invalid volume: Unable to retype, volume {id} is {}.", v.status)));
    }
    let missing = |_| Error::not_found(format!("Volume type {wanted} could not be found."));
    let kind = types::usable(tx, wanted, &caller.project_id, caller.admin).map_err(missing)?;
    if kind.id == v.volume_type_id {
        return Err(bad_input(format!("New volume_type same as original: {wanted}.")));
    }
    if kind.multiattach() != v.multiattach && v.status != "available" {
        return Err(bad_input("Retyping to a type with another multiattach capability needs an available volume."));
    }
    let extra = Wanted { volume_type: Some(&kind.name), volume_type_id: Some(&kind.id), ..Wanted::default() };
    quota::check(tx, &v.project_id, &extra)?;
    v.multiattach = kind.multiattach();
    v.volume_type_id.clone_from(&kind.id);
    v.updated_at = Some(now);
    tx.update(&mut v)
}
