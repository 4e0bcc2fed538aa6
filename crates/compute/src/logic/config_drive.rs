//! Files a guest reads about itself from its config drive.

use crate::State;
use crate::metadata;
use crate::store::servers::{Server, ServerData};
use caelum_base::Result;
use std::collections::BTreeMap;

/// The files of a server's config drive by path; the metadata service gives the same documents.
pub async fn files(state: &State, s: &Server, data: &ServerData) -> Result<BTreeMap<String, String>> {
    metadata::config_drive_files(state, s, data).await
}
