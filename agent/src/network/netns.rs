//! Network namespaces: made on a thread of their own and kept alive by a bind mount.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::thread;

use rustix::io::Errno;
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

/// `NSFS_MAGIC` of `linux/magic.h`.
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// The namespace threads run a few system calls and no recursion.
const STACK: usize = 128 << 10;

/// Whether a namespace is pinned at this path, as opposed to an empty file of an earlier boot.
pub(crate) fn is_pinned(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|s| s.f_type as u64 == NSFS_MAGIC)
}

/// Runs `inside` on a fresh thread in a new network namespace, pinned at `pin` first. `before` runs on
/// that thread while it is still in the caller's namespace: a socket it opens stays there.
///
/// The pin is left behind when `inside` fails; [`unpin`] removes it.
pub(crate) fn make<B, R, E>(
    pin: &Path,
    before: impl FnOnce() -> Result<B, E> + Send,
    inside: impl FnOnce(B) -> Result<R, E> + Send,
) -> Result<R, E>
where
    R: Send,
    E: From<io::Error> + Send,
{
    on_thread(|| {
        let before = before()?;
        File::create(pin)?;
        // Deprecated for the sake of UnshareFlags::FILES, which is not used here.
        #[allow(deprecated)]
        rustix::thread::unshare(UnshareFlags::NEWNET).map_err(io::Error::from)?;
        mount_bind("/proc/thread-self/ns/net", pin).map_err(io::Error::from)?;
        inside(before)
    })
}

/// Runs `inside` on a fresh thread in the namespace pinned at `pin`.
///
/// # Errors
/// When nothing is pinned there or it cannot be entered; otherwise what `inside` returns.
pub fn enter<R: Send>(pin: &Path, inside: impl FnOnce() -> R + Send) -> io::Result<R> {
    let namespace = File::open(pin)?;
    on_thread(|| {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(inside())
    })
}

fn on_thread<R: Send, E: From<io::Error> + Send>(run: impl FnOnce() -> Result<R, E> + Send) -> Result<R, E> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("netns".into()).stack_size(STACK).spawn_scoped(scope, run)?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Moves a pin to another path. A bind mount and an unmount, because the kernel refuses to move a mount
/// under a shared one. A second call after a crash between the steps finishes the first.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    if !is_pinned(to) {
        File::create(to)?;
        mount_bind(from, to)?;
    }
    unpin(from)
}

/// Removes a pin; one that is not there is no error. The namespace lives on as long as a process is in it.
pub(crate) fn unpin(path: &Path) -> io::Result<()> {
    while is_pinned(path) {
        unmount(path, UnmountFlags::DETACH)?;
    }
    match fs::remove_file(path) {
        Err(e) if e.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => Ok(()),
        other => other,
    }
}
