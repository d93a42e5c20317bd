//! What the pause keeps of its children, and what it reads and ends around them.

use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;

use coracle_pause::{Failure, Reader, Record, Stage, Writer};

use crate::output::{Output, Turn};
use crate::sys;

/// Turns of reading when a container has ended: what a pipe can hold at most (1 MiB), so that a
/// process that goes on writing into it delays nobody.
const DRAIN_TURNS: usize = 160;
/// What a child writes to its status pipe when only execve is left.
pub const READY: u8 = 0xff;
/// An encoded [`Failure`].
const FAILURE_SIZE: usize = 9;

/// Who asked, to be answered later.
#[derive(Clone, Copy)]
pub struct Asker {
    pub connection: u32,
    pub request: u32,
}

/// The pipe through which a child says why it could not become what it should.
pub struct Starting {
    pub pipe: OwnedFd,
    pub asker: Asker,
    pub said: Vec<u8>,
}

impl Starting {
    /// Reads what is there. `None` while the child is still on its way.
    pub fn outcome(&mut self) -> Option<Result<(), Failure>> {
        let mut buffer = [0; 16];
        loop {
            match sys::read(&self.pipe, &mut buffer) {
                Ok(0) => return Some(self.verdict()),
                Ok(n) if self.said.len() < 64 => self.said.extend_from_slice(&buffer[..n]),
                Err(libc::EINTR) => {}
                _ => return None,
            }
        }
    }

    /// Closed by execve after READY, or by death: then with a failure said, or without a word.
    fn verdict(&self) -> Result<(), Failure> {
        if self.said == [READY] {
            return Ok(());
        }
        let tail = self.said.len().saturating_sub(FAILURE_SIZE);
        Err(Failure::decode(Reader::new(&self.said[tail..])).unwrap_or(Failure {
            stage: Stage::Lost,
            errno: 0,
            index: 0,
        }))
    }
}

pub struct Container {
    pub key: u32,
    pub pid: i32,
    pub record: Record<CString>,
    pub starting: Option<Starting>,
    /// The start failed; said when the child is reaped, so that its cgroup is then free.
    pub failed: Option<(Asker, Failure)>,
    pub output: Option<Output>,
    pub pipes: [Option<OwnedFd>; 2],
    /// Kept open so that the container does not see the end of its input.
    pub _stdin: Option<OwnedFd>,
    pub confinement: Confinement,
    pub oom_file: Option<CString>,
    pub oom_before: u64,
    pub kill_file: Option<CString>,
}

/// What an exec takes over from its container.
pub struct Confinement {
    pub namespaces: u32,
    pub join: Vec<CString>,
    pub into: Option<CString>,
    pub oom_score_adj: Option<i32>,
    /// An encoded [`Process`].
    pub process: Vec<u8>,
}

pub struct ExecChild {
    pub key: u32,
    pub pid: i32,
    pub starting: Option<Starting>,
    pub failed: Option<Failure>,
    pub asker: Asker,
}

/// Reads what the ended container had written, closes its pipes and its log.
pub fn drain(container: &mut Container) {
    let Some(mut output) = container.output.take() else { return };
    for (stream, pipe) in container.pipes.iter_mut().enumerate() {
        if let Some(pipe) = pipe.take() {
            let now = sys::now();
            let mut turns = DRAIN_TURNS;
            while turns > 0 && output.turn(stream, &pipe, now) == Turn::Read {
                turns -= 1;
            }
            output.end(stream, now);
        }
    }
}

/// In the child: says why, and ends.
pub fn tell(pipe: &OwnedFd, failure: Failure) -> ! {
    let mut w = Writer::default();
    failure.encode(&mut w);
    let _ = sys::write(pipe, &w.finish());
    sys::exit_now(127)
}

pub fn open_cgroup(path: Option<&CStr>) -> Result<Option<OwnedFd>, Failure> {
    let open = |p| sys::open(p, libc::O_PATH | libc::O_DIRECTORY, 0);
    path.map(open).transpose().map_err(|errno| Failure { stage: Stage::Cgroup, errno, index: 0 })
}

/// How often the kernel's OOM killer struck in a cgroup: the `oom_kill` line of `memory.events`
/// (v2) or `memory.oom_control` (v1).
pub fn oom_kills(file: Option<&CStr>) -> u64 {
    let mut buffer = [0; 512];
    let open = file.and_then(|path| sys::open(path, libc::O_RDONLY, 0).ok());
    let Some(n) = open.and_then(|file| sys::read(&file, &mut buffer).ok()) else { return 0 };
    let line = buffer[..n].split(|b| *b == b'\n').find_map(|line| line.strip_prefix(b"oom_kill "));
    line.map_or(0, |digits| digits.iter().fold(0, |n, d| n * 10 + u64::from(d.wrapping_sub(b'0') % 10)))
}

/// Ends what a container without a PID namespace of its own left behind: by `cgroup.kill`, or
/// one by one until the list of processes stays empty.
pub fn kill_all(file: &CStr) {
    if file.to_bytes().ends_with(b"cgroup.kill") {
        let _ = sys::write_file(file, b"1");
        return;
    }
    // A process may fork while it is being killed; each round leaves fewer.
    for _ in 0..64 {
        let mut buffer = [0; 4096];
        let Ok(n) = sys::open(file, libc::O_RDONLY, 0).and_then(|f| sys::read(&f, &mut buffer)) else { return };
        if n == 0 {
            return;
        }
        for line in buffer[..n].split(|b| *b == b'\n') {
            let pid = std::str::from_utf8(line).ok().and_then(|text| text.parse().ok());
            if let Some(pid) = pid.filter(|pid| *pid > 1) {
                let _ = sys::kill(pid, libc::SIGKILL);
            }
        }
    }
}
