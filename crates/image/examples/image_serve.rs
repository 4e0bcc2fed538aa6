//! The image service alone on a free port of the loopback address, with fixed tokens `admin`, `a`
//! and `b`, for trying clients. Prints its URL.

use caelum_base::{Env, Result};
use caelum_image::{Deps, IMAGE_SIZE_CAP_BYTES, start};
use caelum_rest::{Front, Server, StaticValidator};
use caelum_store::StoreUrl;
use std::sync::Arc;

#[tokio::main]
async fn main() -> Result<()> {
    let roles = ["member", "reader"];
    let validator =
        StaticValidator::default().with("a", "pa", &roles).with("b", "pb", &roles).with("admin", "padmin", &["admin", "member", "reader"]);
    let dir = std::env::args().nth(1).unwrap_or_else(|| "image-data".into());
    let deps = Deps {
        env: Env::system(),
        store: StoreUrl::Scratch,
        validator: Arc::new(validator),
        policy: Default::default(),
        auth_url: String::new(),
        dir: dir.into(),
        max_size: IMAGE_SIZE_CAP_BYTES,
    };
    let service = start(deps).await?;
    let server = Server::bind(([127, 0, 0, 1], 0).into()).await?;
    println!("http://{}/image", server.addr()?);
    let handle = server.start(Arc::new(Front::new().mount("/image", service.api())))?;
    let _ = tokio::signal::ctrl_c().await;
    handle.stop(std::time::Duration::from_secs(1)).await;
    service.stop().await;
    Ok(())
}
