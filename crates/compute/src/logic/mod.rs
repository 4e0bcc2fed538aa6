//! What compute's operations mean, free of HTTP and microversions.

pub mod config_drive;
pub mod guest;
pub mod images;
pub mod network;
pub mod scheduler;
pub mod volumes;
