//! Where volumes are kept. A driver works on names it makes from ids; it keeps no state of its own
//! and every operation may be repeated.

pub mod copy;
mod file;

pub use file::{FileDriver, Options};

use async_trait::async_trait;
use bytes::Bytes;
use caelum_base::Result;
use caelum_safeio::inspect::Format;
use futures_util::stream::BoxStream;
use serde_json::Value;
use std::path::PathBuf;

/// A volume's data as a driver sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// A UUID.
    pub id: String,
    /// `raw` or `qcow2`.
    pub format: String,
    /// Size a guest sees.
    pub bytes: u64,
}

/// What an image must turn out to be.
#[derive(Clone, Debug)]
pub struct Expected {
    /// The image's `disk_format`.
    pub format: Format,
    /// Length of the transfer; unknown for old images.
    pub size: Option<u64>,
    /// SHA-512 in hexadecimal; not checked when the image has another hash.
    pub sha512: Option<String>,
}

/// Room of the backend, bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Room {
    pub total: u64,
    pub free: u64,
}

pub type ByteStream = BoxStream<'static, Result<Bytes>>;

/// A backend. Making something replaces what an interrupted try left; removing what is gone is no
/// error. Work that was begun for a dropped future ends before the next operation on the same id.
#[async_trait]
pub trait VolumeDriver: Send + Sync {
    /// An empty volume. Reads as zeros: no bytes of earlier volumes can be in it.
    async fn create_blank(&self, disk: &Disk) -> Result<()>;

    /// A volume with an image's content, checked while it arrives and converted if need be.
    /// Errors: `Invalid` with a reason for the user when the image is not what was promised.
    async fn create_from_image(&self, disk: &Disk, expected: &Expected, image: ByteStream) -> Result<()>;

    /// A volume with the content of another.
    async fn clone_volume(&self, source: &Disk, disk: &Disk) -> Result<()>;

    /// A volume with the content of a snapshot.
    async fn create_from_snapshot(&self, snapshot: &Disk, disk: &Disk) -> Result<()>;

    /// A copy of the volume as it is now. While a guest writes it is crash-consistent only where
    /// the file system can share blocks; see [`copy`].
    async fn snapshot(&self, volume: &Disk, snapshot_id: &str) -> Result<()>;

    /// Puts a snapshot's content into the volume.
    async fn revert(&self, snapshot: &Disk, volume: &Disk) -> Result<()>;

    async fn delete(&self, volume_id: &str) -> Result<()>;

    async fn delete_snapshot(&self, snapshot_id: &str) -> Result<()>;

    /// Grows a volume that nobody has open to `disk.bytes`.
    async fn extend(&self, disk: &Disk) -> Result<()>;

    /// What a host needs to open the volume.
    fn connection(&self, disk: &Disk, read_only: bool) -> Result<Value>;

    /// A file with the volume's content in `format`, for an upload; [`VolumeDriver::drop_export`]
    /// removes it.
    async fn export(&self, volume: &Disk, format: Format) -> Result<PathBuf>;

    async fn drop_export(&self, volume_id: &str) -> Result<()>;

    async fn backup(&self, volume: &Disk, backup_id: &str) -> Result<()>;

    async fn backup_of_snapshot(&self, snapshot: &Disk, backup_id: &str) -> Result<()>;

    async fn restore(&self, backup: &Disk, volume: &Disk) -> Result<()>;

    async fn delete_backup(&self, backup_id: &str) -> Result<()>;

    /// Names of everything the backend holds: `volume-<id>`, `snapshot-<id>`, `backup-<id>`.
    async fn list(&self) -> Result<Vec<String>>;

    async fn room(&self) -> Result<Room>;
}
