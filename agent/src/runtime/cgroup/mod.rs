//! Control groups, v1 and v2 behind one small trait.
//!
//! Below the node's root: `agent` for the agent, `pause` for every pod's pause process (so that
//! what they write into logs on tmpfs counts against no pod), `pods/UID/CONTAINER` for containers.

mod v1;
mod v2;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Error, Finding, Resources};

/// The controllers that limits need.
const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];
/// The kernel's period for CPU quotas, in microseconds.
const CPU_PERIOD: u64 = 100_000;
/// A removal waits this long at most for the last process to be gone.
const REMOVE_TRIES: u32 = 200;
const REMOVE_PAUSE: Duration = Duration::from_millis(5);

/// Where a group's processes go and what is watched, as the pause process needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// v1: `tasks` files.
    pub join: Vec<PathBuf>,
    /// v2: the directory.
    pub into: Option<PathBuf>,
    pub oom_file: Option<PathBuf>,
    /// `cgroup.kill`, or `cgroup.procs`.
    pub kill_file: Option<PathBuf>,
}

/// Groups are named relative to the node's root: `pods/UID/web_0`.
pub trait Cgroups: Send + Sync {
    /// Makes a group, its parent existing, and sets its limits. A group that exists is taken over.
    fn create(&self, group: &str, limits: &Resources) -> io::Result<()>;
    /// Makes a group that will hold groups with limits.
    fn create_parent(&self, group: &str, limits: &Resources) -> io::Result<()>;
    fn update(&self, group: &str, limits: &Resources) -> io::Result<()>;
    fn entry(&self, group: &str) -> Entry;
    /// The group's directories, one a hierarchy.
    fn directories(&self, group: &str) -> Vec<PathBuf>;
    /// What is mounted at `/sys/fs/cgroup` inside a container.
    fn view(&self) -> View;
    fn findings(&self) -> &[Finding];
    /// Whether groups of this node can have limits of a controller.
    fn has(&self, controller: &str) -> bool;
}

/// A limit that the node cannot hold is refused, not forgotten: the finding says how to mend it.
/// CPU requests are only shares, and go without.
///
/// # Errors
/// [`Error::Invalid`] with the reason.
pub fn check(cgroups: &dyn Cgroups, limits: &Resources) -> Result<(), Error> {
    let wanted = [
        ("memory", limits.memory_limit_bytes.is_some()),
        ("cpu", limits.cpu_limit_millis.is_some()),
        ("pids", limits.pids_limit.is_some()),
    ];
    let Some((controller, _)) = wanted.into_iter().find(|(c, wanted)| *wanted && !cgroups.has(c)) else {
        return Ok(());
    };
    let named = format!("controller {controller} ");
    let finding = cgroups.findings().iter().find(|f| f.what.contains(&named));
    let mend = finding.map_or(String::new(), |f| format!(" ({}; {})", f.what, f.mend));
    Err(Error::Invalid(format!("this node cannot hold a {controller} limit{mend}")))
}

/// Those of the limits that the node can hold.
pub fn held(cgroups: &dyn Cgroups, limits: &Resources) -> Resources {
    Resources {
        cpu_request_millis: limits.cpu_request_millis,
        cpu_limit_millis: limits.cpu_limit_millis.filter(|_| cgroups.has("cpu")),
        memory_limit_bytes: limits.memory_limit_bytes.filter(|_| cgroups.has("memory")),
        pids_limit: limits.pids_limit.filter(|_| cgroups.has("pids")),
    }
}

/// How a container sees its own cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum View {
    Unified,
    /// v1 hierarchies by their mount options.
    Controllers(Vec<String>),
}

/// Finds out how this node's cgroups are mounted and makes `root`/`node`.
///
/// # Errors
/// No cgroup file system, or one that cannot be written.
pub fn open(root: &Path, node: &str) -> io::Result<Box<dyn Cgroups>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let own = fs::read_to_string("/proc/self/cgroup")?;
    let relative = root.strip_prefix("/").unwrap_or(root).join(node);
    if let Some(unified) = v2::mount_point(&mounts) {
        return Ok(Box::new(v2::Unified::open(&unified, &relative)?));
    }
    Ok(Box::new(v1::Split::open(&mounts, &own, &relative)?))
}

/// Ends every process of a group: the way for containers without a PID namespace of their own.
pub fn kill(cgroups: &dyn Cgroups, group: &str) -> io::Result<()> {
    for dir in cgroups.directories(group) {
        let kill = dir.join("cgroup.kill");
        if kill.exists() {
            return fs::write(kill, "1");
        }
        // No fork can succeed any more, so each round leaves fewer.
        let _ = fs::write(dir.join("pids.max"), "0");
    }
    for _ in 0..REMOVE_TRIES {
        let pids = processes(cgroups, group)?;
        if pids.is_empty() {
            return Ok(());
        }
        for pid in pids.into_iter().filter_map(|p| rustix::process::Pid::from_raw(p as i32)) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        std::thread::sleep(REMOVE_PAUSE);
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "processes do not end"))
}

/// [`kill`], of every group directly below `group`.
pub fn kill_below(cgroups: &dyn Cgroups, group: &str) -> io::Result<()> {
    let Some(dir) = cgroups.directories(group).into_iter().next() else { return Ok(()) };
    for entry in fs::read_dir(dir)?.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
        if let Some(name) = entry.file_name().to_str() {
            kill(cgroups, &format!("{group}/{name}"))?;
        }
    }
    Ok(())
}

/// The processes of a group in this process's PID namespace.
pub fn processes(cgroups: &dyn Cgroups, group: &str) -> io::Result<Vec<u32>> {
    let Some(dir) = cgroups.directories(group).into_iter().next() else { return Ok(Vec::new()) };
    match fs::read_to_string(dir.join("cgroup.procs")) {
        Ok(text) => Ok(text.lines().filter_map(|l| l.parse().ok()).collect()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

/// Removes a group and the groups below it. Waits for processes that are already dying.
///
/// # Errors
/// A process that goes on living.
pub fn remove(cgroups: &dyn Cgroups, group: &str) -> io::Result<()> {
    let mut result = Ok(());
    for dir in cgroups.directories(group) {
        if let Err(e) = remove_tree(&dir) {
            result = Err(e);
        }
    }
    result
}

fn remove_tree(dir: &Path) -> io::Result<()> {
    let Ok(entries) = fs::read_dir(dir) else { return Ok(()) };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    let mut tries = 0;
    loop {
        match fs::remove_dir(dir) {
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) && tries < REMOVE_TRIES => tries += 1,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => return other,
        }
        std::thread::sleep(REMOVE_PAUSE);
    }
}

fn make(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// One write(2): what control files expect.
fn set(file: &Path, value: &str) -> io::Result<()> {
    use io::Write;
    fs::OpenOptions::new().write(true).open(file)?.write_all(value.as_bytes())
}

/// For limits whose file a kernel may lack (swap accounting, say).
fn set_if_there(file: &Path, value: &str) -> io::Result<()> {
    match set(file, value) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The finding of a controller that is off.
fn missing(controller: &str, how: &str) -> Finding {
    let mend = match controller {
        "memory" => {
            "on a Raspberry Pi add `cgroup_enable=memory cgroup_memory=1` to the kernel command line \
             (/boot/firmware/cmdline.txt) and restart; elsewhere build or boot a kernel with CONFIG_MEMCG"
        }
        _ => "boot a kernel with this controller and delegate it to the agent's cgroup",
    };
    Finding { what: format!("cgroup controller {controller} is off: {how}"), mend: mend.into(), fatal: false }
}

/// cpu.shares of v1 from thousandths of a core, as Kubernetes computes them.
fn shares(millis: u64) -> u64 {
    (millis * 1024 / 1000).clamp(2, 262_144)
}

/// cpu.weight of v2 from v1 shares: 2…262144 onto 1…10000.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// The quota in microseconds of a period; the kernel takes at least 1 ms.
fn quota(millis: u64) -> u64 {
    (millis * CPU_PERIOD / 1000).max(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_numbers_are_those_of_kubernetes() {
        assert_eq!((shares(0), shares(100), shares(1000)), (2, 102, 1024));
        assert_eq!((weight(2), weight(1024), weight(262_144)), (1, 39, 10_000));
        assert_eq!((quota(1), quota(500), quota(2000)), (1000, 50_000, 200_000));
    }
}
