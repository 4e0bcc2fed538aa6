//! What compute's operations mean, free of HTTP and microversions.

pub mod actions;
pub mod aggregates;
pub mod bdm;
pub mod config_drive;
pub mod create;
pub mod delete;
pub mod devices;
pub mod events;
pub mod extra_specs;
pub mod flavors;
pub mod guest;
pub mod hosts;
pub mod images;
pub mod keys;
pub mod netinfo;
pub mod network;
pub mod nics;
pub mod ops;
pub mod quotas;
pub mod scheduler;
pub mod volume_image;
pub mod volumes;
pub mod x509;
