//! A server's nodes room over a store in memory, and agents with a ledger in memory.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use coracle_agent::identity::{Identity, Membership};
use coracle_agent::link::{
    self, BoxFuture, Desired, ExecStream, JoinError, Link, LinkState, LogReader, Newcomer, OpenError, Reporter, Streams,
};
use coracle_server::nodes::{ClusterNetwork, Nodes, Setup, parse_cidr};
use coracle_server::pki::Pki;
use coracle_shared::codec::decode_body;
use coracle_shared::contact::Contacts;
use coracle_shared::desired::{Body, Item, ItemId, NodeConfig, PodItem, ServiceItem, SetHead, SetKind};
use coracle_shared::digest;
use coracle_shared::ids::{Digest, Generation, PodUid};
use coracle_shared::join::JoinLine;
use coracle_shared::report::*;
use coracle_shared::session::Apply;
use coracle_shared::wire::{ExecIn, ExecOpen, ExecOut, Heads, LogsOpen, PROTOCOLS, ProtocolRange};
use coracle_store::{Commit, Key, Memory, Store, monotonic};
use serde_json::{Value, json};

pub struct World {
    dir: tempfile::TempDir,
    /// Seconds by which the server's wall clock is off.
    off: Arc<AtomicI64>,
    pub protocols: ProtocolRange,
    pki: Arc<Pki>,
    store: Arc<Memory>,
    /// `None` only while it starts again.
    nodes: Option<Arc<Nodes>>,
    task: Option<smol::Task<()>>,
}

fn network() -> ClusterNetwork {
    ClusterNetwork {
        cluster_cidr: parse_cidr("10.42.0.0/16").unwrap(),
        service_cidr: parse_cidr("10.43.0.0/16").unwrap(),
        dns_ip: "10.43.0.10".parse().unwrap(),
        domain: "cluster.local".into(),
    }
}

impl World {
    pub fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        let pki = Arc::new(Pki::open(dir.path(), &[], SystemTime::now()).unwrap());
        let store = Arc::new(Memory::new([1; 16], monotonic()));
        let off = Arc::new(AtomicI64::new(0));
        let address = "127.0.0.1:0".parse().unwrap();
        let nodes = Arc::new(Nodes::open(setup(address, &off, PROTOCOLS), pki.clone(), store.clone()).unwrap());
        let (task, nodes, protocols) = (Some(run(&nodes)), Some(nodes), PROTOCOLS);
        let world = World { dir, off, protocols, pki, store, task, nodes };
        for namespace in ["d", "default", "kube-system"] {
            world.put("namespaces", "", namespace, json!({}));
        }
        world
    }

    pub fn address(&self) -> SocketAddr {
        self.running().address().unwrap()
    }

    pub fn nodes(&self) -> Arc<Nodes> {
        self.running().clone()
    }

    /// The server's wall clock jumps to be this far off, and its own certificates follow, as the program
    /// has them do.
    pub fn set_clock(&self, days_off: i64) {
        self.off.store(days_off * 86_400, Ordering::SeqCst);
        self.pki.renew(moved(SystemTime::now(), days_off * 86_400)).unwrap();
    }

    pub fn contacts(&self) -> Arc<dyn Contacts> {
        self.running().contacts()
    }

    /// The server process starts again on the same port and the same data.
    pub async fn restart(&mut self) {
        let address = self.address();
        if let Some(task) = self.task.take() {
            task.cancel().await;
        }
        if let Some(nodes) = self.nodes.take() {
            nodes.close().await;
        }
        self.pki = Arc::new(Pki::open(self.dir.path(), &[], SystemTime::now()).unwrap());
        // The old socket closes when the tasks of its sessions have ended.
        let nodes = loop {
            let setup = setup(address, &self.off, self.protocols);
            match Nodes::open(setup, self.pki.clone(), self.store.clone()) {
                Ok(nodes) => break Arc::new(nodes),
                Err(_) => smol::future::yield_now().await,
            }
        };
        self.task = Some(run(&nodes));
        self.nodes = Some(nodes);
    }

    fn running(&self) -> &Arc<Nodes> {
        self.nodes.as_ref().unwrap()
    }

    pub async fn restart_with_another_store(&mut self) {
        self.store = Arc::new(Memory::new([9; 16], monotonic()));
        self.restart().await;
    }

    pub fn token(&self, id: &str, changes: Value) -> JoinLine {
        let mut data = json!({
            "token-id": id,
            "token-secret": "0123456789abcdef",
            "usage-bootstrap-authentication": "true",
            "expiration": "2099-01-01T00:00:00Z",
        });
        data.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        let data: BTreeMap<&String, String> =
            data.as_object().unwrap().iter().map(|(k, v)| (k, STANDARD.encode(v.as_str().unwrap()))).collect();
        let object = json!({"type": "bootstrap.kubernetes.io/token", "data": data});
        self.put("secrets", "kube-system", &format!("bootstrap-token-{id}"), object);
        JoinLine {
            servers: vec![self.address().to_string()],
            token: format!("{id}.0123456789abcdef").parse().unwrap(),
            ca: self.pki.ca_fingerprint(),
        }
    }

    pub fn put(&self, resource: &str, namespace: &str, name: &str, mut object: Value) {
        object["metadata"]["name"] = name.into();
        if !namespace.is_empty() {
            object["metadata"]["namespace"] = namespace.into();
        }
        let commit = Commit::new().put(Key::new(resource, namespace, name), 1, object.to_string().into_bytes());
        self.store.commit_now(commit).unwrap();
    }

    pub fn delete(&self, resource: &str, namespace: &str, name: &str) {
        self.store.commit_now(Commit::new().delete(Key::new(resource, namespace, name))).unwrap();
    }

    pub fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        let item = self.store.get(&Key::new(resource, namespace, name))?;
        Some(serde_json::from_slice(&item.value).unwrap_or(Value::Bool(true)))
    }

    pub fn revision(&self) -> u64 {
        self.store.revision().0
    }

    pub fn revision_of(&self, resource: &str, namespace: &str, name: &str) -> u64 {
        self.store.get(&Key::new(resource, namespace, name)).unwrap().revision.0
    }

    pub async fn wait(&self, resource: &str, namespace: &str, name: &str, is: impl Fn(&Value) -> bool) -> Value {
        loop {
            let at = self.store.revision();
            if let Some(value) = self.get(resource, namespace, name).filter(|v| is(v)) {
                return value;
            }
            self.store.wait(at).await;
        }
    }
}

fn setup(address: SocketAddr, off: &Arc<AtomicI64>, protocols: ProtocolRange) -> Setup {
    let off = off.clone();
    let wall = move || moved(SystemTime::now(), off.load(Ordering::SeqCst));
    Setup { wall: Arc::new(wall), protocols, ..Setup::new(address, network()) }
}

fn moved(time: SystemTime, seconds: i64) -> SystemTime {
    let by = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 { time - by } else { time + by }
}

fn run(nodes: &Arc<Nodes>) -> smol::Task<()> {
    let nodes = nodes.clone();
    smol::spawn(async move { nodes.run().await })
}

/// What an agent's disk holds.
#[derive(Clone, Default)]
pub struct Held {
    sets: [BTreeMap<ItemId, Item>; 2],
    generations: [Generation; 2],
}

impl Held {
    pub fn get(&self, set: SetKind, id: &ItemId) -> Option<&Item> {
        self.sets[set as usize].get(id)
    }

    /// The generation's revision that a set was last brought to, whole.
    pub fn revision(&self, set: SetKind) -> u64 {
        self.generations[set as usize].revision
    }

    pub fn has(&self, id: &str) -> bool {
        let id = ItemId(id.into());
        self.sets.iter().any(|set| set.contains_key(&id))
    }

    pub fn body(&self, set: SetKind, id: &str) -> Option<Vec<u8>> {
        self.get(set, &ItemId(id.into())).map(|item| item.body.clone())
    }

    fn decoded(&self, set: SetKind, id: &str) -> Option<Body> {
        self.body(set, id).map(|bytes| decode_body(&bytes).unwrap())
    }

    pub fn config(&self) -> Option<NodeConfig> {
        match self.decoded(SetKind::Node, "node")? {
            Body::Node(config) => Some(config),
            _ => None,
        }
    }

    pub fn pod(&self, uid: &str) -> Option<PodItem> {
        match self.decoded(SetKind::Node, &format!("pod/{uid}"))? {
            Body::Pod(pod) => Some(pod),
            _ => None,
        }
    }

    pub fn service(&self, namespace: &str, name: &str) -> Option<ServiceItem> {
        match self.decoded(SetKind::Shared, &format!("service/{namespace}/{name}"))? {
            Body::Service(service) => Some(service),
            _ => None,
        }
    }

    fn digest(&self, set: SetKind) -> Digest {
        digest::of_set(self.sets[set as usize].iter().map(|(id, item)| (id, &item.hash)))
    }

    fn head(&self, set: SetKind) -> SetHead {
        match self.generations[set as usize] {
            g if g == Generation::default() && self.sets[set as usize].is_empty() => SetHead::default(),
            generation => SetHead { generation, digest: self.digest(set) },
        }
    }
}

#[derive(Default)]
struct Ledger {
    held: Mutex<Held>,
    applies: AtomicUsize,
    changed: event_listener_free::Signal,
}

/// A tiny signal, so that tests wait for events and never sleep.
mod event_listener_free {
    use async_channel::{Receiver, Sender};

    pub struct Signal(Sender<()>, Receiver<()>);

    impl Default for Signal {
        fn default() -> Signal {
            let (sender, receiver) = async_channel::bounded(1);
            Signal(sender, receiver)
        }
    }

    impl Signal {
        pub fn notify(&self) {
            let _ = self.0.try_send(());
        }

        pub async fn wait(&self) {
            let _ = self.1.recv().await;
        }
    }
}

impl Desired for Ledger {
    fn heads(&self) -> Heads {
        let held = self.held.lock().unwrap();
        Heads { node: held.head(SetKind::Node), shared: held.head(SetKind::Shared) }
    }

    fn index(&self, set: SetKind) -> BoxFuture<'_, Result<Vec<(ItemId, Digest)>, String>> {
        let held = self.held.lock().unwrap();
        let entries = held.sets[set as usize].values().map(|item| (item.id.clone(), item.hash)).collect();
        Box::pin(async move { Ok(entries) })
    }

    fn apply(&self, change: Apply) -> BoxFuture<'_, Result<Digest, String>> {
        self.applies.fetch_add(1, Ordering::Relaxed);
        let mut held = self.held.lock().unwrap();
        let set = &mut held.sets[change.set as usize];
        change.deletes.iter().for_each(|id| drop(set.remove(id)));
        set.extend(change.puts.into_iter().map(|item| (item.id.clone(), item)));
        if let Some(generation) = change.generation {
            held.generations[change.set as usize] = generation;
        }
        let digest = held.digest(change.set);
        self.changed.notify();
        Box::pin(async move { Ok(digest) })
    }
}

/// Containers that are not there: a log of 50,000 lines, and a command that echoes.
#[derive(Default)]
struct Fake {
    running: Arc<AtomicUsize>,
    changed: Arc<event_listener_free::Signal>,
}

impl Streams for Fake {
    fn open_logs(&self, request: LogsOpen) -> BoxFuture<'_, Result<LogReader, OpenError>> {
        Box::pin(async move {
            if request.target.container == "none" {
                return Err(OpenError::NotFound("no container none".into()));
            }
            let line = format!("line of {} tail {:?}\n", request.target.container, request.tail_lines);
            let text = line.repeat(50_000).into_bytes();
            Ok(Box::pin(futures_lite::io::Cursor::new(text)) as LogReader)
        })
    }

    fn open_exec(&self, _: ExecOpen) -> BoxFuture<'_, Result<ExecStream, OpenError>> {
        let (input, from_client) = async_channel::bounded(1);
        let (to_client, output) = async_channel::bounded(1);
        let (running, changed) = (self.running.clone(), self.changed.clone());
        running.fetch_add(1, Ordering::SeqCst);
        smol::spawn(async move {
            while let Ok(message) = from_client.recv().await {
                let out = match message {
                    ExecIn::Stdin(bytes) => ExecOut::Stdout(bytes),
                    ExecIn::CloseStdin => ExecOut::Exit(3),
                    _ => continue,
                };
                if to_client.send(out).await.is_err() {
                    break;
                }
            }
            running.fetch_sub(1, Ordering::SeqCst);
            changed.notify();
        })
        .detach();
        Box::pin(async move { Ok(ExecStream { input, output }) })
    }
}

pub struct Agent {
    dir: tempfile::TempDir,
    pub name: String,
    pub reporter: Reporter,
    ledger: Arc<Ledger>,
    streams: Arc<Fake>,
    link: Arc<Link>,
}

fn newcomer(name: &str) -> Newcomer {
    Newcomer { node: name.into(), hostname: format!("{name}-host"), architecture: "amd64".into() }
}

impl Agent {
    pub async fn join(_: &World, line: &JoinLine, name: &str) -> Result<Agent, JoinError> {
        let dir = tempfile::tempdir().unwrap();
        let joined = link::join(dir.path(), line, &newcomer(name)).await;
        if joined.is_err() {
            assert!(Identity::load(dir.path()).unwrap().is_none(), "half-joined");
        }
        let identity = Arc::new(joined?);
        let (ledger, streams, reporter) = (Arc::new(Ledger::default()), Arc::new(Fake::default()), Reporter::new());
        reporter.node(node_report(name));
        let link = Link::new(identity, ledger.clone(), streams.clone(), reporter.clone());
        Ok(Agent { dir, name: name.into(), reporter, ledger, streams, link: Arc::new(link) })
    }

    /// As after a crash between the server's answer and the certificate's file.
    pub fn forget_membership(&self) {
        for copy in ["certificate.1", "certificate.2"] {
            std::fs::remove_file(self.dir.path().join("identity").join(copy)).unwrap();
        }
    }

    /// What its disk says of it.
    pub fn membership(&self) -> Membership {
        Identity::load(self.dir.path()).unwrap().unwrap().membership()
    }

    /// As a machine that keeps its ledger and gets a new key, as `coracle node revoke` tells people to do.
    pub async fn join_anew(mut self, line: &JoinLine) -> Result<Agent, JoinError> {
        std::fs::remove_dir_all(self.dir.path().join("identity")).unwrap();
        let identity = Arc::new(link::join(self.dir.path(), line, &newcomer(&self.name)).await?);
        let (ledger, streams, reporter) = (self.ledger.clone(), self.streams.clone(), self.reporter.clone());
        self.link = Arc::new(Link::new(identity, ledger, streams, reporter));
        Ok(self)
    }

    pub async fn join_again(&self, _: &World, line: &JoinLine) -> Result<Identity, JoinError> {
        link::join(self.dir.path(), line, &newcomer(&self.name)).await
    }

    pub fn start(&self) -> Running {
        let link = self.link.clone();
        Running(Some(smol::spawn(async move { match link.run().await {} })))
    }

    pub async fn disconnect(&self) {}

    pub fn held(&self) -> Held {
        self.ledger.held.lock().unwrap().clone()
    }

    pub fn applies(&self) -> usize {
        self.ledger.applies.load(Ordering::Relaxed)
    }

    pub async fn wait_for(&self, is: impl Fn(&Held) -> bool) -> Held {
        loop {
            let held = self.held();
            if is(&held) {
                return held;
            }
            self.ledger.changed.wait().await;
        }
    }

    /// From the next start on it is an agent of other protocols.
    pub fn speak(&mut self, protocols: ProtocolRange) {
        let identity = Arc::new(Identity::load(self.dir.path()).unwrap().unwrap());
        let (ledger, streams, reporter) = (self.ledger.clone(), self.streams.clone(), self.reporter.clone());
        self.link = Arc::new(Link::new(identity, ledger, streams, reporter).speaking(protocols));
    }

    pub fn link_state(&self) -> LinkState {
        self.link.state()
    }

    pub async fn wait_state(&self, is: impl Fn(&LinkState) -> bool) -> LinkState {
        loop {
            let state = self.link.state();
            if is(&state) {
                return state;
            }
            // The link tells nobody when its state changes.
            smol::Timer::after(Duration::from_millis(5)).await;
        }
    }

    pub async fn wait_connected(&self) {
        self.wait_state(|s| matches!(s, LinkState::Connected { .. })).await;
    }

    pub async fn wait_commands_ended(&self) {
        while self.streams.running.load(Ordering::SeqCst) > 0 {
            self.streams.changed.wait().await;
        }
    }
}

/// A running link; it goes on when this is dropped.
pub struct Running(Option<smol::Task<()>>);

impl Running {
    pub async fn cancel(mut self) {
        if let Some(task) = self.0.take() {
            task.cancel().await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(task) = self.0.take() {
            task.detach();
        }
    }
}

pub fn pod(name: &str, uid: &str, node: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "d", "uid": uid, "managedFields": []},
        "spec": {
            "nodeName": node,
            "containers": [{"name": "c", "image": "i", "envFrom": [{"configMapRef": {"name": "cm"}}]}],
        },
    })
}

pub fn report(name: &str, uid: &str) -> PodReport {
    PodReport {
        uid: PodUid(uid.into()),
        namespace: "d".into(),
        name: name.into(),
        phase: Phase::Running,
        reason: String::new(),
        message: String::new(),
        host_ip: Some("192.0.2.1".parse().unwrap()),
        pod_ip: Some("10.42.0.7".parse().unwrap()),
        started_at: Some(1_800_000_000_000),
        initialized: true,
        ready: true,
        init_containers: vec![],
        containers: vec![ContainerReport {
            name: "c".into(),
            image: "i".into(),
            image_id: "i@sha256:00".into(),
            container_id: "coracle://1".into(),
            state: ContainerState::Running { started_at: 1_800_000_000_000 },
            last: None,
            ready: true,
            started: true,
            restart_count: 0,
        }],
        gone: false,
    }
}

fn node_report(name: &str) -> NodeReport {
    let resources = Resources { cpu_millis: 2000, memory_bytes: 1 << 30, storage_bytes: 1 << 30, pods: 110 };
    NodeReport {
        addresses: vec!["192.0.2.1".parse().unwrap()],
        hostname: format!("{name}-host"),
        capacity: resources,
        allocatable: resources,
        architecture: "amd64".into(),
        os_image: "os".into(),
        kernel: "k".into(),
        machine_id: "m".into(),
        boot_id: "b".into(),
        agent_version: "0.1.0".into(),
        conditions: vec![],
        labels: Default::default(),
    }
}
