//! The version 2 document as gnostic's protobuf message (`openapi.v2.Document`).
//!
//! Definitions and paths are the same values that the JSON document is written from, turned into
//! messages one by one. A message's length stands before it, so each is made twice: once to be
//! counted, once to be written.

use std::io::{self, Write};

use serde_json::Value;

use crate::api::protobuf::wire::{put_bytes, put_number, put_varint};

/// Named values, made again at each call.
type Items<'i, I> = dyn Fn() -> I + 'i;

/// Writes the document.
pub(super) fn document<P, D>(
    out: &mut impl Write,
    release: &str,
    paths: &Items<'_, P>,
    definitions: &Items<'_, D>,
) -> io::Result<()>
where
    P: Iterator<Item = (String, Value)>,
    D: Iterator<Item = (String, Value)>,
{
    let mut head = Vec::new();
    put_bytes(&mut head, 1, b"2.0");
    let mut info = Vec::new();
    put_bytes(&mut info, 1, b"Kubernetes");
    put_bytes(&mut info, 2, release.as_bytes());
    put_bytes(&mut head, 2, &info);
    out.write_all(&head)?;
    section(out, 8, &|sink| {
        paths().try_for_each(|(name, item)| sink.write_all(&named(2, &name, &message(&item, path_item))))
    })?;
    section(out, 9, &|sink| {
        definitions().try_for_each(|(name, value)| sink.write_all(&named(1, &name, &message(&value, schema))))
    })
}

/// Writes a field whose message `write` makes, after counting it.
fn section(out: &mut impl Write, field: u32, write: &dyn Fn(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    struct Count(u64);
    impl Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len() as u64;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    write(&mut count)?;
    let mut head = Vec::new();
    put_varint(&mut head, u64::from(field) << 3 | 2);
    put_varint(&mut head, count.0);
    out.write_all(&head)?;
    write(out)
}

fn message(value: &Value, fill: fn(&mut Vec<u8>, &Value)) -> Vec<u8> {
    let mut out = Vec::new();
    fill(&mut out, value);
    out
}

/// A field `{1 name, 2 value}`.
fn named(field: u32, name: &str, value: &[u8]) -> Vec<u8> {
    let (mut pair, mut out) = (Vec::new(), Vec::new());
    put_bytes(&mut pair, 1, name.as_bytes());
    put_bytes(&mut pair, 2, value);
    put_bytes(&mut out, field, &pair);
    out
}

fn put_text(out: &mut Vec<u8>, field: u32, value: Option<&Value>) {
    if let Some(text) = value.and_then(Value::as_str) {
        put_bytes(out, field, text.as_bytes());
    }
}

fn put_texts(out: &mut Vec<u8>, field: u32, value: Option<&Value>) {
    for item in value.and_then(Value::as_array).into_iter().flatten() {
        put_text(out, field, Some(item));
    }
}

fn put_flag(out: &mut Vec<u8>, field: u32, value: Option<&Value>) {
    if value == Some(&Value::Bool(true)) {
        put_number(out, field, 1);
    }
}

/// `x-…` members, as YAML (of which JSON is a part).
fn put_extensions(out: &mut Vec<u8>, field: u32, value: &Value) {
    for (name, value) in value.as_object().into_iter().flatten() {
        if name.starts_with("x-") {
            let mut any = Vec::new();
            put_bytes(&mut any, 2, value.to_string().as_bytes());
            out.extend_from_slice(&named(field, name, &any));
        }
    }
}

fn path_item(out: &mut Vec<u8>, item: &Value) {
    for (field, method) in [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (8, "patch")] {
        if let Some(value) = item.get(method) {
            put_bytes(out, field, &message(value, operation));
        }
    }
    put_parameters(out, 9, item.get("parameters"));
}

fn operation(out: &mut Vec<u8>, value: &Value) {
    put_texts(out, 1, value.get("tags"));
    put_text(out, 5, value.get("operationId"));
    put_texts(out, 6, value.get("produces"));
    put_texts(out, 7, value.get("consumes"));
    put_parameters(out, 8, value.get("parameters"));
    let mut responses = Vec::new();
    for (code, response) in value.get("responses").and_then(Value::as_object).into_iter().flatten() {
        let mut inner = Vec::new();
        put_text(&mut inner, 1, response.get("description"));
        if let Some(body) = response.get("schema") {
            let mut item = Vec::new();
            put_bytes(&mut item, 1, &message(body, schema));
            put_bytes(&mut inner, 2, &item);
        }
        let mut either = Vec::new();
        put_bytes(&mut either, 1, &inner);
        responses.extend_from_slice(&named(1, code, &either));
    }
    put_bytes(out, 9, &responses);
    put_extensions(out, 13, value);
}

fn put_parameters(out: &mut Vec<u8>, field: u32, parameters: Option<&Value>) {
    for value in parameters.and_then(Value::as_array).into_iter().flatten() {
        let (mut inner, mut choice) = (Vec::new(), Vec::new());
        match value.get("in").and_then(Value::as_str) {
            Some("body") => {
                put_text(&mut inner, 2, value.get("name"));
                put_text(&mut inner, 3, value.get("in"));
                put_flag(&mut inner, 4, value.get("required"));
                if let Some(body) = value.get("schema") {
                    put_bytes(&mut inner, 5, &message(body, schema));
                }
                put_bytes(&mut choice, 1, &inner);
            }
            place => {
                put_flag(&mut inner, 1, value.get("required"));
                put_text(&mut inner, 2, value.get("in"));
                put_text(&mut inner, 4, value.get("name"));
                let (kind, ty, unique) = if place == Some("path") { (4, 5, 19) } else { (3, 6, 20) };
                put_text(&mut inner, ty, value.get("type"));
                put_flag(&mut inner, unique, value.get("uniqueItems"));
                let mut non_body = Vec::new();
                put_bytes(&mut non_body, kind, &inner);
                put_bytes(&mut choice, 2, &non_body);
            }
        }
        let mut item = Vec::new();
        put_bytes(&mut item, 1, &choice);
        put_bytes(out, field, &item);
    }
}

fn schema(out: &mut Vec<u8>, value: &Value) {
    put_text(out, 1, value.get("$ref"));
    put_text(out, 2, value.get("format"));
    put_texts(out, 19, value.get("required"));
    if let Some(additional) = value.get("additionalProperties") {
        let mut item = Vec::new();
        put_bytes(&mut item, 1, &message(additional, schema));
        put_bytes(out, 21, &item);
    }
    if let Some(ty) = value.get("type") {
        let mut item = Vec::new();
        put_text(&mut item, 1, Some(ty));
        put_bytes(out, 22, &item);
    }
    if let Some(items) = value.get("items") {
        let mut item = Vec::new();
        put_bytes(&mut item, 1, &message(items, schema));
        put_bytes(out, 23, &item);
    }
    if let Some(properties) = value.get("properties").and_then(Value::as_object) {
        let mut all = Vec::new();
        for (name, property) in properties {
            all.extend_from_slice(&named(1, name, &message(property, schema)));
        }
        put_bytes(out, 25, &all);
    }
    put_extensions(out, 31, value);
}
