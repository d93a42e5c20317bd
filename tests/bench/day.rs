//! What happens on a busy day, as fast as it goes: deployments come and go, endpoints flip.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::http::{Client, Target, Watch};
use crate::{DeploymentsArgs, FlipsArgs, Outcome, print};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
const SERVICES: &str = "/api/v1/namespaces/default/services";
const PODS: &str = crate::pods::PODS;
/// The Service whose endpoint flips, and the label by which a pod is behind it.
const SERVICE: &str = "flips";
const LABEL: &str = "flips";
/// Deployments that are there at once.
const WAVE: usize = 10;

fn follow(target: &Target, client: &mut Client, path: &str) -> Outcome<Watch> {
    let list: Value = serde_json::from_slice(&client.good("GET", &format!("{path}?limit=1"), b"")?)?;
    let version = list["metadata"]["resourceVersion"].as_str().unwrap_or("0").to_owned();
    target.connect()?.watch(&format!("{path}?watch=1&resourceVersion={version}"))
}

fn deployment(name: &str, image: &str) -> Vec<u8> {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "replicas": 1, "selector": {"matchLabels": {"day": name}},
            "template": {
                "metadata": {"labels": {"day": name}},
                "spec": {
                    "terminationGracePeriodSeconds": 1, "automountServiceAccountToken": false,
                    "containers": [{
                        "name": "c", "image": image, "command": ["/bin/sh", "-c", "exec sleep 3600"],
                        "resources": {
                            "requests": {"cpu": "5m", "memory": "4Mi"}, "limits": {"cpu": "500m", "memory": "32Mi"},
                        },
                    }],
                },
            },
        },
    })
    .to_string()
    .into_bytes()
}

/// Deployments of one replica, made until available and taken away again, some at a time.
pub fn deployments(args: &DeploymentsArgs) -> Outcome<()> {
    let target = Target::read(&args.kubeconfig)?;
    let mut client = target.connect()?;
    let mut changes = follow(&target, &mut client, DEPLOYMENTS)?;
    let mut pods = follow(&target, &mut client, PODS)?;
    let names: Vec<String> = (0..args.count).map(|number| format!("day-{number}")).collect();
    for wave in names.chunks(WAVE) {
        for name in wave {
            client.good("POST", DEPLOYMENTS, &deployment(name, &args.image))?;
        }
        let mut missing: HashSet<&str> = wave.iter().map(String::as_str).collect();
        while !missing.is_empty() {
            let event = changes.next()?;
            if event["object"]["status"]["availableReplicas"] == 1 {
                missing.remove(event["object"]["metadata"]["name"].as_str().unwrap_or_default());
            }
        }
        for name in wave {
            client.good("DELETE", &format!("{DEPLOYMENTS}/{name}"), b"")?;
        }
        let mut left: HashSet<&str> = wave.iter().map(String::as_str).collect();
        while !left.is_empty() {
            let event = pods.next()?;
            if event["type"] == "DELETED" {
                left.remove(event["object"]["metadata"]["labels"]["day"].as_str().unwrap_or_default());
            }
        }
    }
    print("deployments", args.count as f64);
    Ok(())
}

/// Puts the pod behind the Service, or takes it away.
fn set_label(client: &mut Client, pod: &str, behind: bool) -> Outcome<()> {
    let path = format!("{PODS}/{pod}");
    loop {
        let mut object: Value = serde_json::from_slice(&client.good("GET", &path, b"")?)?;
        object["metadata"]["labels"][LABEL] = if behind { "yes" } else { "no" }.into();
        match client.request("PUT", &path, "application/json", object.to_string().as_bytes())? {
            (200, _) => return Ok(()),
            // The node reported in between.
            (409, _) => {}
            (status, answer) => return Err(format!("PUT {path}: {status} {}", String::from_utf8_lossy(&answer)).into()),
        }
    }
}

/// A pod goes behind a Service and away again; each time its slice is waited for.
pub fn flips(args: &FlipsArgs) -> Outcome<()> {
    let target = Target::read(&args.kubeconfig)?;
    let mut client = target.connect()?;
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": SERVICE},
        "spec": {"selector": {LABEL: "yes"}, "ports": [{"port": 80, "targetPort": 8080}]},
    });
    let mut slices = follow(&target, &mut client, SLICES)?;
    client.good("POST", SERVICES, service.to_string().as_bytes())?;
    for number in 0..args.count {
        let behind = number % 2 == 0;
        set_label(&mut client, &args.pod, behind)?;
        loop {
            let slice = &slices.next()?["object"];
            let ours = slice["metadata"]["labels"]["kubernetes.io/service-name"] == SERVICE;
            let some = slice["endpoints"].as_array().is_some_and(|list| !list.is_empty());
            if ours && some == behind {
                break;
            }
        }
    }
    print("flips", args.count as f64);
    Ok(())
}
