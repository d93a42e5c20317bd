//! The scheduler: which node a pod runs on.
//!
//! [`Snapshot`] is a compact picture of the cluster, kept up from the store's changes;
//! [`decide`] is pure over it. [`Stepper`] feeds the one and says what the
//! other leads to; [`run`] carries that out.

mod decide;
mod driver;
mod queue;
mod request;
mod snapshot;
mod stepper;

pub use decide::{Decision, decide};
pub use driver::{ImagePlatforms, run};
pub use request::Request;
pub use snapshot::{Node, Snapshot, Usage};
pub use stepper::{Errand, Outcome, Stepper, bind_write, identity, scheduled_event};
