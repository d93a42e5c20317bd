//! Who comes in, and by which door: over QUIC, or over the API's TCP port.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_net::TcpStream;
use coracle_shared::wire::ProtocolRange;
use coracle_store::{Clock, Store};
use coracle_transport::quic::{
    self, ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig, HandshakeData, Incoming, QuicServerConfig,
};
use coracle_transport::{Connection, Pipe, Role, tcp};
use futures_lite::future::or;
use futures_rustls::server::TlsStream;
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::CertificateDer;

use super::compile::ClusterNetwork;
use super::desired::DesiredSets;
use super::registry::Registry;
use super::stored::wall;
use super::{NodesError, Setup, Wall, join, log, session};
use crate::pki::{Peer, Pki};
use crate::tls::{ALPN_JOIN, ALPN_NODE, nodes_config};

/// Handshakes and joins under way at once; beyond it newcomers have to prove their address, and at
/// twice this they are turned away. All nodes of a large cluster come back at once after a restart.
const MAX_NEWCOMERS: usize = 1024;
/// A stranger who has not joined by then is cut off.
const JOIN_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of a connection id: no two of a server's connections meet by chance.
const ID_LENGTH: usize = 8;

/// What sessions, joins and streams share.
pub struct Shared {
    pub pki: Arc<Pki>,
    pub store: Arc<dyn Store>,
    pub clock: Clock,
    pub wall: Wall,
    pub protocols: ProtocolRange,
    pub network: ClusterNetwork,
    pub registry: Arc<Registry>,
    pub desired: Arc<DesiredSets>,
    newcomers: AtomicUsize,
}

impl Shared {
    pub fn new(pki: Arc<Pki>, store: Arc<dyn Store>, setup: Setup) -> Shared {
        let Setup { network, clock, wall, protocols, .. } = setup;
        Shared {
            pki,
            wall,
            protocols,
            desired: Arc::new(DesiredSets::new(store.clone(), network.clone())),
            registry: Arc::new(Registry::new(clock.clone())),
            store,
            clock,
            network,
            newcomers: AtomicUsize::new(0),
        }
    }

    /// Milliseconds since the Unix epoch.
    pub fn wall_millis(&self) -> i64 {
        wall((self.wall)())
    }
}

/// Opens the endpoint on a UDP port.
pub fn open(pki: &Arc<Pki>, listen: SocketAddr) -> Result<Endpoint, NodesError> {
    let key = pki.quic_key().map_err(NodesError::Pki)?;
    let reset = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &key);
    let mut config = EndpointConfig::new(Arc::new(reset));
    config.cid_generator(|| Box::new(RandomIds));
    let tls = nodes_config(pki).map_err(NodesError::Pki)?;
    let crypto = QuicServerConfig::try_from(tls).map_err(|e| NodesError::Quic(e.to_string()))?;
    let mut server = quic::ServerConfig::with_crypto(Arc::new(crypto));
    server.transport_config(Arc::new(quic::transport(Role::Server)));
    let bind = |source| NodesError::Listen { address: listen, source };
    let socket = UdpSocket::bind(listen).map_err(bind)?;
    let runtime = quic::default_runtime().ok_or_else(|| NodesError::Quic("no runtime".into()))?;
    Endpoint::new(config, Some(server), socket, runtime).map_err(bind)
}

/// Plain random connection ids. quinn's own are signed with a key of the process, and packets for the
/// ids of a server before its restart would be dropped where they should be answered with a reset.
struct RandomIds;

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut bytes = [0; ID_LENGTH];
        // Ids only have to differ; without randomness nothing else of TLS would work either.
        let _ = SystemRandom::new().fill(&mut bytes);
        ConnectionId::new(&bytes)
    }

    fn cid_len(&self) -> usize {
        ID_LENGTH
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// Takes connections until the endpoint is closed.
pub async fn accept(endpoint: &Endpoint, shared: &Arc<Shared>) {
    while let Some(incoming) = endpoint.accept().await {
        let waiting = shared.newcomers.load(Ordering::Relaxed);
        if waiting >= 2 * MAX_NEWCOMERS {
            incoming.refuse();
        } else if waiting >= MAX_NEWCOMERS && incoming.may_retry() {
            // Fails only when the address was proven already.
            let _ = incoming.retry();
        } else {
            smol::spawn(admit(incoming, Newcomer::new(shared.clone()))).detach();
        }
    }
}

/// Counts a connection among the newcomers until it is a node's.
struct Newcomer(Arc<Shared>);

impl Newcomer {
    fn new(shared: Arc<Shared>) -> Newcomer {
        shared.newcomers.fetch_add(1, Ordering::Relaxed);
        Newcomer(shared)
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        self.0.newcomers.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn admit(incoming: Incoming, newcomer: Newcomer) {
    let from = incoming.remote_address();
    let connection = match incoming.await {
        Ok(connection) => connection,
        Err(error) => return log(&format!("{from}: handshake failed: {error}")),
    };
    let alpn = connection.handshake_data().and_then(|data| data.downcast::<HandshakeData>().ok());
    let certificates = connection.peer_identity().and_then(|peer| peer.downcast::<Vec<CertificateDer<'static>>>().ok());
    let leaf = certificates.and_then(|chain| chain.into_iter().next());
    let alpn = alpn.and_then(|data| data.protocol);
    serve(Connection::Quic(connection), alpn.as_deref(), leaf.as_ref(), from, newcomer).await;
}

/// Takes a connection that came over TCP, its handshake done.
pub async fn enter(stream: TlsStream<TcpStream>, from: SocketAddr, shared: Arc<Shared>) {
    if shared.newcomers.load(Ordering::Relaxed) >= 2 * MAX_NEWCOMERS {
        return;
    }
    let (socket, tls) = stream.get_ref();
    if let Err(error) = tcp::prepare(socket) {
        return log(&format!("{from}: {error}"));
    }
    let alpn = tls.alpn_protocol().map(<[u8]>::to_vec);
    let leaf = tls.peer_certificates().and_then(|chain| chain.first()).map(|leaf| leaf.clone().into_owned());
    let connection = tcp::Connection::new(stream, Role::Server);
    let newcomer = Newcomer::new(shared);
    serve(Connection::Tcp(connection.clone()), alpn.as_deref(), leaf.as_ref(), from, newcomer).await;
    connection.ended().await;
}

async fn serve(
    connection: Connection,
    alpn: Option<&[u8]>,
    leaf: Option<&CertificateDer<'_>>,
    from: SocketAddr,
    newcomer: Newcomer,
) {
    match alpn {
        Some(ALPN_NODE) => node(&connection, leaf, from, newcomer).await,
        Some(ALPN_JOIN) => stranger(&connection, from, &newcomer.0).await,
        _ => {}
    }
    connection.close(0, "");
}

async fn node(connection: &Connection, leaf: Option<&CertificateDer<'_>>, from: SocketAddr, newcomer: Newcomer) {
    let peer = match leaf.map(|leaf| Peer::from_certificate(leaf)) {
        None => return log(&format!("{from}: no node certificate: a machine joins with a token first")),
        Some(Err(error)) => return log(&format!("{from}: {error}")),
        Some(Ok(peer)) => peer,
    };
    let shared = newcomer.0.clone();
    drop(newcomer);
    let lost = session::serve(&shared, connection, &peer).await;
    log(&format!("{} at {from}: session ended: {lost}", peer.user));
}

async fn stranger(connection: &Connection, from: SocketAddr, shared: &Arc<Shared>) {
    let served = async {
        let Ok((send, recv)) = connection.accept().await else { return };
        let mut pipe = Pipe::new(send, recv, join::LIMIT);
        let now = (shared.wall)();
        if let Err(error) = join::serve(&mut pipe, shared.protocols, &shared.pki, &*shared.store, now).await {
            log(&format!("{from}: join broke off: {error}"));
        }
    };
    let timeout = async {
        let _ = smol::Timer::after(JOIN_TIMEOUT).await;
    };
    or(served, timeout).await;
}
