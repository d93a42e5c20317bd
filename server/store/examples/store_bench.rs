//! Measures the embedded store against the disk below it. Prints one JSON line a figure.
//!
//! `store_bench DIRECTORY [WRITES [PART]]`: the directory must be on the disk to measure; what is
//! made in it is removed again. PART is speed, amplification or start; all without.
//! `store_bench --open DIRECTORY` opens a store in a process of its own and prints the seconds it
//! took, its objects and the resident memory; `--fill DIRECTORY` prints
//! the memory of a process that made and updated 10,000 objects.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use coracle_store::{Commit, Embedded, Key, Options, Store};
use smol::block_on;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const VALUE: usize = 1000;
/// Turns of raw log and store when their speed is compared.
const TURNS: u64 = 20;
/// Objects that the updates of the write amplification pick from.
const UPDATED: u64 = 10_000;

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().ok_or("usage: store_bench DIRECTORY [WRITES [PART]]")?;
    if directory == "--open" {
        return open(Path::new(&arguments.next().ok_or("usage: store_bench --open DIRECTORY")?));
    }
    if directory == "--fill" {
        return fill(Path::new(&arguments.next().ok_or("usage: store_bench --fill DIRECTORY")?));
    }
    let directory = PathBuf::from(directory);
    let writes: u64 = arguments.next().map_or(Ok(20_000), |text| text.parse())?;
    let directory = directory.join(format!("store-bench-{}", std::process::id()));
    fs::create_dir_all(&directory)?;
    let result = match arguments.next().as_deref() {
        None => speed(&directory, writes)
            .and_then(|()| amplifications(&directory, writes))
            .and_then(|()| starts(&directory)),
        Some("speed") => speed(&directory, writes),
        Some("amplification") => amplifications(&directory, writes),
        Some("start") => starts(&directory),
        Some(other) => Err(format!("no such part: {other}").into()),
    };
    fs::remove_dir_all(&directory)?;
    result
}

/// One writer against the raw log in short turns, so that both see the same machine; medians of the turns.
fn speed(directory: &Path, writes: u64) -> Outcome<()> {
    let (path, store) = fresh(directory)?;
    let turn = (writes / 2 / TURNS).max(1);
    let (mut raws, mut ones) = (Vec::new(), Vec::new());
    for number in 0..TURNS {
        raws.push(raw(directory, turn)?);
        let create = |write: u64| Commit::new().create(key(number * turn + write), 1, value(write));
        ones.push(run(&store, 1, turn, create)?);
    }
    drop(store);
    fs::remove_dir_all(path)?;
    let (raw, one) = (median(raws), median(ones));
    print("raw-append-fdatasync", raw, "1/s");
    print("create/1w", one, "1/s");
    print("raw-over-create/1w", raw / one, "ratio");
    print("create/64w", creates(directory, 64, writes * 5)?, "1/s");
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn amplifications(directory: &Path, writes: u64) -> Outcome<()> {
    for writers in [1, 64] {
        let (bytes, flushes, rate) = amplification(directory, writers, writes * writers.min(4))?;
        print(&format!("write-amp/{writers}w"), bytes, "B/update");
        print(&format!("flushes/{writers}w"), flushes, "1/update");
        print(&format!("update/{writers}w"), rate, "1/s");
    }
    Ok(())
}

fn starts(directory: &Path) -> Outcome<()> {
    let empty = start(directory, 0)?.1;
    for objects in [1_000, 10_000, 150_000] {
        let (seconds, memory) = start(directory, objects)?;
        print(&format!("start/{objects}"), seconds, "s");
        print(&format!("memory/{objects}"), (memory - empty) / objects as f64, "B/object");
    }
    Ok(())
}

fn print(name: &str, value: f64, unit: &str) {
    println!("{{\"name\":\"store/{name}\",\"value\":{value:.3},\"unit\":\"{unit}\"}}");
}

/// What a plain log does: append 1 kB, fdatasync.
fn raw(directory: &Path, writes: u64) -> Outcome<f64> {
    let path = directory.join("raw");
    let mut file = fs::File::create(&path)?;
    let bytes = [b'r'; VALUE];
    let start = Instant::now();
    for _ in 0..writes {
        file.write_all(&bytes)?;
        file.sync_data()?;
    }
    let rate = writes as f64 / start.elapsed().as_secs_f64();
    fs::remove_file(path)?;
    Ok(rate)
}

fn fresh(directory: &Path) -> Outcome<(PathBuf, Embedded)> {
    let path = directory.join("store");
    if path.exists() {
        fs::remove_dir_all(&path)?;
    }
    let store = Embedded::open(&path, Options::default())?;
    Ok((path, store))
}

fn key(number: u64) -> Key {
    Key::new("configmaps", "default", format!("object-{number:08}"))
}

fn value(number: u64) -> Vec<u8> {
    let mut value = vec![b'v'; VALUE];
    value[..8].copy_from_slice(&number.to_le_bytes());
    value
}

/// Runs `writes` commits from as many tasks on one executor, as the server does.
fn run(store: &Embedded, writers: u64, writes: u64, commit: impl Fn(u64) -> Commit + Sync) -> Outcome<f64> {
    let executor = smol::LocalExecutor::new();
    let start = Instant::now();
    let commit = &commit;
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            executor.spawn(async move {
                for number in (writer..writes).step_by(writers as usize) {
                    store.commit(commit(number)).await?;
                }
                Ok::<(), coracle_store::CommitError>(())
            })
        })
        .collect();
    block_on(executor.run(async {
        for task in tasks {
            task.await?;
        }
        Ok::<(), coracle_store::CommitError>(())
    }))?;
    Ok(writes as f64 / start.elapsed().as_secs_f64())
}

fn creates(directory: &Path, writers: u64, writes: u64) -> Outcome<f64> {
    let (_, store) = fresh(directory)?;
    run(&store, writers, writes, |number| Commit::new().create(key(number), 1, value(number)))
}

/// Bytes that reach the block device and its cache flushes for each update, and the updates a second.
fn amplification(directory: &Path, writers: u64, writes: u64) -> Outcome<(f64, f64, f64)> {
    let (path, store) = fresh(directory)?;
    run(&store, 64, UPDATED, |number| Commit::new().create(key(number), 1, value(number)))?;
    rustix::fs::sync();
    let before = written(&path)?;
    // A multiplier without a common divisor scatters the keys.
    let scattered = |number: u64| number.wrapping_mul(0x9E37_79B9_7F4A_7C15) % UPDATED;
    let rate = run(&store, writers, writes, |number| Commit::new().put(key(scattered(number)), 1, value(number)))?;
    rustix::fs::sync();
    let after = written(&path)?;
    let each = |field: usize| (after[field] - before[field]) as f64 / writes as f64;
    Ok((each(0), each(1), rate))
}

/// Bytes written so far to the block device that holds a path, and its cache flushes.
fn written(path: &Path) -> Outcome<[u64; 2]> {
    use std::os::unix::fs::MetadataExt;
    let device = fs::metadata(path)?.dev();
    let numbers = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    let text = fs::read_to_string(format!("/sys/dev/block/{numbers}/stat"))?;
    let fields: Vec<u64> = text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    match fields.get(6) {
        Some(sectors) => Ok([sectors * 512, fields.get(15).copied().unwrap_or(0)]),
        None => Err("the device's statistics end early".into()),
    }
}

/// Seconds to open a store of `objects`, and the memory of the process that did, in bytes.
fn start(directory: &Path, objects: u64) -> Outcome<(f64, f64)> {
    let (path, store) = fresh(directory)?;
    run(&store, 64, objects, |number| Commit::new().create(key(number), 1, value(number)))?;
    drop(store);
    let output = std::process::Command::new(std::env::current_exe()?).arg("--open").arg(&path).output()?;
    let text = String::from_utf8(output.stdout)?;
    let numbers: Vec<f64> = text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    match numbers[..] {
        [seconds, count, memory] if count == objects as f64 => Ok((seconds, memory)),
        _ => Err(format!("opening again printed {text:?}: {}", String::from_utf8_lossy(&output.stderr)).into()),
    }
}

/// Memory after a storm of updates: history, checkpoints and all.
fn fill(directory: &Path) -> Outcome<()> {
    let (path, store) = fresh(directory)?;
    let empty = resident()?;
    run(&store, 64, UPDATED, |number| Commit::new().create(key(number), 1, value(number)))?;
    let put = |number: u64| Commit::new().put(key(number.wrapping_mul(7919) % UPDATED), 1, value(number));
    run(&store, 64, 10 * UPDATED, put)?;
    print("memory/10000-updated", (resident()? - empty) as f64 / UPDATED as f64, "B/object");
    for number in 0..UPDATED {
        block_on(store.commit(Commit::new().delete(key(number))))?;
    }
    print("memory/all-deleted", (resident()? - empty) as f64, "B");
    drop(store);
    Ok(fs::remove_dir_all(path)?)
}

fn open(path: &Path) -> Outcome<()> {
    let start = Instant::now();
    let store = Embedded::open(path, Options::default())?;
    println!("{} {} {}", start.elapsed().as_secs_f64(), store.count("configmaps"), resident()?);
    Ok(())
}

/// Private resident memory of this process in bytes.
fn resident() -> Outcome<u64> {
    let text = fs::read_to_string("/proc/self/statm")?;
    let mut pages = text.split_whitespace().skip(1).map(str::parse::<u64>);
    let (resident, shared) = (pages.next().ok_or("statm ends early")??, pages.next().ok_or("statm ends early")??);
    Ok((resident - shared) * 4096)
}
