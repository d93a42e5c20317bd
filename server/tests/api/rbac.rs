//! Roles as people meet them: by acting as someone else.

use serde_json::{Value, json};

use crate::world::{Answer, World, exchange};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

/// A request of `user` (through the administrator, who may act as anybody).
fn by(world: &World, user: &str, method: &str, path: &str, body: &Value) -> Answer {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let content = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nImpersonate-User: {user}\r\n\
         Content-Type: {content}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    exchange(world.admin(), head.as_bytes())
}

fn bind(world: &World, name: &str, role: &str, user: &str) {
    let binding = json!({"metadata": {"name": name}, "roleRef": {"kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "User", "name": user}]});
    world.make(&format!("{RBAC}/namespaces/default/rolebindings"), &binding);
}

fn can(world: &World, user: &str, verb: &str, resource: &str, namespace: &str) -> bool {
    let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
    let review = json!({"spec": {"resourceAttributes":
        {"verb": verb, "resource": resource, "group": group, "namespace": namespace}}});
    let answer = by(world, user, "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &review);
    assert_eq!(answer.code, 201, "{}", answer.text());
    answer.json()["status"]["allowed"] == true
}

#[test]
fn a_binding_opens_its_namespace_and_nothing_else() {
    let world = World::start();
    let pods = "/api/v1/namespaces/default/pods";
    let refused = by(&world, "jane", "GET", pods, &Value::Null).refusal(403);
    assert_eq!(
        refused,
        "pods is forbidden: User \"jane\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
    );
    bind(&world, "viewers", "view", "jane");
    assert_eq!(by(&world, "jane", "GET", pods, &Value::Null).code, 200);
    assert!(
        can(&world, "jane", "list", "pods", "default") && can(&world, "jane", "get", "deployments.apps", "default")
    );
    for (verb, resource, namespace) in [
        ("list", "pods", "kube-system"),
        ("list", "pods", ""),
        ("create", "pods", "default"),
        ("get", "secrets", "default"),
    ] {
        assert!(!can(&world, "jane", verb, resource, namespace), "{verb} {resource} in {namespace:?}");
    }
    world.ask("DELETE", &format!("{RBAC}/namespaces/default/rolebindings/viewers"), "", b"");
    assert_eq!(by(&world, "jane", "GET", pods, &Value::Null).code, 403);
}

#[test]
fn nobody_gives_away_what_they_do_not_hold() {
    let world = World::start();
    bind(&world, "admins", "admin", "joe");
    let roles = format!("{RBAC}/namespaces/default/roles");
    let role = |resource: &str| {
        json!({"metadata": {"name": resource}, "rules":
        [{"verbs": ["get"], "apiGroups": [""], "resources": [resource]}]})
    };
    assert_eq!(by(&world, "joe", "POST", &roles, &role("pods")).code, 201);
    let refused = by(&world, "joe", "POST", &roles, &role("nodes")).refusal(403);
    assert!(refused.contains("is attempting to grant RBAC permissions not currently held"), "{refused}");
    assert!(refused.contains("{APIGroups:[\"\"], Resources:[\"nodes\"], Verbs:[\"get\"]}"), "{refused}");
    let grown = json!({"rules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]});
    assert_eq!(by(&world, "joe", "PATCH", &format!("{roles}/pods"), &grown).code, 403);
    // What he does hold he may hand on; a larger role he may not.
    let binding = |name: &str, role: &str| {
        json!({"metadata": {"name": name}, "subjects": [{"kind": "User", "name": "joe"}],
        "roleRef": {"kind": "ClusterRole", "name": role}})
    };
    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    assert_eq!(by(&world, "joe", "POST", &bindings, &binding("a", "edit")).code, 201);
    assert_eq!(by(&world, "joe", "POST", &bindings, &binding("b", "cluster-admin")).code, 403);
    assert_eq!(by(&world, "joe", "POST", &bindings, &binding("c", "unheard-of")).code, 404);
}

#[test]
fn people_learn_who_they_are_and_what_they_may() {
    let world = World::start();
    let who = by(&world, "jane", "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", &json!({})).json();
    assert_eq!(who["status"]["userInfo"], json!({"username": "jane", "groups": ["system:authenticated"]}));
    bind(&world, "viewers", "view", "jane");
    let ask = json!({"spec": {"namespace": "default"}});
    let rules = by(&world, "jane", "POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", &ask).json();
    let rules = rules["status"]["resourceRules"].as_array().expect("rules");
    assert!(rules.iter().any(|r| r["resources"].as_array().is_some_and(|r| r.iter().any(|r| r == "configmaps"))));
    // To ask about others is a right of its own.
    let other = json!({"spec": {"user": "joe", "resourceAttributes": {"verb": "get", "resource": "pods"}}});
    let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    assert_eq!(by(&world, "jane", "POST", path, &other).code, 403);
    let answer = world.ask("POST", path, "application/json", other.to_string().as_bytes());
    assert_eq!((answer.code, &answer.json()["status"]["allowed"]), (201, &false.into()));
}

#[test]
fn acting_as_another_is_a_right_of_its_own() {
    let world = World::start();
    let head = "GET /api/v1/pods HTTP/1.1\r\nHost: x\r\nConnection: close\r\nImpersonate-User: admin\r\n\r\n";
    let refused = exchange(world.nobody(), head.as_bytes()).refusal(403);
    assert!(refused.contains("cannot impersonate resource \"users\""), "{refused}");
    bind(&world, "editors", "edit", "jane");
    // The right to act as a service account came with the role, in its namespace.
    assert!(can(&world, "jane", "impersonate", "serviceaccounts", "default"));
    assert!(!can(&world, "jane", "impersonate", "serviceaccounts", "kube-system"));
}

#[test]
fn health_is_for_all_and_discovery_for_those_with_a_name() {
    let world = World::start();
    let get = |path: &str| {
        let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        exchange(world.nobody(), head.as_bytes()).code
    };
    assert_eq!((get("/healthz"), get("/version"), get("/apis"), get("/nothing")), (200, 200, 403, 403));
    assert_eq!(by(&world, "jane", "GET", "/apis", &Value::Null).code, 200);
    // The door closes when an administrator takes the binding away.
    world.ask("DELETE", &format!("{RBAC}/clusterrolebindings/system:public-info-viewer"), "", b"");
    assert_eq!(get("/version"), 403);
}
