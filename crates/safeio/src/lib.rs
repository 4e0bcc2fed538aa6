//! The few places where strings or bytes chosen by a tenant meet the operating system.
//!
//! Invariants, each kept by exactly one module:
//! * files under names a tenant can influence are opened only through [`root::SafeRoot`];
//! * an image is trusted only after [`inspect::Inspector`] named its format;
//! * `qemu-img` is run only by [`qemuimg`], never guessing a format;
//! * generated configuration and XML is written only through [`render`];
//! * an address given by a tenant is fetched only by [`fetch`].
//!
//! Nothing here keeps state of its own; a crash can leave at most a temporary file, which
//! [`root::SafeRoot::sweep_temporary`] removes.

pub mod fetch;
pub mod inspect;
pub mod qemuimg;
pub mod render;
pub mod root;
pub mod tls;
