//! How QUIC is set up at both ends.

use std::time::Duration;

pub use quinn::crypto::rustls::{HandshakeData, QuicClientConfig, QuicServerConfig};
pub use quinn::{
    ClientConfig, ConnectError, Connection, ConnectionError, ConnectionId, ConnectionIdGenerator, Endpoint,
    EndpointConfig, Incoming, ServerConfig, VarInt, default_runtime,
};
use quinn::{IdleTimeout, MtuDiscoveryConfig, TransportConfig};

use crate::{IDLE_TIMEOUT, KEEP_ALIVE, MAX_STREAMS, Role};

/// What may be under way in one stream, and in all: bounds memory, and is enough for 80 Mbit/s at
/// 100 ms.
const STREAM_WINDOW: u32 = 512 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
/// The path's MTU is probed on connecting; again only once a day, because an idle link is silent.
const MTU_INTERVAL: Duration = Duration::from_secs(86_400);

/// The transport's bounds and times.
pub fn transport(role: Role) -> TransportConfig {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.interval(MTU_INTERVAL);
    let idle = IdleTimeout::from(VarInt::from_u32(IDLE_TIMEOUT.as_millis() as u32));
    // The session, or the join; everything else is opened by the server.
    let (streams, keep_alive) = match role {
        Role::Agent => (MAX_STREAMS, Some(KEEP_ALIVE)),
        Role::Server => (1, None),
    };
    let mut transport = TransportConfig::default();
    transport
        .keep_alive_interval(keep_alive)
        .max_idle_timeout(Some(idle))
        .max_concurrent_bidi_streams(VarInt::from_u32(streams))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(u64::from(CONNECTION_WINDOW))
        .datagram_receive_buffer_size(None)
        .mtu_discovery_config(Some(mtu));
    transport
}
