//! Files a guest reads about itself, from the config drive or the metadata service.

use crate::State;
use crate::store::servers::{Server, ServerData};
use base64::Engine;
use caelum_base::Result;
use serde_json::json;
use std::collections::BTreeMap;

/// The files of a server's config drive by path.
pub async fn files(_state: &State, s: &Server, data: &ServerData) -> Result<BTreeMap<String, String>> {
    let mut meta = json!({
        "uuid": s.id, "name": s.name, "hostname": s.hostname, "project_id": s.project_id, "launch_index": s.launch_index,
        "availability_zone": s.zone, "meta": s.metadata, "devices": [],
    });
    if let (Some(name), Some(key)) = (&s.key_name, &s.public_key) {
        meta["public_keys"] = json!({name: key});
        meta["keys"] = json!([{"name": name, "type": "ssh", "data": key}]);
    }
    let mut out = BTreeMap::from([("openstack/latest/meta_data.json".to_string(), meta.to_string())]);
    if let Some(text) = &data.user_data {
        let bytes = base64::engine::general_purpose::STANDARD.decode(text).unwrap_or_default();
        out.insert("openstack/latest/user_data".to_string(), String::from_utf8_lossy(&bytes).into_owned());
    }
    Ok(out)
}
