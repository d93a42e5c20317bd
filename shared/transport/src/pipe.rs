//! Frames over one stream, in both directions at once: neither side's writing waits for its reading,
//! so two full pipes never block each other.

use std::fmt;
use std::future::poll_fn;

use coracle_shared::codec::{CodecError, Frames, frame};
use futures_lite::future::{or, pending};
use serde::Serialize;

use crate::{RecvStream, SendStream, StreamError};

/// What is read at once.
const READ_CHUNK: usize = 8 << 10;

/// Why a stream of frames ended.
#[derive(Debug)]
pub enum PipeError {
    Stream(StreamError),
    Codec(CodecError),
    /// The peer finished its side.
    Finished,
}

impl fmt::Display for PipeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PipeError::Stream(error) => error.fmt(f),
            PipeError::Codec(error) => error.fmt(f),
            PipeError::Finished => f.write_str("the peer closed the stream"),
        }
    }
}

impl std::error::Error for PipeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            PipeError::Stream(error) => Some(error),
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

/// What [`Pipe::turn`] came to.
pub enum Turn {
    Frame(Vec<u8>),
    /// All that was queued has been written.
    Drained,
}

enum Moved {
    Wrote(usize),
    Read,
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
            if let Turn::Frame(content) = self.turn(true).await? {
                return Ok(content);
            }
        }
    }

    /// Writes what is queued and, if asked, reads, until there is a frame or all is written. Safe to
    /// drop at any await.
    pub async fn turn(&mut self, reading: bool) -> Result<Turn, PipeError> {
        loop {
            if reading && let Some(content) = self.frames.next_frame().map_err(PipeError::Codec)? {
                return Ok(Turn::Frame(content));
            }
            let (outgoing, written) = (&self.outgoing, self.written);
            let (send, recv, frames) = (&mut self.send, &mut self.recv, &mut self.frames);
            let write = async {
                match outgoing.len() - written {
                    0 => pending().await,
                    _ => send.write(&outgoing[written..]).await.map(Moved::Wrote).map_err(PipeError::Stream),
                }
            };
            let read = async {
                if !reading {
                    pending::<()>().await;
                }
                poll_fn(|cx| {
                    // On the stack, so that an idle session holds no buffer.
                    let mut chunk = [0; READ_CHUNK];
                    recv.poll(cx, &mut chunk).map(|read| match read {
                        Ok(Some(length)) => {
                            frames.push(&chunk[..length]);
                            Ok(Moved::Read)
                        }
                        Ok(None) => Err(PipeError::Finished),
                        Err(error) => Err(PipeError::Stream(error)),
                    })
                })
                .await
            };
            match or(write, read).await? {
                Moved::Wrote(bytes) => {
                    self.wrote(bytes);
                    if self.queued() == 0 {
                        return Ok(Turn::Drained);
                    }
                }
                Moved::Read => {}
            }
        }
    }

    /// Writes all that is queued.
    pub async fn flush(&mut self) -> Result<(), PipeError> {
        while self.written < self.outgoing.len() {
            let bytes = self.send.write(&self.outgoing[self.written..]).await.map_err(PipeError::Stream)?;
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
