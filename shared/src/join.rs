//! The line that lets a machine join: `coracle1:HOST:PORT[,HOST:PORT]:ID.SECRET:SHA256`.
//!
//! Bootstrap tokens have Kubernetes' form: six characters of id, sixteen of secret, `[a-z0-9]`.

use std::fmt;
use std::str::FromStr;

use crate::ids::Fingerprint;

const PREFIX: &str = "coracle1:";
const ID_LENGTH: usize = 6;
const SECRET_LENGTH: usize = 16;
/// A line names a handful of servers; more is not a line of ours.
const MAX_SERVERS: usize = 16;
/// The longest DNS name with a port.
const MAX_SERVER: usize = 260;

/// The port of API and nodes when an address names none.
pub const DEFAULT_PORT: u16 = 6443;

/// A bootstrap token. Its secret is not printed by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    pub id: String,
    pub secret: String,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({}.…)", self.id)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.id, self.secret)
    }
}

impl FromStr for Token {
    type Err = JoinLineError;

    fn from_str(text: &str) -> Result<Token, JoinLineError> {
        let (id, secret) = text.split_once('.').ok_or(JoinLineError::Token)?;
        let is_part = |part: &str, length| {
            part.len() == length && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        };
        if !is_part(id, ID_LENGTH) || !is_part(secret, SECRET_LENGTH) {
            return Err(JoinLineError::Token);
        }
        Ok(Token { id: id.to_owned(), secret: secret.to_owned() })
    }
}

impl Token {
    /// A token from 22 random bytes.
    pub fn from_entropy(entropy: [u8; ID_LENGTH + SECRET_LENGTH]) -> Token {
        // 256 is no multiple of 36: the bias costs less than a tenth of a bit a character, and
        // leaves the secret more than 80 bits.
        let text: String =
            entropy.iter().map(|b| char::from(b"abcdefghijklmnopqrstuvwxyz0123456789"[usize::from(*b) % 36])).collect();
        Token { id: text[..ID_LENGTH].to_owned(), secret: text[ID_LENGTH..].to_owned() }
    }
}

/// Where the servers are, what lets one in, and which CA to believe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinLine {
    /// `HOST:PORT`, IPv6 addresses in brackets; never empty.
    pub servers: Vec<String>,
    pub token: Token,
    /// SHA-256 of the CA's certificate (DER).
    pub ca: Fingerprint,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinLineError {
    Prefix,
    Shape,
    Servers,
    Token,
    Ca,
}

impl fmt::Display for JoinLineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self {
            JoinLineError::Prefix => "it does not start with coracle1:",
            JoinLineError::Shape => "it is not coracle1:HOST:PORT:ID.SECRET:FINGERPRINT",
            JoinLineError::Servers => "its servers are not HOST:PORT, separated by commas",
            JoinLineError::Token => "its token is not six characters, a dot and sixteen characters",
            JoinLineError::Ca => "its CA fingerprint is not 64 hexadecimal digits",
        };
        write!(f, "not a join line: {what}; make one with `coracle token create`")
    }
}

impl std::error::Error for JoinLineError {}

impl fmt::Display for JoinLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}:{}:{}", self.servers.join(","), self.token, self.ca)
    }
}

impl FromStr for JoinLine {
    type Err = JoinLineError;

    fn from_str(text: &str) -> Result<JoinLine, JoinLineError> {
        let rest = text.trim().strip_prefix(PREFIX).ok_or(JoinLineError::Prefix)?;
        let (rest, ca) = rest.rsplit_once(':').ok_or(JoinLineError::Shape)?;
        let (servers, token) = rest.rsplit_once(':').ok_or(JoinLineError::Shape)?;
        let servers: Vec<String> = servers.split(',').map(str::to_owned).collect();
        if servers.len() > MAX_SERVERS || !servers.iter().all(|s| is_server(s)) {
            return Err(JoinLineError::Servers);
        }
        Ok(JoinLine { servers, token: token.parse()?, ca: ca.parse().map_err(|_| JoinLineError::Ca)? })
    }
}

/// `HOST:PORT`, with brackets around an IPv6 address.
pub fn is_server(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    if text.len() > MAX_SERVER || !port.parse::<u16>().is_ok_and(|p| p != 0) {
        return false;
    }
    match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.' || b == b'_')
        }
    }
}

/// An address as `--advertise` takes it, with the port added where it names none.
pub fn with_port(address: &str, port: u16) -> String {
    match address.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V6(v6)) => format!("[{v6}]:{port}"),
        Ok(std::net::IpAddr::V4(v4)) => format!("{v4}:{port}"),
        Err(_) if is_server(address) => address.to_owned(),
        Err(_) => format!("{address}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fp() -> String {
        "ab".repeat(32)
    }

    #[test]
    fn lines_read_back_as_written() {
        for servers in ["192.0.2.1:6443", "a.example:1,[::1]:6443", "host_1:65535"] {
            let text = format!("coracle1:{servers}:abcdef.0123456789abcdef:{}", fp());
            let line: JoinLine = text.parse().unwrap();
            assert_eq!(line.to_string(), text);
            assert_eq!(line.servers, servers.split(',').collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_is_no_line_is_named() {
        let fp = fp();
        let check = |text: String, error| assert_eq!(text.parse::<JoinLine>(), Err(error), "{text}");
        check("".into(), JoinLineError::Prefix);
        check(format!("coracle2:a:1:abcdef.0123456789abcdef:{fp}"), JoinLineError::Prefix);
        check("coracle1:abc".into(), JoinLineError::Shape);
        check(format!("coracle1:abcdef.0123456789abcdef:{fp}"), JoinLineError::Shape);
        check(format!("coracle1:a:abcdef.0123456789abcdef:{fp}"), JoinLineError::Servers);
        check(format!("coracle1:a:0:abcdef.0123456789abcdef:{fp}"), JoinLineError::Servers);
        check(format!("coracle1:::1:6443:abcdef.0123456789abcdef:{fp}"), JoinLineError::Servers);
        check(format!("coracle1:a:1,:abcdef.0123456789abcdef:{fp}"), JoinLineError::Servers);
        check(format!("coracle1:a:1:ABCDEF.0123456789abcdef:{fp}"), JoinLineError::Token);
        check(format!("coracle1:a:1:abcdef0123456789abcdef:{fp}"), JoinLineError::Token);
        check("coracle1:a:1:abcdef.0123456789abcdef:00".into(), JoinLineError::Ca);
    }

    #[test]
    fn tokens_have_the_kubernetes_form_and_hide_their_secret() {
        let token = Token::from_entropy(std::array::from_fn(|i| (i * 37) as u8));
        assert_eq!(token.to_string().parse::<Token>().unwrap(), token);
        assert!(!format!("{token:?}").contains(&token.secret));
    }

    #[test]
    fn addresses_gain_a_port() {
        for (address, expect) in
            [("192.0.2.1", "192.0.2.1:6443"), ("::1", "[::1]:6443"), ("a.b", "a.b:6443"), ("a.b:7", "a.b:7")]
        {
            assert_eq!(with_port(address, DEFAULT_PORT), expect);
        }
    }
}
