//! The two directions of a stream, over either transport.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_lite::AsyncRead;
use quinn::{ReadError, WriteError};

use crate::{Lost, tcp};

/// What the peer is told of a stream that ends early; only that it did matters.
const RESET: quinn::VarInt = quinn::VarInt::from_u32(1);

/// Why a stream can not be used any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamError {
    Lost(Lost),
    /// The peer gave its direction up.
    Reset,
    /// The peer reads no more.
    Stopped,
    /// It was finished here.
    Finished,
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // What happened to the connection says more than that it is lost.
            StreamError::Lost(lost) => lost.fmt(f),
            StreamError::Reset => f.write_str("the peer gave the stream up"),
            StreamError::Stopped => f.write_str("the peer reads no more"),
            StreamError::Finished => f.write_str("the stream is finished"),
        }
    }
}

impl std::error::Error for StreamError {}

impl From<WriteError> for StreamError {
    fn from(error: WriteError) -> StreamError {
        match error {
            WriteError::Stopped(_) => StreamError::Stopped,
            WriteError::ConnectionLost(why) => StreamError::Lost(Lost::Quic(why)),
            _ => StreamError::Finished,
        }
    }
}

impl From<ReadError> for StreamError {
    fn from(error: ReadError) -> StreamError {
        match error {
            ReadError::Reset(_) => StreamError::Reset,
            ReadError::ConnectionLost(why) => StreamError::Lost(Lost::Quic(why)),
            _ => StreamError::Finished,
        }
    }
}

/// Our direction; dropping it finishes it.
#[derive(Debug)]
pub enum SendStream {
    Quic(quinn::SendStream),
    Tcp(tcp::SendStream),
}

impl SendStream {
    /// Takes some of the bytes, once there is room; safe to drop.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<usize, StreamError> {
        match self {
            SendStream::Quic(quic) => Ok(quic.write(bytes).await?),
            SendStream::Tcp(tcp) => tcp.write(bytes).await,
        }
    }

    pub async fn write_all(&mut self, mut bytes: &[u8]) -> Result<(), StreamError> {
        while !bytes.is_empty() {
            let taken = self.write(bytes).await?;
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    /// A stream of a higher priority goes out before all of lower ones. A stream that is over has none.
    pub fn set_priority(&self, priority: i32) {
        match self {
            SendStream::Quic(quic) => drop(quic.set_priority(priority)),
            SendStream::Tcp(tcp) => tcp.set_priority(priority),
        }
    }

    /// No more is written. A stream that is over already stays so.
    pub fn finish(&mut self) {
        match self {
            SendStream::Quic(quic) => drop(quic.finish()),
            SendStream::Tcp(tcp) => tcp.finish(),
        }
    }

    /// Gives the stream up; what was not sent is not sent.
    pub fn reset(&mut self) {
        match self {
            SendStream::Quic(quic) => drop(quic.reset(RESET)),
            SendStream::Tcp(tcp) => tcp.reset(),
        }
    }

    /// Resolves when all is sent after [`Self::finish`], or when the peer reads no more.
    pub async fn stopped(&self) {
        match self {
            SendStream::Quic(quic) => drop(quic.stopped().await),
            SendStream::Tcp(tcp) => tcp.stopped().await,
        }
    }
}

/// The peer's direction; dropping it stops the peer.
#[derive(Debug)]
pub enum RecvStream {
    Quic(quinn::RecvStream),
    Tcp(tcp::RecvStream),
}

impl RecvStream {
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<Result<Option<usize>, StreamError>> {
        match self {
            RecvStream::Quic(quic) => quic.poll_read(cx, into).map(|read| match read {
                Ok(0) if !into.is_empty() => Ok(None),
                Ok(length) => Ok(Some(length)),
                Err(error) => Err(error.into()),
            }),
            RecvStream::Tcp(tcp) => tcp.poll(cx, into),
        }
    }

    /// What has come, at least a byte; `None` at the end. Safe to drop.
    pub async fn read(&mut self, into: &mut [u8]) -> Result<Option<usize>, StreamError> {
        poll_fn(|cx| self.poll(cx, into)).await
    }

    /// Fills all of it.
    pub async fn read_exact(&mut self, mut into: &mut [u8]) -> Result<(), StreamError> {
        while !into.is_empty() {
            let length = self.read(into).await?.ok_or(StreamError::Reset)?;
            into = &mut into[length..];
        }
        Ok(())
    }
}

impl AsyncRead for RecvStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        self.poll(cx, into).map(|read| read.map(Option::unwrap_or_default).map_err(io::Error::other))
    }
}
