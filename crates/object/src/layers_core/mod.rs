//! The outermost layers: what every request passes before anybody asks who sends it.

mod access_log;
mod catch_errors;
mod gatekeeper;
mod info;
mod listing_formats;
mod name_check;
mod small;
mod xml;

pub use access_log::AccessLog;
pub use catch_errors::CatchErrors;
pub use gatekeeper::Gatekeeper;
pub use info::{About, Info, InfoOptions};
pub use listing_formats::ListingFormats;
pub use name_check::{NameCheck, NameCheckOptions};
pub use small::{CrossDomain, HealthCheck};

#[cfg(test)]
mod tests;
