//! The power of a node is cut, again and again, in the middle of its work.
//!
//! The node runs in a machine with a disk that outlives it, mounted so that a missing sync shows: what
//! was not synced is not written behind the program's back. The agent traces the stages of its work; a
//! cut is an end of QEMU at a random moment of a stage, and counts only when the trace holds that
//! stage's beginning and not its end. Then the machine boots with the server away, and everything that
//! the ledger has to have runs again, its image whole; the server returns, and nothing restarts.
//!
//! `CORACLE_CUTS` is the number of cuts in each stage (`scripts/powercuts.sh`), `CORACLE_SEED` replays
//! the moments.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use coracle_tests::{run_words, until};

use crate::PATIENCE;
use crate::disk::{Root, programs, work_dir};
use crate::host::{Host, is_true};
use crate::machine::{Arch, Machine, Plan, boot_files};

/// Cuts in each stage unless `CORACLE_CUTS` says otherwise.
const CUTS: u32 = 4;
/// A stage that was missed this often in a row is not met at all.
const MISSES: u32 = 12;
/// ext4 by default hides a missing fsync before a rename, and writes everything after five seconds.
const MOUNT: &str = "noauto_da_alloc,commit=1000";
/// Images are collected when the disk is this full, in percent, and a little more.
const FULL: u64 = 87;
/// The first guess of how long a stage lasts; what is seen replaces it.
const GUESS: Duration = Duration::from_millis(200);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Pulling,
    Unpacking,
    Starting,
    Persisting,
    Collecting,
}

const STAGES: [Stage; 5] = [Stage::Pulling, Stage::Unpacking, Stage::Starting, Stage::Persisting, Stage::Collecting];

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Stage::Pulling => "pulling",
            Stage::Unpacking => "unpacking",
            Stage::Starting => "starting",
            Stage::Persisting => "persisting",
            Stage::Collecting => "collecting",
        }
    }
}

/// splitmix64: moments that a seed brings back.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound.max(1)
    }
}

/// The node, its disk, and what it has to run after the next boot.
struct Site {
    host: Host,
    disk: PathBuf,
    image: u32,
    collections: u32,
    /// UID by name.
    pods: BTreeMap<String, String>,
    lengths: BTreeMap<Stage, Duration>,
    random: Random,
}

#[test]
fn power_cuts_in_every_stage_lose_nothing() {
    let number = |name: &str, default: u64| {
        std::env::var(name)
            .map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number: {text}")))
    };
    let wanted = number("CORACLE_CUTS", CUTS.into());
    let seed = number("CORACLE_SEED", u64::from(std::process::id()));
    println!("power cuts: {wanted} in each stage, CORACLE_SEED={seed}");
    let mut site = Site::new(Random(seed));
    let mut cuts: BTreeMap<Stage, u64> = BTreeMap::new();
    let mut machine = site.first_boot();
    let mut misses = 0;
    while let Some(stage) = STAGES
        .into_iter()
        .filter(|s| cuts.get(s).is_none_or(|n| *n < wanted))
        .min_by_key(|s| cuts.get(s).copied().unwrap_or(0))
    {
        let inside = site.cut_in(stage, machine);
        misses = if inside { 0 } else { misses + 1 };
        assert!(misses < MISSES, "no cut met the stage {}", stage.name());
        if inside {
            *cuts.entry(stage).or_default() += 1;
        }
        let began = Instant::now();
        machine = site.boot_without_server();
        site.server_returns(&mut machine);
        println!(
            "power cuts: {} {}, recovered in {:?}; {cuts:?}",
            stage.name(),
            if inside { "cut" } else { "missed" },
            began.elapsed()
        );
    }
}

impl Site {
    fn new(random: Random) -> Site {
        let host = Host::start(&work_dir());
        let mut root = Root::new(&boot_files(Arch::Amd64).join("busybox"));
        root.add_tools();
        for program in ["coracle-agent", "coracle-pause"] {
            root.add_program(&programs().join(program));
        }
        root.write("etc/registries.json", &host.registries_for_machines());
        let disk = work_dir().join("power.ext4");
        root.small_image(&disk);
        Site { host, disk, image: 0, collections: 0, pods: BTreeMap::new(), lengths: BTreeMap::new(), random }
    }

    fn power_on(&self) -> Machine {
        Machine::boot(&Plan { name: "power", arch: Arch::Amd64, disk: &self.disk, mount: MOUNT, forwards: &[] })
    }

    fn start_agent(machine: &mut Machine, more: &str) {
        let bin = programs();
        machine.sh(&format!(
            "{}/coracle-agent --state /var/coracle --name machine --trace --registries /etc/registries.json {more} >/dev/coracle.trace 2>&1 &",
            bin.display()
        ));
    }

    /// The node joins and runs two pods, and has an image that nobody uses.
    fn first_boot(&mut self) -> Machine {
        let mut machine = self.power_on();
        let join = format!("--join '{}'", self.host.join_line());
        Site::start_agent(&mut machine, &join);
        self.host.wait("node", "machine", "Ready", |node| is_true(node, "Ready"));
        for name in ["keeper", "cut"] {
            self.create_pod(name);
            self.host.wait("pod", name, "Running", |pod| pod["status"]["phase"] == "Running");
        }
        machine
    }

    /// A pod with an image that no other has: it checks its files whenever it starts.
    fn create_pod(&mut self, name: &str) {
        self.image += 1;
        let image = self.push_image(&format!("data-{}", self.image));
        let script = "cd /data && sha256sum -c -s ../sums && echo whole || echo broken; exec sleep 1000000";
        self.host.apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  \
             containers: [{{name: c, image: \"{image}\", command: [\"/bin/sh\", \"-c\", \"{script}\"]}}]\n"
        ));
        let uid = self.host.object("pod", name)["metadata"]["uid"].as_str().expect("a uid").to_owned();
        self.pods.insert(name.to_owned(), uid);
    }

    /// Random bytes, which take long to arrive; many files and long runs of one byte, which take long to unpack.
    fn push_image(&self, name: &str) -> String {
        let layer = self.host.path(&format!("layers/{name}"));
        let script = format!(
            "mkdir -p {0}/data {0}/bin; cd {0}/data; head -c 2000000 /dev/urandom >random; \
             head -c 8000000 /dev/zero | tr '\\0' x >run; for i in $(seq 300); do echo {name} $i >file-$i; done; sha256sum * >../sums",
            layer.display()
        );
        run_words(&["sh", "-euc", &script]).good();
        self.host.push_layer(name, "amd64", &boot_files(Arch::Amd64).join("busybox"), &layer)
    }

    /// Brings the stage about, cuts the power in it; whether the trace says that it was in it.
    fn cut_in(&mut self, stage: Stage, mut machine: Machine) -> bool {
        if stage != Stage::Collecting {
            self.pods.remove("cut");
            self.host.coracle(&["delete", "pod", "cut", "--grace-period", "0"]).good();
            until("the old pod is gone", || self.host.object("pod", "cut").is_null());
            machine.until("[ $(ls -d /sys/fs/cgroup/coracle/machine/pods/*/ | wc -l) = 1 ]");
        }
        let seen = fs::read_to_string(&machine.trace).expect("a trace").len();
        match stage {
            Stage::Collecting => self.fill(&mut machine),
            _ => self.create_pod("cut"),
        }
        self.strike(stage, machine, seen)
    }

    /// Waits until the stage begins behind what was `seen` of the trace, and cuts a random moment later.
    fn strike(&mut self, stage: Stage, machine: Machine, seen: usize) -> bool {
        let trace = machine.trace.clone();
        let (begin, end) = (format!("trace: begin {}", stage.name()), format!("trace: end {}", stage.name()));
        let text = || fs::read_to_string(&trace).expect("a trace")[seen..].to_owned();
        let limit = Instant::now() + PATIENCE;
        while !text().contains(&begin) {
            assert!(Instant::now() < limit, "the stage {} never began:\n{}", stage.name(), text());
            thread::sleep(Duration::from_millis(1));
        }
        let length = self.lengths.get(&stage).copied().unwrap_or(GUESS);
        let began = Instant::now();
        let moment = Duration::from_micros(self.random.below(u64::try_from(length.as_micros()).expect("short")));
        while began.elapsed() < moment {
            thread::sleep(Duration::from_millis(1));
            if text().contains(&end) {
                // Shorter than was thought: known for the next time.
                self.lengths.insert(stage, began.elapsed());
                break;
            }
        }
        machine.cut();
        let text = text();
        let inside = text.matches(&begin).count() > text.matches(&end).count();
        let acted = |uid: &str| ["pulling", "starting"].iter().any(|s| text.contains(&format!("begin {s} {uid}")));
        if stage != Stage::Collecting && !self.pods.get("cut").is_some_and(|uid| acted(uid)) {
            // Nothing is acted on before the ledger has it; before that it comes when the server returns.
            self.pods.remove("cut");
        }
        inside
    }

    /// Everything in the ledger runs again, with whole images, and nobody told the node to.
    fn boot_without_server(&mut self) -> Machine {
        self.host.stop_server();
        let mut machine = self.power_on();
        machine.sh("rm -f /var/ballast");
        Site::start_agent(&mut machine, "");
        self.all_whole(&mut machine);
        machine
    }

    fn all_whole(&self, machine: &mut Machine) {
        for uid in self.pods.values() {
            machine.until(&format!("grep -rqE 'whole|broken' /run/coracle/machine/logs/{uid}"));
        }
        let (broken, code) = machine.run("grep -rl broken /run/coracle/machine/logs");
        assert_eq!(code, 1, "an image is not whole: {broken}");
    }

    /// The server comes back: what runs is left alone, what it wants beside that comes to run.
    fn server_returns(&mut self, machine: &mut Machine) {
        let pids = |machine: &mut Machine, uid: &str| {
            machine.sh(&format!("cat /sys/fs/cgroup/coracle/machine/pods/{uid}/c_*/cgroup.procs"))
        };
        let before: Vec<(String, String)> = self.pods.values().map(|uid| (uid.clone(), pids(machine, uid))).collect();
        let seen = fs::read_to_string(&machine.trace).expect("a trace").len();
        self.host.start_server();
        until("the node is connected again", || {
            fs::read_to_string(&machine.trace).expect("a trace")[seen..].contains("link: connected")
        });
        for name in ["keeper", "cut"] {
            let running = self.host.wait("pod", name, "Running", |pod| pod["status"]["phase"] == "Running");
            let uid = running["metadata"]["uid"].as_str().expect("a uid").to_owned();
            self.pods.insert(name.to_owned(), uid);
        }
        self.all_whole(machine);
        for (uid, pids_before) in before {
            assert_eq!(pids(machine, &uid), pids_before, "the server's return restarted pod {uid}");
        }
    }

    /// Makes a collection due: old images that nobody uses, and a disk that is nearly full.
    fn fill(&mut self, machine: &mut Machine) {
        // Each time later than the last: an image that was used in the last minutes is left alone.
        self.collections += 1;
        machine.sh(&format!("date -s @$(( $(date +%s) + {} )) >/dev/null", 7200 * self.collections));
        machine.sh(&format!("set -- $(df -m / | tail -n 1); fallocate -l $(( $2 * {FULL} / 100 - $3 ))M /var/ballast"));
    }
}
