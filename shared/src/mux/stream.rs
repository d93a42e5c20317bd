//! One stream: two directions, each with its buffer, its credit and its end.

use std::collections::VecDeque;

use super::frame::{Frame, Kind};
use super::{MAX_DATA, SEND_BUFFER, WINDOW};

/// Why a stream can not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The peer ended its direction before it was done.
    Reset,
    /// The peer reads no more.
    Stopped,
    /// It was finished here, or the connection is over.
    Ended,
}

/// What reading came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    Bytes(usize),
    /// Nothing there yet.
    Wait,
    /// The peer has finished, and all of it was read.
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Out {
    Open,
    /// `Fin` is due once the buffer is empty.
    Finishing,
    /// `Reset` is due.
    Resetting,
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum In {
    Open,
    Finished,
    Reset,
}

#[derive(Debug)]
pub struct Stream {
    pub priority: i32,
    /// The turn in which its data went out last.
    pub served: u64,
    open_due: bool,
    outgoing: VecDeque<u8>,
    credit: usize,
    out: Out,
    /// The peer reads no more.
    stopped: bool,
    incoming: VecDeque<u8>,
    /// How much the peer may still send.
    room: usize,
    /// Read, and not yet given back as credit.
    taken: usize,
    inn: In,
    stop_due: bool,
    /// Nobody here reads any more.
    dropped: bool,
}

impl Stream {
    pub fn opened_here() -> Stream {
        Stream { open_due: true, ..Stream::opened_there() }
    }

    pub fn opened_there() -> Stream {
        Stream {
            priority: 0,
            served: 0,
            open_due: false,
            outgoing: VecDeque::new(),
            credit: WINDOW,
            out: Out::Open,
            stopped: false,
            incoming: VecDeque::new(),
            room: WINDOW,
            taken: 0,
            inn: In::Open,
            stop_due: false,
            dropped: false,
        }
    }

    /// The connection is over: what is to be sent goes nowhere; what has come may be read.
    pub fn forget(&mut self) {
        self.outgoing = VecDeque::new();
        self.out = Out::Done;
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<usize, Broken> {
        if self.stopped {
            return Err(Broken::Stopped);
        }
        if self.out != Out::Open {
            return Err(Broken::Ended);
        }
        let taken = bytes.len().min(SEND_BUFFER - self.outgoing.len().min(SEND_BUFFER));
        self.outgoing.extend(&bytes[..taken]);
        Ok(taken)
    }

    pub fn finish(&mut self) {
        if self.out == Out::Open {
            self.out = Out::Finishing;
        }
    }

    pub fn reset(&mut self) {
        if matches!(self.out, Out::Open | Out::Finishing) {
            self.outgoing = VecDeque::new();
            self.out = Out::Resetting;
        }
    }

    pub fn read(&mut self, into: &mut [u8]) -> Result<Read, Broken> {
        if self.inn == In::Reset {
            return Err(Broken::Reset);
        }
        if self.incoming.is_empty() {
            return Ok(if self.inn == In::Finished { Read::End } else { Read::Wait });
        }
        let length = into.len().min(self.incoming.len());
        for (to, from) in into.iter_mut().zip(self.incoming.drain(..length)) {
            *to = from;
        }
        if self.incoming.is_empty() {
            // An idle stream holds no buffer.
            self.incoming = VecDeque::new();
        }
        self.taken += length;
        Ok(Read::Bytes(length))
    }

    pub fn stop(&mut self) {
        self.dropped = true;
        self.incoming = VecDeque::new();
        self.stop_due = self.inn == In::Open;
    }

    /// Takes a frame of the peer.
    pub fn take(&mut self, kind: Kind, payload: &[u8]) -> Result<(), &'static str> {
        match kind {
            Kind::Data | Kind::Fin if self.inn == In::Finished => return Err("data after the end of a stream"),
            Kind::Data => {
                self.room = self.room.checked_sub(payload.len()).ok_or("more than the window")?;
                if !self.dropped && self.inn == In::Open {
                    self.incoming.extend(payload);
                }
            }
            Kind::Fin => self.inn = In::Finished,
            Kind::Reset => {
                self.inn = In::Reset;
                self.incoming = VecDeque::new();
            }
            Kind::Stop => {
                self.stopped = true;
                self.reset();
            }
            Kind::Credit => {
                let more: [u8; 4] = payload.try_into().map_err(|_| "credit without an amount")?;
                self.credit += u32::from_le_bytes(more) as usize;
                if self.credit > WINDOW {
                    return Err("credit for what was not sent");
                }
            }
            _ => return Err("a frame that belongs to no stream"),
        }
        Ok(())
    }

    /// A frame that is no data, when one is due.
    pub fn signal(&mut self, id: u32) -> Option<Vec<u8>> {
        if std::mem::take(&mut self.open_due) {
            return Some(Frame::bytes(Kind::Open, id, &[]));
        }
        if std::mem::take(&mut self.stop_due) {
            return Some(Frame::bytes(Kind::Stop, id, &[]));
        }
        if self.out == Out::Resetting {
            self.out = Out::Done;
            return Some(Frame::bytes(Kind::Reset, id, &[]));
        }
        if self.taken >= WINDOW / 2 && self.inn == In::Open && !self.dropped {
            let credit = (self.taken as u32).to_le_bytes();
            self.room += self.taken;
            self.taken = 0;
            return Some(Frame::bytes(Kind::Credit, id, &credit));
        }
        None
    }

    /// Whether [`Self::data`] has a frame.
    pub fn has_data(&self) -> bool {
        match self.outgoing.is_empty() {
            false => self.credit > 0,
            true => self.out == Out::Finishing,
        }
    }

    pub fn data(&mut self, id: u32) -> Option<Vec<u8>> {
        let length = self.outgoing.len().min(MAX_DATA).min(self.credit);
        if length > 0 {
            self.credit -= length;
            let piece: Vec<u8> = self.outgoing.drain(..length).collect();
            if self.outgoing.is_empty() {
                self.outgoing = VecDeque::new();
            }
            return Some(Frame::bytes(Kind::Data, id, &piece));
        }
        if self.out == Out::Finishing && self.outgoing.is_empty() {
            self.out = Out::Done;
            return Some(Frame::bytes(Kind::Fin, id, &[]));
        }
        None
    }

    pub fn is_sent(&self) -> bool {
        self.stopped || self.out == Out::Done
    }

    /// Both directions are over, and nobody here reads any more.
    pub fn is_done(&self) -> bool {
        self.out == Out::Done && self.inn != In::Open && self.dropped
    }
}
