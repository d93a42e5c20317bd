//! What a container's process does between its clone and its execve.
//!
//! It runs in a copy of the pause and answers only by failing: the first error goes back through
//! the status pipe with the step at which it struck.

use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;

use coracle_pause::{Failure, Process, Root, Stage, Start, Step, Tree, unshare};

use crate::sys::{self, Errno};

/// Standard input, output and error of a new process; `None` keeps `/dev/null`.
pub type Stdio = [Option<OwnedFd>; 3];

const MOUNT_ATTR_RDONLY: u32 = 1;
const MOUNT_ATTR_NOSUID: u32 = 2;
const MOUNT_ATTR_NODEV: u32 = 4;
const MOUNT_ATTR_NOEXEC: u32 = 8;

const MS_RDONLY: u32 = 1;
const MS_NOSUID: u32 = 2;
const MS_NODEV: u32 = 4;
const MS_NOEXEC: u32 = 8;
const MS_REMOUNT: u32 = 32;
const MS_BIND: u32 = 4096;
const MS_REC: u32 = 16384;
const MS_SLAVE: u32 = 1 << 19;

fn at(stage: Stage, index: usize) -> impl Fn(Errno) -> Failure {
    move |errno| Failure { stage, errno, index: index as u32 }
}

/// Becomes the container's first process.
pub fn container(start: &Start<&CStr>, stdio: Stdio, ready: impl FnOnce()) -> Failure {
    match prepare(start, &stdio) {
        Ok(()) => finish(&start.process, ready),
        Err(failure) => failure,
    }
}

/// Becomes a process beside the first one, whose namespaces `namespaces` names.
pub fn exec(
    process: &Process<&CStr>,
    join: &[CString],
    target: &OwnedFd,
    flags: u32,
    oom_score_adj: Option<i32>,
    stdio: Stdio,
    ready: impl FnOnce(),
) -> Failure {
    let inside = || {
        join_cgroups(join)?;
        adjust_oom(oom_score_adj);
        let cgroup = if flags & unshare::CGROUP != 0 { libc::CLONE_NEWCGROUP } else { 0 };
        sys::setns(target, libc::CLONE_NEWNS | cgroup).map_err(at(Stage::Namespace, 0))?;
        take_stdio(&stdio)
    };
    match inside() {
        Ok(()) => finish(process, ready),
        Err(failure) => failure,
    }
}

fn prepare(start: &Start<&CStr>, stdio: &Stdio) -> Result<(), Failure> {
    join_cgroups(&start.join)?;
    adjust_oom(start.oom_score_adj);
    if start.namespaces & unshare::CGROUP != 0 {
        sys::unshare(libc::CLONE_NEWCGROUP).map_err(at(Stage::Namespace, 0))?;
    }
    let mut trees = Vec::with_capacity(start.trees.len());
    for (i, tree) in start.trees.iter().enumerate() {
        trees.push(open_tree(tree).map_err(at(Stage::Tree, i))?);
    }
    seal_mounts().map_err(at(Stage::Root, 0))?;
    let root = make_root(start, &trees)?;
    // From a chroot, a pivot would leave the machine's root in the namespace, for exec to land in.
    let pivot = || sys::leave_chroot().and_then(|()| sys::fchdir(&root)).and_then(|()| sys::pivot_here());
    pivot().map_err(at(Stage::Pivot, 0))?;
    for (i, step) in start.steps.iter().enumerate() {
        carry_out(step, &trees, &root).map_err(at(Stage::Step, i))?;
    }
    if start.read_only_root {
        set_attributes(&root, c"/", false, MOUNT_ATTR_RDONLY, 0).map_err(at(Stage::ReadOnlyRoot, 0))?;
    }
    take_stdio(stdio)
}

/// What happens to mounts from here on stays in this namespace: in the whole of it, though the node's
/// paths may be those of a chroot, which need not even be a mount.
fn seal_mounts() -> Result<(), Errno> {
    let node = sys::open(c"/", libc::O_PATH | libc::O_DIRECTORY, 0)?;
    sys::leave_chroot()?;
    sys::mount(c"", c"/", c"", MS_REC | MS_SLAVE, c"")?;
    sys::fchdir(&node).and_then(|()| sys::chroot_here())
}

/// Writing 0 to a v1 `tasks` file moves the caller alone, without the kernel's global lock that
/// `cgroup.procs` takes for milliseconds; the caller has one thread.
fn join_cgroups<S: AsRef<CStr>>(files: &[S]) -> Result<(), Failure> {
    for (i, file) in files.iter().enumerate() {
        sys::write_file(file.as_ref(), b"0").map_err(at(Stage::Cgroup, i))?;
    }
    Ok(())
}

/// Lowering it needs CAP_SYS_RESOURCE, which a node in a container lacks: then it stays.
fn adjust_oom(score: Option<i32>) {
    if let Some(score) = score {
        let _ = sys::write_file(c"/proc/self/oom_score_adj", score.to_string().as_bytes());
    }
}

fn open_tree(tree: &Tree<&CStr>) -> Result<OwnedFd, Errno> {
    let Some(sub_path) = tree.sub_path else {
        return sys::clone_tree(tree.path, tree.recursive);
    };
    let base = sys::open(tree.path, libc::O_PATH | libc::O_DIRECTORY, 0)?;
    let inside = match sys::open_in_root(&base, sub_path, libc::O_PATH) {
        Err(libc::ENOENT) => make_inside(base, sub_path),
        other => other,
    };
    sys::clone_tree_of(&inside?, tree.recursive)
}

/// Makes each missing directory of `path` below `base`, never leaving it.
fn make_inside(base: OwnedFd, path: &CStr) -> Result<OwnedFd, Errno> {
    let mut dir = sys::open_in_root(&base, c".", libc::O_PATH | libc::O_DIRECTORY)?;
    let mut so_far = Vec::new();
    for part in path.to_bytes().split(|b| *b == b'/').filter(|part| !part.is_empty()) {
        so_far.push(b'/');
        so_far.extend_from_slice(part);
        let name = CString::new(part).map_err(|_| libc::EINVAL)?;
        let whole = CString::new(so_far.as_slice()).map_err(|_| libc::EINVAL)?;
        dir = match sys::open_in_root(&base, &whole, libc::O_PATH | libc::O_DIRECTORY) {
            Err(libc::ENOENT) => {
                sys::mkdir_at(&dir, &name, 0o755)?;
                sys::open_in_root(&base, &whole, libc::O_PATH | libc::O_DIRECTORY)?
            }
            other => other?,
        };
    }
    Ok(dir)
}

/// Mounts the root over the directory that it comes from, which is opened anew: a descriptor of the
/// pause's own belongs to the node's mount namespace.
fn make_root(start: &Start<&CStr>, trees: &[OwnedFd]) -> Result<OwnedFd, Failure> {
    let below = |path: &CStr| sys::open(path, libc::O_PATH | libc::O_DIRECTORY, 0);
    match &start.root {
        Root::Tree { index, attributes } => {
            let i = *index as usize;
            let tree = trees.get(i).ok_or(Failure { stage: Stage::Request, errno: libc::EINVAL, index: *index })?;
            let fail = at(Stage::Root, i);
            sys::mount_setattr(tree, true, *attributes, MS_SLAVE).or_else(ignore_missing_call).map_err(&fail)?;
            below(start.trees[i].path).and_then(|place| sys::move_mount(tree, &place)).map_err(&fail)?;
            tree.try_clone().map_err(|_| fail(libc::EMFILE))
        }
        Root::Overlay { base, lowers, upper, work, attributes } => {
            let fail = at(Stage::Root, 0);
            sys::chdir(base).map_err(&fail)?;
            match overlay(lowers, upper, work, *attributes) {
                Ok(mount) => {
                    below(c".").and_then(|place| sys::move_mount(&mount, &place)).map_err(&fail)?;
                    Ok(mount)
                }
                // `lowerdir+` came with Linux 6.5.
                Err(libc::EINVAL) => legacy_overlay(lowers, upper, work, *attributes).map_err(&fail),
                Err(errno) => Err(fail(errno)),
            }
        }
    }
}

/// Before Linux 5.12 flags are set by a remount once the mount is attached.
fn ignore_missing_call(errno: Errno) -> Result<(), Errno> {
    if errno == libc::ENOSYS { Ok(()) } else { Err(errno) }
}

fn overlay(lowers: &[&CStr], upper: &CStr, work: &CStr, attributes: u32) -> Result<OwnedFd, Errno> {
    let context = sys::fsopen(c"overlay")?;
    for lower in lowers {
        sys::fsconfig_string(&context, c"lowerdir+", lower)?;
    }
    sys::fsconfig_string(&context, c"upperdir", upper)?;
    sys::fsconfig_string(&context, c"workdir", work)?;
    // The upper directory does not outlive the boot: nothing of it needs to reach the disk.
    sys::fsconfig_flag(&context, c"volatile")?;
    sys::fsconfig_create(&context)?;
    sys::fsmount(&context, attributes)
}

fn legacy_overlay(lowers: &[&CStr], upper: &CStr, work: &CStr, attributes: u32) -> Result<OwnedFd, Errno> {
    let mut data = b"volatile,lowerdir=".to_vec();
    data.extend_from_slice(&lowers.iter().map(|l| l.to_bytes()).collect::<Vec<_>>().join(&b':'));
    for (key, value) in [(&b",upperdir="[..], upper), (b",workdir=", work)] {
        data.extend_from_slice(key);
        data.extend_from_slice(value.to_bytes());
    }
    // The kernel cuts options at a page without a word.
    if data.len() >= 4096 {
        return Err(libc::E2BIG);
    }
    let data = CString::new(data).map_err(|_| libc::EINVAL)?;
    sys::mount(c"overlay", upper, c"overlay", flags_of(attributes), &data)?;
    sys::open(upper, libc::O_PATH | libc::O_DIRECTORY, 0)
}

/// MOUNT_ATTR_* as MS_*.
fn flags_of(attributes: u32) -> u32 {
    let pairs = [
        (MOUNT_ATTR_RDONLY, MS_RDONLY),
        (MOUNT_ATTR_NOSUID, MS_NOSUID),
        (MOUNT_ATTR_NODEV, MS_NODEV),
        (MOUNT_ATTR_NOEXEC, MS_NOEXEC),
    ];
    pairs.iter().filter(|(attribute, _)| attributes & attribute != 0).fold(0, |flags, (_, flag)| flags | flag)
}

/// On an attached mount that is also reachable as `path`.
fn set_attributes(mount: &OwnedFd, path: &CStr, recursive: bool, set: u32, propagation: u32) -> Result<(), Errno> {
    match sys::mount_setattr(mount, recursive, set, propagation) {
        Err(libc::ENOSYS) => {
            if propagation != 0 {
                sys::mount(c"", path, c"", propagation | MS_REC, c"")?;
            }
            sys::mount(c"", path, c"", MS_REMOUNT | MS_BIND | flags_of(set), c"")
        }
        other => other,
    }
}

fn carry_out(step: &Step<&CStr>, trees: &[OwnedFd], root: &OwnedFd) -> Result<(), Errno> {
    match step {
        Step::Directory { path, mode } => match sys::mkdir(path, *mode) {
            Err(libc::EEXIST) => Ok(()),
            Err(libc::ENOENT) => make_directories(path, *mode),
            other => other,
        },
        Step::Symlink { path, target } => match sys::symlink(target, path) {
            Err(libc::EEXIST) => Ok(()),
            other => other,
        },
        Step::Node { path, mode, major, minor } => match sys::mknod(path, *mode, *major, *minor) {
            Err(libc::ENOENT) => {
                make_parents(path)?;
                sys::mknod(path, *mode, *major, *minor)
            }
            other => other,
        },
        Step::Mount { kind, path, flags, data } => match sys::mount(kind, path, kind, *flags, data) {
            Err(libc::ENOENT) => {
                make_directories(path, 0o755)?;
                sys::mount(kind, path, kind, *flags, data)
            }
            other => other,
        },
        Step::Attach { tree, path, attributes, propagation } => {
            let tree = trees.get(*tree as usize).ok_or(libc::EINVAL)?;
            attach(tree, path, *attributes, *propagation, root)
        }
        Step::Mask { path } => match sys::mount(c"/dev/null", path, c"", MS_BIND, c"") {
            Err(libc::ENOENT) => Ok(()),
            Err(libc::ENOTDIR) => {
                let flags = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC;
                match sys::mount(c"tmpfs", path, c"tmpfs", flags, c"size=0k") {
                    // A part of the path is no directory: there is nothing to cover.
                    Err(libc::ENOTDIR) => Ok(()),
                    other => other,
                }
            }
            other => other,
        },
        Step::ReadOnly { path } => match sys::mount(path, path, c"", MS_BIND | MS_REC, c"") {
            Err(libc::ENOENT | libc::ENOTDIR) => Ok(()),
            Err(errno) => Err(errno),
            Ok(()) => {
                let flags = MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC;
                sys::mount(c"", path, c"", flags, c"")
            }
        },
    }
}

fn attach(tree: &OwnedFd, path: &CStr, attributes: u32, propagation: u32, root: &OwnedFd) -> Result<(), Errno> {
    let target = match sys::open_in_root(root, path, libc::O_PATH) {
        Err(libc::ENOENT) => {
            if sys::is_directory(tree)? {
                make_directories(path, 0o755)?;
            } else {
                make_parents(path)?;
                sys::open(path, libc::O_CREAT | libc::O_WRONLY | libc::O_NOFOLLOW, 0o644)?;
            }
            sys::open_in_root(root, path, libc::O_PATH)?
        }
        other => other?,
    };
    match sys::mount_setattr(tree, true, attributes, propagation) {
        Err(libc::ENOSYS) => {
            sys::move_mount(tree, &target)?;
            set_attributes(tree, path, true, attributes, propagation)
        }
        other => other.and_then(|()| sys::move_mount(tree, &target)),
    }
}

fn make_parents(path: &CStr) -> Result<(), Errno> {
    let bytes = path.to_bytes();
    match bytes.iter().rposition(|b| *b == b'/') {
        None | Some(0) => Ok(()),
        Some(end) => make_directories(&CString::new(&bytes[..end]).map_err(|_| libc::EINVAL)?, 0o755),
    }
}

fn make_directories(path: &CStr, mode: u32) -> Result<(), Errno> {
    match sys::mkdir(path, mode) {
        Err(libc::EEXIST) => Ok(()),
        Err(libc::ENOENT) => {
            make_parents(path)?;
            match sys::mkdir(path, mode) {
                Err(libc::EEXIST) => Ok(()),
                other => other,
            }
        }
        other => other,
    }
}

fn take_stdio(stdio: &Stdio) -> Result<(), Failure> {
    sys::setsid();
    for (number, file) in stdio.iter().enumerate() {
        if let Some(file) = file {
            sys::dup_to(file, number as i32).map_err(at(Stage::Log, number))?;
        }
    }
    Ok(())
}

/// Drops every privilege that the process is not to have, and execs.
fn finish(process: &Process<&CStr>, ready: impl FnOnce()) -> Failure {
    match confine(process) {
        Ok(()) => {
            sys::close_on_exec_from(3);
            sys::unblock_signals();
            ready();
            at(Stage::Exec, 0)(execute(process))
        }
        Err(failure) => failure,
    }
}

fn confine(process: &Process<&CStr>) -> Result<(), Failure> {
    sys::umask(0o022);
    if !process.cwd.is_empty() {
        let moved = match sys::chdir(process.cwd) {
            Err(libc::ENOENT) => make_directories(process.cwd, 0o755).and_then(|()| sys::chdir(process.cwd)),
            other => other,
        };
        moved.map_err(at(Stage::Cwd, 0))?;
    }
    let held = sys::permitted_capabilities().map_err(at(Stage::Capabilities, 0))?;
    let kept = process.capabilities & held;
    for capability in (0..64).filter(|c| held >> c & 1 == 1 && kept >> c & 1 == 0) {
        sys::drop_from_bounding_set(capability).map_err(at(Stage::Capabilities, capability as usize))?;
    }
    sys::set_groups(&process.groups).map_err(at(Stage::User, 1))?;
    sys::set_gid(process.gid).map_err(at(Stage::User, 2))?;
    // Without no_new_privs a filter needs CAP_SYS_ADMIN, so it comes before the capabilities go.
    if process.no_new_privileges {
        sys::set_no_new_privileges().map_err(at(Stage::Capabilities, 64))?;
    }
    if !process.seccomp.is_empty() {
        sys::set_seccomp(&process.seccomp).map_err(at(Stage::Seccomp, 0))?;
    }
    sys::set_uid(process.uid).map_err(at(Stage::User, 0))?;
    // Anyone but root loses its sets by the change of user; execve gives root the bounding set.
    let set = if process.uid == 0 { kept } else { 0 };
    sys::set_capabilities(set).map_err(at(Stage::Capabilities, 65))
}

/// execvpe with the container's own PATH.
fn execute(process: &Process<&CStr>) -> Errno {
    let pointers = |list: &[&CStr]| -> Vec<_> { list.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect() };
    let (argv, env) = (pointers(&process.argv), pointers(&process.env));
    let Some(program) = process.argv.first() else {
        return libc::EINVAL;
    };
    if program.to_bytes().contains(&b'/') {
        return sys::execve(program, &argv, &env);
    }
    let path = process.env.iter().find_map(|e| e.to_bytes().strip_prefix(b"PATH="));
    let mut result = libc::ENOENT;
    for dir in path.unwrap_or(b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").split(|b| *b == b':') {
        let mut whole = if dir.is_empty() { b".".to_vec() } else { dir.to_vec() };
        whole.push(b'/');
        whole.extend_from_slice(program.to_bytes_with_nul());
        if let Ok(candidate) = CStr::from_bytes_with_nul(&whole) {
            match sys::execve(candidate, &argv, &env) {
                libc::ENOENT | libc::ENOTDIR => {}
                libc::EACCES => result = libc::EACCES,
                errno => return errno,
            }
        }
    }
    result
}
