//! What may stand before a storage server, under the names of upstream's filters.

mod backend_ratelimit;
mod recon;

pub use backend_ratelimit::{BackendRateLimit, LIMITED_METHODS, RateLimits};
pub use caelum_swiftkit::HealthCheck;
pub use recon::{Recon, ReconConfig};

use crate::object::respond;

type Req = http::Request<caelum_rest::Body>;
type Resp = http::Response<caelum_rest::Body>;
