//! Reading containers' logs as `kubectl logs` shows them.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use futures_lite::future;
use rustix::fs::inotify::{CreateFlags, WatchFlags};
use smol::Async;

/// A chunk that is handed out, about.
const CHUNK: usize = 64 << 10;
/// The bytes of a time stamp, and so the shortest line.
const STAMP: usize = 30;

/// How to read a log: `kubectl logs`' flags.
#[derive(Clone, Debug, Default)]
pub struct LogQuery {
    pub follow: bool,
    /// The last lines only.
    pub tail: Option<u64>,
    /// Lines at or after this time, milliseconds since the Unix epoch.
    pub since: Option<i64>,
    pub timestamps: bool,
    /// Ends after this many bytes.
    pub limit_bytes: Option<u64>,
}

/// Reads a container's log, rotated files included, as `kubectl logs` shows it.
pub struct LogReader {
    path: PathBuf,
    query: LogQuery,
    since: String,
    ended: async_channel::Receiver<()>,
    /// The files still to be read, oldest first.
    files: VecDeque<File>,
    current: Option<File>,
    /// Read but not yet a whole line.
    rest: Vec<u8>,
    left: u64,
    /// Inside a line whose end was not seen yet: a part has been shown.
    in_line: bool,
    watch: Option<Async<OwnedFd>>,
    started: bool,
    skip: u64,
    finishing: bool,
}

impl LogReader {
    /// With `query.follow` the reader waits for more until `ended` closes, then reads what is left.
    pub fn new(path: &Path, query: LogQuery, ended: async_channel::Receiver<()>) -> LogReader {
        LogReader {
            path: path.to_path_buf(),
            since: query.since.map(stamp).unwrap_or_default(),
            left: query.limit_bytes.unwrap_or(u64::MAX),
            query,
            ended,
            files: VecDeque::new(),
            current: None,
            rest: Vec::new(),
            in_line: false,
            watch: None,
            started: false,
            skip: 0,
            finishing: false,
        }
    }

    /// The next chunk, about 64 KiB of whole lines; `None` at the end. A missing file is empty.
    pub async fn next(&mut self) -> Option<io::Result<Vec<u8>>> {
        if !self.started {
            self.started = true;
            if let Err(error) = self.open() {
                return Some(Err(error));
            }
        }
        loop {
            if self.left == 0 {
                return None;
            }
            match self.step() {
                Err(error) => return Some(Err(error)),
                Ok(Some(chunk)) if !chunk.is_empty() => return Some(Ok(chunk)),
                Ok(Some(_)) => {}
                Ok(None) if self.query.follow && !self.finishing => self.wait().await,
                Ok(None) => return None,
            }
        }
    }

    fn open(&mut self) -> io::Result<()> {
        if self.query.follow {
            // Watched before the first read, so that no growth is missed.
            let watch = rustix::fs::inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
            let dir = self.path.parent().unwrap_or(Path::new("/"));
            let flags = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO;
            rustix::fs::inotify::add_watch(&watch, dir, flags)?;
            self.watch = Some(Async::new_nonblocking(watch)?);
        }
        self.files = open_all(&self.path)?;
        if let Some(tail) = self.query.tail {
            let total: u64 = lines(&self.path)?;
            self.skip = total.saturating_sub(tail);
        }
        Ok(())
    }

    /// One read; `None` when nothing more is there now.
    fn step(&mut self) -> io::Result<Option<Vec<u8>>> {
        if self.current.is_none() {
            self.current = self.files.pop_front();
        }
        let Some(file) = &mut self.current else {
            return Ok(self.reopen()?.then(Vec::new));
        };
        let mut buffer = vec![0; CHUNK];
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok(self.next_file()?.then(Vec::new));
        }
        self.rest.extend_from_slice(&buffer[..n]);
        Ok(Some(self.show()))
    }

    /// At the end of a file: the next one, if it was rotated away from under us.
    fn next_file(&mut self) -> io::Result<bool> {
        if !self.files.is_empty() {
            self.current = None;
            return Ok(true);
        }
        self.reopen()
    }

    /// Opens the log's current file when that is not the one that was read last.
    fn reopen(&mut self) -> io::Result<bool> {
        use std::os::unix::fs::MetadataExt;
        let id = |f: &File| f.metadata().map(|m| (m.dev(), m.ino()));
        let fresh = match File::open(&self.path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(e),
        };
        let Some(current) = &mut self.current else {
            self.current = Some(fresh);
            return Ok(true);
        };
        if id(current)? == id(&fresh)? {
            return Ok(false);
        }
        // What was written between the last read and the rotation, then every file newer than it.
        let mut tail = Vec::new();
        current.read_to_end(&mut tail)?;
        self.rest.extend_from_slice(&tail);
        let last = id(current)?;
        let all = open_all(&self.path)?;
        let known = all.iter().position(|f| id(f).is_ok_and(|i| i == last));
        self.files = all.into_iter().skip(known.map_or(0, |i| i + 1)).collect();
        self.current = None;
        Ok(true)
    }

    async fn wait(&mut self) {
        let Some(watch) = &self.watch else { return };
        let ended = self.ended.clone();
        let closed = async move {
            while ended.recv().await.is_ok() {}
            true
        };
        let grown = async {
            let _ = watch.readable().await;
            false
        };
        self.finishing = future::or(grown, closed).await;
        let mut events = [std::mem::MaybeUninit::uninit(); 4096];
        let mut events = rustix::fs::inotify::Reader::new(watch.get_ref(), &mut events);
        // What happened does not matter, only that something did.
        while events.next().is_ok() {}
    }

    /// Turns the whole lines of what was read into what is shown.
    fn show(&mut self) -> Vec<u8> {
        let raw = std::mem::take(&mut self.rest);
        let mut out = Vec::new();
        let mut from = 0;
        while let Some(end) = raw[from..].iter().position(|b| *b == b'\n') {
            let line = &raw[from..from + end];
            from += end + 1;
            self.show_line(line, &mut out);
        }
        self.rest = raw[from..].to_vec();
        let keep = usize::try_from(self.left).unwrap_or(usize::MAX).min(out.len());
        out.truncate(keep);
        self.left -= keep as u64;
        out
    }

    fn show_line(&mut self, line: &[u8], out: &mut Vec<u8>) {
        if self.skip > 0 {
            self.skip -= 1;
            return;
        }
        let Some((time, whole, text)) = parse(line) else { return };
        if time < self.since.as_bytes() {
            return;
        }
        if self.query.timestamps && !self.in_line {
            out.extend_from_slice(time);
            out.push(b' ');
        }
        out.extend_from_slice(text);
        if whole {
            out.push(b'\n');
        }
        self.in_line = !whole;
    }
}

/// `TIME STREAM F|P TEXT`.
fn parse(line: &[u8]) -> Option<(&[u8], bool, &[u8])> {
    let (time, rest) = line.split_at_checked(STAMP)?;
    let rest = rest.strip_prefix(b" stdout ").or(rest.strip_prefix(b" stderr "))?;
    match rest {
        [tag, b' ', text @ ..] => Some((time, *tag == b'F', text)),
        _ => None,
    }
}

/// The files of a log, oldest first.
fn paths(path: &Path) -> Vec<PathBuf> {
    let Some(name) = path.file_name().and_then(OsStr::to_str) else { return Vec::new() };
    let rotated = |n: u32| path.with_file_name(format!("{name}.{n}"));
    let mut all: Vec<_> = (1..).map(rotated).take_while(|p| p.exists()).collect();
    all.reverse();
    all.push(path.to_path_buf());
    all
}

fn open_all(path: &Path) -> io::Result<VecDeque<File>> {
    let mut files = VecDeque::new();
    for path in paths(path) {
        match File::open(path) {
            Ok(file) => files.push_back(file),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(files)
}

/// Lines in all files together, as `--tail` counts them.
fn lines(path: &Path) -> io::Result<u64> {
    let mut count = 0;
    let mut buffer = vec![0; CHUNK];
    for mut file in open_all(path)? {
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                n => count += buffer[..n].iter().filter(|b| **b == b'\n').count() as u64,
            }
        }
    }
    Ok(count)
}

/// A time as the log's lines begin: comparable as text.
fn stamp(milliseconds: i64) -> String {
    let time = jiff::Timestamp::from_millisecond(milliseconds).unwrap_or_default();
    format!("{time:.9}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: LogQuery, files: &[(&str, &str)]) -> String {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let (_running, ended) = async_channel::bounded(1);
        let mut reader = LogReader::new(&dir.path().join("0.log"), query, ended);
        smol::block_on(async {
            let mut all = Vec::new();
            while let Some(chunk) = reader.next().await {
                all.extend(chunk.unwrap());
            }
            String::from_utf8(all).unwrap()
        })
    }

    const OLD: &str = "2026-01-01T00:00:01.000000000Z stdout F one\n2026-01-01T00:00:02.000000000Z stderr F two\n";
    const NEW: &str = "2026-01-01T00:00:03.000000000Z stdout P thr\n2026-01-01T00:00:03.500000000Z stdout F ee\n\
                       2026-01-01T00:00:04.000000000Z stdout F four\n";

    #[test]
    fn logs_read_as_kubectl_shows_them() {
        let files = [("0.log.1", OLD), ("0.log", NEW)];
        let check = |query: LogQuery, expect: &str| assert_eq!(read(query.clone(), &files), expect, "{query:?}");
        let all = LogQuery::default();
        check(all.clone(), "one\ntwo\nthree\nfour\n");
        check(LogQuery { tail: Some(1), ..all.clone() }, "four\n");
        check(LogQuery { tail: Some(0), ..all.clone() }, "");
        check(LogQuery { limit_bytes: Some(5), ..all.clone() }, "one\nt");
        check(LogQuery { since: Some(1_767_225_604_000), ..all.clone() }, "four\n");
        let stamped = "2026-01-01T00:00:04.000000000Z four\n";
        check(LogQuery { timestamps: true, tail: Some(1), ..all }, stamped);
    }

    #[test]
    fn a_missing_log_is_empty() {
        assert_eq!(read(LogQuery::default(), &[]), "");
    }

    #[test]
    fn following_sees_growth_and_rotation_and_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, OLD).unwrap();
        let (running, ended) = async_channel::bounded::<()>(1);
        let mut reader = LogReader::new(&path, LogQuery { follow: true, ..LogQuery::default() }, ended);
        smol::block_on(async {
            let mut next = async || String::from_utf8(reader.next().await.unwrap().unwrap()).unwrap();
            assert_eq!(next().await, "one\ntwo\n");
            std::fs::rename(&path, dir.path().join("0.log.1")).unwrap();
            std::fs::write(&path, NEW).unwrap();
            assert_eq!(next().await, "three\nfour\n");
            drop(running);
            assert!(reader.next().await.is_none());
        });
    }
}
