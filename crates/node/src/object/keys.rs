//! Access keys of the identity service, for S3.

use async_trait::async_trait;
use caelum_base::{Result, Secret};
use caelum_rest::Auth;
use caelum_s3::Ec2Keys;
use std::sync::Arc;

/// Looks keys up in the identity service of this process.
pub struct IdentityKeys(pub Arc<caelum_identity::Keys>);

#[async_trait]
impl Ec2Keys for IdentityKeys {
    async fn ec2_key(&self, access: &str) -> Result<Option<(Secret<String>, Arc<Auth>)>> {
        self.0.ec2_key(access).await
    }
}
