//! etcd's `KV.Put` over gRPC, by hand: one HTTP/2 stream at a time on each connection, headers
//! without the compression table, so that the client costs as little as the other side's.

use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::creates::{report, spread};
use crate::{EtcdArgs, Outcome};

const VALUE: usize = 1000;

// RFC 9113, section 6
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

pub fn etcd(args: &EtcdArgs) -> Outcome<()> {
    let connect = || Connection::open(args.address);
    let put = |connection: &mut Connection, number: usize| {
        connection.put(format!("/bench/{number:08}").as_bytes(), &[b'v'; VALUE])
    };
    let (seconds, times) = spread(args.writers, args.writes, connect, put)?;
    report(args.writes, seconds, times);
    Ok(())
}

struct Connection {
    stream: BufReader<TcpStream>,
    headers: Vec<u8>,
    /// The number of the next stream: odd, ascending.
    next: u32,
}

fn frame(into: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    into.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    into.extend_from_slice(&[kind, flags]);
    into.extend_from_slice(&stream.to_be_bytes());
    into.extend_from_slice(payload);
}

/// A header without indexing (RFC 7541, 6.2.2): `name` is a static index below 15, or a literal.
fn header(into: &mut Vec<u8>, name: Result<u8, &str>, value: &str) {
    let literal = |into: &mut Vec<u8>, text: &str| {
        into.push(u8::try_from(text.len()).expect("our headers are short"));
        into.extend_from_slice(text.as_bytes());
    };
    match name {
        Ok(index) => into.push(index),
        Err(name) => {
            into.push(0);
            literal(into, name);
        }
    }
    literal(into, value);
}

/// A protobuf field of bytes.
fn field(into: &mut Vec<u8>, number: u8, value: &[u8]) {
    into.push(number << 3 | 2);
    let mut length = value.len();
    while length >= 0x80 {
        into.push(length as u8 | 0x80);
        length >>= 7;
    }
    into.push(length as u8);
    into.extend_from_slice(value);
}

impl Connection {
    fn open(address: SocketAddr) -> Outcome<Connection> {
        let mut stream = TcpStream::connect(address).map_err(|e| format!("etcd at {address}: {e}"))?;
        stream.set_nodelay(true)?;
        let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        frame(&mut hello, SETTINGS, 0, 0, &[]);
        // All answers together stay below the largest window, so none has to be opened again.
        frame(&mut hello, WINDOW_UPDATE, 0, 0, &(0x7fff_ffff_u32 - 65_535).to_be_bytes());
        stream.write_all(&hello)?;
        // :method POST and :scheme http are whole entries of the static table.
        let mut headers = vec![0x83, 0x86];
        header(&mut headers, Ok(4), "/etcdserverpb.KV/Put");
        header(&mut headers, Ok(1), &address.to_string());
        header(&mut headers, Err("content-type"), "application/grpc");
        header(&mut headers, Err("te"), "trailers");
        Ok(Connection { stream: BufReader::new(stream), headers, next: 1 })
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Outcome<()> {
        let mut message = vec![0; 5];
        field(&mut message, 1, key);
        field(&mut message, 2, value);
        let length = u32::try_from(message.len() - 5)?;
        message[1..5].copy_from_slice(&length.to_be_bytes());
        let stream = self.next;
        self.next += 2;
        let mut request = Vec::with_capacity(message.len() + 128);
        frame(&mut request, HEADERS, END_HEADERS, stream, &self.headers);
        frame(&mut request, DATA, END_STREAM, stream, &message);
        self.stream.get_mut().write_all(&request)?;
        self.answer(stream)
    }

    /// An answer carries a message; a refusal is trailers alone.
    fn answer(&mut self, stream: u32) -> Outcome<()> {
        let mut messages = 0;
        loop {
            let mut head = [0; 9];
            self.stream.read_exact(&mut head)?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let (kind, flags) = (head[3], head[4]);
            let of = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
            let mut payload = vec![0; length as usize];
            self.stream.read_exact(&mut payload)?;
            match kind {
                DATA if of == stream && payload.len() >= 5 => messages += 1,
                SETTINGS | PING if flags & ACK == 0 => {
                    let mut reply = Vec::new();
                    frame(&mut reply, kind, ACK, 0, if kind == PING { &payload } else { &[] });
                    self.stream.get_mut().write_all(&reply)?;
                }
                RST_STREAM | GOAWAY => return Err(format!("etcd ended the stream: {payload:?}").into()),
                _ => {}
            }
            if matches!(kind, DATA | HEADERS) && of == stream && flags & END_STREAM != 0 {
                return if messages == 1 { Ok(()) } else { Err("etcd refused a put".into()) };
            }
        }
    }
}
