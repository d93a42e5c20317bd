use super::*;

#[test]
fn every_row_is_found_by_path_by_name_and_by_kind() {
    for kind in all() {
        assert!(std::ptr::eq(find(kind.group, kind.version, kind.plural).expect("by path"), kind));
        // Of several versions, the first is the one that is stored.
        let (named, known) = (by_resource(&kind.resource()), by_kind(kind.group, kind.kind));
        let own = named.expect("by name");
        assert!(std::ptr::eq(own, known.expect("by kind")) && own.storage.resource == kind.storage.resource);
        assert!(std::ptr::eq(own, kind) || kind.storage.convert.is_some(), "{}", kind.api_version());
        assert_eq!(&*kind.stored(), kind.storage.resource);
    }
}

#[test]
fn every_row_prints_as_many_cells_as_columns_even_of_nothing() {
    let empty = serde_json::json!({});
    for kind in all() {
        let cells = (kind.cells)(&View(&empty), &Moment { now: 0 });
        assert_eq!(cells.len(), kind.columns.len(), "{}", kind.kind);
    }
}

#[test]
fn names_that_people_type_are_unique_in_a_group() {
    let mut seen = std::collections::BTreeSet::new();
    for kind in all() {
        for name in [kind.plural].iter().chain(kind.short) {
            assert!(seen.insert((kind.group, kind.version, *name)), "{name} twice in {:?}", kind.group);
        }
    }
}

#[test]
fn every_row_can_own_and_be_owned() {
    for kind in stored() {
        let key = coracle_controllers::owners::key(&kind.api_version(), kind.kind, "x", "ns").expect(kind.kind);
        assert_eq!((&*key.resource, key.namespace.is_empty()), (kind.storage.resource, !kind.namespaced));
        assert_eq!(coracle_controllers::owners::resource(&key), Some(kind.storage.resource));
    }
}

#[test]
fn a_kind_has_rules_or_says_which_it_lacks() {
    use coracle_shared::api::{rules, table::schema};
    for kind in stored() {
        let id = schema().kind(kind.group, kind.version, kind.kind).expect(kind.kind);
        // The second face of events is checked in its stored form.
        let second = kind.storage.group != kind.group;
        assert!(rules::has_rules(id) != rules::lacking(id).is_some() || second, "{} {}", kind.group, kind.kind);
    }
}
