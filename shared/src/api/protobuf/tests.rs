use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::api::quantity::Quantity;
use crate::api::table::Type;
use crate::api::{canonical, defaults, validate};

fn type_of(group: &str, kind: &str) -> TypeId {
    schema().kind(group, "v1", kind).expect(kind)
}

/// A small deterministic source of choices.
struct Choices {
    state: u64,
    /// How many fields a sample may still get: some types hold themselves, and a decoder has limits.
    fields: usize,
}

impl Choices {
    fn new(seed: u64) -> Choices {
        Choices { state: seed, fields: 2_000 }
    }

    fn below(&mut self, bound: u64) -> u64 {
        // xorshift64*: only has to vary.
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) % bound
    }
}

/// A value of a type, in canonical form and without what protobuf cannot say (empty lists, TypeMeta
/// inside lists).
fn sample(ty: Type, choices: &mut Choices, depth: u32) -> Value {
    match ty {
        Type::Bool => (choices.below(2) == 1).into(),
        Type::Int32 => (choices.below(1 << 32) as i32).into(),
        Type::Int64 => (choices.below(1 << 63) as i64 - (1 << 62)).into(),
        Type::Double => (choices.below(1000) as f64 / 8.0).into(),
        Type::String | Type::Enum(_) => format!("s{}é", choices.below(100)).into(),
        Type::Bytes => "AAEC".into(),
        Type::Time => "2026-01-02T03:04:05Z".into(),
        Type::MicroTime => "1965-01-02T03:04:05.000006Z".into(),
        Type::Duration => "1h2m3.5s".into(),
        Type::Quantity => Quantity::from_milli(choices.below(1 << 40) as i64).to_string().into(),
        Type::IntOrString if choices.below(2) == 0 => (choices.below(100) as i32 - 50).into(),
        Type::IntOrString => "25%".into(),
        Type::Object | Type::Any => json!({"a": [1, {"b": null}]}),
        Type::List(elem) => Value::Array((0..=choices.below(3)).map(|_| sample(elem.ty(), choices, depth)).collect()),
        Type::Map(elem) => {
            let keys = 0..=choices.below(3);
            Value::Object(keys.map(|k| (format!("k{k}"), sample(elem.ty(), choices, depth))).collect())
        }
        Type::Struct(id) => sample_struct(id, choices, depth + 1),
    }
}

fn sample_struct(id: TypeId, choices: &mut Choices, depth: u32) -> Value {
    let mut map = Map::new();
    for row in id.rows().iter().filter(|row| row.number().is_some()) {
        // Deep in, take less, and no more than may be decoded.
        if choices.below(u64::from(depth) + 1) > 0 || depth > 12 || choices.fields == 0 {
            continue;
        }
        choices.fields -= 1;
        match (row.inline(), row.ty()) {
            (true, Type::Struct(inner)) => {
                if let Value::Object(inner) = sample_struct(inner, choices, depth) {
                    map.extend(inner);
                }
            }
            (_, ty) => {
                map.insert(row.name().to_string(), sample(ty, choices, depth));
            }
        }
    }
    Value::Object(map)
}

proptest! {
    #[test]
    fn every_type_survives_the_round_trip(seed in 1u64.., pick in any::<prop::sample::Index>()) {
        let all: Vec<TypeId> = schema().all().collect();
        let id = all[pick.index(all.len())];
        let value = sample_struct(id, &mut Choices::new(seed), 1);
        let bytes = encode_message(id, &value).unwrap();
        prop_assert_eq!(Value::Object(decode_message(id, &bytes).unwrap()), value, "{}", id.name());
    }

    #[test]
    fn cut_and_flipped_bytes_never_panic(seed in 1u64.., at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let pod = type_of("", "Pod");
        let mut bytes = encode_message(pod, &sample_struct(pod, &mut Choices::new(seed), 0)).unwrap();
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            let _ = decode_message(pod, &bytes[..at]);
            bytes[at] = byte;
            let _ = decode_message(pod, &bytes);
        }
    }

    #[test]
    fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode_message(type_of("", "Pod"), &bytes);
        let _ = decode(&[MAGIC, &bytes[..]].concat(), Some(("v1", "Pod")));
    }
}

#[test]
fn an_enveloped_object_as_gos_clients_send_it() {
    // A ConfigMap {metadata{name:"a", creationTimestamp:{}}, data{"k":"v"}} written by hand.
    let metadata = b"\x0a\x01a\x12\x00\x1a\x00\x22\x00\x2a\x00\x32\x00\x38\x00\x42\x00";
    let mut raw = vec![0x0a, metadata.len() as u8];
    raw.extend_from_slice(metadata);
    raw.extend_from_slice(b"\x12\x06\x0a\x01k\x12\x01v");
    let mut body = b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12".to_vec();
    body.push(raw.len() as u8);
    body.extend_from_slice(&raw);
    body.extend_from_slice(b"\x1a\x00\x22\x00");
    let mut decoded = decode(&body, None).unwrap();
    assert_eq!(decoded.type_id, type_of("", "ConfigMap"));
    canonical::object(decoded.type_id, &mut decoded.value);
    assert_eq!(
        decoded.value,
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}})
    );
}

#[test]
fn a_defaulted_deployment_survives_whole() {
    let id = type_of("apps", "Deployment");
    let mut value = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "labels": {"a": "b"}},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {
            "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Gi"}}],
            "containers": [{"name": "c", "image": "i:1", "resources": {"limits": {"cpu": "1"}},
                "livenessProbe": {"tcpSocket": {"port": "http"}}, "ports": [{"name": "http", "containerPort": 80}]}]}}}});
    canonical::object(id, &mut value);
    defaults::apply(id, &mut value);
    let mut decoded = decode(&encode(id, &value).unwrap(), None).unwrap().value;
    assert_eq!(validate::fields(id, &mut decoded, &[], validate::Mode::Strict), Ok(vec![]));
    assert_eq!(decoded, value);
}

#[test]
fn bounds_hold() {
    let pod = type_of("", "Pod");
    let lists = [0x12u8, 0x00].repeat(3);
    assert!(decode_message(pod, &lists).is_ok());
    // A PodSpec of a million empty volumes (10 is `volumes`).
    let mut volumes = Vec::new();
    wire::put_bytes(&mut volumes, 2, &[0x0a, 0x00].repeat(1_000_000));
    assert_eq!(decode_message(pod, &volumes), Err(ProtobufError::TooLarge));
    // JSONSchemaProps holds itself.
    let crd = schema().named_type("apiextensions/v1", "JSONSchemaProps").unwrap();
    let field = crd.field("not").and_then(|f| f.number()).unwrap();
    let nested = (0..200).fold(Vec::new(), |inner, _| {
        let mut outer = Vec::new();
        wire::put_bytes(&mut outer, field, &inner);
        outer
    });
    assert_eq!(decode_message(crd, &nested), Err(ProtobufError::TooDeep));
    for bytes in [&b"k8s\0\xff"[..], b"k8s", b"k8s\0\x12\x7f", b"k8s\0\x08\x01", b"k8s\0\x1a\x04gzip"] {
        assert!(decode(bytes, Some(("v1", "Pod"))).is_err(), "{bytes:?}");
    }
    let unknown = decode(b"k8s\0\x0a\x07\x0a\x02v1\x12\x01X", None).unwrap_err();
    assert_eq!(unknown.to_string(), "no kind \"X\" is registered for version \"v1\"");
    assert!(encode(pod, &json!({"spec": {"bogus": 1}})).is_err());
    assert_eq!(encode(pod, &json!({"spec": {"hostNetwork": "x"}})), Err(ProtobufError::Unfit("hostNetwork".into())));
}

/// Bodies that kubectl 1.36.4 sent for its `create` commands.
#[test]
fn recorded_bodies_of_kubectl() {
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [
        {"image": "i:1", "name": "i", "ports": [{"containerPort": 80}], "resources": {}}]}});
    for (body, expect) in [
        (
            &include_bytes!("golden/namespace.pb")[..],
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x"}, "spec": {}, "status": {}}),
        ),
        (
            include_bytes!("golden/configmap.pb"),
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"a": "b"}}),
        ),
        (
            include_bytes!("golden/secret.pb"),
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}, "data": {"a": "Yg=="}}),
        ),
        (
            include_bytes!("golden/service.pb"),
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "labels": {"app": "web"}},
                "spec": {"ports": [{"name": "80-8080", "port": 80, "protocol": "TCP", "targetPort": 8080}],
                    "selector": {"app": "web"}, "type": "ClusterIP"}, "status": {"loadBalancer": {}}}),
        ),
        (
            include_bytes!("golden/deployment.pb"),
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "labels": {"app": "web"}},
                "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "web"}}, "strategy": {}, "template": template},
                "status": {}}),
        ),
    ] {
        let mut decoded = decode(body, None).unwrap();
        assert_eq!(validate::fields(decoded.type_id, &mut decoded.value, &[], validate::Mode::Strict), Ok(vec![]));
        canonical::object(decoded.type_id, &mut decoded.value);
        assert_eq!(decoded.value, expect);
    }
}
