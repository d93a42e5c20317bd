//! Links, addresses, routes and neighbours through route netlink (`linux/rtnetlink.h`).

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Instant;

use coracle_shared::desired::Cidr;
use rustix::io::Errno;

use super::{Answer, Attrs, Message, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NetlinkError, Socket};
use crate::network::plan::Mac;

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
const IFF_UP: u32 = 1;
const IF_OPER_UP: u8 = 6;
const IFINFOMSG: usize = 16;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFADDRMSG: usize = 8;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const RTMSG: usize = 12;
const RT_TABLE_MAIN: u8 = 254;
const RTN_UNICAST: u8 = 1;
const RTNH_F_ONLINK: u32 = 4;

const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_PERMANENT: u16 = 0x80;

const AF_INET: u8 = 2;
const AF_INET6: u16 = 10;

/// How far an address or a route reaches, as the kernel numbers it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Scope {
    Universe = 0,
    Link = 253,
    /// Inside the machine: never chosen as the source of a packet that leaves it.
    Host = 254,
}

/// The routes that this room makes carry this origin, so that it finds its own again and leaves
/// everybody else's alone. (Numbers above 4 are free for programs; 200 is in no distribution's table.)
pub(crate) const PROTOCOL: u8 = 200;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub index: u32,
    pub name: String,
    pub mtu: u32,
    pub up: bool,
    /// Packets pass: the other end is up too, and the kernel has got round to acting on it.
    pub operating: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub link: u32,
    pub address: Ipv4Addr,
    pub prefix: u8,
    pub scope: u8,
}

/// An IPv4 route of the main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub to: Cidr,
    pub link: u32,
    pub via: Option<Ipv4Addr>,
    pub source: Option<Ipv4Addr>,
    /// The gateway is on the link although no route of the link says so.
    pub onlink: bool,
    pub protocol: u8,
}

/// The two ends of a veth pair to be made; the peer goes into another namespace.
pub(crate) struct Veth<'a> {
    pub name: &'a str,
    pub mac: Mac,
    pub peer: &'a str,
    pub peer_mac: Mac,
    pub peer_namespace: BorrowedFd<'a>,
    pub mtu: u32,
}

fn ifinfomsg(index: u32, flags: u32, change: u32) -> [u8; IFINFOMSG] {
    let mut head = [0; IFINFOMSG];
    head[4..8].copy_from_slice(&index.to_ne_bytes());
    head[8..12].copy_from_slice(&flags.to_ne_bytes());
    head[12..16].copy_from_slice(&change.to_ne_bytes());
    head
}

fn head_u32(answer: &Answer, at: usize) -> u32 {
    answer.body.get(at..at + 4).map_or(0, |b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]))
}

fn address(bytes: Option<&[u8]>) -> Option<Ipv4Addr> {
    bytes.and_then(|b| <[u8; 4]>::try_from(b).ok()).map(Ipv4Addr::from)
}

/// Turns "it is not there" into success: removing is idempotent.
pub(crate) fn gone(result: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
    match result {
        Err(e) if matches!(e.errno, Errno::NODEV | Errno::SRCH | Errno::ADDRNOTAVAIL | Errno::NOENT) => Ok(()),
        other => other,
    }
}

/// Turns "it is there already" into success: making is idempotent.
pub(crate) fn present(result: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
    match result {
        Err(e) if e.errno == Errno::EXIST => Ok(()),
        other => other,
    }
}

impl Socket {
    pub(crate) fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let mut message = Message::new(RTM_GETLINK, 0);
        message.raw(&ifinfomsg(0, 0, 0));
        let answers = self.dump(message)?;
        Ok(answers.iter().filter(|a| a.kind == RTM_NEWLINK).map(link).collect())
    }

    /// The link of that name, or `None`.
    pub(crate) fn link(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        // A dump, not a query: it needs no second way to read an answer, and a node has few links.
        Ok(self.links()?.into_iter().find(|l| l.name == name))
    }

    pub(crate) fn add_veth(&mut self, veth: &Veth<'_>) -> Result<(), NetlinkError> {
        let mut message = Message::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL);
        message.raw(&ifinfomsg(0, 0, 0));
        message.attr_str(IFLA_IFNAME, veth.name).attr(IFLA_ADDRESS, &veth.mac.0).attr_u32(IFLA_MTU, veth.mtu);
        message.nest(IFLA_LINKINFO, |m| {
            m.attr(IFLA_INFO_KIND, b"veth").nest(IFLA_INFO_DATA, |m| {
                m.nest(VETH_INFO_PEER, |m| {
                    m.raw(&ifinfomsg(0, 0, 0));
                    m.attr_str(IFLA_IFNAME, veth.peer).attr(IFLA_ADDRESS, &veth.peer_mac.0);
                    m.attr_u32(IFLA_MTU, veth.mtu);
                    m.attr_u32(IFLA_NET_NS_FD, veth.peer_namespace.as_raw_fd() as u32);
                });
            });
        });
        self.request(message)
    }

    /// Keeps the kernel from giving the link an IPv6 address of its own: pods speak IPv4 only, and
    /// neighbour discovery on every veth would be noise. A kernel without IPv6 has nothing to keep.
    pub(crate) fn no_ipv6_address(&mut self, index: u32) -> Result<(), NetlinkError> {
        let mut message = Message::new(RTM_SETLINK, 0);
        message.raw(&ifinfomsg(index, 0, 0));
        message.nest(IFLA_AF_SPEC, |m| {
            m.nest(AF_INET6, |m| {
                m.attr(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE]);
            });
        });
        match self.request(message) {
            Err(e) if matches!(e.errno, Errno::AFNOSUPPORT | Errno::OPNOTSUPP) => Ok(()),
            other => other,
        }
    }

    pub(crate) fn set_up(&mut self, index: u32) -> Result<(), NetlinkError> {
        let mut message = Message::new(RTM_NEWLINK, 0);
        message.raw(&ifinfomsg(index, IFF_UP, IFF_UP));
        self.request(message)
    }

    /// Waits until packets pass the link. `events` must have been opened by
    /// [`link_events`](Self::link_events) before the other end was set up.
    pub(crate) fn wait_until_operating(
        &mut self,
        index: u32,
        mut events: Socket,
        until: Instant,
    ) -> Result<(), NetlinkError> {
        let operates = |l: &Link| l.index == index && l.operating;
        // Asked on another socket than the events': there the answer could not be told from them.
        if self.links()?.iter().any(operates) {
            return Ok(());
        }
        loop {
            let changes = events.events(until)?;
            if changes.is_empty() {
                return Err(Errno::TIMEDOUT.into());
            }
            if changes.iter().filter(|e| e.kind == RTM_NEWLINK).map(link).any(|l| operates(&l)) {
                return Ok(());
            }
        }
    }

    /// Deletes the link; one that is not there is no error.
    pub(crate) fn delete_link(&mut self, name: &str) -> Result<(), NetlinkError> {
        let mut message = Message::new(RTM_DELLINK, 0);
        message.raw(&ifinfomsg(0, 0, 0)).attr_str(IFLA_IFNAME, name);
        gone(self.request(message))
    }

    pub(crate) fn addresses(&mut self) -> Result<Vec<Address>, NetlinkError> {
        let mut message = Message::new(RTM_GETADDR, 0);
        message.raw(&[AF_INET, 0, 0, 0, 0, 0, 0, 0]);
        let answers = self.dump(message)?;
        Ok(answers.iter().filter(|a| a.kind == RTM_NEWADDR).filter_map(address_of).collect())
    }

    fn address_message(kind: u16, flags: u16, link: u32, address: Cidr, scope: Scope) -> Message {
        let mut message = Message::new(kind, flags);
        let mut head = [AF_INET, address.prefix, 0, scope as u8, 0, 0, 0, 0];
        head[4..8].copy_from_slice(&link.to_ne_bytes());
        message.raw(&head);
        message.attr(IFA_LOCAL, &address.address.octets()).attr(IFA_ADDRESS, &address.address.octets());
        message
    }

    pub(crate) fn add_address(&mut self, link: u32, address: Cidr, scope: Scope) -> Result<(), NetlinkError> {
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        present(self.request(Self::address_message(RTM_NEWADDR, flags, link, address, scope)))
    }

    pub(crate) fn delete_address(&mut self, link: u32, address: Cidr) -> Result<(), NetlinkError> {
        gone(self.request(Self::address_message(RTM_DELADDR, 0, link, address, Scope::Universe)))
    }

    /// The unicast routes of the main table.
    pub(crate) fn routes(&mut self) -> Result<Vec<Route>, NetlinkError> {
        let mut message = Message::new(RTM_GETROUTE, 0);
        let mut head = [0; RTMSG];
        head[0] = AF_INET;
        message.raw(&head);
        let answers = self.dump(message)?;
        Ok(answers.iter().filter_map(route).collect())
    }

    fn route_message(kind: u16, flags: u16, route: &Route) -> Message {
        let mut message = Message::new(kind, flags);
        let scope = if route.via.is_some() { Scope::Universe } else { Scope::Link };
        let mut head = [0; RTMSG];
        head[..8].copy_from_slice(&[
            AF_INET,
            route.to.prefix,
            0,
            0,
            RT_TABLE_MAIN,
            route.protocol,
            scope as u8,
            RTN_UNICAST,
        ]);
        if route.onlink {
            head[8..12].copy_from_slice(&RTNH_F_ONLINK.to_ne_bytes());
        }
        message.raw(&head).attr(RTA_DST, &route.to.address.octets()).attr_u32(RTA_OIF, route.link);
        if let Some(via) = route.via {
            message.attr(RTA_GATEWAY, &via.octets());
        }
        if let Some(source) = route.source {
            message.attr(RTA_PREFSRC, &source.octets());
        }
        message
    }

    /// Sets the route to that destination, whatever it was.
    pub(crate) fn set_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        self.request(Self::route_message(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, route))
    }

    pub(crate) fn delete_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        gone(self.request(Self::route_message(RTM_DELROUTE, 0, route)))
    }

    /// Fixes the link-layer address of a neighbour, so that nobody asks for it by ARP.
    pub(crate) fn set_neighbour(&mut self, link: u32, to: Ipv4Addr, mac: Mac) -> Result<(), NetlinkError> {
        let mut message = Message::new(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE);
        let mut head = [0; 12];
        head[0] = AF_INET;
        head[4..8].copy_from_slice(&link.to_ne_bytes());
        head[8..10].copy_from_slice(&NUD_PERMANENT.to_ne_bytes());
        message.raw(&head).attr(NDA_DST, &to.octets()).attr(NDA_LLADDR, &mac.0);
        self.request(message)
    }
}

fn link(answer: &Answer) -> Link {
    let attrs = answer.attrs(IFINFOMSG);
    let name = attrs.find(IFLA_IFNAME).unwrap_or_default();
    Link {
        index: head_u32(answer, 4),
        name: String::from_utf8_lossy(name).trim_end_matches('\0').to_owned(),
        mtu: attrs.find_u32(IFLA_MTU).unwrap_or_default(),
        up: head_u32(answer, 8) & IFF_UP != 0,
        operating: attrs.find(IFLA_OPERSTATE) == Some(&[IF_OPER_UP]),
    }
}

fn address_of(answer: &Answer) -> Option<Address> {
    let attrs: Attrs<'_> = answer.attrs(IFADDRMSG);
    let local = address(attrs.find(IFA_LOCAL).or_else(|| attrs.find(IFA_ADDRESS)))?;
    Some(Address { link: head_u32(answer, 4), address: local, prefix: answer.body[1], scope: answer.body[3] })
}

fn route(answer: &Answer) -> Option<Route> {
    let head = answer.body.get(..RTMSG)?;
    if answer.kind != RTM_NEWROUTE || head[0] != AF_INET || head[4] != RT_TABLE_MAIN || head[7] != RTN_UNICAST {
        return None;
    }
    let attrs = answer.attrs(RTMSG);
    let to = address(attrs.find(RTA_DST)).unwrap_or(Ipv4Addr::UNSPECIFIED);
    Some(Route {
        to: Cidr { address: to, prefix: head[1] },
        link: attrs.find_u32(RTA_OIF)?,
        via: address(attrs.find(RTA_GATEWAY)),
        source: address(attrs.find(RTA_PREFSRC)),
        onlink: head_u32(answer, 8) & RTNH_F_ONLINK != 0,
        protocol: head[5],
    })
}
