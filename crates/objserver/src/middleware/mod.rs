//! What may stand before a storage server, under the names of upstream's filters.

mod backend_ratelimit;
mod healthcheck;
mod recon;

pub use backend_ratelimit::{BackendRateLimit, RateLimits};
pub use healthcheck::HealthCheck;
pub use recon::{Recon, ReconConfig};

use crate::object::respond;

type Req = http::Request<caelum_rest::Body>;
type Resp = http::Response<caelum_rest::Body>;
