//! What travels: requests, answers, events, and the sandbox's two files.
//!
//! `S` is `CString` where a message is built and `&CStr` where it is read in place.

use std::ffi::CStr;

use crate::codec::{Malformed, Reader, Writer};
use crate::mounts::{Root, Step, Tree};

/// Kinds of frames, agent to pause.
pub mod request {
    /// [`Hello`](super::Hello), answered by `HELLO`.
    pub const HELLO: u8 = 1;
    /// Empty, answered by `CONTAINERS`.
    pub const LIST: u8 = 2;
    /// [`Start`](super::Start), answered by `STARTED` or `FAILED`.
    pub const START: u8 = 3;
    /// [`Exec`](super::Exec) with three descriptors, answered by `STARTED` (at = time) or `FAILED`,
    /// later by `EXEC_ENDED`.
    pub const EXEC: u8 = 4;
    /// [`Signal`](super::Signal), answered by `DONE` or `FAILED`.
    pub const SIGNAL: u8 = 5;
    /// A container's id (forgotten if it ended), answered by `DONE` or `FAILED`.
    pub const REMOVE: u8 = 6;
}

/// Kinds of frames, pause to agent.
pub mod reply {
    /// `version u16`.
    pub const HELLO: u8 = 129;
    /// A list of [`Record`](super::Record).
    pub const CONTAINERS: u8 = 130;
    /// A [`Record`](super::Record).
    pub const STARTED: u8 = 131;
    pub const DONE: u8 = 132;
    /// [`Failure`](super::Failure).
    pub const FAILED: u8 = 133;
    /// `code i32 | signal i32 | at i64`.
    pub const EXEC_ENDED: u8 = 134;
    /// Event, request 0: a [`Record`](super::Record) of a container that ended.
    pub const EXITED: u8 = 192;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    pub min: u16,
    pub max: u16,
}

impl Hello {
    pub fn encode(&self, w: &mut Writer) {
        w.u16(self.min);
        w.u16(self.max);
    }

    pub fn decode(mut r: Reader) -> Result<Hello, Malformed> {
        Ok(Hello { min: r.u16()?, max: r.u16()? })
    }
}

/// A container to start. The agent plans; the pause carries out step by step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start<S> {
    /// `NAME_ATTEMPT`.
    pub id: S,
    /// Namespaces to unshare at the clone: bits of [`unshare`].
    pub namespaces: u32,
    /// v1: the container's `tasks` files to write. Written before anything else.
    pub join: Vec<S>,
    /// v2: the container's cgroup directory for CLONE_INTO_CGROUP.
    pub into: Option<S>,
    /// The file with an `oom_kill N` line: `memory.events` or `memory.oom_control`.
    pub oom_file: Option<S>,
    /// Host-PID pods: a `cgroup.kill` file, or a `cgroup.procs` to kill one by one.
    pub kill_file: Option<S>,
    pub oom_score_adj: Option<i32>,
    /// Opened in the host's view, before the root changes; steps refer to them by index.
    pub trees: Vec<Tree<S>>,
    pub root: Root<S>,
    /// Carried out in order with the new root as `/`.
    pub steps: Vec<Step<S>>,
    pub read_only_root: bool,
    pub log: Log<S>,
    /// 0 `/dev/null`, 1 a pipe kept open.
    pub stdin: u8,
    pub process: Process<S>,
}

/// Namespaces of [`Start::namespaces`].
pub mod unshare {
    pub const PID: u32 = 1;
    pub const CGROUP: u32 = 2;
}

/// What a process is once inside; an exec takes its container's with another `argv`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process<S> {
    pub argv: Vec<S>,
    /// `NAME=value`.
    pub env: Vec<S>,
    /// Made when missing.
    pub cwd: S,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    /// Bounding, permitted and effective set.
    pub capabilities: u64,
    pub no_new_privileges: bool,
    /// A classic BPF program (8 bytes an instruction), or empty.
    pub seccomp: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log<S> {
    /// Empty: output is read and dropped.
    pub path: S,
    pub max_bytes: u64,
    pub max_files: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exec<S> {
    pub container: S,
    pub argv: Vec<S>,
    /// `None`: the container's.
    pub env: Option<Vec<S>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signal<S> {
    pub container: S,
    pub signal: i32,
}

/// Why a request was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    pub stage: Stage,
    /// An errno; 0 where none applies.
    pub errno: i32,
    /// Which tree, step or element of a list it was.
    pub index: u32,
}

/// Where a start failed, in the order of a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// The request itself: malformed, a duplicate, no such container.
    Request = 0,
    Fork = 1,
    Cgroup = 2,
    Namespace = 3,
    Tree = 4,
    Root = 5,
    Pivot = 6,
    Step = 7,
    ReadOnlyRoot = 8,
    Cwd = 9,
    User = 10,
    Capabilities = 11,
    Seccomp = 12,
    Exec = 13,
    /// The child ended without a word.
    Lost = 14,
    Log = 15,
}

impl Stage {
    pub fn from_code(code: u8) -> Stage {
        use Stage::*;
        let all = [
            Request,
            Fork,
            Cgroup,
            Namespace,
            Tree,
            Root,
            Pivot,
            Step,
            ReadOnlyRoot,
            Cwd,
            User,
            Capabilities,
            Seccomp,
            Exec,
            Lost,
            Log,
        ];
        all.get(code as usize).copied().unwrap_or(Lost)
    }

    /// For a person.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Request => "request",
            Stage::Fork => "fork",
            Stage::Cgroup => "cgroup",
            Stage::Namespace => "namespace",
            Stage::Tree => "mount source",
            Stage::Root => "root file system",
            Stage::Pivot => "pivot_root",
            Stage::Step => "mount",
            Stage::ReadOnlyRoot => "read-only root",
            Stage::Cwd => "working directory",
            Stage::User => "user",
            Stage::Capabilities => "capabilities",
            Stage::Seccomp => "seccomp",
            Stage::Exec => "exec",
            Stage::Lost => "start",
            Stage::Log => "log",
        }
    }
}

pub(crate) fn put_list<S: AsRef<CStr>>(w: &mut Writer, list: &[S]) {
    w.list(list, |w, s| w.cstr(s.as_ref()));
}

pub(crate) fn put_option<S: AsRef<CStr>>(w: &mut Writer, value: &Option<S>) {
    w.u8(value.is_some() as u8);
    if let Some(s) = value {
        w.cstr(s.as_ref());
    }
}

pub(crate) fn get_list<'a>(r: &mut Reader<'a>) -> Result<Vec<&'a CStr>, Malformed> {
    r.list(|r| r.cstr())
}

pub(crate) fn get_option<'a>(r: &mut Reader<'a>) -> Result<Option<&'a CStr>, Malformed> {
    Ok(if r.u8()? != 0 { Some(r.cstr()?) } else { None })
}

impl<S: AsRef<CStr>> Start<S> {
    pub fn encode(&self, w: &mut Writer) {
        w.cstr(self.id.as_ref());
        w.u32(self.namespaces);
        put_list(w, &self.join);
        put_option(w, &self.into);
        put_option(w, &self.oom_file);
        put_option(w, &self.kill_file);
        w.u8(self.oom_score_adj.is_some() as u8);
        w.i32(self.oom_score_adj.unwrap_or(0));
        w.list(&self.trees, |w, t| t.encode(w));
        self.root.encode(w);
        w.list(&self.steps, |w, s| s.encode(w));
        w.u8(self.read_only_root as u8);
        w.cstr(self.log.path.as_ref());
        w.u64(self.log.max_bytes);
        w.u32(self.log.max_files);
        w.u8(self.stdin);
        // Last and with its own length: kept as it is for later execs.
        let mut process = Writer::default();
        self.process.encode(&mut process);
        w.bytes(&process.finish());
    }
}

impl<'a> Start<&'a CStr> {
    /// Also gives the bytes of the process part, to be kept for execs.
    pub fn decode(mut r: Reader<'a>) -> Result<(Start<&'a CStr>, &'a [u8]), Malformed> {
        let r = &mut r;
        let (id, namespaces, join, into) = (r.cstr()?, r.u32()?, get_list(r)?, get_option(r)?);
        let (oom_file, kill_file) = (get_option(r)?, get_option(r)?);
        let oom_score_adj = (r.u8()? != 0).then_some(r.i32()?);
        let trees = r.list(Tree::decode)?;
        let root = Root::decode(r)?;
        let steps = r.list(Step::decode)?;
        let read_only_root = r.u8()? != 0;
        let log = Log { path: r.cstr()?, max_bytes: r.u64()?, max_files: r.u32()? };
        let stdin = r.u8()?;
        let raw = r.bytes()?;
        let process = Process::decode(Reader::new(raw))?;
        let start = Start {
            id,
            namespaces,
            join,
            into,
            oom_file,
            kill_file,
            oom_score_adj,
            trees,
            root,
            steps,
            read_only_root,
            log,
            stdin,
            process,
        };
        Ok((start, raw))
    }
}

impl<S: AsRef<CStr>> Process<S> {
    pub fn encode(&self, w: &mut Writer) {
        put_list(w, &self.argv);
        put_list(w, &self.env);
        w.cstr(self.cwd.as_ref());
        w.u32(self.uid);
        w.u32(self.gid);
        w.list(&self.groups, |w, g| w.u32(*g));
        w.u64(self.capabilities);
        w.u8(self.no_new_privileges as u8);
        w.bytes(&self.seccomp);
    }
}

impl<'a> Process<&'a CStr> {
    pub fn decode(mut r: Reader<'a>) -> Result<Process<&'a CStr>, Malformed> {
        let r = &mut r;
        Ok(Process {
            argv: get_list(r)?,
            env: get_list(r)?,
            cwd: r.cstr()?,
            uid: r.u32()?,
            gid: r.u32()?,
            groups: r.list(|r| r.u32())?,
            capabilities: r.u64()?,
            no_new_privileges: r.u8()? != 0,
            seccomp: r.bytes()?.to_vec(),
        })
    }
}

impl<S: AsRef<CStr>> Exec<S> {
    pub fn encode(&self, w: &mut Writer) {
        w.cstr(self.container.as_ref());
        put_list(w, &self.argv);
        w.u8(self.env.is_some() as u8);
        put_list(w, self.env.as_deref().unwrap_or(&[]));
    }
}

impl<'a> Exec<&'a CStr> {
    pub fn decode(mut r: Reader<'a>) -> Result<Exec<&'a CStr>, Malformed> {
        let r = &mut r;
        let (container, argv, own) = (r.cstr()?, get_list(r)?, r.u8()? != 0);
        let env = get_list(r)?;
        Ok(Exec { container, argv, env: own.then_some(env) })
    }
}

impl<S: AsRef<CStr>> Signal<S> {
    pub fn encode(&self, w: &mut Writer) {
        w.cstr(self.container.as_ref());
        w.i32(self.signal);
    }
}

impl<'a> Signal<&'a CStr> {
    pub fn decode(mut r: Reader<'a>) -> Result<Signal<&'a CStr>, Malformed> {
        Ok(Signal { container: r.cstr()?, signal: r.i32()? })
    }
}

impl Failure {
    pub fn encode(&self, w: &mut Writer) {
        w.u8(self.stage as u8);
        w.i32(self.errno);
        w.u32(self.index);
    }

    pub fn decode(mut r: Reader) -> Result<Failure, Malformed> {
        Ok(Failure { stage: Stage::from_code(r.u8()?), errno: r.i32()?, index: r.u32()? })
    }
}
