//! A connection that is patient with those who work and not with those who do nothing: while no
//! request is under way it has to say something within a time, and it has to take what is sent to it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_lite::{AsyncRead, AsyncWrite, FutureExt as _, ready};

/// How long a connection may be open with no request under way, half a request's head included.
/// Go's clients keep idle connections for 90 s.
pub const IDLE: Duration = Duration::from_secs(120);

/// How long a client may take nothing of what is sent to it.
pub const STALL: Duration = Duration::from_secs(30);

/// Requests of a connection.
#[derive(Clone, Debug, Default)]
pub struct Work(Arc<Requests>);

#[derive(Debug, Default)]
struct Requests {
    under_way: AtomicUsize,
    /// How many there were so far.
    begun: AtomicUsize,
}

/// One request under way, until dropped.
#[derive(Debug)]
pub struct Busy(Work);

impl Work {
    pub fn begin(&self) -> Busy {
        self.0.under_way.fetch_add(1, Ordering::Relaxed);
        self.0.begun.fetch_add(1, Ordering::Relaxed);
        Busy(self.clone())
    }

    fn is_idle(&self) -> bool {
        self.0.under_way.load(Ordering::Relaxed) == 0
    }

    fn begun(&self) -> usize {
        self.0.begun.load(Ordering::Relaxed)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The bounds of patience. They are looked at now and then by one timer a connection: a timer a
/// request would wake the reactor each time.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For the head of a request, from its first byte on, where a connection has one at a time.
    pub head: Option<Duration>,
    pub idle: Duration,
    pub stall: Duration,
}

impl Patience {
    /// How often the clock is looked at.
    fn look(&self) -> Duration {
        self.head.map_or(self.stall, |head| head.min(self.stall))
    }
}

/// A stream with bounded patience.
pub struct Patient<T> {
    io: T,
    work: Work,
    patience: Patience,
    /// When something was last read, or work was last seen under way.
    active: Instant,
    /// When the first bytes of a head came, and after how many requests.
    head: Option<(Instant, usize)>,
    /// Since when the other side takes nothing.
    blocked: Option<Instant>,
    timer: smol::Timer,
}

impl<T> Patient<T> {
    pub fn new(io: T, work: Work, patience: Patience) -> Patient<T> {
        let timer = smol::Timer::after(patience.look());
        Patient { io, work, patience, active: Instant::now(), head: None, blocked: None, timer }
    }

    /// Looks at the clock at most once in a while; an error once patience is over.
    fn check(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        loop {
            let now = ready!(self.timer.poll(cx));
            if !self.work.is_idle() {
                self.active = now;
            }
            let stalled = self.blocked.is_some_and(|since| now - since >= self.patience.stall);
            if stalled || self.is_late(now) || now - self.active >= self.patience.idle {
                return Poll::Ready(io::ErrorKind::TimedOut.into());
            }
            self.timer.set_after(self.patience.look());
        }
    }

    /// Whether a head has begun, has taken too long, and no request came of it so far.
    fn is_late(&self, now: Instant) -> bool {
        let (Some(limit), Some((since, after))) = (self.patience.head, self.head) else { return false };
        after == self.work.begun() && now.saturating_duration_since(since) >= limit
    }

    /// Something came.
    fn heard(&mut self) {
        self.active = Instant::now();
        let begun = self.work.begun();
        if self.head.is_none_or(|(_, after)| after != begun) {
            self.head = self.work.is_idle().then_some((self.active, begun));
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Patient<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.io).poll_read(cx, buf) {
            Poll::Ready(done) => {
                self.heard();
                Poll::Ready(done)
            }
            Poll::Pending => self.check(cx).map(Err),
        }
    }
}

impl<T: AsyncWrite + Unpin> Patient<T> {
    fn written<R>(&mut self, cx: &mut Context<'_>, done: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        match done {
            Poll::Ready(done) => {
                self.blocked = None;
                Poll::Ready(done)
            }
            Poll::Pending => {
                self.blocked.get_or_insert_with(Instant::now);
                self.check(cx).map(Err)
            }
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Patient<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.io).poll_write(cx, buf);
        self.written(cx, done)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.io).poll_flush(cx);
        self.written(cx, done)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.io).poll_close(cx);
        self.written(cx, done)
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Never has anything to read and never takes anything.
    struct Stuck;

    impl AsyncRead for Stuck {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut [u8]) -> Poll<io::Result<usize>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Stuck {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Pending
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    /// Has a byte, and then nothing more.
    struct Slow(bool);

    impl AsyncRead for Slow {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
            match std::mem::replace(&mut self.0, false) {
                true => {
                    buf[0] = b'G';
                    Poll::Ready(Ok(1))
                }
                false => Poll::Pending,
            }
        }
    }

    const SHORT: Patience = Patience { head: None, idle: Duration::from_millis(20), stall: Duration::from_millis(5) };
    const LONG: Duration = Duration::from_secs(3600);

    /// Reads twice; what the second read, which has nothing to read, comes to in a while.
    fn second_read(work: &Work, patience: Patience, between: impl FnOnce()) -> Option<io::ErrorKind> {
        let mut patient = Patient::new(Slow(true), work.clone(), patience);
        smol::block_on(async {
            assert_eq!(patient.read(&mut [0; 8]).await.expect("a byte"), 1);
            between();
            let read = async { patient.read(&mut [0; 8]).await.err().map(|e| e.kind()) };
            let enough = async {
                smol::Timer::after(SHORT.idle * 5).await;
                None
            };
            read.or(enough).await
        })
    }

    #[test]
    fn a_head_that_began_has_to_end_and_one_that_ended_is_no_reason_to_leave() {
        let patience = Patience { head: Some(SHORT.idle), idle: LONG, stall: LONG };
        let work = Work::default();
        assert_eq!(second_read(&work, patience, || {}), Some(io::ErrorKind::TimedOut));
        // The byte was the head of a request that was answered: the connection may rest.
        assert_eq!(second_read(&work, patience, || drop(work.begin())), None);
        assert_eq!(second_read(&work, Patience { head: None, ..patience }, || {}), None);
    }

    #[test]
    fn an_idle_connection_ends_and_a_busy_one_does_not() {
        let work = Work::default();
        let mut patient = Patient::new(Stuck, work.clone(), SHORT);
        let error = smol::block_on(patient.read(&mut [0; 8])).expect_err("too late");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let _busy = work.begin();
        let mut patient = Patient::new(Stuck, work, SHORT);
        let waited = smol::block_on(async {
            let read = async { Some(patient.read(&mut [0; 8]).await) };
            let enough = async {
                smol::Timer::after(SHORT.idle * 5).await;
                None
            };
            read.or(enough).await
        });
        assert!(waited.is_none());
    }

    #[test]
    fn a_client_that_takes_nothing_is_cut_off_even_while_busy() {
        let work = Work::default();
        let _busy = work.begin();
        let mut patient = Patient::new(Stuck, work, Patience { idle: LONG, ..SHORT });
        let error = smol::block_on(patient.write(b"x")).expect_err("too late");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
