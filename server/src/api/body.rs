//! Request bodies: JSON, YAML and protobuf into one value.

use coracle_shared::api::json::{self, Limits, Parsed};
use coracle_shared::api::protobuf;
use coracle_shared::api::status::Status;
use serde_json::Value;

/// The largest body: what etcd's users know as 1.5 MiB of object, and room around it.
pub const MAX_BODY: usize = 3 << 20;

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

const SUPPORTED: &[&str] = &["application/json", "application/yaml", PROTOBUF];

/// Reads a body that is an object.
pub fn object(content_type: &str, bytes: &[u8]) -> Result<Parsed, Status> {
    match media(content_type) {
        "" | "application/json" | "text/json" | "*/*" => read_json(bytes),
        "application/yaml" | "application/x-yaml" | "text/yaml" => read_yaml(bytes),
        PROTOBUF => read_protobuf(bytes),
        _ => Err(Status::unsupported_media_type(SUPPORTED)),
    }
}

/// The type of a `Content-Type` without its parameters.
pub fn media(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

/// Reads a JSON body.
pub fn read_json(bytes: &[u8]) -> Result<Parsed, Status> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(Status::bad_request("the request's body is empty"));
    }
    json::read(bytes, Limits::default()).map_err(|e| Status::bad_request(format!("error decoding: {e}")))
}

/// Reads a YAML body of one document, by way of JSON so that both have the same limits.
fn read_yaml(bytes: &[u8]) -> Result<Parsed, Status> {
    let wrong = |e: &dyn std::fmt::Display| Status::bad_request(format!("error converting YAML to JSON: {e}"));
    let text = std::str::from_utf8(bytes).map_err(|e| wrong(&e))?;
    let value: serde_yaml_ng::Value = serde_yaml_ng::from_str(text).map_err(|e| wrong(&e))?;
    let value: Value = serde_json::to_value(value).map_err(|e| wrong(&e))?;
    let text = serde_json::to_vec(&value).map_err(|e| wrong(&e))?;
    read_json(&text)
}

/// Typed clients send protobuf and read JSON.
fn read_protobuf(bytes: &[u8]) -> Result<Parsed, Status> {
    let decoded = protobuf::decode(bytes, None).map_err(|e| Status::bad_request(format!("error decoding: {e}")))?;
    Ok(Parsed { value: decoded.value, duplicates: Vec::new() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn json_and_yaml_are_the_same() {
        let json = object("application/json; charset=utf-8", br#"{"a":{"b":[1,"x"]}}"#).expect("JSON");
        let yaml = object("application/yaml", b"a:\n  b: [1, x]\n").expect("YAML");
        assert_eq!((&json.value, &json.value), (&yaml.value, &json!({"a": {"b": [1, "x"]}})));
    }

    #[test]
    fn nonsense_is_a_bad_request() {
        for (kind, bytes) in [
            ("application/json", &b"{"[..]),
            ("application/json", b" \n"),
            ("application/json", b"\xff\xfe"),
            ("application/yaml", b"a: [1"),
            ("application/yaml", b"a: 1\na: 2\n"),
            ("application/yaml", b"\xff"),
            (PROTOBUF, b"k8s\0\xff\xff\xff"),
            (PROTOBUF, b"{}"),
        ] {
            assert_eq!(object(kind, bytes).expect_err("nonsense").code, 400, "{bytes:?}");
        }
        assert_eq!(object("text/html", b"{}").expect_err("unknown").code, 415);
    }

    #[test]
    fn a_yaml_bomb_is_refused() {
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for n in 1..12 {
            let before = format!("*a{}", n - 1);
            bomb.push_str(&format!("a{n}: &a{n} [{}]\n", vec![before; 10].join(",")));
        }
        assert_eq!(object("application/yaml", bomb.as_bytes()).expect_err("a bomb").code, 400);
    }
}
