use serde_json::json;

use super::*;
use crate::api::{canonical, validate};

#[track_caller]
fn defaulted(group: &str, kind: &str, mut value: Value) -> Value {
    let id = schema().kind(group, "v1", kind).expect(kind);
    validate::fields(id, &mut value, &[], validate::Mode::Strict).unwrap();
    canonical::object(id, &mut value);
    apply(id, &mut value);
    let once = value.clone();
    canonical::object(id, &mut value);
    apply(id, &mut value);
    assert_eq!(value, once, "defaults are a fixed point");
    assert_eq!(validate::fields(id, &mut value, &[], validate::Mode::Strict), Ok(vec![]));
    assert_eq!(value, once, "defaults fit the type");
    value
}

#[test]
fn rows_name_types_and_fields_that_exist() {
    for row in rows() {
        for (field, json) in &row.fixed {
            assert!(row.id.field(field).is_some(), "{}.{field}", row.id.name());
            assert!(serde_json::from_str::<Value>(json).is_ok(), "{json}");
        }
    }
}

#[test]
fn a_pod_reads_back_as_kubernetes_gives_it() {
    let pod = defaulted(
        "",
        "Pod",
        json!({"metadata": {"name": "a"}, "spec": {"containers": [{
            "name": "c", "image": "nginx", "ports": [{"containerPort": 80}],
            "resources": {"limits": {"cpu": 1, "memory": "64Mi"}, "requests": {"cpu": "100m"}},
            "readinessProbe": {"httpGet": {"port": 80}, "timeoutSeconds": 0},
            "env": [{"name": "E", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}],
            "volumes": [{"name": "e"}, {"name": "c", "configMap": {"name": "m"}}]}}),
    );
    assert_eq!(
        pod["spec"],
        json!({
            "containers": [{
                "name": "c", "image": "nginx", "imagePullPolicy": "Always",
                "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "resources": {"limits": {"cpu": "1", "memory": "64Mi"}, "requests": {"cpu": "100m", "memory": "64Mi"}},
                "readinessProbe": {"httpGet": {"path": "/", "port": 80, "scheme": "HTTP"},
                    "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
                "env": [{"name": "E", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}}],
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}],
            "dnsPolicy": "ClusterFirst", "enableServiceLinks": true, "restartPolicy": "Always",
            "schedulerName": "default-scheduler", "securityContext": {}, "terminationGracePeriodSeconds": 30,
            "volumes": [{"name": "e", "emptyDir": {}}, {"name": "c", "configMap": {"name": "m", "defaultMode": 420}}]
        })
    );
}

#[test]
fn pull_policy_follows_the_tag() {
    for (image, policy) in [
        ("nginx", "Always"),
        ("nginx:latest", "Always"),
        ("nginx:1", "IfNotPresent"),
        ("host:5000/nginx", "Always"),
        ("host:5000/nginx:1", "IfNotPresent"),
        ("nginx@sha256:abc", "IfNotPresent"),
        ("nginx:latest@sha256:abc", "Always"),
    ] {
        let pod = defaulted("", "Pod", json!({"spec": {"containers": [{"name": "c", "image": image}]}}));
        assert_eq!(pod["spec"]["containers"][0]["imagePullPolicy"], policy, "{image}");
    }
}

#[test]
fn host_network_and_service_accounts() {
    let pod = defaulted(
        "",
        "Pod",
        json!({"spec": {"hostNetwork": true, "serviceAccount": "sa", "containers": [{"name": "c", "image": "i:1", "ports": [{"containerPort": 80}]}]}}),
    );
    assert_eq!(
        pod["spec"]["containers"][0]["ports"],
        json!([{"containerPort": 80, "hostPort": 80, "protocol": "TCP"}])
    );
    assert_eq!(pod["spec"]["serviceAccountName"], "sa");
}

#[test]
fn a_deployment_and_its_template() {
    let deployment = defaulted(
        "apps",
        "Deployment",
        json!({"spec": {"selector": {}, "template": {"spec": {"containers": [{"name": "c", "image": "i:1", "resources": {"limits": {"cpu": "1"}}}]}}}}),
    );
    let spec = &deployment["spec"];
    assert_eq!(
        (&spec["replicas"], &spec["revisionHistoryLimit"], &spec["progressDeadlineSeconds"]),
        (&json!(1), &json!(10), &json!(600))
    );
    assert_eq!(
        spec["strategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}})
    );
    let pod = &spec["template"]["spec"];
    assert_eq!(pod["restartPolicy"], "Always");
    assert_eq!(pod["containers"][0]["resources"], json!({"limits": {"cpu": "1"}}), "templates get no requests");
    assert!(pod.get("enableServiceLinks").is_none());
    let recreate = defaulted("apps", "Deployment", json!({"spec": {"replicas": 0, "strategy": {"type": "Recreate"}}}));
    assert_eq!(
        (&recreate["spec"]["strategy"], &recreate["spec"]["replicas"]),
        (&json!({"type": "Recreate"}), &json!(0))
    );
    let replica_set = defaulted("apps", "ReplicaSet", json!({"spec": {"selector": {}}}));
    assert_eq!(replica_set["spec"]["replicas"], 1);
}

#[test]
fn services() {
    let service = defaulted(
        "",
        "Service",
        json!({"spec": {"ports": [{"port": 80}, {"port": 81, "targetPort": "http", "protocol": "UDP"}]}}),
    );
    assert_eq!(
        service,
        json!({"spec": {"type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "ports": [
                {"port": 80, "protocol": "TCP", "targetPort": 80},
                {"port": 81, "protocol": "UDP", "targetPort": "http"}]}, "status": {"loadBalancer": {}}})
    );
    let sticky = defaulted("", "Service", json!({"spec": {"type": "NodePort", "sessionAffinity": "ClientIP"}}));
    assert_eq!(sticky["spec"]["sessionAffinityConfig"], json!({"clientIP": {"timeoutSeconds": 10800}}));
    assert_eq!(sticky["spec"]["externalTrafficPolicy"], "Cluster");
}

#[test]
fn secrets_namespaces_and_endpoints() {
    let secret = defaulted("", "Secret", json!({"stringData": {"a": "b"}, "data": {"a": "eA==", "c": "eA=="}}));
    assert_eq!(secret, json!({"type": "Opaque", "data": {"a": "Yg==", "c": "eA=="}}));
    let namespace = defaulted("", "Namespace", json!({"metadata": {"name": "n"}}));
    assert_eq!(namespace["metadata"]["labels"], json!({"kubernetes.io/metadata.name": "n"}));
    assert_eq!(namespace["status"]["phase"], "Active");
    let slice = defaulted(
        "discovery.k8s.io",
        "EndpointSlice",
        json!({"addressType": "IPv4", "endpoints": [], "ports": [{"port": 80}]}),
    );
    assert_eq!(slice["ports"], json!([{"name": "", "port": 80, "protocol": "TCP"}]));
    let node = defaulted("", "Node", json!({"status": {"capacity": {"cpu": 2}}}));
    assert_eq!(node["status"]["allocatable"], json!({"cpu": "2"}));
}
