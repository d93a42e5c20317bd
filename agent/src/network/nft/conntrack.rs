//! Forgetting translations that lead to backends that are gone.
//!
//! A TCP connection whose backend is gone ends by itself. A UDP "connection" lasts as long as somebody
//! sends: without this a client would talk to a dead pod for ever
//! (`linux/netfilter/nfnetlink_conntrack.h`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use coracle_shared::desired::Protocol;

use super::{NFPROTO_IPV4, header};
use crate::network::netlink::route::gone;
use crate::network::netlink::{Answer, Attrs, Message, NetlinkError, Socket};
use crate::network::plan::{Frontend, Tables, difference};

const GET: u16 = 1 << 8 | 1;
const DELETE: u16 = 1 << 8 | 2;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const IP_SOURCE: u16 = 1;
const IP_DESTINATION: u16 = 2;
const PROTOCOL_NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;
const NFGENMSG: usize = 4;
const UDP: u8 = 17;

/// The UDP frontends that lost a backend or came to have one, with the backends they have now.
pub(crate) fn changed_udp(old: &Tables, new: &Tables) -> BTreeMap<Frontend, BTreeSet<(Ipv4Addr, u16)>> {
    let changes = difference(&old.backends, &new.backends);
    let frontends = changes.remove.iter().chain(&changes.add).map(|((frontend, _), _)| *frontend);
    let now = |frontend: Frontend| {
        new.backends.range((frontend, 0)..=(frontend, u32::MAX)).map(|(_, backend)| *backend).collect()
    };
    frontends.filter(|f| f.protocol == Protocol::Udp).map(|f| (f, now(f))).collect()
}

/// Makes the kernel forget the translations of these frontends to anything but these backends.
pub(crate) fn forget(
    socket: &mut Socket,
    frontends: &BTreeMap<Frontend, BTreeSet<(Ipv4Addr, u16)>>,
) -> Result<(), NetlinkError> {
    if frontends.is_empty() {
        return Ok(());
    }
    let mut message = Message::new(GET, 0);
    message.raw(&header(NFPROTO_IPV4, 0));
    let mut stale = Vec::new();
    socket.dump_each(message, |answer| stale.extend(stale_tuple(&answer, frontends)))?;
    for tuple in stale {
        let mut message = Message::new(DELETE, 0);
        message.raw(&header(NFPROTO_IPV4, 0)).nest(TUPLE_ORIGINAL, |m| _ = m.raw(&tuple));
        gone(socket.request(message))?;
    }
    Ok(())
}

/// The original tuple of a connection to one of the frontends that ends at none of its backends.
fn stale_tuple(answer: &Answer, frontends: &BTreeMap<Frontend, BTreeSet<(Ipv4Addr, u16)>>) -> Option<Vec<u8>> {
    let attrs = answer.attrs(NFGENMSG);
    let original = attrs.find(TUPLE_ORIGINAL)?;
    let asked = end(original, IP_DESTINATION, DESTINATION_PORT)?;
    let served = end(attrs.find(TUPLE_REPLY)?, IP_SOURCE, SOURCE_PORT)?;
    let at = |address| Frontend { address, protocol: Protocol::Udp, port: asked.1 };
    // A NodePort is one of the node's own addresses: what was not translated may be another's port.
    let node_port = || frontends.get(&at(Ipv4Addr::UNSPECIFIED)).filter(|_| served != asked);
    let backends = frontends.get(&at(asked.0)).or_else(node_port)?;
    (!backends.contains(&served)).then(|| original.to_vec())
}

/// One end of a UDP tuple.
fn end(tuple: &[u8], address: u16, port: u16) -> Option<(Ipv4Addr, u16)> {
    let ip = Attrs::of(Attrs::of(tuple).find(TUPLE_IP)?);
    let protocol = Attrs::of(Attrs::of(tuple).find(TUPLE_PROTOCOL)?);
    protocol.find(PROTOCOL_NUMBER).filter(|p| *p == [UDP])?;
    let address: [u8; 4] = ip.find(address)?.try_into().ok()?;
    let port: [u8; 2] = protocol.find(port)?.try_into().ok()?;
    Some((address.into(), u16::from_be_bytes(port)))
}
