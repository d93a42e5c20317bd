//! What keeps the fleet going: one task that hands it what happened and does what it says.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use async_channel::{Receiver, Sender};
use coracle_shared::fault;
use coracle_shared::ids::PodUid;
use coracle_shared::report::{EventReport, Exit, PodReport};
use futures_lite::FutureExt;

use super::effects::Effects;
use super::fleet::{DesiredSet, Fleet, Found, Outcome, Output};
use super::plan::Action;
use super::state::Now;
use super::work::Work;
use crate::ledger::Publication;

/// Inputs that are taken in before the loop looks at anything else.
const BATCH: usize = 256;

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// The ledger has changed.
    Published(Publication),
    Done(PodUid, Outcome),
    /// A registry is being asked for this container's image.
    Pulling(PodUid, usize),
    Exited {
        uid: PodUid,
        container: String,
        attempt: u32,
        exit: Exit,
    },
    SandboxDied(PodUid),
    /// A container's postStart hook is done, or has failed with this sentence.
    Hooked {
        uid: PodUid,
        container: usize,
        attempt: u32,
        result: Result<(), String>,
    },
    /// A container's preStop hook has failed with this sentence.
    PreStopFailed {
        uid: PodUid,
        container: usize,
        message: String,
    },
    /// The node's network was made (anew): what waits for it may go on.
    NetworkReady(Option<std::net::Ipv4Addr>),
    /// Answered at once: whether the loop is alive.
    Ping(Sender<()>),
}

/// Where reports go. Never waits.
pub trait Sink {
    fn pod(&self, report: PodReport);
    fn event(&self, event: EventReport);
    fn forget(&self, uid: &PodUid);
}

/// The last report of every pod, for those on the node who ask.
#[derive(Clone, Debug, Default)]
pub struct Board(Arc<Mutex<BTreeMap<PodUid, PodReport>>>);

impl Board {
    pub fn read(&self) -> MutexGuard<'_, BTreeMap<PodUid, PodReport>> {
        // Only whole reports are put in.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The two clocks of a running agent.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    pub fn start() -> Self {
        Clock(Instant::now())
    }

    pub fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        Now { mono: millis(self.0.elapsed()), wall: i64::try_from(millis(wall)).unwrap_or(i64::MAX) }
    }
}

/// The loop's own things.
pub struct Driver<E, S> {
    pub fleet: Fleet,
    pub clock: Clock,
    pub inputs: Receiver<Input>,
    pub effects: E,
    pub sink: S,
    pub board: Board,
    pub work: Work,
    /// Reads the whole desired set: nothing else is ever acted on.
    pub desired: Box<dyn Fn() -> DesiredSet + Send + Sync>,
}

impl<E: Effects, S: Sink> Driver<E, S> {
    /// Takes over what an earlier agent left, and then never ends but with its inputs.
    pub async fn run(mut self, found: BTreeMap<PodUid, Found>) -> Work {
        self.fleet.found(found);
        self.fleet.desire(&(self.desired)(), self.clock.now());
        self.act();
        loop {
            let Some(first) = self.next().await else { return self.work };
            let mut news = Publication::default();
            if let Next::Input(input) = first {
                self.take(input, &mut news);
            }
            for _ in 0..BATCH {
                let Ok(input) = self.inputs.try_recv() else { break };
                self.take(input, &mut news);
            }
            self.publish(news);
            self.fleet.tick(self.clock.now());
            self.act();
        }
    }

    async fn next(&self) -> Option<Next> {
        let input = async { self.inputs.recv().await.ok().map(Next::Input) };
        let Some(wake) = self.fleet.wake() else { return input.await };
        let left = Duration::from_millis(wake.saturating_sub(self.clock.now().mono));
        let time = async {
            smol::Timer::after(left).await;
            Some(Next::Time)
        };
        input.or(time).await
    }

    fn take(&mut self, input: Input, news: &mut Publication) {
        let now = self.clock.now();
        match input {
            Input::Published(publication) => news.merge(publication),
            Input::Done(uid, outcome) => {
                if !matches!(outcome, Outcome::Image(..) | Outcome::Probed(..)) {
                    self.work.end(&uid, now.mono);
                }
                self.fleet.done(&uid, outcome, now);
            }
            Input::Pulling(uid, container) => self.fleet.pulling(&uid, container, now),
            Input::Exited { uid, container, attempt, exit } => self.fleet.exited(&uid, &container, attempt, exit, now),
            Input::SandboxDied(uid) => self.fleet.sandbox_died(&uid, now),
            Input::Hooked { uid, container, attempt, result } => {
                self.fleet.hooked(&uid, container, attempt, result, now);
            }
            Input::PreStopFailed { uid, container, message } => {
                self.fleet.pre_stop_failed(&uid, container, message, now);
            }
            Input::NetworkReady(host_ip) => {
                self.fleet.set_host_ip(host_ip, now);
                self.fleet.hurry(now);
            }
            Input::Ping(answer) => _ = answer.try_send(()),
        }
    }

    fn publish(&mut self, news: Publication) {
        let now = self.clock.now();
        if news.pods {
            self.fleet.desire(&(self.desired)(), now);
        }
        for (namespace, changed) in &news.data {
            self.fleet.data_changed(namespace, changed, now);
        }
        for (id, why) in news.unreadable {
            eprintln!("ledger: item {} cannot be read and is left alone: {why}", id.0);
        }
    }

    fn act(&mut self) {
        let Output { jobs, reports, events, forgotten, released } = self.fleet.drain();
        released.iter().chain(&forgotten).for_each(|uid| self.work.pardon(uid));
        for job in jobs {
            // A pull may take minutes, and a probe is nothing: they are no reason to suspect a pod.
            if !matches!(job.action, Action::EnsureImage(_) | Action::Probe(..)) {
                self.work.begin(job.uid());
            }
            if matches!(job.action, Action::Start(_)) {
                hang_in(job.view.metadata.annotations.get(fault::ANNOTATION));
            }
            self.effects.begin(job);
        }
        let mut board = self.board.read();
        for report in reports {
            board.insert(report.uid.clone(), report.clone());
            self.sink.pod(report);
        }
        for uid in forgotten {
            board.remove(&uid);
            self.sink.forget(&uid);
            self.effects.forget(&uid);
        }
        drop(board);
        events.into_iter().for_each(|event| self.sink.event(event));
    }
}

/// A loop that never comes back, at its fault point.
fn hang_in(annotation: Option<&String>) {
    while fault::strikes_in("reconcile-hang", annotation.map(String::as_str)) {
        eprintln!("fault point reconcile-hang strikes");
        std::thread::park();
    }
}

enum Next {
    Input(Input),
    Time,
}
