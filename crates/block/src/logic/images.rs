//! Calls to the image service.

use crate::State;
use crate::driver::ByteStream;
use crate::store::Metadata;
use caelum_base::{Error, Result, Secret, is_uuid};
use caelum_rest::stream_channel;
use caelum_safeio::inspect::Format;
use futures_util::StreamExt;
use http_body_util::BodyStream;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

const CHUNK: usize = 1 << 20;
/// Longest upload of a volume to the image service.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(3_600);

/// What the image service says about an image.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Image {
    pub id: String,
    #[serde(default)]
    pub status: String,
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub disk_format: Option<String>,
    #[serde(default)]
    pub container_format: Option<String>,
    #[serde(default)]
    pub size: Option<u64>,
    #[serde(default)]
    pub virtual_size: Option<u64>,
    /// GiB.
    #[serde(default)]
    pub min_disk: i64,
    /// MiB.
    #[serde(default)]
    pub min_ram: i64,
    #[serde(default)]
    pub os_hash_algo: Option<String>,
    #[serde(default)]
    pub os_hash_value: Option<String>,
    #[serde(default)]
    pub checksum: Option<String>,
    /// Everything else: the base attributes and the image's own properties.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// Attributes of every image that are no properties.
const BASE: [&str; 17] = [
    "visibility",
    "protected",
    "owner",
    "created_at",
    "updated_at",
    "tags",
    "self",
    "file",
    "schema",
    "direct_url",
    "locations",
    "os_hidden",
    "stores",
    "members",
    "deleted",
    "deleted_at",
    "is_public",
];

impl Image {
    /// Errors: `Invalid` for formats no volume can be made from.
    pub fn format(&self) -> Result<Format> {
        let name = self.disk_format.as_deref().unwrap_or("");
        let known = Format::parse(name).filter(|f| crate::flows::create::FORMATS.contains(f));
        known.ok_or_else(|| Error::invalid(format!("A volume cannot be made from an image of format '{name}'.")))
    }

    pub fn sha512(&self) -> Option<String> {
        let is = self.os_hash_algo.as_deref().is_some_and(|a| a.eq_ignore_ascii_case("sha512"));
        self.os_hash_value.clone().filter(|_| is)
    }

    /// What a volume made from it remembers.
    pub fn for_volume(&self) -> Metadata {
        let mut out = Metadata::new();
        let mut set = |k: &str, v: Option<String>| v.map(|v| out.insert(k.to_string(), v)).map(drop);
        set("image_id", Some(self.id.clone()));
        set("image_name", self.name.clone());
        set("disk_format", self.disk_format.clone());
        set("container_format", self.container_format.clone());
        set("size", self.size.map(|s| s.to_string()));
        set("min_disk", Some(self.min_disk.to_string()));
        set("min_ram", Some(self.min_ram.to_string()));
        set("checksum", self.checksum.clone());
        for (k, v) in self.other.iter().filter(|(k, _)| !BASE.contains(&k.as_str())) {
            set(k, v.as_str().map(String::from));
        }
        out
    }
}

/// An image as the service sees it.
pub async fn show(state: &State, id: &str) -> Result<Image> {
    state.image.get(format!("/v2/images/{id}")).fetch().await
}

/// An image the user may use. Errors: `Invalid`, in upstream's words, when it is none.
pub async fn show_as_user(state: &State, token: &Secret<String>, id: &str) -> Result<Image> {
    let unknown = || Error::invalid("Invalid image identifier or unable to access requested image.");
    if !is_uuid(id) {
        return Err(unknown());
    }
    match state.image.get(format!("/v2/images/{id}")).as_user(token).fetch::<Image>().await {
        Ok(i) if i.status == "active" => Ok(i),
        Ok(_) => Err(Error::invalid(format!("Invalid image {id}: Image {id} is not active."))),
        Err(e) if e.is_not_found() || e.kind.status() == 403 => Err(unknown()),
        Err(e) => Err(e),
    }
}

/// The image's bytes.
pub async fn download(state: &State, id: &str) -> Result<ByteStream> {
    let response = state.image.get(format!("/v2/images/{id}/file")).send().await?;
    if response.status() == http::StatusCode::NO_CONTENT {
        return Err(Error::invalid("The image has no data."));
    }
    let stream = BodyStream::new(response.into_body());
    let chunks = stream.filter_map(|frame| async move {
        match frame {
            Ok(f) => f.into_data().ok().map(Ok),
            Err(e) => Some(Err(Error::unavailable("The image transfer broke off.").caused_by(e))),
        }
    });
    Ok(chunks.boxed())
}

/// The record of an image to upload a volume to, made as the user.
pub async fn create_as_user(state: &State, token: &Secret<String>, attributes: &Map<String, Value>) -> Result<Value> {
    state.image.post("/v2/images").as_user(token).json(&json!(attributes)).fetch().await
}

/// Sends a file as the image's data.
pub async fn upload(state: &State, id: &str, path: PathBuf) -> Result<()> {
    let (tx, body) = stream_channel(4);
    let reader = tokio::task::spawn_blocking(move || {
        let mut file = std::fs::File::open(&path)?;
        loop {
            let mut chunk = vec![0u8; CHUNK];
            let n = file.read(&mut chunk)?;
            if n == 0 {
                return Ok::<(), std::io::Error>(());
            }
            chunk.truncate(n);
            // Nobody reads any more: the answer says why.
            if tx.blocking_send(Ok(chunk.into())).is_err() {
                return Ok(());
            }
        }
    });
    let call = state.image.put(format!("/v2/images/{id}/file")).stream(body, "application/octet-stream").deadline(UPLOAD_TIMEOUT);
    call.done().await?;
    let read = reader.await.map_err(|e| Error::internal("reading a volume ended").caused_by(e))?;
    read.map_err(|e| Error::internal("a volume cannot be read").caused_by(e))
}

/// Removes an image whose upload failed; one that became active stays.
pub async fn delete_unfinished(state: &State, id: &str) -> Result<()> {
    match show(state, id).await {
        Ok(i) if i.status == "active" => Ok(()),
        Ok(_) => state.image.delete(format!("/v2/images/{id}")).done_or_gone().await,
        Err(e) if e.is_not_found() => Ok(()),
        Err(e) => Err(e),
    }
}
