//! The schema documents clients read: attribute names and types, as the code checks them.

use crate::State;
use crate::logic::attributes::{CONTAINER_FORMATS, DISK_FORMATS, VISIBILITIES};
use caelum_base::Result;
use caelum_rest::{Access, Ctx, Op, Reply, h};
use serde_json::{Value, json};

pub const OPS: &[Op<State>] = &[
    Op::get("schema_image", "/schemas/image", Access::Token, h!(image)),
    Op::get("schema_images", "/schemas/images", Access::Token, h!(images)),
    Op::get("schema_member", "/schemas/member", Access::Token, h!(member)),
    Op::get("schema_members", "/schemas/members", Access::Token, h!(members)),
    Op::get("schema_task", "/schemas/task", Access::Token, h!(task)),
    Op::get("schema_tasks", "/schemas/tasks", Access::Token, h!(tasks)),
];

fn text(description: &str) -> Value {
    json!({"type": ["null", "string"], "description": description, "maxLength": 255})
}

fn fixed(kind: Value, description: &str) -> Value {
    json!({"type": kind, "description": description, "readOnly": true})
}

fn choice(values: &[&str], nullable: bool, description: &str) -> Value {
    let mut list: Vec<Value> = values.iter().map(|v| json!(v)).collect();
    if nullable {
        list.insert(0, Value::Null);
    }
    let kind = if nullable { json!(["null", "string"]) } else { json!("string") };
    json!({"type": kind, "description": description, "enum": list})
}

fn image_schema() -> Value {
    let statuses = ["queued", "saving", "active", "uploading", "importing", "deactivated"];
    let mut status = choice(&statuses, false, "Status of the image");
    if let Some(o) = status.as_object_mut() {
        o.insert("readOnly".into(), json!(true));
    }
    let uuid = "^([0-9a-fA-F]){8}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){12}$";
    json!({
        "name": "image",
        "properties": {
            "id": {"type": "string", "description": "An identifier for the image", "pattern": uuid},
            "name": text("Descriptive name for the image"),
            "status": status,
            "visibility": choice(&VISIBILITIES, false, "Scope of image accessibility"),
            "protected": {"type": "boolean", "description": "If true, image will not be deletable."},
            "os_hidden": {"type": "boolean", "description": "If true, image will not appear in default image list response."},
            "checksum": fixed(json!(["null", "string"]), "md5 hash of image contents."),
            "os_hash_algo": fixed(json!(["null", "string"]), "Algorithm to calculate the os_hash_value"),
            "os_hash_value": fixed(json!(["null", "string"]), "Hexdigest of the image contents using os_hash_algo"),
            "owner": text("Owner of the image"),
            "size": fixed(json!(["null", "integer"]), "Size of image file in bytes"),
            "virtual_size": fixed(json!(["null", "integer"]), "Virtual size of image in bytes"),
            "container_format": choice(&CONTAINER_FORMATS, true, "Format of the container"),
            "disk_format": choice(&DISK_FORMATS, true, "Format of the disk"),
            "created_at": fixed(json!("string"), "Date and time of image registration"),
            "updated_at": fixed(json!("string"), "Date and time of the last image modification"),
            "tags": {"type": "array", "description": "List of strings related to the image", "items": {"type": "string", "maxLength": 255}},
            "min_ram": {"type": "integer", "description": "Amount of ram (in MB) required to boot image."},
            "min_disk": {"type": "integer", "description": "Amount of disk space (in GB) required to boot image."},
            "self": fixed(json!("string"), "An image self url"),
            "file": fixed(json!("string"), "An image file url"),
            "stores": fixed(json!("string"), "Stores in which the image data resides"),
            "schema": fixed(json!("string"), "An image schema url"),
        },
        "additionalProperties": {"type": "string"},
        "links": [
            {"rel": "self", "href": "{self}"},
            {"rel": "enclosure", "href": "{file}"},
            {"rel": "describedby", "href": "{schema}"},
        ],
    })
}

fn member_schema() -> Value {
    json!({
        "name": "member",
        "properties": {
            "image_id": {"type": "string", "description": "An identifier for the image"},
            "member_id": {"type": "string", "description": "An identifier for the image member (project)"},
            "status": choice(&["pending", "accepted", "rejected"], false, "The status of this image member"),
            "created_at": {"type": "string", "description": "Date and time of image member creation"},
            "updated_at": {"type": "string", "description": "Date and time of last modification of image member"},
            "schema": {"type": "string", "readOnly": true},
        },
        "additionalProperties": false,
    })
}

fn task_schema() -> Value {
    json!({
        "name": "task",
        "properties": {
            "id": {"type": "string", "description": "An identifier for the task"},
            "type": choice(&["import", "api_image_import"], false, "The type of task represented by this content"),
            "status": choice(&["pending", "processing", "success", "failure"], false, "The current status of this task"),
            "input": {"type": ["null", "object"], "description": "The parameters required by task"},
            "result": {"type": ["null", "object"], "description": "The result of current task"},
            "owner": {"type": "string", "description": "An identifier for the owner of this task"},
            "message": {"type": "string", "description": "Human-readable informative message"},
            "image_id": {"type": "string", "description": "Image associated with the task"},
            "request_id": {"type": "string", "description": "Request that made the task"},
            "user_id": {"type": "string", "description": "User who made the task"},
            "expires_at": {"type": "string", "description": "When the task is forgotten"},
            "created_at": {"type": "string", "description": "When the task was created"},
            "updated_at": {"type": "string", "description": "When the task was last changed"},
            "self": {"type": "string", "readOnly": true},
            "schema": {"type": "string", "readOnly": true},
        },
        "additionalProperties": false,
    })
}

fn collection(name: &str, item: Value, paged: bool) -> Value {
    let list = json!({"type": "array", "items": item});
    let string = json!({"type": "string"});
    let mut v = json!({"name": name, "properties": {name: list, "schema": string}, "links": [{"rel": "describedby", "href": "{schema}"}]});
    if paged && let Some(p) = v.get_mut("properties").and_then(Value::as_object_mut) {
        p.insert("first".into(), string.clone());
        p.insert("next".into(), string);
    }
    if paged {
        v["links"] = json!([
            {"rel": "first", "href": "{first}"},
            {"rel": "next", "href": "{next}"},
            {"rel": "describedby", "href": "{schema}"},
        ]);
    }
    v
}

async fn image(_: Ctx<State>) -> Result<Reply> {
    Reply::ok(&image_schema())
}

async fn images(_: Ctx<State>) -> Result<Reply> {
    Reply::ok(&collection("images", image_schema(), true))
}

async fn member(_: Ctx<State>) -> Result<Reply> {
    Reply::ok(&member_schema())
}

async fn members(_: Ctx<State>) -> Result<Reply> {
    Reply::ok(&collection("members", member_schema(), false))
}

async fn task(_: Ctx<State>) -> Result<Reply> {
    Reply::ok(&task_schema())
}

async fn tasks(_: Ctx<State>) -> Result<Reply> {
    Reply::ok(&collection("tasks", task_schema(), true))
}
