//! Objects that this room writes itself: reports and joins have a shorter path than the pipeline.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use coracle_store::Item;
use serde_json::Value;

use crate::api::object;
use crate::pki::{PkiError, random};

/// The schema that stored bytes are in today.
pub const SCHEMA: u16 = object::SCHEMA;

/// The object of stored bytes; anything unreadable is null.
pub fn decode(item: &Item) -> Value {
    serde_json::from_slice(&item.value).unwrap_or_default()
}

/// An object as the API stores it.
pub fn encode(kind: &str, object: &Value) -> Arc<[u8]> {
    Arc::from(object::encode(kind, object))
}

/// RFC 3339 with seconds, as Kubernetes prints times.
pub fn time(millis: i64) -> String {
    let seconds = millis.div_euclid(1000);
    jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
}

/// Milliseconds since the Unix epoch of a time as Kubernetes prints it.
pub fn parse_time(text: &str) -> Option<i64> {
    text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_millisecond)
}

/// Milliseconds since the Unix epoch.
pub fn wall(now: SystemTime) -> i64 {
    now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_millis() as i64
}

/// A random UUID (RFC 9562, version 4).
pub fn new_uid() -> Result<String, PkiError> {
    let mut bytes: [u8; 16] = random()?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    Ok(format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
}
