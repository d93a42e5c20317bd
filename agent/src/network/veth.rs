//! A pod's network: a namespace with one veth, addressed and routed on both ends.

use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use coracle_shared::desired::Cidr;

use super::error::NetworkError;
use super::netlink::Socket;
use super::netlink::route::{PROTOCOL, Route, Scope, Veth};
use super::netns;
use super::node::Uplink;
use super::plan::{GATEWAY, HOST_MAC, host, pod_mac, veth_name};

/// The name of the pod's interface inside the pod.
pub(crate) const POD_INTERFACE: &str = "eth0";

/// How long a veth may take until packets pass: milliseconds, but the kernel's queue for such work is
/// one, and removing many namespaces holds it up.
const LINK_PATIENCE: Duration = Duration::from_secs(10);

/// Makes the namespace at `pin` and connects it under `address`. Undone when a step fails.
pub(crate) fn make(pin: &Path, address: Ipv4Addr, uplink: &Uplink) -> Result<(), NetworkError> {
    let name = veth_name(address);
    let made = netns::make(
        pin,
        || Socket::route().map_err(NetworkError::link("route netlink")),
        |mut node| {
            let mut pod = Socket::route().map_err(NetworkError::link("route netlink in the pod"))?;
            let namespace = fs::File::open("/proc/thread-self/ns/net").map_err(NetworkError::path(pin))?;
            let veth = Veth {
                name: &name,
                mac: HOST_MAC,
                peer: POD_INTERFACE,
                peer_mac: pod_mac(address),
                peer_namespace: namespace.as_fd(),
                mtu: uplink.mtu,
            };
            // A leftover of a crash between veth and pin would be in the way.
            node.delete_link(&name).map_err(NetworkError::link(format!("remove old {name}")))?;
            node.add_veth(&veth).map_err(NetworkError::link(format!("make {name}")))?;
            let events = Socket::link_events().map_err(NetworkError::link("link events in the pod"))?;
            let index = inside(&mut pod, address)?;
            outside(&mut node, &name, address, uplink)?;
            // The kernel opens the first end's queue in the background after the second came up; until
            // then it drops the pod's packets.
            let until = Instant::now() + LINK_PATIENCE;
            pod.wait_until_operating(index, events, until).map_err(NetworkError::link(format!("wait for {name}")))
        },
    );
    if made.is_err() {
        // The failure to make is what is reported; what is left is cleared again at the next start.
        let _ = remove(pin, address);
    }
    made
}

/// The pod's end: everything goes to the gateway, whose link-layer address is known.
/// Returns the interface's index.
fn inside(pod: &mut Socket, address: Ipv4Addr) -> Result<u32, NetworkError> {
    // Ports below 1024 are free for everyone in a namespace that is the pod's own: images that run as
    // an ordinary user listen on 80, and other runtimes let them.
    let ports = Path::new("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    fs::write(ports, "0").map_err(NetworkError::path(ports))?;
    let set_up = |pod: &mut Socket| {
        pod.set_up(1)?;
        let index = pod.link(POD_INTERFACE)?.map_or(0, |l| l.index);
        pod.no_ipv6_address(index)?;
        pod.set_up(index)?;
        pod.add_address(index, host(address), Scope::Universe)?;
        pod.set_neighbour(index, GATEWAY, HOST_MAC)?;
        let route =
            Route { to: host(GATEWAY), link: index, via: None, source: None, onlink: false, protocol: PROTOCOL };
        pod.set_route(&route)?;
        let all = Cidr { address: Ipv4Addr::UNSPECIFIED, prefix: 0 };
        pod.set_route(&Route { to: all, via: Some(GATEWAY), source: Some(address), onlink: true, ..route })?;
        Ok(index)
    };
    set_up(pod).map_err(NetworkError::link(format!("set up {POD_INTERFACE} of {address}")))
}

/// The node's end: a route to the one address behind it.
fn outside(node: &mut Socket, name: &str, address: Ipv4Addr, uplink: &Uplink) -> Result<(), NetworkError> {
    let set_up = |node: &mut Socket| {
        let index = node.link(name)?.map_or(0, |l| l.index);
        node.no_ipv6_address(index)?;
        node.set_up(index)?;
        node.set_neighbour(index, address, pod_mac(address))?;
        let source = Some(uplink.address);
        node.set_route(&Route { to: host(address), link: index, via: None, source, onlink: false, protocol: PROTOCOL })
    };
    set_up(node).map_err(NetworkError::link(format!("set up {name}")))
}

/// Whether the network at `pin` is whole: the namespace pinned and the node's end there.
pub(crate) fn is_whole(pin: &Path, address: Ipv4Addr, node: &mut Socket) -> bool {
    netns::is_pinned(pin) && node.link(&veth_name(address)).is_ok_and(|l| l.is_some_and(|l| l.up))
}

/// Removes the pin and the veth, going on over errors; what is not there is no error.
pub(crate) fn remove(pin: &Path, address: Ipv4Addr) -> Result<(), NetworkError> {
    let name = veth_name(address);
    let link = Socket::route().and_then(|mut node| node.delete_link(&name));
    NetworkError::collect([
        link.map_err(NetworkError::link(format!("remove {name}"))),
        netns::unpin(pin).map_err(NetworkError::path(pin)),
    ])
}
