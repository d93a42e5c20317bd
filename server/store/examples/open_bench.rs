//! How long a store takes to open: `open_bench DIR [OBJECTS]` fills a store in DIR with objects of
//! 1 kB once, and prints what opening it costs, the checkpoint read in this process and in a child
//! as the server does, after an orderly end and after a kill.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use coracle_store::embedded::{Embedded, Options, reader};
use coracle_store::{Commit, Key, MAX_CHANGES, Store};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["--read", directory] => {
            reader::serve(Path::new(directory), std::io::stdout().lock()).expect("the parent listens");
        }
        // Ends without closing: the journal is left as a kill leaves it.
        ["--kill", directory] => {
            let store = Embedded::open(Path::new(directory), Options::default()).expect("it opens");
            fill(&store, 2000);
            std::process::abort();
        }
        [directory] => measure(Path::new(directory), 150_000),
        [directory, count] => measure(Path::new(directory), count.parse().expect("a number of objects")),
        _ => eprintln!("usage: open_bench DIR [OBJECTS]"),
    }
}

fn key(number: usize) -> Key {
    Key::new("pods", format!("namespace-{}", number % 100), format!("object-{number}"))
}

fn fill(store: &Embedded, count: usize) {
    let value: Arc<[u8]> = vec![b'v'; 1000].into();
    for first in (0..count).step_by(MAX_CHANGES) {
        let numbers = first..count.min(first + MAX_CHANGES);
        let commit = numbers.fold(Commit::new(), |commit, number| commit.put(key(number), 1, value.clone()));
        smol::block_on(store.commit(commit)).expect("the disk works");
    }
}

fn measure(directory: &Path, count: usize) {
    let store = Embedded::open(directory, Options::default()).expect("it opens");
    if store.count("pods") < count {
        fill(&store, count);
    }
    drop(store);
    let own = std::env::current_exe().expect("a path");
    let place = directory.to_owned();
    let program = own.clone();
    let read = move || {
        let mut command = Command::new(&program);
        command.arg("--read").arg(&place);
        command
    };
    let child = Options { reader: Some(Arc::new(read)), ..Options::default() };
    for (name, options) in [("here", Options::default()), ("in a child", child)] {
        for (end, killed) in [("closed", false), ("killed", true)] {
            if killed {
                let _ = Command::new(&own).arg("--kill").arg(directory).status();
            }
            let started = Instant::now();
            let store = Embedded::open(directory, options.clone()).expect("it opens");
            println!("{} objects, read {name}, {end}: {:.3} s", store.count("pods"), started.elapsed().as_secs_f64());
        }
    }
}
