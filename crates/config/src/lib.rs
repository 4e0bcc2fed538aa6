//! Options, declared once: name, kind, default and help.
//!
//! Each crate declares its options as a static slice of [`Opt`]; the binary joins them to a
//! [`Schema`] and loads a [`Config`] from four layers, strongest first: command line, environment
//! (`CAELUM_STORE_URL` for `store.url`), TOML file, default.
//!
//! Invariants:
//! - A key nobody declared is an error in every layer, with the nearest declared name.
//! - A value of the wrong form is an error naming where it stands, the key and the allowed form;
//!   all such errors are reported together, and no error or listing shows a secret's value.
//! - Every declared option has a valid value once loading has succeeded, so reading one cannot
//!   fail. Reading an undeclared name, or one as another kind, is a bug and panics.
//!
//! Nothing is read from the process or the disk here: file text and environment are passed in.

mod config;
mod schema;
mod value;

pub use config::{Config, Layers, Row, Source};
pub use schema::{Kind, Opt, Schema};
