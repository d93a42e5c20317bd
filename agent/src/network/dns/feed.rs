//! The agent's side: sees to it that the DNS process runs and knows the names.
//!
//! One thread holds the connection. It sleeps until there are new names or the process is gone.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use serde::{Deserialize, Serialize};

use super::zone::Source;

/// What the DNS process says first: the form of the feed and the version of the program. One that says
/// something else is of another release, and is replaced.
pub(crate) const HELLO: &str = concat!("coracle-dns 1 ", env!("CARGO_PKG_VERSION"), "\n");

/// The longest order, in bytes: 100,000 services of ordinary names.
pub(crate) const MAX_FEED: usize = 32 << 20;

/// How long the process may take to start, or to answer when it runs.
const START: Duration = Duration::from_secs(5);

/// Between two tries to have a process that serves: doubling between these.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(30);

/// An order to the DNS process: its length as four bytes, low first, then this as JSON.
#[derive(Serialize, Deserialize)]
pub(crate) enum Order {
    /// These are the names from now on.
    Names(Source),
    Quit,
}

/// How the answering of names stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamesState {
    /// The process is being started or has not taken the newest names yet.
    Starting,
    /// The newest names are answered.
    Serving,
    /// The last try failed, for this reason; it is tried again.
    Failed(String),
}

/// The DNS process as the agent sees it.
pub(crate) struct Feed {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What the DNS process is started with.
pub(crate) struct Process {
    /// The agent's own program.
    pub program: PathBuf,
    pub runtime_dir: PathBuf,
    pub address: Ipv4Addr,
    pub resolv_conf: PathBuf,
}

struct Shared {
    process: Process,
    /// Written to when the wanted names changed.
    wake: OwnedFd,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    names: Option<Source>,
    /// Counts changes of `names`, so that an acknowledgement can be told from an older one's.
    version: u64,
    names_state: NamesState,
    stop: Stop,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stop {
    No,
    /// The agent ends, the process lives on.
    Leave,
    /// The process ends too.
    Quit,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn socket(&self) -> PathBuf {
        self.process.runtime_dir.join("dns.sock")
    }

    fn pid_file(&self) -> PathBuf {
        self.process.runtime_dir.join("dns.pid")
    }

    fn wake(&self) {
        // Only fails when it is already as awake as can be.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        self.changed.notify_all();
    }
}

impl Feed {
    /// Starts looking after a DNS process. One that already runs keeps running.
    pub(crate) fn start(process: Process) -> io::Result<Feed> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let state = State { names: None, version: 0, names_state: NamesState::Starting, stop: Stop::No };
        let (state, changed) = (Mutex::new(state), Condvar::new());
        let shared = Arc::new(Shared { process, wake, state, changed });
        let of_thread = shared.clone();
        let thread = std::thread::Builder::new().name("dns-feed".into()).spawn(move || look_after(&of_thread))?;
        Ok(Feed { shared, thread: Some(thread) })
    }

    pub(crate) fn address(&self) -> Ipv4Addr {
        self.shared.process.address
    }

    /// Makes these the names; they are on their way when this returns.
    pub(crate) fn set(&self, names: Source) {
        let mut state = self.shared.state();
        if state.names.as_ref() != Some(&names) {
            state.names = Some(names);
            state.version += 1;
            if state.names_state == NamesState::Serving {
                state.names_state = NamesState::Starting;
            }
            drop(state);
            self.shared.wake();
        }
    }

    pub(crate) fn names_state(&self) -> NamesState {
        self.shared.state().names_state.clone()
    }

    /// For waiting without holding on to the feed.
    pub(crate) fn waiter(&self) -> Waiter {
        Waiter { shared: self.shared.clone() }
    }

    /// Ends the process as well.
    pub(crate) fn quit(mut self) {
        self.end(Stop::Quit);
    }

    fn end(&mut self, stop: Stop) {
        self.shared.state().stop = stop;
        self.shared.wake();
        if let Some(thread) = self.thread.take() {
            // A panic there was reported there.
            let _ = thread.join();
        }
    }
}

/// Waits for names to be answered.
pub(crate) struct Waiter {
    shared: Arc<Shared>,
}

impl Waiter {
    /// Waits until the newest names are answered, at most so long; says how it stands then.
    pub(crate) fn wait(&self, at_most: Duration) -> NamesState {
        let until = Instant::now() + at_most;
        let mut state = self.shared.state();
        while state.names_state != NamesState::Serving {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.names_state.clone()
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.end(Stop::Leave);
        }
    }
}

/// The thread: have a process, feed it until it is gone, and again.
fn look_after(shared: &Shared) {
    let mut child = None;
    let mut pause = FIRST_PAUSE;
    loop {
        let ended = connect_or_start(shared, &mut child).and_then(|agent| {
            pause = FIRST_PAUSE;
            feed(shared, agent)
        });
        let mut state = shared.state();
        if state.stop != Stop::No {
            break;
        }
        let reason = ended.err().map_or_else(|| "the DNS process ended".into(), |e| e.to_string());
        state.names_state = NamesState::Failed(reason);
        shared.changed.notify_all();
        // A change of names is no reason to try sooner; only the end is.
        let until = Instant::now() + pause;
        while state.stop == Stop::No && Instant::now() < until {
            let left = until.saturating_duration_since(Instant::now());
            state = shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        if state.stop != Stop::No {
            break;
        }
        drop(state);
        pause = (pause * 2).min(LAST_PAUSE);
    }
    if shared.state().stop == Stop::Quit {
        // What cannot be ended so is ended below.
        let _ = quit_process(&shared.process.runtime_dir);
        if let Some(stuck) = child.as_mut() {
            let _ = stuck.kill();
        }
        reap(&mut child);
    }
}

/// Ends a DNS process that an earlier agent may have left there, and removes its files.
pub(crate) fn quit_process(runtime_dir: &Path) -> io::Result<()> {
    let socket = runtime_dir.join("dns.sock");
    if let Ok(mut agent) = UnixStream::connect(&socket) {
        agent.set_read_timeout(Some(START))?;
        write_order(&mut agent, &Order::Quit)?;
        // Its end shows as the end of the stream.
        agent.read_to_end(&mut Vec::new())?;
    }
    for path in [socket, runtime_dir.join("dns.pid")] {
        match fs::remove_file(path) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

/// Waits for a process that has ended or is about to.
fn reap(child: &mut Option<Child>) {
    if let Some(mut ended) = child.take() {
        let _ = ended.wait();
    }
}

/// A connection to a process of this release.
fn connect_or_start(shared: &Shared, child: &mut Option<Child>) -> io::Result<UnixStream> {
    if let Ok(mut agent) = UnixStream::connect(shared.socket()) {
        agent.set_read_timeout(Some(START))?;
        if is_current(&mut agent, &shared.process.program)? {
            return Ok(agent);
        }
        write_order(&mut agent, &Order::Quit)?;
        agent.read_to_end(&mut Vec::new())?;
    }
    if let Some(ended) = child.as_mut() {
        // Nobody answers at its socket: it must not hold the port against the next one.
        let _ = ended.kill();
        reap(child);
    }
    let started = Command::new(&shared.process.program)
        .arg("dns-child")
        .arg(shared.socket())
        .arg(shared.process.address.to_string())
        .arg(&shared.process.resolv_conf)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .current_dir("/")
        .process_group(0)
        .spawn()?;
    fs::write(shared.pid_file(), started.id().to_string())?;
    let until = Instant::now() + START;
    let started = child.insert(started);
    loop {
        match UnixStream::connect(shared.socket()) {
            Ok(mut agent) => {
                agent.set_read_timeout(Some(START))?;
                hello(&mut agent)?;
                return Ok(agent);
            }
            Err(e) if Instant::now() > until => return Err(e),
            Err(_) => {}
        }
        if let Some(status) = started.try_wait()? {
            *child = None;
            return Err(io::Error::other(format!("the DNS process ended at its start: {status}")));
        }
        // There is nothing to wait on before the socket has its name.
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn hello(agent: &mut UnixStream) -> io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.last() != Some(&b'\n') && line.len() < 128 {
        agent.read_exact(&mut byte)?;
        line.push(byte[0]);
    }
    String::from_utf8(line).map_err(io::Error::other)
}

/// Whether the process is of this release and of this very program file: an upgrade replaces it.
fn is_current(agent: &mut UnixStream, program: &Path) -> io::Result<bool> {
    let same_release = hello(agent)? == HELLO;
    let pid = rustix::net::sockopt::socket_peercred(agent.as_fd())?.pid;
    let runs = fs::read_link(format!("/proc/{}/exe", pid.as_raw_nonzero()));
    Ok(same_release && runs.is_ok_and(|runs| fs::canonicalize(program).is_ok_and(|own| own == runs)))
}

fn write_order(agent: &mut UnixStream, order: &Order) -> io::Result<()> {
    let body = serde_json::to_vec(order)?;
    if body.len() > MAX_FEED {
        return Err(io::Error::other(format!("{} bytes of names are more than the DNS process takes", body.len())));
    }
    agent.write_all(&(body.len() as u32).to_le_bytes())?;
    agent.write_all(&body)
}

/// Hands over names whenever they change, until the process is gone or the agent ends.
fn feed(shared: &Shared, mut agent: UnixStream) -> io::Result<()> {
    let mut sent = 0;
    let mut acknowledged = 0;
    let mut sent_versions = std::collections::VecDeque::new();
    loop {
        let (names, version) = {
            let state = shared.state();
            if state.stop != Stop::No {
                return Ok(());
            }
            (state.names.clone().filter(|_| state.version > sent), state.version)
        };
        if let Some(names) = names {
            write_order(&mut agent, &Order::Names(names))?;
            sent = version;
            sent_versions.push_back(version);
        }
        let mut fds = [
            PollFd::from_borrowed_fd(shared.wake.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(agent.as_fd(), PollFlags::IN),
        ];
        match poll(&mut fds, None::<&Timespec>) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let answered = !fds[1].revents().is_empty();
        let _ = rustix::io::read(&shared.wake, &mut [0; 8]);
        if answered {
            let mut buffer = [0; 64];
            let length = match agent.read(&mut buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(length) => length,
                Err(e) if e.kind() == ErrorKind::Interrupted => 0,
                Err(e) => return Err(e),
            };
            for _ in buffer[..length].iter().filter(|b| **b == b'\n') {
                acknowledged = sent_versions.pop_front().unwrap_or(acknowledged);
            }
            let mut state = shared.state();
            if acknowledged == state.version {
                state.names_state = NamesState::Serving;
                shared.changed.notify_all();
            }
        }
    }
}
