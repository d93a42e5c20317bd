//! How long reads take while something else goes on: GETs, and news on their way to a watch.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::http::Target;
use crate::{LatencyArgs, Outcome, percentile, print};

/// A namespace that nothing else of the benchmark writes to.
const PATH: &str = "/api/v1/namespaces/kube-public/configmaps";
/// Between two GETs, and between two of the objects that the watch waits for.
const PAUSE: Duration = Duration::from_millis(5);
/// The object that is read.
const READ: &str = "/api/v1/namespaces/default";

/// GETs one after another; beside them objects are created, whose events a watch waits for.
pub fn run(args: &LatencyArgs) -> Outcome<()> {
    let target = Target::read(&args.kubeconfig)?;
    let mut client = target.connect()?;
    let list: serde_json::Value = serde_json::from_slice(&client.good("GET", &format!("{PATH}?limit=1"), b"")?)?;
    let version = list["metadata"]["resourceVersion"].as_str().unwrap_or("0").to_owned();
    let mut events = target.connect()?.watch(&format!("{PATH}?watch=1&resourceVersion={version}"))?;
    let mut writer = target.connect()?;
    let ended = AtomicBool::new(false);
    let acknowledged: Mutex<HashMap<String, Instant>> = Mutex::default();
    let last = format!("{}-last", args.prefix);
    let (seen, mut gets) = std::thread::scope(|scope| {
        let writes = scope.spawn(|| -> Outcome<()> {
            let mut number = 0;
            loop {
                let end = ended.load(Ordering::Relaxed);
                let name = if end { last.clone() } else { format!("{}-{number}", args.prefix) };
                let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}).to_string();
                writer.good("POST", PATH, body.as_bytes())?;
                acknowledged.lock().expect("no panic").insert(name, Instant::now());
                if end {
                    return Ok(());
                }
                number += 1;
                std::thread::sleep(PAUSE);
            }
        });
        let watch = scope.spawn(|| -> Outcome<Vec<(String, Instant)>> {
            let mut seen = Vec::new();
            loop {
                let event = events.next()?;
                let name = event["object"]["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                let end = name == last;
                seen.push((name, Instant::now()));
                if end {
                    return Ok(seen);
                }
            }
        });
        let begin = Instant::now();
        let mut gets = Vec::new();
        while begin.elapsed() < Duration::from_secs(args.seconds) {
            let asked = Instant::now();
            client.good("GET", READ, b"")?;
            gets.push(asked.elapsed().as_secs_f64() * 1000.0);
            std::thread::sleep(PAUSE);
        }
        ended.store(true, Ordering::Relaxed);
        writes.join().expect("the writer panicked")?;
        Outcome::Ok((watch.join().expect("the watcher panicked")?, gets))
    })?;
    let acknowledged = acknowledged.into_inner().expect("no panic");
    let mut news: Vec<f64> = seen
        .iter()
        .filter_map(|(name, at)| Some(at.saturating_duration_since(*acknowledged.get(name)?).as_secs_f64() * 1000.0))
        .collect();
    print("gets", gets.len() as f64);
    print("get_p50_ms", percentile(&mut gets, 0.5));
    print("get_p99_ms", percentile(&mut gets, 0.99));
    print("news", news.len() as f64);
    print("watch_p50_ms", percentile(&mut news, 0.5));
    print("watch_p99_ms", percentile(&mut news, 0.99));
    Ok(())
}
