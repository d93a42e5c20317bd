//! What the node's network should be, as values: addresses, names of links, tables of services and
//! the difference between two of them. No effects; everything here is tested without a kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use coracle_shared::desired::{Cidr, Protocol, RouteItem, ServiceItem};

#[cfg(test)]
mod tests;

/// A link-layer address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mac(pub [u8; 6]);

/// The node's end of every veth has the same address: it is only ever seen by its one pod.
/// (Locally administered.)
pub(crate) const HOST_MAC: Mac = Mac([0x0e, 0xc0, 0xac, 0x1e, 0x00, 0x01]);

/// Where a pod sends everything that is not its own: link-local, known by a permanent neighbour
/// entry, so that no address of the pod network is spent on it and nobody answers ARP.
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// What every name of the node's end of a pod's veth starts with: the rule against spoofed sources
/// is written for this prefix.
pub(crate) const VETH_PREFIX: &str = "cv";

/// Backends of one port of a service that are balanced over: as many as an EndpointSlice may have.
/// What is beyond is left out, in address order.
pub(crate) const MAX_BACKENDS: usize = 1000;

/// The name of the node's end of the veth of the pod with this address: derived, so that it need not
/// be remembered. Ten characters of the fifteen that the kernel allows.
pub(crate) fn veth_name(address: Ipv4Addr) -> String {
    format!("{VETH_PREFIX}{:08x}", u32::from(address))
}

/// The link-layer address of a pod, derived from its address. (`0a:58` as usual among CNI plugins:
/// locally administered.)
pub(crate) fn pod_mac(address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    Mac([0x0a, 0x58, a, b, c, d])
}

/// A network of one address.
pub(crate) fn host(address: Ipv4Addr) -> Cidr {
    Cidr { address, prefix: 32 }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0)
}

pub(crate) fn contains(cidr: Cidr, address: Ipv4Addr) -> bool {
    (u32::from(cidr.address) ^ u32::from(address)) & mask(cidr.prefix) == 0
}

/// Whether a node can take its pods' addresses from this network: aligned, with at least one address
/// to give away, and not so large that its addresses could not be listed.
pub(crate) fn usable(cidr: Cidr) -> bool {
    (16..=29).contains(&cidr.prefix) && u32::from(cidr.address) & !mask(cidr.prefix) == 0
}

/// The addresses for pods, ascending: without the network's, its first (left free for a gateway, which
/// people expect there) and the broadcast address.
pub(crate) fn assignable(cidr: Cidr) -> impl Iterator<Item = Ipv4Addr> {
    let first = u32::from(cidr.address);
    let last = first | !mask(cidr.prefix);
    (first + 2..last).map(Ipv4Addr::from)
}

/// The lowest address that is not in `used`.
pub(crate) fn lowest_free(cidr: Cidr, used: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
    assignable(cidr).find(|a| !used.contains(a))
}

/// A route to another node's pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NodeRoute {
    pub to: Cidr,
    pub via: Ipv4Addr,
}

/// The routes to be set and those to be removed, so that `have` becomes what `items` say. The node's
/// own network is its veths' and gets no route.
pub(crate) fn route_changes(
    own: Option<Cidr>,
    items: &[RouteItem],
    have: &BTreeSet<NodeRoute>,
) -> (Vec<NodeRoute>, Vec<NodeRoute>) {
    let want: BTreeMap<Cidr, Ipv4Addr> =
        items.iter().filter(|i| Some(i.pod_cidr) != own).map(|i| (i.pod_cidr, i.via)).collect();
    let set = want.iter().map(|(&to, &via)| NodeRoute { to, via }).filter(|r| !have.contains(r)).collect();
    let remove = have.iter().filter(|r| !want.contains_key(&r.to)).copied().collect();
    (set, remove)
}

/// What a connection is looked up by. NodePorts have the unspecified address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Frontend {
    pub address: Ipv4Addr,
    pub protocol: Protocol,
    pub port: u16,
}

/// How a frontend spreads its connections: the name of a chain of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Spread {
    /// At least one.
    pub backends: u16,
    /// The same client gets the same backend as long as the backends are the same.
    pub affine: bool,
    pub node_port: bool,
}

/// The content of the table's maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tables {
    pub frontends: BTreeMap<Frontend, Spread>,
    /// By frontend and index below [`Spread::backends`].
    pub backends: BTreeMap<(Frontend, u32), (Ipv4Addr, u16)>,
}

impl Tables {
    /// The tables of these services. A service at `dns` is left out: the node answers there itself.
    /// Frontends without backends do not appear; the table refuses what it does not know.
    pub(crate) fn of(services: &[ServiceItem], dns: Option<Ipv4Addr>) -> Tables {
        let mut tables = Tables::default();
        for service in services {
            for port in &service.ports {
                let cluster = service.cluster_ip.filter(|ip| Some(*ip) != dns).map(|ip| (ip, port.port));
                let node = port.node_port.filter(|_| cluster.is_some()).map(|p| (Ipv4Addr::UNSPECIFIED, p));
                let backends: Vec<_> =
                    port.backends.iter().filter(|b| b.ready).map(|b| (b.address, b.port)).take(MAX_BACKENDS).collect();
                for (address, number) in cluster.into_iter().chain(node) {
                    let frontend = Frontend { address, protocol: port.protocol, port: number };
                    tables.add(frontend, &backends, service.affinity.is_some());
                }
            }
        }
        tables
    }

    fn add(&mut self, frontend: Frontend, backends: &[(Ipv4Addr, u16)], affine: bool) {
        if backends.is_empty() || self.frontends.contains_key(&frontend) {
            return;
        }
        let node_port = frontend.address.is_unspecified();
        self.frontends.insert(frontend, Spread { backends: backends.len() as u16, affine, node_port });
        self.backends.extend((0..).zip(backends).map(|(i, b)| ((frontend, i), *b)));
    }

    /// The chains that the frontends need.
    pub(crate) fn spreads(&self) -> BTreeSet<Spread> {
        self.frontends.values().copied().collect()
    }
}

/// The entries to take out (by their old value) and to put in, so that one map becomes another.
pub(crate) struct Difference<K, V> {
    pub remove: Vec<(K, V)>,
    pub add: Vec<(K, V)>,
}

pub(crate) fn difference<K: Copy + Ord, V: Copy + Eq>(old: &BTreeMap<K, V>, new: &BTreeMap<K, V>) -> Difference<K, V> {
    let missing = |from: &BTreeMap<K, V>, to: &BTreeMap<K, V>| {
        from.iter().filter(|(k, v)| to.get(k) != Some(v)).map(|(k, v)| (*k, *v)).collect()
    };
    Difference { remove: missing(old, new), add: missing(new, old) }
}
