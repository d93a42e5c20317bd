//! Reading a checkpoint in a child process.
//!
//! The database below a checkpoint trusts its file: on a damaged one it may panic, recurse without
//! end or ask for all memory there is. So a short-lived child opens it first, mends what a crash
//! left, checks every row and hands them over through a pipe; what becomes of the child is then an
//! error with a name.
//!
//! | the pipe | bytes |
//! |---|---|
//! | head | 1, length u32, meta |
//! | row | 2, length of the key u32, length of the value u32, key, value |
//! | end | 3 |
//! | failure | 4, length u32, kind, number u32, words |

use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use super::OpenError;
use super::checkpoint::{self, CheckpointError, Meta, Sink};
use super::disk::LocalDisk;
use super::open::{checkpoint_error, damaged};

/// Makes the command whose standard output is [`serve`]'s.
pub type Reader = Arc<dyn Fn() -> Command + Send + Sync>;

const HEAD: u8 = 1;
const ROW: u8 = 2;
const END: u8 = 3;
const FAILURE: u8 = 4;

const IO: u8 = 1;
const FORMAT: u8 = 2;
const DAMAGED: u8 = 3;

/// Bytes of a pipe's read or write.
const PIECE: usize = 64 << 10;
/// No part of a row is longer: a commit is not, and sealing adds little.
const MAX_PART: usize = 2 * crate::MAX_COMMIT_BYTES;
/// Bytes of a crashed child's last words that are kept.
const MAX_WORDS: u64 = 4096;

/// The child's part: reads the checkpoint in a directory that the parent has locked.
pub fn serve(directory: &Path, out: impl Write) -> io::Result<()> {
    let mut pipe = Pipe(BufWriter::with_capacity(PIECE, out));
    let disk = LocalDisk::locked_by_parent(directory);
    match checkpoint::read(&disk, &mut pipe) {
        Ok(()) => pipe.0.write_all(&[END])?,
        Err(PipeError::Out(error)) => return Err(error),
        Err(PipeError::In(error)) => pipe.fail(&checkpoint_error(error))?,
    }
    pipe.0.flush()
}

struct Pipe<W: Write>(BufWriter<W>);

enum PipeError {
    In(CheckpointError),
    Out(io::Error),
}

impl From<CheckpointError> for PipeError {
    fn from(error: CheckpointError) -> PipeError {
        PipeError::In(error)
    }
}

impl<W: Write> Pipe<W> {
    fn put(&mut self, tag: u8, lengths: &[usize], parts: &[&[u8]]) -> io::Result<()> {
        self.0.write_all(&[tag])?;
        for length in lengths {
            self.0.write_all(&(*length as u32).to_le_bytes())?;
        }
        parts.iter().try_for_each(|part| self.0.write_all(part))
    }

    fn fail(&mut self, error: &OpenError) -> io::Result<()> {
        let (kind, number, words) = match error {
            OpenError::Io { source, .. } => {
                (IO, source.raw_os_error().unwrap_or_default().cast_unsigned(), source.to_string())
            }
            OpenError::Format { found, .. } => (FORMAT, *found, String::new()),
            OpenError::Damaged { what, .. } => (DAMAGED, 0, what.clone()),
            other => (DAMAGED, 0, other.to_string()),
        };
        let length = 5 + words.len();
        self.put(FAILURE, &[length], &[&[kind], &number.to_le_bytes(), words.as_bytes()])
    }
}

impl<W: Write> Sink for Pipe<W> {
    type Error = PipeError;

    fn meta(&mut self, meta: Meta) -> Result<(), PipeError> {
        let bytes = meta.encode();
        self.put(HEAD, &[bytes.len()], &[&bytes]).map_err(PipeError::Out)
    }

    fn row(&mut self, key: &[u8], value: &[u8]) -> Result<(), PipeError> {
        self.put(ROW, &[key.len(), value.len()], &[key, value]).map_err(PipeError::Out)
    }
}

/// The parent's part: lets a child read the checkpoint into `sink`.
pub(crate) fn read(reader: &Reader, sink: &mut impl Sink<Error = OpenError>) -> Result<(), OpenError> {
    let mut command = reader();
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.map_err(|source| start_error("starting the process that reads it", source))?;
    let taken = take(&mut child, sink);
    if taken.is_err() {
        // It may still be at it; what it was told to read is not worth waiting for.
        let _ = child.kill();
    }
    let words = last_words(&mut child);
    let status = child.wait().map_err(|source| start_error("waiting for the process that reads it", source))?;
    match taken {
        Ok(true) => Ok(()),
        Ok(false) => {
            let what = format!("reading it ended in a crash ({status}): {words}");
            Err(damaged(checkpoint::FILE, &what))
        }
        Err(error) => Err(error),
    }
}

fn start_error(what: &'static str, source: io::Error) -> OpenError {
    OpenError::Io { file: checkpoint::FILE.to_owned(), what, source }
}

/// Hands on what comes; whether it came to its end.
fn take(child: &mut Child, sink: &mut impl Sink<Error = OpenError>) -> Result<bool, OpenError> {
    let Some(out) = child.stdout.take() else { return Ok(false) };
    let mut pipe = BufReader::with_capacity(PIECE, out);
    let mut buffer = Vec::new();
    loop {
        let Some([tag]) = number(&mut pipe) else { return Ok(false) };
        let parts = match tag {
            END => return Ok(true),
            ROW => 2,
            HEAD | FAILURE => 1,
            _ => return Err(damaged(checkpoint::FILE, "the process that read it talked nonsense")),
        };
        let mut lengths = [0; 2];
        for length in &mut lengths[..parts] {
            let Some(bytes) = number(&mut pipe) else { return Ok(false) };
            *length = u32::from_le_bytes(bytes) as usize;
            if *length > MAX_PART {
                return Err(damaged(checkpoint::FILE, "one of its rows is larger than any can be"));
            }
        }
        buffer.resize(lengths.iter().sum(), 0);
        if pipe.read_exact(&mut buffer).is_err() {
            return Ok(false);
        }
        match tag {
            ROW => {
                let (key, value) = buffer.split_at(lengths[0]);
                sink.row(key, value)?;
            }
            HEAD => sink.meta(Meta::decode(&buffer).map_err(|error| checkpoint_error(error.into()))?)?,
            _ => return Err(failure(&buffer)),
        }
    }
}

fn number<const N: usize>(pipe: &mut impl Read) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    pipe.read_exact(&mut bytes).ok().map(|()| bytes)
}

fn failure(bytes: &[u8]) -> OpenError {
    let (kind, rest) = bytes.split_first().unwrap_or((&DAMAGED, &[]));
    let (number, words) = rest.split_first_chunk().unwrap_or((&[0; 4], rest));
    let number = u32::from_le_bytes(*number);
    let words = String::from_utf8_lossy(words);
    match *kind {
        FORMAT => OpenError::Format { file: checkpoint::FILE.to_owned(), found: number },
        IO if number != 0 => start_error("reading", io::Error::from_raw_os_error(number.cast_signed())),
        IO => start_error("reading", io::Error::other(words.into_owned())),
        _ => damaged(checkpoint::FILE, &words),
    }
}

/// What a child printed before its end, in one line.
fn last_words(child: &mut Child) -> String {
    let mut text = Vec::new();
    if let Some(out) = child.stderr.take() {
        // Without them the exit status has to do.
        let _ = out.take(MAX_WORDS).read_to_end(&mut text);
    }
    let text = String::from_utf8_lossy(&text);
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("note:"));
    lines.collect::<Vec<_>>().join(" ")
}
