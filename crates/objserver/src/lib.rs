//! The storage servers: accounts, containers, objects. Each is an [`caelum_rest::HttpService`] that
//! speaks upstream's node protocol. Source: Swift's documentation, `overview_architecture`.

pub mod account;
pub mod container;
pub mod db;
pub mod middleware;
pub mod object;

pub use account::{AccountServer, AccountServerConfig};
pub use container::{ContainerServer, ContainerServerConfig};
pub use object::{ObjectServer, ObjectServerConfig};
