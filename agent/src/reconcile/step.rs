//! The small parts that a pod's state is made of.

use std::net::Ipv4Addr;

use coracle_shared::report::Exit;

/// One instant by two clocks, both in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    /// Monotonic, from any start: every delay is counted in it.
    pub mono: u64,
    /// Since the Unix epoch: only ever reported.
    pub wall: i64,
}

/// The first delay before something failed is tried again, and the longest (as the kubelet has them).
pub const BACKOFF_FIRST: u64 = 10_000;
pub const BACKOFF_MAX: u64 = 300_000;
/// A container that ran this long has recovered: its back-off starts anew.
pub const BACKOFF_RESET: u64 = 600_000;
/// How long a failed pull shows as ErrImagePull before it shows as ImagePullBackOff.
pub const PULL_ERROR_SHOWN: u64 = 2_000;

/// The delay before try `tries + 1`: doubling from [`BACKOFF_FIRST`].
pub fn backoff(tries: u32) -> u64 {
    BACKOFF_FIRST.saturating_mul(1 << tries.saturating_sub(1).min(8)).min(BACKOFF_MAX)
}

/// Why something is not as it should be: a reason as Kubernetes users know it, and a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub reason: &'static str,
    pub message: String,
}

impl Fault {
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// Something to get done once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<T> {
    /// To be tried at `at` (monotonic). May become `Doing`.
    Due {
        at: u64,
        tries: u32,
        fault: Option<(Fault, u64)>,
    },
    /// In flight. Becomes `Done`, or `Due` with a fault. Keeps the last fault, to show meanwhile.
    Doing {
        tries: u32,
        fault: Option<(Fault, u64)>,
    },
    Done(T),
}

impl<T> Step<T> {
    pub const fn new() -> Self {
        Step::Due { at: 0, tries: 0, fault: None }
    }

    pub fn done(&self) -> Option<&T> {
        if let Step::Done(t) = self { Some(t) } else { None }
    }

    pub fn doing(&self) -> bool {
        matches!(self, Step::Doing { .. })
    }

    /// The last failure and when it was (monotonic).
    pub fn fault(&self) -> Option<&(Fault, u64)> {
        match self {
            Step::Due { fault, .. } | Step::Doing { fault, .. } => fault.as_ref(),
            Step::Done(_) => None,
        }
    }

    pub(super) fn begin(&mut self) {
        if let Step::Due { tries, fault, .. } = self {
            *self = Step::Doing { tries: *tries, fault: fault.take() };
        }
    }

    pub(super) fn finish(&mut self, result: Result<T, Fault>, now: Now) {
        let tries = match self {
            Step::Due { tries, .. } | Step::Doing { tries, .. } => *tries + 1,
            Step::Done(_) => 1,
        };
        *self = match result {
            Ok(t) => Step::Done(t),
            Err(fault) => Step::Due { at: now.mono + backoff(tries), tries, fault: Some((fault, now.mono)) },
        };
    }

    /// Try again without waiting: what it failed on has changed.
    pub(super) fn hurry(&mut self, now: Now) {
        if let Step::Due { at, .. } = self {
            *at = (*at).min(now.mono);
        }
    }
}

impl<T> Default for Step<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// An image that is unpacked on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PulledImage {
    /// `REPOSITORY@sha256:…`.
    pub id: String,
    /// How long the pull took and what it brought, if there was one: milliseconds, bytes.
    pub pulled: Option<(u64, u64)>,
}

/// A sandbox that is up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SandboxInfo {
    pub pod_ip: Option<Ipv4Addr>,
}

/// A container whose program runs: execve has succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    pub container_id: String,
    /// Milliseconds since the Unix epoch.
    pub started_at: i64,
}

/// Why a container did not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartFault {
    /// Its configuration cannot be made yet: CreateContainerConfigError. Tried again when data changes.
    Config(String),
    /// It could not be set up: CreateContainerError.
    Create(String),
    /// Its program could not be run: counts as an exit with code 128.
    Run(String),
}

/// A sandbox that a former agent made, as the runtime describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adopted {
    pub sandbox: SandboxInfo,
    /// Milliseconds since the Unix epoch.
    pub started_at: i64,
    /// Its pause process runs.
    pub alive: bool,
    /// The latest run of each container.
    pub containers: Vec<AdoptedContainer>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdoptedContainer {
    pub name: String,
    pub attempt: u32,
    pub image_ref: String,
    pub image_id: String,
    pub started: Started,
    /// It has ended.
    pub exit: Option<Exit>,
    /// How the run before it ended.
    pub last: Option<Exit>,
}
