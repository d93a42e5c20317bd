//! From a layer's bytes to its tar stream: gzip, zstd or nothing, told apart by the first bytes.

use std::cell::Cell;
use std::io::{self, BufRead, BufReader, Read};
use std::rc::Rc;

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::limits::{MAX_LAYER, MAX_RATIO, RATIO_FREE};

/// A decompressed stream that ends with an error where it grows beyond reason.
pub struct Decompressed<R: Read> {
    decoder: Decoder<Counted<R>>,
    compressed: Rc<Cell<u64>>,
    produced: u64,
}

enum Decoder<R: Read> {
    Plain(BufReader<R>),
    Gzip(Box<MultiGzDecoder<BufReader<R>>>),
    Zstd(Box<ZstdFrames<BufReader<R>>>),
}

impl<R: Read> Decompressed<R> {
    /// Reads the first bytes of `source`, through a buffer of `buffer` bytes.
    pub fn new(source: R, buffer: usize) -> io::Result<Decompressed<R>> {
        let compressed = Rc::new(Cell::new(0));
        let mut source = BufReader::with_capacity(buffer, Counted { source, count: compressed.clone() });
        let start = source.fill_buf()?;
        // A pipe hands over whole writes; the first of a layer is larger than four bytes, or it is
        // no archive.
        let decoder = match start {
            [0x1f, 0x8b, ..] => Decoder::Gzip(Box::new(MultiGzDecoder::new(source))),
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
                Decoder::Zstd(Box::new(ZstdFrames { source, decoder: FrameDecoder::new(), open: false }))
            }
            _ => Decoder::Plain(source),
        };
        Ok(Decompressed { decoder, compressed, produced: 0 })
    }

    fn check(&self) -> io::Result<()> {
        if self.produced > MAX_LAYER {
            return Err(invalid(format!("it unpacks to more than {MAX_LAYER} bytes")));
        }
        if self.produced > RATIO_FREE && self.produced / MAX_RATIO > self.compressed.get() {
            return Err(invalid(format!(
                "a decompression bomb: {} bytes became {}, more than {MAX_RATIO} times as many",
                self.compressed.get(),
                self.produced
            )));
        }
        Ok(())
    }
}

impl<R: Read> Read for Decompressed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = match &mut self.decoder {
            Decoder::Plain(reader) => reader.read(buffer),
            Decoder::Gzip(reader) => reader.read(buffer),
            Decoder::Zstd(reader) => reader.read(buffer),
        }?;
        self.produced += count as u64;
        self.check()?;
        Ok(count)
    }
}

struct Counted<R> {
    source: R,
    count: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.count.set(self.count.get() + count as u64);
        Ok(count)
    }
}

/// Frames one after another, with skippable ones between them (RFC 8878, sections 3.1.1 and 3.1.2).
struct ZstdFrames<R> {
    source: R,
    decoder: FrameDecoder,
    /// Inside a frame.
    open: bool,
}

impl<R: BufRead> Read for ZstdFrames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.open || self.open_frame()? {
            while self.decoder.can_collect() < buffer.len() && !self.decoder.is_finished() {
                let missing = buffer.len() - self.decoder.can_collect();
                self.decoder
                    .decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBytes(missing))
                    .map_err(|e| invalid(format!("zstd: {e}")))?;
            }
            let count = self.decoder.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            self.open = false;
        }
        Ok(0)
    }
}

impl<R: BufRead> ZstdFrames<R> {
    /// False at the end of the stream.
    fn open_frame(&mut self) -> io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            match self.decoder.init(&mut self.source) {
                Ok(()) => {
                    self.open = true;
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    let length = u64::from(length);
                    if io::copy(&mut self.source.by_ref().take(length), &mut io::sink())? < length {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(invalid(format!("zstd: {error}"))),
            }
        }
        Ok(false)
    }
}

fn invalid(problem: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}
