//! A node's life: the link first, then the ledger's pods, until a signal; pods go on after it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::convert::Infallible;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use async_channel::{Receiver, Sender};
use coracle_images::{Images, Platform, Sha256};
use coracle_shared::ids::PodUid;
use coracle_shared::report::{Condition, EventReport, PodReport};
use futures_lite::FutureExt;

use super::conditions;
use super::socket::Desk;
use super::turns::{Acting, Turns};
use super::{Gates, Hands, Node, NodeStreams};
use crate::ledger::{Book, Keeper, LedgerError, Opened, Publication, open_or_refill};
use crate::link::{BoxFuture, Desired, LinkState, Reporter, Streams};
use crate::network::{Network, NetworkConfig};
use crate::reconcile::driver::{Board, Clock, Driver, Input, Sink};
use crate::reconcile::fleet::{Fleet, Found};
use crate::reconcile::work::Work;
use crate::report::node::{NodeFacts, disk, observe};
use crate::runtime::{Runtime, RuntimeConfig};
use crate::trace;
use crate::volumes::Volumes;

/// How much is waiting for the driver before whoever brings more has to wait.
const INPUTS: usize = 1024;
/// What all log files of the node may hold: they lie in memory.
const LOG_BUDGET: u64 = 64 << 20;
/// How often the disk is looked at and the driver asked whether it lives. No faster than a probe.
const MINDING: Duration = Duration::from_secs(30);
/// A driver that does not answer within this is stuck.
const ANSWER: Duration = Duration::from_secs(10);
/// Between two tries to set up what the node needs.
const RETRY: Duration = Duration::from_secs(5);

/// What a node is told at its start.
#[derive(Clone, Debug)]
pub struct Options {
    pub name: String,
    pub state: PathBuf,
    pub runtime_dir: PathBuf,
    pub cgroup_root: PathBuf,
    pub pause: PathBuf,
    pub registries: Option<PathBuf>,
    /// The agent's own program, of which its short-lived children are made.
    pub program: PathBuf,
}

/// The node's connection, whatever it is made of.
pub struct Uplink {
    /// Never ends.
    pub work: BoxFuture<'static, Infallible>,
    pub state: Arc<dyn Fn() -> LinkState + Send + Sync>,
}

/// Why a node does not start.
#[derive(Debug)]
pub enum RunError {
    Io { what: String, source: io::Error },
    Ledger(LedgerError),
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RunError::Io { what, source } => write!(f, "{what}: {source}"),
            RunError::Ledger(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for RunError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            RunError::Io { source, .. } => Some(source),
            RunError::Ledger(source) => Some(source),
        }
    }
}

impl Sink for Reporter {
    fn pod(&self, report: PodReport) {
        Reporter::pod(self, report);
    }

    fn event(&self, event: EventReport) {
        Reporter::event(self, event);
    }

    fn forget(&self, uid: &PodUid) {
        Reporter::forget(self, uid);
    }
}

/// What everything of a running agent shares.
#[derive(Clone)]
struct Agent {
    options: Arc<Options>,
    executor: Arc<smol::Executor<'static>>,
    keeper: Keeper,
    reporter: Reporter,
    board: Board,
    node: Arc<OnceLock<Arc<Node>>>,
    inputs: Sender<Input>,
    /// Wakes the network task.
    network_news: Sender<()>,
    turns: Arc<Turns>,
}

/// Runs the node until `ended` resolves. Pods are left running. `connect` makes the connection to the
/// server from what the node has to offer.
///
/// # Errors
/// The directories or the ledger cannot be used at all.
pub fn run(
    options: Options,
    connect: impl FnOnce(Arc<dyn Desired>, Arc<dyn Streams>, Reporter) -> Uplink,
    ended: impl Future<Output = ()>,
) -> Result<(), RunError> {
    let at = |path: &Path| {
        let what = path.display().to_string();
        move |source| RunError::Io { what, source }
    };
    fs::create_dir_all(&options.runtime_dir).map_err(at(&options.runtime_dir))?;
    let (work, quarantined) = Work::open(&options.runtime_dir, &options.state).map_err(at(&options.runtime_dir))?;
    let (published, publications) = async_channel::unbounded();
    let (keeper, clean) = open_keeper(&options, quarantined, published)?;
    let (inputs, arrived) = async_channel::bounded(INPUTS);
    let (network_news, network_wanted) = async_channel::bounded(1);
    let agent = Agent {
        options: Arc::new(options),
        executor: Arc::new(smol::Executor::new()),
        keeper,
        reporter: Reporter::new(),
        board: Board::default(),
        node: Arc::default(),
        inputs,
        network_news,
        turns: Arc::default(),
    };
    let streams = NodeStreams { node: Arc::clone(&agent.node), board: agent.board.clone() };
    let acting = Acting { keeper: agent.keeper.clone(), turns: agent.turns.clone(), news: agent.network_news.clone() };
    let Uplink { work: link, state } = connect(Arc::new(acting), Arc::new(streams), agent.reporter.clone());
    let executor = Arc::clone(&agent.executor);
    smol::block_on(executor.run(async {
        // The link comes up first and on its own: nothing below can hold it up.
        let link = executor.spawn(link);
        let driver = executor.spawn(agent.clone().drive(work, arrived));
        let rooms = [
            executor.spawn(agent.clone().herald(publications)),
            executor.spawn(agent.clone().keep_network(network_wanted)),
            executor.spawn(agent.clone().mind()),
            executor.spawn(agent.clone().listen(state)),
        ];
        ended.await;
        drop(link);
        agent.inputs.close();
        // Without a node nothing is in work, and nothing answers.
        if agent.node.get().is_some() {
            driver.await.close();
        }
        for room in rooms {
            room.cancel().await;
        }
        agent.let_go().await;
    }));
    agent.keeper.close();
    fs::write(&clean, b"").map_err(at(&clean))
}

fn open_keeper(
    options: &Options,
    quarantined: BTreeSet<PodUid>,
    published: Sender<Publication>,
) -> Result<(Keeper, PathBuf), RunError> {
    let clean = options.runtime_dir.join("ledger.clean");
    let was_clean = fs::remove_file(&clean).is_ok();
    let Opened { ledger, contents, moved_aside } =
        open_or_refill(&options.state, &options.program, was_clean).map_err(RunError::Ledger)?;
    if let Some((aside, why)) = moved_aside {
        eprintln!(
            "ledger: damaged ({why}); it was moved to {} and is refilled from the server; what runs is left running",
            aside.display()
        );
    }
    for uid in &quarantined {
        eprintln!("pod {uid}: the agent died twice while working on it; it is left alone for a while");
    }
    let (book, news) = Book::new(contents, quarantined);
    for (id, why) in news.unreadable {
        eprintln!("ledger: item {} cannot be read and is left alone: {why}", id.0);
    }
    Ok((Keeper::new(ledger, book, published), clean))
}

/// Runs the driver on a thread of its own: whatever it hangs in, the connection lives and says so.
async fn alone(driver: Driver<Hands, Reporter>, found: BTreeMap<PodUid, Found>) -> Work {
    let (tell, ended) = async_channel::bounded(1);
    let work = move || drop(tell.send_blocking(smol::block_on(driver.run(found))));
    let thread = std::thread::Builder::new().name("reconcile".into()).spawn(work);
    match (thread, ended.recv().await) {
        (Ok(_), Ok(work)) => work,
        (Err(e), _) => die(&format!("no thread can be had: {e}")),
        (Ok(_), Err(_)) => die("the reconcile loop has failed"),
    }
}

/// Pods outlive the agent: what starts it again starts anew from the ledger.
fn die(why: &str) -> ! {
    eprintln!("node: {why}");
    std::process::abort()
}

impl Agent {
    /// The pods' driver, once there is a node to drive.
    async fn drive(self, work: Work, inputs: Receiver<Input>) -> Work {
        let (node, found) = self.clone().start_node().await;
        let _ = self.node.set(Arc::clone(&node));
        self.report_node();
        let _ = self.network_news.try_send(());
        let keeper = self.keeper.clone();
        let driver = Driver {
            fleet: Fleet::new(),
            clock: Clock::start(),
            inputs,
            effects: Hands(node),
            sink: self.reporter.clone(),
            board: self.board.clone(),
            work,
            desired: Box::new(move || keeper.book().pods()),
        };
        alone(driver, found).await
    }

    /// Ends what watches pods, so that nothing holds the node's directories any more.
    async fn let_go(&self) {
        let pods = self.node.get().map(|node| std::mem::take(&mut *node.pods()));
        for watch in pods.into_iter().flatten().filter_map(|(_, live)| live.watch) {
            watch.cancel().await;
        }
    }

    /// Tries until the node's rooms are open; says why they are not.
    async fn start_node(self) -> (Arc<Node>, BTreeMap<PodUid, Found>) {
        loop {
            match self.open_node().await {
                Ok(node) => match node.adopt().await {
                    Ok(found) => return (node, found),
                    Err(e) => self.not_started(format!("find what runs: {e}")),
                },
                Err(e) => self.not_started(e),
            }
            smol::Timer::after(RETRY).await;
        }
    }

    fn not_started(&self, why: String) {
        eprintln!("node: cannot start pods: {why}");
        self.reporter.liveness(false);
        let mut facts = NodeFacts { name: self.options.name.clone(), ..NodeFacts::default() };
        facts.conditions.push(Condition {
            kind: "AgentStuck".into(),
            status: true,
            reason: "CannotStart".into(),
            message: why,
        });
        self.reporter.node(observe(Path::new("/"), &self.options.state, &facts));
    }

    async fn open_node(&self) -> Result<Arc<Node>, String> {
        let options = Arc::clone(&self.options);
        let executor = Arc::clone(&self.executor);
        type Rooms = (Images, Network, Volumes, Runtime);
        let opened = smol::unblock(move || -> Result<Rooms, String> {
            let run = &options.runtime_dir;
            let mut config =
                coracle_images::Config { registries: options.registries.clone(), ..coracle_images::Config::default() };
            config.unpacker.program.clone_from(&options.program);
            let images = Images::open(&options.state.join("images"), config).map_err(|e| format!("images: {e}"))?;
            let network = NetworkConfig::new(run.join("network"), options.program.clone());
            let network = Network::new(network).map_err(|e| format!("network: {e}"))?;
            let volumes = Volumes::open(&options.state, run).map_err(|e| format!("volumes: {e}"))?;
            let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").map_err(|e| format!("boot id: {e}"))?;
            let runtime = RuntimeConfig {
                run_dir: run.join("runtime"),
                pause_path: options.pause.clone(),
                cgroup_root: options.cgroup_root.clone(),
                node: options.name.clone(),
                boot_id: boot_id.trim().to_owned(),
                log_budget: LOG_BUDGET,
            };
            let runtime = Runtime::new(runtime, executor).map_err(|e| format!("runtime: {e}"))?;
            if let Err(e) = runtime.enter_agent_cgroup() {
                // Only its accounting is lost.
                eprintln!("node: the agent stays in its caller's cgroup: {e}");
            }
            Ok((images, network, volumes, runtime))
        });
        let (images, network, volumes, runtime) = opened.await?;
        let facts = NodeFacts::default();
        Ok(Arc::new(Node {
            name: self.options.name.clone(),
            executor: Arc::clone(&self.executor),
            keeper: self.keeper.clone(),
            images: Arc::new(images),
            platform: Platform::host(),
            network,
            volumes,
            runtime,
            inputs: self.inputs.clone(),
            logs: self.options.runtime_dir.join("logs"),
            allocatable: observe(Path::new("/"), &self.options.state, &facts).allocatable,
            gates: Gates::default(),
            pods: Default::default(),
        }))
    }

    /// Tells everybody what the ledger took in: the driver first.
    async fn herald(self, publications: Receiver<Publication>) {
        while let Ok(publication) = publications.recv().await {
            let network = publication.node || publication.services || publication.routes;
            // Ends with the driver.
            let _ = self.inputs.send(Input::Published(publication)).await;
            if network {
                // Full: the task has not looked yet, and will see this too.
                let _ = self.network_news.try_send(());
            }
        }
    }

    /// Keeps services, routes and the node's own network as the ledger has them.
    async fn keep_network(self, wanted: Receiver<()>) {
        while wanted.recv().await.is_ok() {
            let Some(node) = self.node.get().cloned() else { continue };
            let Some(config) = self.keeper.book().node() else { continue };
            let turn = self.turns.newest();
            let services: Vec<_> = self.keeper.book().services().map(|s| (**s).clone()).collect();
            let routes: Vec<_> = self.keeper.book().routes().map(|r| (**r).clone()).collect();
            let network = node.network.clone();
            let made = node.blocking(move || {
                network.configure(&config)?;
                network.set_services(&services)?;
                network.set_routes(&routes)
            });
            match made.await {
                Ok(()) => {
                    self.turns.done(turn);
                    let host_ip = node.network.uplink().ok().map(|u| u.address);
                    let _ = self.inputs.send(Input::NetworkReady(host_ip)).await;
                    self.report_node();
                }
                Err(e) => {
                    eprintln!("network: {e}");
                    let again = self.network_news.clone();
                    let later = async move {
                        smol::Timer::after(RETRY).await;
                        let _ = again.try_send(());
                    };
                    self.executor.spawn(later).detach();
                }
            }
        }
    }

    fn report_node(&self) {
        let Some(node) = self.node.get() else { return };
        let conditions = conditions::of(node, &self.board, &self.options.state);
        let addresses = node.network.uplink().map(|u| vec![u.address]).unwrap_or_default();
        let facts = NodeFacts { name: self.options.name.clone(), addresses, conditions, ..NodeFacts::default() };
        self.reporter.node(observe(Path::new("/"), &self.options.state, &facts));
    }

    /// Looks at the disk now and then, and whether the driver answers.
    async fn mind(self) {
        let mut answering = true;
        loop {
            smol::Timer::after(MINDING).await;
            let Some(node) = self.node.get().cloned() else { continue };
            let answers = self.driver_answers().await;
            if answers != answering {
                answering = answers;
                self.reporter.liveness(answers);
            }
            self.report_node();
            let pressure = coracle_images::Pressure::default();
            let (free, total) = disk(&self.options.state).unwrap_or((0, 0));
            if total > 0 && (total - free) / (total / 100).max(1) >= u64::from(pressure.high) {
                self.collect_images(&node).await;
            }
        }
    }

    async fn driver_answers(&self) -> bool {
        let (answer, answered) = async_channel::bounded(1);
        let ask = async { self.inputs.send(Input::Ping(answer)).await.is_ok() && answered.recv().await.is_ok() };
        let late = async {
            smol::Timer::after(ANSWER).await;
            false
        };
        ask.or(late).await
    }

    async fn collect_images(&self, node: &Arc<Node>) {
        let digest = |id: &str| Sha256::from_hex(id.rsplit_once("sha256:")?.1);
        let mut in_use: HashSet<Sha256> = HashSet::new();
        for report in self.board.read().values() {
            let all = report.init_containers.iter().chain(&report.containers);
            in_use.extend(all.filter_map(|c| digest(&c.image_id)));
        }
        in_use.extend(node.pods().values().flat_map(|live| live.images.values().map(|image| image.id)));
        let images = Arc::clone(&node.images);
        let pressure = coracle_images::Pressure::default();
        let _stage = trace::stage("collecting", "images");
        match node.blocking(move || images.gc(&in_use, pressure, SystemTime::now())).await {
            Ok(c) if c.layers > 0 => eprintln!("images: collected {} images, {} bytes", c.images.len(), c.bytes),
            Ok(_) => {}
            Err(e) => eprintln!("images: collecting: {e}"),
        }
    }

    async fn listen(self, link: Arc<dyn Fn() -> LinkState + Send + Sync>) {
        let path = self.options.runtime_dir.join("agent.sock");
        let state = self.options.state.clone();
        let desk = Desk { name: self.options.name.clone(), state, node: self.node, board: self.board, link };
        if let Err(e) = desk.serve(&path, &self.executor).await {
            eprintln!("socket {}: {e}", path.display());
        }
    }
}
