//! Pods from POST to Running: one after another, and all at once.

use std::collections::HashMap;
use std::io::Write as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::creates::spread;
use crate::http::{Client, Target, Watch};
use crate::{Outcome, PodStartArgs, PodStormArgs, percentile, print};

pub const PODS: &str = "/api/v1/namespaces/default/pods";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const SECRET: &str = "bench";
/// Between two starts in sequence, so that one's late work is not the next one's time.
const PAUSE: Duration = Duration::from_millis(50);

pub fn stamp() -> Outcome<()> {
    let now = since_1970();
    println!("{now:.9}");
    std::io::stdout().flush()?;
    loop {
        std::thread::park();
    }
}

fn since_1970() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// With limits, a Secret volume and an address, as TARGETS asks.
fn manifest(name: &str, image: &str, shell: Option<&str>, probe: Option<u16>) -> Vec<u8> {
    let command = match shell {
        Some(words) => json!(["/bin/sh", "-c", words]),
        None => json!(["/bin/coracle-bench", "stamp"]),
    };
    let mut container = json!({
        "name": "c", "image": image, "imagePullPolicy": "IfNotPresent", "command": command,
        "resources": {"requests": {"cpu": "5m", "memory": "4Mi"}, "limits": {"cpu": "500m", "memory": "64Mi"}},
        "volumeMounts": [{"name": "secret", "mountPath": "/secret"}],
    });
    if let Some(port) = probe {
        container["readinessProbe"] = json!({"httpGet": {"path": "/", "port": port}, "periodSeconds": 5});
    }
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"bench": "pods"}},
        "spec": {
            "containers": [container], "terminationGracePeriodSeconds": 1, "automountServiceAccountToken": false,
            "volumes": [{"name": "secret", "secret": {"secretName": SECRET}}],
        },
    })
    .to_string()
    .into_bytes()
}

fn secret(client: &mut Client) -> Outcome<()> {
    let body = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET},
                      "stringData": {"password": "open sesame"}})
    .to_string();
    match client.request("POST", SECRETS, "application/json", body.as_bytes())? {
        (201 | 409, _) => Ok(()),
        (status, answer) => Err(format!("the Secret: {status} {}", String::from_utf8_lossy(&answer)).into()),
    }
}

pub fn watch(target: &Target, client: &mut Client) -> Outcome<Watch> {
    let list: Value = serde_json::from_slice(&client.good("GET", &format!("{PODS}?limit=1"), b"")?)?;
    let version = list["metadata"]["resourceVersion"].as_str().unwrap_or("0").to_owned();
    target.connect()?.watch(&format!("{PODS}?watch=1&resourceVersion={version}"))
}

/// Reads events until `wanted` says so; a pod that failed without being deleted is a failed measurement.
pub fn until(watch: &mut Watch, mut wanted: impl FnMut(&str, &str, &Value) -> bool) -> Outcome<()> {
    loop {
        let event = watch.next()?;
        let kind = event["type"].as_str().unwrap_or_default();
        let object = &event["object"];
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let deleted = object["metadata"]["deletionTimestamp"].is_string();
        if kind == "ERROR" || (object["status"]["phase"] == "Failed" && !deleted) {
            return Err(format!("{kind} {name}: {object}").into());
        }
        if wanted(kind, name, object) {
            return Ok(());
        }
    }
}

fn is_running(object: &Value) -> bool {
    object["status"]["phase"] == "Running"
}

pub fn start(args: &PodStartArgs) -> Outcome<()> {
    let target = Target::read(&args.kubeconfig)?;
    let mut client = target.connect()?;
    secret(&mut client)?;
    let mut events = watch(&target, &mut client)?;
    let (mut times, mut begins, mut spans) = (Vec::new(), Vec::new(), String::new());
    for number in 0..args.pods {
        let name = format!("start-{number}");
        let body = manifest(&name, &args.image, None, None);
        let (begin, begin_wall) = (Instant::now(), since_1970());
        client.good("POST", PODS, &body)?;
        until(&mut events, |_, of, object| of == name && is_running(object))?;
        times.push(begin.elapsed().as_secs_f64() * 1000.0);
        begins.push((name, begin_wall));
        spans += &format!("{begin_wall:.6} {:.6}\n", since_1970());
        std::thread::sleep(PAUSE);
    }
    if let Some(path) = &args.spans {
        std::fs::write(path, spans)?;
    }
    first_lines(&mut client, &begins)?;
    print("p50_ms", percentile(&mut times, 0.5));
    print("p99_ms", percentile(&mut times, 0.99));
    clear(&mut client, &mut events, begins.into_iter().map(|(name, _)| name).collect())
}

/// From each pod's POST to the time its container printed.
fn first_lines(client: &mut Client, begins: &[(String, f64)]) -> Outcome<()> {
    let mut lines = Vec::new();
    for (name, begin) in begins {
        let log = client.good("GET", &format!("{PODS}/{name}/log"), b"")?;
        let text = String::from_utf8_lossy(&log);
        let time: f64 = text.trim().parse().map_err(|_| format!("{name} printed {text:?}"))?;
        lines.push((time - begin) * 1000.0);
    }
    print("first_line_p50_ms", percentile(&mut lines, 0.5));
    print("first_line_p99_ms", percentile(&mut lines, 0.99));
    Ok(())
}

pub fn storm(args: &PodStormArgs) -> Outcome<()> {
    let target = Target::read(&args.kubeconfig)?;
    let mut client = target.connect()?;
    secret(&mut client)?;
    let mut events = watch(&target, &mut client)?;
    let prefix = if args.keep { "keep" } else { "storm" };
    let names: Vec<String> = (0..args.pods).map(|number| format!("{prefix}-{number}")).collect();
    let (begin, begin_wall) = (Instant::now(), since_1970());
    let (target, names_of) = (&target, &names);
    let seconds = std::thread::scope(|scope| {
        let creates = scope.spawn(move || {
            let create = |client: &mut Client, number: usize| {
                let body = manifest(&names_of[number], &args.image, args.shell.as_deref(), args.probe);
                client.good("POST", PODS, &body).map(drop)
            };
            spread(args.writers, args.pods, || target.connect(), create)
        });
        let mut running: HashMap<String, f64> = HashMap::new();
        until(&mut events, |_, name, object| {
            if name.starts_with(prefix) && is_running(object) {
                running.entry(name.into()).or_insert_with(|| begin.elapsed().as_secs_f64());
            }
            running.len() == args.pods
        })?;
        print("created_s", creates.join().expect("a writer panicked")?.0);
        let mut times: Vec<f64> = running.into_values().collect();
        print("half_s", percentile(&mut times, 0.5));
        Outcome::Ok(percentile(&mut times, 1.0))
    })?;
    print("all_s", seconds);
    if args.shell.is_none() {
        let begins: Vec<(String, f64)> = names.iter().map(|name| (name.clone(), begin_wall)).collect();
        first_lines(&mut client, &begins)?;
    }
    if args.keep { Ok(()) } else { clear(&mut client, &mut events, names) }
}

/// Deletes the pods and waits until they are gone.
fn clear(client: &mut Client, events: &mut Watch, mut names: Vec<String>) -> Outcome<()> {
    let begin = Instant::now();
    for name in &names {
        client.good("DELETE", &format!("{PODS}/{name}"), b"")?;
    }
    until(events, |kind, gone, _| {
        if kind == "DELETED" {
            names.retain(|name| name != gone);
        }
        names.is_empty()
    })?;
    print("deleted_s", begin.elapsed().as_secs_f64());
    Ok(())
}
