//! Errors about a field, in upstream's words: kubectl shows them, and people search for them.

use std::fmt;

use serde_json::Value;

/// Bytes of a value or path that an error shows: a body of 3 MiB must not come back once an error.
const MAX_SHOWN: usize = 1024;

/// `text`, cut to what an error shows.
pub(super) fn clip(mut text: String) -> String {
    if text.len() > MAX_SHOWN {
        text.truncate(text.floor_char_boundary(MAX_SHOWN));
        text.push_str("...");
        text.shrink_to_fit();
    }
    text
}

/// `value`, cut to what an error shows.
fn clip_value(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(clip(text)),
        Value::Array(_) | Value::Object(_) => match value.to_string() {
            text if text.len() > MAX_SHOWN => Value::String(clip(text)),
            _ => value,
        },
        other => other,
    }
}

/// The path of a field, `spec.containers[0].image`, built on the way down.
#[derive(Clone, Copy, Debug)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    Root,
    Child(&'a str),
    Index(usize),
    Key(&'a str),
}

impl Path<'static> {
    /// The object itself.
    pub const ROOT: Path<'static> = Path { parent: None, step: Step::Root };
}

impl<'a> Path<'a> {
    /// `.name`
    #[must_use]
    pub fn child(&'a self, name: &'a str) -> Path<'a> {
        self.step(Step::Child(name))
    }

    /// `[3]`
    #[must_use]
    pub fn index(&'a self, index: usize) -> Path<'a> {
        self.step(Step::Index(index))
    }

    /// `[key]`
    #[must_use]
    pub fn key(&'a self, key: &'a str) -> Path<'a> {
        self.step(Step::Key(key))
    }

    fn step(&'a self, step: Step<'a>) -> Path<'a> {
        Path { parent: Some(self), step }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match (self.step, self.parent.map(|p| p.step)) {
            (Step::Root, _) => Ok(()),
            (Step::Child(name), Some(Step::Root)) => f.write_str(name),
            (Step::Child(name), _) => write!(f, ".{name}"),
            (Step::Index(index), _) => write!(f, "[{index}]"),
            (Step::Key(key), _) => write!(f, "[{key}]"),
        }
    }
}

/// What is wrong with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    NotFound,
    Required,
    Duplicate,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
    TypeInvalid,
}

impl Kind {
    /// `reason` of the Status cause.
    pub fn reason(self) -> &'static str {
        match self {
            Kind::NotFound => "FieldValueNotFound",
            Kind::Required => "FieldValueRequired",
            Kind::Duplicate => "FieldValueDuplicate",
            Kind::Invalid => "FieldValueInvalid",
            Kind::NotSupported => "FieldValueNotSupported",
            Kind::Forbidden => "FieldValueForbidden",
            Kind::TooLong => "FieldValueTooLong",
            Kind::TooMany => "FieldValueTooMany",
            Kind::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Kind::NotFound => "Not found",
            Kind::Required => "Required value",
            Kind::Duplicate => "Duplicate value",
            Kind::Invalid | Kind::TypeInvalid => "Invalid value",
            Kind::NotSupported => "Unsupported value",
            Kind::Forbidden => "Forbidden",
            Kind::TooLong => "Too long",
            Kind::TooMany => "Too many",
        }
    }
}

/// One thing wrong with one field. Displays as `spec.x: Invalid value: "y": why`.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    pub kind: Kind,
    pub field: String,
    /// The value shown, where the kind shows one.
    pub value: Option<Value>,
    /// May be empty.
    pub detail: String,
}

impl FieldError {
    fn new(kind: Kind, path: &Path<'_>, value: Option<Value>, detail: String) -> FieldError {
        FieldError { kind, field: clip(path.to_string()), value: value.map(clip_value), detail: clip(detail) }
    }

    pub fn required(path: &Path<'_>, detail: impl Into<String>) -> FieldError {
        FieldError::new(Kind::Required, path, None, detail.into())
    }

    pub fn invalid(path: &Path<'_>, value: impl Into<Value>, detail: impl Into<String>) -> FieldError {
        FieldError::new(Kind::Invalid, path, Some(value.into()), detail.into())
    }

    pub fn duplicate(path: &Path<'_>, value: impl Into<Value>) -> FieldError {
        FieldError::new(Kind::Duplicate, path, Some(value.into()), String::new())
    }

    pub fn not_found(path: &Path<'_>, value: impl Into<Value>) -> FieldError {
        FieldError::new(Kind::NotFound, path, Some(value.into()), String::new())
    }

    pub fn forbidden(path: &Path<'_>, detail: impl Into<String>) -> FieldError {
        FieldError::new(Kind::Forbidden, path, None, detail.into())
    }

    /// `limit` is the largest length allowed, in bytes.
    pub fn too_long(path: &Path<'_>, limit: usize) -> FieldError {
        let detail = format!("may not be more than {limit} bytes");
        FieldError::new(Kind::TooLong, path, None, detail)
    }

    pub fn too_many(path: &Path<'_>, actual: usize, limit: usize) -> FieldError {
        let detail = format!("must have at most {limit} items");
        FieldError::new(Kind::TooMany, path, Some(actual.into()), detail)
    }

    /// `supported` is listed in the order given (upstream sorts it).
    pub fn not_supported<'s>(
        path: &Path<'_>,
        value: impl Into<Value>,
        supported: impl IntoIterator<Item = &'s str>,
    ) -> FieldError {
        let supported: Vec<String> = supported.into_iter().map(|v| format!("{v:?}")).collect();
        let detail = match supported.is_empty() {
            true => String::new(),
            false => format!("supported values: {}", supported.join(", ")),
        };
        FieldError::new(Kind::NotSupported, path, Some(value.into()), detail)
    }

    /// The message without the field's path: the `message` of a Status cause.
    pub fn body(&self) -> String {
        let mut text = self.kind.words().to_string();
        if let Some(value) = &self.value {
            // JSON's quoting of a string is the one Go's %q gives for what people write.
            text.push_str(": ");
            text.push_str(&value.to_string());
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.field.is_empty() {
            true => write!(f, "<nil>: {}", self.body()),
            false => write!(f, "{}: {}", self.field, self.body()),
        }
    }
}

impl std::error::Error for FieldError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_bounded() {
        let long = "é".repeat(1 << 20);
        let path = Path::ROOT.child("data");
        let many = vec![Value::from("x"); 10_000];
        for error in [FieldError::invalid(&path.key(&long), long.clone(), "why"), FieldError::duplicate(&path, many)] {
            assert!(error.to_string().len() < 3 * MAX_SHOWN, "{}", error.to_string().len());
        }
    }

    #[test]
    fn reads_as_upstream() {
        let spec = Path::ROOT.child("spec");
        let containers = spec.child("containers");
        let first = containers.index(0);
        let image = first.child("image");
        let labels = spec.key("a/b");
        for (error, text) in [
            (FieldError::required(&image, ""), "spec.containers[0].image: Required value"),
            (FieldError::invalid(&labels, "x y", "why"), "spec[a/b]: Invalid value: \"x y\": why"),
            (FieldError::invalid(&spec, 7, "why"), "spec: Invalid value: 7: why"),
            (
                FieldError::not_supported(&spec, "a", ["b", "c"]),
                "spec: Unsupported value: \"a\": supported values: \"b\", \"c\"",
            ),
            (FieldError::too_long(&spec, 9), "spec: Too long: may not be more than 9 bytes"),
            (FieldError::not_found(&spec, "v"), "spec: Not found: \"v\""),
            (FieldError::forbidden(&spec, "no"), "spec: Forbidden: no"),
        ] {
            assert_eq!(error.to_string(), text);
        }
    }
}
