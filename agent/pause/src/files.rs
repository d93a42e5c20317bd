//! Records of containers, and the two files of a sandbox's directory.

use std::ffi::CStr;

use crate::codec::{Malformed, Reader, Writer};

/// A container as the pause knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<S> {
    pub id: S,
    /// Milliseconds since the Unix epoch.
    pub started_at: i64,
    pub exit: Option<Exit>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The exit code, or 128 + signal.
    pub code: i32,
    /// 0 for none.
    pub signal: i32,
    pub oom_killed: bool,
    /// Milliseconds since the Unix epoch.
    pub finished_at: i64,
}

/// [`SANDBOX_FILE`](crate::SANDBOX_FILE): what the agent keeps of a sandbox; the pause reads its head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxFile<S> {
    pub boot_id: S,
    /// Empty: the node's own.
    pub hostname: S,
    /// `net/ipv4/ip_forward` and value.
    pub sysctls: Vec<(S, S)>,
    pub host_pid: bool,
    pub host_ipc: bool,
    pub uid: S,
    pub namespace: S,
    pub name: S,
    /// Milliseconds since the Unix epoch.
    pub created_at: i64,
    pub note: Vec<u8>,
}

const SANDBOX_MAGIC: u32 = u32::from_le_bytes(*b"CPSB");
const STATE_MAGIC: u32 = u32::from_le_bytes(*b"CPST");
const FILE_VERSION: u16 = 1;
const KNOWN: u8 = 1;
const REMOVED: u8 = 2;

impl<S: AsRef<CStr>> Record<S> {
    pub fn encode(&self, w: &mut Writer) {
        // With its own length, so that records in a list can grow.
        let mut record = Writer::default();
        record.cstr(self.id.as_ref());
        record.i64(self.started_at);
        record.u8(self.exit.is_some() as u8);
        if let Some(e) = &self.exit {
            record.i32(e.code);
            record.i32(e.signal);
            record.u8(e.oom_killed as u8);
            record.i64(e.finished_at);
        }
        w.bytes(&record.finish());
    }
}

impl<'a> Record<&'a CStr> {
    pub fn decode(r: &mut Reader<'a>) -> Result<Record<&'a CStr>, Malformed> {
        Record::decode_body(Reader::new(r.bytes()?))
    }

    fn decode_body(mut r: Reader<'a>) -> Result<Record<&'a CStr>, Malformed> {
        let (id, started_at) = (r.cstr()?, r.i64()?);
        let exit = match r.u8()? {
            0 => None,
            _ => Some(Exit { code: r.i32()?, signal: r.i32()?, oom_killed: r.u8()? != 0, finished_at: r.i64()? }),
        };
        Ok(Record { id, started_at, exit })
    }
}

impl<S: AsRef<CStr>> SandboxFile<S> {
    pub fn encode(&self, w: &mut Writer) {
        w.u32(SANDBOX_MAGIC);
        w.u16(FILE_VERSION);
        w.cstr(self.boot_id.as_ref());
        w.cstr(self.hostname.as_ref());
        w.list(&self.sysctls, |w, (name, value)| {
            w.cstr(name.as_ref());
            w.cstr(value.as_ref());
        });
        w.u8(self.host_pid as u8);
        w.u8(self.host_ipc as u8);
        w.cstr(self.uid.as_ref());
        w.cstr(self.namespace.as_ref());
        w.cstr(self.name.as_ref());
        w.i64(self.created_at);
        w.bytes(&self.note);
    }
}

impl<'a> SandboxFile<&'a CStr> {
    pub fn decode(mut r: Reader<'a>) -> Result<SandboxFile<&'a CStr>, Malformed> {
        let r = &mut r;
        if r.u32()? != SANDBOX_MAGIC || r.u16()? < FILE_VERSION {
            return Err(Malformed);
        }
        Ok(SandboxFile {
            boot_id: r.cstr()?,
            hostname: r.cstr()?,
            sysctls: r.list(|r| Ok((r.cstr()?, r.cstr()?)))?,
            host_pid: r.u8()? != 0,
            host_ipc: r.u8()? != 0,
            uid: r.cstr()?,
            namespace: r.cstr()?,
            name: r.cstr()?,
            created_at: r.i64()?,
            note: r.bytes()?.to_vec(),
        })
    }
}

/// The head of [`STATE_FILE`](crate::STATE_FILE): the boot it belongs to. Entries follow.
pub fn encode_state_head(w: &mut Writer, boot_id: &CStr) {
    w.u32(STATE_MAGIC);
    w.u16(FILE_VERSION);
    w.cstr(boot_id);
}

/// An entry of the state file: a container that started or ended. The last word on an id holds.
pub fn encode_state_known<S: AsRef<CStr>>(w: &mut Writer, record: &Record<S>) {
    w.u8(KNOWN);
    record.encode(w);
}

/// An entry of the state file: a container that was removed.
pub fn encode_state_removed(w: &mut Writer, id: &CStr) {
    w.u8(REMOVED);
    w.bytes(id.to_bytes_with_nul());
}

/// The boot and every container not yet removed, in order of start. A last entry that was cut is
/// left out: it was being written when its writer was killed.
///
/// # Errors
/// Not a state file.
pub fn decode_state(raw: &[u8]) -> Result<(&CStr, Vec<Record<&CStr>>), Malformed> {
    let mut r = Reader::new(raw);
    if r.u32()? != STATE_MAGIC || r.u16()? < FILE_VERSION {
        return Err(Malformed);
    }
    let boot_id = r.cstr()?;
    let mut records: Vec<Record<&CStr>> = Vec::new();
    while let Ok((kind, body)) = entry(&mut r) {
        let id = match kind {
            KNOWN => Record::decode_body(Reader::new(body))?.id,
            REMOVED => CStr::from_bytes_with_nul(body).map_err(|_| Malformed)?,
            // Of a newer pause.
            _ => continue,
        };
        let known = records.iter().position(|record| record.id == id);
        match (kind, known) {
            (KNOWN, Some(i)) => records[i] = Record::decode_body(Reader::new(body))?,
            (KNOWN, None) => records.push(Record::decode_body(Reader::new(body))?),
            (_, Some(i)) => drop(records.remove(i)),
            (_, None) => {}
        }
    }
    Ok((boot_id, records))
}

fn entry<'a>(r: &mut Reader<'a>) -> Result<(u8, &'a [u8]), Malformed> {
    Ok((r.u8()?, r.bytes()?))
}
