//! The node's network: pods' namespaces and addresses, services, routes to other nodes, DNS.
//!
//! `plan` says what should be, as values; `netlink` and `nft` make it so. Everything happens in the
//! network namespace of the calling thread. Nothing here knows what a container is: a pod is a UID
//! with a namespace at a path.
//!
//! Pods hang on routed veths without a bridge: each has one /32, a link-local gateway with a fixed
//! link-layer address, and a /32 route on the node. So every packet passes the forward hook, nobody
//! speaks ARP, and a source that is not the veth's own is dropped.
//!
//! All calls block for at most a few milliseconds of system calls (tens when a namespace has to be
//! made because none is in stock): call them on the blocking pool.

mod dns;
mod error;
mod netlink;
mod netns;
mod nft;
mod node;
mod plan;
mod records;
mod stock;
mod veth;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use coracle_shared::desired::{Cidr, NodeConfig, RouteItem, ServiceItem};
use coracle_shared::ids::PodUid;

pub use dns::{NamesState, child_main};
pub use error::NetworkError;
pub use netlink::NetlinkError;
pub use netns::enter;
pub use nft::foreign::ForeignDrop;
pub use node::Uplink;

use dns::feed::{Feed, Process, quit_process};
use dns::zone::Source;
use netlink::Socket;
use netlink::route::{PROTOCOL, Route, Scope};
use nft::{conntrack, table};
use node::{LOOPBACK, clear_node, node_routes, service_route, uplink};
use plan::{Frontend, NodeRoute, Tables};
use records::{Records, check_uid};

/// What the network of a node is told at its start.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// Where namespaces are pinned (`netns/UID`) and addresses recorded: lives until reboot.
    pub runtime_dir: PathBuf,
    /// The interface that leads to the other nodes; `None` takes that of the default route, or else
    /// the first one with an address.
    pub uplink: Option<String>,
    /// The agent's own program, started as `PROGRAM dns-child …` to answer names; `None` leaves names
    /// unanswered.
    pub dns_program: Option<PathBuf>,
    /// Names the resolvers for what is not the cluster's; read when needed, so that it may change.
    pub resolv_conf: PathBuf,
}

impl NetworkConfig {
    /// The usual: uplink by the default route, names answered by `program` (the agent's own) with the
    /// resolvers of `/etc/resolv.conf`.
    pub fn new(runtime_dir: PathBuf, program: PathBuf) -> Self {
        let resolv_conf = "/etc/resolv.conf".into();
        NetworkConfig { runtime_dir, uplink: None, dns_program: Some(program), resolv_conf }
    }
}

/// How a pod is connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// A file that `setns` takes: the pod's network namespace.
    pub netns: PathBuf,
    /// The pod's address, on `eth0` inside.
    pub ip: Ipv4Addr,
}

/// The network of one node. Cheap to clone; clones are the same network.
#[derive(Clone)]
pub struct Network {
    shared: Arc<Shared>,
}

struct Shared {
    config: NetworkConfig,
    records: Records,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    node: Option<(NodeConfig, Uplink)>,
    attached: BTreeMap<PodUid, Ipv4Addr>,
    /// Namespaces ready to be given to a pod, by their address.
    stock: BTreeSet<Ipv4Addr>,
    /// The address of a namespace that is being made for the stock.
    making: Option<Ipv4Addr>,
    /// Whether the stock is being filled, so that it is filled once.
    filling: bool,
    /// The thread that fills it, or did.
    filler: Option<JoinHandle<()>>,
    /// What the packet filter holds; `None` until it was loaded by this process.
    tables: Option<Tables>,
    /// Stays open: closing it makes the kernel wait until what was replaced is freed, which takes
    /// longer than a change.
    filter: Option<Socket>,
    names: Option<Feed>,
}

impl State {
    fn used(&self) -> BTreeSet<Ipv4Addr> {
        self.attached.values().chain(&self.stock).chain(&self.making).copied().collect()
    }

    fn filter(&mut self) -> Result<Socket, NetworkError> {
        match self.filter.take() {
            Some(open) => Ok(open),
            None => Socket::netfilter().map_err(NetworkError::link("nf_tables netlink")),
        }
    }

    fn configured(&self) -> Result<(Cidr, Uplink), NetworkError> {
        let (node, uplink) = self.node.as_ref().ok_or(NetworkError::NotConfigured)?;
        Ok((node.pod_cidr.ok_or(NetworkError::NoPodCidr)?, uplink.clone()))
    }
}

impl Network {
    /// Opens the network of a node and finds again what an earlier agent left: attached pods and
    /// stock. What is no longer whole (after a reboot, say) is cleared away.
    pub fn new(config: NetworkConfig) -> Result<Network, NetworkError> {
        let records = Records::open(&config.runtime_dir)?;
        let mut node = Socket::route().map_err(NetworkError::link("route netlink"))?;
        let mut state = State::default();
        for (uid, address) in records.attached()? {
            let stock = records.stock_pin(address);
            if netns::is_pinned(&stock) && veth::is_whole(&stock, address, &mut node) {
                // Stopped between taking from the stock and moving the pin.
                netns::rename(&stock, &records.pin(&uid)).map_err(NetworkError::path(&stock))?;
            }
            if veth::is_whole(&records.pin(&uid), address, &mut node) {
                state.attached.insert(uid, address);
            } else {
                veth::remove(&records.pin(&uid), address)?;
                records.remove(&uid)?;
            }
        }
        for address in records.stock()? {
            let pin = records.stock_pin(address);
            let taken = state.attached.values().any(|a| *a == address);
            match taken {
                false if veth::is_whole(&pin, address, &mut node) => _ = state.stock.insert(address),
                false => veth::remove(&pin, address)?,
                true => netns::unpin(&pin).map_err(NetworkError::path(&pin))?,
            }
        }
        let shared = Shared { config, records, state: Mutex::new(state) };
        Ok(Network { shared: Arc::new(shared) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic leaves the state as the kernel has it: every change is made there first.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The interface to the other nodes with the node's own address.
    pub fn uplink(&self) -> Result<Uplink, NetworkError> {
        let mut node = Socket::route().map_err(NetworkError::link("route netlink"))?;
        uplink(&mut node, self.shared.config.uplink.as_deref())
    }

    /// Makes the node fit for pods: forwarding, the DNS address, the way to services. Idempotent; to be
    /// called at each start and whenever the configuration changed.
    ///
    /// # Errors
    /// When the kernel refuses, or the pod network cannot be one. Without a pod network the rest is
    /// done and [`attach`](Self::attach) says [`NetworkError::NoPodCidr`].
    pub fn configure(&self, config: &NodeConfig) -> Result<(), NetworkError> {
        if let Some(cidr) = config.pod_cidr.filter(|c| !plan::usable(*c)) {
            return Err(NetworkError::BadPodCidr(cidr));
        }
        let mut node = Socket::route().map_err(NetworkError::link("route netlink"))?;
        let uplink = uplink(&mut node, self.shared.config.uplink.as_deref())?;
        self.shared.records.set_sysctl("net/ipv4/ip_forward", "1")?;
        let mut lo = || -> Result<(), NetlinkError> {
            node.set_up(LOOPBACK)?;
            // Host scope: the node answers there but never speaks from it to others.
            node.add_address(LOOPBACK, plan::host(config.dns_ip), Scope::Host)?;
            // The node's own connections to services need some route until their destination is
            // translated; this one leads nowhere else, also on a node without a default route.
            node.set_route(&service_route(config, &uplink))
        };
        lo().map_err(NetworkError::link("prepare lo for services"))?;
        let mut state = self.state();
        let changed = state.node.as_ref().is_some_and(|(before, _)| before != config);
        state.node = Some((config.clone(), uplink));
        self.load_skeleton(&mut state, config, changed)?;
        self.answer_names(&mut state, config)?;
        drop(state);
        self.drop_foreign_stock()?;
        self.fill_stock();
        Ok(())
    }

    /// Sees to it that a packet filter table is there. One of an earlier agent is left alone until the
    /// services are known: until then it is better than one without them.
    fn load_skeleton(&self, state: &mut State, config: &NodeConfig, changed: bool) -> Result<(), NetworkError> {
        let mut filter = state.filter()?;
        match &state.tables {
            Some(tables) if changed => table::load(&mut filter, config, tables)?,
            Some(_) => {}
            None if table::is_loaded(&mut filter)? => {}
            None => {
                table::load(&mut filter, config, &Tables::default())?;
                state.tables = Some(Tables::default());
            }
        }
        state.filter = Some(filter);
        Ok(())
    }

    /// Sees to it that names are answered at the DNS address.
    fn answer_names(&self, state: &mut State, node: &NodeConfig) -> Result<(), NetworkError> {
        let Some(program) = &self.shared.config.dns_program else { return Ok(()) };
        if let Some(elsewhere) = state.names.take_if(|names| names.address() != node.dns_ip) {
            elsewhere.quit();
        }
        if state.names.is_none() {
            let config = &self.shared.config;
            let process = Process {
                program: program.clone(),
                runtime_dir: config.runtime_dir.clone(),
                address: node.dns_ip,
                resolv_conf: config.resolv_conf.clone(),
            };
            let started = Feed::start(process);
            state.names = Some(started.map_err(|source| NetworkError::Io { what: "names".into(), source })?);
        }
        Ok(())
    }

    /// Chains of other programs that drop what goes between pods, with the network of all pods. Empty
    /// before [`configure`](Self::configure).
    ///
    /// # Errors
    /// The kernel does not say what there is.
    pub fn foreign_drops(&self) -> Result<(Vec<ForeignDrop>, Option<Cidr>), NetworkError> {
        let Some(pods) = self.state().node.as_ref().map(|(node, _)| node.cluster_cidr) else {
            return Ok((Vec::new(), None));
        };
        let drops = Socket::netfilter().and_then(|mut socket| nft::foreign::drops(&mut socket, pods));
        Ok((drops.map_err(NetworkError::link("list packet filters"))?, Some(pods)))
    }

    /// How the answering of names stands.
    pub fn names(&self) -> NamesState {
        self.state().names.as_ref().map_or(NamesState::Starting, Feed::names_state)
    }

    /// Waits until the names of the last [`set_services`](Self::set_services) are answered, at most so
    /// long; says how it stands then.
    pub fn wait_for_names(&self, at_most: Duration) -> NamesState {
        let waiter = self.state().names.as_ref().map(Feed::waiter);
        waiter.map_or(NamesState::Starting, |waiter| waiter.wait(at_most))
    }

    /// Gives the pod a namespace with an address. Idempotent: a pod that has one gets the same again,
    /// also after a restart of the agent. Its rules are in place before its first packet.
    pub fn attach(&self, uid: &PodUid) -> Result<Attachment, NetworkError> {
        check_uid(uid)?;
        let mut node = Socket::route().map_err(NetworkError::link("route netlink"))?;
        let mut state = self.state();
        let records = &self.shared.records;
        let pin = records.pin(uid);
        if let Some(&ip) = state.attached.get(uid) {
            if veth::is_whole(&pin, ip, &mut node) {
                return Ok(Attachment { netns: pin, ip });
            }
            veth::remove(&pin, ip)?;
            state.attached.remove(uid);
        }
        let ip = self.take_stock(&mut state, &mut node)?;
        // Recorded first: from here on the address is the pod's, and a new start finishes the move.
        records.write(uid, ip)?;
        netns::rename(&records.stock_pin(ip), &pin).map_err(NetworkError::path(&pin))?;
        state.stock.remove(&ip);
        state.attached.insert(uid.clone(), ip);
        drop(state);
        self.fill_stock();
        Ok(Attachment { netns: pin, ip })
    }

    /// Takes the pod's namespace and address away. Idempotent; goes on over errors and reports them
    /// all. After an error the address stays the pod's until a later call succeeds.
    pub fn detach(&self, uid: &PodUid) -> Result<(), NetworkError> {
        check_uid(uid)?;
        let mut state = self.state();
        let Some(&address) = state.attached.get(uid) else { return Ok(()) };
        veth::remove(&self.shared.records.pin(uid), address)?;
        self.shared.records.remove(uid)?;
        state.attached.remove(uid);
        Ok(())
    }

    /// The pods that are attached.
    pub fn attachments(&self) -> BTreeMap<PodUid, Attachment> {
        let with_pin = |(uid, ip): (&PodUid, &Ipv4Addr)| {
            (uid.clone(), Attachment { netns: self.shared.records.pin(uid), ip: *ip })
        };
        self.state().attached.iter().map(with_pin).collect()
    }

    /// Makes these the services that are reachable from the node and its pods, in one transaction,
    /// and their names those that are answered.
    /// Whole desired state; only the difference to the last call is sent to the kernel.
    ///
    /// # Errors
    /// [`NetworkError::NotConfigured`] before [`configure`](Self::configure); when the kernel refuses,
    /// with what was there before still in place. When only forgetting
    /// UDP connections to lost backends failed, the services are in place.
    pub fn set_services(&self, services: &[ServiceItem]) -> Result<(), NetworkError> {
        let mut state = self.state();
        let node = state.node.as_ref().map(|(n, _)| n.clone()).ok_or(NetworkError::NotConfigured)?;
        let new = Tables::of(services, Some(node.dns_ip));
        let mut filter = state.filter()?;
        // When the difference does not fit, somebody else changed the table: it is made anew.
        let updated = state.tables.as_ref().is_some_and(|old| table::update(&mut filter, old, &new).is_ok());
        if !updated {
            state.tables = None;
            table::load(&mut filter, &node, &new)?;
        }
        let old = state.tables.take().unwrap_or_default();
        let udp = conntrack::changed_udp(&old, &new);
        state.tables = Some(new);
        state.filter = Some(filter);
        if let Some(names) = &state.names {
            names.set(Source::new(&node.domain, vec![node.service_cidr, node.cluster_cidr], services));
        }
        forget_udp(&udp)
    }

    /// Makes these the routes to other nodes' pods. Whole desired state. A route that cannot be set
    /// (its gateway is on another subnet) is reported; the others are set.
    pub fn set_routes(&self, routes: &[RouteItem]) -> Result<(), NetworkError> {
        let state = self.state();
        let (node, uplink) = state.node.as_ref().ok_or(NetworkError::NotConfigured)?;
        let mut socket = Socket::route().map_err(NetworkError::link("route netlink"))?;
        let have = node_routes(&mut socket)?;
        let (set, remove) = plan::route_changes(node.pod_cidr, routes, &have);
        let mut change = |route: &NodeRoute, set: bool| {
            let kernel = Route {
                to: route.to,
                link: uplink.index,
                via: Some(route.via),
                source: None,
                onlink: false,
                protocol: PROTOCOL,
            };
            let (verb, result) = match set {
                true => ("set", socket.set_route(&kernel)),
                false => ("remove", socket.delete_route(&kernel)),
            };
            let what = format!("{verb} route to {}/{} via {}", route.to.address, route.to.prefix, route.via);
            result.map_err(NetworkError::link(what))
        };
        let removed: Vec<_> = remove.iter().map(|r| change(r, false)).collect();
        let set: Vec<_> = set.iter().map(|r| change(r, true)).collect();
        NetworkError::collect(removed.into_iter().chain(set))
    }

    /// Takes everything back: pods, stock, routes, services, the DNS address, settings. For a node that
    /// leaves the cluster; a restart of the agent must not call it. Needs no configuration before; goes
    /// on over errors.
    pub fn teardown(&self) -> Result<(), NetworkError> {
        // From here on nothing is made any more.
        self.state().node = None;
        self.wait_for_stock();
        let mut results: Vec<Result<(), NetworkError>> = Vec::new();
        for uid in self.attachments().into_keys() {
            results.push(self.detach(&uid));
        }
        let mut state = self.state();
        match state.names.take() {
            Some(names) => names.quit(),
            None => results.push(quit_process(&self.shared.config.runtime_dir).map_err(NetworkError::from)),
        }
        let records = &self.shared.records;
        for address in std::mem::take(&mut state.stock) {
            results.push(veth::remove(&records.stock_pin(address), address));
        }
        results.push(clear_node().map_err(NetworkError::link("clear routes")));
        state.tables = None;
        results.push(state.filter().and_then(|mut filter| table::remove(&mut filter)));
        results.push(records.restore_sysctls());
        results.push(records.clear());
        NetworkError::collect(results)
    }
}

/// After services changed: clients of UDP services go on with backends that are there. On a socket of
/// its own, because what it reads may be much.
fn forget_udp(frontends: &BTreeMap<Frontend, BTreeSet<(Ipv4Addr, u16)>>) -> Result<(), NetworkError> {
    if frontends.is_empty() {
        return Ok(());
    }
    let forgotten = Socket::netfilter().and_then(|mut socket| conntrack::forget(&mut socket, frontends));
    let what = || "forget connections to UDP backends that are gone".into();
    forgotten.map_err(|source| NetworkError::Filter { what: what(), source })
}
