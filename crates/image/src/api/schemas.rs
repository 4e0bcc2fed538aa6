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
    Op::get("schema_namespace", "/schemas/metadefs/namespace", Access::Token, h!(namespace)),
    Op::get("schema_namespaces", "/schemas/metadefs/namespaces", Access::Token, h!(namespaces)),
    Op::get("schema_resource_type", "/schemas/metadefs/resource_type", Access::Token, h!(resource_type)),
    Op::get("schema_resource_types", "/schemas/metadefs/resource_types", Access::Token, h!(resource_types)),
    Op::get("schema_object", "/schemas/metadefs/object", Access::Token, h!(object)),
    Op::get("schema_objects", "/schemas/metadefs/objects", Access::Token, h!(objects)),
    Op::get("schema_property", "/schemas/metadefs/property", Access::Token, h!(property)),
    Op::get("schema_properties", "/schemas/metadefs/properties", Access::Token, h!(properties)),
    Op::get("schema_metadef_tag", "/schemas/metadefs/tag", Access::Token, h!(tag)),
    Op::get("schema_metadef_tags", "/schemas/metadefs/tags", Access::Token, h!(tags)),
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

fn times() -> [(&'static str, Value); 2] {
    ["created_at", "updated_at"].map(|k| (k, fixed(json!("string"), "Date and time")))
}

fn object_of(name: &str, required: &[&str], properties: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    let properties: serde_json::Map<String, Value> = properties.into_iter().map(|(k, v)| (k.to_string(), v)).collect();
    json!({"name": name, "properties": properties, "required": required, "additionalProperties": false})
}

fn short(description: &str) -> Value {
    json!({"type": "string", "description": description, "maxLength": 80})
}

fn property_schema() -> Value {
    let integer = json!({"type": "integer"});
    object_of(
        "property",
        &["name", "title", "type"],
        [
            ("name", short("The name of the property")),
            ("title", json!({"type": "string"})),
            ("description", json!({"type": "string"})),
            ("type", choice(&["array", "boolean", "integer", "number", "object", "string", "null"], false, "Type of the value")),
            ("operators", json!({"type": "array", "items": {"type": "string"}})),
            ("required", json!({"type": "array", "items": {"type": "string"}})),
            ("minimum", json!({"type": "number"})),
            ("maximum", json!({"type": "number"})),
            ("maxLength", integer.clone()),
            ("minLength", integer.clone()),
            ("pattern", json!({"type": "string", "format": "regex"})),
            ("enum", json!({"type": "array"})),
            ("readonly", json!({"type": "boolean"})),
            ("default", json!({})),
            ("items", json!({"type": "object"})),
            ("uniqueItems", json!({"type": "boolean"})),
            ("minItems", integer.clone()),
            ("maxItems", integer),
            ("additionalItems", json!({"type": "boolean"})),
        ],
    )
}

fn object_schema() -> Value {
    let own = [
        ("name", short("The name of the object")),
        ("description", json!({"type": ["null", "string"]})),
        ("required", json!({"type": "array", "items": {"type": "string"}})),
        ("properties", json!({"type": "object"})),
        ("self", fixed(json!("string"), "The object's URL")),
        ("schema", fixed(json!("string"), "The schema's URL")),
    ];
    object_of("object", &["name"], own.into_iter().chain(times()))
}

fn tag_schema() -> Value {
    object_of("tag", &["name"], [("name", short("The tag"))].into_iter().chain(times()))
}

fn resource_type_schema() -> Value {
    let own = [
        ("name", short("Resource type names should be aligned with Heat resource types whenever possible")),
        ("prefix", short("Prefix of the namespace's property names for this resource type")),
        ("properties_target", short("Which of the resource's property sets is meant")),
    ];
    object_of("resource_type_association", &["name"], own.into_iter().chain(times()))
}

fn namespace_schema() -> Value {
    let list = |item: Value| json!({"type": "array", "items": item});
    let own = [
        ("namespace", short("The unique namespace text")),
        ("display_name", short("The user friendly name for the namespace")),
        ("description", json!({"type": "string", "maxLength": 500})),
        ("visibility", choice(&["public", "private"], false, "Scope of namespace accessibility")),
        ("protected", json!({"type": "boolean", "description": "If true, namespace will not be deletable"})),
        ("owner", json!({"type": "string", "maxLength": 255})),
        ("resource_type_associations", list(resource_type_schema())),
        ("objects", list(object_schema())),
        ("properties", json!({"type": "object", "additionalProperties": property_schema()})),
        ("tags", list(tag_schema())),
        ("self", fixed(json!("string"), "The namespace's URL")),
        ("schema", fixed(json!("string"), "The schema's URL")),
    ];
    object_of("namespace", &["namespace"], own.into_iter().chain(times()))
}

async fn namespace(_: Ctx<State>) -> Result<Reply> {
    Reply::ok(&namespace_schema())
}

async fn namespaces(_: Ctx<State>) -> Result<Reply> {
    Reply::ok(&collection("namespaces", namespace_schema(), true))
}

async fn resource_type(_: Ctx<State>) -> Result<Reply> {
    Reply::ok(&resource_type_schema())
}

async fn resource_types(_: Ctx<State>) -> Result<Reply> {
    Reply::ok(&collection("resource_type_associations", resource_type_schema(), true))
}

async fn object(_: Ctx<State>) -> Result<Reply> {
    Reply::ok(&object_schema())
}

async fn objects(_: Ctx<State>) -> Result<Reply> {
    Reply::ok(&collection("objects", object_schema(), true))
}

async fn property(_: Ctx<State>) -> Result<Reply> {
    Reply::ok(&property_schema())
}

async fn properties(_: Ctx<State>) -> Result<Reply> {
    let map = json!({"type": "object", "additionalProperties": property_schema()});
    Reply::ok(&json!({"name": "properties", "properties": {"properties": map}, "links": [{"rel": "describedby", "href": "{schema}"}]}))
}

async fn tag(_: Ctx<State>) -> Result<Reply> {
    Reply::ok(&tag_schema())
}

async fn tags(_: Ctx<State>) -> Result<Reply> {
    Reply::ok(&collection("tags", tag_schema(), true))
}
