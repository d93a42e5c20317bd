//! The DNS message format, as much as a cluster's names need: RFC 1035, 2782 (SRV), 6891 (EDNS).
//!
//! Everything read here comes from strangers: every length is checked, every loop bounded, and what is
//! not understood is an error or left out, never a panic.

use std::net::Ipv4Addr;

/// Longest name in wire form (RFC 1035, 2.3.4).
const MAX_NAME: usize = 255;
const MAX_LABEL: usize = 63;
const HEADER: usize = 12;

/// Pointers followed in one name: more than any honest message nests.
const MAX_POINTERS: usize = 16;

/// Records looked at in one message: a 64 KiB message could hold thousands of empty ones.
const MAX_RECORDS: usize = 256;

/// The largest UDP message sent and asked for: passes every network without fragments
/// (DNS flag day 2020).
pub(crate) const UDP_LIMIT: usize = 1232;

/// What a client without EDNS takes over UDP.
const UDP_CLASSIC: usize = 512;

/// The length of a message over TCP is a 16-bit number.
pub(crate) const TCP_LIMIT: usize = 65535;

pub(crate) mod kind {
    pub(crate) const A: u16 = 1;
    pub(crate) const CNAME: u16 = 5;
    pub(crate) const SOA: u16 = 6;
    pub(crate) const PTR: u16 = 12;
    pub(crate) const TXT: u16 = 16;
    pub(crate) const AAAA: u16 = 28;
    pub(crate) const SRV: u16 = 33;
    pub(crate) const OPT: u16 = 41;
    pub(crate) const ANY: u16 = 255;
}

/// Class IN; the only one that means anything here.
pub(crate) const IN: u16 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Code {
    NoError = 0,
    FormatError = 1,
    ServerFailure = 2,
    NoSuchName = 3,
    NotImplemented = 4,
    Refused = 5,
}

/// A name in wire form, lower case, with its root label. Ordered by bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Name(Box<[u8]>);

impl Name {
    /// From text with dots; a dot at the end changes nothing.
    pub(crate) fn parse(text: &str) -> Option<Name> {
        let mut bytes = Vec::with_capacity(text.len() + 2);
        for label in text.strip_suffix('.').unwrap_or(text).split('.') {
            if label.is_empty() || label.len() > MAX_LABEL {
                return None;
            }
            bytes.push(label.len() as u8);
            bytes.extend(label.bytes().map(|b| b.to_ascii_lowercase()));
        }
        bytes.push(0);
        (bytes.len() <= MAX_NAME).then(|| Name(bytes.into()))
    }

    /// The name of a label below this one.
    pub(crate) fn child(&self, label: &str) -> Option<Name> {
        if label.is_empty() || label.len() > MAX_LABEL || self.0.len() + label.len() + 1 > MAX_NAME {
            return None;
        }
        let mut bytes = Vec::with_capacity(self.0.len() + label.len() + 1);
        bytes.push(label.len() as u8);
        bytes.extend(label.bytes().map(|b| b.to_ascii_lowercase()));
        bytes.extend_from_slice(&self.0);
        Some(Name(bytes.into()))
    }

    /// The name without its first label; `None` for the root.
    pub(crate) fn parent(&self) -> Option<Name> {
        let first = usize::from(self.0[0]);
        (first > 0).then(|| Name(self.0[first + 1..].into()))
    }

    fn labels(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.0[..];
        std::iter::from_fn(move || {
            let length = usize::from(*rest.first()?);
            let label = rest.get(1..=length)?;
            rest = &rest[length + 1..];
            (length > 0).then_some(label)
        })
    }

    /// Whether this is `zone` or below it.
    pub(crate) fn is_within(&self, zone: &Name) -> bool {
        let Some(extra) = self.labels().count().checked_sub(zone.labels().count()) else { return false };
        self.labels().skip(extra).eq(zone.labels())
    }

    /// The address that a name below `in-addr.arpa` stands for.
    pub(crate) fn reversed_address(&self) -> Option<Ipv4Addr> {
        let labels: Vec<&[u8]> = self.labels().collect();
        let [d, c, b, a, b"in-addr", b"arpa"] = labels[..] else { return None };
        let octet = |label: &[u8]| std::str::from_utf8(label).ok()?.parse::<u8>().ok();
        Some(Ipv4Addr::new(octet(a)?, octet(b)?, octet(c)?, octet(d)?))
    }
}

/// A message that is no question, with what can be said about it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// Not even worth an answer: no header, or itself an answer.
    Ignore,
    /// To be answered with this code.
    Answer { id: u16, code: Code },
}

/// A question, with what the client said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Query {
    pub id: u16,
    pub name: Name,
    pub kind: u16,
    pub class: u16,
    /// Name, type and class as they came, upper and lower case kept.
    pub question: Vec<u8>,
    pub recursion: bool,
    /// The UDP size the client offered by EDNS, and the version.
    pub edns: Option<(u16, u8)>,
}

impl Query {
    /// Reads a query.
    pub(crate) fn parse(message: &[u8]) -> Result<Query, Malformed> {
        let header: &[u8; HEADER] = message.get(..HEADER).and_then(|h| h.try_into().ok()).ok_or(Malformed::Ignore)?;
        let id = be16(header, 0);
        if header[2] & 0x80 != 0 {
            return Err(Malformed::Ignore);
        }
        let refuse = |code| Malformed::Answer { id, code };
        if header[2] & 0x78 != 0 {
            return Err(refuse(Code::NotImplemented));
        }
        if be16(header, 4) != 1 {
            return Err(refuse(Code::FormatError));
        }
        let mut reader = Reader { message, at: HEADER };
        let (name, kind, class) = reader.question().ok_or(refuse(Code::FormatError))?;
        let question = message[HEADER..reader.at].to_vec();
        let records = [6, 8, 10].map(|at| usize::from(be16(header, at))).iter().sum::<usize>();
        let mut edns = None;
        for _ in 0..records.min(MAX_RECORDS) {
            let record = reader.record().ok_or(refuse(Code::FormatError))?;
            if record.kind == kind::OPT {
                edns = Some((record.class, (record.ttl >> 16) as u8));
            }
        }
        Ok(Query { id, name, kind, class, question, recursion: header[2] & 1 != 0, edns })
    }

    /// How long an answer may be over UDP, in bytes.
    pub(crate) fn udp_limit(&self) -> usize {
        self.edns.map_or(UDP_CLASSIC, |(size, _)| usize::from(size).clamp(UDP_CLASSIC, UDP_LIMIT))
    }

    /// The bytes of a query for this, asking for recursion.
    pub(crate) fn write(id: u16, name: &Name, kind: u16) -> Vec<u8> {
        let mut message = Vec::with_capacity(HEADER + name.0.len() + 4 + 11);
        push16(&mut message, id);
        message.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 1]);
        message.extend_from_slice(&name.0);
        push16(&mut message, kind);
        push16(&mut message, IN);
        push_opt(&mut message);
        message
    }
}

/// A record to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub name: Name,
    /// Seconds.
    pub ttl: u32,
    pub data: Data,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Data {
    A(Ipv4Addr),
    Aaaa([u8; 16]),
    Cname(Name),
    Ptr(Name),
    Srv { port: u16, target: Name },
    Txt(&'static str),
    Soa { zone: Name, minimum: u32 },
}

impl Data {
    fn kind(&self) -> u16 {
        match self {
            Data::A(_) => kind::A,
            Data::Aaaa(_) => kind::AAAA,
            Data::Cname(_) => kind::CNAME,
            Data::Ptr(_) => kind::PTR,
            Data::Srv { .. } => kind::SRV,
            Data::Txt(_) => kind::TXT,
            Data::Soa { .. } => kind::SOA,
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Data::A(address) => out.extend_from_slice(&address.octets()),
            Data::Aaaa(address) => out.extend_from_slice(address),
            Data::Cname(name) | Data::Ptr(name) => out.extend_from_slice(&name.0),
            Data::Srv { port, target } => {
                push16(out, 0);
                push16(out, 100);
                push16(out, *port);
                out.extend_from_slice(&target.0);
            }
            Data::Txt(text) => {
                out.push(text.len() as u8);
                out.extend_from_slice(text.as_bytes());
            }
            Data::Soa { zone, minimum } => {
                for label in ["ns.dns", "hostmaster"] {
                    let mut labels = label.rsplit('.');
                    let name = labels.try_fold(zone.clone(), |name, label| name.child(label));
                    out.extend_from_slice(&name.unwrap_or_else(|| zone.clone()).0);
                }
                for number in [1, 7200, 1800, 86400, *minimum] {
                    out.extend_from_slice(&number.to_be_bytes());
                }
            }
        }
    }
}

/// An answer before it is bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub code: Code,
    pub authoritative: bool,
    pub answers: Vec<Record>,
    pub authority: Vec<Record>,
    pub additional: Vec<Record>,
}

impl Reply {
    pub(crate) fn code(code: Code) -> Reply {
        Reply { code, authoritative: false, answers: Vec::new(), authority: Vec::new(), additional: Vec::new() }
    }

    /// The answer to `query` in at most `limit` bytes. What does not fit is left out, and the message
    /// marked as cut when that is an answer.
    pub(crate) fn write(&self, query: &Query, limit: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(UDP_CLASSIC);
        push16(&mut out, query.id);
        out.push(0x80 | if self.authoritative { 4 } else { 0 } | u8::from(query.recursion));
        out.push(0x80 | self.code as u8);
        out.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
        out.extend_from_slice(&query.question);
        let limit = if query.edns.is_some() { limit - OPT.len() } else { limit };
        let mut cut = false;
        for (section, records) in [(6, &self.answers), (8, &self.authority), (10, &self.additional)] {
            let mut count = 0_u16;
            for record in records {
                if cut {
                    break;
                }
                let before = out.len();
                push_record(&mut out, record, query);
                if out.len() > limit {
                    out.truncate(before);
                    cut = true;
                    if section != 10 {
                        out[2] |= 2;
                    }
                } else {
                    count += 1;
                }
            }
            out[section..section + 2].copy_from_slice(&count.to_be_bytes());
        }
        if query.edns.is_some() {
            push_opt(&mut out);
            let additional = be16(&out, 10) + 1;
            out[10..12].copy_from_slice(&additional.to_be_bytes());
        }
        out
    }
}

/// The answer to what is no query: a header alone.
pub(crate) fn error(id: u16, code: Code) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER);
    push16(&mut out, id);
    out.extend_from_slice(&[0x80, code as u8, 0, 0, 0, 0, 0, 0, 0, 0]);
    out
}

/// Our side's EDNS record.
const OPT: [u8; 11] = [0, 0, kind::OPT as u8, (UDP_LIMIT >> 8) as u8, UDP_LIMIT as u8, 0, 0, 0, 0, 0, 0];

fn push_opt(out: &mut Vec<u8>) {
    out.extend_from_slice(&OPT);
}

fn push16(out: &mut Vec<u8>, number: u16) {
    out.extend_from_slice(&number.to_be_bytes());
}

fn push_record(out: &mut Vec<u8>, record: &Record, query: &Query) {
    if record.name == query.name {
        // A pointer to the question's name.
        push16(out, 0xc000 | HEADER as u16);
    } else {
        out.extend_from_slice(&record.name.0);
    }
    push16(out, record.data.kind());
    push16(out, IN);
    out.extend_from_slice(&record.ttl.to_be_bytes());
    let at = out.len();
    push16(out, 0);
    record.data.write(out);
    let length = (out.len() - at - 2) as u16;
    out[at..at + 2].copy_from_slice(&length.to_be_bytes());
}

/// The head of another server's answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer<'a> {
    pub id: u16,
    /// The low four bits of the flags.
    pub code: u8,
    pub cut: bool,
    question: &'a [u8],
    message: &'a [u8],
    answers: usize,
}

impl<'a> Answer<'a> {
    /// Reads another server's answer to one question.
    pub(crate) fn parse(message: &'a [u8]) -> Option<Answer<'a>> {
        let header = message.get(..HEADER)?;
        if header[2] & 0x80 == 0 || be16(header, 4) != 1 {
            return None;
        }
        let mut reader = Reader { message, at: HEADER };
        reader.question()?;
        Some(Answer {
            id: be16(header, 0),
            code: header[3] & 15,
            cut: header[2] & 2 != 0,
            question: &message[HEADER..reader.at],
            message,
            answers: usize::from(be16(header, 6)),
        })
    }

    /// Whether this answers that question (name, type and class in wire form).
    pub(crate) fn answers(&self, question: &[u8]) -> bool {
        self.question.eq_ignore_ascii_case(question)
    }

    /// The addresses and aliases among the answers, up to the first record that cannot be read.
    pub(crate) fn records(&self) -> Vec<Record> {
        let mut reader = Reader { message: self.message, at: HEADER + self.question.len() };
        let mut records = Vec::new();
        for _ in 0..self.answers.min(MAX_RECORDS) {
            let Some(record) = reader.record() else { break };
            let data = match (record.kind, record.data) {
                (kind::A, &[a, b, c, d]) => Some(Data::A(Ipv4Addr::new(a, b, c, d))),
                (kind::AAAA, bytes) => bytes.try_into().ok().map(Data::Aaaa),
                (kind::CNAME, _) => Reader { message: self.message, at: record.data_at }.name().map(Data::Cname),
                _ => None,
            };
            records.extend(data.map(|data| Record { name: record.name, ttl: record.ttl, data }));
        }
        records
    }
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

struct RawRecord<'a> {
    name: Name,
    kind: u16,
    class: u16,
    ttl: u32,
    data: &'a [u8],
    data_at: usize,
}

struct Reader<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let bytes = self.message.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some(bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|b| be16(b, 0))
    }

    /// A name, by way of pointers where there are any.
    fn name(&mut self) -> Option<Name> {
        let mut bytes = Vec::new();
        let mut after = None;
        let mut pointers = 0;
        loop {
            let length = usize::from(self.take(1)?[0]);
            match length >> 6 {
                0 => {
                    let label = self.take(length)?;
                    bytes.push(length as u8);
                    bytes.extend(label.iter().map(u8::to_ascii_lowercase));
                    if bytes.len() > MAX_NAME {
                        return None;
                    }
                    if length == 0 {
                        self.at = after.unwrap_or(self.at);
                        return Some(Name(bytes.into()));
                    }
                }
                3 => {
                    let low = usize::from(self.take(1)?[0]);
                    after.get_or_insert(self.at);
                    self.at = (length & 0x3f) << 8 | low;
                    pointers += 1;
                    if pointers > MAX_POINTERS {
                        return None;
                    }
                }
                _ => return None,
            }
        }
    }

    /// A question. Its name has no pointers: there is nothing before it to point to.
    fn question(&mut self) -> Option<(Name, u16, u16)> {
        let start = self.at;
        let name = self.name()?;
        let whole = self.at == start + name.0.len();
        let (kind, class) = (self.u16()?, self.u16()?);
        whole.then_some((name, kind, class))
    }

    fn record(&mut self) -> Option<RawRecord<'a>> {
        let name = self.name()?;
        let (kind, class) = (self.u16()?, self.u16()?);
        let ttl = self.take(4)?;
        let length = usize::from(self.u16()?);
        let data_at = self.at;
        let data = self.take(length)?;
        Some(RawRecord { name, kind, class, ttl: u32::from_be_bytes([ttl[0], ttl[1], ttl[2], ttl[3]]), data, data_at })
    }
}
