//! The listener: TLS, HTTP/1.1 and HTTP/2, and the bounds on connections.

use std::convert::Infallible;
use std::io;
use std::net::Shutdown;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use async_net::{TcpListener, TcpStream};
use coracle_shared::ids::Fingerprint;
use coracle_shared::submit::Identity;
use futures_lite::{AsyncReadExt as _, FutureExt as _};
use futures_rustls::LazyConfigAcceptor;
use futures_rustls::server::TlsStream;
use hyper::StatusCode;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::service::service_fn;
use rustls::ServerConfig;
use smol::Executor;
use smol_hyper::rt::{FuturesIo, SmolExecutor, SmolTimer};

use super::Api;
use super::authz::anonymous;
use super::handle::handle;
use super::patient::{Busy, IDLE, Patience, Patient, STALL, Work};
use super::reply::{Cut, Payload};
use super::stream::BoxFuture;
use crate::pki::Peer;

/// Connections at once; more are closed as they come.
const MAX_CONNECTIONS: usize = 10_000;

/// How long clients may take.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// For the TLS handshake.
    pub handshake: Duration,
    /// For the head of a request over HTTP/1.1, from its first byte on.
    pub head: Duration,
    /// With no request under way.
    pub idle: Duration,
    /// With something sent that they do not take.
    pub stall: Duration,
}

impl Default for Times {
    fn default() -> Times {
        Times { handshake: Duration::from_secs(10), head: Duration::from_secs(30), idle: IDLE, stall: STALL }
    }
}

/// Bytes of headers in a request.
const MAX_HEAD: usize = 64 << 10;

/// How long and how much a closed connection is still read: enough for a slow uplink's way back and
/// for a body well over the limit.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 16 << 20;

/// Requests at once on one HTTP/2 connection: a client's informers share one.
const MAX_STREAMS: u32 = 1000;

/// What one HTTP/2 stream may have unsent.
const MAX_UNSENT: usize = 128 << 10;

/// Silence after which the kernel asks whether the other side is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// How long accepting pauses when the process has no more files to open.
const PAUSE: Duration = Duration::from_millis(100);

/// Who is at the other end of a connection.
pub struct Client {
    pub who: Identity,
    /// Of a node: its key, which may be revoked at any time.
    pub key: Option<Fingerprint>,
    /// Requests under way; an upgraded stream holds one as long as it lives.
    pub work: Work,
}

/// Takes connections on the API's port that speak another protocol than HTTP.
pub trait Door: Send + Sync + 'static {
    /// How TLS goes on with a client that offers this protocol (ALPN); `None` when it is not ours.
    fn tls(&self, protocol: &[u8]) -> Option<Arc<ServerConfig>>;

    /// Serves a connection whose handshake is done, to its end.
    fn enter(&self, stream: TlsStream<TcpStream>, from: SocketAddr) -> BoxFuture<'static, ()>;
}

/// What a listener offers.
#[derive(Clone)]
pub struct Offer {
    pub api: Arc<ServerConfig>,
    /// For nodes that can not come over UDP.
    pub door: Option<Arc<dyn Door>>,
}

/// Serves the API on a listener until dropped.
pub async fn serve(api: Arc<Api>, listener: TcpListener, offer: Offer, times: Times, executor: Arc<Executor<'static>>) {
    let open = Arc::new(AtomicUsize::new(0));
    loop {
        let (socket, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(_) => {
                smol::Timer::after(PAUSE).await;
                continue;
            }
        };
        if open.load(Ordering::Relaxed) >= MAX_CONNECTIONS {
            continue;
        }
        let place = Place::take(&open);
        let (api, offer, spawner) = (api.clone(), offer.clone(), executor.clone());
        let connection = async move {
            let _place = place;
            // What goes wrong with one connection is its client's to see.
            let _ = connect(api, (socket, from), offer, times, spawner).await;
        };
        executor.spawn(connection).detach();
    }
}

/// A place among the open connections.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(open: &Arc<AtomicUsize>) -> Place {
        open.fetch_add(1, Ordering::Relaxed);
        Place(open.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn connect(
    api: Arc<Api>,
    (socket, from): (TcpStream, SocketAddr),
    offer: Offer,
    times: Times,
    executor: Arc<Executor<'static>>,
) -> io::Result<()> {
    socket.set_nodelay(true)?;
    rustix::net::sockopt::set_socket_keepalive(&socket, true)?;
    rustix::net::sockopt::set_tcp_keepidle(&socket, KEEP_ALIVE)?;
    let late = async {
        smol::Timer::after(times.handshake).await;
        Err(io::ErrorKind::TimedOut.into())
    };
    let stream = match shake_hands(socket.clone(), &offer).or(late).await? {
        Entered::Client(stream) => stream,
        Entered::Door(door, stream) => {
            door.enter(stream, from).await;
            return Ok(());
        }
    };
    let (who, key) = identify(&stream)?;
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let client = Arc::new(Client { who, key, work: Work::default() });
    let upgraded = Arc::new(AtomicBool::new(false));
    // Streams of HTTP/2 are told apart by hyper; it bounds them by number and size.
    let patience = Patience { head: (!http2).then_some(times.head), idle: times.idle, stall: times.stall };
    let io = FuturesIo::new(Patient::new(stream, client.work.clone(), patience));
    let changes = upgraded.clone();
    let service = service_fn(move |request| {
        let (api, client, upgraded) = (api.clone(), client.clone(), changes.clone());
        async move {
            let busy = client.work.begin();
            let reply = handle(&api, &client, request).await;
            upgraded.fetch_or(reply.status() == StatusCode::SWITCHING_PROTOCOLS, Ordering::Relaxed);
            Ok::<_, Infallible>(reply.map(|payload| Answer { payload, _busy: busy }))
        }
    });
    let served = match http2 {
        true => http2_builder(executor).serve_connection(io, service).await,
        false => http1_builder().serve_connection(io, service).with_upgrades().await,
    };
    if !upgraded.load(Ordering::Relaxed) {
        linger(socket).await;
    }
    served.map_err(io::Error::other)
}

/// Which protocol a connection is for.
enum Entered {
    Client(TlsStream<TcpStream>),
    Door(Arc<dyn Door>, TlsStream<TcpStream>),
}

/// The TLS handshake; what the client offers decides who serves it, and whose rules its certificate
/// has to meet.
async fn shake_hands(socket: TcpStream, offer: &Offer) -> io::Result<Entered> {
    let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), socket).await?;
    let door = offer.door.as_ref().and_then(|door| {
        let hello = start.client_hello();
        hello.alpn()?.find_map(|protocol| door.tls(protocol)).map(|tls| (door.clone(), tls))
    });
    match door {
        Some((door, tls)) => Ok(Entered::Door(door, start.into_stream(tls).await?)),
        None => Ok(Entered::Client(start.into_stream(offer.api.clone()).await?)),
    }
}

/// Reads on for a while after the last word to a client. A socket that is closed with something
/// unread is reset, and the reset would take from the client the answer that it has not yet read:
/// one that says "too large" is sent while the client still writes.
async fn linger(mut socket: TcpStream) {
    if socket.shutdown(Shutdown::Write).is_err() {
        return;
    }
    let end = async {
        smol::Timer::after(LINGER).await;
    };
    let rest = async {
        let mut piece = [0; 4096];
        let mut left = LINGER_BYTES;
        while let Ok(length @ 1..) = socket.read(&mut piece).await {
            left = left.saturating_sub(length);
            if left == 0 {
                break;
            }
        }
    };
    rest.or(end).await;
}

fn http1_builder() -> hyper::server::conn::http1::Builder {
    let mut builder = hyper::server::conn::http1::Builder::new();
    // `Patient` bounds the time of a head: hyper would set a timer for each, and end idle connections by it.
    builder.header_read_timeout(None).max_buf_size(MAX_HEAD).half_close(true);
    builder
}

fn http2_builder(executor: Arc<Executor<'static>>) -> hyper::server::conn::http2::Builder<Spawner> {
    let mut builder = hyper::server::conn::http2::Builder::new(SmolExecutor::new(Handle(executor)));
    builder
        .timer(SmolTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_send_buf_size(MAX_UNSENT)
        .max_header_list_size(MAX_HEAD as u32);
    builder
}

type Spawner = SmolExecutor<Handle>;

/// The executor as hyper's adapter wants it.
#[derive(Clone)]
struct Handle(Arc<Executor<'static>>);

impl AsRef<Executor<'static>> for Handle {
    fn as_ref(&self) -> &Executor<'static> {
        &self.0
    }
}

/// Who the client's certificate names; without one, nobody in particular.
fn identify(stream: &TlsStream<TcpStream>) -> io::Result<(Identity, Option<Fingerprint>)> {
    let Some(certificate) = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()) else {
        return Ok((anonymous(), None));
    };
    let peer = Peer::from_certificate(certificate).map_err(io::Error::other)?;
    let key = peer.node().is_some().then_some(peer.key);
    let mut groups = peer.groups;
    groups.push("system:authenticated".into());
    Ok((Identity { user: peer.user, groups }, key))
}

/// An answer that counts as a request under way until it is sent.
struct Answer {
    payload: Payload,
    _busy: Busy,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        Pin::new(&mut self.payload).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.payload.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.payload.size_hint()
    }
}
