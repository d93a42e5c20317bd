//! The shape of the source: arrows that may not exist, homes of crates, where `unsafe` may stand,
//! and a ratchet on the length of files. DESIGN's boundaries, checked rather than remembered.

use std::fs;
use std::path::{Path, PathBuf};

/// A file of product code may be this long without its tests; past it, look for the second idea.
const MAX_FILE_LINES: usize = 500;

/// Files that are longer today, with the length they may not exceed. Shrink them; never add one
/// without a reason in the commit.
const LONG_FILES: &[(&str, usize)] = &[("images/src/unpack/extract.rs", 527)];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace").to_path_buf()
}

struct Source {
    /// Relative to the workspace, with `/`.
    path: String,
    text: String,
}

impl Source {
    /// The lines before the file's test module, comments taken out.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text
            .lines()
            .take_while(|line| !line.starts_with("#[cfg(test)]") && !line.starts_with("mod tests {"))
            .enumerate()
            .map(|(i, line)| (i + 1, line.split("//").next().unwrap_or("")))
    }

    fn is_test(&self) -> bool {
        let p = &self.path;
        p.starts_with("tests/")
            || p.contains("/tests/")
            || p.contains("/examples/")
            || p.contains("tests.rs")
            || p.contains("/fuzz/")
    }

    /// The longest room that contains this file: `server/src/api/http.rs` is in `server/api`.
    fn room(&self) -> String {
        self.path.replace("/src/", "/")
    }
}

fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    for top in ["shared", "images", "server", "agent", "tests"] {
        collect(&root().join(top), &mut found);
    }
    assert!(found.len() > 20, "only {} source files found under {}", found.len(), root().display());
    found
}

fn collect(dir: &Path, into: &mut Vec<Source>) {
    let mut entries: Vec<_> = fs::read_dir(dir).expect("readable directory").flatten().map(|e| e.path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            if path.file_name().is_some_and(|n| n != "target") {
                collect(&path, into);
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&path).expect("UTF-8 source");
            let path = path.strip_prefix(root()).expect("below the root").to_string_lossy().replace('\\', "/");
            into.push(Source { path, text });
        }
    }
}

/// True when `code` names `path` as a path: `path::`, `use path;` or `path as`.
fn names(code: &str, path: &str) -> bool {
    code.match_indices(path).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = &code[at + path.len()..];
        let starts = !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':');
        starts && (after.starts_with("::") || after.starts_with(';') || after.starts_with(" as "))
    })
}

fn report(title: &str, found: &[String]) {
    assert!(found.is_empty(), "{title}:\n  {}", found.join("\n  "));
}

/// Whether a file belongs to a room. The transport lies beside the pure core and is another room.
fn within(file: &str, room: &str) -> bool {
    file.starts_with(room) && (room != "shared/" || !file.starts_with("shared/transport/"))
}

#[test]
fn forbidden_arrows() {
    // (room prefix, paths it may not name, why)
    let arrows: &[(&str, &[&str], &str)] = &[
        (
            "shared/",
            &[
                "std::fs",
                "std::net::TcpStream",
                "std::net::UdpSocket",
                "std::process",
                "std::thread",
                "std::time::SystemTime",
                "std::time::Instant",
                "smol",
                "async_net",
                "rustix",
                "quinn",
                "hyper",
                "redb",
                "ureq",
            ],
            "the core has no I/O, clock or runtime",
        ),
        (
            "shared/transport/",
            &["coracle_server", "coracle_agent", "coracle_store", "std::fs", "hyper", "redb", "postcard"],
            "the transport carries bytes between agent and server",
        ),
        ("images/", &["coracle_server", "coracle_agent", "coracle_store"], "images knows neither server nor agent"),
        ("server/", &["coracle_agent", "coracle_pause"], "server and agent only share `shared`"),
        (
            "agent/",
            &["coracle_server", "coracle_store", "coracle_controllers", "coracle_scheduler"],
            "server and agent only share `shared`",
        ),
        ("server/api/", &["coracle_controllers", "coracle_scheduler"], "the API does not know the controllers"),
        (
            "server/controllers/",
            &["coracle_server", "coracle_images", "coracle_scheduler", "quinn", "hyper", "redb"],
            "controllers see the store and shared only",
        ),
        (
            "server/scheduler/",
            &["coracle_server", "coracle_images", "coracle_controllers", "quinn", "hyper", "redb"],
            "the scheduler sees the store and shared only",
        ),
        ("agent/link/", &["crate::runtime"], "the link comes up whatever the runtime does"),
        ("agent/runtime/", &["crate::network"], "runtime and network do not know each other"),
        ("agent/network/", &["crate::runtime"], "runtime and network do not know each other"),
    ];
    let mut found = Vec::new();
    for source in sources().iter().filter(|s| !s.is_test()) {
        for (room, targets, why) in arrows.iter().filter(|(room, ..)| within(&source.room(), room)) {
            for (line, code) in source.code() {
                for target in targets.iter().filter(|t| names(code, t)) {
                    found.push(format!("{}:{line}: names {target} ({room}: {why})", source.path));
                }
            }
        }
    }
    report("arrows that may not exist", &found);
}

#[test]
fn plans_are_pure() {
    let effects = [
        "std::fs",
        "std::net::TcpStream",
        "std::time::SystemTime",
        "std::time::Instant",
        "smol",
        "rustix",
        "async_net",
    ];
    let mut found = Vec::new();
    for source in sources().iter().filter(|s| !s.is_test() && s.path.ends_with("plan.rs")) {
        for (line, code) in source.code() {
            if code.contains("async ") || effects.iter().any(|e| names(code, e)) {
                found.push(format!("{}:{line}: {}", source.path, code.trim()));
            }
        }
    }
    report("effects in a plan", &found);
}

#[test]
fn crates_have_homes() {
    let homes: &[(&str, &[&str])] = &[
        ("redb", &["server/store/", "agent/ledger"]),
        ("quinn", &["shared/transport/"]),
        ("socket2", &["shared/transport/"]),
        ("postcard", &["shared/codec"]),
        ("cgroups_rs", &["agent/runtime/cgroup"]),
        ("hyper", &["server/api/"]),
        ("async_tungstenite", &["server/api/"]),
        ("rcgen", &["server/pki", "agent/identity"]),
        ("ureq", &["images/", "server/cli/"]),
        ("argh", &["server/main", "agent/main", "server/cli/"]),
    ];
    let mut found = Vec::new();
    for source in sources().iter().filter(|s| !s.is_test()) {
        for (krate, rooms) in homes {
            if rooms.iter().any(|room| source.room().starts_with(room)) {
                continue;
            }
            for (line, _) in source.code().filter(|(_, code)| names(code, krate)) {
                found.push(format!("{}:{line}: {krate} lives in {}", source.path, rooms.join(", ")));
            }
        }
    }
    report("crates named outside their home", &found);
}

/// How many lines above an unsafe block its reason may start.
const REASON_LINES: usize = 8;

#[test]
fn unsafe_lives_in_sys_and_says_why() {
    let homes = ["agent/src/sys.rs", "agent/src/sys/", "agent/pause/src/sys.rs", "agent/pause/src/sys/"];
    let mut found = Vec::new();
    for source in sources().iter().filter(|s| s.path != "tests/tidy.rs") {
        let lines: Vec<&str> = source.text.lines().collect();
        for (i, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            if !["unsafe {", "unsafe fn", "unsafe impl"].iter().any(|u| code.contains(u)) {
                continue;
            }
            if !homes.iter().any(|home| source.path.starts_with(home)) {
                found.push(format!("{}:{}: unsafe outside sys", source.path, i + 1));
            } else if !lines[i.saturating_sub(REASON_LINES)..=i]
                .iter()
                .any(|l| l.contains("SAFETY:") || l.contains("# Safety"))
            {
                found.push(format!("{}:{}: unsafe without a SAFETY reason", source.path, i + 1));
            }
        }
    }
    report("unsafe code", &found);
}

#[test]
fn files_hold_one_idea() {
    let mut found = Vec::new();
    for source in sources().iter().filter(|s| !s.is_test()) {
        let length = source.code().count();
        let allowed = LONG_FILES.iter().find(|(path, _)| *path == source.path).map_or(MAX_FILE_LINES, |(_, n)| *n);
        if length > allowed {
            found.push(format!("{}: {length} lines, {allowed} allowed", source.path));
        }
    }
    report("files that grew past their idea", &found);
}

#[test]
fn nothing_is_left_unfinished() {
    let marks = ["TODO", "FIXME", "unimplemented!(", "todo!("];
    let mut found = Vec::new();
    for source in sources().iter().filter(|s| s.path != "tests/tidy.rs") {
        for (number, line) in source.text.lines().enumerate() {
            if marks.iter().any(|mark| line.contains(mark)) {
                found.push(format!("{}:{}: {}", source.path, number + 1, line.trim()));
            }
        }
    }
    report("unfinished code", &found);
}

/// Formats of earlier releases are never changed, and none goes missing: a new one is added to the list
/// (`cd tests/golden && find . -type f ! -name SHA256SUMS | LC_ALL=C sort | xargs sha256sum > SHA256SUMS`).
#[test]
fn golden_files_are_what_they_were() {
    let golden = root().join("tests/golden");
    let listed = fs::read_to_string(golden.join("SHA256SUMS")).expect("the list of golden files");
    let mut names: Vec<&str> = listed.lines().filter_map(|line| line.split("  ").nth(1)).collect();
    names.sort_unstable();
    let found = std::process::Command::new("find")
        .args([".", "-type", "f", "!", "-name", "SHA256SUMS"])
        .current_dir(&golden)
        .output();
    let found = String::from_utf8(found.expect("find").stdout).expect("UTF-8 names");
    let mut there: Vec<&str> = found.lines().collect();
    there.sort_unstable();
    assert_eq!(there, names, "golden files and their list");
    let check = std::process::Command::new("sha256sum")
        .args(["--check", "--quiet", "SHA256SUMS"])
        .current_dir(&golden)
        .output();
    let check = check.expect("sha256sum");
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
}

#[test]
fn each_fault_names_its_test() {
    let table = fs::read_to_string(root().join("FAULTS.md")).expect("FAULTS.md");
    let rows: Vec<&str> = table
        .lines()
        .filter(|line| line.starts_with("| ") && !line.contains("**") && !line.contains("| Test |"))
        .collect();
    assert!(rows.len() > 30, "only {} faults in the table", rows.len());
    let mut found = Vec::new();
    for row in rows {
        let named = row.rsplit('`').nth(1).and_then(|cell| cell.split_once("::"));
        let exists = named.is_some_and(|(file, test)| {
            let text = fs::read_to_string(root().join(file)).unwrap_or_default();
            text.contains(&format!("fn {test}(")) || text.contains(&format!("\n{test}() {{"))
        });
        if !exists {
            found.push(row.to_owned());
        }
    }
    report("faults whose test does not exist", &found);
}
