//! Amazon's S3 API in front of Swift's pipeline.
//!
//! The layer takes requests that carry an S3 signature, or that are addressed to where S3 is mounted, and answers them
//! with requests to the layers below; other requests pass. Data lies as Swift's s3api lays it: buckets are containers of
//! the caller's account, uploads in parts go to `<bucket>+segments` and end as static large objects, tags of such objects
//! and access lists stand in system metadata under `s3api-`, versions are kept by object versioning. What Swift's s3api
//! does not know (policies, lifecycle, locks, tags, checksums, …) stands in system metadata under the same prefix.
//!
//! Who may do what: the owner of the account, by the roles that Swift's own API asks for, may do everything that the
//! bucket's policy does not deny. Others may do what the policy or an access list grants them; what neither speaks of is
//! decided by the layers below, as for requests of Swift's API. Buckets of other accounts are named `account:bucket`.

mod acl;
mod auth;
mod checksum;
mod context;
mod cors;
mod credentials;
mod errors;
mod layer;
mod lifecycle;
mod notify;
mod ops;
mod payload;
mod policy;
#[cfg(test)]
mod sign;
mod state;
mod tags;
mod target;
mod website;
mod xml;

pub use credentials::{AnyCredentials, Ec2Keys, Key, KeystoneCredentials, S3Credentials, StaticCredentials};
pub use layer::{S3Deps, S3Layer, S3Options};
pub use lifecycle::Pass;
pub use notify::{Broker, EventOptions, Webhooks};

#[cfg(test)]
mod tests;
