//! The node's own resolvers.

use std::net::{IpAddr, SocketAddr};

/// As many as the C library asks.
const MAX_SERVERS: usize = 3;

/// The servers of a `resolv.conf`, in order, without `own`: to ask oneself would never end.
pub(crate) fn servers(text: &str, own: IpAddr) -> Vec<SocketAddr> {
    let addresses = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let address = words.next().filter(|w| *w == "nameserver").and_then(|_| words.next())?;
        // A zone ("%eth0") belongs to a link-local address, which a node's DNS is not.
        address.parse::<IpAddr>().ok()
    });
    addresses.filter(|a| *a != own).map(|a| SocketAddr::new(a, 53)).take(MAX_SERVERS).collect()
}
