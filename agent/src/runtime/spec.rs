//! What a sandbox and a container are to be. Values only: building them has no effect.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use coracle_shared::ids::PodUid;

/// One pod's sandbox: its pause process, namespaces and cgroup.
#[derive(Clone, Debug)]
pub struct SandboxSpec {
    pub uid: PodUid,
    pub namespace: String,
    pub name: String,
    /// The pod's host name (at most 64 bytes); `None` keeps the node's.
    pub hostname: Option<String>,
    pub network: Network,
    /// The containers see and are seen by the node's processes. They are then ended by cgroup, not
    /// by their PID namespace.
    pub host_pid: bool,
    pub host_ipc: bool,
    /// Gives all containers of the pod the same `/dev/shm`. Costs a mount on the node, so it is
    /// worth setting only for pods of several containers.
    pub share_shm: bool,
    /// `securityContext.sysctls`, names with dots; only namespaced ones (`net.*`, `kernel.shm*`,
    /// `kernel.msg*`, `kernel.sem`, `fs.mqueue.*`) are accepted.
    pub sysctls: Vec<(String, String)>,
    /// Limits of the whole pod; the default is none.
    pub resources: Resources,
    /// Opaque bytes kept with the sandbox and handed back by `adopt` (at most 64 KiB).
    pub note: Vec<u8>,
}

/// The pod's network namespace.
#[derive(Clone, Debug)]
pub enum Network {
    /// `hostNetwork: true`.
    Host,
    /// A new, empty namespace (`lo` down).
    New,
    /// A ready-made namespace, as an open `/proc/PID/ns/net`.
    Namespace(Arc<OwnedFd>),
}

/// Names a container inside its sandbox. A restart is a new attempt and a new id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerId {
    /// `spec.containers[].name` (a DNS label).
    pub name: String,
    /// `restartCount` at its start.
    pub attempt: u32,
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.name, self.attempt)
    }
}

impl ContainerId {
    /// Reads what `Display` wrote.
    pub fn parse(text: &str) -> Option<ContainerId> {
        let (name, attempt) = text.rsplit_once('_')?;
        let valid = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
        Some(ContainerId { name: valid.then(|| name.to_string())?, attempt: attempt.parse().ok()? })
    }
}

#[derive(Clone, Debug)]
pub struct ContainerSpec {
    pub id: ContainerId,
    pub rootfs: Rootfs,
    /// Command and arguments; the first is looked up in `PATH` of `env` inside the container when
    /// it has no slash.
    pub argv: Vec<String>,
    pub env: Vec<(String, String)>,
    /// Made (root, 0755) when missing; empty means `/`.
    pub cwd: String,
    pub user: User,
    /// On top of the default ones (`/proc`, `/sys`, `/dev` …), which the runtime adds. In the
    /// order given: a mount below another comes after it.
    pub mounts: Vec<Mount>,
    pub security: Security,
    pub resources: Resources,
    pub log: LogSpec,
    /// Keeps standard input open; otherwise it is `/dev/null`.
    pub stdin: bool,
    /// Path inside the container of the termination message (default `/dev/termination-log`): a
    /// file of the sandbox, mounted there and read by [`Sandbox::termination_message`]. `None`
    /// mounts nothing.
    ///
    /// [`Sandbox::termination_message`]: super::Sandbox::termination_message
    pub termination_message_path: Option<String>,
}

/// Where the container's root comes from.
#[derive(Clone, Debug)]
pub enum Rootfs {
    /// Unpacked layers, **topmost first**, under an upper directory of the container's own. The
    /// upper directory lives below the `upper` path, is made by the runtime and removed with the
    /// container. Short paths: the kernel takes 4 KiB for all of them together.
    Overlay { lowers: Vec<PathBuf>, upper: PathBuf },
    /// A directory as it is: what is written stays.
    Directory(PathBuf),
}

/// Numeric; see [`resolve_user`](super::resolve_user) for names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups (`fsGroup`, `supplementalGroups` and those of the image).
    pub groups: Vec<u32>,
}

#[derive(Clone, Debug)]
pub struct Mount {
    /// Absolute path inside the container; made when missing.
    pub target: String,
    pub source: MountSource,
    pub read_only: bool,
}

#[derive(Clone, Debug)]
pub enum MountSource {
    /// A file or directory of the node, with everything mounted below it.
    Bind {
        path: PathBuf,
        /// Resolved below `path` without leaving it (openat2 `RESOLVE_IN_ROOT`), made as a
        /// directory when missing.
        sub_path: Option<String>,
        propagation: Propagation,
    },
    /// A fresh tmpfs; `size` in bytes, mode as in `0o1777`.
    Tmpfs { size: Option<u64>, mode: u32 },
}

/// `mountPropagation` of a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Propagation {
    #[default]
    None,
    HostToContainer,
    /// Needs a privileged container; the node's mount must be shared.
    Bidirectional,
}

/// What a container may do. The default is the usual default set.
#[derive(Clone, Debug, Default)]
pub struct Security {
    /// All capabilities and devices, nothing masked, no seccomp, writable `/sys` and cgroups.
    pub privileged: bool,
    /// As Kubernetes names them, with or without `CAP_`; `ALL` is understood.
    pub add_capabilities: Vec<String>,
    pub drop_capabilities: Vec<String>,
    /// `allowPrivilegeEscalation: false`.
    pub no_new_privileges: bool,
    pub seccomp: Seccomp,
    /// `procMount: Unmasked` clears both lists.
    pub unmasked: bool,
    pub read_only_root: bool,
    /// −1000 … 1000; lowering may be refused by the node and is then left.
    pub oom_score_adj: Option<i32>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Seccomp {
    #[default]
    Default,
    Unconfined,
}

/// Limits of a container or pod. `None` is unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// `requests.cpu` in thousandths of a core: the share under contention.
    pub cpu_request_millis: Option<u64>,
    /// `limits.cpu` in thousandths of a core: a CFS quota over 100 ms.
    pub cpu_limit_millis: Option<u64>,
    pub memory_limit_bytes: Option<u64>,
    pub pids_limit: Option<u64>,
}

/// Where output goes, in CRI format: `RFC3339Nano stdout|stderr P|F TEXT`.
#[derive(Clone, Debug)]
pub struct LogSpec {
    /// The current file; rotated ones are `PATH.1` (newest) and up.
    pub path: PathBuf,
    /// A file is rotated before it grows past this many bytes.
    pub max_bytes: u64,
    /// How many files are kept, the current one included; at least 1.
    pub max_files: u32,
}

/// How a container's life is known to its pause process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerStatus {
    pub id: ContainerId,
    /// Milliseconds since the Unix epoch by the node's clock, when execve had succeeded.
    pub started_at: i64,
    /// `None` while it runs.
    pub exit: Option<ExitStatus>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExitStatus {
    /// The exit code; 128 + signal when a signal ended it.
    pub code: i32,
    pub signal: Option<i32>,
    /// The kernel's OOM killer struck inside the container's cgroup.
    pub oom_killed: bool,
    /// The end was not seen: the pause process died, or the node restarted, while it ran.
    pub lost: bool,
    /// Milliseconds since the Unix epoch; when `lost`, the time it was found out.
    pub finished_at: i64,
}

/// What happened in a sandbox. A hint: [`Sandbox::containers`](super::Sandbox::containers) is the
/// truth, and an event may be dropped when nobody reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Exited(ContainerStatus),
    /// The pause process ended, and with it every container.
    SandboxDied,
}

/// A command to run beside a container's own process.
#[derive(Clone, Debug)]
pub struct ExecSpec {
    pub container: ContainerId,
    pub argv: Vec<String>,
    /// `None`: the container's own environment.
    pub env: Option<Vec<(String, String)>>,
    /// Whether standard input is a pipe; otherwise it is `/dev/null`.
    pub stdin: bool,
}

/// What the node lacks and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// `memory controller is off`.
    pub what: String,
    /// The mend, for a person.
    pub mend: String,
    /// Pods cannot run at all; otherwise only limits of this kind are missing.
    pub fatal: bool,
}
