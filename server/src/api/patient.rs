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

/// Requests under way on a connection.
#[derive(Clone, Debug, Default)]
pub struct Work(Arc<AtomicUsize>);

/// One request under way, until dropped.
#[derive(Debug)]
pub struct Busy(Work);

impl Work {
    pub fn begin(&self) -> Busy {
        self.0.fetch_add(1, Ordering::Relaxed);
        Busy(self.clone())
    }

    fn is_idle(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Both bounds of patience.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    pub idle: Duration,
    pub stall: Duration,
}

/// A stream with bounded patience.
pub struct Patient<T> {
    io: T,
    work: Work,
    patience: Patience,
    /// When something was last read, or work was last seen under way.
    active: Instant,
    /// Since when the other side takes nothing.
    blocked: Option<Instant>,
    timer: smol::Timer,
}

impl<T> Patient<T> {
    pub fn new(io: T, work: Work, patience: Patience) -> Patient<T> {
        let timer = smol::Timer::after(patience.stall);
        Patient { io, work, patience, active: Instant::now(), blocked: None, timer }
    }

    /// Looks at the clock at most once in a while; an error once patience is over.
    fn check(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        loop {
            let now = ready!(self.timer.poll(cx));
            if !self.work.is_idle() {
                self.active = now;
            }
            let stalled = self.blocked.is_some_and(|since| now - since >= self.patience.stall);
            if stalled || now - self.active >= self.patience.idle {
                return Poll::Ready(io::ErrorKind::TimedOut.into());
            }
            self.timer.set_after(self.patience.stall);
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Patient<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.io).poll_read(cx, buf) {
            Poll::Ready(done) => {
                self.active = Instant::now();
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

    const SHORT: Patience = Patience { idle: Duration::from_millis(20), stall: Duration::from_millis(5) };
    const LONG: Duration = Duration::from_secs(3600);

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
        let mut patient = Patient::new(Stuck, work, Patience { idle: LONG, stall: SHORT.stall });
        let error = smol::block_on(patient.write(b"x")).expect_err("too late");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
