use caelum_base::{Error, Result, Timestamp};
use caelum_store::{Query, Record, Stored, Table, Tx, Value, params};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A project an image is shared with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Member {
    /// `pending`, `accepted` or `rejected`.
    pub status: String,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// What is known of bytes that were received whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Bytes of the file.
    pub size: u64,
    /// Bytes a guest sees.
    pub virtual_size: u64,
    /// MD5, hex.
    pub checksum: String,
    /// SHA-512, hex.
    pub sha512: String,
}

/// Staged bytes: their facts, or why they were refused.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Staged {
    Good(Facts),
    Refused(String),
}

/// An image.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Image {
    pub id: String,
    pub name: Option<String>,
    pub owner: Option<String>,
    pub visibility: String,
    pub status: String,
    pub disk_format: Option<String>,
    pub container_format: Option<String>,
    pub min_disk: i64,
    pub min_ram: i64,
    pub protected: bool,
    pub os_hidden: bool,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub tags: BTreeSet<String>,
    pub properties: BTreeMap<String, String>,
    pub members: BTreeMap<String, Member>,
    /// Facts of the bytes a user may download.
    pub data: Option<Facts>,
    /// Facts of bytes that wait for an import.
    pub staged: Option<Staged>,
    /// Name of the file with the bytes of `data` or `staged`; never used again for other bytes.
    pub file: Option<String>,
    /// The transfer that may finish this image: the name its file will have.
    pub transfer: Option<String>,
    /// The import task under way.
    pub import_task: Option<String>,
    /// The last import failed.
    #[serde(default)]
    pub import_failed: bool,
}

impl Image {
    /// Back to where an upload may begin; returns the file that is no longer wanted.
    pub fn reset(&mut self) -> Option<String> {
        self.status = "queued".into();
        self.transfer = None;
        self.staged = None;
        self.import_task = None;
        self.data = None;
        self.file.take()
    }

    fn size(&self) -> i64 {
        self.data.as_ref().map_or(-1, |d| i64::try_from(d.size).unwrap_or(i64::MAX))
    }

    fn facets(&self) -> Vec<(&'static str, &str, &str)> {
        let tags = self.tags.iter().map(|t| ("tag", t.as_str(), ""));
        let props = self.properties.iter().map(|(k, v)| ("property", k.as_str(), v.as_str()));
        let members = self.members.iter().map(|(k, m)| ("member", k.as_str(), m.status.as_str()));
        tags.chain(props).chain(members).collect()
    }
}

impl Record for Image {
    const TABLE: Table = Table {
        name: "images",
        columns: &[
            "owner",
            "name",
            "visibility",
            "status",
            "size",
            "disk_format",
            "container_format",
            "os_hidden",
            "protected",
            "min_disk",
            "min_ram",
            "checksum",
            "os_hash_value",
            "created_at",
            "updated_at",
        ],
    };

    fn id(&self) -> &str {
        &self.id
    }

    fn columns(&self) -> Vec<Value> {
        // Sort columns are not null: an absent text is empty and an absent size −1.
        let text = |t: &Option<String>| Value::from(t.as_deref().unwrap_or(""));
        vec![
            text(&self.owner),
            text(&self.name),
            self.visibility.as_str().into(),
            self.status.as_str().into(),
            self.size().into(),
            text(&self.disk_format),
            text(&self.container_format),
            self.os_hidden.into(),
            self.protected.into(),
            self.min_disk.into(),
            self.min_ram.into(),
            self.data.as_ref().map_or("", |d| d.checksum.as_str()).into(),
            self.data.as_ref().map_or("", |d| d.sha512.as_str()).into(),
            self.created_at.into(),
            self.updated_at.into(),
        ]
    }
}

/// Adds an image. Errors: `Conflict` when the id is or was in use.
pub fn image_insert(tx: &mut Tx<'_>, image: &Image) -> Result<()> {
    let taken = || Error::conflict(format!("Image ID {} already exists!", image.id));
    if tx.query_opt("SELECT id FROM retired_images WHERE id = $1", params![image.id.as_str()])?.is_some() {
        return Err(taken());
    }
    tx.insert(image).map_err(|e| if e.is_conflict() { taken() } else { e })?;
    add_facets(tx, image)
}

/// Writes an image back together with its facets.
pub fn image_update(tx: &mut Tx<'_>, image: &mut Stored<Image>) -> Result<()> {
    tx.update(image)?;
    tx.exec("DELETE FROM image_facets WHERE image_id = $1", params![image.id.as_str()])?;
    add_facets(tx, image)
}

/// Removes an image; its id stays taken if it ever held data.
pub fn image_delete(tx: &mut Tx<'_>, image: &Stored<Image>) -> Result<()> {
    tx.delete(image)?;
    tx.exec("DELETE FROM image_facets WHERE image_id = $1", params![image.id.as_str()])?;
    if image.data.is_some() {
        tx.exec("INSERT INTO retired_images (id) VALUES ($1) ON CONFLICT DO NOTHING", params![image.id.as_str()])?;
    }
    Ok(())
}

fn add_facets(tx: &mut Tx<'_>, image: &Image) -> Result<()> {
    for (kind, name, value) in image.facets() {
        let sql = "INSERT INTO image_facets (image_id, kind, name, value) VALUES ($1, $2, $3, $4)";
        tx.exec(sql, params![image.id.as_str(), kind, name, value])?;
    }
    Ok(())
}

/// Bytes of all images a project owns.
pub fn used_bytes(tx: &mut Tx<'_>, owner: &str) -> Result<u64> {
    let q = Query::new().eq("owner", owner).filter(caelum_store::Filter::Gt("size", 0.into()));
    Ok(u64::try_from(tx.sum::<Image>("size", &q)?).unwrap_or(0))
}
