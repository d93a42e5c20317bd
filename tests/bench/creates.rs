//! Objects over HTTPS: created for speed, created and deleted as a storm, and the API's documents.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use serde_json::{Value, json};

use crate::http::{Client, Target};
use crate::{CreatesArgs, DocumentsArgs, Outcome, StormArgs, percentile, print};

/// Bytes of data in an object, as TARGETS has it.
const DATA: usize = 1000;
const STORM_WRITERS: usize = 8;
const PATH: &str = "/api/v1/namespaces/default/configmaps";

fn config_map(name: &str) -> Vec<u8> {
    let data = "v".repeat(DATA);
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"v": data}})
        .to_string()
        .into_bytes()
}

/// Seconds in all, and milliseconds of each of `count` calls from as many connections as `writers`.
pub fn spread<C>(
    writers: usize,
    count: usize,
    connect: impl Fn() -> Outcome<C> + Sync,
    call: impl Fn(&mut C, usize) -> Outcome<()> + Sync,
) -> Outcome<(f64, Vec<f64>)>
where
    C: Send,
{
    let connections = (0..writers).map(|_| connect()).collect::<Outcome<Vec<C>>>()?;
    let next = AtomicUsize::new(0);
    let (next, call) = (&next, &call);
    let begin = Instant::now();
    let times = std::thread::scope(|scope| {
        let threads: Vec<_> = connections
            .into_iter()
            .map(|mut connection| {
                scope.spawn(move || -> Outcome<Vec<f64>> {
                    let mut times = Vec::new();
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= count {
                            return Ok(times);
                        }
                        let begin = Instant::now();
                        call(&mut connection, number)?;
                        times.push(begin.elapsed().as_secs_f64() * 1000.0);
                    }
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("a writer panicked")).collect::<Outcome<Vec<_>>>()
    })?;
    Ok((begin.elapsed().as_secs_f64(), times.concat()))
}

pub fn report(writes: usize, seconds: f64, mut times: Vec<f64>) {
    print("rate", writes as f64 / seconds);
    print("p50_ms", percentile(&mut times, 0.5));
    print("p99_ms", percentile(&mut times, 0.99));
}

pub fn api(args: &CreatesArgs) -> Outcome<()> {
    let target = Target::read(&args.kubeconfig)?;
    let connect = || {
        let mut client = target.connect()?;
        client.good("GET", "/version", b"")?;
        Ok(client)
    };
    let create = |client: &mut Client, number: usize| {
        client.good("POST", PATH, &config_map(&format!("{}-{number}", args.prefix)))?;
        Ok(())
    };
    let (seconds, times) = spread(args.writers, args.writes, connect, create)?;
    report(args.writes, seconds, times);
    Ok(())
}

pub fn storm(args: &StormArgs) -> Outcome<()> {
    let target = Target::read(&args.kubeconfig)?;
    let connect = || target.connect();
    let name = |number| format!("storm-{number}");
    let create = |client: &mut Client, number: usize| client.good("POST", PATH, &config_map(&name(number))).map(drop);
    let delete =
        |client: &mut Client, number: usize| client.good("DELETE", &format!("{PATH}/{}", name(number)), b"").map(drop);
    let (created, _) = spread(STORM_WRITERS, args.objects, connect, create)?;
    let (deleted, _) = spread(STORM_WRITERS, args.objects, connect, delete)?;
    print("created_s", created);
    print("deleted_s", deleted);
    Ok(())
}

pub fn documents(args: &DocumentsArgs) -> Outcome<()> {
    let mut client = Target::read(&args.kubeconfig)?.connect()?;
    let protobuf = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    for accept in ["application/json", protobuf] {
        let (status, body) = client.request("GET", "/openapi/v2", accept, b"")?;
        if status != 200 {
            return Err(format!("/openapi/v2 as {accept}: {status}").into());
        }
        print("openapi_v2_bytes", body.len() as f64);
    }
    let index: Value = serde_json::from_slice(&client.good("GET", "/openapi/v3", b"")?)?;
    let paths = index["paths"].as_object().ok_or("/openapi/v3 has no paths")?;
    let mut bytes = 0;
    for path in paths.values().filter_map(|path| path["serverRelativeURL"].as_str()) {
        bytes += client.good("GET", path, b"")?.len();
    }
    print("openapi_v3_bytes", bytes as f64);
    Ok(())
}
