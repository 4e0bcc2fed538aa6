//! The proxy without any layer before it, for trying it against storage servers: `proxy-alone DIRECTORY
//! PORT`, with `swift.conf` and ring files in the directory. Everybody may do everything: loopback only.

use caelum_base::{Env, Error, Result};
use caelum_object::env::{Environ, Resp};
use caelum_object::proxy::{Proxy, ProxyDeps, ProxyOptions};
use caelum_rest::{Body, HttpService, Server};
use caelum_ring::Rings;
use caelum_swiftkit::{Nodes, SwiftConf};
use futures_util::future::BoxFuture;
use http::Request;
use std::sync::Arc;

struct Open(Arc<Proxy>);

impl HttpService for Open {
    fn call(&self, mut req: Request<Body>) -> BoxFuture<'static, Resp> {
        req.extensions_mut().insert(Environ { internal: false, ..Environ::internal("tx", "") });
        self.0.call(req)
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let (dir, port) = (args.next().unwrap_or_default(), args.next().unwrap_or_default());
    let conf = std::fs::read_to_string(format!("{dir}/swift.conf")).map_err(|e| Error::unavailable(format!("{dir}: {e}")))?;
    let swift = Arc::new(SwiftConf::parse(&conf)?);
    let rings = Rings::open(&dir, &swift.policies)?;
    let (nodes, env, options) = (Nodes::default(), Env::system(), ProxyOptions::default());
    let proxy = Proxy::new(ProxyDeps { rings, nodes, swift, env, options, cache: None });
    let address = format!("127.0.0.1:{port}").parse().map_err(|_| Error::invalid("the port is not a number"))?;
    let _running = Server::bind(address).await?.start(Arc::new(Open(proxy)))?;
    std::future::pending().await
}
