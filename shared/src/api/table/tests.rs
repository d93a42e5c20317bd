use super::*;

#[track_caller]
fn type_of(group: &str, version: &str, kind: &str) -> TypeId {
    (schema().kind(group, version, kind)).unwrap_or_else(|| panic!("{group}/{version} {kind}"))
}

#[test]
fn kinds_are_found_by_group_version_and_kind() {
    for (group, version, kind, path, scope) in [
        ("", "v1", "Pod", "core/v1", Scope::Namespaced),
        ("", "v1", "Node", "core/v1", Scope::Cluster),
        ("apps", "v1", "Deployment", "apps/v1", Scope::Namespaced),
        ("apps", "v1", "DeploymentList", "apps/v1", Scope::Part),
        ("apps", "v1", "DeleteOptions", "meta/v1", Scope::Bare),
        ("", "v1", "Status", "meta/v1", Scope::Bare),
        ("coordination.k8s.io", "v1", "Lease", "coordination/v1", Scope::Namespaced),
    ] {
        let id = type_of(group, version, kind);
        assert_eq!((id.name(), id.package_path(), id.scope()), (kind, path, scope));
    }
    for (group, version, kind) in [("", "v1", "PodSpec"), ("", "v2", "Pod"), ("apps", "v1", "Pod"), ("x", "v1", "Pod")]
    {
        assert_eq!(schema().kind(group, version, kind), None, "{group}/{version} {kind}");
    }
}

#[test]
fn fields_carry_their_facts() {
    let pod = type_of("", "v1", "Pod");
    assert_eq!(pod.field("kind").map(|f| f.ty()), Some(Type::String));
    assert_eq!(pod.field("kind").and_then(|f| f.number()), Some(1));
    let spec = match pod.field("spec").map(|f| f.ty()) {
        Some(Type::Struct(id)) => id,
        other => panic!("{other:?}"),
    };
    let containers = spec.field("containers").expect("containers");
    assert_eq!(containers.merge_key(), Some("name"));
    assert!(containers.patch().merge && !containers.patch().retain_keys && containers.required());
    assert_eq!(containers.topology(), Topology::Map);
    assert_eq!(containers.list_keys().collect::<Vec<_>>(), ["name"]);
    let volumes = spec.field("volumes").expect("volumes");
    assert!(volumes.patch().merge && volumes.patch().retain_keys);
    let Type::List(elem) = volumes.ty() else { panic!() };
    let Type::Struct(volume) = elem.ty() else { panic!() };
    assert!(volume.field("emptyDir").is_some(), "inlined fields are found");
    assert!(volume.field("").is_none() && volume.field("<inline>").is_none());
    let port = schema().named_type("core/v1", "ServicePort").expect("ServicePort");
    assert_eq!(port.field("protocol").and_then(|f| f.default()), Some("\"TCP\""));
    let Some(Type::Enum(values)) = port.field("protocol").map(|f| f.ty()) else { panic!() };
    assert_eq!(values.values().collect::<Vec<_>>(), ["TCP", "UDP", "SCTP"]);
}

#[test]
fn the_table_is_small_and_whole() {
    assert!(schema().resident() < 150 * 1024, "{}", schema().resident());
    let mut fields = 0;
    for id in schema().all() {
        id.each_field(&mut |field| {
            fields += 1;
            assert!(!field.name().is_empty());
            assert!(field.patch().merge || field.merge_key().is_none(), "{}.{}", id.name(), field.name());
        });
    }
    assert!(fields > 2_000, "{fields}");
}
