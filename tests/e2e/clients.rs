//! Real kubectls, old and new, against a real cluster.

use coracle_tests::Cluster;

const VERSIONS: [&str; 3] = ["1.20", "1.32", "1.36"];

/// A namespace for each version, so that the tests can run side by side.
fn space(test: &str, version: &str) -> String {
    format!("{test}-{}", version.replace('.', "-"))
}

#[test]
fn nodes_and_pods_are_listed_as_people_know_them() {
    let cluster = Cluster::get();
    for version in VERSIONS {
        let nodes = cluster.kubectl(version, &["get", "nodes", "-o", "wide"]).good();
        let header: Vec<&str> = nodes.lines().next().unwrap_or_default().split_whitespace().collect();
        assert_eq!(header[..5], ["NAME", "STATUS", "ROLES", "AGE", "VERSION"], "{version}: {nodes}");
        for node in ["agent-1", "agent-2"] {
            assert!(nodes.lines().any(|l| l.starts_with(node) && l.contains(" Ready ")), "{version}: {nodes}");
        }
        let pods = cluster.kubectl(version, &["get", "pods", "-l", "app=web"]).good();
        assert!(pods.starts_with("NAME"), "{pods}");
        assert_eq!(pods.lines().filter(|l| l.contains("1/1") && l.contains("Running")).count(), 3, "{version}: {pods}");
        let deployment = cluster.kubectl(version, &["get", "deployment", "web"]).good();
        assert!(deployment.contains("3/3"), "{version}: {deployment}");
    }
}

#[test]
fn what_there_is_is_told_again_and_again() {
    let cluster = Cluster::get();
    for version in VERSIONS {
        // kubectl keeps the documents and asks whether they are still right.
        for _ in 0..3 {
            let resources = cluster.kubectl(version, &["api-resources"]).good();
            assert!(resources.contains("deployments") && resources.contains("pods"), "{version}: {resources}");
            let pods = cluster.kubectl(version, &["get", "po"]).good();
            assert!(pods.starts_with("NAME"), "{version}: {pods}");
            let field = cluster.kubectl(version, &["explain", "pod.spec.containers.image"]).good();
            assert!(field.contains("image"), "{version}: {field}");
        }
    }
}

#[test]
fn create_apply_and_delete() {
    let cluster = Cluster::get();
    for version in VERSIONS {
        let namespace = cluster.namespace(&space("objects", version));
        let n = namespace.name.as_str();
        let kubectl = |arguments: &[&str]| cluster.kubectl(version, &[arguments, &["-n", n]].concat());
        kubectl(&["create", "configmap", "settings", "--from-literal=color=blue"]).good();
        kubectl(&["create", "secret", "generic", "key", "--from-literal=password=opaque"]).good();
        kubectl(&["create", "serviceaccount", "robot"]).good();
        let again = kubectl(&["create", "configmap", "settings"]).bad();
        assert!(again.contains("configmaps \"settings\" already exists"), "{version}: {again}");
        let manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: applied}\ndata: {a: '1'}\n";
        let apply = |text: &str| cluster.kubectl_with(version, &["apply", "-n", n, "-f", "-"], text, &[]).good();
        assert!(apply(manifest).contains("created"), "{version}");
        assert!(apply(manifest).contains("unchanged"), "{version}");
        assert!(apply(&manifest.replace("'1'", "'2'")).contains("configured"), "{version}");
        assert_eq!(kubectl(&["get", "cm", "applied", "-o", "jsonpath={.data.a}"]).good(), "2");
        kubectl(&["label", "cm", "applied", "team=blue"]).good();
        let labelled = kubectl(&["get", "cm", "-l", "team=blue", "-o", "name"]).good();
        assert_eq!(labelled.trim(), "configmap/applied", "{version}");
        cluster
            .kubectl_with(version, &["edit", "-n", n, "cm", "applied"], "", &[("KUBE_EDITOR", "sed -i s/blue/red/")])
            .good();
        assert_eq!(kubectl(&["get", "cm", "applied", "-o", "jsonpath={.metadata.labels.team}"]).good(), "red");
        kubectl(&["delete", "cm", "applied"]).good();
        let gone = kubectl(&["get", "cm", "applied"]).bad();
        assert!(gone.contains("(NotFound)") && gone.contains("configmaps \"applied\" not found"), "{version}: {gone}");
    }
}

#[test]
fn a_deployment_is_applied_scaled_described_and_rolled() {
    let cluster = Cluster::get();
    for version in VERSIONS {
        let namespace = cluster.namespace(&space("deploy", version));
        let n = namespace.name.as_str();
        let manifest = MANIFEST.replace("@IMAGE@", &cluster.image());
        let kubectl = |arguments: &[&str]| cluster.kubectl(version, &[arguments, &["-n", n]].concat());
        let apply = || cluster.kubectl_with(version, &["apply", "-n", n, "-f", "-"], &manifest, &[]).good();
        assert!(apply().contains("created"));
        assert!(apply().lines().all(|line| line.ends_with("unchanged")), "{version}: a second apply changes nothing");
        let rollout = kubectl(&["rollout", "status", "deployment/app", "--timeout=120s"]).good();
        assert!(rollout.contains("successfully rolled out"), "{version}: {rollout}");
        kubectl(&["scale", "deployment/app", "--replicas=3"]).good();
        kubectl(&["rollout", "status", "deployment/app", "--timeout=120s"]).good();
        assert_eq!(kubectl(&["get", "deploy", "app", "-o", "jsonpath={.status.readyReplicas}"]).good(), "3");
        let described = kubectl(&["describe", "deployment", "app"]).good();
        for part in ["ScalingReplicaSet", "3 desired | 3 updated | 3 total | 3 available", "NewReplicaSet:"] {
            assert!(described.contains(part), "{version}: {part:?} is not in\n{described}");
        }
        let logs = kubectl(&["logs", "deployment/app", "--tail=1"]).good();
        assert_eq!(logs.trim(), "the server speaks", "{version}");
        let pod = kubectl(&["get", "pods", "-o", "jsonpath={.items[0].metadata.name}"]).good();
        let described = kubectl(&["describe", "pod", &pod]).good();
        for part in ["Successfully assigned", "Started", "Ready", "QoS Class"] {
            assert!(described.contains(part), "{version}: {part:?} is not in\n{described}");
        }
    }
}

const MANIFEST: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: app}
spec:
  replicas: 1
  selector: {matchLabels: {app: app}}
  template:
    metadata: {labels: {app: app}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: app
          image: "@IMAGE@"
          command: [sh, -c, "echo the server speaks; exec httpd -f -p 8080 -h /www"]
          ports: [{containerPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: app}
spec:
  selector: {app: app}
  ports: [{port: 80, targetPort: 8080}]
"#;

#[test]
fn bad_manifests_are_refused_with_the_field() {
    let cluster = Cluster::get();
    let namespace = cluster.namespace("bad");
    let check = |manifest: &str, parts: &[&str]| {
        let error = cluster.kubectl_with("1.32", &["create", "-n", &namespace.name, "-f", "-"], manifest, &[]).bad();
        for part in parts {
            assert!(error.contains(part), "{part:?} is not in {error}");
        }
    };
    check(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: c, image: x, ports: [{containerPort: 80, prot: TCP}]}]}",
        &["unknown field \"spec.containers[0].ports[0].prot\""],
    );
    check(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: c, image: x, ports: [{containerPort: eighty}]}]}",
        &["spec.containers[0].ports[0].containerPort"],
    );
    check(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: Upper}\nspec: {containers: [{name: c, image: x}]}",
        &["metadata.name", "Upper"],
    );
    check(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: c}]}",
        &["spec.containers[0].image: Required value"],
    );
    check(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: c, image: x, resources: {limits: {memory: lots}}}]}",
        &["spec.containers[0].resources.limits.memory", "quantities must match"],
    );
}

#[test]
fn exec_runs_in_the_container_and_tells_how_it_ended() {
    let cluster = Cluster::get();
    let pod =
        cluster.kubectl("1.32", &["get", "pods", "-l", "app=web", "-o", "jsonpath={.items[0].metadata.name}"]).good();
    for version in ["1.32", "1.36"] {
        let out = cluster.kubectl(version, &["exec", &pod, "--", "sh", "-c", "echo out; echo err >&2; hostname"]);
        assert_eq!((out.ok, out.out.as_str()), (true, &*format!("out\n{pod}\n")), "{version}: {out:?}");
        assert!(out.err.contains("err"), "{version}: {out:?}");
        let failed = cluster.kubectl(version, &["exec", &pod, "--", "sh", "-c", "exit 5"]).bad();
        assert!(failed.contains("exit code 5"), "{version}: {failed}");
        let echoed =
            cluster.kubectl_with(version, &["exec", "-i", &pod, "--", "cat"], "through and back\n", &[]).good();
        assert_eq!(echoed, "through and back\n", "{version}");
    }
    let old = cluster.kubectl("1.20", &["exec", &pod, "--", "true"]).bad();
    assert!(old.contains("1.32") || old.contains("WebSocket"), "it says what to do: {old}");
}

#[test]
fn typed_commands_of_every_sort_are_taken() {
    let cluster = Cluster::get();
    for version in VERSIONS {
        let namespace = cluster.namespace(&space("typed", version));
        let n = namespace.name.as_str();
        let kubectl = |arguments: &[&str]| cluster.kubectl(version, &[arguments, &["-n", n]].concat());
        let old = version == "1.20";
        kubectl(&["create", "role", "reader", "--verb=get,list", "--resource=pods"]).good();
        kubectl(&["create", "rolebinding", "readers", "--role=reader", "--user=jane"]).good();
        kubectl(&["create", "quota", "small", "--hard=pods=10"]).good();
        kubectl(&["create", "pdb", "two", "--selector=a=b", "--min-available=2"]).good();
        // 1.20 still sends a beta version of this, whose object is the same.
        kubectl(&["create", "cronjob", "nightly", "--image=i:1", "--schedule=@daily"]).good();
        // It knows no CronJob of the version that is preferred now.
        let job = if old { "--image=i:1" } else { "--from=cronjob/nightly" };
        kubectl(&["create", "job", "once", job]).good();
        kubectl(&["create", "ingress", "web", "--rule=a.example/=web:80"]).good();
        kubectl(&["create", "deployment", "idle", "--image=i:1", "--replicas=0"]).good();
        kubectl(&["autoscale", "deployment", "idle", "--max=3", "--cpu-percent=50"]).good();
        let lines = |kind: &str| kubectl(&["get", kind]).good();
        let header = |kind: &str| {
            lines(kind).lines().next().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(header("pdb"), "NAME MIN AVAILABLE MAX UNAVAILABLE ALLOWED DISRUPTIONS AGE", "{version}");
        assert_eq!(header("hpa"), "NAME REFERENCE TARGETS MINPODS MAXPODS REPLICAS AGE", "{version}");
        assert_eq!(header("ing"), "NAME CLASS HOSTS ADDRESS PORTS AGE", "{version}");
        assert!(lines("cj").contains("@daily") && lines("jobs").contains("0/1"), "{version}");
        assert!(lines("hpa").contains("Deployment/idle") && lines("hpa").contains("<unknown>/50%"), "{version}");
        for kind in [
            "pdb/two",
            "cronjob/nightly",
            "job/once",
            "ingress/web",
            "hpa/idle",
            "role/reader",
            "rolebinding/readers",
            "quota/small",
        ] {
            let described = kubectl(&["describe", kind]).good();
            assert!(described.contains(kind.split_once('/').map_or("", |(_, name)| name)), "{version}: {described}");
        }
        if !old {
            let explained = kubectl(&["explain", "cronjob.spec.schedule"]).good();
            assert!(explained.contains("schedule <string>"), "{version}: {explained}");
        }
    }
}

#[test]
fn a_server_side_apply_twice_changes_nothing_and_takes_over_a_client_side_one() {
    let cluster = Cluster::get();
    for version in VERSIONS {
        let namespace = cluster.namespace(&space("apply", version));
        let n = namespace.name.as_str();
        let kubectl = |arguments: &[&str]| cluster.kubectl(version, &[arguments, &["-n", n]].concat());
        let apply = |text: &str, more: &[&str]| {
            cluster.kubectl_with(version, &[&["apply", "-n", n, "-f", "-"], more].concat(), text, &[])
        };
        let manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {x: '1', y: '1'}\n";
        let at = || kubectl(&["get", "cm", "a", "-o", "jsonpath={.metadata.resourceVersion}"]).good();
        assert!(apply(manifest, &["--server-side"]).good().contains("serverside-applied"), "{version}");
        let first = at();
        apply(manifest, &["--server-side"]).good();
        assert_eq!(at(), first, "{version}");
        let other = apply(&manifest.replace("x: '1'", "x: '2'"), &["--server-side", "--field-manager=other"]).bad();
        assert!(other.contains("conflict with \"kubectl\"") && other.contains(".data.x"), "{version}: {other}");
        // From client-side apply to server-side: what is left out then goes.
        let manifest = manifest.replace("name: a", "name: b");
        apply(&manifest, &[]).good();
        apply(&manifest.replace(", y: '1'", "").replace("x: '1'", "x: '3'"), &["--server-side"]).good();
        assert_eq!(kubectl(&["get", "cm", "b", "-o", "jsonpath={.data}"]).good(), r#"{"x":"3"}"#, "{version}");
    }
}

#[test]
fn people_ask_what_they_may() {
    let cluster = Cluster::get();
    for version in VERSIONS {
        let namespace = cluster.namespace(&space("rights", version));
        let n = namespace.name.as_str();
        let kubectl = |arguments: &[&str]| cluster.kubectl(version, &[arguments, &["-n", n]].concat());
        assert_eq!(kubectl(&["auth", "can-i", "delete", "nodes"]).good().lines().last(), Some("yes"), "{version}");
        kubectl(&["create", "rolebinding", "jane", "--clusterrole=view", "--user=jane"]).good();
        let as_jane = |arguments: &[&str]| kubectl(&[arguments, &["--as=jane"]].concat());
        assert_eq!(as_jane(&["auth", "can-i", "list", "pods"]).good().trim(), "yes", "{version}");
        let no = as_jane(&["auth", "can-i", "create", "pods"]);
        assert_eq!((no.ok, no.out.trim()), (false, "no"), "{version}: {no:?}");
        as_jane(&["get", "pods,deployments"]).good();
        let refused = as_jane(&["create", "configmap", "x"]).bad();
        let words =
            format!("User \"jane\" cannot create resource \"configmaps\" in API group \"\" in the namespace \"{n}\"");
        assert!(refused.contains(&words), "{version}: {refused}");
        let list = as_jane(&["auth", "can-i", "--list"]).good();
        assert!(list.contains("deployments.apps") && list.contains("[get list watch]"), "{version}: {list}");
        if version != "1.20" {
            let who = as_jane(&["auth", "whoami"]).good();
            assert!(who.contains("jane") && who.contains("system:authenticated"), "{version}: {who}");
        }
    }
}
