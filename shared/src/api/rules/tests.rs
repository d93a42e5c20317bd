use serde_json::json;

use super::*;
use crate::api::status::{GroupKind, Status};
use crate::api::table::schema;
use crate::api::{canonical, defaults, patch};

fn type_of(group: &str, kind: &str) -> TypeId {
    schema().kind(group, "v1", kind).expect(kind)
}

/// A valid object of a kind, with a merge patch applied, defaulted.
fn object(group: &str, kind: &str, changes: &Value) -> Value {
    let container = json!([{"name": "c", "image": "i:1"}]);
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": container}});
    let mut value = match kind {
        "Pod" => json!({"spec": {"containers": container}}),
        "Deployment" | "ReplicaSet" => json!({"spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}}),
        "Service" => json!({"spec": {"ports": [{"port": 80}], "selector": {"a": "b"}}}),
        "EndpointSlice" => json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}]}),
        "Event" => json!({"involvedObject": {"namespace": "ns", "name": "p"}}),
        _ => json!({}),
    };
    let id = type_of(group, kind);
    patch::merge(&mut value, &json!({"metadata": {"name": "x"}}));
    if id.scope() == Scope::Namespaced {
        patch::merge(&mut value, &json!({"metadata": {"namespace": "ns"}}));
    }
    patch::merge(&mut value, changes);
    canonical::object(id, &mut value);
    defaults::apply(id, &mut value);
    value
}

fn words(errors: &[FieldError]) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

#[track_caller]
fn check(group: &str, kind: &str, changes: Value, expect: &[&str]) {
    let errors = validate(type_of(group, kind), &object(group, kind, &changes), None);
    assert_eq!(words(&errors), expect, "{changes}");
}

#[track_caller]
fn check_update(group: &str, kind: &str, old: Value, new: Value, expect: &[&str]) {
    let (old, changed) = (object(group, kind, &old), object(group, kind, &new));
    let errors = validate(type_of(group, kind), &changed, Some(&old));
    let words = words(&errors);
    assert_eq!(words.len(), expect.len(), "{words:?}");
    for (found, expect) in words.iter().zip(expect) {
        assert!(found.starts_with(expect), "{found}\n{expect}");
    }
}

#[track_caller]
fn check_spec(spec: Value, expect: &[&str]) {
    check("", "Pod", json!({"spec": spec}), expect);
}

#[track_caller]
fn check_container(container: Value, expect: &[&str]) {
    let mut whole = json!({"name": "c", "image": "i:1"});
    patch::merge(&mut whole, &container);
    check_spec(json!({"volumes": [{"name": "v"}], "containers": [whole]}), expect);
}

#[test]
fn what_is_right_passes() {
    for (group, kind) in [
        ("", "Pod"),
        ("", "Service"),
        ("", "ConfigMap"),
        ("", "Secret"),
        ("", "Namespace"),
        ("", "Node"),
        ("", "ServiceAccount"),
        ("", "Event"),
        ("", "Endpoints"),
        ("apps", "Deployment"),
        ("apps", "ReplicaSet"),
        ("discovery.k8s.io", "EndpointSlice"),
        ("coordination.k8s.io", "Lease"),
    ] {
        check(group, kind, json!({}), &[]);
        check_update(group, kind, json!({}), json!({"metadata": {"labels": {"new": "label"}}}), &[]);
    }
}

#[test]
fn a_status_reads_as_kubectl_users_know_it() {
    let pod = object("", "Pod", &json!({"spec": {"containers": [{"name": "c"}]}}));
    let errors = validate(type_of("", "Pod"), &pod, None);
    let status = Status::invalid(GroupKind { group: "", kind: "Pod" }, "x", &errors);
    assert_eq!(status.message, "Pod \"x\" is invalid: spec.containers[0].image: Required value");
}

#[test]
fn metadata() {
    let meta = |meta: Value| json!({"metadata": meta});
    check(
        "",
        "ConfigMap",
        meta(json!({"name": null})),
        &["metadata.name: Required value: name or generateName is required"],
    );
    check("", "ConfigMap", meta(json!({"namespace": null})), &["metadata.namespace: Required value"]);
    check("", "Node", meta(json!({"namespace": "n"})), &["metadata.namespace: Forbidden: not allowed on this type"]);
    check(
        "",
        "Namespace",
        meta(json!({"name": "a.b"})),
        &["metadata.name: Invalid value: \"a.b\": must not contain dots"],
    );
    check("", "ConfigMap", meta(json!({"generateName": "web-"})), &[]);
    check(
        "",
        "ConfigMap",
        meta(json!({"labels": {"-": "a"}, "ownerReferences": [
            {"apiVersion": "v1", "kind": "A", "name": "a", "uid": "1", "controller": true},
            {"apiVersion": "v1", "kind": "B", "name": "b", "uid": "", "controller": true}]})),
        &[
            "metadata.labels: Invalid value: \"-\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName', or 'my.name', or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
            "metadata.ownerReferences.uid: Invalid value: \"\": must not be empty",
            "metadata.ownerReferences: Invalid value: [{\"apiVersion\":\"v1\",\"controller\":true,\"kind\":\"A\",\"name\":\"a\",\"uid\":\"1\"},{\"apiVersion\":\"v1\",\"controller\":true,\"kind\":\"B\",\"name\":\"b\",\"uid\":\"\"}]: Only one reference can have Controller set to true. Found \"true\" in references for A/a and B/b",
        ],
    );
    let long = "v".repeat(256 << 10);
    check(
        "",
        "ConfigMap",
        meta(json!({"annotations": {"a": long}})),
        &["metadata.annotations: Too long: may not be more than 262144 bytes"],
    );
    check(
        "",
        "ConfigMap",
        meta(json!({"finalizers": ["plain"]})),
        &[
            "metadata.finalizers[0]: Invalid value: \"plain\": name is neither a standard finalizer name nor is it fully qualified",
        ],
    );
    check_update(
        "",
        "ConfigMap",
        json!({"metadata": {"uid": "1"}}),
        json!({"metadata": {"uid": "2", "name": "y"}}),
        &[
            "metadata.name: Invalid value: \"y\": field is immutable",
            "metadata.uid: Invalid value: \"2\": field is immutable",
        ],
    );
    let gone = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["a/b"]}});
    let mut more = gone.clone();
    more["metadata"]["finalizers"] = json!(["a/b", "c/d"]);
    check_update(
        "",
        "ConfigMap",
        gone,
        more,
        &[
            "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"c/d\"}",
        ],
    );
}

#[test]
fn containers() {
    check_spec(json!({"containers": []}), &["spec.containers: Required value"]);
    check_spec(
        json!({"containers": [{"name": "c", "image": "i:1"}, {"name": "c", "image": " i:1"}, {"name": "C", "image": "i:1"}]}),
        &[
            "spec.containers[1].name: Duplicate value: \"c\"",
            "spec.containers[1].image: Invalid value: \" i:1\": must not have leading or trailing whitespace",
            "spec.containers[2].name: Invalid value: \"C\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name', or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
        ],
    );
    check_container(
        json!({"ports": [{"containerPort": 0}, {"containerPort": 70000, "name": "a"}, {"containerPort": 1, "name": "a"}]}),
        &[
            "spec.containers[0].ports[0].containerPort: Required value",
            "spec.containers[0].ports[1].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
            "spec.containers[0].ports[2].name: Duplicate value: \"a\"",
        ],
    );
    check_container(
        json!({"volumeMounts": [{"name": "v", "mountPath": "/a"}, {"name": "w", "mountPath": "/a", "subPath": "../x"}]}),
        &[
            "spec.containers[0].volumeMounts[1].name: Not found: \"w\"",
            "spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/a\": must be unique",
            "spec.containers[0].volumeMounts[1].subPath: Invalid value: \"../x\": must not contain '..'",
        ],
    );
    check_container(
        json!({"env": [{"name": "a=b"}, {"name": "E", "valueFrom": {}}, {"name": "F", "valueFrom": {"fieldRef": {"fieldPath": "spec.nope"}}}]}),
        &[
            "spec.containers[0].env[0].name: Invalid value: \"a=b\": a valid environment variable name must consist only of printable ASCII characters other than '='",
            "spec.containers[0].env[1].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
            "spec.containers[0].env[2].valueFrom.fieldRef.fieldPath: Unsupported value: \"spec.nope\": supported values: \"metadata.name\", \"metadata.namespace\", \"metadata.uid\", \"spec.nodeName\", \"spec.serviceAccountName\", \"status.hostIP\", \"status.hostIPs\", \"status.podIP\", \"status.podIPs\"",
        ],
    );
    check_container(
        json!({"imagePullPolicy": "Maybe"}),
        &[
            "spec.containers[0].imagePullPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
        ],
    );
}

#[test]
fn resources_and_probes() {
    check_container(
        json!({"resources": {"limits": {"cpu": "1", "memory": "-1Gi", "magic": "1"}, "requests": {"cpu": "2", "memory": "-1Gi", "magic": "1"}}}),
        &[
            "spec.containers[0].resources.limits[magic]: Invalid value: \"magic\": must be a standard resource type or fully qualified",
            "spec.containers[0].resources.limits[magic]: Invalid value: \"magic\": must be a standard resource for containers",
            "spec.containers[0].resources.limits[memory]: Invalid value: \"-1Gi\": must be greater than or equal to 0",
            "spec.containers[0].resources.requests[magic]: Invalid value: \"magic\": must be a standard resource type or fully qualified",
            "spec.containers[0].resources.requests[magic]: Invalid value: \"magic\": must be a standard resource for containers",
            "spec.containers[0].resources.requests[memory]: Invalid value: \"-1Gi\": must be greater than or equal to 0",
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
        ],
    );
    check_container(
        json!({"resources": {"requests": {"a.com/gpu": "1500m"}}}),
        &[
            "spec.containers[0].resources.requests[a.com/gpu]: Invalid value: \"1500m\": must be an integer",
            "spec.containers[0].resources.limits: Required value: Limit must be set for non overcommitable resources",
        ],
    );
    check_container(
        json!({"livenessProbe": {"successThreshold": 2, "exec": {}, "tcpSocket": {"port": 1}}, "readinessProbe": {"periodSeconds": -1}}),
        &[
            "spec.containers[0].livenessProbe.exec.command: Required value",
            "spec.containers[0].livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
            "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
            "spec.containers[0].readinessProbe: Required value: must specify a handler type",
            "spec.containers[0].readinessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0",
        ],
    );
    check_container(
        json!({"readinessProbe": {"httpGet": {"port": "HTTP", "httpHeaders": [{"name": "a b", "value": ""}]}}}),
        &[
            "spec.containers[0].readinessProbe.httpGet.port: Invalid value: \"HTTP\": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
            "spec.containers[0].readinessProbe.httpGet.port: Invalid value: \"HTTP\": must contain at least one letter (a-z)",
            "spec.containers[0].readinessProbe.httpGet.httpHeaders: Invalid value: \"a b\": a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')",
        ],
    );
}

#[test]
fn pod_specs() {
    check_spec(
        json!({"initContainers": [{"name": "c", "image": "i:1", "livenessProbe": {"tcpSocket": {"port": 1}}}]}),
        &[
            "spec.initContainers[0].name: Duplicate value: \"c\"",
            "spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
        ],
    );
    check_spec(
        json!({"volumes": [{"name": "v", "emptyDir": {}, "hostPath": {"path": "/../x"}}, {"name": "v", "configMap": {}}]}),
        &[
            "spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type",
            "spec.volumes[1].name: Duplicate value: \"v\"",
            "spec.volumes[1].configMap.name: Required value",
        ],
    );
    check_spec(
        json!({"restartPolicy": "Sometimes", "terminationGracePeriodSeconds": -1, "activeDeadlineSeconds": 0}),
        &[
            "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"Never\", \"OnFailure\"",
            "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive",
            "spec.terminationGracePeriodSeconds: Invalid value: -1: must be greater than or equal to 0",
        ],
    );
    check_spec(
        json!({"tolerations": [{"operator": "Equal", "value": "x"}, {"key": "k", "operator": "Exists", "value": "v"}]}),
        &[
            "spec.tolerations[0].operator: Invalid value: \"Equal\": operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            "spec.tolerations[1].operator: Invalid value: \"v\": value must be empty when `operator` is 'Exists'",
        ],
    );
    check_spec(
        json!({"dnsPolicy": "None"}),
        &["spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"],
    );
    check_spec(
        json!({"securityContext": {"runAsUser": -1, "supplementalGroups": [-2]}}),
        &[
            "spec.securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
            "spec.securityContext.supplementalGroups[0]: Invalid value: -2: must be between 0 and 2147483647, inclusive",
        ],
    );
}

#[test]
fn a_pods_spec_is_fixed_but_for_a_few_fields() {
    let image = json!({"spec": {"containers": [{"name": "c", "image": "j:2"}]}});
    // The pull policy was defaulted from the old tag and stays as it was stored.
    check_update("", "Pod", json!({}), image, &[]);
    check_update(
        "",
        "Pod",
        json!({}),
        json!({"spec": {"activeDeadlineSeconds": 5, "tolerations": [{"key": "k", "operator": "Exists"}]}}),
        &[],
    );
    check_update(
        "",
        "Pod",
        json!({"spec": {"activeDeadlineSeconds": 5}}),
        json!({}),
        &["spec.activeDeadlineSeconds: Invalid value: null: must not update from a positive integer to nil value"],
    );
    check_update(
        "",
        "Pod",
        json!({}),
        json!({"spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i:1", "args": ["x"]}]}}),
        &["spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`"],
    );
    check_update(
        "",
        "Pod",
        json!({}),
        json!({"spec": {"containers": [{"name": "c", "image": "i:1"}, {"name": "d", "image": "i:1"}]}}),
        &["spec.containers: Forbidden: pod updates may not add or remove containers"],
    );
    check_update(
        "",
        "Pod",
        json!({"spec": {"tolerations": [{"key": "k", "operator": "Exists"}]}}),
        json!({}),
        &["spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"],
    );
    check_update("", "Pod", json!({"spec": {"schedulingGates": [{"name": "a.b/c"}]}}), json!({}), &[]);
    check_update("", "Pod", json!({}), json!({"spec": {"schedulingGates": [{"name": "a.b/c"}]}}), &["spec: Forbidden"]);
}

#[test]
fn workloads() {
    check(
        "apps",
        "Deployment",
        json!({"spec": {"selector": {"matchLabels": {"a": "c"}}}}),
        &["spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`"],
    );
    check("apps", "Deployment", json!({"spec": {"selector": null}}), &["spec.selector: Required value"]);
    check(
        "apps",
        "ReplicaSet",
        json!({"spec": {"selector": {"matchLabels": null}}}),
        &["spec.selector: Invalid value: {}: empty selector is invalid for deployment"],
    );
    check(
        "apps",
        "Deployment",
        json!({"spec": {"replicas": -1, "progressDeadlineSeconds": 0, "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c"}]}}}}),
        &[
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
            "spec.template.spec.containers[0].image: Required value",
            "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
            "spec.progressDeadlineSeconds: Invalid value: 0: must be greater than minReadySeconds",
        ],
    );
    check(
        "apps",
        "Deployment",
        json!({"spec": {"strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}}}}),
        &["spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is 0"],
    );
    check(
        "apps",
        "Deployment",
        json!({"spec": {"strategy": {"rollingUpdate": {"maxSurge": "a", "maxUnavailable": "101%"}}}}),
        &[
            "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%",
            "spec.strategy.rollingUpdate.maxSurge: Invalid value: \"a\": a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%', or '93%', regex used for validation is '[0-9]+%')",
        ],
    );
    check(
        "apps",
        "Deployment",
        json!({"spec": {"strategy": {"type": "Recreate", "rollingUpdate": {}}}}),
        &["spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"],
    );
    let both = json!({"spec": {"selector": {"matchLabels": {"a": "b", "x": "y"}}, "template": {"metadata": {"labels": {"x": "y"}}}}});
    check_update(
        "apps",
        "Deployment",
        json!({}),
        both,
        &["spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"b\",\"x\":\"y\"}}: field is immutable"],
    );
    check(
        "apps",
        "Deployment",
        json!({"spec": {"selector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}}),
        &[
            "spec.selector.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
        ],
    );
}

#[test]
fn services() {
    let spec = |spec: Value| json!({"spec": spec});
    check("", "Service", spec(json!({"ports": null})), &["spec.ports: Required value"]);
    check("", "Service", spec(json!({"ports": null, "clusterIP": "None"})), &[]);
    check(
        "",
        "Service",
        spec(json!({"ports": [{"port": 0}, {"port": 0, "name": "a", "nodePort": 30000}]})),
        &[
            "spec.ports[0].name: Required value",
            "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            "spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive",
            "spec.ports[1].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            "spec.ports[1].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive",
            "spec.ports[1]: Duplicate value: {\"port\":0,\"protocol\":\"TCP\"}",
            "spec.ports[1].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
        ],
    );
    check(
        "",
        "Service",
        spec(json!({"type": "Magic"})),
        &[
            "spec.type: Unsupported value: \"Magic\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
        ],
    );
    check("", "Service", spec(json!({"type": "ExternalName", "ports": null})), &["spec.externalName: Required value"]);
    check(
        "",
        "Service",
        spec(json!({"clusterIP": "10"})),
        &["spec.clusterIPs[0]: Invalid value: \"10\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"],
    );
    check(
        "",
        "Service",
        json!({"metadata": {"name": "1a"}}),
        &[
            "metadata.name: Invalid value: \"1a\": a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name', or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')",
        ],
    );
    check_update(
        "",
        "Service",
        spec(json!({"clusterIP": "10.43.0.1"})),
        spec(json!({"clusterIP": "10.43.0.2"})),
        &["spec.clusterIPs[0]: Invalid value: [\"10.43.0.2\"]: may not change once set"],
    );
    let external = json!({"type": "ExternalName", "externalName": "a.b", "ports": null});
    check_update("", "Service", spec(json!({"clusterIP": "10.43.0.1"})), spec(external), &[]);
}

#[test]
fn config_maps_and_secrets() {
    check(
        "",
        "ConfigMap",
        json!({"data": {"a/b": "1", "k": "1"}, "binaryData": {"k": "AA=="}}),
        &[
            "data[a/b]: Invalid value: \"a/b\": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name', or 'KEY_NAME', or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
            "data[k]: Invalid value: \"k\": duplicate of key present in binaryData",
        ],
    );
    let large = "v".repeat((1 << 20) + 1);
    check("", "ConfigMap", json!({"data": {"a": large}}), &["data: Too long: may not be more than 1048576 bytes"]);
    check(
        "",
        "Secret",
        json!({"type": "kubernetes.io/tls", "data": {"tls.crt": ""}}),
        &["data[tls.key]: Required value"],
    );
    check(
        "",
        "Secret",
        json!({"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": "AAAA"}}),
        &["data[.dockerconfigjson]: Invalid value: \"<secret contents redacted>\": expected value at line 1 column 1"],
    );
    check(
        "",
        "Secret",
        json!({"type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": "{}"}}),
        &[],
    );
    check_update("", "Secret", json!({}), json!({"type": "x"}), &["type: Invalid value: \"x\": field is immutable"]);
    let fixed = json!({"immutable": true, "data": {"a": "YQ=="}});
    check_update(
        "",
        "Secret",
        fixed.clone(),
        json!({"data": {"a": "Yg=="}}),
        &[
            "immutable: Forbidden: field is immutable when `immutable` is set",
            "data: Forbidden: field is immutable when `immutable` is set",
        ],
    );
    check_update("", "ConfigMap", json!({"immutable": true}), json!({"immutable": true}), &[]);
}

#[test]
fn nodes_endpoints_leases_events() {
    check(
        "",
        "Node",
        json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}, {"key": "k", "effect": "NoSchedule"}, {"key": "l", "effect": "x"}], "podCIDRs": ["10.0.0.0/33"]}}),
        &[
            "spec.taints[2].effect: Unsupported value: \"x\": supported values: \"NoExecute\", \"NoSchedule\", \"PreferNoSchedule\"",
            "spec.taints[1]: Duplicate value: {\"effect\":\"NoSchedule\",\"key\":\"k\"}",
            "spec.podCIDRs[0]: Invalid value: \"10.0.0.0/33\": must be valid CIDR",
        ],
    );
    check_update(
        "",
        "Node",
        json!({"spec": {"podCIDR": "10.42.1.0/24"}}),
        json!({"spec": {"podCIDR": "10.42.2.0/24"}}),
        &["spec.podCIDR: Forbidden"],
    );
    let slice = |endpoints: Value| json!({"endpoints": endpoints});
    check(
        "discovery.k8s.io",
        "EndpointSlice",
        slice(json!([{"addresses": []}, {"addresses": ["127.0.0.1", "x"]}])),
        &[
            "endpoints[0].addresses: Required value: must contain at least 1 address",
            "endpoints[1].addresses[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
            "endpoints[1].addresses[1]: Invalid value: \"x\": must be an IPv4 address",
        ],
    );
    check(
        "",
        "Endpoints",
        json!({"subsets": [{"addresses": [{"ip": "1"}], "ports": [{"port": 0}]}, {}]}),
        &[
            "subsets[0].addresses[0].ip: Invalid value: \"1\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            "subsets[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            "subsets[1]: Required value: must specify `addresses` or `notReadyAddresses`",
        ],
    );
    check(
        "coordination.k8s.io",
        "Lease",
        json!({"spec": {"leaseDurationSeconds": 0}}),
        &["spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0"],
    );
    check(
        "",
        "Event",
        json!({"involvedObject": {"namespace": "other"}}),
        &["involvedObject.namespace: Invalid value: \"other\": does not match event.namespace"],
    );
    check("", "Event", json!({"metadata": {"namespace": "default"}, "involvedObject": {"namespace": null}}), &[]);
}

#[test]
fn quality_of_service() {
    let of = |resources: Value| {
        pod::qos_class(&object(
            "",
            "Pod",
            &json!({"spec": {"containers": [{"name": "c", "image": "i", "resources": resources}]}}),
        ))
    };
    assert_eq!(of(json!({})), "BestEffort");
    assert_eq!(of(json!({"limits": {"cpu": "1"}})), "Burstable");
    assert_eq!(of(json!({"limits": {"cpu": "1", "memory": "1Gi"}})), "Guaranteed");
    assert_eq!(of(json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}})), "Burstable");
}

#[test]
fn faults_are_bounded() {
    let many = vec![json!({"name": "-", "image": ""}); 5_000];
    let pod = object("", "Pod", &json!({"spec": {"containers": many}}));
    assert_eq!(validate(type_of("", "Pod"), &pod, None).len(), MAX_CAUSES);
}
