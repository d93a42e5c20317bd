//! Label and field selectors of a list or watch, over stored bytes.

use std::borrow::Cow;
use std::collections::BTreeMap;

use coracle_shared::api::selector::{FieldSelector, FieldTerm, LabelSelector};
use coracle_shared::api::status::Status;
use coracle_store::Key;
use serde::Deserialize;

use super::object;
use super::query::Query;
use crate::kinds::Kind;

/// Which objects of a collection are meant.
#[derive(Clone, Debug)]
pub struct Selection {
    labels: LabelSelector,
    /// Terms over the name and namespace: the key alone decides.
    key_terms: Vec<FieldTerm>,
    /// Terms that need the object.
    fields: FieldSelector,
}

/// The part of an object that label selectors look at.
#[derive(Deserialize)]
struct Labelled<'a> {
    #[serde(borrow, default)]
    metadata: Labels<'a>,
}

#[derive(Deserialize, Default)]
struct Labels<'a> {
    #[serde(borrow, default)]
    labels: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
}

const NAME: &str = "metadata.name";
const NAMESPACE: &str = "metadata.namespace";

impl Selection {
    pub fn everything() -> Selection {
        Selection {
            labels: LabelSelector::everything(),
            key_terms: Vec::new(),
            fields: FieldSelector { terms: Vec::new() },
        }
    }

    /// Only the object of this name.
    pub fn named(name: &str) -> Selection {
        let term = FieldTerm { path: NAME.into(), value: name.into(), negated: false };
        Selection { key_terms: vec![term], ..Selection::everything() }
    }

    /// From `labelSelector` and `fieldSelector`.
    pub fn parse(kind: &Kind, query: &Query) -> Result<Selection, Status> {
        let mut selection = Selection::everything();
        if let Some(text) = query.get("labelSelector") {
            let unreadable = |e| Status::bad_request(format!("unable to parse requirement: {e}"));
            selection.labels = LabelSelector::parse(text).map_err(unreadable)?;
        }
        if let Some(text) = query.get("fieldSelector") {
            let fields = FieldSelector::parse(text).map_err(|e| Status::bad_request(e.to_string()))?;
            if let Some(term) = fields.terms.iter().find(|t| !selectable(kind, &t.path)) {
                return Err(Status::bad_request(format!("field label not supported: {}", term.path)));
            }
            let by_key = |t: &FieldTerm| matches!(t.path.as_str(), NAME | NAMESPACE);
            (selection.key_terms, selection.fields.terms) = fields.terms.into_iter().partition(by_key);
        }
        Ok(selection)
    }

    pub fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.key_terms.is_empty() && self.fields.is_everything()
    }

    /// The only name that can match, when there is one.
    pub fn name(&self) -> Option<&str> {
        self.key_terms.iter().find(|t| t.path == NAME && !t.negated).map(|t| t.value.as_str())
    }

    /// The value that a field must have, when there is one.
    pub fn exact(&self, path: &str) -> Option<&str> {
        self.fields.exact(path)
    }

    /// Whether an object is meant, by its key and stored bytes.
    pub fn matches(&self, kind: &Kind, key: &Key, bytes: &[u8]) -> bool {
        self.key_terms.iter().all(|t| matches_key(t, key))
            && (self.labels.is_everything() || self.matches_labels(bytes))
            && (self.fields.is_everything() || self.matches_fields(kind, bytes))
    }

    fn matches_labels(&self, bytes: &[u8]) -> bool {
        let parsed: Option<Labelled<'_>> = serde_json::from_slice(bytes).ok();
        let labels = parsed.map(|l| l.metadata.labels).unwrap_or_default();
        self.labels.matches_by(|name| labels.get(name).map(|v| &**v))
    }

    fn matches_fields(&self, kind: &Kind, bytes: &[u8]) -> bool {
        let mut value = object::decode(kind, bytes, None);
        object::to_row(kind, &mut value);
        self.fields.matches(&value)
    }
}

fn selectable(kind: &Kind, path: &str) -> bool {
    path == NAME || path == NAMESPACE && kind.namespaced || kind.selectable.contains(&path)
}

fn matches_key(term: &FieldTerm, key: &Key) -> bool {
    let value = if term.path == NAME { &key.name } else { &key.namespace };
    (**value == *term.value) != term.negated
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;

    #[track_caller]
    fn check(query: &str, expect: bool) {
        let kind = kinds::by_resource("pods").expect("known");
        let selection = Selection::parse(kind, &Query::parse(query)).expect("readable");
        let bytes = br#"{"kind":"Pod","metadata":{"name":"p","labels":{"app":"w\u0065b"}},"spec":{"nodeName":"n1"}}"#;
        assert_eq!(selection.matches(kind, &Key::new("pods", "a", "p"), bytes), expect, "{query}");
    }

    #[test]
    fn labels_fields_and_names_select_together() {
        check("", true);
        check("labelSelector=app%3Dweb", true);
        check("labelSelector=app%21%3Dweb", false);
        check("fieldSelector=metadata.name%3Dp,spec.nodeName%3Dn1", true);
        check("fieldSelector=metadata.namespace!%3Da", false);
        check("fieldSelector=spec.nodeName%3D", false);
        check("labelSelector=app&fieldSelector=spec.nodeName%3Dn2", false);
    }

    #[test]
    fn unknown_fields_and_nonsense_are_refused() {
        let kind = kinds::by_resource("configmaps").expect("known");
        for query in ["fieldSelector=data.x%3Dy", "labelSelector=a%3D%3D%3Db", "fieldSelector=a"] {
            assert_eq!(Selection::parse(kind, &Query::parse(query)).expect_err(query).code, 400);
        }
    }
}
