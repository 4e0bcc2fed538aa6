//! The real plane on the real kernel, each test on a host of its own. Skips with a reason where the
//! machine cannot run it.

mod layer2;
mod life;
mod rig;
mod reach;
mod routing;
