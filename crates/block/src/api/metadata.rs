//! Metadata of volumes and snapshots, and the image metadata of volumes.

use super::forms::{self, MetaBody, MetadataBody};
use super::snapshots::find as find_snapshot;
use super::volumes::find as find_volume;
use super::{member, reader};
use crate::State;
use crate::store::{Metadata, Snapshot, Volume};
use caelum_base::{Error, Result};
use caelum_rest::{Ctx, Op, Reply, h};
use caelum_store::Record;
use serde_json::{Value, json};

pub const OPS: &[Op<State>] = &[
    Op::get("volume_metadata_list", "/volumes/{id}/metadata", reader("volume:get_volume_metadata"), h!(volume_list)),
    Op::post("volume_metadata_create", "/volumes/{id}/metadata", member("volume:create_volume_metadata"), h!(volume_add)),
    Op::put("volume_metadata_replace", "/volumes/{id}/metadata", member("volume:update_volume_metadata"), h!(volume_replace)),
    Op::get("volume_metadata_show", "/volumes/{id}/metadata/{key}", reader("volume:get_volume_metadata"), h!(volume_show)),
    Op::put("volume_metadata_set", "/volumes/{id}/metadata/{key}", member("volume:update_volume_metadata"), h!(volume_set)),
    Op::delete("volume_metadata_delete", "/volumes/{id}/metadata/{key}", member("volume:delete_volume_metadata"), h!(volume_unset)),
    Op::get("snapshot_metadata_list", "/snapshots/{id}/metadata", reader("volume:get_snapshot_metadata"), h!(snapshot_list)),
    Op::post("snapshot_metadata_create", "/snapshots/{id}/metadata", member("volume:update_snapshot_metadata"), h!(snapshot_add)),
    Op::put("snapshot_metadata_replace", "/snapshots/{id}/metadata", member("volume:update_snapshot_metadata"), h!(snapshot_replace)),
    Op::get("snapshot_metadata_show", "/snapshots/{id}/metadata/{key}", reader("volume:get_snapshot_metadata"), h!(snapshot_show)),
    Op::put("snapshot_metadata_set", "/snapshots/{id}/metadata/{key}", member("volume:update_snapshot_metadata"), h!(snapshot_set)),
    Op::delete("snapshot_metadata_delete", "/snapshots/{id}/metadata/{key}", member("volume:delete_snapshot_metadata"), h!(snapshot_unset)),
    Op::post("volume_image_metadata_set", "/volumes/{id}/action", member("volume_extension:volume_image_metadata:set"), h!(image_set))
        .action("os-set_image_metadata"),
    Op::post(
        "volume_image_metadata_unset",
        "/volumes/{id}/action",
        member("volume_extension:volume_image_metadata:remove"),
        h!(image_unset),
    )
    .action("os-unset_image_metadata"),
    Op::post("volume_image_metadata_show", "/volumes/{id}/action", reader("volume_extension:volume_image_metadata:show"), h!(image_show))
        .action("os-show_image_metadata"),
];

/// Items of one resource.
const MAX_ITEMS: usize = 128;

/// Something with metadata.
trait Tagged: Record {
    fn metadata(&mut self) -> &mut Metadata;
}

impl Tagged for Volume {
    fn metadata(&mut self) -> &mut Metadata {
        &mut self.metadata
    }
}

impl Tagged for Snapshot {
    fn metadata(&mut self) -> &mut Metadata {
        &mut self.metadata
    }
}

fn no_key(key: &str) -> Error {
    Error::not_found(format!("Metadata item was not found: {key}")).code("MetadataItemNotFound")
}

/// Changes the metadata of one resource in one transaction; returns what it is then.
async fn change<R: Tagged>(cx: &Ctx<State>, id: &str, f: impl Fn(&mut Metadata) -> Result<()> + Send + Sync + 'static) -> Result<Metadata> {
    let id = id.to_string();
    cx.state
        .db
        .write(move |tx| {
            let mut r = tx.require::<R>("Resource", &id)?;
            let m = r.metadata();
            f(m)?;
            if m.len() > MAX_ITEMS {
                return Err(Error::over_quota(format!(
                    "MetadataLimitExceeded: Maximum number of metadata items allowed ({MAX_ITEMS}) exceeded"
                )));
            }
            let out = m.clone();
            tx.update(&mut r)?;
            Ok(out)
        })
        .await
}

async fn add<R: Tagged>(mut cx: Ctx<State>, id: String) -> Result<Reply> {
    let body: MetadataBody = cx.json().await?;
    let items = body.metadata;
    let now = change::<R>(&cx, &id, move |m| {
        m.extend(items.clone());
        Ok(())
    });
    Reply::ok(&json!({"metadata": now.await?}))
}

async fn replace<R: Tagged>(mut cx: Ctx<State>, id: String) -> Result<Reply> {
    let body: MetadataBody = cx.json().await?;
    let items = body.metadata;
    let now = change::<R>(&cx, &id, move |m| {
        m.clone_from(&items);
        Ok(())
    });
    Reply::ok(&json!({"metadata": now.await?}))
}

async fn set<R: Tagged>(mut cx: Ctx<State>, id: String) -> Result<Reply> {
    let body: MetaBody = cx.json().await?;
    let key = cx.param("key").to_string();
    let Some(value) = body.meta.get(&key).filter(|_| body.meta.len() == 1).cloned() else {
        return Err(Error::invalid("Request body and URI mismatch"));
    };
    let (k, v) = (key.clone(), value.clone());
    change::<R>(&cx, &id, move |m| {
        m.insert(k.clone(), v.clone());
        Ok(())
    })
    .await?;
    Reply::ok(&json!({"meta": {key: value}}))
}

async fn unset<R: Tagged>(cx: Ctx<State>, id: String) -> Result<Reply> {
    let key = cx.param("key").to_string();
    change::<R>(&cx, &id, move |m| m.remove(&key).map(drop).ok_or_else(|| no_key(&key))).await?;
    Ok(Reply::empty(200))
}

fn show_one(cx: &Ctx<State>, m: &Metadata) -> Result<Reply> {
    let key = cx.param("key");
    let value = m.get(key).ok_or_else(|| no_key(key))?;
    Reply::ok(&json!({"meta": {key: value}}))
}

async fn volume_list(cx: Ctx<State>) -> Result<Reply> {
    let v = find_volume(&cx).await?;
    Reply::ok(&json!({"metadata": v.metadata}))
}

async fn volume_show(cx: Ctx<State>) -> Result<Reply> {
    let v = find_volume(&cx).await?;
    show_one(&cx, &v.metadata)
}

async fn volume_add(cx: Ctx<State>) -> Result<Reply> {
    let id = find_volume(&cx).await?.id.clone();
    add::<Volume>(cx, id).await
}

async fn volume_replace(cx: Ctx<State>) -> Result<Reply> {
    let id = find_volume(&cx).await?.id.clone();
    replace::<Volume>(cx, id).await
}

async fn volume_set(cx: Ctx<State>) -> Result<Reply> {
    let id = find_volume(&cx).await?.id.clone();
    set::<Volume>(cx, id).await
}

async fn volume_unset(cx: Ctx<State>) -> Result<Reply> {
    let id = find_volume(&cx).await?.id.clone();
    unset::<Volume>(cx, id).await
}

async fn snapshot_list(cx: Ctx<State>) -> Result<Reply> {
    let s = find_snapshot(&cx).await?;
    Reply::ok(&json!({"metadata": s.metadata}))
}

async fn snapshot_show(cx: Ctx<State>) -> Result<Reply> {
    let s = find_snapshot(&cx).await?;
    show_one(&cx, &s.metadata)
}

async fn snapshot_add(cx: Ctx<State>) -> Result<Reply> {
    let id = find_snapshot(&cx).await?.id.clone();
    add::<Snapshot>(cx, id).await
}

async fn snapshot_replace(cx: Ctx<State>) -> Result<Reply> {
    let id = find_snapshot(&cx).await?.id.clone();
    replace::<Snapshot>(cx, id).await
}

async fn snapshot_set(cx: Ctx<State>) -> Result<Reply> {
    let id = find_snapshot(&cx).await?.id.clone();
    set::<Snapshot>(cx, id).await
}

async fn snapshot_unset(cx: Ctx<State>) -> Result<Reply> {
    let id = find_snapshot(&cx).await?.id.clone();
    unset::<Snapshot>(cx, id).await
}

async fn change_image(cx: &Ctx<State>, id: &str, f: impl Fn(&mut Metadata) -> Result<()> + Send + Sync + 'static) -> Result<Metadata> {
    let id = id.to_string();
    let write = move |tx: &mut caelum_store::Tx<'_>| {
        let mut v = crate::store::rows::volume(tx, &id)?;
        f(&mut v.image_metadata)?;
        tx.update(&mut v)?;
        Ok(v.image_metadata.clone())
    };
    cx.state.db.write(write).await
}

async fn image_set(mut cx: Ctx<State>) -> Result<Reply> {
    let v = find_volume(&cx).await?;
    let body: Value = cx.json().await?;
    let m = forms::action(&body, "os-set_image_metadata")?;
    let items = forms::metadata("metadata", Some(m.get("metadata").ok_or_else(|| Error::invalid("'metadata' is a required property"))?))?;
    let now = change_image(&cx, &v.id, move |m| {
        m.extend(items.clone());
        Ok(())
    });
    Reply::ok(&json!({"metadata": now.await?}))
}

async fn image_unset(mut cx: Ctx<State>) -> Result<Reply> {
    let v = find_volume(&cx).await?;
    let body: Value = cx.json().await?;
    let m = forms::action(&body, "os-unset_image_metadata")?;
    let key = forms::name("key", m.get("key"))?;
    change_image(&cx, &v.id, move |m| m.remove(&key).map(drop).ok_or_else(|| no_key(&key))).await?;
    Ok(Reply::empty(200))
}

async fn image_show(cx: Ctx<State>) -> Result<Reply> {
    let v = find_volume(&cx).await?;
    Reply::ok(&json!({"metadata": v.image_metadata}))
}
