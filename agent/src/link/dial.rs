//! Reaching a server: addresses, QUIC first, TCP where UDP is blocked, and how long to wait before
//! trying again.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_net::TcpStream;
use coracle_transport::quic::{self, ClientConfig, ConnectError, ConnectionError, Endpoint, QuicClientConfig};
use coracle_transport::{Connection, Role, tcp};
use futures_lite::future::or;
use futures_rustls::TlsConnector;
use rustls::pki_types::ServerName;

use crate::tls::SERVER_NAME;

/// A handshake that takes longer goes nowhere.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long QUIC has alone: two losses of its first packet, and no more than a person waits for.
const HEAD_START: Duration = Duration::from_secs(2);

/// The first delay before dialling again, doubled up to the longest.
const FIRST_DELAY: Duration = Duration::from_millis(200);
const LONGEST_DELAY: Duration = Duration::from_secs(30);

/// Why a server could not be reached.
#[derive(Debug)]
pub enum DialError {
    /// The name does not resolve.
    Resolve {
        server: String,
        source: io::Error,
    },
    /// No socket could be made.
    Socket(io::Error),
    Tls(rustls::Error),
    Connect(ConnectError),
    Connection {
        server: String,
        source: ConnectionError,
    },
    /// Over TCP.
    Tcp {
        server: String,
        source: io::Error,
    },
    /// No answer at all over UDP.
    Timeout {
        server: String,
    },
    /// Neither way.
    Both {
        quic: Box<DialError>,
        tcp: Box<DialError>,
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
            DialError::Tcp { server, source } => write!(f, "connecting to {server} over TCP: {source}"),
            DialError::Timeout { server } => {
                write!(f, "{server} does not answer over UDP: is the server up, and is UDP let through?")
            }
            DialError::Both { quic, tcp } => write!(f, "{quic} And {tcp}"),
        }
    }
}

impl std::error::Error for DialError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            DialError::Resolve { source, .. } | DialError::Socket(source) | DialError::Tcp { source, .. } => {
                Some(source)
            }
            DialError::Tls(source) => Some(source),
            DialError::Connect(source) => Some(source),
            DialError::Connection { source, .. } => Some(source),
            DialError::Both { quic, .. } => Some(quic),
            DialError::Timeout { .. } => None,
        }
    }
}

impl DialError {
    /// Whether the server was reached and the other transport would end no better.
    fn is_conclusive(&self) -> bool {
        matches!(self, DialError::Connection { source: ConnectionError::TransportError(_), .. } | DialError::Tls(_))
    }
}

/// A connection, with what keeps it alive.
#[derive(Debug)]
pub struct Dialled {
    pub connection: Connection,
    endpoint: Option<Endpoint>,
}

impl Dialled {
    /// Ends the connection; returns when the peer was told.
    pub async fn close(self, reason: &str) {
        self.connection.close(0, reason);
        match (self.endpoint, self.connection) {
            (Some(endpoint), _) => endpoint.wait_idle().await,
            (None, Connection::Tcp(tcp)) => tcp.ended().await,
            (None, Connection::Quic(_)) => {}
        }
    }
}

/// Connects to `HOST:PORT`, trying each of its addresses, over QUIC and, when that does not answer
/// soon, over TCP as well: the first to stand is taken.
pub async fn connect(server: &str, tls: rustls::ClientConfig) -> Result<Dialled, DialError> {
    let config = quic_config(tls.clone())?;
    let connector = TlsConnector::from(Arc::new(tls));
    let mut last = DialError::Timeout { server: server.to_owned() };
    for address in resolve(server).await? {
        let quic = over_quic(server, address, config.clone());
        let tcp = async {
            smol::Timer::after(HEAD_START).await;
            over_tcp(server, address, &connector).await
        };
        match first(quic, tcp).await {
            Ok(dialled) => return Ok(dialled),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Connects over QUIC alone.
pub async fn connect_quic(server: &str, tls: rustls::ClientConfig) -> Result<Dialled, DialError> {
    let config = quic_config(tls)?;
    let mut last = DialError::Timeout { server: server.to_owned() };
    for address in resolve(server).await? {
        match over_quic(server, address, config.clone()).await {
            Ok(dialled) => return Ok(dialled),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn quic_config(tls: rustls::ClientConfig) -> Result<ClientConfig, DialError> {
    let crypto = QuicClientConfig::try_from(tls).map_err(|e| DialError::Tls(rustls::Error::General(e.to_string())))?;
    let mut config = ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(quic::transport(Role::Agent)));
    Ok(config)
}

async fn resolve(server: &str) -> Result<Vec<SocketAddr>, DialError> {
    let name = server.to_owned();
    smol::unblock(move || name.to_socket_addrs().map(Iterator::collect))
        .await
        .map_err(|source| DialError::Resolve { server: server.to_owned(), source })
}

/// The first of two ways that leads there; after an error of one the other still counts.
async fn first(
    quic: impl Future<Output = Result<Dialled, DialError>>,
    tcp: impl Future<Output = Result<Dialled, DialError>>,
) -> Result<Dialled, DialError> {
    enum Way {
        Quic(Result<Dialled, DialError>),
        Tcp(Result<Dialled, DialError>),
    }
    let (mut quic, mut tcp) = (pin!(quic), pin!(tcp));
    let both = |quic, tcp| DialError::Both { quic: Box::new(quic), tcp: Box::new(tcp) };
    match or(async { Way::Quic(quic.as_mut().await) }, async { Way::Tcp(tcp.as_mut().await) }).await {
        Way::Quic(Ok(dialled)) | Way::Tcp(Ok(dialled)) => Ok(dialled),
        Way::Quic(Err(error)) if error.is_conclusive() => Err(error),
        Way::Quic(Err(error)) => tcp.await.map_err(|other| both(error, other)),
        Way::Tcp(Err(error)) => quic.await.map_err(|other| both(other, error)),
    }
}

async fn over_quic(server: &str, address: SocketAddr, config: ClientConfig) -> Result<Dialled, DialError> {
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
            ConnectionError::TimedOut => DialError::Timeout { server: server.to_owned() },
            source => DialError::Connection { server: server.to_owned(), source },
        })
    };
    let connection = Connection::Quic(or(connected, timeout).await?);
    Ok(Dialled { connection, endpoint: Some(endpoint) })
}

async fn over_tcp(server: &str, address: SocketAddr, tls: &TlsConnector) -> Result<Dialled, DialError> {
    let failed = |source| DialError::Tcp { server: server.to_owned(), source };
    let connected = async {
        let socket = TcpStream::connect(address).await?;
        tcp::prepare(&socket)?;
        let name = ServerName::try_from(SERVER_NAME).map_err(io::Error::other)?;
        tls.connect(name, socket).await
    };
    let timeout = async {
        smol::Timer::after(HANDSHAKE_TIMEOUT).await;
        Err(io::ErrorKind::TimedOut.into())
    };
    let stream = or(connected, timeout).await.map_err(failed)?;
    Ok(Dialled { connection: Connection::Tcp(tcp::Connection::new(stream, Role::Agent)), endpoint: None })
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
