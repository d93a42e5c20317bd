//! Challenges and tokens: RFC 9110's `WWW-Authenticate`, Docker's token authentication.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;

/// A token whose issuer names no lifetime lives this long (Docker's token specification).
const DEFAULT_LIFETIME: Duration = Duration::from_secs(60);
/// A token is not used in its last seconds, so that it does not expire on the way.
const MARGIN: Duration = Duration::from_secs(5);
/// The most tokens kept; an entry is one repository with one credential.
const MAX_TOKENS: usize = 256;
/// The longest token that is accepted: it is sent in a header.
const MAX_TOKEN: usize = 32 << 10;

/// What a registry asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Challenge {
    Basic,
    Bearer { realm: String, service: String, scope: String },
}

impl Challenge {
    /// Reads the values of all `WWW-Authenticate` headers; Bearer is preferred to Basic.
    pub fn parse<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Challenge> {
        let mut basic = None;
        for header in headers {
            let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
            if scheme.eq_ignore_ascii_case("bearer") {
                let mut parameters = parameters(rest);
                let mut take = |key: &str| parameters.remove(key).unwrap_or_default();
                let realm = take("realm");
                if !realm.is_empty() {
                    return Some(Challenge::Bearer { realm, service: take("service"), scope: take("scope") });
                }
            } else if scheme.eq_ignore_ascii_case("basic") {
                basic = Some(Challenge::Basic);
            }
        }
        basic
    }
}

/// `key=value` and `key="quoted \" value"`, separated by commas. What follows an error is dropped.
fn parameters(text: &str) -> HashMap<String, String> {
    let mut found = HashMap::new();
    let mut rest = text.trim_start();
    while let Some((key, after)) = rest.split_once('=') {
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => unquote(quoted),
            None => {
                let end = after.find(',').unwrap_or(after.len());
                (after[..end].trim().to_owned(), &after[end..])
            }
        };
        found.insert(key.trim().to_ascii_lowercase(), value);
        rest = after.trim_start().trim_start_matches(',').trim_start();
    }
    found
}

fn unquote(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

/// The URL that issues a token for `scope`.
pub fn token_url(realm: &str, service: &str, scope: &str) -> String {
    let mut url = realm.to_owned();
    let mut mark = if realm.contains('?') { '&' } else { '?' };
    for (key, value) in [("service", service), ("scope", scope)] {
        if !value.is_empty() {
            url.push(mark);
            url.push_str(key);
            url.push('=');
            url.push_str(&escape(value));
            mark = '&';
        }
    }
    url
}

fn escape(text: &str) -> String {
    use std::fmt::Write;
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~:/,".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    expires_in: Option<u64>,
}

/// An `Authorization` header and how long it may be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    pub header: String,
    pub lifetime: Duration,
}

/// Reads the answer of a token issuer.
pub fn parse_token(json: &[u8]) -> Result<Grant, String> {
    // No message of the parser: it could quote the token.
    let answer: TokenAnswer = serde_json::from_slice(json).map_err(|_| "the answer is not a token".to_owned())?;
    let token = answer.token.or(answer.access_token).filter(|t| !t.is_empty()).ok_or("the answer holds no token")?;
    if token.len() > MAX_TOKEN || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("the token is too long or holds characters that no header may have".into());
    }
    let lifetime = answer.expires_in.map_or(DEFAULT_LIFETIME, Duration::from_secs);
    Ok(Grant { header: format!("Bearer {token}"), lifetime })
}

/// `Authorization` headers that worked, by place, repository and credential.
#[derive(Default)]
pub struct Grants(Mutex<HashMap<String, (String, Instant)>>);

impl Grants {
    pub fn get(&self, key: &str, now: Instant) -> Option<String> {
        let grants = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        grants.get(key).filter(|(_, until)| *until > now).map(|(header, _)| header.clone())
    }

    pub fn put(&self, key: &str, grant: &Grant, now: Instant) {
        let mut grants = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        grants.retain(|_, (_, until)| *until > now);
        if grants.len() >= MAX_TOKENS {
            grants.clear();
        }
        // A year is as good as for ever, and no clock overflows by it.
        let lifetime = grant.lifetime.min(Duration::from_secs(365 * 86_400));
        grants.insert(key.to_owned(), (grant.header.clone(), now + lifetime.saturating_sub(MARGIN)));
    }

    pub fn forget(&self, key: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(headers: &[&str], expect: Option<(&str, &str, &str)>) {
        let expect = expect.map(|(realm, service, scope)| match realm {
            "" => Challenge::Basic,
            _ => Challenge::Bearer { realm: realm.into(), service: service.into(), scope: scope.into() },
        });
        assert_eq!(Challenge::parse(headers.iter().copied()), expect, "{headers:?}");
    }

    #[test]
    fn parses_challenges() {
        check(&["Basic realm=\"x\""], Some(("", "", "")));
        check(
            &[r#"Bearer realm="https://a/token",service="r.io",scope="repository:a/b:pull,push""#],
            Some(("https://a/token", "r.io", "repository:a/b:pull,push")),
        );
        check(&[r#"bearer Realm=https://a , service="a\"b""#], Some(("https://a", "a\"b", "")));
        check(&["Basic", r#"Bearer realm="t""#], Some(("t", "", "")));
        check(&["Negotiate"], None);
        check(&["Bearer", "Bearer realm", r#"Bearer realm=""#], None);
        check(&[], None);
    }

    #[test]
    fn asks_for_tokens() {
        assert_eq!(
            token_url("https://a/t", "r io", "repository:a/b:pull"),
            "https://a/t?service=r%20io&scope=repository:a/b:pull"
        );
        assert_eq!(token_url("https://a/t?x=1", "", "s"), "https://a/t?x=1&scope=s");
        assert_eq!(parse_token(br#"{"access_token":"t"}"#).unwrap().header, "Bearer t");
        for bad in ["", "{}", r#"{"token":""}"#, r#"{"token":"a\r\nb"}"#] {
            assert!(parse_token(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn tokens_expire() {
        let grants = Grants::default();
        let start = Instant::now();
        grants.put("k", &Grant { header: "h".into(), lifetime: Duration::from_secs(60) }, start);
        assert_eq!(grants.get("k", start + Duration::from_secs(54)).as_deref(), Some("h"));
        assert_eq!(grants.get("k", start + Duration::from_secs(55)), None);
        grants.forget("k");
        assert_eq!(grants.get("k", start), None);
    }
}
