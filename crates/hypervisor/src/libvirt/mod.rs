//! Compute host over libvirt and QEMU.

mod conn;
mod error;
mod rpc;
mod xdr;
