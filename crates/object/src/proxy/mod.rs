//! The proxy server application: the innermost layer of the pipeline, which speaks to the account,
//! container and object servers. Source: Swift's documentation (`overview_architecture`, API reference).

pub mod cache;
pub mod info;

pub use cache::{Cache, MemoryCache};
pub use info::{AccountInfo, ContainerInfo, FixedInfo, InfoSource, ObjectInfo};
