//! The QUIC endpoint: who comes in, and by which door.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use coracle_store::{Clock, Store};
use futures_lite::future::or;
use quinn::crypto::rustls::{HandshakeData, QuicServerConfig};
use quinn::{
    Connection, ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig, IdleTimeout, Incoming,
    MtuDiscoveryConfig, ServerConfig, TransportConfig, VarInt,
};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::CertificateDer;

use super::compile::ClusterNetwork;
use super::desired::DesiredSets;
use super::pipe::Pipe;
use super::registry::Registry;
use super::{NodesError, join, log, session};
use crate::pki::{Peer, Pki};
use crate::tls::{ALPN_JOIN, ALPN_NODE, quic_config};

/// A node keeps its connection alive every 25 s; two may be lost. Shorter than `--node-grace`.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(55);
/// Handshakes and joins under way at once; beyond it newcomers have to prove their address, and at
/// twice this they are turned away. All nodes of a large cluster come back at once after a restart.
const MAX_NEWCOMERS: usize = 1024;
/// A stranger who has not joined by then is cut off.
const JOIN_TIMEOUT: Duration = Duration::from_secs(30);
/// What may be under way from one node: reports and logs. Bounds memory at scale.
const STREAM_WINDOW: u32 = 512 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
/// The path's MTU is probed on connecting, then once a day: an idle link is silent.
const MTU_INTERVAL: Duration = Duration::from_secs(86_400);

/// Bytes of a connection id: no two of a server's connections meet by chance.
const ID_LENGTH: usize = 8;

const CLOSED: VarInt = VarInt::from_u32(0);

/// What sessions, joins and streams share.
pub struct Shared {
    pub pki: Arc<Pki>,
    pub store: Arc<dyn Store>,
    pub clock: Clock,
    pub network: ClusterNetwork,
    pub registry: Arc<Registry>,
    pub desired: Arc<DesiredSets>,
    newcomers: AtomicUsize,
}

impl Shared {
    pub fn new(pki: Arc<Pki>, store: Arc<dyn Store>, clock: Clock, network: ClusterNetwork) -> Shared {
        Shared {
            pki,
            desired: Arc::new(DesiredSets::new(store.clone(), network.clone())),
            registry: Arc::new(Registry::new(clock.clone())),
            store,
            clock,
            network,
            newcomers: AtomicUsize::new(0),
        }
    }
}

/// Opens the endpoint on a UDP port.
pub fn open(pki: &Arc<Pki>, listen: SocketAddr) -> Result<Endpoint, NodesError> {
    let key = pki.quic_key().map_err(NodesError::Pki)?;
    let reset = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &key);
    let mut config = EndpointConfig::new(Arc::new(reset));
    config.cid_generator(|| Box::new(RandomIds));
    let tls = quic_config(pki).map_err(NodesError::Pki)?;
    let crypto = QuicServerConfig::try_from(tls).map_err(|e| NodesError::Quic(e.to_string()))?;
    let mut server = ServerConfig::with_crypto(Arc::new(crypto));
    server.transport_config(Arc::new(transport()));
    let bind = |source| NodesError::Listen { address: listen, source };
    let socket = UdpSocket::bind(listen).map_err(bind)?;
    let runtime = quinn::default_runtime().ok_or_else(|| NodesError::Quic("no runtime".into()))?;
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

fn transport() -> TransportConfig {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.interval(MTU_INTERVAL);
    let idle = IdleTimeout::from(VarInt::from_u32(IDLE_TIMEOUT.as_millis() as u32));
    let mut transport = TransportConfig::default();
    transport
        .max_idle_timeout(Some(idle))
        // The session, or the join; everything else is opened from here.
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(u64::from(CONNECTION_WINDOW))
        .datagram_receive_buffer_size(None)
        .mtu_discovery_config(Some(mtu));
    transport
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
    let alpn = alpn.and_then(|data| data.protocol);
    match alpn.as_deref() {
        Some(ALPN_NODE) => node(&connection, from, newcomer).await,
        Some(ALPN_JOIN) => stranger(&connection, &newcomer.0).await,
        _ => {}
    }
    connection.close(CLOSED, b"");
}

async fn node(connection: &Connection, from: SocketAddr, newcomer: Newcomer) {
    let certificates = connection.peer_identity().and_then(|peer| peer.downcast::<Vec<CertificateDer<'static>>>().ok());
    let peer = certificates.as_ref().and_then(|chain| chain.first()).map(|leaf| Peer::from_certificate(leaf));
    let peer = match peer {
        None => return log(&format!("{from}: no node certificate: a machine joins with a token first")),
        Some(Err(error)) => return log(&format!("{from}: {error}")),
        Some(Ok(peer)) => peer,
    };
    let shared = newcomer.0.clone();
    drop(newcomer);
    let lost = session::serve(&shared, connection, &peer).await;
    log(&format!("{} at {from}: session ended: {lost}", peer.user));
}

async fn stranger(connection: &Connection, shared: &Arc<Shared>) {
    let served = async {
        let Ok((send, recv)) = connection.accept_bi().await else { return };
        let mut pipe = Pipe::new(send, recv, join::LIMIT);
        if let Err(error) = join::serve(&mut pipe, &shared.pki, &*shared.store, SystemTime::now()).await {
            log(&format!("{}: join broke off: {error}", connection.remote_address()));
        }
    };
    let timeout = async {
        let _ = smol::Timer::after(JOIN_TIMEOUT).await;
    };
    or(served, timeout).await;
}
