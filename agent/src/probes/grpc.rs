//! gRPC health checks (`grpc.health.v1.Health/Check`) by hand: one call on one HTTP/2 connection,
//! headers without the compression table. RFC 9113, and the health checking protocol of gRPC.

use futures_lite::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// The one call's stream.
const STREAM: u32 = 1;
/// No frame may be longer than what a client that says nothing takes.
const MAX_FRAME: usize = 16 << 10;
/// Frames before the answer: a server sends a handful.
const MAX_FRAMES: usize = 64;
/// A service's name fits one length byte of HPACK and of protobuf; the API takes any, nobody uses more.
const MAX_NAME: usize = 126;
/// `HealthCheckResponse.status`.
const SERVING: u64 = 1;

/// Asks and reads the answer. `authority`: HOST:PORT.
///
/// # Errors
/// The sentence of the event.
pub async fn check<S>(stream: &mut S, authority: &str, service: &str) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if service.len() > MAX_NAME || authority.len() > MAX_NAME {
        return Err(format!("the service's name is longer than {MAX_NAME} bytes"));
    }
    let failed = |e: std::io::Error| format!("grpc {authority}: {e}");
    stream.write_all(&question(authority, service)).await.map_err(failed)?;
    let mut message = Vec::new();
    for _ in 0..MAX_FRAMES {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.map_err(failed)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let (kind, flags) = (head[3], head[4]);
        let of = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
        if length > MAX_FRAME {
            return Err(format!("grpc {authority}: no HTTP/2"));
        }
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).await.map_err(failed)?;
        match kind {
            DATA if of == STREAM && message.len() + length <= MAX_FRAME => message.extend_from_slice(&payload),
            SETTINGS | PING if flags & ACK == 0 => {
                let mut reply = Vec::new();
                frame(&mut reply, kind, ACK, 0, if kind == PING { &payload } else { &[] });
                stream.write_all(&reply).await.map_err(failed)?;
            }
            RST_STREAM | GOAWAY => return Err(format!("grpc {authority}: the server ended the call")),
            _ => {}
        }
        if matches!(kind, DATA | HEADERS) && of == STREAM && flags & END_STREAM != 0 {
            return verdict(&message);
        }
    }
    Err(format!("grpc {authority}: no answer in {MAX_FRAMES} frames"))
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
        into.push(text.len() as u8);
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

fn question(authority: &str, service: &str) -> Vec<u8> {
    let mut bytes = PREFACE.to_vec();
    frame(&mut bytes, SETTINGS, 0, 0, &[]);
    // :method POST and :scheme http are whole entries of the static table.
    let mut headers = vec![0x83, 0x86];
    header(&mut headers, Ok(4), "/grpc.health.v1.Health/Check");
    header(&mut headers, Ok(1), authority);
    header(&mut headers, Err("content-type"), "application/grpc");
    header(&mut headers, Err("te"), "trailers");
    frame(&mut bytes, HEADERS, END_HEADERS, STREAM, &headers);
    // HealthCheckRequest{1: service}, after gRPC's five bytes: not compressed, its length.
    let mut request = Vec::new();
    if !service.is_empty() {
        request.extend_from_slice(&[1 << 3 | 2, service.len() as u8]);
        request.extend_from_slice(service.as_bytes());
    }
    let mut message = vec![0, 0, 0, 0, request.len() as u8];
    message.extend_from_slice(&request);
    frame(&mut bytes, DATA, END_STREAM, STREAM, &message);
    bytes
}

/// HealthCheckResponse{1: status}. Trailers alone are a refusal: the service is not known, or none.
fn verdict(message: &[u8]) -> Result<(), String> {
    match message {
        [] => Err("service unhealthy: the server refused the check (no health service, or not this one)".into()),
        [0, _, _, _, _, rest @ ..] => match status(rest) {
            Some(SERVING) => Ok(()),
            Some(2) => Err("service unhealthy (responded with \"NOT_SERVING\")".into()),
            Some(other) => Err(format!("service unhealthy (responded with status {other})")),
            None => Err("service unhealthy: an answer that cannot be read".into()),
        },
        _ => Err("service unhealthy: a compressed or short answer".into()),
    }
}

/// Field 1 as a small number; not there, it is 0 (UNKNOWN).
fn status(message: &[u8]) -> Option<u64> {
    match message {
        [] => Some(0),
        [0x08, value, ..] if *value < 0x80 => Some(u64::from(*value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::future;

    /// What a server's frames make of a check.
    fn check_of(frames: &[(u8, u8, u32, &[u8])]) -> Result<(), String> {
        smol::block_on(async {
            let listener = async_net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
            let address = listener.local_addr().expect("an address");
            let server = async {
                let (mut stream, _) = listener.accept().await.expect("accept");
                let mut asked = vec![0; question(&address.to_string(), "svc").len()];
                stream.read_exact(&mut asked).await.expect("the question");
                assert_eq!(asked, question(&address.to_string(), "svc"));
                let mut bytes = Vec::new();
                frames.iter().for_each(|(kind, flags, of, payload)| frame(&mut bytes, *kind, *flags, *of, payload));
                stream.write_all(&bytes).await.expect("the answer");
                // Until the client has what it wants.
                let _ = stream.read(&mut [0; 64]).await;
            };
            let client = async {
                let mut stream = async_net::TcpStream::connect(address).await.expect("connect");
                check(&mut stream, &address.to_string(), "svc").await
            };
            future::zip(client, server).await.0
        })
    }

    #[test]
    fn a_serving_service_is_healthy() {
        let serving = [
            (SETTINGS, 0, 0, &[][..]),
            (HEADERS, END_HEADERS, 1, &[0x88][..]),
            (DATA, 0, 1, &[0, 0, 0, 0, 2, 8, 1][..]),
            (HEADERS, END_HEADERS | END_STREAM, 1, &[0x88][..]),
        ];
        assert_eq!(check_of(&serving), Ok(()));
    }

    #[test]
    fn anything_else_is_not() {
        let of = |message: &[u8]| check_of(&[(DATA, END_STREAM, 1, message)]).expect_err("unhealthy");
        assert!(of(&[0, 0, 0, 0, 2, 8, 2]).contains("NOT_SERVING"));
        assert!(of(&[0, 0, 0, 0, 0]).contains("status 0"));
        assert!(of(&[1, 0, 0, 0, 0]).contains("compressed"));
        let refused = check_of(&[(HEADERS, END_HEADERS | END_STREAM, 1, &[0x88])]).expect_err("a refusal");
        assert!(refused.contains("refused"), "{refused}");
        assert!(check_of(&[(GOAWAY, 0, 0, &[0; 8])]).is_err());
    }
}
