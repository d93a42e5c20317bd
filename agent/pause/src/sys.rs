//! The pause's calls to the kernel. All of its `unsafe` is here.
//!
//! Thin: one call each, errors as errno. Buffers and strings are borrowed for the call only.

use std::ffi::CStr;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use libc::{c_char, c_int, c_long};

mod mount;

pub use mount::*;

pub type Errno = i32;
pub type Result<T> = std::result::Result<T, Errno>;

// Calls newer than 5.0 have one number on every architecture.
const SYS_PIDFD_OPEN: c_long = 434;
const SYS_CLONE3: c_long = 435;
const SYS_CLOSE_RANGE: c_long = 436;
const SYS_OPENAT2: c_long = 437;

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

fn errno() -> Errno {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

fn check(result: c_long) -> Result<c_long> {
    if result < 0 { Err(errno()) } else { Ok(result) }
}

fn done(result: c_int) -> Result<()> {
    check(result as c_long).map(drop)
}

fn fd(result: c_long) -> Result<OwnedFd> {
    // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
    check(result).map(|n| unsafe { OwnedFd::from_raw_fd(n as RawFd) })
}

/// Takes over a descriptor that the parent left open at a number both sides know.
pub fn inherited(number: RawFd) -> OwnedFd {
    // SAFETY: called once a number, at the start, before anything else opens descriptors.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    // SAFETY: a plain call on an open descriptor.
    unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    fd
}

#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// clone3(2) as a fork: 0 in the child. `flags` are CLONE_NEW*.
pub fn fork(flags: u64, cgroup: Option<&OwnedFd>) -> Result<i32> {
    let mut args = CloneArgs { flags, exit_signal: libc::SIGCHLD as u64, ..CloneArgs::default() };
    if let Some(dir) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = dir.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM the child has its own copy of the memory and stack; the process is
    // single-threaded, so no lock is held by a thread that the child lacks.
    let pid = unsafe { libc::syscall(SYS_CLONE3, &raw const args, mem::size_of::<CloneArgs>()) };
    check(pid).map(|n| n as i32)
}

pub fn exit_now(code: i32) -> ! {
    // SAFETY: ends the process without running anything of it.
    unsafe { libc::_exit(code) }
}

pub fn unshare(flags: c_int) -> Result<()> {
    // SAFETY: no memory is passed.
    done(unsafe { libc::unshare(flags) })
}

pub fn setns(namespace: &OwnedFd, flags: c_int) -> Result<()> {
    // SAFETY: no memory is passed.
    done(unsafe { libc::setns(namespace.as_raw_fd(), flags) })
}

pub fn pidfd_open(pid: i32) -> Result<OwnedFd> {
    // SAFETY: no memory is passed.
    fd(unsafe { libc::syscall(SYS_PIDFD_OPEN, pid, 0) })
}

pub fn kill(pid: i32, signal: c_int) -> Result<()> {
    // SAFETY: no memory is passed.
    done(unsafe { libc::kill(pid, signal) })
}

/// A child that ended: its id and wait status. `None` when none has.
pub fn reap() -> Option<(i32, i32)> {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG | libc::__WALL) };
    (pid > 0).then_some((pid, status))
}

/// Nanoseconds since the Unix epoch.
pub fn now() -> i64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` outlives the call.
    unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, &mut t) };
    // The fields' types differ between architectures.
    #[allow(clippy::unnecessary_cast)]
    let nanos = (t.tv_sec as i64) * 1_000_000_000 + t.tv_nsec as i64;
    nanos
}

// Files

pub fn open(path: &CStr, flags: c_int, mode: u32) -> Result<OwnedFd> {
    // SAFETY: `path` is a C string that outlives the call.
    fd(unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC, mode) } as c_long)
}

pub fn openat(dir: &OwnedFd, path: &CStr, flags: c_int, mode: u32) -> Result<OwnedFd> {
    // SAFETY: as `open`.
    fd(unsafe { libc::openat(dir.as_raw_fd(), path.as_ptr(), flags | libc::O_CLOEXEC, mode) } as c_long)
}

#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

const RESOLVE_NO_MAGICLINKS: u64 = 2;
const RESOLVE_IN_ROOT: u64 = 0x10;

/// openat2(2) with `dir` as the root: no `..`, link or magic link leads out of it.
pub fn open_in_root(dir: &OwnedFd, path: &CStr, flags: c_int) -> Result<OwnedFd> {
    let how =
        OpenHow { flags: (flags | libc::O_CLOEXEC) as u64, mode: 0, resolve: RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS };
    // SAFETY: path and `how` outlive the call; the size is that of `how`.
    fd(unsafe { libc::syscall(SYS_OPENAT2, dir.as_raw_fd(), path.as_ptr(), &raw const how, mem::size_of::<OpenHow>()) })
}

pub fn read(file: &OwnedFd, buffer: &mut [u8]) -> Result<usize> {
    // SAFETY: the buffer's own pointer and length.
    check(unsafe { libc::read(file.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) } as c_long)
        .map(|n| n as usize)
}

pub fn write(file: &OwnedFd, buffer: &[u8]) -> Result<usize> {
    // SAFETY: the buffer's own pointer and length.
    check(unsafe { libc::write(file.as_raw_fd(), buffer.as_ptr().cast(), buffer.len()) } as c_long).map(|n| n as usize)
}

pub fn write_file(path: &CStr, content: &[u8]) -> Result<()> {
    write(&open(path, libc::O_WRONLY, 0)?, content).map(drop)
}

/// The size of an open file; 0 when it cannot be told.
pub fn size(file: &OwnedFd) -> u64 {
    // SAFETY: no memory is passed.
    let end = unsafe { libc::lseek(file.as_raw_fd(), 0, libc::SEEK_END) };
    u64::try_from(end).unwrap_or(0)
}

pub fn rename(from: &CStr, to: &CStr) -> Result<()> {
    // SAFETY: C strings that outlive the call.
    done(unsafe { libc::rename(from.as_ptr(), to.as_ptr()) })
}

pub fn rename_at(dir: &OwnedFd, from: &CStr, to: &CStr) -> Result<()> {
    let dir = dir.as_raw_fd();
    // SAFETY: C strings that outlive the call.
    done(unsafe { libc::renameat(dir, from.as_ptr(), dir, to.as_ptr()) })
}

pub fn mkdir(path: &CStr, mode: u32) -> Result<()> {
    // SAFETY: a C string that outlives the call.
    done(unsafe { libc::mkdir(path.as_ptr(), mode as libc::mode_t) })
}

pub fn mkdir_at(dir: &OwnedFd, path: &CStr, mode: u32) -> Result<()> {
    // SAFETY: a C string that outlives the call.
    done(unsafe { libc::mkdirat(dir.as_raw_fd(), path.as_ptr(), mode as libc::mode_t) })
}

pub fn symlink(target: &CStr, path: &CStr) -> Result<()> {
    // SAFETY: C strings that outlive the call.
    done(unsafe { libc::symlink(target.as_ptr(), path.as_ptr()) })
}

pub fn mknod(path: &CStr, mode: u32, major: u32, minor: u32) -> Result<()> {
    // SAFETY: a C string that outlives the call.
    done(unsafe { libc::mknod(path.as_ptr(), mode as libc::mode_t, libc::makedev(major, minor)) })
}

pub fn is_directory(file: &OwnedFd) -> Result<bool> {
    // SAFETY: `stat` is plain data that the kernel fills.
    let mut stat: libc::stat = unsafe { mem::zeroed() };
    // SAFETY: `stat` outlives the call.
    done(unsafe { libc::fstat(file.as_raw_fd(), &mut stat) })?;
    Ok(stat.st_mode & libc::S_IFMT == libc::S_IFDIR)
}

pub fn chdir(path: &CStr) -> Result<()> {
    // SAFETY: a C string that outlives the call.
    done(unsafe { libc::chdir(path.as_ptr()) })
}

pub fn fchdir(dir: &OwnedFd) -> Result<()> {
    // SAFETY: no memory is passed.
    done(unsafe { libc::fchdir(dir.as_raw_fd()) })
}

pub fn umask(mask: u32) {
    // SAFETY: no memory is passed.
    unsafe { libc::umask(mask as libc::mode_t) };
}

pub fn sethostname(name: &CStr) -> Result<()> {
    // SAFETY: the string's own pointer and length.
    done(unsafe { libc::sethostname(name.as_ptr(), name.to_bytes().len() as _) })
}

// Credentials

pub fn set_groups(groups: &[u32]) -> Result<()> {
    // SAFETY: the slice's own pointer and length; gid_t is u32.
    done(unsafe { libc::setgroups(groups.len() as _, groups.as_ptr()) })
}

pub fn set_gid(gid: u32) -> Result<()> {
    // SAFETY: no memory is passed.
    done(unsafe { libc::setresgid(gid, gid, gid) })
}

pub fn set_uid(uid: u32) -> Result<()> {
    // SAFETY: no memory is passed.
    done(unsafe { libc::setresuid(uid, uid, uid) })
}

pub fn effective_uid() -> u32 {
    // SAFETY: no memory is passed.
    unsafe { libc::geteuid() }
}

pub fn drop_from_bounding_set(capability: u32) -> Result<()> {
    // SAFETY: no memory is passed.
    done(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability as libc::c_ulong, 0, 0, 0) })
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// The permitted set.
pub fn permitted_capabilities() -> Result<u64> {
    let header = CapHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let mut data = [CapData::default(); 2];
    // SAFETY: version 3 takes a header and two data words, which outlive the call.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()) })?;
    Ok(data[0].permitted as u64 | (data[1].permitted as u64) << 32)
}

/// Permitted and effective; inheritable empty.
pub fn set_capabilities(set: u64) -> Result<()> {
    let header = CapHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let word = |bits: u32| CapData { effective: bits, permitted: bits, inheritable: 0 };
    let data = [word(set as u32), word((set >> 32) as u32)];
    // SAFETY: version 3 takes a header and two data words, which outlive the call.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) }).map(drop)
}

pub fn set_no_new_privileges() -> Result<()> {
    // SAFETY: no memory is passed.
    done(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })
}

/// Installs a classic BPF program, 8 bytes an instruction.
pub fn set_seccomp(program: &[u8]) -> Result<()> {
    if !program.len().is_multiple_of(8) {
        return Err(libc::EINVAL);
    }
    // The kernel copies the instructions; it does not ask for alignment.
    let filter = libc::sock_fprog { len: (program.len() / 8) as u16, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: `filter` and the program outlive the call, which only reads them.
    check(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const filter) }).map(drop)
}

/// Nobody but real root may look into this process or its children before their exec.
pub fn set_not_dumpable() {
    // SAFETY: no memory is passed.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) };
}

pub fn set_child_subreaper() {
    // SAFETY: no memory is passed.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
}

pub fn set_name(name: &CStr) {
    // SAFETY: a C string that outlives the call.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) };
}

// Before exec

pub fn setsid() {
    // SAFETY: no memory is passed; fails only for a group leader, which is then one already.
    unsafe { libc::setsid() };
}

pub fn dup_to(file: &OwnedFd, number: RawFd) -> Result<()> {
    // SAFETY: no memory is passed; `number` is one of the standard three.
    done(unsafe { libc::dup2(file.as_raw_fd(), number) })
}

/// Whatever is open from `first` on closes at exec. Everything of ours is close-on-exec anyway.
pub fn close_on_exec_from(first: RawFd) {
    const CLOSE_RANGE_CLOEXEC: u32 = 4;
    // SAFETY: no memory is passed.
    unsafe { libc::syscall(SYS_CLOSE_RANGE, first, u32::MAX, CLOSE_RANGE_CLOEXEC) };
}

/// Answers only on failure.
pub fn execve(program: &CStr, argv: &[*const c_char], env: &[*const c_char]) -> Errno {
    debug_assert!(argv.last().is_some_and(|p| p.is_null()) && env.last().is_some_and(|p| p.is_null()));
    // SAFETY: both arrays end with a null pointer and hold C strings that outlive the call.
    unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    errno()
}

// Signals and events

/// Blocks every signal, ignores none, and gives SIGCHLD and SIGTERM as a descriptor.
pub fn take_signals() -> Result<OwnedFd> {
    // SAFETY: signal sets are plain data filled by the calls; the pointers outlive them.
    unsafe {
        for signal in 1..32 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut set: libc::sigset_t = mem::zeroed();
        libc::sigfillset(&mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &set, ptr::null_mut());
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGCHLD);
        fd(libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) as c_long)
    }
}

/// What a started program expects: nothing blocked.
pub fn unblock_signals() {
    // SAFETY: the set is plain data filled by the call and outlives it.
    unsafe {
        let mut set: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &set, ptr::null_mut());
    }
}

pub fn epoll() -> Result<OwnedFd> {
    // SAFETY: no memory is passed.
    fd(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) } as c_long)
}

pub fn epoll_add(epoll: &OwnedFd, file: &OwnedFd, data: u64) -> Result<()> {
    let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: data };
    // SAFETY: `event` outlives the call.
    done(unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, file.as_raw_fd(), &mut event) })
}

/// Waits without end; the events' data, as many as `events` holds.
pub fn epoll_wait(epoll: &OwnedFd, events: &mut [u64; 16]) -> usize {
    let mut raw = [libc::epoll_event { events: 0, u64: 0 }; 16];
    // SAFETY: room for the 16 events that are asked for.
    let n = unsafe { libc::epoll_wait(epoll.as_raw_fd(), raw.as_mut_ptr(), 16, -1) };
    let n = usize::try_from(n).unwrap_or(0);
    for (to, from) in events.iter_mut().zip(&raw[..n]) {
        *to = from.u64;
    }
    n
}

/// Read end, write end; the read end does not block.
pub fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    let (read, write) = blocking_pipe()?;
    // SAFETY: no memory is passed.
    unsafe { libc::fcntl(read.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
    Ok((read, write))
}

pub fn blocking_pipe() -> Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors, which nobody else owns.
    unsafe {
        done(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC))?;
        Ok((OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])))
    }
}

pub fn accept(listener: &OwnedFd) -> Result<OwnedFd> {
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no address is asked for.
    fd(unsafe { libc::accept4(listener.as_raw_fd(), ptr::null_mut(), ptr::null_mut(), flags) } as c_long)
}

/// The user at the other end of a Unix socket.
pub fn peer_uid(socket: &OwnedFd) -> Result<u32> {
    let mut peer = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut len = mem::size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: `peer` and its length outlive the call.
    done(unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, (&raw mut peer).cast(), &mut len)
    })?;
    Ok(peer.uid)
}

pub fn send(socket: &OwnedFd, bytes: &[u8]) -> Result<usize> {
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // SAFETY: the buffer's own pointer and length.
    check(unsafe { libc::send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) } as c_long)
        .map(|n| n as usize)
}

/// Reads bytes and any descriptors that came with them; 0 is the end.
pub fn receive(socket: &OwnedFd, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> Result<usize> {
    // Room for more than a frame may carry, so that nothing is cut off unseen.
    #[repr(align(8))]
    struct Control([u8; 64]);
    let mut control = Control([0; 64]);
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: `message` is plain data; its pointers are to locals that outlive the call, and the
    // control messages are walked by the C library's own macros within what the kernel filled.
    unsafe {
        let mut message: libc::msghdr = mem::zeroed();
        message.msg_iov = &mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = control.0.len() as _;
        let n = check(libc::recvmsg(socket.as_raw_fd(), &mut message, libc::MSG_CMSG_CLOEXEC) as c_long)?;
        let mut head = libc::CMSG_FIRSTHDR(&message);
        while let Some(h) = head.as_ref() {
            if h.cmsg_level == libc::SOL_SOCKET && h.cmsg_type == libc::SCM_RIGHTS {
                // Of another width in other C libraries.
                #[allow(clippy::unnecessary_cast)]
                let count = (h.cmsg_len as usize - libc::CMSG_LEN(0) as usize) / mem::size_of::<RawFd>();
                let data = libc::CMSG_DATA(head).cast::<RawFd>();
                for i in 0..count {
                    fds.push(OwnedFd::from_raw_fd(data.add(i).read_unaligned()));
                }
            }
            head = libc::CMSG_NXTHDR(&message, head);
        }
        Ok(n as usize)
    }
}
