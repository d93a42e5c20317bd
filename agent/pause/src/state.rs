//! The state file: what the agent reads once this process has died.

use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;

use coracle_pause::{Record, Writer, encode_state_head, encode_state_known, encode_state_removed};

use crate::sys;

/// Past this the file is written anew from what is known: restarts add up over months.
const MAX_SIZE: usize = 64 << 10;

/// Appends one entry a change: a single write, without a flush, that a kill leaves whole or cut at
/// its end, where the reader stops.
pub struct State {
    directory: OwnedFd,
    boot_id: CString,
    file: Option<OwnedFd>,
    size: usize,
}

impl State {
    pub fn new(directory: OwnedFd, boot_id: CString) -> State {
        let mut state = State { directory, boot_id, file: None, size: 0 };
        state.rewrite(std::iter::empty());
        state
    }

    pub fn known<'a>(&mut self, record: &Record<CString>, all: impl Iterator<Item = &'a Record<CString>>) {
        let mut w = Writer::default();
        encode_state_known(&mut w, record);
        self.append(w, all);
    }

    pub fn removed<'a>(&mut self, id: &CStr, all: impl Iterator<Item = &'a Record<CString>>) {
        let mut w = Writer::default();
        encode_state_removed(&mut w, id);
        self.append(w, all);
    }

    fn append<'a>(&mut self, entry: Writer, all: impl Iterator<Item = &'a Record<CString>>) {
        let raw = entry.finish();
        self.size += raw.len();
        let written = self.file.as_ref().is_some_and(|file| sys::write(file, &raw) == Ok(raw.len()));
        if !written || self.size > MAX_SIZE {
            self.rewrite(all);
        }
    }

    fn rewrite<'a>(&mut self, all: impl Iterator<Item = &'a Record<CString>>) {
        let mut w = Writer::default();
        encode_state_head(&mut w, &self.boot_id);
        all.for_each(|record| encode_state_known(&mut w, record));
        let raw = w.finish();
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC | libc::O_APPEND | libc::O_NOFOLLOW;
        let Ok(file) = sys::openat(&self.directory, c"state.new", flags, 0o600) else { return };
        if sys::write(&file, &raw) == Ok(raw.len()) && sys::rename_at(&self.directory, c"state.new", c"state").is_ok() {
            (self.file, self.size) = (Some(file), raw.len());
        }
    }
}
