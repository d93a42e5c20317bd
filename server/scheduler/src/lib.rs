//! The scheduler: which node a pod runs on.
//!
//! [`Snapshot`] is a compact picture of the cluster, kept up from the store's changes;
//! [`decide`] is pure over it. [`run`] feeds the one and carries out the other.

mod decide;
mod driver;
mod queue;
mod request;
mod snapshot;

pub use decide::{Decision, decide};
pub use driver::{ImagePlatforms, run};
pub use request::Request;
pub use snapshot::{Node, Snapshot, Usage};
