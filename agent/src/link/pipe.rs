//! Frames over one QUIC stream, in both directions at once: neither side's writing waits for its
//! reading, so two full pipes never block each other.

use std::fmt;

use coracle_shared::codec::{CodecError, Frames, frame};
use futures_lite::future::{or, pending};
use quinn::{ReadError, RecvStream, SendStream, WriteError};
use serde::Serialize;

/// The largest piece that is read at once.
const READ_CHUNK: usize = 64 << 10;

/// Why a stream ended.
#[derive(Debug)]
pub enum PipeError {
    Read(ReadError),
    Write(WriteError),
    Codec(CodecError),
    /// The peer finished its side.
    Finished,
}

impl fmt::Display for PipeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // What happened to the connection says more than that it is lost.
            PipeError::Read(ReadError::ConnectionLost(why)) | PipeError::Write(WriteError::ConnectionLost(why)) => {
                why.fmt(f)
            }
            PipeError::Read(error) => error.fmt(f),
            PipeError::Write(error) => error.fmt(f),
            PipeError::Codec(error) => error.fmt(f),
            PipeError::Finished => f.write_str("the peer closed the stream"),
        }
    }
}

impl std::error::Error for PipeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            PipeError::Read(error) => Some(error),
            PipeError::Write(error) => Some(error),
            PipeError::Codec(error) => Some(error),
            PipeError::Finished => None,
        }
    }
}

pub struct Pipe {
    pub send: SendStream,
    pub recv: RecvStream,
    frames: Frames,
    outgoing: Vec<u8>,
    written: usize,
}

enum Moved {
    Wrote(usize),
    Read(quinn::Chunk),
}

impl Pipe {
    pub fn new(send: SendStream, recv: RecvStream, limit: usize) -> Pipe {
        Pipe { send, recv, frames: Frames::new(limit), outgoing: Vec::new(), written: 0 }
    }

    /// Queues a message; [`Self::next_frame`] and [`Self::flush`] write.
    pub fn queue<T: Serialize>(&mut self, message: &T) {
        self.outgoing.extend_from_slice(&frame(message));
    }

    /// How many bytes wait to be written.
    pub fn queued(&self) -> usize {
        self.outgoing.len() - self.written
    }

    /// The next frame; writes what is queued meanwhile. Safe to drop at any await.
    pub async fn next_frame(&mut self) -> Result<Vec<u8>, PipeError> {
        loop {
            if let Some(content) = self.frames.next_frame().map_err(PipeError::Codec)? {
                return Ok(content);
            }
            let (outgoing, written) = (&self.outgoing, self.written);
            let (send, recv) = (&mut self.send, &mut self.recv);
            let write = async {
                match outgoing.len() - written {
                    0 => pending().await,
                    _ => send.write(&outgoing[written..]).await.map(Moved::Wrote).map_err(PipeError::Write),
                }
            };
            let read = async {
                match recv.read_chunk(READ_CHUNK, true).await {
                    Ok(Some(chunk)) => Ok(Moved::Read(chunk)),
                    Ok(None) => Err(PipeError::Finished),
                    Err(error) => Err(PipeError::Read(error)),
                }
            };
            match or(write, read).await? {
                Moved::Wrote(bytes) => self.wrote(bytes),
                Moved::Read(chunk) => self.frames.push(&chunk.bytes),
            }
        }
    }

    /// Writes all that is queued.
    pub async fn flush(&mut self) -> Result<(), PipeError> {
        while self.written < self.outgoing.len() {
            let bytes = self.send.write(&self.outgoing[self.written..]).await.map_err(PipeError::Write)?;
            self.wrote(bytes);
        }
        Ok(())
    }

    fn wrote(&mut self, bytes: usize) {
        self.written += bytes;
        if self.written == self.outgoing.len() {
            self.outgoing = Vec::new();
            self.written = 0;
        }
    }
}
