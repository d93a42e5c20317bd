use std::sync::Arc;

use coracle_shared::desired::{Cidr, DataItem, NodeConfig};
use serde_json::{Value, json};

use super::*;

fn pod(spec: Value) -> PodView {
    let mut view: PodView =
        serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec})).expect("a pod");
    view.metadata.uid = PodUid("u-1".into());
    view
}

fn with(volume: Value) -> PodView {
    let mut volume = volume;
    volume["name"] = "v".into();
    pod(json!({"volumes": [volume]}))
}

fn data(secret: bool, name: &str) -> Option<Arc<DataItem>> {
    let data = [("a".to_owned(), b"1".to_vec()), ("b".to_owned(), b"2".to_vec())].into();
    (name == "d").then(|| Arc::new(DataItem { secret, namespace: "shop".into(), name: name.into(), data }))
}

fn volumes() -> (tempfile::TempDir, Volumes) {
    let dir = tempfile::tempdir_in("/dev/shm").expect("a tmpfs");
    let volumes = Volumes::open(&dir.path().join("state"), &dir.path().join("run")).expect("volumes");
    (dir, volumes)
}

/// The files of the volume `v`, as `PATH:MODE=TEXT` words, or the error.
fn check(volume: Value, want: Result<&str, &str>) {
    let (_dir, volumes) = volumes();
    let view = with(volume);
    let planned = plan(&view, &Surroundings::default(), &data);
    let got =
        planned.and_then(|p| volumes.apply(view.uid(), &p, None).map(|()| volumes.source(view.uid(), "v", &p["v"])));
    match (got, want) {
        (Ok(dir), Ok(want)) => assert_eq!(list(&dir), want),
        (Err(error), Err(want)) => assert!(error.contains(want), "{error}"),
        (got, want) => panic!("{got:?}, wanted {want:?}"),
    }
}

fn list(dir: &Path) -> String {
    let mut names: Vec<_> = fs::read_dir(dir).expect("a directory").map(|e| e.expect("an entry").file_name()).collect();
    names.sort();
    let mut words = Vec::new();
    for name in names.iter().map(|n| n.to_string_lossy()).filter(|n| !n.starts_with("..")) {
        let path = dir.join(name.as_ref());
        let meta = fs::metadata(&path).expect("it is there");
        if meta.is_dir() {
            words.push(format!("{name}/[{}]", list(&path)));
        } else {
            words.push(format!(
                "{name}:{:o}={}",
                meta.permissions().mode() & 0o777,
                fs::read_to_string(&path).expect("text")
            ));
        }
    }
    words.join(" ")
}

#[test]
fn volumes_hold_what_they_should() {
    check(json!({"emptyDir": {}}), Ok(""));
    check(json!({"configMap": {"name": "d"}}), Ok("a:644=1 b:644=2"));
    check(json!({"secret": {"secretName": "d", "defaultMode": 0o400}}), Ok("a:400=1 b:400=2"));
    check(
        json!({"configMap": {"name": "d", "items": [{"key": "b", "path": "x/y", "mode": 0o755}]}}),
        Ok("x/[y:755=2]"),
    );
    check(json!({"configMap": {"name": "d", "items": [{"key": "b", "path": "../y"}]}}), Err("does not stay"));
    check(json!({"configMap": {"name": "d", "items": [{"key": "b", "path": "/y"}]}}), Err("does not stay"));
    check(json!({"configMap": {"name": "d", "items": [{"key": "c", "path": "c"}]}}), Err("has no key \"c\""));
    check(json!({"configMap": {"name": "none"}}), Err("configmap \"none\" not found"));
    check(json!({"secret": {"secretName": "none", "optional": true}}), Ok(""));
    check(
        json!({"downwardAPI": {"items": [{"path": "n", "fieldRef": {"fieldPath": "metadata.name"}}]}}),
        Ok("n:644=web"),
    );
    check(
        json!({"projected": {"sources": [{"configMap": {"name": "d", "items": [{"key": "a", "path": "c/a"}]}},
        {"secret": {"name": "d", "items": [{"key": "b", "path": "s/b"}]}}]}}),
        Ok("c/[a:644=1] s/[b:644=2]"),
    );
    check(json!({"nfs": {}}), Err("does not have"));
}

#[test]
fn host_paths_are_what_their_type_says() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    let host = |name: &str, kind: &str| json!({"hostPath": {"path": at(name), "type": kind}});
    check(host("d", "Directory"), Err("is not a directory"));
    check(host("d", "DirectoryOrCreate"), Ok(""));
    check(host("d", "Directory"), Ok(""));
    check(host("d", "File"), Err("is not a file"));
    check(host("d", "Socket"), Err("is not a socket"));
    check(host("d", "Whatever"), Err("not known"));
    check(json!({"hostPath": {"path": "/a/../etc"}}), Err("without .."));
    let view = with(host("f", "FileOrCreate"));
    let (_dir, volumes) = volumes();
    let planned = plan(&view, &Surroundings::default(), &data).expect("a plan");
    volumes.apply(view.uid(), &planned, None).expect("made");
    assert!(dir.path().join("f").is_file());
}

#[test]
fn files_change_all_at_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let payload = |files: &[(&str, &str)]| {
        let mut p = Payload::default();
        files.iter().for_each(|(k, v)| p.add(k, v.as_bytes().to_vec(), 0o644).expect("a path"));
        p
    };
    publish(dir.path(), &payload(&[("a", "1"), ("d/x", "1")]), None).expect("written");
    let first = fs::read_link(dir.path().join("..data")).expect("a link");
    publish(dir.path(), &payload(&[("a", "1"), ("d/x", "1")]), None).expect("nothing to do");
    assert_eq!(fs::read_link(dir.path().join("..data")).expect("a link"), first);
    // A reader that holds the old directory keeps seeing the old whole.
    let held = fs::File::open(dir.path().join("a")).expect("open");
    publish(dir.path(), &payload(&[("a", "2"), ("c", "2")]), None).expect("written");
    assert_eq!(list(dir.path()), "a:644=2 c:644=2");
    assert_eq!(io::read_to_string(held).expect("text"), "1");
    publish(dir.path(), &payload(&[]), None).expect("written");
    assert_eq!(list(dir.path()), "");
    // One directory of data is left, whatever happened before.
    let left = fs::read_dir(dir.path()).expect("entries").count();
    assert_eq!(left, 2);
}

#[test]
fn memory_is_bounded_and_taken_away() {
    let (_dir, volumes) = volumes();
    let view = with(json!({"emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}));
    let planned = plan(&view, &Surroundings::default(), &data).expect("a plan");
    volumes.apply(view.uid(), &planned, Some(7)).expect("a tmpfs; this test needs root");
    volumes.apply(view.uid(), &planned, Some(7)).expect("again");
    let path = volumes.source(view.uid(), "v", &planned["v"]);
    assert!(fs::write(path.join("big"), vec![0; 2 << 20]).is_err());
    volumes.remove(view.uid()).expect("removed");
    assert!(!volumes.in_memory(view.uid()).exists() && !volumes.on_disk(view.uid()).exists());
    volumes.remove(view.uid()).expect("removing what is not there is fine");
}

fn config() -> NodeConfig {
    let cidr = Cidr { address: std::net::Ipv4Addr::new(10, 42, 0, 0), prefix: 16 };
    NodeConfig {
        pod_cidr: None,
        cluster_cidr: cidr,
        service_cidr: cidr,
        dns_ip: std::net::Ipv4Addr::new(10, 43, 0, 10),
        domain: "cluster.local".into(),
    }
}

#[test]
fn names_are_resolved_by_policy() {
    let check = |spec: Value, want: &str| {
        assert_eq!(resolv_conf(&pod(spec), Some(&config()), "nameserver 9.9.9.9\nsearch lan\n"), want);
    };
    let cluster =
        "nameserver 10.43.0.10\nsearch shop.svc.cluster.local svc.cluster.local cluster.local lan\noptions ndots:5\n";
    check(json!({}), cluster);
    check(json!({"dnsPolicy": "ClusterFirst"}), cluster);
    check(json!({"hostNetwork": true}), "nameserver 9.9.9.9\nsearch lan\n");
    check(json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}), cluster);
    check(json!({"dnsPolicy": "Default"}), "nameserver 9.9.9.9\nsearch lan\n");
    let own = json!({"nameservers": ["1.1.1.1"], "searches": ["x"], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]});
    check(json!({"dnsPolicy": "None", "dnsConfig": own}), "nameserver 1.1.1.1\nsearch x\noptions ndots:2 edns0\n");
}

#[test]
fn hosts_name_the_pod() {
    let names = HostNames {
        pod_ip: Some(std::net::Ipv4Addr::new(10, 42, 0, 9)),
        domain: "cluster.local".into(),
        node_file: "127.0.0.1 node\n".into(),
    };
    assert!(hosts(&pod(json!({})), &names).ends_with("10.42.0.9\tweb\n"));
    let text =
        hosts(&pod(json!({"subdomain": "s", "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]})), &names);
    assert!(text.ends_with("10.42.0.9\tweb.s.shop.svc.cluster.local\tweb\n1.2.3.4\ta\tb\n"), "{text}");
    assert_eq!(hosts(&pod(json!({"hostNetwork": true})), &names), "127.0.0.1 node\n");
}
