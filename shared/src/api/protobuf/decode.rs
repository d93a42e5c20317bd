//! Messages into JSON values.

use base64::Engine as _;
use serde_json::{Map, Number, Value, json};

use super::wire::{Payload, Reader};
use super::{MAX_DEPTH, ProtobufError};
use crate::api::json;
use crate::api::table::{Type, TypeId};
use crate::api::time::{Time, duration_text};

/// `runtime.Unknown`, undecoded.
#[derive(Default)]
pub(super) struct Unknown<'b> {
    pub(super) api_version: &'b str,
    pub(super) kind: &'b str,
    pub(super) raw: &'b [u8],
    pub(super) content_encoding: &'b str,
}

pub(super) fn unknown(bytes: &[u8]) -> Result<Unknown<'_>, ProtobufError> {
    let mut unknown = Unknown::default();
    let mut reader = Reader::new(bytes);
    while let Some((number, payload)) = reader.next()? {
        match (number, payload) {
            (1, Payload::Bytes(meta)) => {
                let mut meta = Reader::new(meta);
                while let Some((number, payload)) = meta.next()? {
                    match number {
                        1 => unknown.api_version = text(payload)?,
                        2 => unknown.kind = text(payload)?,
                        _ => {}
                    }
                }
            }
            (2, Payload::Bytes(raw)) => unknown.raw = raw,
            (3, payload) => unknown.content_encoding = text(payload)?,
            (1 | 2, _) => return Err(ProtobufError::Envelope("its fields have wrong types")),
            _ => {}
        }
    }
    Ok(unknown)
}

fn text(payload: Payload<'_>) -> Result<&str, ProtobufError> {
    let bytes = bytes(payload)?;
    std::str::from_utf8(bytes).map_err(|_| ProtobufError::Malformed("a string is not UTF-8"))
}

fn bytes(payload: Payload<'_>) -> Result<&[u8], ProtobufError> {
    match payload {
        Payload::Bytes(bytes) => Ok(bytes),
        _ => Err(ProtobufError::Malformed("wrong wire type for a string, bytes or message")),
    }
}

fn integer(payload: Payload<'_>) -> Result<i64, ProtobufError> {
    match payload {
        Payload::Varint(value) => Ok(value as i64),
        _ => Err(ProtobufError::Malformed("wrong wire type for a number")),
    }
}

/// What a map's first node takes, and each value beside its text.
const MAP_COST: usize = 11 * (size_of::<Value>() + size_of::<String>()) + 16;
const VALUE_COST: usize = size_of::<Value>() + 32;

pub(super) struct Decoder {
    /// Bytes of memory that may still be spent.
    pub(super) left: usize,
}

impl Decoder {
    fn spend(&mut self, cost: usize) -> Result<(), ProtobufError> {
        self.left = self.left.checked_sub(cost).ok_or(ProtobufError::TooLarge)?;
        Ok(())
    }

    /// Decodes a message of type `id` into `map`.
    pub(super) fn message(
        &mut self,
        id: TypeId,
        bytes: &[u8],
        map: &mut Map<String, Value>,
        depth: u32,
    ) -> Result<(), ProtobufError> {
        if depth > MAX_DEPTH {
            return Err(ProtobufError::TooDeep);
        }
        self.spend(MAP_COST)?;
        let mut reader = Reader::new(bytes);
        while let Some((number, payload)) = reader.next()? {
            let Some(field) = id.rows().iter().find(|f| f.number() == Some(number)) else {
                continue;
            };
            match (field.inline(), field.ty()) {
                (true, Type::Struct(inner)) => self.message(inner, self::bytes(payload)?, map, depth + 1)?,
                (_, ty) => self.field(ty, field.name(), payload, map, depth)?,
            }
        }
        Ok(())
    }

    fn field(
        &mut self,
        ty: Type,
        name: &str,
        payload: Payload<'_>,
        map: &mut Map<String, Value>,
        depth: u32,
    ) -> Result<(), ProtobufError> {
        self.spend(VALUE_COST + name.len())?;
        match ty {
            Type::List(elem) => {
                let list = map.entry(name).or_insert_with(|| json!([]));
                let Value::Array(list) = list else { return Ok(()) };
                self.elements(elem.ty(), payload, list, depth)
            }
            Type::Map(elem) => {
                let (key, value) = self.entry(elem.ty(), bytes(payload)?, depth)?;
                let entries = map.entry(name).or_insert_with(|| json!({}));
                if let Value::Object(entries) = entries {
                    entries.insert(key, value);
                }
                Ok(())
            }
            // Parts of one message may come in several pieces.
            Type::Struct(id) => match map.get_mut(name) {
                Some(Value::Object(old)) => self.message(id, bytes(payload)?, old, depth + 1),
                _ => {
                    let mut inner = Map::new();
                    self.message(id, bytes(payload)?, &mut inner, depth + 1)?;
                    map.insert(name.to_string(), Value::Object(inner));
                    Ok(())
                }
            },
            ty => {
                if let Some(value) = self.value(ty, payload, depth)? {
                    map.insert(name.to_string(), value);
                }
                Ok(())
            }
        }
    }

    /// Appends one element, or all of a packed list of numbers.
    fn elements(
        &mut self,
        ty: Type,
        payload: Payload<'_>,
        list: &mut Vec<Value>,
        depth: u32,
    ) -> Result<(), ProtobufError> {
        match (ty, payload) {
            (Type::Bool | Type::Int32 | Type::Int64, Payload::Bytes(packed)) => {
                let mut reader = Reader::new(packed);
                while !reader.is_empty() {
                    self.spend(VALUE_COST)?;
                    let payload = Payload::Varint(reader.varint()?);
                    list.extend(self.value(ty, payload, depth)?);
                }
                Ok(())
            }
            _ => {
                let value = self.value(ty, payload, depth)?;
                list.push(value.unwrap_or(Value::Null));
                Ok(())
            }
        }
    }

    /// A map's entry: {1 key, 2 value}.
    fn entry(&mut self, ty: Type, bytes: &[u8], depth: u32) -> Result<(String, Value), ProtobufError> {
        let (mut key, mut value) = (String::new(), None);
        let mut reader = Reader::new(bytes);
        while let Some((number, payload)) = reader.next()? {
            match number {
                1 => key = text(payload)?.to_string(),
                2 => value = self.value(ty, payload, depth)?,
                _ => {}
            }
        }
        self.spend(VALUE_COST + key.len())?;
        let zero = || match ty {
            Type::String | Type::Enum(_) | Type::Bytes => json!(""),
            Type::Quantity => json!("0"),
            Type::Struct(_) | Type::Map(_) | Type::Object => json!({}),
            Type::List(_) => json!([]),
            Type::Bool => json!(false),
            _ => json!(0),
        };
        Ok((key, value.unwrap_or_else(zero)))
    }

    /// One value; `None` for a time that is not set.
    fn value(&mut self, ty: Type, payload: Payload<'_>, depth: u32) -> Result<Option<Value>, ProtobufError> {
        let value = match ty {
            Type::Bool => Value::Bool(integer(payload)? != 0),
            Type::Int32 => Value::from(integer(payload)? as i32),
            Type::Int64 => Value::from(integer(payload)?),
            Type::Double => match payload {
                Payload::Fixed64(bits) => Number::from_f64(f64::from_bits(bits)).map_or(Value::Null, Value::Number),
                _ => return Err(ProtobufError::Malformed("wrong wire type for a double")),
            },
            Type::String | Type::Enum(_) => {
                let text = text(payload)?;
                self.spend(text.len())?;
                text.into()
            }
            Type::Bytes => {
                let bytes = bytes(payload)?;
                self.spend(bytes.len() / 3 * 4 + 4)?;
                base64::engine::general_purpose::STANDARD.encode(bytes).into()
            }
            Type::Time | Type::MicroTime => return time(ty, bytes(payload)?),
            Type::Duration => {
                let nanos = self.only(bytes(payload)?, 1)?.map_or(Ok(0), integer)?;
                duration_text(nanos).into()
            }
            Type::Quantity => {
                let text = self.only(bytes(payload)?, 1)?.map_or(Ok("0"), text)?;
                self.spend(text.len())?;
                text.into()
            }
            Type::IntOrString => self.int_or_string(bytes(payload)?)?,
            Type::Object | Type::Any => return self.raw(bytes(payload)?),
            Type::Struct(id) => {
                let mut map = Map::new();
                self.message(id, bytes(payload)?, &mut map, depth + 1)?;
                Value::Object(map)
            }
            // Lists and maps as elements are messages around them.
            Type::List(_) | Type::Map(_) => self.wrapped(ty, bytes(payload)?, depth + 1)?,
        };
        Ok(Some(value))
    }

    fn wrapped(&mut self, ty: Type, bytes: &[u8], depth: u32) -> Result<Value, ProtobufError> {
        if depth > MAX_DEPTH {
            return Err(ProtobufError::TooDeep);
        }
        let mut map = Map::new();
        let mut reader = Reader::new(bytes);
        while let Some((number, payload)) = reader.next()? {
            if number == 1 {
                self.field(ty, "", payload, &mut map, depth)?;
            }
        }
        let empty = if matches!(ty, Type::List(_)) { json!([]) } else { json!({}) };
        Ok(map.remove("").unwrap_or(empty))
    }

    /// The last field with this number.
    fn only<'b>(&self, bytes: &'b [u8], wanted: u32) -> Result<Option<Payload<'b>>, ProtobufError> {
        let (mut reader, mut found) = (Reader::new(bytes), None);
        while let Some((number, payload)) = reader.next()? {
            if number == wanted {
                found = Some(payload);
            }
        }
        Ok(found)
    }

    fn int_or_string(&mut self, bytes: &[u8]) -> Result<Value, ProtobufError> {
        let kind = self.only(bytes, 1)?.map_or(Ok(0), integer)?;
        match kind {
            0 => Ok(Value::from(self.only(bytes, 2)?.map_or(Ok(0), integer)? as i32)),
            _ => {
                let text = self.only(bytes, 3)?.map_or(Ok(""), text)?;
                self.spend(text.len())?;
                Ok(text.into())
            }
        }
    }

    /// Raw JSON inside a message.
    fn raw(&mut self, bytes: &[u8]) -> Result<Option<Value>, ProtobufError> {
        let Some(raw) = self.only(bytes, 1)?.map(self::bytes).transpose()? else {
            return Ok(None);
        };
        let limits = json::Limits { depth: MAX_DEPTH, memory: self.left };
        let parsed = json::read(raw, limits).map_err(|error| match error {
            json::JsonError::TooDeep(_) => ProtobufError::TooDeep,
            json::JsonError::TooLarge(_) => ProtobufError::TooLarge,
            json::JsonError::Syntax(_) => ProtobufError::Malformed("embedded JSON is malformed"),
        })?;
        // A part of the text's size is enough of an estimate: the reader bounded this one itself.
        self.spend(raw.len())?;
        Ok(Some(parsed.value))
    }
}

/// {1 seconds, 2 nanos}; an empty message is a time that is not set.
fn time(ty: Type, bytes: &[u8]) -> Result<Option<Value>, ProtobufError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let mut time = Time::default();
    let mut reader = Reader::new(bytes);
    while let Some((number, payload)) = reader.next()? {
        match number {
            1 => time.seconds = integer(payload)?,
            2 => time.nanos = u32::try_from(integer(payload)?).unwrap_or(0),
            _ => {}
        }
    }
    let time = time.clamped();
    Ok(Some(match ty {
        Type::MicroTime => time.to_micros_text().into(),
        _ => time.to_seconds_text().into(),
    }))
}
