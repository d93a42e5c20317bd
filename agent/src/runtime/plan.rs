//! From a container's spec to the steps that its pause carries out. Pure.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use coracle_pause as wire;
use wire::{Root, Step, Tree};

use super::cgroup::{Entry, View};
use super::{ContainerSpec, Error, MountSource, Propagation, Rootfs, Seccomp, capabilities, seccomp};

// mount(2)
const MS_RDONLY: u32 = 1;
const MS_NOSUID: u32 = 2;
const MS_NODEV: u32 = 4;
const MS_NOEXEC: u32 = 8;
const MS_REMOUNT: u32 = 32;
const MS_STRICTATIME: u32 = 1 << 24;
const MS_PRIVATE: u32 = 1 << 18;
const MS_SLAVE: u32 = 1 << 19;
const MS_SHARED: u32 = 1 << 20;
// mount_setattr(2)
const MOUNT_ATTR_RDONLY: u32 = 1;
const MOUNT_ATTR_NOSUID: u32 = 2;
const MOUNT_ATTR_NODEV: u32 = 4;
const MOUNT_ATTR_NOEXEC: u32 = 8;

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Bind-mounted from the node: the container's other mounts are `nodev`, so that a node made with
/// CAP_MKNOD opens nothing.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What a container's plan depends on beside its spec.
pub struct Surroundings<'a> {
    pub entry: &'a Entry,
    pub view: &'a View,
    /// `upper` and `work` directories, for an overlay.
    pub upper: PathBuf,
    pub work: PathBuf,
    pub log: wire::Log<CString>,
    /// The termination message's file on the node.
    pub termination_log: Option<PathBuf>,
    /// The pod's shared `/dev/shm` on the node, or the node's own with `hostIPC`.
    pub shm: Option<PathBuf>,
    pub host_pid: bool,
    /// For privileged containers: device nodes of the node as (path, mode, major, minor).
    pub devices: &'a [(String, u32, u32, u32)],
    /// The home directory of the container's user, by its image.
    pub home: String,
}

/// # Errors
/// [`Error::Invalid`] for what no container can be.
pub fn start(spec: &ContainerSpec, around: &Surroundings) -> Result<wire::Start<CString>, Error> {
    let mut build = Build { spec, around, trees: Vec::new(), steps: Vec::new() };
    let root = build.root()?;
    build.system();
    build.devices()?;
    build.cgroups();
    build.volumes()?;
    if !spec.security.privileged && !spec.security.unmasked {
        build.steps.extend(MASKED.iter().map(|p| Step::Mask { path: plain(p) }));
        build.steps.extend(READ_ONLY.iter().map(|p| Step::ReadOnly { path: plain(p) }));
    }
    let path = |p: &PathBuf| c_path(p);
    Ok(wire::Start {
        id: text(&spec.id.to_string())?,
        namespaces: wire::unshare::CGROUP | if around.host_pid { 0 } else { wire::unshare::PID },
        join: around.entry.join.iter().map(path).collect::<Result<_, _>>()?,
        into: around.entry.into.as_ref().map(path).transpose()?,
        oom_file: around.entry.oom_file.as_ref().map(path).transpose()?,
        kill_file: around.entry.kill_file.as_ref().filter(|_| around.host_pid).map(path).transpose()?,
        oom_score_adj: spec.security.oom_score_adj,
        trees: build.trees,
        root,
        steps: build.steps,
        read_only_root: spec.security.read_only_root,
        log: around.log.clone(),
        stdin: spec.stdin as u8,
        process: process(spec, &around.home)?,
    })
}

fn process(spec: &ContainerSpec, home: &str) -> Result<wire::Process<CString>, Error> {
    if spec.argv.first().is_none_or(|a| a.is_empty()) {
        return Err(Error::Invalid("no command: neither the pod nor the image names one".into()));
    }
    let set = capabilities::wanted(&spec.security)?;
    let unconfined = spec.security.privileged || spec.security.seccomp == Seccomp::Unconfined;
    let mut env = environment(&spec.env)?;
    let has = |name: &str| spec.env.iter().any(|(n, _)| n == name);
    if !has("PATH") {
        env.push(text(&format!("PATH={DEFAULT_PATH}"))?);
    }
    if !has("HOME") {
        env.push(text(&format!("HOME={home}"))?);
    }
    Ok(wire::Process {
        argv: spec.argv.iter().map(|a| text(a)).collect::<Result<_, _>>()?,
        env,
        cwd: text(if spec.cwd.is_empty() { "/" } else { &spec.cwd })?,
        uid: spec.user.uid,
        gid: spec.user.gid,
        groups: spec.user.groups.clone(),
        capabilities: set,
        no_new_privileges: spec.security.no_new_privileges,
        seccomp: if unconfined { Vec::new() } else { seccomp::default_filter(set) },
    })
}

/// `NAME=value` strings.
///
/// # Errors
/// [`Error::Invalid`] for a NUL byte or a name that cannot be one.
pub fn environment(env: &[(String, String)]) -> Result<Vec<CString>, Error> {
    env.iter()
        .map(|(name, value)| match name.is_empty() || name.contains('=') {
            true => Err(Error::Invalid(format!("environment variable name {name:?}"))),
            false => text(&format!("{name}={value}")),
        })
        .collect()
}

/// # Errors
/// [`Error::Invalid`] for a NUL byte.
pub fn text(s: &str) -> Result<CString, Error> {
    CString::new(s).map_err(|_| Error::Invalid(format!("{s:?} holds a NUL byte")))
}

pub fn c_path(path: &Path) -> Result<CString, Error> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Error::Invalid(format!("{path:?} holds a NUL byte")))
}

/// Of a constant: holds no NUL byte.
fn plain(s: &str) -> CString {
    CString::new(s).unwrap_or_default()
}

struct Build<'a> {
    spec: &'a ContainerSpec,
    around: &'a Surroundings<'a>,
    trees: Vec<Tree<CString>>,
    steps: Vec<Step<CString>>,
}

impl Build<'_> {
    fn tree(&mut self, path: CString, sub_path: Option<CString>, recursive: bool, shared: bool) -> u32 {
        self.trees.push(Tree { path, sub_path, recursive, shared });
        self.trees.len() as u32 - 1
    }

    /// Devices work only where the node's own are bound, unless the container may do anything.
    fn no_devices(&self) -> u32 {
        if self.spec.security.privileged { 0 } else { MOUNT_ATTR_NODEV }
    }

    fn root(&mut self) -> Result<Root<CString>, Error> {
        let attributes = self.no_devices();
        match &self.spec.rootfs {
            Rootfs::Directory(path) => {
                let index = self.tree(c_path(path)?, None, true, false);
                Ok(Root::Tree { index, attributes })
            }
            Rootfs::Overlay { lowers, .. } => {
                let base = common_directory(lowers)
                    .ok_or_else(|| Error::Invalid("an overlay needs layers with absolute paths".into()))?;
                let lowers =
                    lowers.iter().map(|l| c_path(l.strip_prefix(&base).unwrap_or(l))).collect::<Result<Vec<_>, _>>()?;
                let (upper, work) = (c_path(&self.around.upper)?, c_path(&self.around.work)?);
                Ok(Root::Overlay { base: c_path(&base)?, lowers, upper, work, attributes })
            }
        }
    }

    fn mount(&mut self, kind: &str, path: &str, flags: u32, data: &str) {
        self.steps.push(Step::Mount { kind: plain(kind), path: plain(path), flags, data: plain(data) });
    }

    fn system(&mut self) {
        let locked = MS_NOSUID | MS_NODEV | MS_NOEXEC;
        let read_only = if self.spec.security.privileged { 0 } else { MS_RDONLY };
        self.mount("proc", "/proc", locked, "");
        self.mount("sysfs", "/sys", locked | read_only, "");
    }

    fn devices(&mut self) -> Result<(), Error> {
        let privileged = self.spec.security.privileged;
        let no_devices = if privileged { 0 } else { MS_NODEV };
        self.mount("tmpfs", "/dev", MS_NOSUID | MS_STRICTATIME | no_devices, "mode=755,size=65536k");
        if privileged {
            for (path, mode, major, minor) in self.around.devices {
                self.steps.push(Step::Node { path: text(path)?, mode: *mode, major: *major, minor: *minor });
            }
        } else {
            for name in DEVICES {
                let path = plain(&format!("/dev/{name}"));
                let tree = self.tree(path.clone(), None, false, false);
                let attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC;
                self.steps.push(Step::Attach { tree, path, attributes, propagation: MS_PRIVATE });
            }
        }
        for (path, target) in [
            ("/dev/fd", "/proc/self/fd"),
            ("/dev/stdin", "/proc/self/fd/0"),
            ("/dev/stdout", "/proc/self/fd/1"),
            ("/dev/stderr", "/proc/self/fd/2"),
            ("/dev/ptmx", "pts/ptmx"),
        ] {
            self.steps.push(Step::Symlink { path: plain(path), target: plain(target) });
        }
        for path in ["/dev/pts", "/dev/shm", "/dev/mqueue"] {
            self.steps.push(Step::Directory { path: plain(path), mode: 0o755 });
        }
        // Not nodev: the terminals are its content.
        self.mount("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5");
        let locked = MS_NOSUID | MS_NODEV | MS_NOEXEC;
        self.mount("mqueue", "/dev/mqueue", locked, "");
        match &self.around.shm {
            None => self.mount("tmpfs", "/dev/shm", locked, "mode=1777,size=65536k"),
            Some(path) => {
                let tree = self.tree(c_path(path)?, None, false, false);
                let attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
                let path = plain("/dev/shm");
                self.steps.push(Step::Attach { tree, path, attributes, propagation: MS_PRIVATE });
            }
        }
        Ok(())
    }

    fn cgroups(&mut self) {
        let locked = MS_NOSUID | MS_NODEV | MS_NOEXEC;
        let read_only = if self.spec.security.privileged { 0 } else { MS_RDONLY };
        match self.around.view {
            View::Unified => self.mount("cgroup2", "/sys/fs/cgroup", locked | read_only, ""),
            View::Controllers(options) => {
                self.mount("tmpfs", "/sys/fs/cgroup", locked, "mode=755,size=16k");
                for option in options {
                    self.mount("cgroup", &format!("/sys/fs/cgroup/{option}"), locked | read_only, option);
                }
                self.mount("tmpfs", "/sys/fs/cgroup", locked | read_only | MS_REMOUNT, "mode=755,size=16k");
            }
        }
    }

    fn volumes(&mut self) -> Result<(), Error> {
        for mount in &self.spec.mounts {
            if !mount.target.starts_with('/') {
                return Err(Error::Invalid(format!("mount path {:?} is not absolute", mount.target)));
            }
            let path = text(&mount.target)?;
            let read_only = |flag| if mount.read_only { flag } else { 0 };
            match &mount.source {
                MountSource::Bind { path: source, sub_path, propagation } => {
                    let sub_path = sub_path.as_ref().filter(|s| !s.is_empty()).map(|s| text(s)).transpose()?;
                    let shared = *propagation == Propagation::Bidirectional;
                    let tree = self.tree(c_path(source)?, sub_path, true, shared);
                    let attributes = self.no_devices() | read_only(MOUNT_ATTR_RDONLY);
                    let propagation = match propagation {
                        Propagation::None => MS_PRIVATE,
                        Propagation::HostToContainer => MS_SLAVE,
                        Propagation::Bidirectional => MS_SHARED,
                    };
                    self.steps.push(Step::Attach { tree, path, attributes, propagation });
                }
                MountSource::Tmpfs { size, mode } => {
                    let size = size.map(|bytes| format!(",size={bytes}")).unwrap_or_default();
                    let flags = MS_NOSUID | MS_NODEV | read_only(MS_RDONLY);
                    let data = text(&format!("mode={mode:o}{size}"))?;
                    self.steps.push(Step::Mount { kind: plain("tmpfs"), path, flags, data });
                }
            }
        }
        if let (Some(file), Some(target)) = (&self.around.termination_log, &self.spec.termination_message_path) {
            let tree = self.tree(c_path(file)?, None, false, false);
            let attributes = MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC;
            let path = text(target)?;
            self.steps.push(Step::Attach { tree, path, attributes, propagation: MS_PRIVATE });
        }
        Ok(())
    }
}

/// The deepest directory above all of `paths`: names below it are short, and the kernel has 4 KiB
/// for them all on the older way to mount.
fn common_directory(paths: &[PathBuf]) -> Option<PathBuf> {
    let mut base = paths.first()?.parent()?.to_path_buf();
    for path in paths {
        while !path.starts_with(&base) {
            base = base.parent()?.to_path_buf();
        }
    }
    base.is_absolute().then_some(base)
}

/// Where a start failed, for a person: `mount /dev/shm`, `exec /bin/web`.
pub fn describe(start: &wire::Start<CString>, failure: &wire::Failure) -> String {
    let index = failure.index as usize;
    let name = |s: Option<&CString>| s.map_or_else(String::new, |s| s.to_string_lossy().into_owned());
    match failure.stage {
        wire::Stage::Tree => name(start.trees.get(index).map(|t| &t.path)),
        wire::Stage::Step => name(start.steps.get(index).map(step_path)),
        wire::Stage::Cwd => name(Some(&start.process.cwd)),
        wire::Stage::Exec => name(start.process.argv.first()),
        wire::Stage::Cgroup => name(start.join.get(index).or(start.into.as_ref())),
        wire::Stage::Log => name(Some(&start.log.path)),
        wire::Stage::User => format!("{}:{}", start.process.uid, start.process.gid),
        wire::Stage::Lost if failure.index == 137 => "killed while it was being set up".into(),
        _ => name(Some(&start.id)),
    }
}

fn step_path(step: &Step<CString>) -> &CString {
    match step {
        Step::Directory { path, .. }
        | Step::Symlink { path, .. }
        | Step::Node { path, .. }
        | Step::Mount { path, .. }
        | Step::Attach { path, .. }
        | Step::Mask { path }
        | Step::ReadOnly { path } => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_share_the_deepest_directory() {
        let check = |paths: &[&str], expect: Option<&str>| {
            let paths: Vec<_> = paths.iter().map(PathBuf::from).collect();
            assert_eq!(common_directory(&paths), expect.map(PathBuf::from));
        };
        check(&["/l/a", "/l/b"], Some("/l"));
        check(&["/l/a/fs", "/l/b/fs"], Some("/l"));
        check(&["/l/a", "/m/b"], Some("/"));
        check(&[], None);
        check(&["a"], None);
    }

    #[test]
    fn environment_names_are_checked() {
        assert!(environment(&[("A".into(), "b=c".into())]).unwrap() == [c"A=b=c".to_owned()]);
        assert!(environment(&[("A=B".into(), String::new())]).is_err());
        assert!(environment(&[("A".into(), "\0".into())]).is_err());
    }
}
