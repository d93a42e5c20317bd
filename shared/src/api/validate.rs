//! What the field table alone can say about an object: unknown and duplicate fields, wrong types,
//! missing names and values outside an enumeration. Rules of a kind are in [`super::rules`].

use std::fmt;

use base64::Engine as _;
use serde_json::Value;

use super::field::{FieldError, Path, clip};
use super::quantity::Quantity;
use super::status::{MAX_CAUSES, Status};
use super::table::{Type, TypeId};
use super::time::{Time, parse_duration};

/// Unknown or duplicate fields reported: one refuses, the rest is a help.
const MAX_REPORTED: usize = 64;

/// The `fieldValidation` query parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Strict,
    /// The server's default.
    Warn,
    Ignore,
}

impl Mode {
    /// Reads the query parameter; absent means `Warn`.
    pub fn parse(text: Option<&str>) -> Option<Mode> {
        match text {
            None | Some("" | "Warn") => Some(Mode::Warn),
            Some("Strict") => Some(Mode::Strict),
            Some("Ignore") => Some(Mode::Ignore),
            Some(_) => None,
        }
    }
}

/// Why an object does not fit its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldsError {
    /// A value of a wrong type.
    Type(String),
    /// Unknown or duplicate fields, under `Strict`.
    Strict(Vec<String>),
}

impl fmt::Display for FieldsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FieldsError::Type(why) => f.write_str(why),
            FieldsError::Strict(all) => write!(f, "strict decoding error: {}", all.join(", ")),
        }
    }
}

impl std::error::Error for FieldsError {}

impl FieldsError {
    /// The 400 that upstream answers.
    pub fn status(&self, kind: &str, version: &str) -> Status {
        Status::bad_request(format!("{kind} in version {version:?} cannot be handled as a {kind}: {self}"))
    }
}

/// Fits `value` to its type: removes nulls and unknown fields, and checks every value's type.
/// `duplicates` are paths from [`super::json::read`]. Returns warnings (under `Warn`).
pub fn fields(kind: TypeId, value: &mut Value, duplicates: &[String], mode: Mode) -> Result<Vec<String>, FieldsError> {
    let mut fitter = Fitter { unknown: Vec::new() };
    fitter.fit_struct(kind, value, kind.name(), &Path::ROOT).map_err(FieldsError::Type)?;
    let duplicates = duplicates.iter().map(|path| format!("duplicate field {path:?}"));
    let mut found: Vec<String> = fitter.unknown;
    found.extend(duplicates.take(MAX_REPORTED));
    match mode {
        Mode::Ignore => Ok(Vec::new()),
        Mode::Strict if !found.is_empty() => Err(FieldsError::Strict(found)),
        Mode::Strict | Mode::Warn => Ok(found),
    }
}

struct Fitter {
    unknown: Vec<String>,
}

impl Fitter {
    fn fit_struct(&mut self, id: TypeId, value: &mut Value, holder: &str, path: &Path<'_>) -> Result<(), String> {
        let Value::Object(map) = value else {
            return Err(mismatch(value, holder, path, &format!("{}.{}", id.version(), id.name())));
        };
        let mut gone = Vec::new();
        for (name, value) in map.iter_mut() {
            match id.field(name) {
                None => {
                    if self.unknown.len() < MAX_REPORTED {
                        self.unknown.push(format!("unknown field \"{}\"", clip(path.child(name).to_string())));
                    }
                    gone.push(name.clone());
                }
                Some(_) if value.is_null() => gone.push(name.clone()),
                Some(field) => self.fit(field.ty(), value, id.name(), &path.child(name))?,
            }
        }
        gone.iter().for_each(|name| drop(map.remove(name)));
        Ok(())
    }

    fn fit(&mut self, ty: Type, value: &mut Value, holder: &str, path: &Path<'_>) -> Result<(), String> {
        match ty {
            Type::Struct(id) => self.fit_struct(id, value, holder, path),
            Type::List(elem) => {
                let Value::Array(list) = value else {
                    return Err(mismatch(value, holder, path, &go_type(ty)));
                };
                list.iter_mut().enumerate().try_for_each(|(index, item)| {
                    zero_if_null(elem.ty(), item);
                    self.fit(elem.ty(), item, holder, &path.index(index))
                })
            }
            Type::Map(elem) => {
                let Value::Object(map) = value else {
                    return Err(mismatch(value, holder, path, &go_type(ty)));
                };
                map.iter_mut().try_for_each(|(key, item)| {
                    zero_if_null(elem.ty(), item);
                    self.fit(elem.ty(), item, holder, &path.child(key))
                })
            }
            scalar => fit_scalar(scalar, value, holder, path),
        }
    }
}

fn fit_scalar(ty: Type, value: &mut Value, holder: &str, path: &Path<'_>) -> Result<(), String> {
    let in_range = |low: i64, high: i64| value.as_i64().is_some_and(|n| (low..=high).contains(&n));
    let fits = match ty {
        Type::Bool => value.is_boolean(),
        Type::String | Type::Enum(_) => value.is_string(),
        Type::Int32 => in_range(i64::from(i32::MIN), i64::from(i32::MAX)),
        Type::Int64 => in_range(i64::MIN, i64::MAX),
        Type::Double => value.is_number(),
        Type::IntOrString => value.is_string() || in_range(i64::from(i32::MIN), i64::from(i32::MAX)),
        Type::Object => value.is_object(),
        Type::Any => true,
        Type::Quantity => {
            return Quantity::from_value(value).map(drop).map_err(|error| format!("{path}: {error}"));
        }
        Type::Bytes | Type::Time | Type::MicroTime | Type::Duration => match value.as_str() {
            Some(text) => return fit_text(ty, text, path),
            None => false,
        },
        Type::Struct(_) | Type::List(_) | Type::Map(_) => false,
    };
    match fits {
        true => Ok(()),
        false => Err(mismatch(value, holder, path, &go_type(ty))),
    }
}

fn fit_text(ty: Type, text: &str, path: &Path<'_>) -> Result<(), String> {
    match ty {
        Type::Bytes => decode_base64(text).map(drop).map_err(|error| format!("{path}: {error}")),
        Type::Duration => match parse_duration(text) {
            Some(_) => Ok(()),
            None => Err(format!("{path}: time: invalid duration {text:?}")),
        },
        _ => match Time::parse(text) {
            Some(_) => Ok(()),
            None => Err(format!(
                "{path}: parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {text:?} as RFC 3339"
            )),
        },
    }
}

/// Decodes base64 as Go does: standard alphabet, padded, line breaks ignored.
pub fn decode_base64(text: &str) -> Result<Vec<u8>, String> {
    let engine = &base64::engine::general_purpose::STANDARD;
    let decoded = match text.contains(['\r', '\n']) {
        true => engine.decode(text.replace(['\r', '\n'], "")),
        false => engine.decode(text),
    };
    decoded.map_err(|error| match error {
        base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => {
            format!("illegal base64 data at input byte {at}")
        }
        _ => format!("illegal base64 data at input byte {}", text.len()),
    })
}

/// Go's decoder leaves the zero value where a list or map holds null.
fn zero_if_null(ty: Type, value: &mut Value) {
    if !value.is_null() {
        return;
    }
    *value = match ty {
        Type::Bool => false.into(),
        Type::Int32 | Type::Int64 | Type::Double | Type::IntOrString => 0.into(),
        Type::Quantity => "0".into(),
        Type::String | Type::Enum(_) | Type::Bytes => "".into(),
        Type::Struct(_) | Type::Map(_) | Type::Object => Value::Object(serde_json::Map::new()),
        Type::List(_) => Value::Array(Vec::new()),
        Type::Any | Type::Time | Type::MicroTime | Type::Duration => return,
    };
}

fn mismatch(value: &Value, holder: &str, path: &Path<'_>, wanted: &str) -> String {
    let found = match value {
        Value::Null => "null".to_string(),
        Value::Bool(_) => "bool".to_string(),
        Value::String(_) => "string".to_string(),
        Value::Array(_) => "array".to_string(),
        Value::Object(_) => "object".to_string(),
        Value::Number(number) if wanted.starts_with("int") => format!("number {number}"),
        Value::Number(_) => "number".to_string(),
    };
    match path.to_string() {
        root if root.is_empty() => format!("json: cannot unmarshal {found} into Go value of type {wanted}"),
        path => format!("json: cannot unmarshal {found} into Go struct field {holder}.{path} of type {wanted}"),
    }
}

/// The type as Go's decoder names it in its errors.
fn go_type(ty: Type) -> String {
    match ty {
        Type::Bool => "bool".into(),
        Type::String | Type::Enum(_) | Type::Time | Type::MicroTime | Type::Duration => "string".into(),
        Type::Int32 => "int32".into(),
        Type::Int64 => "int64".into(),
        Type::Double => "float64".into(),
        Type::Bytes => "[]uint8".into(),
        Type::Quantity => "resource.Quantity".into(),
        Type::IntOrString => "intstr.IntOrString".into(),
        Type::Object | Type::Any => "runtime.RawExtension".into(),
        Type::Struct(id) => format!("{}.{}", id.version(), id.name()),
        Type::List(elem) => format!("[]{}", go_type(elem.ty())),
        Type::Map(elem) => format!("map[string]{}", go_type(elem.ty())),
    }
}

/// Required strings that may be empty.
const MAY_BE_EMPTY: [(&str, &str); 2] = [("HTTPHeader", "value"), ("Sysctl", "value")];

/// Checks what the table says of values: required strings and structs are there, enumerations hold
/// one of their values. `metadata` and `status` of the object itself have their own rules.
pub fn values(kind: TypeId, value: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    check_struct(kind, value, &Path::ROOT, true, &mut errors);
    errors
}

fn check_struct(id: TypeId, value: &Value, path: &Path<'_>, top: bool, errors: &mut Vec<FieldError>) {
    id.each_field(&mut |field| {
        let name = field.name();
        if errors.len() >= MAX_CAUSES || (top && matches!(name, "metadata" | "status")) {
            return;
        }
        let path = path.child(name);
        match (value.get(name), field.ty()) {
            (Some(value), ty) if !value.is_null() => {
                let empty = value.as_str() == Some("");
                let text = matches!(ty, Type::String | Type::Enum(_));
                match empty && text {
                    true if field.required() && !MAY_BE_EMPTY.contains(&(id.name(), name)) => {
                        errors.push(FieldError::required(&path, ""));
                    }
                    true => {}
                    false => check(ty, value, &path, errors),
                }
            }
            (_, Type::String | Type::Enum(_) | Type::Struct(_))
                if field.required() && !MAY_BE_EMPTY.contains(&(id.name(), name)) =>
            {
                errors.push(FieldError::required(&path, ""));
            }
            _ => {}
        }
    });
}

fn check(ty: Type, value: &Value, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    match (ty, value) {
        (Type::Enum(all), Value::String(text)) if !all.contains(text) => {
            let mut supported: Vec<&str> = all.values().collect();
            supported.sort_unstable();
            errors.push(FieldError::not_supported(path, text.as_str(), supported));
        }
        (Type::Struct(id), value) => check_struct(id, value, path, false, errors),
        (Type::List(elem), Value::Array(list)) => {
            for (index, item) in list.iter().enumerate() {
                check(elem.ty(), item, &path.index(index), errors);
            }
        }
        (Type::Map(elem), Value::Object(map)) => {
            for (key, item) in map {
                check(elem.ty(), item, &path.key(key), errors);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::table::schema;
    use super::*;

    fn pod() -> TypeId {
        schema().kind("", "v1", "Pod").expect("Pod")
    }

    #[track_caller]
    fn check_error(value: Value, expect: &str) {
        let error = fields(pod(), &mut value.clone(), &[], Mode::Strict).expect_err(&value.to_string());
        assert_eq!(error.to_string(), expect);
    }

    #[test]
    fn unknown_and_duplicate_fields_by_mode() {
        let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "x": 1},
            "spec": {"foo": 1, "containers": [{"name": "c", "imge": "i", "ports": null}]}});
        let duplicates = ["spec.nodeName".to_string()];
        let mut strict = object.clone();
        let error = fields(pod(), &mut strict, &duplicates, Mode::Strict).unwrap_err();
        assert_eq!(
            error.status("Pod", "v1").message,
            "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: unknown field \"metadata.x\", unknown field \"spec.containers[0].imge\", unknown field \"spec.foo\", duplicate field \"spec.nodeName\""
        );
        let mut warned = object.clone();
        let warnings = fields(pod(), &mut warned, &duplicates, Mode::Warn).unwrap();
        assert_eq!((warnings.len(), warnings[3].as_str()), (4, "duplicate field \"spec.nodeName\""));
        assert_eq!(
            warned,
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": [{"name": "c"}]}})
        );
        assert_eq!(fields(pod(), &mut object.clone(), &duplicates, Mode::Ignore), Ok(vec![]));
        assert_eq!(Mode::parse(Some("Sometimes")), None);
    }

    #[test]
    fn wrong_types_name_their_place() {
        let spec = |spec: Value| json!({"spec": spec});
        let container = |c: Value| json!({"spec": {"containers": [c]}});
        check_error(json!([]), "json: cannot unmarshal array into Go value of type v1.Pod");
        check_error(json!("x"), "json: cannot unmarshal string into Go value of type v1.Pod");
        check_error(
            spec(json!({"containers": "x"})),
            "json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type []v1.Container",
        );
        check_error(
            spec(json!({"hostNetwork": "true"})),
            "json: cannot unmarshal string into Go struct field PodSpec.spec.hostNetwork of type bool",
        );
        check_error(
            container(json!({"ports": [{"containerPort": 5_000_000_000i64}]})),
            "json: cannot unmarshal number 5000000000 into Go struct field ContainerPort.spec.containers[0].ports[0].containerPort of type int32",
        );
        check_error(
            container(json!({"ports": [{"containerPort": 1.5}]})),
            "json: cannot unmarshal number 1.5 into Go struct field ContainerPort.spec.containers[0].ports[0].containerPort of type int32",
        );
        check_error(
            json!({"metadata": {"labels": {"a": true}}}),
            "json: cannot unmarshal bool into Go struct field ObjectMeta.metadata.labels.a of type string",
        );
        check_error(
            container(json!({"resources": {"limits": {"cpu": "lots"}}})),
            "spec.containers[0].resources.limits.cpu: quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        );
        assert!(fields(pod(), &mut json!({"metadata": {"deletionTimestamp": "soon"}}), &[], Mode::Ignore).is_err());
        let secret = schema().kind("", "v1", "Secret").unwrap();
        let error = fields(secret, &mut json!({"data": {"a": "*"}}), &[], Mode::Warn).unwrap_err();
        assert_eq!(error.to_string(), "data.a: illegal base64 data at input byte 0");
        assert_eq!(fields(secret, &mut json!({"data": {"a": "YWI=\n"}}), &[], Mode::Warn), Ok(vec![]));
    }

    #[test]
    fn nulls_in_lists_and_maps_become_zero_values() {
        let mut value = json!({"metadata": {"labels": {"a": null}}, "spec": {"containers": [null], "hostname": null}});
        assert_eq!(fields(pod(), &mut value, &[], Mode::Strict), Ok(vec![]));
        assert_eq!(value, json!({"metadata": {"labels": {"a": ""}}, "spec": {"containers": [{}]}}));
    }

    #[test]
    fn required_values_and_enumerations() {
        let errors = |value: Value| -> Vec<String> { values(pod(), &value).iter().map(ToString::to_string).collect() };
        assert_eq!(
            errors(json!({"spec": {"restartPolicy": "Sometimes", "containers": [
                {"image": "i", "livenessProbe": {"httpGet": {"port": 1, "httpHeaders": [{"name": "x", "value": ""}]}}},
                {"name": "", "volumeMounts": [{"name": "v"}]}
            ]}})),
            [
                "spec.containers[0].name: Required value",
                "spec.containers[1].name: Required value",
                "spec.containers[1].volumeMounts[0].mountPath: Required value",
                "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"Never\", \"OnFailure\"",
            ]
        );
        let many = json!({"spec": {"containers": vec![json!({}); 1000]}});
        assert_eq!(errors(many).len(), MAX_CAUSES);
        let deployment = schema().kind("apps", "v1", "Deployment").unwrap();
        let missing: Vec<String> = values(deployment, &json!({"spec": {}})).iter().map(ToString::to_string).collect();
        assert_eq!(missing, ["spec.selector: Required value", "spec.template: Required value"]);
    }
}
