//! What the node itself has of the network: the interface outward and the routes.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use coracle_shared::desired::NodeConfig;

use super::error::NetworkError;
use super::netlink::route::{Address, Link, PROTOCOL, Route, Scope};
use super::netlink::{NetlinkError, Socket};
use super::plan::{self, NodeRoute};

/// The interface that leads out of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    pub name: String,
    pub index: u32,
    /// In bytes; the pods' interfaces have the same.
    pub mtu: u32,
    /// The node's own address.
    pub address: Ipv4Addr,
}

/// `lo` has this index in every network namespace.
pub(super) const LOOPBACK: u32 = 1;

pub(super) fn service_route(config: &NodeConfig, uplink: &Uplink) -> Route {
    let (to, source) = (config.service_cidr, Some(uplink.address));
    Route { to, link: LOOPBACK, via: None, source, onlink: false, protocol: PROTOCOL }
}

/// The routes to other nodes that the kernel has from this room: those by a gateway.
pub(super) fn node_routes(socket: &mut Socket) -> Result<BTreeSet<NodeRoute>, NetworkError> {
    let routes = socket.routes().map_err(NetworkError::link("list routes"))?;
    let own = routes.iter().filter(|r| r.protocol == PROTOCOL);
    Ok(own.filter_map(|r| Some(NodeRoute { to: r.to, via: r.via? })).collect())
}

/// Removes the routes that this room made and the DNS address: the one of host scope on `lo` that is
/// none of `lo`'s own. Needs no configuration, so that a node that never was configured again can be
/// cleared too.
pub(super) fn clear_node() -> Result<(), NetlinkError> {
    let mut socket = Socket::route()?;
    for route in socket.routes()?.into_iter().filter(|r| r.protocol == PROTOCOL) {
        socket.delete_route(&route)?;
    }
    let of_dns =
        |a: &Address| a.link == LOOPBACK && a.prefix == 32 && a.scope == Scope::Host as u8 && !a.address.is_loopback();
    for address in socket.addresses()?.into_iter().filter(of_dns) {
        socket.delete_address(LOOPBACK, plan::host(address.address))?;
    }
    Ok(())
}

pub(super) fn uplink(socket: &mut Socket, name: Option<&str>) -> Result<Uplink, NetworkError> {
    let all = |s: &mut Socket| Ok((s.links()?, s.addresses()?, s.routes()?));
    let (links, addresses, routes) = all(socket).map_err(NetworkError::link("find the uplink"))?;
    let default = routes.iter().find(|r| r.to.prefix == 0).map(|r| r.link);
    let global = |link: u32| addresses.iter().find(|a| a.link == link && a.scope == Scope::Universe as u8);
    let candidate = |l: &&Link| match (name, default) {
        (Some(name), _) => l.name == name,
        (None, Some(index)) => l.index == index,
        (None, None) => {
            l.up && l.index != LOOPBACK && !l.name.starts_with(plan::VETH_PREFIX) && global(l.index).is_some()
        }
    };
    let link = links.iter().find(candidate).ok_or(NetworkError::NoUplink)?;
    let address = global(link.index).ok_or(NetworkError::NoUplink)?.address;
    Ok(Uplink { name: link.name.clone(), index: link.index, mtu: link.mtu, address })
}
