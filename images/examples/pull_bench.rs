//! Pulls about 100 MB of compressed layers from a registry on the loopback until they are unpacked,
//! verified and synced, and compares with `gzip -dc | tar -x` and `sync` of the same files.
//!
//! `pull_bench [--runs N] [DIR]` prints one JSON line a figure. Runs alternate, so that both sides see
//! the same machine; the figures are medians. DIR (by default a temporary directory) decides the file
//! system. Owners are kept on both sides, so it runs as root.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use coracle_images::{Config, Images, Platform, Policy, Sha256};
use serde_json::json;

/// Four layers of about 25 MB as they travel.
const LAYERS: u64 = 4;
const LAYER_BYTES: u64 = 64 << 20;
const TARGET_RATIO: f64 = 0.7;
const TARGET_MEMORY: f64 = 40.0;

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("unpack-layer") {
        return coracle_images::unpack::child_main();
    }
    let mut runs = 3;
    let mut base = std::env::temp_dir();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--runs" => runs = arguments.next().and_then(|n| n.parse().ok()).unwrap_or(runs),
            path => base = path.into(),
        }
    }
    let dir = tempfile::Builder::new().prefix("pull-bench-").tempdir_in(base).expect("a directory to work in");
    measure(dir.path(), runs);
    ExitCode::SUCCESS
}

fn measure(dir: &Path, runs: usize) {
    let blobs = dir.join("blobs");
    fs::create_dir(&blobs).expect("create");
    let layers: Vec<(PathBuf, Sha256)> = (0..LAYERS).map(|seed| make_layer(&blobs, seed)).collect();
    let compressed: u64 = layers.iter().map(|(path, _)| fs::metadata(path).expect("stat").len()).sum();
    let address = serve(&blobs, &layers);
    let (mut pulls, mut references, mut peaks) = (Vec::new(), Vec::new(), Vec::new());
    for run in 0..runs {
        let (seconds, peak) = pull(&dir.join(format!("pull-{run}")), &address);
        pulls.push(seconds);
        peaks.push(peak);
        references.push(gzip_and_tar(&dir.join(format!("tar-{run}")), &layers));
    }
    let (value, reference, peak) = (median(pulls), median(references), median(peaks));
    let sha256 = Sha256::of(&fs::read("/proc/self/exe").expect("this program")).hex();
    let ratio = value / reference;
    println!(
        "{}",
        json!({"name": "image-pull/gzip-tar", "value": value, "unit": "s", "target": TARGET_RATIO, "reference": reference,
               "ratio": ratio, "ok": ratio <= TARGET_RATIO, "sha256": sha256, "compressed_bytes": compressed})
    );
    println!(
        "{}",
        json!({"name": "image-pull/peak-memory", "value": peak, "unit": "MiB", "target": TARGET_MEMORY, "reference": null,
               "ratio": null, "ok": peak <= TARGET_MEMORY, "sha256": sha256})
    );
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Files of 1 KiB to 2 MiB that compress to about 40 %, as programs and libraries do.
fn make_layer(blobs: &Path, seed: u64) -> (PathBuf, Sha256) {
    let mut state = seed * 2 + 0x9e37_79b9_7f4a_7c15;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut archive = tar::Builder::new(Vec::new());
    let mut written = 0;
    while written < LAYER_BYTES {
        let size = 1u64 << (10 + next() % 12);
        let mut data = Vec::with_capacity(size as usize + 64);
        while (data.len() as u64) < size {
            match next() % 8 {
                0..3 => (0..6).for_each(|_| data.extend_from_slice(&next().to_le_bytes())),
                word => data.extend_from_slice(
                    &b"the quick brown fox jumps over the lazy dog again, again and "[word as usize * 4..],
                ),
            }
        }
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(1_000_000_000);
        let path = format!("layer-{seed}/{:02x}/{written:x}", next() % 64);
        archive.append_data(&mut header, path, data.as_slice()).expect("append");
        written += data.len() as u64;
    }
    let tar = archive.into_inner().expect("finish");
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(&tar).expect("compress");
    let blob = encoder.finish().expect("compress");
    let path = blobs.join(Sha256::of(&blob).hex());
    fs::write(&path, blob).expect("write");
    (path, Sha256::of(&tar))
}

/// A registry with one image, `bench:1`; it reads blobs from disk for each request.
fn serve(blobs: &Path, layers: &[(PathBuf, Sha256)]) -> String {
    let host = Platform::host();
    let diff_ids: Vec<String> = layers.iter().map(|(_, diff_id)| diff_id.to_string()).collect();
    let config =
        json!({"os": host.os, "architecture": host.architecture, "rootfs": {"diff_ids": diff_ids}}).to_string();
    fs::write(blobs.join(Sha256::of(config.as_bytes()).hex()), &config).expect("write");
    let describe = |path: &PathBuf| {
        let hex = path.file_name().expect("a blob's name").to_string_lossy().into_owned();
        json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": format!("sha256:{hex}"),
               "size": fs::metadata(path).expect("stat").len()})
    };
    let manifest = json!({"schemaVersion": 2,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                   "digest": Sha256::of(config.as_bytes()).to_string(), "size": config.len()},
        "layers": layers.iter().map(|(path, _)| describe(path)).collect::<Vec<_>>()})
    .to_string();
    fs::write(blobs.join("1"), manifest).expect("write");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let blobs = blobs.to_owned();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let blobs = blobs.clone();
            std::thread::spawn(move || answer(stream, &blobs));
        }
    });
    address
}

fn answer(mut stream: TcpStream, blobs: &Path) {
    let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
    let mut line = String::new();
    let mut target = String::new();
    while reader.read_line(&mut line).is_ok_and(|count| count > 0) {
        if let Some(rest) = line.strip_prefix("GET ") {
            target = rest.split(' ').next().unwrap_or_default().to_owned();
        }
        if line == "\r\n" {
            let name = target.rsplit(['/', ':']).next().unwrap_or_default();
            let Ok(mut file) = File::open(blobs.join(name)) else { return };
            let length = file.metadata().expect("stat").len();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
            if stream.write_all(head.as_bytes()).and_then(|()| std::io::copy(&mut file, &mut stream)).is_err() {
                return;
            }
        }
        line.clear();
    }
}

/// Seconds, and the most MiB resident in this process and its children together. The registry lives
/// in this process too, so the figure is an upper bound.
fn pull(dir: &Path, address: &str) -> (f64, f64) {
    settle();
    let peak = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    let seconds = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                peak.fetch_max(resident(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let reference = format!("{address}/bench:1").parse().expect("a name");
        let images = Images::open(dir, Config::default()).expect("open");
        let start = Instant::now();
        let quiet = |_| std::ops::ControlFlow::Continue(());
        let pulled = images.ensure(&reference, Policy::Always, &[], &Platform::host(), &quiet);
        let seconds = start.elapsed().as_secs_f64();
        done.store(true, Ordering::Relaxed);
        assert_eq!(pulled.expect("pull").layers.len() as u64, LAYERS);
        seconds
    });
    fs::remove_dir_all(dir).expect("remove");
    (seconds, peak.into_inner() as f64 / 1024.0)
}

/// KiB, with shared pages counted in each process.
fn resident() -> u64 {
    let own = std::process::id().to_string();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let statuses = processes.filter_map(|entry| {
        let mut text = String::new();
        File::open(entry.path().join("status")).ok()?.read_to_string(&mut text).ok()?;
        Some(text)
    });
    let field = |text: &str, key: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(key))?.split_whitespace().next()?.to_owned();
        Some(line)
    };
    statuses
        .filter(|text| [field(text, "Pid:"), field(text, "PPid:")].iter().flatten().any(|pid| *pid == own))
        .filter_map(|text| field(&text, "VmRSS:")?.parse::<u64>().ok())
        .sum()
}

/// Seconds of what a shell would do.
fn gzip_and_tar(dir: &Path, layers: &[(PathBuf, Sha256)]) -> f64 {
    fs::create_dir(dir).expect("create");
    settle();
    let start = Instant::now();
    for (at, (path, _)) in layers.iter().enumerate() {
        let target = dir.join(at.to_string());
        fs::create_dir(&target).expect("create");
        let script = format!("gzip -dc {} | tar -C {} -xf -", path.display(), target.display());
        shell(&script);
    }
    shell(&format!("sync -f {}", dir.display()));
    let seconds = start.elapsed().as_secs_f64();
    fs::remove_dir_all(dir).expect("remove");
    seconds
}

/// What others have written reaches the disk before the clock runs.
fn settle() {
    shell("sync");
}

fn shell(script: &str) {
    assert!(Command::new("sh").args(["-c", script]).status().expect("sh").success(), "{script}");
}
