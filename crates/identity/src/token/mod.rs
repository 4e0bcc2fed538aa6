//! Tokens: what they carry, how they are sealed, what they mean now.

pub mod fernet;
pub mod keys;
pub mod payload;
pub mod resolve;

mod cache;
mod view;

pub use cache::{TokenCache, TokenEntry};
pub use payload::{Delegation, Facts, Scope};
