//! Reading an object without care for what is missing.

use serde_json::Value;

/// An object, read by paths; what is missing is empty.
#[derive(Clone, Copy)]
pub struct View<'a>(pub &'a Value);

static NULL: Value = Value::Null;

impl<'a> View<'a> {
    /// The value at a path of field names.
    pub fn at(&self, path: &[&str]) -> &'a Value {
        path.iter().fold(self.0, |value, key| value.get(key).unwrap_or(&NULL))
    }

    pub fn text(&self, path: &[&str]) -> &'a str {
        self.at(path).as_str().unwrap_or_default()
    }

    pub fn number(&self, path: &[&str]) -> i64 {
        self.at(path).as_i64().unwrap_or_default()
    }

    pub fn flag(&self, path: &[&str]) -> bool {
        self.at(path).as_bool().unwrap_or_default()
    }

    pub fn has(&self, path: &[&str]) -> bool {
        !self.at(path).is_null()
    }

    pub fn list(&self, path: &[&str]) -> &'a [Value] {
        self.at(path).as_array().map(Vec::as_slice).unwrap_or_default()
    }

    /// The entries of a map of strings.
    pub fn pairs(&self, path: &[&str]) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        self.at(path).as_object().into_iter().flatten().filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
    }

    /// The number of entries of a map.
    pub fn size(&self, path: &[&str]) -> usize {
        self.at(path).as_object().map_or(0, serde_json::Map::len)
    }

    /// A condition of `status.conditions` by its type.
    pub fn condition(&self, kind: &str) -> Option<View<'a>> {
        self.list(&["status", "conditions"]).iter().map(View).find(|c| c.text(&["type"]) == kind)
    }

    /// Whether a condition says `True`.
    pub fn is_true(&self, kind: &str) -> bool {
        self.condition(kind).is_some_and(|c| c.text(&["status"]) == "True")
    }
}
