//! Calls to compute.

use crate::State;
use crate::store::Attachment;
use caelum_base::{Error, Result};
use caelum_rest::Auth;
use serde_json::Value;

/// Whether compute itself, or another service, makes this call.
pub fn is_service(auth: &Auth) -> bool {
    auth.creds.has_role("service") || auth.creds.has_service_role("service")
}

/// Users must not take a volume away below a running server (OSSA-2023-003): only compute ends an
/// attachment that a server uses.
///
/// Errors: `Conflict` when a server uses the attachment, or when compute cannot be asked.
pub async fn may_detach(state: &State, auth: &Auth, a: &Attachment) -> Result<()> {
    let Some(server) = a.instance_uuid.as_deref().filter(|_| !is_service(auth)) else { return Ok(()) };
    let used = || {
        Error::conflict(format!(
            "Detach volume from instance {server} using the Compute API. (The volume is attached to an existing instance.)"
        ))
        .code("ConflictNovaUsingAttachment")
    };
    // Without a compute service nothing can use the volume but what the caller itself attached.
    let Some(compute) = &state.compute else { return Ok(()) };
    let path = format!("/v2.1/servers/{server}/os-volume_attachments/{}", a.volume_id);
    let found: Result<Value> = compute.get(path).header("openstack-api-version", "compute 2.89").fetch().await;
    match found {
        Err(e) if e.is_not_found() => Ok(()),
        Err(e) => {
            tracing::warn!(attachment = a.id, error = e.chain(), "could not ask compute about an attachment");
            Err(used())
        }
        Ok(v) => match v["volumeAttachment"]["attachment_id"].as_str() {
            Some(id) if id != a.id => Ok(()),
            _ => Err(used()),
        },
    }
}
