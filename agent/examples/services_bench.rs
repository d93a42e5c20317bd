//! How long services take to reach the kernel: 1,000 services of 3 endpoints loaded, and one endpoint
//! changed. Prints one JSON line a figure; needs root, and works in a network namespace of its own.

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use coracle_agent::network::{Network, NetworkConfig};
use coracle_shared::desired::{Backend, Cidr, NodeConfig, Protocol, ServiceItem, ServicePort};

const SERVICES: u16 = 1000;
const ENDPOINTS: u16 = 3;
/// Changes timed; the median is the figure.
const CHANGES: usize = 101;
/// Set in the copy of this program that runs in its own namespace.
const INSIDE: &str = "CORACLE_BENCH_INSIDE";

fn service(number: u16) -> ServiceItem {
    let [high, low] = number.to_be_bytes();
    let backend = |i: u16| {
        let [_, last] = (i + 2).to_be_bytes();
        Backend { address: Ipv4Addr::new(10, 42, last, low), port: 8080, hostname: None, ready: true }
    };
    let port = ServicePort {
        name: String::new(),
        protocol: Protocol::Tcp,
        port: 80,
        node_port: None,
        backends: (0..ENDPOINTS).map(backend).collect(),
    };
    ServiceItem {
        namespace: "default".into(),
        name: format!("service-{number}"),
        cluster_ip: Some(Ipv4Addr::new(10, 43, high + 1, low)),
        external_name: None,
        affinity: None,
        ports: vec![port],
    }
}

fn print(figure: &str, seconds: f64, target: f64) {
    println!(
        r#"{{"name":"services/{figure}","value":{seconds:.6},"unit":"s","target":{target},"ok":{}}}"#,
        seconds <= target
    );
}

fn measure() -> Result<(), Box<dyn std::error::Error>> {
    let directory = std::env::temp_dir().join(format!("coracle-services-bench-{}", std::process::id()));
    let network = Network::new(NetworkConfig {
        uplink: Some("bench0".into()),
        dns_program: None,
        ..NetworkConfig::new(directory.clone(), PathBuf::new())
    })?;
    let cidr = |a, b, prefix| Cidr { address: Ipv4Addr::new(10, a, b, 0), prefix };
    network.configure(&NodeConfig {
        pod_cidr: Some(cidr(42, 1, 24)),
        cluster_cidr: cidr(42, 0, 16),
        service_cidr: cidr(43, 0, 16),
        dns_ip: Ipv4Addr::new(10, 43, 0, 10),
        domain: "cluster.local".into(),
    })?;
    let mut services: Vec<_> = (0..SERVICES).map(service).collect();
    let start = Instant::now();
    network.set_services(&services)?;
    print("load-1000x3", start.elapsed().as_secs_f64(), 0.1);

    let mut changes = Vec::with_capacity(CHANGES);
    for i in 0..CHANGES {
        let backend = &mut services[500].ports[0].backends[1];
        backend.port = 9000 + i as u16;
        let start = Instant::now();
        network.set_services(&services)?;
        changes.push(start.elapsed().as_secs_f64());
    }
    changes.sort_by(f64::total_cmp);
    print("one-endpoint", changes[CHANGES / 2], 0.002);
    network.teardown()?;
    std::fs::remove_dir(&directory)?;
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    if std::env::var_os(INSIDE).is_some() {
        return measure();
    }
    let set_up = "ip link set lo up; ip link add bench0 type veth peer bench1; ip addr add 172.30.0.1/24 dev bench0; \
                  ip link set bench0 up; ip link set bench1 up; exec \"$0\"";
    let status = Command::new("unshare")
        .args(["--net", "sh", "-euc", set_up])
        .arg(std::env::current_exe()?)
        .env(INSIDE, "1")
        .status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("measuring failed: {status}")).into()) }
}
