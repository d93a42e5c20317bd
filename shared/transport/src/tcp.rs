//! Streams over one TLS connection: the driver around [`coracle_shared::mux`].

use std::future::Future;
use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use coracle_shared::mux::{Broken, End, Limits, Mux, Read, Side};
use coracle_shared::session::Millis;
use event_listener::{Event, EventListener};
use futures_lite::future::or;
use futures_lite::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};

use crate::{IDLE_TIMEOUT, KEEP_ALIVE, MAX_STREAMS, Role, StreamError};

/// Bytes that the kernel holds unsent: what is urgent overtakes all that is not in there yet.
const UNSENT: u32 = 16 << 10;
/// What is read at once: a TLS record.
const READ_CHUNK: usize = 16 << 10;
/// How long the last word may take to be written.
const FAREWELL: Duration = Duration::from_secs(2);

/// Prepares a socket: small messages go at once, and the kernel queues little.
pub fn prepare(socket: &impl AsFd) -> io::Result<()> {
    let socket = socket2::SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(UNSENT)
}

/// What the driver and the handles share.
#[derive(Debug)]
struct Shared {
    mux: Mutex<Mux>,
    started: Instant,
    /// Something has come, or there is room: for those who use streams.
    moved: Event,
    /// Something is to be sent: for the driver.
    work: Event,
}

impl Shared {
    fn mux(&self) -> MutexGuard<'_, Mux> {
        self.mux.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Millis {
        Millis(self.started.elapsed().as_millis() as u64)
    }

    /// Changes something that may have to be told to the peer, or that others wait for.
    fn act<T>(&self, act: impl FnOnce(&mut Mux) -> T) -> T {
        let result = act(&mut self.mux());
        self.work.notify(usize::MAX);
        self.moved.notify(usize::MAX);
        result
    }
}

/// Closes the connection with its last handle.
#[derive(Debug)]
struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.act(|mux| mux.close(0, ""));
    }
}

#[derive(Clone, Debug)]
pub struct Connection(Arc<Handle>);

impl Connection {
    /// Begins to carry streams over a connection, in a task of its own.
    pub fn new(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, role: Role) -> Connection {
        let streams = if role == Role::Agent { MAX_STREAMS as usize } else { 1 };
        let limits =
            Limits { streams, keep_alive: KEEP_ALIVE.as_millis() as u64, idle: IDLE_TIMEOUT.as_millis() as u64 };
        let side = if role == Role::Agent { Side::Dialler } else { Side::Listener };
        let shared = Arc::new(Shared {
            mux: Mutex::new(Mux::new(side, limits, Millis(0))),
            started: Instant::now(),
            moved: Event::new(),
            work: Event::new(),
        });
        smol::spawn(drive(io, shared.clone())).detach();
        Connection(Arc::new(Handle(shared)))
    }

    pub(crate) fn open(&self) -> Result<(SendStream, RecvStream), End> {
        let shared = &self.0.0;
        match shared.act(|mux| mux.end().cloned().map_or_else(|| Ok(mux.open()), Err)) {
            Ok(id) => Ok(halves(shared, id)),
            Err(end) => Err(end),
        }
    }

    pub(crate) async fn accept(&self) -> Result<(SendStream, RecvStream), End> {
        let shared = &self.0.0;
        loop {
            let moved = shared.moved.listen();
            {
                let mut mux = shared.mux();
                if let Some(id) = mux.accept() {
                    return Ok(halves(shared, id));
                }
                if let Some(end) = mux.end() {
                    return Err(end.clone());
                }
            }
            moved.await;
        }
    }

    pub(crate) fn close(&self, code: u32, reason: &str) {
        self.0.0.act(|mux| mux.close(code, reason));
    }

    pub(crate) fn end(&self) -> Option<End> {
        self.0.0.mux().end().cloned()
    }

    /// Resolves once the connection is over.
    pub async fn ended(&self) {
        loop {
            let moved = self.0.0.moved.listen();
            if self.end().is_some() {
                return;
            }
            moved.await;
        }
    }
}

fn halves(shared: &Arc<Shared>, id: u32) -> (SendStream, RecvStream) {
    let send = SendStream { shared: shared.clone(), id };
    (send, RecvStream { shared: shared.clone(), id, waiting: None })
}

/// Moves bytes until the connection is over.
async fn drive(io: impl AsyncRead + AsyncWrite + Unpin, shared: Arc<Shared>) {
    let (mut reader, mut writer) = split(io);
    let reading = async {
        let mut buffer = vec![0; READ_CHUNK];
        loop {
            let lost = match reader.read(&mut buffer).await {
                Ok(0) => "the peer closed the connection".to_owned(),
                Ok(length) => {
                    let now = shared.now();
                    shared.act(|mux| mux.receive(&buffer[..length], now));
                    continue;
                }
                Err(error) => error.to_string(),
            };
            shared.act(|mux| mux.carrier_lost(lost));
            return;
        }
    };
    let writing = async {
        if let Err(error) = write(&mut writer, &shared).await {
            shared.act(|mux| mux.carrier_lost(error.to_string()));
        }
    };
    or(or(reading, writing), watch(&shared)).await;
    // A last word that the reader's end cut off; a peer that does not take it is left.
    let farewell = async {
        if write(&mut writer, &shared).await.is_ok() {
            let _ = writer.close().await;
        }
    };
    let enough = async {
        smol::Timer::after(FAREWELL).await;
    };
    or(farewell, enough).await;
}

/// Writes what there is to say; returns after the last word.
async fn write(writer: &mut (impl AsyncWrite + Unpin), shared: &Shared) -> io::Result<()> {
    loop {
        let work = shared.work.listen();
        let (next, over) = {
            let mut mux = shared.mux();
            (mux.transmit(), mux.end().is_some())
        };
        match next {
            Some(bytes) => {
                writer.write_all(&bytes).await?;
                writer.flush().await?;
                shared.moved.notify(usize::MAX);
            }
            None if over => return Ok(()),
            None => work.await,
        }
    }
}

/// Keeps the time; returns some time after the end, when the last word should be out.
async fn watch(shared: &Shared) {
    loop {
        let work = shared.work.listen();
        let until = {
            let mux = shared.mux();
            if mux.end().is_some() {
                break;
            }
            mux.poll_timeout().0.saturating_sub(shared.now().0)
        };
        let due = async {
            smol::Timer::after(Duration::from_millis(until)).await;
        };
        or(due, work).await;
        let now = shared.now();
        if shared.mux().poll_timeout() <= now {
            shared.act(|mux| mux.handle_timeout(now));
        }
    }
    smol::Timer::after(FAREWELL).await;
}

fn broken(shared: &Shared, why: Broken) -> StreamError {
    match (why, shared.mux().end()) {
        (Broken::Reset, _) => StreamError::Reset,
        (Broken::Stopped, _) => StreamError::Stopped,
        (Broken::Ended, Some(end)) => StreamError::Lost(crate::Lost::Tcp(end.clone())),
        (Broken::Ended, None) => StreamError::Finished,
    }
}

/// Our direction of a stream; dropping it finishes it.
#[derive(Debug)]
pub struct SendStream {
    shared: Arc<Shared>,
    id: u32,
}

impl SendStream {
    pub(crate) async fn write(&self, bytes: &[u8]) -> Result<usize, StreamError> {
        loop {
            let moved = self.shared.moved.listen();
            let taken = self.shared.mux().write(self.id, bytes);
            match taken {
                Ok(0) if !bytes.is_empty() => moved.await,
                Ok(taken) => {
                    self.shared.work.notify(usize::MAX);
                    return Ok(taken);
                }
                Err(why) => return Err(broken(&self.shared, why)),
            }
        }
    }

    pub(crate) fn finish(&self) {
        self.shared.act(|mux| mux.finish(self.id));
    }

    pub(crate) fn reset(&self) {
        self.shared.act(|mux| mux.reset(self.id));
    }

    pub(crate) fn set_priority(&self, priority: i32) {
        self.shared.act(|mux| mux.set_priority(self.id, priority));
    }

    pub(crate) async fn stopped(&self) {
        loop {
            let moved = self.shared.moved.listen();
            if self.shared.mux().is_sent(self.id) {
                return;
            }
            moved.await;
        }
    }
}

impl Drop for SendStream {
    fn drop(&mut self) {
        self.finish();
    }
}

/// The peer's direction of a stream; dropping it stops the peer.
#[derive(Debug)]
pub struct RecvStream {
    shared: Arc<Shared>,
    id: u32,
    waiting: Option<EventListener>,
}

impl RecvStream {
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<Result<Option<usize>, StreamError>> {
        loop {
            let mut moved = self.shared.moved.listen();
            let read = self.shared.mux().read(self.id, into);
            match read {
                Ok(Read::Bytes(length)) => {
                    // Credit may be due.
                    self.shared.work.notify(usize::MAX);
                    self.waiting = None;
                    return Poll::Ready(Ok(Some(length)));
                }
                Ok(Read::End) => return Poll::Ready(Ok(None)),
                Err(why) => return Poll::Ready(Err(broken(&self.shared, why))),
                Ok(Read::Wait) => match Pin::new(&mut moved).poll(cx) {
                    Poll::Ready(()) => {}
                    Poll::Pending => {
                        self.waiting = Some(moved);
                        return Poll::Pending;
                    }
                },
            }
        }
    }
}

impl Drop for RecvStream {
    fn drop(&mut self) {
        self.shared.act(|mux| mux.stop(self.id));
    }
}
