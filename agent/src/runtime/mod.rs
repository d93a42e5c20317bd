//! Sandboxes and containers: namespaces, mounts, seccomp, capabilities, cgroups, logs.
//!
//! A pod's processes are children of its own `coracle-pause`; this room tells pauses what to do
//! and finds them again after a restart. Nothing about a running container lives only here:
//! [`Runtime::adopt`] rebuilds everything from the run directory and the pauses themselves.
//!
//! Layout below `run_dir`, one directory a pod:
//! `pods/UID/{sandbox, state, pause.sock, NAME_ATTEMPT/{termination-log, upper}}`.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

mod capabilities;
mod cgroup;
mod container;
mod create;
mod error;
mod exec;
mod link;
mod logs;
mod plan;
mod sandbox;
mod seccomp;
pub mod spec;
mod user;

pub use error::Error;
pub use exec::Exec;
pub use logs::{LogQuery, LogReader};
pub use sandbox::Sandbox;
pub use spec::*;
pub use user::resolve_user;

use cgroup::Cgroups;

use crate::sys;

/// What a [`Runtime`] is told at its start.
#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// `--runtime-dir`, default `/run/coracle/NODE`.
    pub run_dir: PathBuf,
    /// The `coracle-pause` program; it is copied into a sealed memory file and run from there.
    pub pause_path: PathBuf,
    /// `--cgroup-root`: on v2 from the hierarchy's root, on v1 below the caller's own group of
    /// each controller.
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
    shared: Arc<Shared>,
}

/// What every sandbox needs of its node.
struct Shared {
    config: RuntimeConfig,
    executor: Arc<smol::Executor<'static>>,
    cgroups: Box<dyn Cgroups>,
    pause: OwnedFd,
    null: OwnedFd,
    /// Bytes of log promised to the containers there are.
    log_promised: AtomicU64,
}

impl Shared {
    fn pods(&self) -> PathBuf {
        self.config.run_dir.join("pods")
    }
}

impl Runtime {
    /// Makes the node's directories and cgroups and prepares the pause program. `executor` runs
    /// one small task a sandbox.
    ///
    /// # Errors
    /// The run directory, cgroup root or pause program cannot be used.
    pub fn new(config: RuntimeConfig, executor: Arc<smol::Executor<'static>>) -> Result<Runtime, Error> {
        let pods = config.run_dir.join("pods");
        make_private(&config.run_dir)?;
        make_private(&pods)?;
        let program = fs::read(&config.pause_path).map_err(Error::on("read", &config.pause_path))?;
        let pause = sys::sealed_program(c"coracle-pause", &program)
            .map_err(|source| Error::Io { what: "make a sealed memory file".into(), source })?;
        let null = fs::OpenOptions::new().read(true).write(true).open("/dev/null");
        let null = null.map_err(Error::on("open", Path::new("/dev/null")))?.into();
        let cgroups =
            cgroup::open(&config.cgroup_root, &config.node).map_err(Error::on("use cgroup", &config.cgroup_root))?;
        let log_promised = AtomicU64::new(0);
        Ok(Runtime { shared: Arc::new(Shared { config, executor, cgroups, pause, null, log_promised }) })
    }

    /// What the node lacks: controllers that are off, with the mend. Read once, at `new`.
    pub fn findings(&self) -> &[Finding] {
        self.shared.cgroups.findings()
    }

    /// Moves the calling process into the node's `agent` group, beside its pods.
    ///
    /// # Errors
    /// The group refuses it.
    pub fn enter_agent_cgroup(&self) -> Result<(), Error> {
        for dir in self.shared.cgroups.directories("agent") {
            let file = dir.join("cgroup.procs");
            fs::write(&file, std::process::id().to_string()).map_err(Error::on("write", &file))?;
        }
        Ok(())
    }

    /// Removes the node's own groups, which must be empty: for good, or at the end of a test.
    ///
    /// # Errors
    /// A process that still lives in one.
    pub fn remove_cgroups(&self) -> Result<(), Error> {
        let failed = |source| Error::Io { what: format!("remove cgroups of {}", self.shared.config.node), source };
        cgroup::remove(&*self.shared.cgroups, "").map_err(failed)
    }

    /// Starts a pod's pause process. The sandbox's run directory must not exist.
    ///
    /// # Errors
    /// Whatever stood in the way; nothing is left of the sandbox then.
    pub async fn create_sandbox(&self, spec: &SandboxSpec) -> Result<Sandbox, Error> {
        create::create(&self.shared, spec).await
    }

    /// Finds every sandbox of the run directory again, whether its pause lives or not. Call once,
    /// before anything else. Directories that hold no sandbox are removed.
    ///
    /// # Errors
    /// The run directory cannot be read; a single sandbox that cannot be is found dead.
    pub async fn adopt(&self) -> Result<Vec<Sandbox>, Error> {
        create::adopt(&self.shared).await
    }
}

/// A directory that only root reads. Its parents are made too.
fn make_private(dir: &Path) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(Error::on("make", dir))
}

/// Milliseconds since the Unix epoch: the clock that pauses use for their records.
fn now() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    now.tv_sec * 1000 + i64::from(now.tv_nsec as i32) / 1_000_000
}
