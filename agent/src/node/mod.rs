//! The node: the rooms put together. What the pod machine asks for is done here, with the real
//! runtime, network, images and volumes.

mod adopt;
mod begun;
mod conditions;
mod hands;
mod hooks;
mod prepare;
pub mod run;
pub mod socket;
pub mod start;
mod streams;
mod turns;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_channel::{Receiver, Sender};
use coracle_images::{Image, Images, Platform};
use coracle_shared::ids::PodUid;
use coracle_shared::report::Resources;
use smol::lock::Semaphore;

pub use hands::Hands;
pub use streams::NodeStreams;

use crate::ledger::Keeper;
use crate::network::Network;
use crate::reconcile::driver::Input;
use crate::runtime::{Runtime, Sandbox};
use crate::volumes::Volumes;

/// Threads that block on the disk or the kernel at once. More would not be faster on a board and
/// would cost memory each.
const BLOCKING: usize = 4;
/// Pulls at once: each holds a thread for as long as the network takes.
const PULLS: usize = 3;

/// The rooms of a node.
pub struct Node {
    pub name: String,
    pub executor: Arc<smol::Executor<'static>>,
    pub keeper: Keeper,
    pub images: Arc<Images>,
    pub platform: Platform,
    pub network: Network,
    pub volumes: Volumes,
    pub runtime: Runtime,
    pub inputs: Sender<Input>,
    /// Where log files lie: `UID/CONTAINER/ATTEMPT.log`.
    pub logs: PathBuf,
    /// What the node has for pods.
    pub allocatable: Resources,
    pub gates: Gates,
    pub pods: Mutex<BTreeMap<PodUid, Live>>,
}

/// Bounds on what blocks.
pub struct Gates {
    blocking: Semaphore,
    pulls: Semaphore,
}

impl Default for Gates {
    fn default() -> Self {
        Self { blocking: Semaphore::new(BLOCKING), pulls: Semaphore::new(PULLS) }
    }
}

/// What is held of a pod that has, or will have, a sandbox.
#[derive(Default)]
pub struct Live {
    pub sandbox: Option<Sandbox>,
    /// Hands on what happens in it.
    pub watch: Option<smol::Task<()>>,
    /// By container index.
    pub images: BTreeMap<usize, Image>,
    /// Dropped when the run ends: whoever follows its log learns of it.
    pub runs: BTreeMap<(String, u32), (Sender<()>, Receiver<()>)>,
}

impl Node {
    pub fn pods(&self) -> MutexGuard<'_, BTreeMap<PodUid, Live>> {
        // Single values are put in and taken out.
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn sandbox(&self, uid: &PodUid) -> Option<Sandbox> {
        self.pods().get(uid).and_then(|live| live.sandbox.clone())
    }

    /// Runs what blocks on a thread, a few at a time.
    pub async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let _permit = self.gates.blocking.acquire().await;
        smol::unblock(work).await
    }

    /// The directory of a container's log files.
    pub fn log_dir(&self, uid: &PodUid, container: &str) -> PathBuf {
        self.logs.join(&uid.0).join(container)
    }
}

/// The runs of a container that have a log, oldest first.
pub(crate) fn logged_runs(dir: &Path) -> Vec<u32> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let attempt = |name: std::ffi::OsString| name.to_str()?.strip_suffix(".log")?.parse().ok();
    let mut runs: Vec<u32> = entries.filter_map(|e| attempt(e.file_name())).collect();
    runs.sort_unstable();
    runs
}
