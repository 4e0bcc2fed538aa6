//! What a guest may know about itself: the same documents on the config drive and from the metadata
//! service. Formats: OpenStack's dated directories and EC2's tree.
//!
//! Nothing here is stored; documents are made from the server's row when asked for.

mod documents;
mod network_data;
mod serve;

pub use documents::{Facts, ec2, openstack};
pub use network_data::network_data;
pub use serve::MetadataService;

use crate::State;
use crate::store::servers::{Server, ServerData};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use caelum_base::Result;
use std::collections::BTreeMap;

/// The name guests get below the cloud's own domain (`dhcp_domain`).
pub const DOMAIN: &str = "novalocal";

/// The files of a server's config drive by path. User data that is no UTF-8 is given in base64, which
/// cloud-init recognises.
pub async fn config_drive_files(state: &State, s: &Server, data: &ServerData) -> Result<BTreeMap<String, String>> {
    let facts = Facts::gather(state, s, data).await?;
    let mut out = BTreeMap::new();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap_or_else(|e| STANDARD.encode(e.into_bytes()));
    for (path, bytes) in openstack(&facts) {
        // Who holds the drive cannot change a password on it.
        if !path.ends_with("/password") {
            out.insert(format!("openstack/{path}"), text(bytes));
        }
    }
    for version in ["2009-04-04", "latest"] {
        out.insert(format!("ec2/{version}/meta-data.json"), documents::ec2_json(&facts).to_string());
        if let Some(user_data) = facts.user_data() {
            out.insert(format!("ec2/{version}/user-data"), text(user_data));
        }
    }
    Ok(out)
}
