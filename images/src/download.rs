//! One blob: streamed, hashed on the way, kept on disk as far as it came, resumed where it stopped.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use crate::digest::Hasher;
use crate::error::ImageError;
use crate::manifest::Descriptor;
use crate::registry::Session;

/// Read and handed on at once.
const PIECE: usize = 64 << 10;
/// Failures in a row, without a byte between them, after which a download gives up for now.
const MAX_FAILURES: u32 = 5;
/// Before the second attempt; doubled before each further one (so 0.2 + 0.4 + 0.8 + 1.6 s in all).
const FIRST_DELAY: Duration = Duration::from_millis(200);

/// Where the pieces of a blob go.
pub trait Sink {
    /// The next bytes, and how many there are up to their end.
    fn piece(&mut self, bytes: &[u8], so_far: u64) -> Result<(), ImageError>;
}

/// Downloads `blob` into the file `partial`, going on from what is in it, and hands all of it to
/// `sink`, the beginning from the file included. The digest is checked at the end.
///
/// On errors of the network the file stays, for the next call; on any other it is removed.
pub fn download(session: &Session, blob: &Descriptor, partial: &Path, sink: &mut dyn Sink) -> Result<(), ImageError> {
    let result = Download::open(blob, partial).and_then(|mut download| {
        download.replay(sink)?;
        download.run(session, sink)?;
        download.check()
    });
    match result {
        Err(error) if !error.may_pass() => {
            // The error that is being reported matters more than one of this removal.
            let _ = std::fs::remove_file(partial);
            Err(error)
        }
        result => result,
    }
}

struct Download<'a> {
    blob: &'a Descriptor,
    partial: &'a Path,
    file: File,
    hasher: Hasher,
    have: u64,
    buffer: Vec<u8>,
}

impl<'a> Download<'a> {
    fn open(blob: &'a Descriptor, partial: &'a Path) -> Result<Download<'a>, ImageError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(partial)
            .map_err(ImageError::io("open", partial))?;
        Ok(Download { blob, partial, file, hasher: Hasher::new(), have: 0, buffer: vec![0; PIECE] })
    }

    /// What earlier attempts left.
    fn replay(&mut self, sink: &mut dyn Sink) -> Result<(), ImageError> {
        loop {
            let count = self.file.read(&mut self.buffer).map_err(ImageError::io("read", self.partial))?;
            if count == 0 {
                return Ok(());
            }
            self.have += count as u64;
            if self.have > self.blob.size {
                return Err(self.too_long(&self.partial.display().to_string()));
            }
            self.hasher.update(&self.buffer[..count]);
            sink.piece(&self.buffer[..count], self.have)?;
        }
    }

    fn run(&mut self, session: &Session, sink: &mut dyn Sink) -> Result<(), ImageError> {
        let mut failures = 0;
        while self.have < self.blob.size {
            let before = self.have;
            let Err(error) = self.stream(session, sink) else { continue };
            failures = if self.have > before { 1 } else { failures + 1 };
            let again = matches!(error, ImageError::Transport { .. }) || is_overload(&error);
            if !again || failures >= MAX_FAILURES {
                return Err(error);
            }
            std::thread::sleep(FIRST_DELAY * 2u32.pow(failures - 1));
        }
        Ok(())
    }

    /// One request, to its end or until it breaks.
    fn stream(&mut self, session: &Session, sink: &mut dyn Sink) -> Result<(), ImageError> {
        let mut body = session.blob(&self.blob.digest, self.have)?;
        let mut skip = self.have - body.start;
        self.file.seek(SeekFrom::Start(self.have)).map_err(ImageError::io("seek in", self.partial))?;
        while self.have < self.blob.size {
            let count = match body.reader.read(&mut self.buffer) {
                Ok(0) => Err(std::io::Error::from(ErrorKind::UnexpectedEof)),
                other => other,
            };
            let broken = |e| ImageError::Transport { url: body.url.clone(), source: Box::new(e) };
            let count = count.map_err(broken)?;
            // A registry without ranges begins anew: what is known already passes by.
            let known = usize::try_from(skip).unwrap_or(usize::MAX).min(count);
            skip -= known as u64;
            if count > known {
                self.take(known, count, &body.url, sink)?;
            }
        }
        Ok(())
    }

    fn take(&mut self, from: usize, to: usize, url: &str, sink: &mut dyn Sink) -> Result<(), ImageError> {
        let fresh = &self.buffer[from..to];
        if self.have + fresh.len() as u64 > self.blob.size {
            return Err(self.too_long(url));
        }
        self.file.write_all(fresh).map_err(ImageError::io("write", self.partial))?;
        self.hasher.update(fresh);
        self.have += fresh.len() as u64;
        sink.piece(&self.buffer[from..to], self.have)
    }

    fn too_long(&self, url: &str) -> ImageError {
        let problem = format!("blob {} is longer than the {} bytes of its manifest", self.blob.digest, self.blob.size);
        ImageError::Protocol { url: url.to_owned(), problem }
    }

    fn check(self) -> Result<(), ImageError> {
        let actual = self.hasher.finish();
        let expected = self.blob.digest;
        if actual == expected {
            return Ok(());
        }
        Err(ImageError::DigestMismatch { what: "downloaded layer".into(), expected, actual })
    }
}

/// Too many requests, or an error of the registry's own.
fn is_overload(error: &ImageError) -> bool {
    matches!(error, ImageError::Status { .. }) && error.may_pass()
}
