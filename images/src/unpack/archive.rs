//! Reading tar streams: ustar, pax (POSIX.1-2001) and GNU, with sparse files. Nothing is trusted and
//! nothing is held in memory but one header's names.

use std::io::{self, BufRead};

use super::Refusal;
use super::limits::{MAX_EXTENSION, MAX_LAYER, MAX_SPARSE};

const BLOCK: usize = 512;

/// Regions of a sparse file: offset and length.
type Regions = Vec<(u64, u64)>;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    HardLink,
    Symlink,
    Directory,
    Character { major: u32, minor: u32 },
    Block { major: u32, minor: u32 },
    Fifo,
}

/// One entry. A file's data is read from the [`Archive`] before the next one is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub path: Vec<u8>,
    pub kind: Kind,
    /// Where a link points.
    pub link: Vec<u8>,
    /// The lower twelve bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds since 1970 and nanoseconds.
    pub mtime: (i64, u32),
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The size of a file as it is to be on disk.
    pub size: u64,
    /// Where the data of a sparse file goes: offset and length, in the order of the data.
    pub sparse: Option<Regions>,
}

/// A stream of entries.
pub struct Archive<R> {
    reader: R,
    /// Bytes of the current entry's data that are still in the stream, and its padding.
    data: u64,
    padding: u64,
    /// From global pax headers.
    global: Extensions,
}

/// What pax records and GNU's long names say about the next entry.
#[derive(Clone, Debug, Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse: PaxSparse,
}

/// The three ways in which pax headers describe sparse files.
#[derive(Clone, Debug, Default)]
struct PaxSparse {
    name: Option<Vec<u8>>,
    real_size: Option<u64>,
    map: Vec<u64>,
    /// The map stands at the beginning of the data (format 1.0).
    in_data: bool,
    any: bool,
}

impl<R: BufRead> Archive<R> {
    pub fn new(reader: R) -> Archive<R> {
        Archive { reader, data: 0, padding: 0, global: Extensions::default() }
    }

    /// The next entry, or `None` at the archive's end.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, Refusal> {
        let mut extensions = self.global.clone();
        loop {
            self.skip(self.data + self.padding)?;
            (self.data, self.padding) = (0, 0);
            let Some(block) = self.read_header()? else { return Ok(None) };
            let size = number(&block[124..136], "size")?;
            match block[156] {
                b'x' => {
                    let text = self.read_extension(size)?;
                    parse_pax(&text, &mut extensions)?;
                }
                b'g' => {
                    let text = self.read_extension(size)?;
                    parse_pax(&text, &mut self.global)?;
                    parse_pax(&text, &mut extensions)?;
                }
                b'L' => extensions.path = Some(until_nul(&self.read_extension(size)?).to_vec()),
                b'K' => extensions.link = Some(until_nul(&self.read_extension(size)?).to_vec()),
                _ => return self.entry(&block, size, extensions).map(Some),
            }
        }
    }

    /// The next piece of the current file's data; empty at its end.
    pub fn data(&mut self) -> io::Result<&[u8]> {
        if self.data == 0 {
            return Ok(&[]);
        }
        let left = usize::try_from(self.data).unwrap_or(usize::MAX);
        let ready = self.reader.fill_buf()?;
        if ready.is_empty() {
            return Err(truncated());
        }
        Ok(&ready[..ready.len().min(left)])
    }

    /// Marks bytes of [`Archive::data`] as used.
    pub fn consume(&mut self, bytes: usize) {
        self.data -= bytes as u64;
        self.reader.consume(bytes);
    }

    pub fn into_inner(self) -> R {
        self.reader
    }

    fn entry(&mut self, block: &[u8; BLOCK], size: u64, ext: Extensions) -> Result<Entry, Refusal> {
        let path = match (ext.sparse.name, ext.path) {
            (Some(name), _) | (None, Some(name)) => name,
            (None, None) => header_path(block),
        };
        let device = || -> Result<(u32, u32), Refusal> {
            Ok((small(&block[329..337], "device major")?, small(&block[337..345], "device minor")?))
        };
        let kind = match block[156] {
            b'0' | 0 | b'7' if path.ends_with(b"/") => Kind::Directory,
            b'0' | 0 | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => device().map(|(major, minor)| Kind::Character { major, minor })?,
            b'4' => device().map(|(major, minor)| Kind::Block { major, minor })?,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => return Err(Refusal::new(format!("{}: unknown entry type {other:#04x}", show(&path)))),
        };
        // Links and directories carry no data, whatever their size field says (as in Go's reader).
        let stored = if kind == Kind::File { ext.size.unwrap_or(size) } else { 0 };
        if stored > MAX_LAYER {
            return Err(Refusal::new(format!("{}: a file of {stored} bytes", show(&path))));
        }
        let (size, sparse) = if block[156] == b'S' { self.gnu_sparse(block)? } else { (stored, None) };
        // The map of an old GNU sparse file stands between header and data and is not counted.
        self.data = stored;
        self.padding = stored.next_multiple_of(BLOCK as u64) - stored;
        let (size, sparse) = if ext.sparse.any && kind == Kind::File {
            let map = if ext.sparse.in_data { self.sparse_map_in_data()? } else { pairs(&ext.sparse.map)? };
            (ext.sparse.real_size.unwrap_or(size), Some(map))
        } else {
            (size, sparse)
        };
        check_sparse(&path, size, sparse.as_deref(), self.data)?;
        Ok(Entry {
            kind,
            link: ext.link.unwrap_or_else(|| until_nul(&block[157..257]).to_vec()),
            mode: (number(&block[100..108], "mode")? & 0o7777) as u32,
            uid: ext.uid.map_or_else(|| small(&block[108..116], "uid"), Ok)?,
            gid: ext.gid.map_or_else(|| small(&block[116..124], "gid"), Ok)?,
            mtime: ext.mtime.map_or_else(|| signed(&block[136..148], "mtime").map(|s| (s, 0)), Ok)?,
            xattrs: ext.xattrs,
            path,
            size,
            sparse,
        })
    }

    /// A header block, or `None` at two blocks of zeros or at the end of the stream.
    fn read_header(&mut self) -> Result<Option<[u8; BLOCK]>, Refusal> {
        let mut block = [0; BLOCK];
        if !self.read_block(&mut block)? {
            return Ok(None);
        }
        if block.iter().all(|b| *b == 0) {
            return match self.read_block(&mut block)? && block.iter().any(|b| *b != 0) {
                true => Err(Refusal::new("not a tar archive: a block of zeros between entries".into())),
                false => Ok(None),
            };
        }
        let stated = number(&block[148..156], "checksum")?;
        let (mut unsigned, mut as_signed) = (0u64, 0i64);
        for (at, byte) in block.iter().enumerate() {
            let byte = if (148..156).contains(&at) { b' ' } else { *byte };
            unsigned += u64::from(byte);
            as_signed += i64::from(byte.cast_signed());
        }
        if stated != unsigned && i64::try_from(stated) != Ok(as_signed) {
            return Err(Refusal::new("not a tar archive: a header's checksum is wrong".into()));
        }
        Ok(Some(block))
    }

    /// False at a clean end of the stream.
    fn read_block(&mut self, block: &mut [u8; BLOCK]) -> io::Result<bool> {
        let mut filled = 0;
        while filled < BLOCK {
            let ready = self.reader.fill_buf()?;
            if ready.is_empty() {
                return if filled == 0 { Ok(false) } else { Err(truncated()) };
            }
            let count = ready.len().min(BLOCK - filled);
            block[filled..filled + count].copy_from_slice(&ready[..count]);
            self.reader.consume(count);
            filled += count;
        }
        Ok(true)
    }

    fn read_extension(&mut self, size: u64) -> Result<Vec<u8>, Refusal> {
        if size > MAX_EXTENSION {
            return Err(Refusal::new(format!("an extended header of {size} bytes; at most {MAX_EXTENSION} are read")));
        }
        self.data = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        let mut text = Vec::with_capacity(size as usize);
        while self.data > 0 {
            let count = {
                let piece = self.data()?;
                text.extend_from_slice(piece);
                piece.len()
            };
            self.consume(count);
        }
        Ok(text)
    }

    fn skip(&mut self, mut bytes: u64) -> io::Result<()> {
        while bytes > 0 {
            let ready = self.reader.fill_buf()?.len();
            if ready == 0 {
                return Err(truncated());
            }
            let count = ready.min(usize::try_from(bytes).unwrap_or(usize::MAX));
            self.reader.consume(count);
            bytes -= count as u64;
        }
        Ok(())
    }

    /// The map of an old GNU sparse file: four pairs in the header, more in blocks behind it.
    fn gnu_sparse(&mut self, block: &[u8; BLOCK]) -> Result<(u64, Option<Regions>), Refusal> {
        let mut map = Vec::new();
        let mut more = read_pairs(&block[386..482], &mut map)? && block[482] != 0;
        while more {
            let mut extension = [0; BLOCK];
            if !self.read_block(&mut extension)? {
                return Err(truncated().into());
            }
            more = read_pairs(&extension[..504], &mut map)? && extension[504] != 0;
            if map.len() > MAX_SPARSE {
                return Err(Refusal::new(format!("a sparse file of more than {MAX_SPARSE} regions")));
            }
        }
        Ok((number(&block[483..495], "sparse size")?, Some(map)))
    }

    /// Format 1.0: decimal numbers, one a line, filled up to a block.
    fn sparse_map_in_data(&mut self) -> Result<Regions, Refusal> {
        let mut numbers = Vec::new();
        let mut used = 0u64;
        let count = self.sparse_line(&mut used)?;
        if count > MAX_SPARSE as u64 {
            return Err(Refusal::new(format!("a sparse file of {count} regions")));
        }
        for _ in 0..count * 2 {
            numbers.push(self.sparse_line(&mut used)?);
        }
        let filling = used.next_multiple_of(BLOCK as u64) - used;
        if filling > self.data {
            return Err(Refusal::new("a sparse map that is longer than its file".into()));
        }
        self.skip(filling)?;
        self.data -= filling;
        pairs(&numbers)
    }

    fn sparse_line(&mut self, used: &mut u64) -> Result<u64, Refusal> {
        let mut value = 0u64;
        for _ in 0..21 {
            let byte = self.data()?.first().copied();
            let Some(byte) = byte else { break };
            self.consume(1);
            *used += 1;
            match byte {
                b'\n' => return Ok(value),
                b'0'..=b'9' if value < MAX_LAYER * 10 => value = value * 10 + u64::from(byte - b'0'),
                _ => break,
            }
        }
        Err(Refusal::new("a sparse map that is not made of numbers".into()))
    }
}

/// Regions in order, inside the file, as long as the data that there is.
fn check_sparse(path: &[u8], size: u64, sparse: Option<&[(u64, u64)]>, data: u64) -> Result<(), Refusal> {
    let Some(map) = sparse else { return Ok(()) };
    let mut end = 0u64;
    let mut total = 0u64;
    for (offset, length) in map {
        let next = offset.checked_add(*length);
        match next {
            Some(next) if *offset >= end && next <= size => end = next,
            _ => return Err(Refusal::new(format!("{}: an impossible sparse map", show(path)))),
        }
        total += length;
    }
    if size > MAX_LAYER || total != data {
        return Err(Refusal::new(format!("{}: a sparse map that does not fit its data", show(path))));
    }
    Ok(())
}

fn pairs(numbers: &[u64]) -> Result<Regions, Refusal> {
    if !numbers.len().is_multiple_of(2) || numbers.len() / 2 > MAX_SPARSE {
        return Err(Refusal::new("a sparse map of an impossible length".into()));
    }
    Ok(numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}

/// Pairs of 12 digits up to the first empty one. True when all of them were used.
fn read_pairs(bytes: &[u8], map: &mut Regions) -> Result<bool, Refusal> {
    for pair in bytes.chunks_exact(24) {
        if pair[0] == 0 {
            return Ok(false);
        }
        map.push((number(&pair[..12], "sparse offset")?, number(&pair[12..], "sparse length")?));
    }
    Ok(true)
}

/// Records of `LENGTH KEY=VALUE\n`.
fn parse_pax(mut text: &[u8], ext: &mut Extensions) -> Result<(), Refusal> {
    let bad = || Refusal::new("a malformed pax header".into());
    while !text.is_empty() && text[0] != 0 {
        let space = text.iter().position(|b| *b == b' ').ok_or_else(bad)?;
        let length: usize = decimal(&text[..space]).and_then(|n| n.try_into().ok()).ok_or_else(bad)?;
        if length <= space + 1 || length > text.len() || text[length - 1] != b'\n' {
            return Err(bad());
        }
        let record = &text[space + 1..length - 1];
        let equals = record.iter().position(|b| *b == b'=').ok_or_else(bad)?;
        apply_pax(&record[..equals], &record[equals + 1..], ext).ok_or_else(bad)?;
        text = &text[length..];
    }
    Ok(())
}

/// `None` for a value that its key does not allow. An empty value takes a record of a global header
/// back, as POSIX says.
fn apply_pax(key: &[u8], value: &[u8], ext: &mut Extensions) -> Option<()> {
    let filled = (!value.is_empty()).then_some(value);
    let number = || filled.map_or(Some(None), |v| decimal(v).map(Some));
    let id = || filled.map_or(Some(None), |v| decimal(v)?.try_into().ok().map(Some));
    match key {
        b"path" => ext.path = filled.map(<[u8]>::to_vec),
        b"linkpath" => ext.link = filled.map(<[u8]>::to_vec),
        b"size" => ext.size = number()?,
        b"uid" => ext.uid = id()?,
        b"gid" => ext.gid = id()?,
        b"mtime" => ext.mtime = filled.map_or(Some(None), |v| pax_time(v).map(Some))?,
        b"GNU.sparse.name" => ext.sparse.name = filled.map(<[u8]>::to_vec),
        b"GNU.sparse.realsize" | b"GNU.sparse.size" => {
            ext.sparse.real_size = number()?;
            ext.sparse.any = true;
        }
        b"GNU.sparse.major" => ext.sparse.in_data = value == b"1",
        b"GNU.sparse.offset" | b"GNU.sparse.numbytes" if ext.sparse.map.len() < MAX_SPARSE * 2 => {
            ext.sparse.map.push(decimal(value)?);
        }
        b"GNU.sparse.map" if value.len() < MAX_SPARSE * 8 => {
            ext.sparse.map =
                value.split(|b| *b == b',').filter(|n| !n.is_empty()).map(decimal).collect::<Option<_>>()?;
        }
        b"GNU.sparse.offset" | b"GNU.sparse.numbytes" | b"GNU.sparse.map" => return None,
        _ => {
            if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                ext.xattrs.retain(|(known, _)| known != name);
                ext.xattrs.push((name.to_vec(), value.to_vec()));
            }
        }
    }
    Some(())
}

/// `SECONDS[.FRACTION]`, possibly negative.
fn pax_time(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanoseconds: u32 = digits.parse().ok()?;
    if whole.starts_with('-') && nanoseconds > 0 {
        return Some((seconds - 1, 1_000_000_000 - nanoseconds));
    }
    Some((seconds, nanoseconds))
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 19 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(text.iter().fold(0, |value, digit| value * 10 + u64::from(digit - b'0')))
}

/// A name of up to 100 bytes, with ustar's prefix of up to 155.
fn header_path(block: &[u8; BLOCK]) -> Vec<u8> {
    let name = until_nul(&block[..100]);
    let prefix = if &block[257..263] == b"ustar\0" { until_nul(&block[345..500]) } else { b"" };
    if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|b| *b == 0).next().unwrap_or_default()
}

/// A numeric field: octal digits, or base 256 when the first bit is set (GNU).
fn signed(field: &[u8], what: &str) -> Result<i64, Refusal> {
    let bad = || Refusal::new(format!("not a tar archive: a header's {what} is no number"));
    if field[0] & 0x80 != 0 {
        let negative = field[0] & 0x40 != 0;
        let first = i128::from(field[0] & 0x7f) - if negative { 128 } else { 0 };
        let value = field[1..].iter().fold(first, |value, byte| value.wrapping_mul(256) + i128::from(*byte));
        return i64::try_from(value).map_err(|_| bad());
    }
    let digits = field.iter().copied().skip_while(|b| *b == b' ').take_while(|b| !matches!(b, 0 | b' '));
    digits
        .into_iter()
        .try_fold(0i64, |value, digit| match digit {
            b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
            _ => None,
        })
        .ok_or_else(bad)
}

fn number(field: &[u8], what: &str) -> Result<u64, Refusal> {
    signed(field, what)?.try_into().map_err(|_| Refusal::new(format!("a header's {what} is negative")))
}

fn small(field: &[u8], what: &str) -> Result<u32, Refusal> {
    number(field, what)?.try_into().map_err(|_| Refusal::new(format!("a header's {what} is too large")))
}

fn truncated() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the layer ends in the middle of an entry")
}

/// A path for a message.
pub fn show(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(&path[..path.len().min(200)]);
    format!("{:?}", text)
}
