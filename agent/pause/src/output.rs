//! Containers' output into log files in CRI format, rotated by size.

use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;

use crate::sys;

/// A longer line is written in parts, as other runtimes do.
const MAX_LINE: usize = 16 << 10;
/// What is read from a pipe at once, and so the most that one turn of the loop spends on output.
const READ_SIZE: usize = 8 << 10;
/// What is gathered before a write.
const WRITE_SIZE: usize = 16 << 10;
/// `2026-11-21T01:09:05.123456789Z`.
const STAMP: usize = 30;

const NAMES: [&[u8]; 2] = [b" stdout ", b" stderr "];

pub struct Output {
    path: CString,
    file: Option<OwnedFd>,
    size: u64,
    max_bytes: u64,
    max_files: u32,
    /// The start of a line whose end has not come yet, for each stream.
    pending: [Vec<u8>; 2],
}

/// What became of a turn of reading.
#[derive(PartialEq, Eq)]
pub enum Turn {
    /// More may be waiting.
    Read,
    Empty,
    Ended,
}

impl Output {
    /// # Errors
    /// The errno of opening the file. An empty path drops all output.
    pub fn open(path: &CStr, max_bytes: u64, max_files: u32) -> sys::Result<Output> {
        let mut output = Output {
            path: path.to_owned(),
            file: None,
            size: 0,
            max_bytes: max_bytes.max(WRITE_SIZE as u64),
            max_files: max_files.clamp(1, 64),
            pending: [Vec::new(), Vec::new()],
        };
        if !path.is_empty() {
            output.file = Some(open_log(path)?);
            output.size = output.file.as_ref().map_or(0, sys::size);
        }
        Ok(output)
    }

    /// Reads once from `pipe` (stream 0 or 1) and writes whole lines.
    pub fn turn(&mut self, stream: usize, pipe: &OwnedFd, now: i64) -> Turn {
        let mut buffer = [0; READ_SIZE];
        match sys::read(pipe, &mut buffer) {
            Ok(0) => {
                self.end(stream, now);
                Turn::Ended
            }
            Ok(n) => {
                self.take(stream, &buffer[..n], now);
                Turn::Read
            }
            Err(libc::EAGAIN | libc::EINTR) => Turn::Empty,
            Err(_) => Turn::Ended,
        }
    }

    /// Writes what is left of an unfinished line.
    pub fn end(&mut self, stream: usize, now: i64) {
        if !self.pending[stream].is_empty() {
            self.take(stream, b"\n", now);
        }
    }

    fn take(&mut self, stream: usize, mut data: &[u8], now: i64) {
        let mut stamp = [0; STAMP];
        write_stamp(now, &mut stamp);
        let mut out = Vec::new();
        while !data.is_empty() {
            let room = MAX_LINE - self.pending[stream].len();
            let (line, whole, rest) = match data.iter().take(room + 1).position(|b| *b == b'\n') {
                Some(end) => (&data[..end], true, &data[end + 1..]),
                None if data.len() >= room => (&data[..room], false, &data[room..]),
                None => {
                    self.pending[stream].extend_from_slice(data);
                    break;
                }
            };
            out.extend_from_slice(&stamp);
            out.extend_from_slice(NAMES[stream]);
            out.extend_from_slice(if whole { b"F " } else { b"P " });
            out.append(&mut self.pending[stream]);
            out.extend_from_slice(line);
            out.push(b'\n');
            data = rest;
            if out.len() >= WRITE_SIZE {
                self.write(&out);
                out.clear();
            }
        }
        // An idle container keeps no buffer.
        self.pending[stream].shrink_to_fit();
        self.write(&out);
    }

    /// A log that cannot be written loses output; it never stops the container.
    fn write(&mut self, mut out: &[u8]) {
        if self.size > 0 && self.size + out.len() as u64 > self.max_bytes {
            self.rotate();
        }
        let Some(file) = &self.file else { return };
        while !out.is_empty() {
            match sys::write(file, out) {
                Ok(n) => {
                    self.size += n as u64;
                    out = &out[n..];
                }
                Err(libc::EINTR) => {}
                Err(_) => return,
            }
        }
    }

    fn rotate(&mut self) {
        if self.file.is_none() {
            return;
        }
        for n in (0..self.max_files.saturating_sub(1)).rev() {
            let _ = sys::rename(&numbered(&self.path, n), &numbered(&self.path, n + 1));
        }
        let flags = if self.max_files == 1 { libc::O_TRUNC } else { 0 };
        // Without a new file the old one goes on: too long is better than lost.
        if let Ok(file) = sys::open(&self.path, libc::O_WRONLY | libc::O_APPEND | libc::O_CREAT | flags, 0o640) {
            self.file = Some(file);
            self.size = 0;
        }
    }
}

fn open_log(path: &CStr) -> sys::Result<OwnedFd> {
    sys::open(path, libc::O_WRONLY | libc::O_APPEND | libc::O_CREAT | libc::O_NOFOLLOW, 0o640)
}

/// `PATH` for 0, then `PATH.1` and up.
fn numbered(path: &CStr, n: u32) -> CString {
    let mut name = path.to_bytes().to_vec();
    if n > 0 {
        name.push(b'.');
        name.extend_from_slice(n.to_string().as_bytes());
    }
    // The bytes of a C string and digits hold no NUL.
    CString::new(name).unwrap_or_default()
}

/// RFC 3339 with nanoseconds, in UTC.
fn write_stamp(nanos: i64, out: &mut [u8; STAMP]) {
    let (seconds, fraction) = (nanos.div_euclid(1_000_000_000), nanos.rem_euclid(1_000_000_000));
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days to a civil date, counted in eras of 400 years that begin on 1 March.
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    out.copy_from_slice(b"0000-00-00T00:00:00.000000000Z");
    digits(&mut out[0..4], year);
    digits(&mut out[5..7], month);
    digits(&mut out[8..10], day);
    digits(&mut out[11..13], second / 3600);
    digits(&mut out[14..16], second / 60 % 60);
    digits(&mut out[17..19], second % 60);
    digits(&mut out[20..29], fraction);
}

fn digits(out: &mut [u8], mut value: i64) {
    for place in out.iter_mut().rev() {
        *place = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_rfc3339() {
        let check = |nanos: i64, expect: &str| {
            let mut out = [0; STAMP];
            write_stamp(nanos, &mut out);
            assert_eq!(std::str::from_utf8(&out).unwrap(), expect);
        };
        check(0, "1970-01-01T00:00:00.000000000Z");
        check(951_782_400_000_000_001, "2000-02-29T00:00:00.000000001Z");
        check(1_795_223_345_123_456_789, "2026-11-21T01:09:05.123456789Z");
        check(4_107_542_399_999_999_999, "2100-02-28T23:59:59.999999999Z");
    }

    fn logged(max_bytes: u64, max_files: u32, chunks: &[(usize, &[u8])]) -> Vec<String> {
        let dir = std::env::temp_dir().join(format!("coracle-output-{}-{max_bytes}-{max_files}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = CString::new(dir.join("0.log").to_str().unwrap()).unwrap();
        let mut output = Output::open(&path, max_bytes, max_files).unwrap();
        for (stream, data) in chunks {
            output.take(*stream, data, 0);
        }
        output.end(0, 0);
        output.end(1, 0);
        let mut names: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()).collect();
        names.sort();
        let texts = names.iter().map(|p| std::fs::read_to_string(p).unwrap()).collect();
        std::fs::remove_dir_all(&dir).unwrap();
        texts
    }

    #[test]
    fn lines_are_whole_and_streams_apart() {
        let texts = logged(1 << 20, 2, &[(0, b"one\ntw"), (1, b"err"), (0, b"o\n"), (0, b"end")]);
        let t = "1970-01-01T00:00:00.000000000Z";
        let expect = format!("{t} stdout F one\n{t} stdout F two\n{t} stdout F end\n{t} stderr F err\n");
        assert_eq!(texts, [expect]);
    }

    #[test]
    fn a_long_line_comes_in_parts() {
        let long = vec![b'x'; MAX_LINE + 10];
        let texts = logged(1 << 21, 2, &[(0, &long), (0, b"\n")]);
        let lines: Vec<&str> = texts[0].lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].contains(" stdout P xxx") && lines[0].len() == MAX_LINE + STAMP + 10);
        assert!(lines[1].ends_with(" stdout F xxxxxxxxxx"));
    }

    #[test]
    fn rotation_keeps_the_newest_files_within_their_bound() {
        let block = [b"0123456789".repeat(100), b"\n".to_vec()].concat();
        let chunks: Vec<(usize, &[u8])> = (0..100).map(|_| (0, block.as_slice())).collect();
        let texts = logged(20_000, 3, &chunks);
        assert_eq!(texts.len(), 3);
        assert!(texts.iter().all(|t| t.len() <= 20_000 && t.ends_with('\n')));
        assert_eq!(logged(20_000, 1, &chunks).len(), 1);
    }
}
