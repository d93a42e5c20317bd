//! Unpacking a layer in a process of its own, which can reach nothing but the layer's directory.
//!
//! The parent writes the compressed layer to the child's standard input; the child answers with one
//! line on its standard output. Inside the child one thread decompresses while the other writes
//! files, so that download, decompression and writing overlap.

mod archive;
mod confine;
mod decompress;
mod extract;
pub mod implied;
mod limits;

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use serde::{Deserialize, Serialize};

use crate::digest::{Hasher, Sha256};
use crate::images::Unpacker;
use archive::Archive;
use decompress::Decompressed;
use extract::Extractor;
use limits::{CHUNK, CHUNKS};

/// Carries the [`Job`]; the environment is otherwise empty.
const JOB: &str = "CORACLE_UNPACK";
/// Begins the line of the answer, which may stand among other output.
const ANSWER: &str = "coracle-unpacked ";
/// The longest answer: the names of implied directories, escaped.
const MAX_ANSWER: u64 = 16 << 20;
/// The pipe to the child: a few of the parent's reads.
const PIPE: usize = 256 << 10;

/// What the child is told.
#[derive(Debug, Serialize, Deserialize)]
pub struct Job {
    /// Bytes to leave free.
    pub reserve: u64,
    pub userxattr: bool,
}

/// A layer, unpacked.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unpacked {
    pub diff_id: Sha256,
    /// Bytes of its files.
    pub size: u64,
    pub entries: u64,
    /// See [`crate::store::LayerRecord::implied`]. Names that are not UTF-8 are left out.
    pub implied: Vec<String>,
    /// Confinement that this kernel does not have.
    pub warnings: Vec<String>,
}

/// Why a layer was not unpacked.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// The layer is at fault: trying again gives the same.
    Refused(String),
    /// There would be less free space than the reserve.
    Space { free: u64 },
    /// This machine is at fault.
    Failed(String),
}

impl Refusal {
    pub(crate) fn new(problem: String) -> Refusal {
        Refusal::Refused(problem)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Refused(problem) | Refusal::Failed(problem) => f.write_str(problem),
            Refusal::Space { free } => write!(f, "only {free} bytes are free"),
        }
    }
}

impl From<io::Error> for Refusal {
    /// Errors of the stream: a broken gzip is the layer's fault.
    fn from(error: io::Error) -> Refusal {
        Refusal::Refused(match error.kind() {
            io::ErrorKind::UnexpectedEof => format!("the layer is truncated: {error}"),
            _ => error.to_string(),
        })
    }
}

/// A child at work. Dropping it ends the child.
pub struct Unpacking {
    child: Child,
    input: Option<ChildStdin>,
}

impl Unpacking {
    /// Starts a child that unpacks into `dir/fs`, which exists and is empty.
    pub fn start(unpacker: &Unpacker, dir: &Path, job: &Job) -> io::Result<Unpacking> {
        let job = serde_json::to_string(job)?;
        let mut child = Command::new(&unpacker.program)
            .args(&unpacker.arguments)
            .env_clear()
            .env(JOB, job)
            .current_dir(dir.join("fs"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = child.stdin.take();
        if let Some(pipe) = &input {
            // An unprivileged user's pipes may be limited; then it stays at its default.
            let _ = rustix::pipe::fcntl_setpipe_size(pipe, PIPE);
        }
        Ok(Unpacking { child, input })
    }

    /// Hands over the next compressed bytes. False when the child wants no more: it has failed, and
    /// [`Unpacking::finish`] says why.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<bool> {
        let Some(input) = &mut self.input else { return Ok(false) };
        match input.write_all(bytes) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.input = None;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Ends the input and waits for the answer.
    pub fn finish(mut self) -> Result<Unpacked, Refusal> {
        self.input = None;
        let failed = |error: io::Error| Refusal::Failed(format!("the unpacking process: {error}"));
        let mut answer = String::new();
        if let Some(output) = self.child.stdout.take() {
            output.take(MAX_ANSWER).read_to_string(&mut answer).map_err(failed)?;
        }
        let status = self.child.wait().map_err(failed)?;
        let line = answer.lines().rev().find_map(|line| line.strip_prefix(ANSWER));
        match line.and_then(|json| serde_json::from_str(json).ok()) {
            Some(result) => result,
            None => Err(Refusal::Failed(format!("the unpacking process gave no answer ({status})"))),
        }
    }
}

impl Drop for Unpacking {
    fn drop(&mut self) {
        // Both fail only when the child has been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The main function of the hidden subcommand `unpack-layer`: unpacks standard input into the current
/// directory. Call it before anything else is set up; it needs no argument.
pub fn child_main() -> ExitCode {
    let job = std::env::var(JOB).ok().and_then(|text| serde_json::from_str::<Job>(&text).ok());
    let Some(job) = job else {
        eprintln!("unpack-layer is not for people: it is started by the agent itself");
        return ExitCode::from(2);
    };
    let result = unpack_here(&job, io::stdin().lock());
    let json = serde_json::to_string(&result).expect("an answer holds strings and numbers only");
    // On a line of its own, whatever stands before it.
    match writeln!(io::stdout(), "\n{ANSWER}{json}") {
        Ok(()) if result.is_ok() => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn unpack_here(job: &Job, input: impl Read) -> Result<Unpacked, Refusal> {
    let open = || Ok(File::open(".")?.into());
    let root: OwnedFd = open().map_err(|e: io::Error| Refusal::Failed(format!("open the layer's directory: {e}")))?;
    rustix::process::umask(rustix::fs::Mode::empty());
    let warnings = confine::confine(root.as_fd());
    let extractor = Extractor::new(root, job.userxattr, job.reserve)?;
    let mut unpacked = unpack(input, extractor)?;
    unpacked.warnings = warnings;
    Ok(unpacked)
}

/// Decompresses on this thread and writes on another.
fn unpack(input: impl Read, extractor: Extractor) -> Result<Unpacked, Refusal> {
    let (full, ready) = sync_channel(CHUNKS);
    let (used, spare) = channel();
    for _ in 0..CHUNKS {
        let _ = used.send(Vec::with_capacity(CHUNK));
    }
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| write_entries(Chunks::new(ready, used), extractor));
        decompress(input, &full, &spare);
        drop(full);
        writer.join().unwrap_or_else(|_| Err(Refusal::Failed("the unpacking process panicked".into())))
    })
}

type Chunk = io::Result<Vec<u8>>;

/// Sends chunk after chunk, and at last an error, until the input or the writer ends.
fn decompress(input: impl Read, full: &SyncSender<Chunk>, spare: &Receiver<Vec<u8>>) {
    let mut stream = match Decompressed::new(input, CHUNK) {
        Ok(stream) => stream,
        Err(error) => return drop(full.send(Err(error))),
    };
    while let Ok(mut chunk) = spare.recv() {
        chunk.resize(CHUNK, 0);
        let sent = match read_full(&mut stream, &mut chunk) {
            Ok(0) => return,
            Ok(count) => {
                chunk.truncate(count);
                full.send(Ok(chunk))
            }
            Err(error) => return drop(full.send(Err(error))),
        };
        if sent.is_err() {
            return;
        }
    }
}

/// Fills the buffer, as far as there is something.
fn read_full(stream: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match stream.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn write_entries(chunks: Chunks, mut extractor: Extractor) -> Result<Unpacked, Refusal> {
    let mut archive = Archive::new(chunks);
    while let Some(entry) = archive.next_entry()? {
        extractor.add(&entry, &mut archive)?;
    }
    let mut chunks = archive.into_inner();
    // What follows the end of the archive belongs to the digest.
    loop {
        let count = chunks.fill_buf()?.len();
        if count == 0 {
            break;
        }
        chunks.consume(count);
    }
    let extracted = extractor.finish()?;
    Ok(Unpacked {
        diff_id: chunks.hasher.finish(),
        size: extracted.bytes,
        entries: extracted.entries,
        implied: extracted.implied.into_iter().filter_map(|path| String::from_utf8(path).ok()).collect(),
        warnings: Vec::new(),
    })
}

/// The decompressed stream as the writing thread reads it, hashed on the way.
struct Chunks {
    ready: Receiver<Chunk>,
    used: Sender<Vec<u8>>,
    current: Vec<u8>,
    at: usize,
    hasher: Hasher,
}

impl Chunks {
    fn new(ready: Receiver<Chunk>, used: Sender<Vec<u8>>) -> Chunks {
        Chunks { ready, used, current: Vec::new(), at: 0, hasher: Hasher::new() }
    }
}

impl BufRead for Chunks {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.current.len()
            && let Ok(chunk) = self.ready.recv()
        {
            let old = std::mem::replace(&mut self.current, chunk?);
            self.at = 0;
            self.hasher.update(&self.current);
            // The first one is empty and was never lent.
            if old.capacity() > 0 {
                let _ = self.used.send(old);
            }
        }
        Ok(&self.current[self.at..])
    }

    fn consume(&mut self, bytes: usize) {
        self.at += bytes;
    }
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let ready = self.fill_buf()?;
        let count = ready.len().min(buffer.len());
        buffer[..count].copy_from_slice(&ready[..count]);
        self.consume(count);
        Ok(count)
    }
}
