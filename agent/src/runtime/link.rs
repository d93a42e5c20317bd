//! The agent's end of a pause's control socket: requests, answers, events.

use std::collections::HashMap;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use coracle_pause::{self as wire, HEADER, Header, Hello, PROTOCOL, PROTOCOL_MIN, Reader, Writer, reply, request};
use smol::Async;

use super::Error;
use crate::sys;

/// An answer or event as it came.
#[derive(Debug)]
pub struct Message {
    pub kind: u8,
    pub body: Vec<u8>,
}

/// One connection. Requests from many tasks, one reader.
pub struct Link {
    stream: Async<UnixStream>,
    /// Held while a frame is written, so that frames stay whole.
    writing: smol::lock::Mutex<()>,
    waiting: Mutex<HashMap<u32, async_channel::Sender<Message>>>,
    next: AtomicU32,
}

impl Link {
    /// Connects to the socket in `directory` by a path of any length.
    pub fn connect(directory: &OwnedFd) -> io::Result<Link> {
        let path = format!("/proc/self/fd/{}/{}", directory.as_raw_fd(), wire::SOCKET_FILE);
        let stream = Async::new(UnixStream::connect(Path::new(&path))?)?;
        Ok(Link { stream, writing: smol::lock::Mutex::new(()), waiting: Mutex::default(), next: AtomicU32::new(1) })
    }

    pub fn peer_pid(&self) -> io::Result<u32> {
        sys::peer_pid(self.stream.as_fd())
    }

    /// Sends a request; the channel gets its answers (an exec has two).
    pub async fn send(
        &self,
        kind: u8,
        fds: &[BorrowedFd<'_>],
        body: impl FnOnce(&mut Writer),
    ) -> Result<async_channel::Receiver<Message>, Error> {
        let number = self.next.fetch_add(1, Ordering::Relaxed).max(1);
        let raw = wire::frame(kind, fds.len() as u8, number, body);
        if raw.len() > wire::MAX_FRAME {
            return Err(Error::Invalid(format!("command and environment together have {} bytes", raw.len())));
        }
        let (answer, answers) = async_channel::bounded(2);
        self.waiting.lock().expect("no panic while held").insert(number, answer);
        let result = self.write(&raw, fds).await;
        if let Err(source) = result {
            self.waiting.lock().expect("no panic while held").remove(&number);
            return Err(Error::Io { what: "write to the pause process".into(), source });
        }
        Ok(answers)
    }

    async fn write(&self, mut raw: &[u8], mut fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let _whole = self.writing.lock().await;
        while !raw.is_empty() {
            let n = self.stream.write_with(|s| sys::send_with_fds(s.as_fd(), raw, fds)).await?;
            raw = &raw[n..];
            fds = &[];
        }
        Ok(())
    }

    /// A request with one answer; `FAILED` is the `Err` of the inner result.
    pub async fn ask(&self, kind: u8, body: impl FnOnce(&mut Writer)) -> Result<Result<Message, wire::Failure>, Error> {
        let answers = self.send(kind, &[], body).await?;
        answer(&answers).await
    }

    /// Says hello. Call with the reader running.
    pub async fn greet(&self) -> Result<(), Error> {
        let hello = Hello { min: PROTOCOL_MIN, max: PROTOCOL };
        match self.ask(request::HELLO, |w| hello.encode(w)).await? {
            Ok(message) if message.kind == reply::HELLO => Ok(()),
            Ok(message) => Err(Error::Protocol(format!("kind {} in answer to hello", message.kind))),
            Err(failure) => Err(setup_error(failure)),
        }
    }

    /// Reads for ever: answers go to who asked, events to `event`. Returns when the connection
    /// ends; requests that still wait are then answered by nothing.
    pub async fn read(&self, mut event: impl FnMut(Message)) -> io::Error {
        let mut buffer = Vec::new();
        let error = loop {
            match self.read_some(&mut buffer).await {
                Ok(0) => break io::Error::from(io::ErrorKind::UnexpectedEof),
                Ok(_) => {}
                Err(error) => break error,
            }
            if let Err(error) = self.deliver(&mut buffer, &mut event) {
                break error;
            }
        };
        self.waiting.lock().expect("no panic while held").clear();
        error
    }

    async fn read_some(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        let mut chunk = [0; 4096];
        let n = self.stream.read_with(|mut s| s.read(&mut chunk)).await?;
        buffer.extend_from_slice(&chunk[..n]);
        Ok(n)
    }

    fn deliver(&self, buffer: &mut Vec<u8>, event: &mut impl FnMut(Message)) -> io::Result<()> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        while let Some(head) = buffer.first_chunk::<HEADER>() {
            let header = Header::decode(head).map_err(|_| invalid())?;
            let end = HEADER + header.len;
            if buffer.len() < end {
                return Ok(());
            }
            let message = Message { kind: header.kind, body: buffer[HEADER..end].to_vec() };
            buffer.drain(..end);
            if header.request == 0 {
                event(message);
                continue;
            }
            let mut waiting = self.waiting.lock().expect("no panic while held");
            // An exec is answered twice; whoever is gone does not matter.
            let last = message.kind != reply::STARTED;
            if let Some(answer) = waiting.get(&header.request) {
                let _ = answer.try_send(message);
            }
            if last {
                waiting.remove(&header.request);
            }
        }
        Ok(())
    }
}

/// The next answer to a request.
pub async fn answer(answers: &async_channel::Receiver<Message>) -> Result<Result<Message, wire::Failure>, Error> {
    let message = answers.recv().await.map_err(|_| Error::Dead)?;
    if message.kind != reply::FAILED {
        return Ok(Ok(message));
    }
    let failure = wire::Failure::decode(Reader::new(&message.body));
    failure.map(Err).map_err(|_| Error::Protocol("a failure that cannot be read".into()))
}

/// Why the pause could not set up its sandbox.
fn setup_error(failure: wire::Failure) -> Error {
    let what = match failure.index {
        0 => "read the sandbox file".to_string(),
        1 => "set the host name".to_string(),
        n => format!("set sysctl number {}", n - 1),
    };
    Error::Start { stage: "sandbox".into(), what, source: io::Error::from_raw_os_error(failure.errno) }
}
