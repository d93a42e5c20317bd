//! DNS messages over TCP: each with its length before it (RFC 1035, 4.2.2).

use std::io::{self, ErrorKind, Read, Write};

/// One side of a connection, not blocking: bytes on their way in and out.
pub(crate) struct Framed<S> {
    pub stream: S,
    input: Vec<u8>,
    output: Vec<u8>,
}

/// The longest message with its length.
const MAX_FRAME: usize = 2 + 65535;

/// Bytes read at a time: most messages are far smaller.
const READ_AT_ONCE: usize = 4096;

impl<S: Read + Write> Framed<S> {
    pub(crate) fn new(stream: S) -> Self {
        Framed { stream, input: Vec::new(), output: Vec::new() }
    }

    /// Queues a message and sends what goes out at once.
    pub(crate) fn send(&mut self, message: &[u8]) -> io::Result<()> {
        self.output.extend_from_slice(&(message.len() as u16).to_be_bytes());
        self.output.extend_from_slice(message);
        self.flush()
    }

    /// Sends as much as the other side takes.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(sent) => drop(self.output.drain(..sent)),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => return Ok(()),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    pub(crate) fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// Reads what has come, up to one longest message. An error when the other side is gone.
    pub(crate) fn fill(&mut self) -> io::Result<()> {
        let mut buffer = [0; READ_AT_ONCE];
        while self.input.len() < MAX_FRAME {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(length) => self.input.extend_from_slice(&buffer[..length]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// The next whole message.
    pub(crate) fn next(&mut self) -> Option<Vec<u8>> {
        let length = usize::from(u16::from_be_bytes([*self.input.first()?, *self.input.get(1)?]));
        let message = self.input.get(2..2 + length)?.to_vec();
        self.input.drain(..2 + length);
        Some(message)
    }
}
