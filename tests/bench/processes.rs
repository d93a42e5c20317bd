//! What processes cost: found by the program they run, helpers included, read from the kernel's counters.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::{CpuArgs, MemoryArgs, Outcome, PeakArgs, SpawnArgs, percentile, print};

/// How often memory is looked at for its peak.
const SAMPLE: Duration = Duration::from_millis(10);

/// Programs that run from memory have the same name in every cluster: the cgroup tells them apart.
const IN_MEMORY: &str = "/memfd:";

fn is_within(pid: u32, cgroup: Option<&str>) -> bool {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    cgroup.is_some_and(|cgroup| text.lines().any(|line| line.split('/').any(|part| part == cgroup)))
}

/// Processes that run one of the programs, in a state to be read. A replaced file's name ends in `(deleted)`.
fn running(programs: &[PathBuf], cgroup: Option<&str>) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let ours = |pid: &u32| {
        fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| {
            let exe = exe.to_string_lossy();
            let exe = Path::new(exe.trim_end_matches(" (deleted)"));
            programs.iter().any(|program| exe == program)
                && (!exe.to_string_lossy().starts_with(IN_MEMORY) || is_within(*pid, cgroup))
        })
    };
    pids.filter(ours).collect()
}

/// A field of `smaps_rollup` or `status` in KiB; none when the process has ended.
fn kib(pid: u32, file: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

fn proportional(pids: &[u32]) -> u64 {
    pids.iter().filter_map(|pid| kib(*pid, "smaps_rollup", "Pss:")).sum()
}

pub fn memory(args: &MemoryArgs) -> Outcome<()> {
    let pids = running(&args.programs, args.cgroup.as_deref());
    if pids.is_empty() {
        return Err(format!("nothing runs {:?}", args.programs).into());
    }
    print("processes", pids.len() as f64);
    print("pss_kib", proportional(&pids) as f64);
    let each = pids.iter().filter_map(|pid| kib(*pid, "smaps_rollup", "Pss:"));
    print("largest_pss_kib", each.max().unwrap_or(0) as f64);
    for (name, field) in [("anon_kib", "Pss_Anon:"), ("file_kib", "Pss_File:")] {
        print(name, pids.iter().filter_map(|pid| kib(*pid, "smaps_rollup", field)).sum::<u64>() as f64);
    }
    print("peak_kib", pids.iter().filter_map(|pid| kib(*pid, "status", "VmHWM:")).sum::<u64>() as f64);
    Ok(())
}

pub fn peak(args: &PeakArgs) -> Outcome<()> {
    let done = AtomicBool::new(false);
    let mut most = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            done.store(true, Ordering::Relaxed);
        });
        while !done.load(Ordering::Relaxed) {
            most = most.max(proportional(&running(&args.programs, args.cgroup.as_deref())));
            std::thread::sleep(SAMPLE);
        }
    });
    print("peak_pss_kib", most as f64);
    Ok(())
}

/// Nanoseconds on a CPU so far, of every thread, and of children that were waited for (those in ticks).
fn cpu_time(pids: &[u32]) -> u64 {
    let threads = pids.iter().flat_map(|pid| fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten());
    let own: u64 = threads
        .filter_map(|thread| {
            let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
            text.split_whitespace().next()?.parse::<u64>().ok()
        })
        .sum();
    let children = pids.iter().filter_map(|pid| {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut fields = text.rsplit_once(')')?.1.split_whitespace().skip(13);
        Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
    });
    own + children.sum::<u64>() * 10_000_000
}

pub fn cpu(args: &CpuArgs) -> Outcome<()> {
    let pids = running(&args.programs, args.cgroup.as_deref());
    if pids.is_empty() {
        return Err(format!("nothing runs {:?}", args.programs).into());
    }
    let each: Vec<(u32, u64)> = pids.iter().map(|pid| (*pid, cpu_time(&[*pid]))).collect();
    let begin = Instant::now();
    std::thread::sleep(Duration::from_secs(args.seconds));
    let seconds = begin.elapsed().as_secs_f64();
    if running(&args.programs, args.cgroup.as_deref()) != pids {
        return Err("processes came or went while measuring".into());
    }
    let mut total = 0;
    for (pid, before) in each {
        let used = cpu_time(&[pid]).saturating_sub(before);
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        eprintln!("{} {pid}: {:.3} ms in {seconds:.0} s", name.trim(), used as f64 / 1e6);
        total += used;
    }
    print("percent", total as f64 / 1e7 / seconds);
    Ok(())
}

pub fn spawn(args: &SpawnArgs) -> Outcome<()> {
    let mut times = Vec::new();
    for run in 0..args.runs {
        let number = run.to_string();
        let mut words = args.command.iter().map(|word| word.replace('@', &number));
        let mut command = Command::new(words.next().ok_or("which command?")?);
        command.args(words).stdin(Stdio::null()).stdout(Stdio::null());
        let begin = Instant::now();
        let status = command.status()?;
        times.push(begin.elapsed().as_secs_f64() * 1000.0);
        if !status.success() {
            return Err(format!("{:?}: {status}", args.command).into());
        }
    }
    print("p50_ms", percentile(&mut times, 0.5));
    Ok(())
}
