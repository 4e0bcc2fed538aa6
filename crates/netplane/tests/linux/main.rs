//! The real plane on the real kernel, each test on a host of its own. Skips with a reason where the
//! machine cannot run it.

// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod layer2;
mod life;
mod reach;
mod rig;
mod routing;
