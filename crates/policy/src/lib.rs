//! The oslo.policy language, evaluated in process.
//!
//! A service registers its rules once ([`RuleDefault`]); an operator may replace check strings in
//! `policy.yaml` ([`parse_overrides`]). [`Enforcer::new`] compiles all of them to trees with every
//! `rule:` reference resolved, and [`Enforcer::check`] walks one tree without allocating.
//!
//! Invariants:
//! - Nothing is accepted that was not understood: a check string that does not parse, a reference
//!   to a missing rule, a cycle or an over-large rule stops the load and names the rule. (Upstream
//!   logs and denies; an operator finds out later.)
//! - Evaluation never fails open: an unknown rule, a missing target key or a missing credential
//!   attribute is a denial of that check.
//! - Two absent values are not equal: `project_id:%(project_id)s` denies when both sides are
//!   `None`, where upstream compares the text `None` with itself.
//! - Implied roles are already expanded in the token; nothing is implied here.
//!
//! Nothing is stored and nothing outlives the process; after a crash the rules are compiled again.

mod check;
mod credentials;
mod enforcer;
mod overrides;
pub mod personas;
mod target;

pub use credentials::{Credentials, Scope};
pub use enforcer::{Denied, Enforcer, Reason, RuleDefault, RuleInfo};
pub use overrides::parse_overrides;
pub use target::Target;
