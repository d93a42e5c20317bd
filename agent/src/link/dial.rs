//! Reaching a server: addresses, QUIC, and how long to wait before trying again.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};

use crate::tls::SERVER_NAME;

/// Keeps NAT entries alive (30 s is the shortest in the field) and tells the server that we live.
const KEEP_ALIVE: Duration = Duration::from_secs(25);
/// Two keep-alives may be lost; the server's grace for a node (60 s) is longer.
const IDLE_TIMEOUT: Duration = Duration::from_secs(55);
/// A handshake that takes longer goes nowhere.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Log and exec streams that the server may have open at once.
const MAX_STREAMS: u32 = 64;
/// What may be under way in one stream, and in all: bounds memory, and is enough for 80 Mbit/s at
/// 100 ms.
const STREAM_WINDOW: u32 = 512 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
/// The path's MTU is probed on connecting; again only once a day, because an idle link is silent.
const MTU_INTERVAL: Duration = Duration::from_secs(86_400);

/// The first delay before dialling again, doubled up to the longest.
const FIRST_DELAY: Duration = Duration::from_millis(200);
const LONGEST_DELAY: Duration = Duration::from_secs(30);

/// Why a server could not be reached.
#[derive(Debug)]
pub enum DialError {
    /// The name does not resolve.
    Resolve {
        server: String,
        source: std::io::Error,
    },
    /// No socket could be made.
    Socket(std::io::Error),
    Tls(rustls::Error),
    Connect(quinn::ConnectError),
    Connection {
        server: String,
        source: quinn::ConnectionError,
    },
    /// No answer at all: down, or UDP is blocked.
    Timeout {
        server: String,
    },
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DialError::Resolve { server, source } => write!(f, "resolving {server}: {source}"),
            DialError::Socket(source) => write!(f, "making a UDP socket: {source}"),
            DialError::Tls(source) => write!(f, "TLS: {source}"),
            DialError::Connect(source) => write!(f, "dialling: {source}"),
            DialError::Connection { server, source } => write!(f, "connecting to {server}: {source}"),
            DialError::Timeout { server } => {
                write!(f, "{server} does not answer over UDP: is the server up, and is UDP let through?")
            }
        }
    }
}

impl std::error::Error for DialError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            DialError::Resolve { source, .. } | DialError::Socket(source) => Some(source),
            DialError::Tls(source) => Some(source),
            DialError::Connect(source) => Some(source),
            DialError::Connection { source, .. } => Some(source),
            DialError::Timeout { .. } => None,
        }
    }
}

/// Connects to `HOST:PORT`, trying each of its addresses. The endpoint lives as long as the connection
/// is used.
pub async fn connect(server: &str, tls: rustls::ClientConfig) -> Result<(Endpoint, Connection), DialError> {
    let crypto = QuicClientConfig::try_from(tls).map_err(|e| DialError::Tls(rustls::Error::General(e.to_string())))?;
    let mut config = ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport()));
    let name = server.to_owned();
    let addresses: Vec<SocketAddr> = smol::unblock(move || name.to_socket_addrs().map(Iterator::collect))
        .await
        .map_err(|source| DialError::Resolve { server: server.to_owned(), source })?;
    let mut last = DialError::Timeout { server: server.to_owned() };
    for address in addresses {
        match connect_to(server, address, config.clone()).await {
            Ok(connected) => return Ok(connected),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn connect_to(
    server: &str,
    address: SocketAddr,
    config: ClientConfig,
) -> Result<(Endpoint, Connection), DialError> {
    let local = match address {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let endpoint = Endpoint::client(local).map_err(DialError::Socket)?;
    let connecting = endpoint.connect_with(config, address, SERVER_NAME).map_err(DialError::Connect)?;
    let timeout = async {
        smol::Timer::after(HANDSHAKE_TIMEOUT).await;
        Err(DialError::Timeout { server: server.to_owned() })
    };
    let connected = async {
        connecting.await.map_err(|source| match source {
            quinn::ConnectionError::TimedOut => DialError::Timeout { server: server.to_owned() },
            source => DialError::Connection { server: server.to_owned(), source },
        })
    };
    let connection = futures_lite::future::or(connected, timeout).await?;
    Ok((endpoint, connection))
}

fn transport() -> TransportConfig {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.interval(MTU_INTERVAL);
    let idle = IdleTimeout::from(VarInt::from_u32(IDLE_TIMEOUT.as_millis() as u32));
    let mut transport = TransportConfig::default();
    transport
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(idle))
        .max_concurrent_bidi_streams(VarInt::from_u32(MAX_STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(u64::from(CONNECTION_WINDOW))
        .datagram_receive_buffer_size(None)
        .mtu_discovery_config(Some(mtu));
    transport
}

/// How long to wait before attempt number `attempt` (from 0), spread by `random` over half of it, so
/// that a restarted server is not dialled by all nodes at once.
pub fn delay(attempt: u32, random: u32) -> Duration {
    let full = FIRST_DELAY.saturating_mul(1 << attempt.min(16)).min(LONGEST_DELAY);
    let spread = full / 2;
    spread + spread.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest() {
        let check = |attempt, random, expect| assert_eq!(delay(attempt, random), Duration::from_millis(expect));
        check(0, 0, 100);
        check(0, u32::MAX, 200);
        check(3, u32::MAX, 1600);
        check(40, 0, 15_000);
        check(u32::MAX, u32::MAX, 30_000);
    }
}
