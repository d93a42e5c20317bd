//! The pod's loop: one epoll over signals, the control socket, starting children and output.

use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;

use coracle_pause::{
    Exec, Exit, Failure, Hello, Malformed, PROTOCOL, PROTOCOL_MIN, Process, Reader, Record, Signal, Stage, Start,
    Writer, frame, reply, request, unshare,
};

use crate::child::{self, Stdio};
use crate::connection::{Connection, Frame};
use crate::container::{
    Asker, Confinement, Container, ExecChild, READY, Starting, drain, kill_all, oom_kills, open_cgroup, tell,
};
use crate::output::{Output, Turn};
use crate::state::State;
use crate::sys;

/// Containers, running and ended, that one pod may hold: far more than a spec has, small enough
/// that a list stays one frame that a socket takes at once.
const MAX_CONTAINERS: usize = 512;
/// Agents at once: the one that lives, and ones that died or are being replaced.
const MAX_CONNECTIONS: usize = 8;
/// Commands running at once beside the containers.
const MAX_EXECS: usize = 256;

/// What an epoll event is about, most urgent first: events of one turn are handled in this order.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Child = 0,
    Listener = 1,
    Connection = 2,
    ContainerStatus = 3,
    ExecStatus = 4,
    Stdout = 5,
    Stderr = 6,
}

const SOURCES: [Source; 7] = [
    Source::Child,
    Source::Listener,
    Source::Connection,
    Source::ContainerStatus,
    Source::ExecStatus,
    Source::Stdout,
    Source::Stderr,
];

fn token(source: Source, key: u32) -> u64 {
    (source as u64) << 32 | key as u64
}

pub struct Pod {
    state: State,
    listener: OwnedFd,
    epoll: OwnedFd,
    signals: OwnedFd,
    own_pidfd: OwnedFd,
    setup_failure: Option<Failure>,
    connections: Vec<Connection>,
    containers: Vec<Container>,
    execs: Vec<ExecChild>,
    next_key: u32,
}

fn refused(errno: i32) -> Failure {
    Failure { stage: Stage::Request, errno, index: 0 }
}

impl From<Malformed> for Refusal {
    fn from(_: Malformed) -> Refusal {
        Refusal(refused(libc::EBADMSG))
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Refusal {
        Refusal(failure)
    }
}

struct Refusal(Failure);

fn milliseconds(nanos: i64) -> i64 {
    nanos.div_euclid(1_000_000)
}

impl Pod {
    pub fn new(
        directory: OwnedFd,
        listener: OwnedFd,
        boot_id: CString,
        setup_failure: Option<Failure>,
    ) -> sys::Result<Pod> {
        let signals = sys::take_signals()?;
        // Host-PID pods: what a container leaves behind is still ours to reap.
        sys::set_child_subreaper();
        let epoll = sys::epoll()?;
        sys::epoll_add(&epoll, &signals, token(Source::Child, 0))?;
        sys::epoll_add(&epoll, &listener, token(Source::Listener, 0))?;
        let own_pidfd = sys::pidfd_open(std::process::id() as i32)?;
        Ok(Pod {
            state: State::new(directory, boot_id),
            listener,
            epoll,
            signals,
            own_pidfd,
            setup_failure,
            connections: Vec::new(),
            containers: Vec::new(),
            execs: Vec::new(),
            next_key: 1,
        })
    }

    /// # Errors
    /// Never returns otherwise.
    pub fn run(&mut self) -> sys::Result<()> {
        let mut events = [0; 16];
        loop {
            let n = sys::epoll_wait(&self.epoll, &mut events);
            events[..n].sort_unstable();
            for event in &events[..n] {
                let key = *event as u32;
                match SOURCES.get((event >> 32) as usize) {
                    Some(Source::Child) => self.reap_all(),
                    Some(Source::Listener) => self.accept(),
                    Some(Source::Connection) => self.serve(key),
                    Some(Source::ContainerStatus) => self.settle_container(key),
                    Some(Source::ExecStatus) => self.settle_exec(key),
                    Some(Source::Stdout) => self.copy_output(key, 0),
                    Some(Source::Stderr) => self.copy_output(key, 1),
                    None => {}
                }
            }
        }
    }

    fn key(&mut self) -> u32 {
        self.next_key = self.next_key.wrapping_add(1).max(1);
        self.next_key
    }

    // Connections

    fn accept(&mut self) {
        let Ok(socket) = sys::accept(&self.listener) else { return };
        if sys::peer_uid(&socket) != Ok(sys::effective_uid()) {
            return;
        }
        if self.connections.len() == MAX_CONNECTIONS {
            self.connections.remove(0);
        }
        let key = self.key();
        if sys::epoll_add(&self.epoll, &socket, token(Source::Connection, key)).is_ok() {
            self.connections.push(Connection::new(key, socket));
        }
    }

    fn serve(&mut self, key: u32) {
        let Some(index) = self.connections.iter().position(|c| c.key == key) else { return };
        let open = self.connections[index].fill();
        loop {
            // A request may close connections, so the place is looked up each time.
            let Some(connection) = self.connections.iter_mut().find(|c| c.key == key) else { return };
            match connection.next() {
                Ok(Some(frame)) => self.handle(key, frame),
                Ok(None) if open => return,
                Ok(None) | Err(_) => return self.connections.retain(|c| c.key != key),
            }
        }
    }

    fn answer(&mut self, asker: Asker, kind: u8, body: impl FnOnce(&mut Writer)) {
        let raw = frame(kind, 0, asker.request, body);
        self.connections.retain(|c| c.key != asker.connection || c.send(&raw));
    }

    fn fail(&mut self, asker: Asker, failure: Failure) {
        self.answer(asker, reply::FAILED, |w| failure.encode(w));
    }

    fn handle(&mut self, connection: u32, frame: Frame) {
        let asker = Asker { connection, request: frame.header.request };
        let greeted = self.connections.iter().any(|c| c.key == connection && c.greeted);
        let result = match frame.header.kind {
            request::HELLO => self.hello(asker, &frame.body),
            _ if !greeted => Err(Refusal(refused(libc::EPROTO))),
            request::LIST => {
                let records: Vec<_> = known(&self.containers).cloned().collect();
                self.answer(asker, reply::CONTAINERS, |w| w.list(&records, |w, r| r.encode(w)));
                Ok(())
            }
            request::START => self.start(asker, &frame.body),
            request::EXEC => self.exec(asker, &frame.body, frame.fds),
            request::SIGNAL => self.signal(asker, &frame.body),
            request::REMOVE => self.remove(asker, &frame.body),
            _ => Err(Refusal(refused(libc::ENOSYS))),
        };
        if let Err(Refusal(failure)) = result {
            self.fail(asker, failure);
        }
    }

    fn hello(&mut self, asker: Asker, body: &[u8]) -> Result<(), Refusal> {
        let hello = Hello::decode(Reader::new(body))?;
        let version = hello.max.min(PROTOCOL);
        if version < hello.min.max(PROTOCOL_MIN) {
            return Err(Refusal(refused(libc::EPROTONOSUPPORT)));
        }
        if let Some(failure) = self.setup_failure {
            return Err(Refusal(failure));
        }
        for connection in self.connections.iter_mut().filter(|c| c.key == asker.connection) {
            connection.greeted = true;
        }
        self.answer(asker, reply::HELLO, |w| w.u16(version));
        Ok(())
    }

    // Containers

    fn find(&self, id: &CStr) -> Option<usize> {
        self.containers.iter().position(|c| c.record.id.as_c_str() == id)
    }

    fn start(&mut self, asker: Asker, body: &[u8]) -> Result<(), Refusal> {
        let (start, process) = Start::decode(Reader::new(body))?;
        if self.find(start.id).is_some() {
            return Err(Refusal(refused(libc::EEXIST)));
        }
        if self.containers.len() >= MAX_CONTAINERS {
            return Err(Refusal(refused(libc::E2BIG)));
        }
        let fail = |stage| move |errno| Failure { stage, errno, index: 0 };
        let output =
            Output::open(start.log.path, start.log.max_bytes, start.log.max_files).map_err(fail(Stage::Log))?;
        let (out, out_end) = sys::pipe().map_err(fail(Stage::Log))?;
        let (err, err_end) = sys::pipe().map_err(fail(Stage::Log))?;
        let (status, status_end) = sys::pipe().map_err(fail(Stage::Fork))?;
        let (input, input_end) = match start.stdin {
            0 => (None, None),
            _ => sys::blocking_pipe().map(|(read, write)| (Some(read), Some(write))).map_err(fail(Stage::Log))?,
        };
        let oom_before = oom_kills(start.oom_file);
        let into = open_cgroup(start.into)?;
        let flags = libc::CLONE_NEWNS | if start.namespaces & unshare::PID != 0 { libc::CLONE_NEWPID } else { 0 };
        let pid = sys::fork(flags as u64, into.as_ref()).map_err(fail(Stage::Fork))?;
        if pid == 0 {
            let stdio: Stdio = [input, Some(out_end), Some(err_end)];
            let ready = || _ = sys::write(&status_end, &[READY]);
            tell(&status_end, child::container(&start, stdio, ready));
        }
        let key = self.key();
        for (source, file) in [(Source::ContainerStatus, &status), (Source::Stdout, &out), (Source::Stderr, &err)] {
            // Fails only without memory; then the output is read when the container ends.
            let _ = sys::epoll_add(&self.epoll, file, token(source, key));
        }
        self.containers.push(Container {
            key,
            pid,
            record: Record { id: start.id.to_owned(), started_at: 0, exit: None },
            starting: Some(Starting { pipe: status, asker, said: Vec::new() }),
            failed: None,
            output: Some(output),
            pipes: [Some(out), Some(err)],
            _stdin: input_end,
            confinement: Confinement {
                namespaces: start.namespaces,
                join: start.join.iter().map(|s| (*s).to_owned()).collect(),
                into: start.into.map(CStr::to_owned),
                oom_score_adj: start.oom_score_adj,
                process: process.to_vec(),
            },
            oom_file: start.oom_file.map(CStr::to_owned),
            oom_before,
            kill_file: start.kill_file.map(CStr::to_owned),
        });
        Ok(())
    }

    /// The child's status pipe has something to say.
    fn settle_container(&mut self, key: u32) {
        let Some(container) = self.containers.iter_mut().find(|c| c.key == key) else { return };
        let Some(mut starting) = container.starting.take() else { return };
        match starting.outcome() {
            None => container.starting = Some(starting),
            Some(Ok(())) => {
                container.record.started_at = milliseconds(sys::now());
                let record = container.record.clone();
                // What was said to have started is known even if this process dies now.
                self.state.known(&record, known(&self.containers));
                self.answer(starting.asker, reply::STARTED, |w| record.encode(w));
            }
            Some(Err(failure)) => container.failed = Some((starting.asker, failure)),
        }
    }

    fn copy_output(&mut self, key: u32, stream: usize) {
        let Some(container) = self.containers.iter_mut().find(|c| c.key == key) else { return };
        let (Some(output), Some(pipe)) = (&mut container.output, &container.pipes[stream]) else { return };
        if output.turn(stream, pipe, sys::now()) == Turn::Ended {
            container.pipes[stream] = None;
        }
    }

    fn signal(&mut self, asker: Asker, body: &[u8]) -> Result<(), Refusal> {
        let signal = Signal::decode(Reader::new(body))?;
        let container = self.find(signal.container).map(|i| &self.containers[i]).ok_or(refused(libc::ENOENT))?;
        // Not reaped yet, so the number is still the container's own.
        if container.record.exit.is_none() {
            sys::kill(container.pid, signal.signal).map_err(refused)?;
        }
        self.answer(asker, reply::DONE, |_| ());
        Ok(())
    }

    fn remove(&mut self, asker: Asker, body: &[u8]) -> Result<(), Refusal> {
        let id = Reader::new(body).cstr()?;
        let index = self.find(id).ok_or(refused(libc::ENOENT))?;
        if self.containers[index].record.exit.is_none() {
            return Err(Refusal(refused(libc::EBUSY)));
        }
        self.containers.remove(index);
        self.state.removed(id, known(&self.containers));
        self.answer(asker, reply::DONE, |_| ());
        Ok(())
    }

    // Execs

    fn exec(&mut self, asker: Asker, body: &[u8], fds: Vec<OwnedFd>) -> Result<(), Refusal> {
        let exec = Exec::decode(Reader::new(body))?;
        let [stdin, stdout, stderr] = <[OwnedFd; 3]>::try_from(fds).map_err(|_| refused(libc::EBADF))?;
        let index = self.find(exec.container).ok_or(refused(libc::ENOENT))?;
        let container = &self.containers[index];
        if container.record.exit.is_some() || container.record.started_at == 0 {
            return Err(Refusal(refused(libc::ESRCH)));
        }
        if self.execs.len() >= MAX_EXECS {
            return Err(Refusal(refused(libc::EAGAIN)));
        }
        let inside = &container.confinement;
        let mut process = Process::decode(Reader::new(&inside.process))?;
        process.argv = exec.argv;
        process.env = exec.env.unwrap_or(process.env);
        let fail = |stage| move |errno| Failure { stage, errno, index: 0 };
        let (status, status_end) = sys::pipe().map_err(fail(Stage::Fork))?;
        let into = open_cgroup(inside.into.as_deref())?;
        let target = sys::pidfd_open(container.pid).map_err(fail(Stage::Namespace))?;
        let nested = inside.namespaces & unshare::PID != 0;
        if nested {
            sys::setns(&target, libc::CLONE_NEWPID).map_err(fail(Stage::Namespace))?;
        }
        let forked = sys::fork(0, into.as_ref());
        if forked == Ok(0) {
            let stdio = [Some(stdin), Some(stdout), Some(stderr)];
            let ready = || _ = sys::write(&status_end, &[READY]);
            let (join, flags, oom) = (&inside.join, inside.namespaces, inside.oom_score_adj);
            tell(&status_end, child::exec(&process, join, &target, flags, oom, stdio, ready));
        }
        // Children of the pause itself belong into the pod's namespace again. That cannot fail:
        // it is this process's own.
        if nested && sys::setns(&self.own_pidfd, libc::CLONE_NEWPID).is_err() {
            sys::exit_now(libc::EXIT_FAILURE);
        }
        let pid = forked.map_err(fail(Stage::Fork))?;
        let key = self.key();
        let _ = sys::epoll_add(&self.epoll, &status, token(Source::ExecStatus, key));
        let starting = Some(Starting { pipe: status, asker, said: Vec::new() });
        self.execs.push(ExecChild { key, pid, starting, failed: None, asker });
        Ok(())
    }

    fn settle_exec(&mut self, key: u32) {
        let Some(exec) = self.execs.iter_mut().find(|e| e.key == key) else { return };
        let Some(mut starting) = exec.starting.take() else { return };
        match starting.outcome() {
            None => exec.starting = Some(starting),
            Some(Ok(())) => {
                let record = Record { id: CString::default(), started_at: milliseconds(sys::now()), exit: None };
                self.answer(starting.asker, reply::STARTED, |w| record.encode(w));
            }
            Some(Err(failure)) => exec.failed = Some(failure),
        }
    }

    // Ends

    fn reap_all(&mut self) {
        // One read takes the signal; the children are asked for one by one.
        let mut info = [0; 128];
        while sys::read(&self.signals, &mut info).is_ok() {}
        while let Some((pid, status)) = sys::reap() {
            let exit = Exit {
                code: if libc::WIFSIGNALED(status) { 128 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) },
                signal: if libc::WIFSIGNALED(status) { libc::WTERMSIG(status) } else { 0 },
                oom_killed: false,
                finished_at: milliseconds(sys::now()),
            };
            if let Some(key) = self.containers.iter().find(|c| c.pid == pid).map(|c| c.key) {
                self.container_ended(key, exit);
            } else if let Some(key) = self.execs.iter().find(|e| e.pid == pid).map(|e| e.key) {
                self.exec_ended(key, exit);
            }
        }
    }

    fn container_ended(&mut self, key: u32, exit: Exit) {
        // Its start may be known only now.
        self.settle_container(key);
        let Some(index) = self.containers.iter().position(|c| c.key == key) else { return };
        let container = &mut self.containers[index];
        // A number that is free again must match nothing.
        container.pid = 0;
        if let Some(file) = &container.kill_file {
            kill_all(file);
        }
        if container.starting.is_some() || container.failed.is_some() {
            let container = self.containers.remove(index);
            let lost = |s: Starting| (s.asker, Failure { stage: Stage::Lost, errno: 0, index: exit.code as u32 });
            if let Some((asker, failure)) = container.failed.or(container.starting.map(lost)) {
                self.fail(asker, failure);
            }
            return;
        }
        let oom_killed = oom_kills(container.oom_file.as_deref()) > container.oom_before;
        container.record.exit = Some(Exit { oom_killed, ..exit });
        container.confinement.process = Vec::new();
        let record = container.record.clone();
        self.state.known(&record, known(&self.containers));
        // Before the news of the end: who hears it finds the log whole.
        drain(&mut self.containers[index]);
        let raw = frame(reply::EXITED, 0, 0, |w| record.encode(w));
        self.connections.retain(|c| !c.greeted || c.send(&raw));
    }

    fn exec_ended(&mut self, key: u32, exit: Exit) {
        self.settle_exec(key);
        let Some(index) = self.execs.iter().position(|e| e.key == key) else { return };
        let exec = self.execs.remove(index);
        if let Some(failure) = exec.failed {
            return self.fail(exec.asker, failure);
        }
        if exec.starting.is_some() {
            return self.fail(exec.asker, Failure { stage: Stage::Lost, errno: 0, index: exit.code as u32 });
        }
        self.answer(exec.asker, reply::EXEC_ENDED, |w| {
            w.i32(exit.code);
            w.i32(exit.signal);
            w.i64(exit.finished_at);
        });
    }
}

/// The records of containers that started.
fn known(containers: &[Container]) -> impl Iterator<Item = &Record<CString>> {
    containers.iter().filter(|c| c.record.started_at != 0).map(|c| &c.record)
}
