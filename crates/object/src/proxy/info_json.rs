//! Facts about accounts and containers as proxies share them: the JSON that upstream keeps in memcached.

use super::info::{AccountInfo, ContainerInfo, Cors, Meta, PolicyUsage};
use serde_json::{Map, Value, json};

fn text(v: &Value, key: &str) -> Option<String> {
    v.get(key).and_then(Value::as_str).map(str::to_string)
}

/// A number, also as text.
fn number(v: &Value, key: &str) -> u64 {
    let found = v.get(key);
    found.and_then(|n| n.as_u64().or_else(|| n.as_str()?.parse().ok())).unwrap_or(0)
}

fn meta(v: &Value, key: &str) -> Meta {
    let pairs = v.get(key).and_then(Value::as_object).into_iter().flatten();
    pairs.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_string()))).collect()
}

pub(crate) fn container_to_json(i: &ContainerInfo) -> Value {
    json!({
        "status": i.status,
        "read_acl": i.read_acl,
        "write_acl": i.write_acl,
        "sync_to": i.sync_to,
        "sync_key": i.sync_key,
        "object_count": i.object_count.to_string(),
        "bytes": i.bytes.to_string(),
        "versions": i.versions,
        "storage_policy": i.storage_policy.to_string(),
        "cors": {
            "allow_origin": i.cors.allow_origin,
            "expose_headers": i.cors.expose_headers,
            "max_age": i.cors.max_age,
        },
        "meta": i.meta,
        "sysmeta": i.sysmeta,
        "sharding_state": i.sharding_state,
        "created_at": i.created_at,
        "put_timestamp": i.put_timestamp,
        "delete_timestamp": i.delete_timestamp,
        "status_changed_at": i.status_changed_at,
    })
}

/// `None`: nothing that this program or upstream would have written.
pub(crate) fn container_from_json(data: &[u8]) -> Option<ContainerInfo> {
    let v: Value = serde_json::from_slice(data).ok()?;
    let cors = v.get("cors").unwrap_or(&Value::Null);
    Some(ContainerInfo {
        status: v.get("status")?.as_u64().and_then(|s| u16::try_from(s).ok())?,
        read_acl: text(&v, "read_acl"),
        write_acl: text(&v, "write_acl"),
        sync_to: text(&v, "sync_to"),
        sync_key: text(&v, "sync_key"),
        object_count: number(&v, "object_count"),
        bytes: number(&v, "bytes"),
        versions: text(&v, "versions"),
        storage_policy: u32::try_from(number(&v, "storage_policy")).ok()?,
        cors: Cors {
            allow_origin: text(cors, "allow_origin"),
            expose_headers: text(cors, "expose_headers"),
            max_age: text(cors, "max_age"),
        },
        meta: meta(&v, "meta"),
        sysmeta: meta(&v, "sysmeta"),
        sharding_state: text(&v, "sharding_state").unwrap_or_else(|| "unsharded".into()),
        created_at: text(&v, "created_at"),
        put_timestamp: text(&v, "put_timestamp"),
        delete_timestamp: text(&v, "delete_timestamp"),
        status_changed_at: text(&v, "status_changed_at"),
    })
}

pub(crate) fn account_to_json(i: &AccountInfo) -> Value {
    let usage = |u: &PolicyUsage| json!({"container_count": u.container_count, "object_count": u.object_count, "bytes": u.bytes});
    let policies: Map<String, Value> = i.storage_policies.iter().map(|(k, u)| (k.to_string(), usage(u))).collect();
    json!({
        "status": i.status,
        "container_count": i.container_count.to_string(),
        "total_object_count": i.total_object_count.to_string(),
        "bytes": i.bytes.to_string(),
        "storage_policies": policies,
        "meta": i.meta,
        "sysmeta": i.sysmeta,
        "account_really_exists": i.really_exists,
    })
}

pub(crate) fn account_from_json(data: &[u8]) -> Option<AccountInfo> {
    let v: Value = serde_json::from_slice(data).ok()?;
    let status = v.get("status")?.as_u64().and_then(|s| u16::try_from(s).ok())?;
    let policies = v.get("storage_policies").and_then(Value::as_object).into_iter().flatten();
    let usage = |u: &Value| PolicyUsage {
        container_count: number(u, "container_count"),
        object_count: number(u, "object_count"),
        bytes: number(u, "bytes"),
    };
    Some(AccountInfo {
        status,
        // Absent for accounts that do not exist.
        really_exists: v.get("account_really_exists").and_then(Value::as_bool).unwrap_or(false),
        container_count: number(&v, "container_count"),
        total_object_count: number(&v, "total_object_count"),
        bytes: number(&v, "bytes"),
        storage_policies: policies.filter_map(|(k, u)| Some((k.parse().ok()?, usage(u)))).collect(),
        meta: meta(&v, "meta"),
        sysmeta: meta(&v, "sysmeta"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let mut c = ContainerInfo { read_acl: Some("x".into()), bytes: 7, storage_policy: 1, ..ContainerInfo::absent(204) };
        c.meta.insert("k".into(), "v".into());
        c.cors.max_age = Some("5".into());
        assert_eq!(container_from_json(container_to_json(&c).to_string().as_bytes()), Some(c));
        let mut a = AccountInfo { really_exists: true, bytes: 9, ..AccountInfo::absent(200) };
        a.storage_policies.insert(1, PolicyUsage { container_count: 1, object_count: 2, bytes: 3 });
        assert_eq!(account_from_json(account_to_json(&a).to_string().as_bytes()), Some(a));
        assert_eq!(container_from_json(b"[]"), None);
        assert_eq!(account_from_json(b"nonsense"), None);
        assert_eq!(container_from_json(br#"{"status": 204, "storage_policy": "3"}"#).unwrap().storage_policy, 3);
    }
}
