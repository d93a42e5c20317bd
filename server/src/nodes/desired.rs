//! Keeps what each connected node should be, from the store's change log.
//!
//! One follower reads the log; a change is compiled for the nodes that it concerns and for nobody
//! else. Nodes without a session cost an index entry a pod and nothing more.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use coracle_shared::desired::Item;
use coracle_shared::ids::Generation;
use coracle_shared::session::{Compiled, DesiredSet};
use coracle_store::indexes::{Index, node_name};
use coracle_store::{Clock, Event, HistoryError, Key, Range, Revision, Store, monotonic};
use event_listener::{Event as Signal, EventListener};

use super::compile::{self, ClusterNetwork, CompiledPod, Reference, Slice};
use super::hold::Holds;

/// Events taken from the log at once: bounds the time that sessions wait for the lock.
const EVENTS: usize = 500;
/// The resources that shape desired state; everything else passes by unparsed.
const FOLLOWED: [&str; 6] = ["pods", "configmaps", "secrets", "nodes", "services", SLICES];
const SLICES: &str = "endpointslices.discovery.k8s.io";

/// The desired sets of all connected nodes.
pub struct DesiredSets {
    store: Arc<dyn Store>,
    network: ClusterNetwork,
    state: Mutex<State>,
    shared_changed: Signal,
    clock: Clock,
}

struct State {
    /// Everything up to here has been compiled.
    at: Revision,
    pods_by_node: Index<String>,
    nodes: BTreeMap<String, NodeView>,
    shared: SharedView,
    /// `None` until then as well.
    shared_set: Option<DesiredSet>,
    holds: Holds,
}

/// A connected node.
struct NodeView {
    pods: BTreeMap<Key, CompiledPod>,
    objects: BTreeMap<Reference, Option<Arc<Item>>>,
    config: Arc<Item>,
    /// `None` until the first pass over the store is done: nothing is known, and nothing is said.
    set: Option<DesiredSet>,
    dirty: bool,
    changed: Arc<Signal>,
    /// Sessions that want it; a newer one may begin before the older one has ended.
    sessions: usize,
    /// The generation of the shared set that its ledger holds.
    shared_held: Option<Generation>,
}

/// What the shared set is made of.
#[derive(Default)]
struct SharedView {
    slices: BTreeMap<Key, Slice>,
    /// Slices by namespace and service.
    of_service: BTreeMap<(Arc<str>, String), BTreeSet<Key>>,
    items: BTreeMap<Key, Arc<Item>>,
    dirty: bool,
}

impl DesiredSets {
    pub fn new(store: Arc<dyn Store>, network: ClusterNetwork) -> DesiredSets {
        let state = State {
            at: Revision::default(),
            pods_by_node: Index::new(node_name),
            nodes: BTreeMap::new(),
            shared: SharedView::default(),
            shared_set: None,
            holds: Holds::default(),
        };
        DesiredSets { store, network, state: Mutex::new(state), shared_changed: Signal::new(), clock: monotonic() }
    }

    /// Follows the store for ever.
    pub async fn follow(self: &Arc<Self>) {
        let sets = self.clone();
        // Reading a large store takes a while: not on the thread that serves.
        smol::unblock(move || sets.rebuild()).await;
        loop {
            if !self.catch_up() {
                let (at, held) = {
                    let state = self.state();
                    (state.at, state.holds.next())
                };
                let changed = async {
                    self.store.wait(at).await;
                };
                let timeout = async {
                    match held {
                        Some(until) => {
                            smol::Timer::after(until.saturating_sub((self.clock)())).await;
                        }
                        None => std::future::pending().await,
                    }
                };
                futures_lite::future::or(changed, timeout).await;
                self.publish(&mut self.state());
            }
        }
    }

    /// Takes in the next changes of the store, or reads it again after falling behind what is kept;
    /// false when there were none.
    pub fn catch_up(&self) -> bool {
        let at = self.state().at;
        match self.store.changes(None, at, EVENTS) {
            Ok(events) if events.is_empty() => return false,
            Ok(events) => self.take(&events),
            Err(HistoryError::Compacted { .. } | HistoryError::Future { .. }) => self.rebuild(),
        }
        true
    }

    /// Reads everything anew; what sessions hold is updated, never dropped.
    pub fn rebuild(&self) {
        let at = self.store.revision();
        let mut pods_by_node = Index::new(node_name);
        self.all("pods").iter().for_each(|item| pods_by_node.insert(item));
        let mut shared = SharedView { dirty: true, ..SharedView::default() };
        for item in self.all(SLICES) {
            shared.put_slice(&item.key, Some(&item.value));
        }
        for resource in ["services", "nodes"] {
            for item in self.all(resource) {
                shared.compile(&item.key, Some(&item.value));
            }
        }
        let mut state = self.state();
        let state = &mut *state;
        (state.at, state.pods_by_node, state.shared) = (at, pods_by_node, shared);
        state.holds.clear();
        let names: Vec<String> = state.nodes.keys().cloned().collect();
        for name in names {
            let (pods, config) = (self.pods_of(state, &name), self.config_of(&name));
            if let Some(view) = state.nodes.get_mut(&name) {
                (view.pods, view.config, view.dirty) = (pods, config, true);
                view.objects.clear();
            }
        }
        self.publish(state);
    }

    fn all(&self, resource: &str) -> Vec<coracle_store::Item> {
        let range = Range { resource: resource.into(), namespace: None, after: None, limit: 0, at: None };
        self.store.list(&range).map(|page| page.items).unwrap_or_default()
    }

    /// Applies events.
    fn take(&self, events: &[Event]) {
        let mut state = self.state();
        let state = &mut *state;
        for event in events.iter().filter(|e| FOLLOWED.contains(&&*e.key.resource)) {
            let bytes = event.new.as_ref().map(|item| &*item.value);
            match &*event.key.resource {
                "pods" => self.pod(state, event),
                "configmaps" | "secrets" => state.object(&event.key),
                "nodes" => {
                    state.shared.compile(&event.key, bytes);
                    if let Some(view) = state.nodes.get_mut(&*event.key.name) {
                        view.config = Arc::new(compile::config(&self.network, bytes));
                        view.dirty = true;
                    }
                }
                "services" => state.shared.compile(&event.key, bytes),
                _ => {
                    for service in state.shared.put_slice(&event.key, bytes) {
                        let item = self.store.get(&service);
                        state.shared.compile(&service, item.as_ref().map(|i| &*i.value));
                    }
                }
            }
        }
        state.at = events.last().map_or(state.at, |e| e.revision);
        self.publish(state);
    }

    fn pod(&self, state: &mut State, event: &Event) {
        let before: Vec<String> = state.pods_by_node.keys_of(&event.key).to_vec();
        state.pods_by_node.apply(event);
        let now: Vec<String> = state.pods_by_node.keys_of(&event.key).to_vec();
        for node in before.iter().filter(|node| !now.contains(node)) {
            if let Some(view) = state.nodes.get_mut(node) {
                view.dirty |= view.pods.remove(&event.key).is_some();
            }
        }
        let Some(item) = &event.new else { return state.holds.end(&event.key) };
        for node in now {
            let Some(view) = state.nodes.get_mut(&node) else { continue };
            let Some(pod) = compile::pod(&item.value) else { continue };
            // Status changes all the time and is no part of the item.
            let old = view.pods.get(&event.key);
            let same = old.is_some_and(|old| old.item.hash == pod.item.hash);
            if let (Some(old), Some(address), true) = (old, pod.address, pod.stops)
                && !old.stops
                && state.shared.balances_to(address)
            {
                // Its node hears of the stop once the others have let go of it.
                state.holds.begin(event.key.clone(), address, (self.clock)());
            }
            if !same && !state.holds.contains(&event.key) {
                view.pods.insert(event.key.clone(), pod);
                view.dirty = true;
            }
        }
    }

    /// Compiles what is dirty and tells the sessions.
    fn publish(&self, state: &mut State) {
        let generation = Generation { epoch: self.store.id().epoch, revision: state.at.0 };
        for view in state.nodes.values_mut().filter(|view| view.dirty) {
            view.dirty = false;
            let compiled = self.compile(&view.config, &view.pods, &mut view.objects);
            if update(&mut view.set, generation, compiled) {
                view.changed.notify(usize::MAX);
            }
        }
        if std::mem::take(&mut state.shared.dirty) && update(&mut state.shared_set, generation, state.shared.compiled())
        {
            self.shared_changed.notify(usize::MAX);
        }
        self.release(state, generation);
    }

    /// Tells nodes of the stops that need to be held back no longer.
    fn release(&self, state: &mut State, generation: Generation) {
        let Some(shared) = state.shared_set.as_ref().map(|set| set.head().generation) else { return };
        let confirmed = state.nodes.values().map(|view| view.shared_held).min().unwrap_or(Some(shared));
        let balances = |address| state.shared.balances_to(address);
        let due = state.holds.release(balances, shared, confirmed, (self.clock)());
        for key in due {
            let Some(pod) = self.store.get(&key).and_then(|item| compile::pod(&item.value)) else { continue };
            let nodes: Vec<String> = state.pods_by_node.keys_of(&key).to_vec();
            for name in &nodes {
                let Some(view) = state.nodes.get_mut(name) else { continue };
                view.pods.insert(key.clone(), pod.clone());
                let compiled = self.compile(&view.config, &view.pods, &mut view.objects);
                if update(&mut view.set, generation, compiled) {
                    view.changed.notify(usize::MAX);
                }
            }
        }
    }

    /// One node's set; objects that are not known yet are read.
    fn compile(
        &self,
        config: &Arc<Item>,
        pods: &BTreeMap<Key, CompiledPod>,
        objects: &mut BTreeMap<Reference, Option<Arc<Item>>>,
    ) -> Compiled {
        let needed: BTreeSet<&Reference> = pods.values().flat_map(|pod| &pod.references).collect();
        objects.retain(|reference, _| needed.contains(reference));
        for reference in needed {
            objects.entry(reference.clone()).or_insert_with(|| {
                let item = self.store.get(&reference.key())?;
                compile::reference(reference, &item.value).map(Arc::new)
            });
        }
        compile::node(config.clone(), pods.values(), |reference| objects.get(reference).cloned().flatten())
    }

    fn pods_of(&self, state: &State, node: &str) -> BTreeMap<Key, CompiledPod> {
        let keys = state.pods_by_node.get(node);
        keys.filter_map(|key| Some((key.clone(), compile::pod(&self.store.get(key)?.value)?))).collect()
    }

    fn config_of(&self, node: &str) -> Arc<Item> {
        let item = self.store.get(&Key::new("nodes", "", node));
        Arc::new(compile::config(&self.network, item.as_ref().map(|i| &*i.value)))
    }

    /// A session of this node begins: from here on its set is kept up. Dropping the answer ends that.
    pub fn subscribe(self: &Arc<Self>, node: &str) -> Subscription {
        let mut state = self.state();
        if !state.nodes.contains_key(node) {
            // The revision from before reading: what is read may be newer, and then comes again.
            let generation = Generation { epoch: self.store.id().epoch, revision: state.at.0 };
            let (pods, config) = (self.pods_of(&state, node), self.config_of(node));
            let mut objects = BTreeMap::new();
            let is_read = state.shared_set.is_some();
            let set = is_read.then(|| DesiredSet::new(generation, self.compile(&config, &pods, &mut objects)));
            let changed = Arc::new(Signal::new());
            let view = NodeView { pods, objects, config, set, dirty: false, changed, sessions: 0, shared_held: None };
            state.nodes.insert(node.to_owned(), view);
        }
        let changed = state.nodes.get_mut(node).map(|view| {
            view.sessions += 1;
            view.changed.clone()
        });
        let changed = changed.unwrap_or_default();
        Subscription { sets: self.clone(), node: node.to_owned(), changed }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Brings a set up to date, or makes it. Says whether its content changed.
fn update(set: &mut Option<DesiredSet>, generation: Generation, compiled: Compiled) -> bool {
    match set {
        Some(set) => set.update(generation, compiled),
        None => {
            *set = Some(DesiredSet::new(generation, compiled));
            true
        }
    }
}

impl State {
    /// A ConfigMap or Secret changed: whoever refers to it reads it again.
    fn object(&mut self, key: &Key) {
        for view in self.nodes.values_mut() {
            let before = view.objects.len();
            view.objects.retain(|reference, _| reference.key() != *key);
            view.dirty |= view.objects.len() != before;
        }
    }
}

impl SharedView {
    /// Whether any service balances to this address.
    fn balances_to(&self, address: Ipv4Addr) -> bool {
        self.slices.values().any(|slice| slice.balances_to(address))
    }

    /// Files a slice; answers with the services whose backends it changes.
    fn put_slice(&mut self, key: &Key, bytes: Option<&[u8]>) -> BTreeSet<Key> {
        let mut touched = BTreeSet::new();
        let service_of = |slice: &Slice| Some((key.namespace.clone(), slice.service()?.to_owned()));
        if let Some(owner) = self.slices.remove(key).as_ref().and_then(service_of) {
            if let Some(keys) = self.of_service.get_mut(&owner) {
                keys.remove(key);
            }
            touched.insert(Key::new("services", owner.0, owner.1));
        }
        let slice = bytes.and_then(Slice::parse);
        if let Some((slice, owner)) = slice.and_then(|slice| service_of(&slice).map(|owner| (slice, owner))) {
            self.of_service.entry(owner.clone()).or_default().insert(key.clone());
            self.slices.insert(key.clone(), slice);
            touched.insert(Key::new("services", owner.0, owner.1));
        }
        self.of_service.retain(|_, keys| !keys.is_empty());
        touched
    }

    /// Compiles a service or a node's route.
    fn compile(&mut self, key: &Key, bytes: Option<&[u8]>) {
        let item = match (&*key.resource, bytes) {
            (_, None) => None,
            ("nodes", Some(bytes)) => compile::route(&key.name, bytes),
            (_, Some(bytes)) => {
                let owner = (key.namespace.clone(), key.name.to_string());
                let keys = self.of_service.get(&owner);
                let slices = keys.into_iter().flatten().filter_map(|key| self.slices.get(key));
                compile::service(bytes, slices)
            }
        };
        match item {
            None => self.dirty |= self.items.remove(key).is_some(),
            Some(item) => {
                let same = self.items.get(key).is_some_and(|old| old.hash == item.hash);
                if !same {
                    self.items.insert(key.clone(), Arc::new(item));
                    self.dirty = true;
                }
            }
        }
    }

    fn compiled(&self) -> Compiled {
        let items = self.items.values().map(|item| (item.id.clone(), item.clone())).collect();
        Compiled { items, missing: BTreeSet::new() }
    }
}

/// One session's view of its node's sets.
pub struct Subscription {
    sets: Arc<DesiredSets>,
    node: String,
    changed: Arc<Signal>,
}

impl Subscription {
    /// Listens for the next change of either set.
    pub fn listen(&self) -> (EventListener, EventListener) {
        (self.changed.listen(), self.sets.shared_changed.listen())
    }

    /// The node's ledger holds the shared set of this generation.
    pub fn shared_held(&self, generation: Generation) {
        let mut state = self.sets.state();
        let state = &mut *state;
        let Some(view) = state.nodes.get_mut(&self.node) else { return };
        if view.shared_held.replace(generation) != Some(generation) {
            self.sets.publish(state);
        }
    }

    /// Looks at both sets as they are now: the node's own and the shared one.
    pub fn with<T>(&self, look: impl FnOnce([Option<&DesiredSet>; 2]) -> T) -> T {
        let state = self.sets.state();
        let node = state.nodes.get(&self.node).and_then(|view| view.set.as_ref());
        look([node, state.shared_set.as_ref()])
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut state = self.sets.state();
        if let Some(view) = state.nodes.get_mut(&self.node) {
            view.sessions -= 1;
            if view.sessions == 0 {
                state.nodes.remove(&self.node);
            }
        }
    }
}
