//! Kubernetes' protobuf form: the envelope `k8s\0` + `runtime.Unknown`, and messages decoded and
//! encoded by the field table. kubectl's typed clients send bodies in it.
//!
//! Decoding takes bytes from anybody: depth and memory are bounded and nothing panics. Fields the
//! table does not know are skipped, as protobuf wants it.

use std::fmt;

use serde_json::{Map, Value};

use super::table::{TypeId, schema};

mod decode;
mod encode;
pub(super) mod wire;

/// What every body begins with.
pub const MAGIC: &[u8; 4] = b"k8s\0";

/// The media type of requests and responses in this form.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// Nested messages: the API's deepest types nest about thirty deep.
const MAX_DEPTH: u32 = 100;

/// Estimated memory of a decoded value, as for JSON bodies.
const MAX_MEMORY: usize = 24 << 20;

/// Why bytes are not an object, or an object cannot be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProtobufError {
    /// The envelope is missing or broken.
    Envelope(&'static str),
    /// `apiVersion` and `kind` name no type of the table.
    UnknownKind {
        api_version: String,
        kind: String,
    },
    /// A message is broken: where.
    Malformed(&'static str),
    TooDeep,
    TooLarge,
    /// A value does not have the type its field has: which field.
    Unfit(String),
}

impl fmt::Display for ProtobufError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProtobufError::Envelope(why) => write!(f, "the body is not in Kubernetes' protobuf form: {why}"),
            ProtobufError::UnknownKind { api_version, kind } => {
                write!(f, "no kind {kind:?} is registered for version {api_version:?}")
            }
            ProtobufError::Malformed(why) => write!(f, "proto: {why}"),
            ProtobufError::TooDeep => write!(f, "proto: messages nest deeper than {MAX_DEPTH}"),
            ProtobufError::TooLarge => write!(f, "proto: the object would exceed {MAX_MEMORY} bytes of memory"),
            ProtobufError::Unfit(field) => write!(f, "the value of {field} does not fit its protobuf type"),
        }
    }
}

impl std::error::Error for ProtobufError {}

/// A decoded body.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    pub type_id: TypeId,
    /// With `apiVersion` and `kind`. Zero values that protobuf writes are still in it: bring it into
    /// [`super::canonical`] form.
    pub value: Value,
}

/// Whether a body is in this form.
pub fn is_enveloped(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// Decodes a body. A kind that the envelope leaves out is taken from `expected`
/// (`(apiVersion, kind)`).
pub fn decode(bytes: &[u8], expected: Option<(&str, &str)>) -> Result<Decoded, ProtobufError> {
    let body = bytes.strip_prefix(MAGIC).ok_or(ProtobufError::Envelope("it does not begin with k8s\\0"))?;
    let unknown = decode::unknown(body)?;
    if !unknown.content_encoding.is_empty() {
        return Err(ProtobufError::Envelope("its content encoding is not supported"));
    }
    let (mut api_version, mut kind) = (unknown.api_version, unknown.kind);
    if let Some((expected_version, expected_kind)) = expected {
        if api_version.is_empty() {
            api_version = expected_version;
        }
        if kind.is_empty() {
            kind = expected_kind;
        }
    }
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    let type_id = schema()
        .kind(group, version, kind)
        .ok_or_else(|| ProtobufError::UnknownKind { api_version: api_version.to_string(), kind: kind.to_string() })?;
    let mut map = decode_message(type_id, unknown.raw)?;
    map.insert("apiVersion".into(), api_version.into());
    map.insert("kind".into(), kind.into());
    Ok(Decoded { type_id, value: Value::Object(map) })
}

/// Decodes a bare message.
pub fn decode_message(type_id: TypeId, bytes: &[u8]) -> Result<Map<String, Value>, ProtobufError> {
    let mut map = Map::new();
    decode::Decoder { left: MAX_MEMORY }.message(type_id, bytes, &mut map, 0)?;
    Ok(map)
}

/// Encodes an object with its envelope. Unknown fields and wrong types are an error.
pub fn encode(type_id: TypeId, value: &Value) -> Result<Vec<u8>, ProtobufError> {
    let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
    let raw = encode_message(type_id, value)?;
    let mut out = MAGIC.to_vec();
    encode::unknown(&mut out, text("apiVersion"), text("kind"), &raw);
    Ok(out)
}

/// Encodes a bare message, without `apiVersion` and `kind`.
pub fn encode_message(type_id: TypeId, value: &Value) -> Result<Vec<u8>, ProtobufError> {
    let mut out = Vec::new();
    encode::message(&mut out, type_id, value, 0)?;
    Ok(out)
}

#[cfg(test)]
mod tests;
