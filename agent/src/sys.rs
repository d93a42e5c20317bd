//! The agent's calls to the kernel that no safe crate offers. All of its `unsafe` is here.

use std::ffi::CStr;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use libc::{c_char, c_int, c_long};

// Calls newer than 5.0 have one number on every architecture.
const SYS_CLONE3: c_long = 435;
const SYS_CLOSE_RANGE: c_long = 436;

const CLONE_PIDFD: u64 = 0x1000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Enough for the few calls between clone and execve.
const CHILD_STACK: usize = 64 << 10;

/// A program to start as the first process of new namespaces, without copying the agent's memory.
pub struct Spawn<'a> {
    /// An open program (a sealed memory file).
    pub program: &'a OwnedFd,
    pub argv: &'a [&'a CStr],
    /// Becomes descriptors 3 and up; 0–2 are `null`.
    pub fds: &'a [BorrowedFd<'a>],
    /// Put into listening state by the child, so that it is the peer that others see.
    pub listener: BorrowedFd<'a>,
    pub null: &'a OwnedFd,
    /// CLONE_NEW* flags.
    pub namespaces: c_int,
    /// A network namespace to enter.
    pub network: Option<BorrowedFd<'a>>,
    /// v1: open `tasks` files to write 0 to.
    pub join: &'a [OwnedFd],
    /// v2: the cgroup to be born in.
    pub into: Option<&'a OwnedFd>,
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

/// What the child needs, prepared so that it only makes system calls.
struct Child {
    program: RawFd,
    argv: Vec<*const c_char>,
    env: [*const c_char; 1],
    /// (from, to) pairs; every `from` lies above every `to`.
    dups: Vec<(RawFd, RawFd)>,
    first_closed: RawFd,
    listener: RawFd,
    network: RawFd,
    join: Vec<RawFd>,
    error: c_int,
}

/// Starts the program; answers once it has replaced the child (or failed to).
///
/// # Errors
/// That of clone3, of entering the cgroup or network namespace, or of execve.
pub fn spawn(spawn: &Spawn) -> io::Result<(u32, OwnedFd)> {
    // Copies of the child's descriptors above all of their final numbers.
    let top = 3 + spawn.fds.len() as RawFd;
    let raised = |fd: RawFd| -> io::Result<OwnedFd> {
        // SAFETY: a plain call on an open descriptor; the new one is ours.
        let n = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, top.max(16)) };
        // SAFETY: as above, checked by `owned`.
        unsafe { owned(n as c_long) }
    };
    let null = raised(spawn.null.as_raw_fd())?;
    let kept = spawn.fds.iter().map(|fd| raised(fd.as_raw_fd())).collect::<io::Result<Vec<_>>>()?;
    let mut dups: Vec<_> = (0..3).map(|n| (null.as_raw_fd(), n)).collect();
    dups.extend(kept.iter().zip(3..).map(|(fd, n)| (fd.as_raw_fd(), n)));
    let program = raised(spawn.program.as_raw_fd())?;
    let listener = raised(spawn.listener.as_raw_fd())?;
    let network = spawn.network.map(|fd| raised(fd.as_raw_fd())).transpose()?;
    let join = spawn.join.iter().map(|fd| raised(fd.as_raw_fd())).collect::<io::Result<Vec<_>>>()?;
    let mut child = Child {
        program: program.as_raw_fd(),
        argv: spawn.argv.iter().map(|a| a.as_ptr()).chain([ptr::null()]).collect(),
        env: [ptr::null()],
        dups,
        first_closed: top,
        listener: listener.as_raw_fd(),
        network: network.as_ref().map_or(-1, |fd| fd.as_raw_fd()),
        join: join.iter().map(|fd| fd.as_raw_fd()).collect(),
        error: 0,
    };
    let mut pidfd: RawFd = -1;
    let mut args = CloneArgs {
        flags: spawn.namespaces as u64 | CLONE_PIDFD,
        pidfd: (&raw mut pidfd) as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    if let Some(dir) = spawn.into {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = dir.as_raw_fd() as u64;
    }
    let blocked = BlockedSignals::new();
    // SAFETY: `child` and everything its pointers lead to live until the call is over.
    let pid = unsafe { clone_and_run(&mut args, &mut child) };
    drop(blocked);
    let pid = if pid < 0 { return Err(io::Error::from_raw_os_error(-pid as i32)) } else { pid as i32 };
    // SAFETY: CLONE_PIDFD has made it for us.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    if child.error != 0 {
        let _ = rustix::process::waitid(
            rustix::process::WaitId::PidFd(std::os::fd::AsFd::as_fd(&pidfd)),
            rustix::process::WaitIdOptions::EXITED,
        );
        return Err(io::Error::from_raw_os_error(child.error));
    }
    Ok((pid as u32, pidfd))
}

/// # Safety
/// `n` must be a descriptor that nobody else owns, or negative after a failed call.
unsafe fn owned(n: c_long) -> io::Result<OwnedFd> {
    if n < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: by the caller's promise.
    Ok(unsafe { OwnedFd::from_raw_fd(n as RawFd) })
}

/// While it lives no signal handler runs on this thread, nor on a child that shares its memory.
struct BlockedSignals {
    before: libc::sigset_t,
}

impl BlockedSignals {
    fn new() -> BlockedSignals {
        // SAFETY: signal sets are plain data filled by the calls; the pointers outlive them.
        unsafe {
            let mut all: libc::sigset_t = mem::zeroed();
            let mut before: libc::sigset_t = mem::zeroed();
            libc::sigfillset(&mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
            BlockedSignals { before }
        }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // SAFETY: the set was filled by `new` and outlives the call.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.before, ptr::null_mut()) };
    }
}

/// Runs [`become_program`] in a child that borrows this memory until its execve (CLONE_VM and
/// CLONE_VFORK, on a stack of its own). The child's id, or a negative errno.
///
/// # Safety
/// `args` and `child` must be complete; every pointer in them must live until this returns.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
unsafe fn clone_and_run(args: &mut CloneArgs, child: &mut Child) -> i64 {
    let mut stack = vec![0u128; CHILD_STACK / 16];
    args.flags |= (libc::CLONE_VM | libc::CLONE_VFORK) as u64;
    args.stack = stack.as_mut_ptr() as u64;
    args.stack_size = CHILD_STACK as u64;
    let result: i64;
    // SAFETY: the child starts with the same registers on the new stack, calls `become_program`,
    // which never returns, and so never touches this frame; the parent goes on after the child's
    // execve or exit. The stack is 16-byte aligned and outlives the child's use of it.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r13",
            "call r12",
            "ud2",
            "2:",
            inlateout("rax") SYS_CLONE3 => result,
            in("rdi") &raw const *args,
            in("rsi") mem::size_of::<CloneArgs>(),
            in("r12") become_program as *const (),
            in("r13") &raw mut *child,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        std::arch::asm!(
            "svc 0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x0, x21",
            "blr x20",
            "brk 1",
            "2:",
            in("x8") SYS_CLONE3,
            inlateout("x0") &raw const *args => result,
            in("x1") mem::size_of::<CloneArgs>(),
            in("x20") become_program as *const (),
            in("x21") &raw mut *child,
        );
    }
    drop(stack);
    result
}

/// The same with a copy of the memory: an error of the child is then seen only by its exit.
///
/// # Safety
/// As above.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
unsafe fn clone_and_run(args: &mut CloneArgs, child: &mut Child) -> i64 {
    let _ = CHILD_STACK;
    // SAFETY: a fork; the child only makes system calls on memory prepared before.
    let pid = unsafe { libc::syscall(SYS_CLONE3, &raw const *args, mem::size_of::<CloneArgs>()) };
    match pid {
        // SAFETY: in the child.
        0 => unsafe { become_program(child) },
        n if n < 0 => -i64::from(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)),
        n => n as i64,
    }
}

/// In the child: only system calls, no allocation, no lock.
///
/// # Safety
/// Called once in a new process, with a complete `child`.
unsafe extern "C" fn become_program(child: *mut Child) -> ! {
    // SAFETY: the parent keeps `child` alive and untouched meanwhile.
    unsafe {
        let child = &mut *child;
        child.error = prepare_and_exec(child);
        libc::_exit(127)
    }
}

/// The errno of the first step that failed.
///
/// # Safety
/// As [`become_program`].
unsafe fn prepare_and_exec(child: &Child) -> c_int {
    // SAFETY: plain system calls on descriptors and strings that the parent has prepared.
    unsafe {
        for join in &child.join {
            if libc::write(*join, c"0".as_ptr().cast(), 1) < 0 {
                return *libc::__errno_location();
            }
        }
        if child.network >= 0 && libc::setns(child.network, libc::CLONE_NEWNET) < 0 {
            return *libc::__errno_location();
        }
        libc::setsid();
        if libc::listen(child.listener, 16) < 0 {
            return *libc::__errno_location();
        }
        for (from, to) in &child.dups {
            if libc::dup2(*from, *to) < 0 {
                return *libc::__errno_location();
            }
        }
        const CLOSE_RANGE_CLOEXEC: u32 = 4;
        libc::syscall(SYS_CLOSE_RANGE, child.first_closed, u32::MAX, CLOSE_RANGE_CLOEXEC);
        libc::syscall(
            libc::SYS_execveat,
            child.program,
            c"".as_ptr(),
            child.argv.as_ptr(),
            child.env.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
        *libc::__errno_location()
    }
}

/// Sends bytes with descriptors over a Unix socket; how many bytes were taken.
///
/// # Errors
/// That of sendmsg; `WouldBlock` when the socket is full.
pub fn send_with_fds(socket: BorrowedFd, bytes: &[u8], fds: &[BorrowedFd]) -> io::Result<usize> {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
    let mut space = [mem::MaybeUninit::uninit(); 64];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    Ok(rustix::net::sendmsg(socket, &[io::IoSlice::new(bytes)], &mut control, flags)?)
}

/// The process at the other end of a Unix socket: the one that called listen.
pub fn peer_pid(socket: BorrowedFd) -> io::Result<u32> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut len = mem::size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: `peer` and its length outlive the call.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, (&raw mut peer).cast(), &mut len)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(peer.pid as u32) }
}

/// A program's bytes in a memory file that nobody can change any more.
///
/// # Errors
/// That of memfd_create, write or sealing.
pub fn sealed_program(name: &CStr, bytes: &[u8]) -> io::Result<OwnedFd> {
    const MFD_EXEC: u32 = 0x10;
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: a C string that outlives the call; the new descriptor is ours.
    let create = |flags| unsafe { owned(libc::memfd_create(name.as_ptr(), flags) as c_long) };
    // MFD_EXEC came with Linux 6.3; before, every memory file was executable.
    let file = std::fs::File::from(create(flags | MFD_EXEC).or_else(|_| create(flags))?);
    io::Write::write_all(&mut &file, bytes)?;
    let seals = libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;
    // SAFETY: no memory is passed.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // A writable descriptor keeps execve from running it: open it again, read-only.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(std::fs::File::open(path)?.into())
}
