use super::*;

#[test]
fn every_row_is_found_by_path_by_name_and_by_kind() {
    for kind in all() {
        assert!(std::ptr::eq(find(kind.group, kind.version, kind.plural).expect("by path"), kind));
        assert!(std::ptr::eq(by_resource(&kind.resource()).expect("by name"), kind));
        assert!(std::ptr::eq(by_kind(kind.group, kind.kind).expect("by kind"), kind));
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
            assert!(seen.insert((kind.group, *name)), "{name} twice in {:?}", kind.group);
        }
    }
}
