//! coracle-pause: PID 1 of a pod. Holds its namespaces; starts, reaps and logs its containers.
//!
//! Started by the agent with the sandbox's directory as descriptor 3 and a listening socket as 4,
//! in the pod's namespaces and its own cgroup. It has one thread, needs no file of the node but
//! that directory, and goes on when the agent goes away.

mod child;
mod connection;
mod container;
mod output;
mod pod;
mod state;
#[allow(unsafe_code)]
mod sys;

use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;

use coracle_pause::{FD_DIRECTORY, FD_LISTENER, Failure, Reader, SandboxFile, Stage};

/// The largest sandbox file: 64 KiB of note, and names.
const MAX_SANDBOX_FILE: usize = 256 << 10;

fn main() {
    sys::set_name(c"coracle-pause");
    sys::set_not_dumpable();
    sys::umask(0);
    if std::env::args_os().nth(1).is_some_and(|word| word == "--version") {
        let version = concat!("coracle-pause ", env!("CARGO_PKG_VERSION"), "\n");
        sys::exit_now(sys::write(&sys::inherited(1), version.as_bytes()).map_or(1, |_| 0));
    }
    let directory = sys::inherited(FD_DIRECTORY);
    let listener = sys::inherited(FD_LISTENER);
    let (boot_id, failure) = set_up(&directory);
    let result = pod::Pod::new(directory, listener, boot_id, failure).and_then(|mut pod| pod.run());
    sys::exit_now(result.err().unwrap_or(0));
}

/// The boot id, and what went wrong: told to whoever says hello.
fn set_up(directory: &OwnedFd) -> (CString, Option<Failure>) {
    let failed = |errno, index| Some(Failure { stage: Stage::Request, errno, index });
    let raw = match read_sandbox_file(directory) {
        Ok(raw) => raw,
        Err(errno) => return (CString::default(), failed(errno, 0)),
    };
    let Ok(file) = SandboxFile::decode(Reader::new(&raw)) else {
        return (CString::default(), failed(libc::EINVAL, 0));
    };
    let failure = apply(&file).err().and_then(|(errno, index)| failed(errno, index));
    (file.boot_id.to_owned(), failure)
}

fn read_sandbox_file(directory: &OwnedFd) -> Result<Vec<u8>, sys::Errno> {
    let file = sys::openat(directory, c"sandbox", libc::O_RDONLY | libc::O_NOFOLLOW, 0)?;
    let size = sys::size(&file) as usize;
    if size > MAX_SANDBOX_FILE {
        return Err(libc::EFBIG);
    }
    let file = sys::openat(directory, c"sandbox", libc::O_RDONLY | libc::O_NOFOLLOW, 0)?;
    let mut raw = vec![0; size];
    let mut filled = 0;
    while filled < size {
        match sys::read(&file, &mut raw[filled..])? {
            0 => break,
            n => filled += n,
        }
    }
    raw.truncate(filled);
    Ok(raw)
}

/// The error's index is 1 for the host name, then 2 and up for the sysctls.
fn apply(file: &SandboxFile<&CStr>) -> Result<(), (sys::Errno, u32)> {
    if !file.hostname.is_empty() {
        sys::sethostname(file.hostname).map_err(|errno| (errno, 1))?;
    }
    for (i, (name, value)) in file.sysctls.iter().enumerate() {
        let path = CString::new([b"/proc/sys/", name.to_bytes()].concat()).unwrap_or_default();
        sys::write_file(&path, value.to_bytes()).map_err(|errno| (errno, i as u32 + 2))?;
    }
    Ok(())
}
