//! The mount calls, old and new.

use std::ffi::CStr;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::ptr;

use libc::{c_char, c_long, c_void};

use super::{Result, check, done, fd};

// Calls newer than 5.0 have one number on every architecture.
const SYS_OPEN_TREE: c_long = 428;
const SYS_MOVE_MOUNT: c_long = 429;
const SYS_FSOPEN: c_long = 430;
const SYS_FSCONFIG: c_long = 431;
const SYS_FSMOUNT: c_long = 432;
const SYS_MOUNT_SETATTR: c_long = 442;
const OPEN_TREE_CLONE: u32 = 1;
const AT_RECURSIVE: u32 = 0x8000;

/// open_tree(2) with OPEN_TREE_CLONE of a path.
pub fn clone_tree(path: &CStr, recursive: bool) -> Result<OwnedFd> {
    tree(libc::AT_FDCWD, path, recursive)
}

/// The same of an open file or directory.
pub fn clone_tree_of(file: &OwnedFd, recursive: bool) -> Result<OwnedFd> {
    tree(file.as_raw_fd(), c"", recursive)
}

fn tree(dir: RawFd, path: &CStr, recursive: bool) -> Result<OwnedFd> {
    let mut flags = OPEN_TREE_CLONE | libc::O_CLOEXEC as u32 | libc::AT_EMPTY_PATH as u32;
    if recursive {
        flags |= AT_RECURSIVE;
    }
    // SAFETY: a C string that outlives the call.
    fd(unsafe { libc::syscall(SYS_OPEN_TREE, dir, path.as_ptr(), flags) })
}

/// Attaches a detached mount on top of an open file or directory.
pub fn move_mount(mount: &OwnedFd, target: &OwnedFd) -> Result<()> {
    const EMPTY_PATHS: u32 = 0x4 | 0x40;
    let empty = c"".as_ptr();
    // SAFETY: C strings that outlive the call.
    let result =
        unsafe { libc::syscall(SYS_MOVE_MOUNT, mount.as_raw_fd(), empty, target.as_raw_fd(), empty, EMPTY_PATHS) };
    check(result).map(drop)
}

#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// mount_setattr(2) on an open mount. ENOSYS before Linux 5.12.
pub fn mount_setattr(mount: &OwnedFd, recursive: bool, set: u32, propagation: u32) -> Result<()> {
    let attr = MountAttr { set: set as u64, clear: 0, propagation: propagation as u64, user_namespace: 0 };
    let flags = libc::AT_EMPTY_PATH as u32 | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: `attr` outlives the call; the size is that of `attr`.
    let result = unsafe {
        libc::syscall(
            SYS_MOUNT_SETATTR,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            mem::size_of::<MountAttr>(),
        )
    };
    check(result).map(drop)
}

pub fn mount(source: &CStr, target: &CStr, kind: &CStr, flags: u32, data: &CStr) -> Result<()> {
    let data = if data.is_empty() { ptr::null() } else { data.as_ptr().cast::<c_void>() };
    // SAFETY: C strings that outlive the call.
    done(unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags as libc::c_ulong, data) })
}

pub fn fsopen(kind: &CStr) -> Result<OwnedFd> {
    const FSOPEN_CLOEXEC: u32 = 1;
    // SAFETY: a C string that outlives the call.
    fd(unsafe { libc::syscall(SYS_FSOPEN, kind.as_ptr(), FSOPEN_CLOEXEC) })
}

pub fn fsconfig_string(context: &OwnedFd, key: &CStr, value: &CStr) -> Result<()> {
    const SET_STRING: u32 = 1;
    // SAFETY: C strings that outlive the call.
    let result =
        unsafe { libc::syscall(SYS_FSCONFIG, context.as_raw_fd(), SET_STRING, key.as_ptr(), value.as_ptr(), 0) };
    check(result).map(drop)
}

pub fn fsconfig_flag(context: &OwnedFd, key: &CStr) -> Result<()> {
    const SET_FLAG: u32 = 0;
    let none = ptr::null::<c_char>();
    // SAFETY: a C string that outlives the call.
    let result = unsafe { libc::syscall(SYS_FSCONFIG, context.as_raw_fd(), SET_FLAG, key.as_ptr(), none, 0) };
    check(result).map(drop)
}

pub fn fsconfig_create(context: &OwnedFd) -> Result<()> {
    const CREATE: u32 = 6;
    let none = ptr::null::<c_char>();
    // SAFETY: no memory is passed.
    check(unsafe { libc::syscall(SYS_FSCONFIG, context.as_raw_fd(), CREATE, none, none, 0) }).map(drop)
}

pub fn fsmount(context: &OwnedFd, attributes: u32) -> Result<OwnedFd> {
    const FSMOUNT_CLOEXEC: u32 = 1;
    // SAFETY: no memory is passed.
    fd(unsafe { libc::syscall(SYS_FSMOUNT, context.as_raw_fd(), FSMOUNT_CLOEXEC, attributes) })
}

/// Goes to the root of the caller's own mount namespace, which is another one than its root where a
/// node runs in a chroot.
pub fn leave_chroot() -> Result<()> {
    let own = super::pidfd_open(std::process::id() as i32)?;
    super::setns(&own, libc::CLONE_NEWNS)
}

/// Makes the current directory the caller's root, as it is known by path.
pub fn chroot_here() -> Result<()> {
    // SAFETY: a C string that outlives the call.
    done(unsafe { libc::chroot(c".".as_ptr()) })
}

/// Makes the current directory, a mount point, the root and drops the old one.
pub fn pivot_here() -> Result<()> {
    let here = c".".as_ptr();
    // SAFETY: C strings that outlive the call.
    check(unsafe { libc::syscall(libc::SYS_pivot_root, here, here) })?;
    // The old root now lies on top of the new one.
    // SAFETY: a C string that outlives the call.
    done(unsafe { libc::umount2(here, libc::MNT_DETACH) })
}
