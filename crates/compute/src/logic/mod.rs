//! What compute's operations mean, free of HTTP and microversions.

pub mod actions;
pub mod bdm;
pub mod create;
pub mod delete;
pub mod devices;
pub mod events;
pub mod netinfo;
pub mod nics;
pub mod config_drive;
pub mod aggregates;
pub mod extra_specs;
pub mod hosts;
pub mod quotas;
pub mod flavors;
pub mod guest;
pub mod images;
pub mod keys;
pub mod network;
pub mod ops;
pub mod scheduler;
pub mod volume_image;
pub mod volumes;
pub mod x509;
