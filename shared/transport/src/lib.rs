//! Ordered streams between agent and server, over QUIC or, where UDP is blocked, over TLS on TCP.
//!
//! Both ends use the same few types; which transport carries them shows in [`Connection::carrier`]
//! only. Frames of messages over a stream are [`Pipe`]'s.

mod pipe;
pub mod quic;
mod streams;
pub mod tcp;

use std::fmt;
use std::time::Duration;

use coracle_shared::mux::End;

pub use pipe::{Pipe, PipeError, Turn};
pub use streams::{RecvStream, SendStream, StreamError};

/// Keeps NAT entries alive (30 s is the shortest in the field) and tells the server that we live.
pub const KEEP_ALIVE: Duration = Duration::from_secs(25);
/// Silence after which a connection is lost. One keep-alive may go unanswered for 15 s, in which it is
/// repeated many times; what is left of `--node-grace` (60 s) is enough to come back another way.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(40);
/// Log and exec streams that the server may have open at once on one node.
pub const MAX_STREAMS: u32 = 64;

/// What a connection goes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    Quic,
    Tcp,
}

/// Which end this is: the agent dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Agent,
    Server,
}

/// A connection; clones are the same one. It closes when the last is dropped.
#[derive(Clone, Debug)]
pub enum Connection {
    Quic(quinn::Connection),
    Tcp(tcp::Connection),
}

/// Why a connection was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lost {
    Quic(quinn::ConnectionError),
    Tcp(End),
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lost::Quic(error) => error.fmt(f),
            Lost::Tcp(end) => end.fmt(f),
        }
    }
}

impl std::error::Error for Lost {}

impl Lost {
    /// Whether nothing had come for [`IDLE_TIMEOUT`] before the connection was given up.
    pub fn was_silent(&self) -> bool {
        matches!(self, Lost::Quic(quinn::ConnectionError::TimedOut) | Lost::Tcp(End::Silent))
    }
}

impl Connection {
    pub fn carrier(&self) -> Carrier {
        match self {
            Connection::Quic(_) => Carrier::Quic,
            Connection::Tcp(_) => Carrier::Tcp,
        }
    }

    /// Opens a stream; the peer learns of it with the first bytes.
    pub async fn open(&self) -> Result<(SendStream, RecvStream), Lost> {
        match self {
            Connection::Quic(quic) => {
                let (send, recv) = quic.open_bi().await.map_err(Lost::Quic)?;
                Ok((SendStream::Quic(send), RecvStream::Quic(recv)))
            }
            Connection::Tcp(tcp) => {
                let (send, recv) = tcp.open().map_err(Lost::Tcp)?;
                Ok((SendStream::Tcp(send), RecvStream::Tcp(recv)))
            }
        }
    }

    /// The next stream that the peer opens.
    pub async fn accept(&self) -> Result<(SendStream, RecvStream), Lost> {
        match self {
            Connection::Quic(quic) => {
                let (send, recv) = quic.accept_bi().await.map_err(Lost::Quic)?;
                Ok((SendStream::Quic(send), RecvStream::Quic(recv)))
            }
            Connection::Tcp(tcp) => {
                let (send, recv) = tcp.accept().await.map_err(Lost::Tcp)?;
                Ok((SendStream::Tcp(send), RecvStream::Tcp(recv)))
            }
        }
    }

    /// Ends the connection and tells the peer why.
    pub fn close(&self, code: u32, reason: &str) {
        match self {
            Connection::Quic(quic) => quic.close(quinn::VarInt::from_u32(code), reason.as_bytes()),
            Connection::Tcp(tcp) => tcp.close(code, reason),
        }
    }

    /// Why the connection is over, once it is.
    pub fn lost(&self) -> Option<Lost> {
        match self {
            Connection::Quic(quic) => quic.close_reason().map(Lost::Quic),
            Connection::Tcp(tcp) => tcp.end().map(Lost::Tcp),
        }
    }
}
