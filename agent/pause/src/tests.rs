use std::ffi::{CStr, CString};
use std::path::Path;

use proptest::prelude::*;

use super::*;

fn c(s: &str) -> CString {
    CString::new(s).unwrap()
}

fn start() -> Start<CString> {
    Start {
        id: c("web_0"),
        namespaces: unshare::PID | unshare::CGROUP,
        join: vec![c("/cg/tasks")],
        into: Some(c("/cg")),
        oom_file: Some(c("/cg/memory.events")),
        kill_file: None,
        oom_score_adj: Some(-998),
        trees: vec![
            Tree { path: c("/dev/null"), sub_path: None, recursive: false, shared: false },
            Tree { path: c("/v"), sub_path: Some(c("a/b")), recursive: true, shared: true },
        ],
        root: Root::Overlay {
            base: c("/l"),
            lowers: vec![c("b"), c("a")],
            upper: c("/u/fs"),
            work: c("/u/work"),
            attributes: 4,
        },
        steps: vec![
            Step::Directory { path: c("/dev/pts"), mode: 0o755 },
            Step::Symlink { path: c("/dev/fd"), target: c("/proc/self/fd") },
            Step::Node { path: c("/dev/kmsg"), mode: 0o20600, major: 1, minor: 11 },
            Step::Mount { kind: c("proc"), path: c("/proc"), flags: 14, data: c("") },
            Step::Attach { tree: 1, path: c("/data"), attributes: 5, propagation: 1 << 18 },
            Step::Mask { path: c("/proc/kcore") },
            Step::ReadOnly { path: c("/proc/sys") },
        ],
        read_only_root: true,
        log: Log { path: c("/run/0.log"), max_bytes: 1 << 20, max_files: 3 },
        stdin: 1,
        process: Process {
            argv: vec![c("/bin/web"), c("-p")],
            env: vec![c("A=b")],
            cwd: c("/"),
            uid: 33,
            gid: 34,
            groups: vec![40],
            capabilities: 0xa804_25fb,
            no_new_privileges: true,
            seccomp: vec![6, 0, 0, 0, 0, 0, 255, 127],
        },
    }
}

fn record() -> Record<CString> {
    let exit = Exit { code: 137, signal: 9, oom_killed: true, finished_at: 1_800_000_000_123 };
    Record { id: c("web_0"), started_at: 1_800_000_000_000, exit: Some(exit) }
}

fn sandbox() -> SandboxFile<CString> {
    SandboxFile {
        boot_id: c("boot"),
        hostname: c("host"),
        sysctls: vec![(c("net/ipv4/ip_forward"), c("1"))],
        host_pid: false,
        host_ipc: true,
        uid: c("uid"),
        namespace: c("default"),
        name: c("web"),
        created_at: 1_800_000_000_000,
        note: b"note".to_vec(),
    }
}

fn state() -> Vec<u8> {
    let mut w = Writer::default();
    encode_state_head(&mut w, c"boot");
    encode_state_known(&mut w, &Record { exit: None, ..record() });
    encode_state_known(&mut w, &Record { id: c("gone_0"), ..record() });
    encode_state_known(&mut w, &record());
    encode_state_removed(&mut w, c"gone_0");
    w.finish()
}

fn body(encode: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut w = Writer::default();
    encode(&mut w);
    w.finish()
}

/// Every message and file of this version, by name.
fn samples() -> Vec<(&'static str, Vec<u8>)> {
    let exec = Exec { container: c("web_0"), argv: vec![c("ls")], env: Some(vec![c("A=b")]) };
    let signal = Signal { container: c("web_0"), signal: 15 };
    let failure = Failure { stage: Stage::Exec, errno: 2, index: 7 };
    vec![
        ("hello", frame(request::HELLO, 0, 1, |w| Hello { min: 1, max: 1 }.encode(w))),
        ("start", frame(request::START, 0, 2, |w| start().encode(w))),
        ("exec", frame(request::EXEC, 3, 3, |w| exec.encode(w))),
        ("signal", frame(request::SIGNAL, 0, 4, |w| signal.encode(w))),
        ("remove", frame(request::REMOVE, 0, 5, |w| w.cstr(c"web_0"))),
        ("containers", frame(reply::CONTAINERS, 0, 6, |w| w.list(&[record()], |w, r| r.encode(w)))),
        ("failed", frame(reply::FAILED, 0, 7, |w| failure.encode(w))),
        ("exited", frame(reply::EXITED, 0, 0, |w| record().encode(w))),
        ("sandbox-file", body(|w| sandbox().encode(w))),
        ("state-file", state()),
    ]
}

/// What an agent of this version says, a pause of it must understand for as long as it runs, and
/// the other way round: these bytes never change. A new version adds a file.
#[test]
fn the_protocols_bytes_are_as_recorded() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/pause-v1.txt");
    let hex = |raw: &[u8]| raw.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let now: String = samples().iter().map(|(name, raw)| format!("{name} {}\n", hex(raw))).collect();
    if std::env::var_os("CORACLE_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, &now).unwrap();
    }
    let recorded = std::fs::read_to_string(&path).unwrap();
    for (was, is) in recorded.lines().zip(now.lines()) {
        assert_eq!(was, is);
    }
    assert_eq!(recorded.lines().count(), now.lines().count());
}

fn owned(s: &CStr) -> CString {
    s.to_owned()
}

#[test]
fn messages_survive_the_way() {
    let raw = body(|w| start().encode(w));
    let (decoded, process) = Start::decode(Reader::new(&raw)).unwrap();
    assert_eq!(body(|w| decoded.encode(w)), raw);
    assert_eq!(Process::decode(Reader::new(process)).unwrap(), decoded.process);
    let raw = body(|w| sandbox().encode(w));
    let decoded = SandboxFile::decode(Reader::new(&raw)).unwrap();
    assert_eq!((owned(decoded.uid), decoded.note.as_slice(), decoded.host_ipc), (c("uid"), &b"note"[..], true));
    let raw = frame(request::EXEC, 3, 9, |w| w.u8(7));
    let header = Header::decode(raw.first_chunk().unwrap()).unwrap();
    assert_eq!(header, Header { len: 1, kind: request::EXEC, fds: 3, request: 9 });
}

#[test]
fn what_is_appended_later_is_ignored() {
    let mut raw = body(|w| start().encode(w));
    raw.extend([1, 2, 3]);
    assert!(Start::decode(Reader::new(&raw)).is_ok());
}

#[test]
fn a_state_file_holds_what_was_not_removed_and_may_be_cut() {
    let raw = state();
    let (boot, records) = decode_state(&raw).unwrap();
    assert_eq!((boot, records.len()), (c"boot", 1));
    assert_eq!(records[0].exit, record().exit);
    // The removal was cut: the container is still known; the records before it stay.
    let (_, records) = decode_state(&raw[..raw.len() - 3]).unwrap();
    assert_eq!(records.len(), 2);
}

#[test]
fn frames_beyond_their_bounds_are_refused() {
    let check = |len: u32, fds: u8, ok: bool| {
        let mut raw = [0; HEADER];
        raw[..4].copy_from_slice(&len.to_le_bytes());
        raw[5] = fds;
        assert_eq!(Header::decode(&raw).is_ok(), ok, "{len} {fds}");
    };
    check(6, 0, true);
    check(MAX_FRAME as u32, 3, true);
    check(5, 0, false);
    check(MAX_FRAME as u32 + 1, 0, false);
    check(6, 4, false);
    check(u32::MAX, 0, false);
}

proptest! {
    #[test]
    fn foreign_bytes_never_panic(raw in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Start::decode(Reader::new(&raw));
        let _ = Exec::decode(Reader::new(&raw));
        let _ = Signal::decode(Reader::new(&raw));
        let _ = SandboxFile::decode(Reader::new(&raw));
        let _ = decode_state(&raw);
        let _ = Failure::decode(Reader::new(&raw));
    }

    #[test]
    fn a_cut_or_changed_start_never_panics(cut in 0usize..900, at in 0usize..900, byte: u8) {
        let mut raw = body(|w| start().encode(w));
        let n = raw.len();
        raw[at % n] = byte;
        let _ = Start::decode(Reader::new(&raw[..cut.min(n)]));
    }
}
