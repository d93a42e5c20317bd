//! Bootstrap tokens: what lets a machine in. Pure.
//!
//! A token is Kubernetes' Secret `kube-system/bootstrap-token-ID` of type
//! `bootstrap.kubernetes.io/token`, with one key of our own for the uses that are left.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use coracle_shared::wire::{Refuse, RefuseCode};
use coracle_store::Key;
use serde_json::Value;

use super::stored::{parse_time, time};
use crate::pki::fingerprint;

/// The data key that holds how often the token may still be used, in decimal; without it, always.
pub const USES: &str = "coracle-uses";
/// How long a token that is used up is kept, in milliseconds: a join that broke off is repeated within
/// a minute.
const SPENT_LIFE: i64 = 600_000;
const TYPE: &str = "bootstrap.kubernetes.io/token";

/// What a valid token still gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uses {
    Unlimited,
    Left(u32),
}

/// Where a token's Secret is; `None` for an id that is none.
pub fn key(id: &str) -> Option<Key> {
    let valid = id.len() == 6 && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    valid.then(|| Key::new("secrets", "kube-system", format!("bootstrap-token-{id}")))
}

/// Checks a token against its Secret. One that does not exist and one whose secret is wrong are
/// answered alike.
pub fn check(secret: Option<&Value>, id: &str, given: &str, now: i64) -> Result<Uses, Refuse> {
    let wrong = || {
        refuse(
            RefuseCode::Token,
            format!(
                "token {id} is not known (one that was used up or has expired is deleted), or its secret is wrong; make a new one with `coracle token create`"
            ),
        )
    };
    let object = secret.ok_or_else(wrong)?;
    let stored = field(object, "token-secret").unwrap_or_default();
    let is_token = object["type"] == TYPE && field(object, "token-id").as_deref() == Some(id);
    if !is_equal(&stored, given) || !is_token || stored.is_empty() {
        return Err(wrong());
    }
    if field(object, "usage-bootstrap-authentication").as_deref() != Some("true") {
        return Err(refuse(RefuseCode::Token, format!("token {id} is not for joining")));
    }
    if let Some(expiration) = field(object, "expiration") {
        // An expiration that can not be read must not make a token last for ever.
        if parse_time(&expiration).is_none_or(|end| end <= now) {
            let message = format!("token {id} expired at {expiration}; make a new one with `coracle token create`");
            return Err(refuse(RefuseCode::TokenExpired, message));
        }
    }
    match field(object, USES) {
        None => Ok(Uses::Unlimited),
        Some(text) => Ok(Uses::Left(text.trim().parse().unwrap_or(0))),
    }
}

/// The refusal of a token whose uses are spent.
pub fn spent(id: &str) -> Refuse {
    refuse(RefuseCode::TokenUsed, format!("token {id} has been used up; make a new one with `coracle token create`"))
}

/// The Secret with one use less. One without any left expires soon: until then a machine whose answer
/// got lost can ask again, and a replay is told what it is.
pub fn used(secret: &Value, left: u32, now: i64) -> Value {
    let mut object = secret.clone();
    let left = left.saturating_sub(1);
    object["data"][USES] = STANDARD.encode(left.to_string()).into();
    let soon = now.saturating_add(SPENT_LIFE);
    let ends = field(secret, "expiration").and_then(|text| parse_time(&text));
    if left == 0 && ends.is_none_or(|end| end > soon) {
        object["data"]["expiration"] = STANDARD.encode(time(soon)).into();
    }
    object
}

/// Whether a Secret is a bootstrap token that has expired: it lets nobody in any more.
pub fn is_expired(secret: &Value, now: i64) -> bool {
    secret["type"] == TYPE
        && field(secret, "expiration").is_some_and(|text| parse_time(&text).is_some_and(|end| end <= now))
}

/// Which expired tokens may be deleted: those that were expired at the last look as well. `before` is
/// what that look found, and becomes what this one does. A clock that jumps ahead and back between two
/// looks deletes nothing.
pub fn sweep(expired: Vec<Key>, before: &mut BTreeSet<Key>) -> Vec<Key> {
    let due = expired.iter().filter(|key| before.contains(key)).cloned().collect();
    *before = expired.into_iter().collect();
    due
}

pub fn refuse(code: RefuseCode, message: String) -> Refuse {
    Refuse { code, message }
}

fn field(object: &Value, name: &str) -> Option<String> {
    let bytes = STANDARD.decode(object["data"][name].as_str()?).ok()?;
    String::from_utf8(bytes).ok()
}

/// In a time that says nothing about where the two differ: their digests are compared whole.
fn is_equal(a: &str, b: &str) -> bool {
    let (a, b) = (fingerprint(a.as_bytes()), fingerprint(b.as_bytes()));
    a.0.iter().zip(b.0).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn secret(changes: &[(&str, Option<&str>)]) -> Value {
        let mut data = json!({});
        let base = [
            ("token-id", "abcdef"),
            ("token-secret", "0123456789abcdef"),
            ("usage-bootstrap-authentication", "true"),
            ("expiration", "2030-01-01T00:00:00Z"),
            (USES, "1"),
        ];
        base.iter().for_each(|(k, v)| data[*k] = STANDARD.encode(v).into());
        for (k, v) in changes {
            match v {
                Some(v) => data[*k] = STANDARD.encode(v).into(),
                None => drop(data.as_object_mut().unwrap().remove(*k)),
            }
        }
        json!({"metadata": {"uid": "u"}, "type": TYPE, "data": data})
    }

    #[test]
    fn tokens() {
        let now = parse_time("2029-01-01T00:00:00Z").unwrap();
        let check = |changes: &[(&str, Option<&str>)], given: &str, expect: Result<Uses, RefuseCode>| {
            let got = check(Some(&secret(changes)), "abcdef", given, now).map_err(|r| r.code);
            assert_eq!(got, expect, "{changes:?} {given}");
        };
        let good = "0123456789abcdef";
        check(&[], good, Ok(Uses::Left(1)));
        check(&[(USES, None)], good, Ok(Uses::Unlimited));
        check(&[(USES, Some("0"))], good, Ok(Uses::Left(0)));
        check(&[(USES, Some("many"))], good, Ok(Uses::Left(0)));
        check(&[("expiration", None)], good, Ok(Uses::Left(1)));
        check(&[], "0123456789abcdeX", Err(RefuseCode::Token));
        check(&[], "", Err(RefuseCode::Token));
        check(&[("token-secret", None)], "", Err(RefuseCode::Token));
        check(&[("token-id", Some("zzzzzz"))], good, Err(RefuseCode::Token));
        check(&[("usage-bootstrap-authentication", None)], good, Err(RefuseCode::Token));
        check(&[("expiration", Some("2028-01-01T00:00:00Z"))], good, Err(RefuseCode::TokenExpired));
        check(&[("expiration", Some("soon"))], good, Err(RefuseCode::TokenExpired));
        assert_eq!(super::check(None, "abcdef", good, now).map_err(|r| r.code), Err(RefuseCode::Token));
        let used = used(&secret(&[]), 1, now);
        assert_eq!(super::check(Some(&used), "abcdef", good, now), Ok(Uses::Left(0)));
        // A used token expires soon; one with uses left lasts as long as it was made for.
        assert!(!is_expired(&used, now) && is_expired(&used, now + SPENT_LIFE));
        let left = super::used(&secret(&[(USES, Some("2"))]), 2, now);
        assert!(!is_expired(&left, now + SPENT_LIFE));
        assert!(!is_expired(&json!({"type": "Opaque", "data": used["data"]}), i64::MAX));
    }

    #[test]
    fn what_is_expired_at_two_looks_goes_and_a_jump_of_the_clock_takes_nothing() {
        let keys: Vec<Key> = ["aaaaaa", "bbbbbb"].iter().map(|id| key(id).unwrap()).collect();
        let mut before = BTreeSet::new();
        assert_eq!(sweep(vec![keys[0].clone()], &mut before), []);
        assert_eq!(sweep(keys.clone(), &mut before), [keys[0].clone()]);
        // The clock went back: nothing is expired any more, and a later look starts anew.
        assert_eq!(sweep(vec![], &mut before), []);
        assert_eq!(sweep(keys, &mut before), []);
    }

    #[test]
    fn ids_name_secrets_and_nothing_else() {
        assert_eq!(&*key("abc123").unwrap().name, "bootstrap-token-abc123");
        for id in ["", "abc12", "abc1234", "ABC123", "../../", "abc\u{e9}1"] {
            assert_eq!(key(id), None, "{id}");
        }
    }
}
