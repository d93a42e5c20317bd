//! One change as watchers see it.

use std::sync::OnceLock;

use coracle_store::{Event, Revision};
use hyper::body::Bytes;

use crate::api::object::Splicer;
use crate::api::select::Selection;
use crate::kinds::Kind;

/// What a change means to one watcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    Added,
    Modified,
    Deleted,
}

impl Type {
    pub fn name(self) -> &'static str {
        match self {
            Type::Added => "ADDED",
            Type::Modified => "MODIFIED",
            Type::Deleted => "DELETED",
        }
    }
}

/// A change with what was already encoded of it.
pub struct Change {
    pub event: Event,
    /// The lines of the form that most ask for, by [`Type`]; made when first asked for.
    lines: [OnceLock<Bytes>; 3],
}

impl Change {
    pub fn new(event: Event) -> Change {
        Change { event, lines: Default::default() }
    }

    /// What the change means to someone with this selection; `None`: nothing.
    pub fn seen(&self, kind: &Kind, selection: &Selection) -> Option<Type> {
        let (old, new) = (self.event.old.as_ref(), self.event.new.as_ref());
        let everything = selection.is_everything();
        let meant = |bytes: &[u8]| everything || selection.matches(kind, &self.event.key, bytes);
        let before = old.is_some_and(|item| meant(&item.value));
        let after = new.is_some_and(|item| meant(&item.value));
        match (before, after) {
            (false, false) => None,
            (false, true) => Some(Type::Added),
            (true, true) => Some(Type::Modified),
            (true, false) => Some(Type::Deleted),
        }
    }

    /// The object that goes with the type.
    pub fn bytes(&self, seen: Type) -> &[u8] {
        let event = &self.event;
        let old = || event.old.as_ref().map(|item| &*item.value);
        let found = match seen {
            // Gone, or gone out of the watcher's sight: what it was when it was last seen.
            Type::Deleted => event.last.as_deref().or_else(old),
            _ => event.new.as_ref().map(|item| &*item.value),
        };
        found.unwrap_or(b"{}")
    }

    /// The line of a watch of plain objects.
    pub fn line(&self, kind: &'static Kind, seen: Type) -> Bytes {
        let encode = || line(&Splicer::new(kind), seen.name(), self.bytes(seen), self.event.revision);
        match kind.storage.convert {
            None => self.lines[seen as usize].get_or_init(encode).clone(),
            Some(_) => encode(),
        }
    }
}

/// One line: type and object.
pub fn line(splicer: &Splicer, name: &str, bytes: &[u8], revision: Revision) -> Bytes {
    let mut out = Vec::with_capacity(bytes.len() + 128);
    out.extend_from_slice(format!("{{\"type\":\"{name}\",\"object\":").as_bytes());
    splicer.write(&mut out, bytes, revision);
    out.extend_from_slice(b"}\n");
    out.into()
}

#[cfg(test)]
mod tests {
    use coracle_store::{Item, Key};

    use super::*;
    use crate::api::query::Query;
    use crate::kinds;

    fn item(label: &str) -> Item {
        let json = format!(r#"{{"kind":"Pod","metadata":{{"name":"p","labels":{{"app":"{label}"}}}}}}"#);
        Item { key: Key::new("pods", "a", "p"), revision: Revision(3), schema: 1, value: json.into_bytes().into() }
    }

    #[track_caller]
    fn check(old: Option<&str>, new: Option<&str>, everything: Option<Type>, web: Option<Type>) {
        let kind = kinds::by_resource("pods").expect("known");
        let (old, new) = (old.map(item), new.map(item));
        let event = Event { revision: Revision(4), key: item("").key, old, new, last: None };
        let change = Change::new(event);
        assert_eq!(change.seen(kind, &Selection::everything()), everything);
        let selection = Selection::parse(kind, &Query::parse("labelSelector=app%3Dweb")).expect("readable");
        assert_eq!(change.seen(kind, &selection), web);
    }

    #[test]
    fn who_enters_or_leaves_a_selection_is_added_or_deleted() {
        use Type::{Added, Deleted, Modified};
        check(None, Some("web"), Some(Added), Some(Added));
        check(Some("web"), Some("web"), Some(Modified), Some(Modified));
        check(Some("db"), Some("web"), Some(Modified), Some(Added));
        check(Some("web"), Some("db"), Some(Modified), Some(Deleted));
        check(Some("db"), Some("db"), Some(Modified), None);
        check(Some("web"), None, Some(Deleted), Some(Deleted));
        check(Some("db"), None, Some(Deleted), None);
    }

    #[test]
    fn a_line_is_made_once_and_carries_the_revision_of_the_change() {
        let kind = kinds::by_resource("pods").expect("known");
        let event = Event { revision: Revision(9), key: item("").key, old: Some(item("web")), new: None, last: None };
        let change = Change::new(event);
        let line = change.line(kind, Type::Deleted);
        assert_eq!(line.as_ptr(), change.line(kind, Type::Deleted).as_ptr());
        let value: serde_json::Value = serde_json::from_slice(&line).expect("JSON");
        assert_eq!(value["type"], "DELETED");
        assert_eq!(value["object"]["metadata"]["resourceVersion"], "9");
        assert!(line.ends_with(b"}\n"));
    }
}
