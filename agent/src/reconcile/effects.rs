//! The edge of the pod machine: who does what the fleet asks for.

use coracle_shared::ids::PodUid;

use super::fleet::Job;

/// Does jobs. The agent's own is [`crate::node::Hands`]; tests and the simulator have fakes.
pub trait Effects {
    /// Begins a job and returns at once. How it went comes back to the fleet as its outcome, once,
    /// whatever happens.
    fn begin(&self, job: Job);

    /// Nothing of the pod is left anywhere, and nobody desires it: what is remembered of it goes too.
    fn forget(&self, uid: &PodUid);
}
