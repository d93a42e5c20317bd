//! A pod's sandbox as the agent holds it: what its pause said last, and how to ask for more.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use coracle_pause::{self as wire, Reader, Record, reply, request};
use coracle_shared::ids::PodUid;
use futures_lite::future;
use rustix::process::{PidfdFlags, Signal, WaitId, WaitIdOptions};
use smol::Async;

use super::link::{Link, Message};
use super::plan::text;
use super::{ContainerId, ContainerStatus, Error, Event, ExitStatus, Resources, Shared, cgroup, now};

/// Events that wait for a reader. They are hints: beyond this the newest are dropped.
const MAX_EVENTS: usize = 256;
/// How long `adopt` waits for a pause's word before it goes on with its state file.
const ADOPT_PATIENCE: Duration = Duration::from_secs(2);
/// Between attempts to reach a pause that lives but does not answer.
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);

/// A pod's sandbox. Cheap to clone; dropping it changes nothing on the node.
#[derive(Clone)]
pub struct Sandbox {
    pub(super) inner: Arc<Inner>,
}

/// What the run directory says of a sandbox.
#[derive(Clone)]
pub(super) struct Facts {
    pub uid: PodUid,
    pub note: Vec<u8>,
    pub created_at: i64,
    pub host_pid: bool,
    pub shm: Option<PathBuf>,
    pub directory: PathBuf,
}

pub(super) struct Inner {
    pub shared: Arc<Shared>,
    pub facts: Facts,
    pause: Option<Pause>,
    state: Mutex<State>,
    changed: event_listener::Event,
    events: (async_channel::Sender<Event>, async_channel::Receiver<Event>),
}

/// The pause process as this agent reaches it.
struct Pause {
    directory: OwnedFd,
    pidfd: OwnedFd,
}

pub(super) struct State {
    link: Option<Arc<Link>>,
    pid: u32,
    dead: bool,
    records: Vec<ContainerStatus>,
    /// Dropped, and so cancelled, with the last handle.
    _reader: Option<smol::Task<()>>,
}

impl Sandbox {
    fn new(shared: Arc<Shared>, facts: Facts, pause: Option<Pause>) -> Sandbox {
        let dead = pause.is_none();
        let state = State { link: None, pid: 0, dead, records: Vec::new(), _reader: None };
        Sandbox {
            inner: Arc::new(Inner {
                shared,
                facts,
                pause,
                state: Mutex::new(state),
                changed: event_listener::Event::new(),
                events: async_channel::bounded(MAX_EVENTS),
            }),
        }
    }

    /// A sandbox whose pause was just started.
    pub(super) fn living(shared: Arc<Shared>, facts: Facts, directory: OwnedFd, pidfd: OwnedFd) -> Sandbox {
        Sandbox::new(shared, facts, Some(Pause { directory, pidfd }))
    }

    /// A sandbox whose pause is gone: its state file is what is known.
    pub(super) fn dead(shared: Arc<Shared>, facts: Facts) -> Sandbox {
        let sandbox = Sandbox::new(shared, facts, None);
        let records = sandbox.inner.records_of_the_dead();
        sandbox.inner.state().records = records;
        sandbox
    }

    /// A sandbox of an earlier agent. `None` when its pause is gone.
    pub(super) async fn reconnect(shared: Arc<Shared>, facts: Facts, directory: OwnedFd) -> Option<Sandbox> {
        // Who answers on the socket lives; its number is therefore not another process's yet.
        let pid = Link::connect(&directory).and_then(|link| link.peer_pid()).ok()?;
        let pid = rustix::process::Pid::from_raw(pid as i32)?;
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()?;
        let sandbox = Sandbox::living(shared, facts, directory, pidfd);
        let patience = async {
            smol::Timer::after(ADOPT_PATIENCE).await;
            Ok(())
        };
        let attached = future::or(sandbox.attach(false), patience).await;
        if attached.is_err() && !sandbox.is_alive() {
            return None;
        }
        let mut state = sandbox.inner.state();
        if state.records.is_empty() {
            state.records = sandbox.inner.records_on_file().unwrap_or_default();
        }
        drop(state);
        Some(sandbox)
    }

    /// Connects and learns what the pause knows: nothing yet, when it is `fresh`.
    pub(super) async fn attach(&self, fresh: bool) -> Result<(), Error> {
        let pause = self.inner.pause.as_ref().ok_or(Error::Dead)?;
        let link = Link::connect(&pause.directory)
            .map_err(|source| Error::Io { what: "connect to the pause process".into(), source })?;
        let link = Arc::new(link);
        let (ready, attached) = async_channel::bounded(1);
        let reader = read_for_ever(Arc::downgrade(&self.inner), link.clone(), fresh, ready);
        {
            let mut state = self.inner.state();
            state.pid = link.peer_pid().unwrap_or(0);
            state.link = Some(link);
            state._reader = Some(self.inner.shared.executor.spawn(reader));
        }
        attached.recv().await.unwrap_or(Err(Error::Dead))
    }

    pub fn uid(&self) -> &PodUid {
        &self.inner.facts.uid
    }

    /// `SandboxSpec::note` as given at its creation.
    pub fn note(&self) -> &[u8] {
        &self.inner.facts.note
    }

    /// False once the pause process ended: only `containers`, `termination_message` and `remove`
    /// make sense then.
    pub fn is_alive(&self) -> bool {
        !self.inner.state().dead
    }

    /// Milliseconds since the Unix epoch.
    pub fn created_at(&self) -> i64 {
        self.inner.facts.created_at
    }

    /// The pause's process id in the agent's PID namespace (`/proc/PID/ns/net`).
    pub fn pid(&self) -> u32 {
        self.inner.state().pid
    }

    /// Every container not yet removed, running or ended, in order of start.
    pub fn containers(&self) -> Vec<ContainerStatus> {
        self.inner.state().records.clone()
    }

    /// What happens from now on; each event goes to one receiver. A hint, see [`Event`].
    pub fn events(&self) -> async_channel::Receiver<Event> {
        self.inner.events.1.clone()
    }

    /// The container's processes in the agent's PID namespace, its first one first.
    pub fn processes(&self, id: &ContainerId) -> Vec<u32> {
        let mut pids = cgroup::processes(&*self.inner.shared.cgroups, &self.inner.group(id)).unwrap_or_default();
        pids.sort_unstable();
        pids
    }

    /// Sends a signal to a container's own process. Not an error when it has ended.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a container that is not there.
    pub async fn signal(&self, id: &ContainerId, signal: i32) -> Result<(), Error> {
        let message = wire::Signal { container: text(&id.to_string())?, signal };
        let answer = self.inner.link()?.ask(request::SIGNAL, |w| message.encode(w)).await?;
        answer.map(drop).map_err(|failure| refusal(id, "signal", failure))
    }

    /// SIGKILL to everything in the container, and waits for its end.
    ///
    /// # Errors
    /// As [`Sandbox::signal`].
    pub async fn kill(&self, id: &ContainerId) -> Result<ContainerStatus, Error> {
        self.signal(id, libc::SIGKILL).await?;
        self.wait(id).await
    }

    /// Waits for a container's end.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such container (any more).
    pub async fn wait(&self, id: &ContainerId) -> Result<ContainerStatus, Error> {
        loop {
            let changed = self.inner.changed.listen();
            let status = self.containers().into_iter().find(|c| c.id == *id);
            match status {
                None => return Err(Error::NotFound(id.clone())),
                Some(status) if status.exit.is_some() => return Ok(status),
                Some(_) => changed.await,
            }
        }
    }

    /// Changes limits of a running container in place.
    ///
    /// # Errors
    /// The kernel refuses a limit, say memory below what is in use.
    pub async fn update(&self, id: &ContainerId, resources: &Resources) -> Result<(), Error> {
        let (shared, group, resources) = (self.inner.shared.clone(), self.inner.group(id), *resources);
        let failed = format!("change limits of {group}");
        let result = smol::unblock(move || shared.cgroups.update(&group, &resources)).await;
        result.map_err(|source| Error::Io { what: failed, source })
    }

    /// At most 4 KiB from the end of the container's termination message, lossy UTF-8; empty when
    /// there is none.
    pub async fn termination_message(&self, id: &ContainerId) -> String {
        let path = self.inner.container_directory(id);
        smol::unblock(move || super::container::termination_message(&path)).await
    }

    /// Ends every process of the pod at once (SIGKILL) and removes cgroups, mounts, upper
    /// directories and the run directory. Goes on after an error and reports them all.
    ///
    /// # Errors
    /// Every part that could not be removed; calling again tries again.
    pub async fn remove(&self) -> Result<(), Vec<Error>> {
        let inner = self.inner.clone();
        if inner.facts.host_pid {
            let inner = inner.clone();
            let kill = move || cgroup::kill_below(&*inner.shared.cgroups, &inner.pod_group());
            let _ = smol::unblock(kill).await;
        }
        if let Some(pause) = &inner.pause {
            // Fails only when it has ended already.
            let _ = rustix::process::pidfd_send_signal(&pause.pidfd, Signal::KILL);
            ended(&pause.pidfd).await;
        }
        inner.die();
        let errors = smol::unblock(move || super::container::remove_all(&inner)).await;
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }
}

impl Inner {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }

    pub fn link(&self) -> Result<Arc<Link>, Error> {
        let state = self.state();
        state.link.clone().filter(|_| !state.dead).ok_or(Error::Dead)
    }

    pub fn pod_group(&self) -> String {
        format!("pods/{}", self.facts.uid)
    }

    pub fn group(&self, id: &ContainerId) -> String {
        format!("pods/{}/{id}", self.facts.uid)
    }

    pub fn container_directory(&self, id: &ContainerId) -> PathBuf {
        self.facts.directory.join(id.to_string())
    }

    /// Takes over what the pause says of one container.
    pub fn learn(&self, status: ContainerStatus) {
        let mut state = self.state();
        match state.records.iter_mut().find(|r| r.id == status.id) {
            // An answer may come after the event of an early end.
            Some(known) if known.exit.is_some() && status.exit.is_none() => {}
            Some(known) => *known = status,
            None => state.records.push(status),
        }
        drop(state);
        self.changed.notify(usize::MAX);
    }

    pub fn forget(&self, id: &ContainerId) {
        self.state().records.retain(|r| r.id != *id);
        self.changed.notify(usize::MAX);
    }

    fn records_on_file(&self) -> Option<Vec<ContainerStatus>> {
        let raw = fs::read(self.facts.directory.join(wire::STATE_FILE)).ok()?;
        let (_, records) = wire::decode_state(&raw).ok()?;
        Some(records.iter().filter_map(status).collect())
    }

    /// What ran when the pause ended has ended with it.
    fn records_of_the_dead(&self) -> Vec<ContainerStatus> {
        let mut records = self.records_on_file().unwrap_or_default();
        for record in records.iter_mut().filter(|r| r.exit.is_none()) {
            let exit = ExitStatus {
                code: 128 + libc::SIGKILL,
                signal: Some(libc::SIGKILL),
                oom_killed: false,
                lost: true,
                finished_at: now(),
            };
            record.exit = Some(exit);
        }
        records
    }

    /// The pause has ended.
    fn die(&self) {
        if let Some(pause) = &self.pause {
            // Only its parent can reap it; after a restart that is somebody else.
            let _ = rustix::process::waitid(
                WaitId::PidFd(pause.pidfd.as_fd()),
                WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
            );
        }
        let mut state = self.state();
        if std::mem::replace(&mut state.dead, true) {
            return;
        }
        state.link = None;
        let mut records = self.records_of_the_dead();
        // What this agent saw is at least as new as the file.
        for known in state.records.drain(..).filter(|k| k.exit.is_some()) {
            match records.iter_mut().find(|r| r.id == known.id) {
                Some(record) => *record = known,
                None => records.push(known),
            }
        }
        state.records = records;
        drop(state);
        let _ = self.events.0.try_send(Event::SandboxDied);
        self.changed.notify(usize::MAX);
    }

    fn event(&self, message: &Message) {
        if message.kind != reply::EXITED {
            return;
        }
        let record = Record::decode(&mut Reader::new(&message.body));
        if let Some(status) = record.ok().as_ref().and_then(status) {
            self.learn(status.clone());
            let _ = self.events.0.try_send(Event::Exited(status));
        }
    }

    /// Agrees on a version and learns of every container.
    async fn sync(&self, link: &Link, fresh: bool) -> Result<(), Error> {
        link.greet().await?;
        if fresh {
            return Ok(());
        }
        let message = match link.ask(request::LIST, |_| ()).await? {
            Ok(message) if message.kind == reply::CONTAINERS => message,
            other => return Err(Error::Protocol(format!("{other:?} in answer to list"))),
        };
        let records = Reader::new(&message.body).list(Record::decode);
        let records = records.map_err(|_| Error::Protocol("a list that cannot be read".into()))?;
        let mut fresh: Vec<_> = records.iter().filter_map(status).collect();
        let mut state = self.state();
        // Ended while the connection was away: nobody else will say so.
        for status in fresh.iter().filter(|s| s.exit.is_some()) {
            if state.records.iter().any(|r| r.id == status.id && r.exit.is_none()) {
                let _ = self.events.0.try_send(Event::Exited(status.clone()));
            }
        }
        std::mem::swap(&mut state.records, &mut fresh);
        drop(state);
        self.changed.notify(usize::MAX);
        Ok(())
    }
}

/// The sandbox's one task: reads, and connects again for as long as the pause lives.
async fn read_for_ever(
    inner: Weak<Inner>,
    mut link: Arc<Link>,
    mut fresh: bool,
    ready: async_channel::Sender<Result<(), Error>>,
) {
    loop {
        let on_event = |message: Message| {
            if let Some(inner) = inner.upgrade() {
                inner.event(&message);
            }
        };
        let sync = async {
            if let Some(inner) = inner.upgrade() {
                let result = inner.sync(&link, fresh).await;
                let _ = ready.try_send(result);
            }
            future::pending().await
        };
        future::or(link.read(on_event), sync).await;
        match connect_again(&inner).await {
            Some(other) => (link, fresh) = (other, false),
            None => return,
        }
    }
}

/// `None` once the pause has ended, or nobody holds the sandbox any more.
async fn connect_again(inner: &Weak<Inner>) -> Option<Arc<Link>> {
    loop {
        let inner = inner.upgrade()?;
        let pause = inner.pause.as_ref()?;
        match Link::connect(&pause.directory) {
            Ok(link) => {
                let link = Arc::new(link);
                inner.state().link = Some(link.clone());
                return Some(link);
            }
            Err(_) => {
                inner.state().link = None;
                let pause_a_little = async {
                    smol::Timer::after(RECONNECT_PAUSE).await;
                    false
                };
                let died = async {
                    ended(&pause.pidfd).await;
                    true
                };
                if future::or(died, pause_a_little).await {
                    inner.die();
                    return None;
                }
            }
        }
    }
}

/// A pidfd is readable once its process has ended.
async fn ended(pidfd: &OwnedFd) {
    let copy = pidfd.try_clone();
    if let Ok(watched) = copy.and_then(Async::new_nonblocking) {
        let _ = watched.readable().await;
    }
}

fn status<S: AsRef<std::ffi::CStr>>(record: &Record<S>) -> Option<ContainerStatus> {
    Some(ContainerStatus {
        id: ContainerId::parse(record.id.as_ref().to_str().ok()?)?,
        started_at: record.started_at,
        exit: record.exit.as_ref().map(|e| ExitStatus {
            code: e.code,
            signal: (e.signal != 0).then_some(e.signal),
            oom_killed: e.oom_killed,
            lost: false,
            finished_at: e.finished_at,
        }),
    })
}

pub(super) fn start_error(failure: wire::Failure, what: String) -> Error {
    let source = io::Error::from_raw_os_error(failure.errno);
    Error::Start { stage: failure.stage.name().into(), what, source }
}

/// A request about a container that the pause did not carry out.
pub(super) fn refusal(id: &ContainerId, what: &str, failure: wire::Failure) -> Error {
    match failure.errno {
        libc::ENOENT | libc::ESRCH if failure.stage == wire::Stage::Request => Error::NotFound(id.clone()),
        _ => start_error(failure, format!("{what} {id}")),
    }
}

/// The status of a start, as the pause answers it.
pub(super) fn started(message: &Message) -> Result<ContainerStatus, Error> {
    let record = Record::decode(&mut Reader::new(&message.body)).ok();
    record.as_ref().and_then(status).ok_or_else(|| Error::Protocol("a start that cannot be read".into()))
}

impl std::fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sandbox({}, pid {})", self.uid(), self.pid())
    }
}

impl AsRawFd for Sandbox {
    /// The pause's pidfd, or −1.
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.inner.pause.as_ref().map_or(-1, |p| p.pidfd.as_raw_fd())
    }
}
