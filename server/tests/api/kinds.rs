//! Every kind that is served, one by one: what it takes, what it refuses, what it makes of it.

use coracle_server::kinds::{self, Kind, SubKind};
use coracle_shared::api::table::schema;
use coracle_shared::api::{patch, protobuf};
use serde_json::{Value, json};

use crate::world::World;

/// What one kind is tried with.
struct Sample {
    /// `plural` or `plural.group`, with `/version` when it is not the first.
    of: &'static str,
    /// What makes an object of the kind a good one.
    good: Value,
    /// A pointer to an object at depth that takes no unknown field.
    deep: &'static str,
    /// A pointer, and a value of a wrong type there.
    wrong: (&'static str, Value),
    /// A pointer, and what the server fills in there.
    default: Option<(&'static str, Value)>,
    /// A merge patch that changes what may not change.
    fixed: Option<Value>,
    /// The columns of `kubectl get`, without those of `-o wide`.
    columns: &'static str,
}

fn template() -> Value {
    json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}})
}

fn once() -> Value {
    json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i:1"}]}})
}

const REQUEST: &str =
    "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KLS0tLS1FTkQgQ0VSVElGSUNBVEUgUkVRVUVTVC0tLS0tCg==";

fn sample(
    of: &'static str,
    columns: &'static str,
    good: Value,
    (deep, wrong): (&'static str, (&'static str, Value)),
    default: Option<(&'static str, Value)>,
    fixed: Option<Value>,
) -> Sample {
    Sample { of, good, deep, wrong, default, fixed, columns }
}

fn workloads() -> Vec<Sample> {
    let selected = json!({"spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template()}});
    let deep = "/spec/template/spec/containers/0";
    let wrong = || ("/spec/template/spec/containers/0/image", json!(1));
    let other = || {
        Some(
            json!({"spec": {"selector": {"matchLabels": {"a": "c"}}, "template": {"metadata": {"labels": {"a": "c"}}}}}),
        )
    };
    vec![
        sample(
            "pods",
            "Name Ready Status Restarts Age",
            json!({"spec": template()["spec"]}),
            ("/spec/containers/0", ("/spec/containers/0/image", json!(1))),
            Some(("/spec/restartPolicy", json!("Always"))),
            Some(json!({"spec": {"hostNetwork": true}})),
        ),
        sample(
            "podtemplates",
            "Name Containers Images Pod Labels",
            json!({"template": template()}),
            ("/template/spec/containers/0", ("/template/spec/containers", json!("x"))),
            Some(("/template/spec/restartPolicy", json!("Always"))),
            None,
        ),
        sample(
            "replicationcontrollers",
            "Name Desired Current Ready Age",
            json!({"spec": {"template": template()}}),
            (deep, wrong()),
            Some(("/spec/selector/a", json!("b"))),
            None,
        ),
        sample(
            "deployments.apps",
            "Name Ready Up-to-date Available Age",
            selected.clone(),
            (deep, wrong()),
            Some(("/spec/replicas", json!(1))),
            other(),
        ),
        sample(
            "replicasets.apps",
            "Name Desired Current Ready Age",
            selected.clone(),
            (deep, wrong()),
            Some(("/spec/replicas", json!(1))),
            other(),
        ),
        sample(
            "daemonsets.apps",
            "Name Desired Current Ready Up-to-date Available Node Selector Age",
            selected.clone(),
            (deep, wrong()),
            Some(("/spec/updateStrategy/rollingUpdate/maxUnavailable", json!(1))),
            other(),
        ),
        sample(
            "statefulsets.apps",
            "Name Ready Age",
            {
                let mut set = selected.clone();
                set["spec"]["serviceName"] = "s".into();
                set
            },
            (deep, wrong()),
            Some(("/spec/updateStrategy/rollingUpdate/partition", json!(0))),
            Some(json!({"spec": {"serviceName": "t"}})),
        ),
        sample(
            "controllerrevisions.apps",
            "Name Controller Revision Age",
            json!({"revision": 1, "data": {"a": 1}}),
            ("/metadata", ("/revision", json!("x"))),
            None,
            Some(json!({"data": {"a": 2}})),
        ),
        sample(
            "jobs.batch",
            "Name Status Completions Duration Age",
            json!({"spec": {"template": once()}}),
            (deep, wrong()),
            Some(("/spec/backoffLimit", json!(6))),
            Some(json!({"spec": {"completions": 7}})),
        ),
        sample(
            "cronjobs.batch",
            "Name Schedule Timezone Suspend Active Last Schedule Age",
            json!({"spec": {"schedule": "* * * * *", "jobTemplate": {"spec": {"template": once()}}}}),
            ("/spec/jobTemplate/spec/template/spec/containers/0", ("/spec/schedule", json!(5))),
            Some(("/spec/successfulJobsHistoryLimit", json!(3))),
            None,
        ),
        sample(
            "cronjobs.batch/v1beta1",
            "Name Schedule Timezone Suspend Active Last Schedule Age",
            json!({"spec": {"schedule": "@daily", "jobTemplate": {"spec": {"template": once()}}}}),
            ("/spec/jobTemplate/spec/template/spec/containers/0", ("/spec/schedule", json!(5))),
            Some(("/spec/successfulJobsHistoryLimit", json!(3))),
            None,
        ),
        sample(
            "horizontalpodautoscalers.autoscaling",
            "Name Reference Targets MinPods MaxPods Replicas Age",
            json!({"spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"}}}),
            ("/spec/scaleTargetRef", ("/spec/maxReplicas", json!("3"))),
            Some(("/spec/metrics/0/resource/target/averageUtilization", json!(80))),
            None,
        ),
        sample(
            "horizontalpodautoscalers.autoscaling/v1",
            "Name Reference Targets MinPods MaxPods Replicas Age",
            json!({"spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 50,
                "scaleTargetRef": {"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"}}}),
            ("/spec/scaleTargetRef", ("/spec/maxReplicas", json!("3"))),
            Some(("/spec/minReplicas", json!(1))),
            None,
        ),
    ]
}

fn core() -> Vec<Sample> {
    vec![
        sample(
            "configmaps",
            "Name Data Age",
            json!({"data": {"a": "b"}, "immutable": true}),
            ("/metadata", ("/data/a", json!(1))),
            None,
            Some(json!({"data": {"a": "c"}})),
        ),
        sample(
            "secrets",
            "Name Type Data Age",
            json!({"data": {"a": "Yg=="}}),
            ("/metadata", ("/data/a", json!(1))),
            Some(("/type", json!("Opaque"))),
            Some(json!({"type": "other/type"})),
        ),
        sample("serviceaccounts", "Name Secrets Age", json!({}), ("/metadata", ("/secrets", json!("x"))), None, None),
        sample(
            "services",
            "Name Type Cluster-IP External-IP Port(s) Age",
            json!({"spec": {"ports": [{"port": 80}]}}),
            ("/spec/ports/0", ("/spec/ports/0/port", json!("x"))),
            Some(("/spec/ports/0/protocol", json!("TCP"))),
            Some(json!({"spec": {"clusterIP": "10.43.9.9"}})),
        ),
        sample(
            "endpoints",
            "Name Endpoints Age",
            json!({"subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]}]}),
            ("/subsets/0/ports/0", ("/subsets/0/ports/0/port", json!("x"))),
            Some(("/subsets/0/ports/0/protocol", json!("TCP"))),
            None,
        ),
        sample(
            "namespaces",
            "Name Status Age",
            json!({}),
            ("/metadata", ("/spec", json!("x"))),
            Some(("/status/phase", json!("Active"))),
            None,
        ),
        sample(
            "nodes",
            "Name Status Roles Age Version",
            json!({"spec": {"podCIDR": "10.9.0.0/24"}}),
            ("/spec", ("/spec/unschedulable", json!("x"))),
            None,
            Some(json!({"spec": {"podCIDR": "10.8.0.0/24"}})),
        ),
        sample(
            "limitranges",
            "Name Created At",
            json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "1"}}]}}),
            ("/spec/limits/0", ("/spec/limits/0/max/cpu", json!(true))),
            Some(("/spec/limits/0/defaultRequest/cpu", json!("1"))),
            None,
        ),
        sample(
            "resourcequotas",
            "Name Request Limit Age",
            json!({"spec": {"hard": {"pods": "2"}}}),
            ("/spec", ("/spec/hard", json!([]))),
            None,
            Some(json!({"spec": {"scopes": ["BestEffort"]}})),
        ),
        sample(
            "persistentvolumes",
            "Name Capacity Access Modes Reclaim Policy Status Claim StorageClass VolumeAttributesClass Reason Age",
            json!({"spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/x"}}}),
            ("/spec/hostPath", ("/spec/accessModes", json!("x"))),
            Some(("/spec/persistentVolumeReclaimPolicy", json!("Retain"))),
            Some(json!({"spec": {"hostPath": {"path": "/y"}}})),
        ),
        sample(
            "persistentvolumeclaims",
            "Name Status Volume Capacity Access Modes StorageClass VolumeAttributesClass Age",
            json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}),
            ("/spec/resources", ("/spec/accessModes", json!("x"))),
            Some(("/spec/volumeMode", json!("Filesystem"))),
            Some(json!({"spec": {"accessModes": ["ReadOnlyMany"]}})),
        ),
        sample(
            "events",
            "Last Seen Type Reason Object Message",
            json!({"involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"}}),
            ("/involvedObject", ("/count", json!("x"))),
            None,
            None,
        ),
        sample(
            "events.events.k8s.io",
            "Last Seen Type Reason Object Message",
            json!({"regarding": {"kind": "Pod", "name": "p", "namespace": "default"}, "note": "n", "eventTime": "2020-01-01T00:00:00.000000Z"}),
            ("/regarding", ("/note", json!(1))),
            None,
            None,
        ),
        sample(
            "leases.coordination.k8s.io",
            "Name Holder Age",
            json!({"spec": {"holderIdentity": "x"}}),
            ("/spec", ("/spec/leaseDurationSeconds", json!("x"))),
            None,
            None,
        ),
        sample(
            "endpointslices.discovery.k8s.io",
            "Name AddressType Ports Endpoints Age",
            json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [{"port": 80}]}),
            ("/endpoints/0", ("/ports/0/port", json!("x"))),
            Some(("/ports/0/protocol", json!("TCP"))),
            Some(json!({"addressType": "IPv6"})),
        ),
    ]
}

fn policies() -> Vec<Sample> {
    let role = json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]});
    let binding =
        json!({"roleRef": {"kind": "ClusterRole", "name": "view"}, "subjects": [{"kind": "User", "name": "jane"}]});
    let other = || Some(json!({"roleRef": {"name": "edit"}}));
    let budget = || json!({"spec": {"minAvailable": 1, "selector": {"matchLabels": {"a": "b"}}}});
    vec![
        sample(
            "poddisruptionbudgets.policy",
            "Name Min Available Max Unavailable Allowed Disruptions Age",
            budget(),
            ("/spec/selector", ("/spec/minAvailable", json!([]))),
            None,
            None,
        ),
        sample(
            "poddisruptionbudgets.policy/v1beta1",
            "Name Min Available Max Unavailable Allowed Disruptions Age",
            budget(),
            ("/spec/selector", ("/spec/minAvailable", json!([]))),
            None,
            None,
        ),
        sample(
            "priorityclasses.scheduling.k8s.io",
            "Name Value Global-Default Age PreemptionPolicy",
            json!({"value": 5}),
            ("/metadata", ("/value", json!("x"))),
            Some(("/preemptionPolicy", json!("PreemptLowerPriority"))),
            Some(json!({"value": 6})),
        ),
        sample(
            "runtimeclasses.node.k8s.io",
            "Name Handler Age",
            json!({"handler": "h", "scheduling": {"nodeSelector": {"a": "b"}}}),
            ("/scheduling", ("/handler", json!(1))),
            None,
            Some(json!({"handler": "g"})),
        ),
        sample(
            "roles.rbac.authorization.k8s.io",
            "Name Created At",
            role.clone(),
            ("/rules/0", ("/rules/0/verbs", json!("x"))),
            None,
            None,
        ),
        sample(
            "clusterroles.rbac.authorization.k8s.io",
            "Name Created At",
            role,
            ("/rules/0", ("/rules/0/verbs", json!("x"))),
            None,
            None,
        ),
        sample(
            "rolebindings.rbac.authorization.k8s.io",
            "Name Role Age",
            binding.clone(),
            ("/subjects/0", ("/roleRef/name", json!(1))),
            Some(("/roleRef/apiGroup", json!("rbac.authorization.k8s.io"))),
            other(),
        ),
        sample(
            "clusterrolebindings.rbac.authorization.k8s.io",
            "Name Role Age",
            binding,
            ("/subjects/0", ("/roleRef/name", json!(1))),
            Some(("/subjects/0/apiGroup", json!("rbac.authorization.k8s.io"))),
            other(),
        ),
        sample(
            "certificatesigningrequests.certificates.k8s.io",
            "Name Age SignerName Requestor RequestedDuration Condition",
            json!({"spec": {"request": REQUEST, "signerName": "example.com/own", "usages": ["client auth"]}}),
            ("/spec", ("/spec/usages", json!("x"))),
            None,
            Some(json!({"spec": {"signerName": "example.com/other"}})),
        ),
    ]
}

fn networks() -> Vec<Sample> {
    let backend = json!({"service": {"name": "s", "port": {"number": 80}}});
    vec![
        sample(
            "ingresses.networking.k8s.io",
            "Name Class Hosts Address Ports Age",
            json!({"spec": {"rules": [{"host": "a.b", "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}]}}),
            ("/spec/rules/0/http/paths/0", ("/spec/rules/0/host", json!(1))),
            None,
            None,
        ),
        sample(
            "ingressclasses.networking.k8s.io",
            "Name Controller Parameters Age",
            json!({"spec": {"controller": "a.b/c", "parameters": {"kind": "K", "name": "n"}}}),
            ("/spec/parameters", ("/spec/controller", json!(1))),
            Some(("/spec/parameters/scope", json!("Cluster"))),
            Some(json!({"spec": {"controller": "a.b/d"}})),
        ),
        sample(
            "networkpolicies.networking.k8s.io",
            "Name Pod-Selector Age",
            json!({"spec": {"podSelector": {}, "ingress": [{"ports": [{"port": 80}]}]}}),
            ("/spec/ingress/0/ports/0", ("/spec/ingress", json!("x"))),
            Some(("/spec/policyTypes/0", json!("Ingress"))),
            None,
        ),
        sample(
            "ipaddresses.networking.k8s.io",
            "Name ParentRef Age",
            json!({"spec": {"parentRef": {"resource": "services", "name": "s"}}}),
            ("/spec/parentRef", ("/spec/parentRef/name", json!(1))),
            None,
            None,
        ),
        sample(
            "servicecidrs.networking.k8s.io",
            "Name CIDRs Age",
            json!({"spec": {"cidrs": ["10.1.0.0/16"]}}),
            ("/spec", ("/spec/cidrs", json!("x"))),
            None,
            None,
        ),
    ]
}

fn storages() -> Vec<Sample> {
    vec![
        sample(
            "storageclasses.storage.k8s.io",
            "Name Provisioner ReclaimPolicy VolumeBindingMode AllowVolumeExpansion Age",
            json!({"provisioner": "a.b/c"}),
            ("/metadata", ("/mountOptions", json!("x"))),
            Some(("/volumeBindingMode", json!("Immediate"))),
            Some(json!({"provisioner": "a.b/d"})),
        ),
        sample(
            "volumeattachments.storage.k8s.io",
            "Name Attacher PV Node Attached Age",
            json!({"spec": {"attacher": "a", "nodeName": "n", "source": {"persistentVolumeName": "v"}}}),
            ("/spec/source", ("/spec/nodeName", json!(1))),
            None,
            Some(json!({"spec": {"nodeName": "m"}})),
        ),
        sample(
            "csidrivers.storage.k8s.io",
            "Name AttachRequired PodInfoOnMount StorageCapacity TokenRequests RequiresRepublish Modes Age",
            json!({"spec": {}}),
            ("/spec", ("/spec/attachRequired", json!("x"))),
            Some(("/spec/attachRequired", json!(true))),
            None,
        ),
        sample(
            "csinodes.storage.k8s.io",
            "Name Drivers Age",
            json!({"spec": {"drivers": [{"name": "d", "nodeID": "n"}]}}),
            ("/spec/drivers/0", ("/spec/drivers", json!("x"))),
            None,
            None,
        ),
        sample(
            "csistoragecapacities.storage.k8s.io",
            "Name StorageClassName Capacity",
            json!({"storageClassName": "c", "nodeTopology": {}}),
            ("/nodeTopology", ("/storageClassName", json!(1))),
            None,
            None,
        ),
        sample(
            "volumeattributesclasses.storage.k8s.io",
            "Name DriverName Age",
            json!({"driverName": "d", "parameters": {"a": "b"}}),
            ("/metadata", ("/parameters/a", json!(1))),
            None,
            None,
        ),
    ]
}

fn admissions() -> Vec<Sample> {
    let hook = json!({"webhooks": [{"name": "a.b.c", "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": {"service": {"namespace": "n", "name": "s"}},
        "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]}]});
    let deep = "/webhooks/0/clientConfig/service";
    let wrong = || ("/webhooks/0/timeoutSeconds", json!("x"));
    let bound = || json!({"spec": {"policyName": "p", "paramRef": {"name": "q"}}});
    let policy = |list: &str, entry: Value| {
        json!({"spec": {"matchConstraints": {"resourceRules": [{"operations": ["CREATE"],
        "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]}, list: [entry]}})
    };
    vec![
        sample(
            "mutatingwebhookconfigurations.admissionregistration.k8s.io",
            "Name Webhooks Age",
            hook.clone(),
            (deep, wrong()),
            Some(("/webhooks/0/reinvocationPolicy", json!("Never"))),
            None,
        ),
        sample(
            "validatingwebhookconfigurations.admissionregistration.k8s.io",
            "Name Webhooks Age",
            hook,
            (deep, wrong()),
            Some(("/webhooks/0/timeoutSeconds", json!(10))),
            None,
        ),
        sample(
            "validatingadmissionpolicies.admissionregistration.k8s.io",
            "Name Validations ParamKind Age",
            policy("validations", json!({"expression": "true"})),
            ("/spec/validations/0", ("/spec/validations/0/expression", json!(1))),
            Some(("/spec/failurePolicy", json!("Fail"))),
            None,
        ),
        sample(
            "mutatingadmissionpolicies.admissionregistration.k8s.io",
            "Name Mutations ParamKind Age",
            policy("mutations", json!({"patchType": "JSONPatch", "jsonPatch": {"expression": "[]"}})),
            ("/spec/mutations/0/jsonPatch", ("/spec/mutations/0/patchType", json!(1))),
            Some(("/spec/failurePolicy", json!("Fail"))),
            None,
        ),
        sample(
            "validatingadmissionpolicybindings.admissionregistration.k8s.io",
            "Name PolicyName ParamRef Age",
            bound(),
            ("/spec/paramRef", ("/spec/policyName", json!(1))),
            None,
            None,
        ),
        sample(
            "mutatingadmissionpolicybindings.admissionregistration.k8s.io",
            "Name PolicyName ParamRef Age",
            bound(),
            ("/spec/paramRef", ("/spec/policyName", json!(1))),
            None,
            None,
        ),
        sample(
            "deviceclasses.resource.k8s.io",
            "Name Age",
            json!({"spec": {"selectors": [{"cel": {"expression": "true"}}]}}),
            ("/spec/selectors/0/cel", ("/spec/selectors/0/cel/expression", json!(1))),
            None,
            None,
        ),
        sample(
            "resourceclaims.resource.k8s.io",
            "Name State Age",
            json!({"spec": {"devices": {"requests": [{"name": "r"}]}}}),
            ("/spec/devices/requests/0", ("/spec/devices/requests/0/name", json!(1))),
            None,
            None,
        ),
        sample(
            "resourceclaimtemplates.resource.k8s.io",
            "Name Age",
            json!({"spec": {"spec": {"devices": {"requests": [{"name": "r"}]}}}}),
            ("/spec/spec/devices/requests/0", ("/spec/spec/devices/requests/0/name", json!(1))),
            None,
            None,
        ),
        sample(
            "resourceslices.resource.k8s.io",
            "Name Node Driver Pool Age",
            json!({"spec": {"driver": "d", "nodeName": "n", "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}}}),
            ("/spec/pool", ("/spec/driver", json!(1))),
            None,
            None,
        ),
    ]
}

fn samples() -> Vec<Sample> {
    [core(), workloads(), policies(), networks(), storages(), admissions()].into_iter().flatten().collect()
}

fn row(of: &str) -> &'static Kind {
    match of.split_once('/') {
        None => kinds::by_resource(of).expect(of),
        Some((resource, version)) => {
            let (plural, group) = resource.split_once('.').unwrap_or((resource, ""));
            kinds::find(group, version, plural).expect(of)
        }
    }
}

fn collection(kind: &Kind) -> String {
    let root = if kind.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", kind.group) };
    let space = if kind.namespaced { "/namespaces/default" } else { "" };
    format!("{root}/{}{space}/{}", kind.version, kind.plural)
}

fn named(kind: &Kind, good: &Value, name: &str) -> Value {
    let mut object = json!({"apiVersion": kind.api_version(), "kind": kind.kind, "metadata": {"name": name}});
    patch::merge(&mut object, good);
    object
}

/// What can be compared of two objects that were made of the same.
fn bare(mut object: Value) -> String {
    let meta = object["metadata"].as_object_mut().expect("metadata");
    let uid = meta.get("uid").and_then(Value::as_str).unwrap_or("-").to_owned();
    let name = meta.get("name").and_then(Value::as_str).unwrap_or("-").to_owned();
    meta.retain(|field, _| matches!(field.as_str(), "labels" | "annotations" | "generation"));
    for field in ["clusterIP", "clusterIPs"] {
        object["spec"].as_object_mut().map(|spec| spec.remove(field));
    }
    // A job's labels hold its uid and name.
    object.to_string().replace(&uid, "UID").replace(&format!("\"{name}\""), "\"NAME\"")
}

fn check(world: &World, sample: &Sample, json: &str) {
    let (kind, of) = (row(sample.of), sample.of);
    let path = collection(kind);
    let name = format!("x{}", kind.version.len());
    let name = if kind.kind == "IPAddress" { "10.1.2.3" } else { &name };
    let object = named(kind, &sample.good, name);
    let post = |object: &Value| {
        world.ask("POST", &format!("{path}?fieldValidation=Strict"), json, object.to_string().as_bytes())
    };

    let mut unknown = object.clone();
    unknown.pointer_mut(sample.deep).expect(of)["unheardOf"] = 1.into();
    let words = post(&unknown).refusal(400);
    let dotted = sample.deep.trim_start_matches('/').split('/').next_back().expect("a path");
    assert!(words.contains("unknown field") && words.contains("unheardOf"), "{of}: {words}");
    assert!(dotted.parse::<usize>().is_ok() || words.contains(dotted), "{of}: {words}");

    let mut wrong = object.clone();
    let (pointer, value) = &sample.wrong;
    let (parent, field) = pointer.rsplit_once('/').expect(of);
    let parent = if parent.is_empty() { &mut wrong } else { wrong.pointer_mut(parent).expect(of) };
    parent[field] = value.clone();
    let words = post(&wrong).refusal(400);
    assert!(words.contains(field), "{of}: {words}");

    let made = post(&object);
    assert_eq!(made.code, 201, "{of}: {}", made.text());
    let made = made.json();
    if let Some((pointer, value)) = &sample.default {
        assert_eq!(made.pointer(pointer), Some(value), "{of}: {pointer} of {made}");
    }
    // The same again, in full and as a patch of what was sent, changes nothing.
    let own = format!("{path}/{name}");
    // As upstream has it, a job's own selector is not made up again for a replacement without one.
    let methods = [("PATCH", "application/merge-patch+json"), ("PUT", json)];
    for (method, content) in methods.into_iter().take(if kind.kind == "Job" { 1 } else { 2 }) {
        let again = world.ask(method, &own, content, object.to_string().as_bytes());
        assert_eq!(again.code, 200, "{of}: {}", again.text());
        assert_eq!(again.json()["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"], "{of}: {method}");
    }
    assert_eq!(world.ask("GET", &own, json, b"").json(), made, "{of}");
    if let Some(change) = &sample.fixed {
        let refused = world.ask("PATCH", &own, "application/merge-patch+json", change.to_string().as_bytes());
        assert_eq!(refused.code, 422, "{of}: {}", refused.text());
    }
    binary(world, kind, sample, &made);
    columns(world, kind, sample, &own);
    status(world, kind, &own, &made);
    let gone = world.ask("DELETE", &own, json, b"");
    assert_eq!(gone.code, 200, "{of}: {}", gone.text());
}

/// The same object sent as protobuf is the same object.
fn binary(world: &World, kind: &Kind, sample: &Sample, made: &Value) {
    let id = schema().kind(kind.group, kind.version, kind.kind).expect(sample.of);
    let name = match kind.kind {
        "IPAddress" => "10.1.2.4".to_owned(),
        // Two versions of a kind share their objects.
        _ => format!("binary-{}-{}", kind.version, kind.group),
    };
    let name = name.trim_end_matches('-');
    let bytes = protobuf::encode(id, &named(kind, &sample.good, name)).expect(sample.of);
    let answer = world.ask("POST", &collection(kind), "application/vnd.kubernetes.protobuf", &bytes);
    assert_eq!(answer.code, 201, "{}: {}", sample.of, answer.text());
    assert_eq!(bare(answer.json()), bare(made.clone()), "{}", sample.of);
}

fn columns(world: &World, kind: &Kind, sample: &Sample, own: &str) {
    let table = world.get_as(own, "application/json;as=Table;v=v1;g=meta.k8s.io").json();
    let definitions = table["columnDefinitions"].as_array().expect(sample.of);
    let shown: Vec<&str> =
        definitions.iter().filter(|c| c["priority"] == 0).filter_map(|c| c["name"].as_str()).collect();
    assert_eq!(shown.join(" "), sample.columns, "{}", sample.of);
    assert_eq!(table["rows"][0]["cells"].as_array().map(Vec::len), Some(definitions.len()), "{}", sample.of);
    assert!(kind.columns.iter().all(|c| !c.description.is_empty()), "{}", sample.of);
}

/// A status is written at its own address alone.
fn status(world: &World, kind: &Kind, own: &str, made: &Value) {
    if !kind.has(SubKind::Status) {
        return;
    }
    let read = world.ask("GET", &format!("{own}/status"), "application/json", b"");
    assert_eq!((read.code, &read.json()["metadata"]["uid"]), (200, &made["metadata"]["uid"]), "{own}");
    let label = br#"{"metadata":{"annotations":{"seen":"yes"}},"spec":{"nonsense":1}}"#;
    let patched = world.ask("PATCH", &format!("{own}/status"), "application/merge-patch+json", label).json();
    assert_eq!(patched["spec"], made["spec"], "{own}: a write to the status leaves the spec");
    assert_eq!(patched["metadata"]["generation"], made["metadata"]["generation"], "{own}");
}

#[test]
fn every_kind_takes_what_is_right_and_refuses_what_is_not() {
    let world = World::start();
    let samples = samples();
    // One bad kind does not hide the others.
    let bad: Vec<&str> = std::thread::scope(|scope| {
        let tries = samples.iter().map(|sample| {
            let tried = scope.spawn(|| check(&world, sample, "application/json")).join();
            tried.err().map(|_| sample.of)
        });
        tries.flatten().collect()
    });
    assert_eq!(bad, Vec::<&str>::new());
    let tried: Vec<&'static Kind> = samples.iter().map(|sample| row(sample.of)).collect();
    for kind in kinds::stored() {
        assert!(tried.iter().any(|tried| std::ptr::eq(*tried, kind)), "{} is not tried", kind.resource());
    }
}

#[test]
fn both_versions_of_an_autoscaler_are_one_object() {
    let world = World::start();
    let root = |version: &str| format!("/apis/autoscaling/{version}/namespaces/default/horizontalpodautoscalers");
    world.make(
        &root("v1"),
        &json!({"metadata": {"name": "h"}, "spec": {"maxReplicas": 3, "minReplicas": 2,
        "targetCPUUtilizationPercentage": 50, "scaleTargetRef": {"kind": "Deployment", "name": "d"}}}),
    );
    let new = world.ask("GET", &format!("{}/h", root("v2")), "application/json", b"").json();
    assert_eq!(new["apiVersion"], "autoscaling/v2");
    assert_eq!(new["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 50);
    let change = br#"{"spec":{"metrics":[{"type":"Pods","pods":{"metric":{"name":"rps"},"target":{"type":"AverageValue","averageValue":"5"}}}]}}"#;
    let changed = world.ask("PATCH", &format!("{}/h", root("v2")), "application/merge-patch+json", change);
    assert_eq!(changed.code, 200, "{}", changed.text());
    let old = world.ask("GET", &format!("{}/h", root("v1")), "application/json", b"").json();
    assert!(old["spec"].get("targetCPUUtilizationPercentage").is_none());
    assert_eq!(old["spec"]["minReplicas"], 2);
    // An update by the old face keeps what it can not say.
    let put = world.ask("PUT", &format!("{}/h", root("v1")), "application/json", old.to_string().as_bytes());
    assert_eq!(put.code, 200, "{}", put.text());
    let after = world.ask("GET", &format!("{}/h", root("v2")), "application/json", b"").json();
    assert_eq!(after["spec"]["metrics"], changed.json()["spec"]["metrics"]);
}
