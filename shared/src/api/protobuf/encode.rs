//! JSON values into messages.

use serde_json::Value;

use super::wire::{put_bytes, put_fixed64, put_number};
use super::{MAX_DEPTH, ProtobufError};
use crate::api::quantity::Quantity;
use crate::api::table::{Field, Type, TypeId};
use crate::api::time::{Time, parse_duration};
use crate::api::validate::decode_base64;

/// The envelope's message around an encoded object.
pub(super) fn unknown(out: &mut Vec<u8>, api_version: &str, kind: &str, raw: &[u8]) {
    let mut meta = Vec::new();
    put_bytes(&mut meta, 1, api_version.as_bytes());
    put_bytes(&mut meta, 2, kind.as_bytes());
    put_bytes(out, 1, &meta);
    put_bytes(out, 2, raw);
    put_bytes(out, 3, b"");
    put_bytes(out, 4, b"");
}

/// Encodes `value`, an object of type `id`, in the table's order.
pub(super) fn message(out: &mut Vec<u8>, id: TypeId, value: &Value, depth: u32) -> Result<(), ProtobufError> {
    let Value::Object(map) = value else { return Err(unfit(id.name())) };
    if depth > MAX_DEPTH {
        return Err(ProtobufError::TooDeep);
    }
    if let Some(foreign) = map.keys().find(|key| id.field(key).is_none()) {
        return Err(unfit(&format!("{}.{foreign}", id.name())));
    }
    rows(out, id, value, depth)
}

fn rows(out: &mut Vec<u8>, id: TypeId, value: &Value, depth: u32) -> Result<(), ProtobufError> {
    for row in id.rows() {
        let Some(number) = row.number() else { continue };
        match (row.inline(), row.ty()) {
            (true, Type::Struct(inner)) => {
                let mut part = Vec::new();
                rows(&mut part, inner, value, depth)?;
                if !part.is_empty() {
                    put_bytes(out, number, &part);
                }
            }
            _ => match value.get(row.name()) {
                None | Some(Value::Null) => {}
                Some(value) => field(out, row, number, value, depth)?,
            },
        }
    }
    Ok(())
}

fn unfit(field: &str) -> ProtobufError {
    ProtobufError::Unfit(field.to_string())
}

fn field(out: &mut Vec<u8>, row: &Field, number: u32, value: &Value, depth: u32) -> Result<(), ProtobufError> {
    match put(out, row.ty(), number, value, depth) {
        Err(ProtobufError::Unfit(inner)) if inner.is_empty() => Err(unfit(row.name())),
        other => other,
    }
}

/// One field: repeated for lists and maps.
fn put(out: &mut Vec<u8>, ty: Type, number: u32, value: &Value, depth: u32) -> Result<(), ProtobufError> {
    match (ty, value) {
        (Type::List(elem), Value::Array(list)) => {
            list.iter().try_for_each(|item| element(out, elem.ty(), number, item, depth))
        }
        (Type::Map(elem), Value::Object(map)) => map.iter().try_for_each(|(key, item)| {
            let mut entry = Vec::new();
            put_bytes(&mut entry, 1, key.as_bytes());
            element(&mut entry, elem.ty(), 2, item, depth)?;
            put_bytes(out, number, &entry);
            Ok(())
        }),
        _ => element(out, ty, number, value, depth),
    }
}

fn element(out: &mut Vec<u8>, ty: Type, number: u32, value: &Value, depth: u32) -> Result<(), ProtobufError> {
    let wrong = || unfit("");
    let text = || value.as_str().ok_or_else(wrong);
    let integer = || value.as_i64().ok_or_else(wrong);
    match ty {
        Type::Bool => put_number(out, number, value.as_bool().ok_or_else(wrong)?.into()),
        Type::Int32 | Type::Int64 => put_number(out, number, integer()? as u64),
        Type::Double => put_fixed64(out, number, value.as_f64().ok_or_else(wrong)?.to_bits()),
        Type::String | Type::Enum(_) => put_bytes(out, number, text()?.as_bytes()),
        _ => put_bytes(out, number, &length_delimited(ty, value, depth)?),
    }
    Ok(())
}

/// A value that is a message or bytes in protobuf.
fn length_delimited(ty: Type, value: &Value, depth: u32) -> Result<Vec<u8>, ProtobufError> {
    let wrong = || unfit("");
    let text = || value.as_str().ok_or_else(wrong);
    let mut inner = Vec::new();
    match ty {
        Type::Bytes => inner = decode_base64(text()?).map_err(|_| wrong())?,
        Type::Time | Type::MicroTime => {
            let time = Time::parse(text()?).ok_or_else(wrong)?;
            put_number(&mut inner, 1, time.seconds as u64);
            put_number(&mut inner, 2, time.nanos.into());
        }
        Type::Duration => put_number(&mut inner, 1, parse_duration(text()?).ok_or_else(wrong)? as u64),
        Type::Quantity => {
            let quantity = Quantity::from_value(value).map_err(|_| wrong())?;
            put_bytes(&mut inner, 1, quantity.to_string().as_bytes());
        }
        Type::IntOrString => {
            put_number(&mut inner, 1, value.is_string().into());
            match value {
                Value::String(text) => put_bytes(&mut inner, 3, text.as_bytes()),
                _ => put_number(&mut inner, 2, value.as_i64().ok_or_else(wrong)? as u64),
            }
        }
        Type::Object | Type::Any => put_bytes(&mut inner, 1, value.to_string().as_bytes()),
        Type::Struct(id) => message(&mut inner, id, value, depth + 1)?,
        // Lists and maps as elements are messages around them.
        Type::List(_) | Type::Map(_) => put(&mut inner, ty, 1, value, depth + 1)?,
        // Written by the caller.
        Type::Bool | Type::Int32 | Type::Int64 | Type::Double | Type::String | Type::Enum(_) => {}
    }
    Ok(inner)
}
