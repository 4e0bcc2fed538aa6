use crate::State;
use crate::store::{Image, Member, Task};
use caelum_rest::Ctx;
use serde_json::{Value, json};

/// Name of the only store.
pub const STORE: &str = "local";

pub fn image(i: &Image) -> Value {
    let path = format!("/v2/images/{}", i.id);
    let mut v = json!({
        "id": i.id, "name": i.name, "owner": i.owner, "visibility": i.visibility, "status": i.status,
        "disk_format": i.disk_format, "container_format": i.container_format,
        "min_disk": i.min_disk, "min_ram": i.min_ram, "protected": i.protected, "os_hidden": i.os_hidden,
        "size": i.data.as_ref().map(|d| d.size), "virtual_size": i.data.as_ref().map(|d| d.virtual_size),
        "checksum": i.data.as_ref().map(|d| &d.checksum),
        "os_hash_algo": i.data.as_ref().map(|_| "sha512"), "os_hash_value": i.data.as_ref().map(|d| &d.sha512),
        "created_at": i.created_at.iso_z(), "updated_at": i.updated_at.iso_z(), "tags": i.tags,
        "self": path, "file": format!("{path}/file"), "schema": "/v2/schemas/image",
    });
    if let Some(o) = v.as_object_mut() {
        for (k, p) in &i.properties {
            // A property cannot hide an attribute: such names are refused on the way in.
            o.entry(k.as_str()).or_insert_with(|| json!(p));
        }
        if i.data.is_some() {
            o.insert("stores".into(), json!(STORE));
        }
        if i.import_task.is_some() || i.import_failed {
            o.insert("os_glance_import_task".into(), json!(i.import_task.as_deref().unwrap_or("")));
            o.insert("os_glance_importing_to_stores".into(), json!(if i.import_task.is_some() { STORE } else { "" }));
            o.insert("os_glance_failed_import".into(), json!(if i.import_failed { STORE } else { "" }));
        }
    }
    v
}

pub fn member(image_id: &str, member_id: &str, m: &Member) -> Value {
    json!({
        "member_id": member_id, "image_id": image_id, "status": m.status,
        "created_at": m.created_at.iso_z(), "updated_at": m.updated_at.iso_z(), "schema": "/v2/schemas/member",
    })
}

/// A task as `/v2/images/{id}/tasks` shows it.
pub fn image_task(t: &Task) -> Value {
    json!({
        "id": t.id, "type": t.kind, "status": t.status, "owner": t.owner, "user_id": t.user_id, "request_id": t.request_id,
        "image_id": t.image_id, "input": t.input, "result": t.result, "message": t.message,
        "created_at": t.created_at.iso_micros(), "updated_at": t.updated_at.iso_micros(),
        "expires_at": t.expires_at.map(|e| e.iso_micros()), "deleted": false, "deleted_at": null,
    })
}

/// A task of the administrators' task API; lists leave out input, result and message.
pub fn task(t: &Task, whole: bool) -> Value {
    let mut v = json!({
        "id": t.id, "type": t.kind, "status": t.status, "owner": t.owner,
        "created_at": t.created_at.iso_z(), "updated_at": t.updated_at.iso_z(),
        "self": format!("/v2/tasks/{}", t.id), "schema": "/v2/schemas/task",
    });
    if let Some(o) = v.as_object_mut() {
        if let Some(e) = t.expires_at {
            o.insert("expires_at".into(), json!(e.iso_z()));
        }
        if whole {
            o.extend([
                ("input".to_string(), t.input.clone()),
                ("message".to_string(), json!(t.message)),
                ("result".to_string(), json!(t.result)),
                ("image_id".to_string(), json!(t.image_id)),
                ("request_id".to_string(), json!(t.request_id)),
                ("user_id".to_string(), json!(t.user_id)),
            ]);
        }
    }
    v
}

/// `first` and, after a full page, `next` of a list at `path`.
pub fn page_links(cx: &Ctx<State>, path: &str, marker: Option<&str>) -> Vec<(String, Value)> {
    let link = caelum_rest::next_link(path, &cx.query, "");
    let first = link.trim_end_matches("marker=").trim_end_matches(['&', '?']).to_string();
    let mut out = vec![("first".to_string(), json!(first))];
    out.extend(marker.map(|m| ("next".to_string(), json!(caelum_rest::next_link(path, &cx.query, m)))));
    out
}
