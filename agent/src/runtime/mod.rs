#![allow(unused_variables, dead_code)]
//! Sandboxes and containers: namespaces, mounts, seccomp, capabilities, cgroups, logs.
//!
//! A pod's processes are children of its own `coracle-pause`; this room tells pauses what to do
//! and finds them again after a restart. Nothing about a running container lives only here:
//! [`Runtime::adopt`] rebuilds everything from the run directory and the pauses themselves.
//!
//! Layout below `run_dir`, one directory a pod:
//! `pods/UID/{sandbox, state, pause.sock, NAME_ATTEMPT/termination-log}`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use coracle_shared::ids::PodUid;

pub mod spec;

pub use spec::*;

/// What a [`Runtime`] is told at its start.
#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// `--runtime-dir`, default `/run/coracle/NODE`.
    pub run_dir: PathBuf,
    /// The `coracle-pause` program; it is copied into a sealed memory file and run from there.
    pub pause_path: PathBuf,
    /// `--cgroup-root`, absolute as seen from the caller's own cgroup: `/coracle`.
    pub cgroup_root: PathBuf,
    /// The node's name: `CGROUP_ROOT/NODE/{agent,pause,pods}`.
    pub node: String,
    /// `/proc/sys/kernel/random/boot_id`: state of an earlier boot is never taken for running.
    pub boot_id: String,
    /// What all log files of this node may hold together, in bytes. Later containers get less
    /// when it runs short, never nothing.
    pub log_budget: u64,
}

/// The node's containers. Cheap to clone.
#[derive(Clone)]
pub struct Runtime {
    config: Arc<RuntimeConfig>,
}

/// A pod's sandbox. Cheap to clone; dropping it changes nothing on the node.
#[derive(Clone)]
pub struct Sandbox {
    uid: PodUid,
}

/// A running `exec`. Dropping it closes its pipes and leaves the process to end by itself.
pub struct Exec {
    /// Present when `ExecSpec::stdin`; dropping it is end of file.
    pub stdin: Option<smol::Async<std::fs::File>>,
    pub stdout: smol::Async<std::fs::File>,
    pub stderr: smol::Async<std::fs::File>,
    done: async_channel::Receiver<ExitStatus>,
}

/// Why the runtime could not do what was asked.
#[derive(Debug)]
pub enum Error {
    /// A call to the kernel or the file system: what was tried, on what.
    Io {
        what: String,
        source: std::io::Error,
    },
    /// The container's own start failed, told by its pause process: bad command, mount, user …
    /// Kubernetes' `RunContainerError`; `stage` is `exec`, `mount` and the like.
    Start {
        stage: String,
        what: String,
        source: std::io::Error,
    },
    /// The spec asks for what cannot be.
    Invalid(String),
    /// The sandbox's pause process is gone.
    Dead,
    NotFound(ContainerId),
    /// The pause process answered what it should not.
    Protocol(String),
}

impl Runtime {
    /// Makes the node's directories and cgroups and prepares the pause program. `executor` runs
    /// one small task a sandbox.
    ///
    /// # Errors
    /// The run directory, cgroup root or pause program cannot be used.
    pub fn new(config: RuntimeConfig, executor: Arc<smol::Executor<'static>>) -> Result<Runtime, Error> {
        todo!()
    }

    /// What the node lacks: controllers that are off, with the mend. Read once, at `new`.
    pub fn findings(&self) -> &[Finding] {
        todo!()
    }

    /// Starts a pod's pause process. The sandbox's run directory must not exist.
    pub async fn create_sandbox(&self, spec: &SandboxSpec) -> Result<Sandbox, Error> {
        todo!()
    }

    /// Finds every sandbox of the run directory again, whether its pause lives or not. Call once,
    /// before anything else. Directories that hold no sandbox are removed.
    pub async fn adopt(&self) -> Result<Vec<Sandbox>, Error> {
        todo!()
    }
}

impl Sandbox {
    pub fn uid(&self) -> &PodUid {
        &self.uid
    }

    /// `SandboxSpec::note` as given at its creation.
    pub fn note(&self) -> &[u8] {
        todo!()
    }

    /// False once the pause process ended: only `containers`, `termination_message` and `remove`
    /// make sense then.
    pub fn is_alive(&self) -> bool {
        todo!()
    }

    /// Milliseconds since the Unix epoch.
    pub fn created_at(&self) -> i64 {
        todo!()
    }

    /// The pause's process id in the agent's PID namespace (`/proc/PID/ns/net`).
    pub fn pid(&self) -> u32 {
        todo!()
    }

    /// Every container not yet removed, running or ended, in order of start.
    pub fn containers(&self) -> Vec<ContainerStatus> {
        todo!()
    }

    /// What happens from now on; each event goes to one receiver. A hint, see [`Event`].
    pub fn events(&self) -> async_channel::Receiver<Event> {
        todo!()
    }

    /// Starts a container and answers once execve succeeded.
    ///
    /// # Errors
    /// [`Error::Start`] when the container cannot be as asked; nothing is left of it then.
    pub async fn start_container(&self, spec: &ContainerSpec) -> Result<ContainerStatus, Error> {
        todo!()
    }

    /// Sends a signal to a container's own process. Not an error when it has ended.
    pub async fn signal(&self, id: &ContainerId, signal: i32) -> Result<(), Error> {
        todo!()
    }

    /// SIGKILL to everything in the container, and waits for its end.
    pub async fn kill(&self, id: &ContainerId) -> Result<ContainerStatus, Error> {
        todo!()
    }

    /// Runs a command in a running container's namespaces, cgroup and confinement.
    pub async fn exec(&self, spec: &ExecSpec) -> Result<Exec, Error> {
        todo!()
    }

    /// At most 4 KiB of the container's termination message, lossy UTF-8; empty when there is none.
    pub async fn termination_message(&self, id: &ContainerId) -> String {
        todo!()
    }

    /// Forgets an ended container: its record, cgroup, upper directory and termination message.
    /// Its log files stay; they are the caller's.
    pub async fn remove_container(&self, id: &ContainerId) -> Result<(), Error> {
        todo!()
    }

    /// Changes limits of a running container in place.
    pub async fn update(&self, id: &ContainerId, resources: &Resources) -> Result<(), Error> {
        todo!()
    }

    /// Ends every process of the pod at once (SIGKILL) and removes cgroups, mounts, upper
    /// directories and the run directory. Goes on after an error and reports them all.
    pub async fn remove(&self) -> Result<(), Vec<Error>> {
        todo!()
    }
}

impl Exec {
    /// The command's end. [`Error::Dead`] when the sandbox ended first.
    pub async fn wait(&self) -> Result<ExitStatus, Error> {
        todo!()
    }
}

/// Resolves `USER[:GROUP]` of an image's configuration (names or numbers; empty is root) by the
/// image's own `/etc/passwd` and `/etc/group`, as the topmost layer has them.
///
/// # Errors
/// [`Error::Invalid`] when a name is not there.
pub fn resolve_user(lowers: &[PathBuf], user: &str) -> Result<User, Error> {
    todo!()
}

/// How to read a log: `kubectl logs`' flags.
#[derive(Clone, Debug, Default)]
pub struct LogQuery {
    pub follow: bool,
    /// The last lines only.
    pub tail: Option<u64>,
    /// Lines at or after this time, milliseconds since the Unix epoch.
    pub since: Option<i64>,
    pub timestamps: bool,
    /// Ends after this many bytes.
    pub limit_bytes: Option<u64>,
}

/// Reads a container's log, rotated files included, as `kubectl logs` shows it.
pub struct LogReader {}

impl LogReader {
    /// With `query.follow` the reader waits for more until `ended` closes, then reads what is left.
    pub fn new(path: &Path, query: LogQuery, ended: async_channel::Receiver<()>) -> LogReader {
        todo!()
    }

    /// The next chunk, at most 64 KiB of whole lines; `None` at the end. A missing file is empty.
    pub async fn next(&mut self) -> Option<std::io::Result<Vec<u8>>> {
        todo!()
    }
}
