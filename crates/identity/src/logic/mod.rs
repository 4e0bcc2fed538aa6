//! What identity means: roles, passwords, authentication, hierarchy, catalog.

pub mod authenticate;
pub mod bootstrap;
pub mod catalog;
pub mod ec2;
pub mod lifecycle;
pub mod passwords;
pub mod roles;
pub mod totp;
