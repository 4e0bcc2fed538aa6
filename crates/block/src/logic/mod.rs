//! What the operations mean, free of wire formats.

pub mod attach;
pub mod audit;
pub mod images;
pub mod nova;
pub mod types;
pub mod volumes;
