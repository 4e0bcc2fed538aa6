//! What placement's requests mean, apart from HTTP and SQL.

pub mod candidates;
pub mod request;
