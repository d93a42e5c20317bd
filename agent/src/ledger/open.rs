//! Opening the ledger of a node that may have lost power, or its card's honesty.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Resource, Rlimit, setrlimit};

use super::{Contents, FileDisk, Ledger, LedgerError, Seal};

/// The hidden subcommand with which the agent's own program tries a ledger: `check-ledger FILE KEY`.
pub const CHECK_COMMAND: &str = "check-ledger";

/// An open ledger and what it holds.
#[derive(Debug)]
pub struct Opened {
    pub ledger: Ledger,
    pub contents: Contents,
    /// The former file did not open and was moved here: the server refills the new one.
    pub moved_aside: Option<(PathBuf, String)>,
}

/// Processor time after which the child is ended, in seconds: a ledger is read in a fraction of one,
/// and a bent page can send its reader round in circles.
const CHECK_SECONDS: u64 = 60;
/// Address space of the child: a bent length must not drive a small board out of memory.
const CHECK_BYTES: u64 = 512 << 20;

/// What the child does first: whatever is in the file, it ends.
///
/// # Errors
/// The kernel refuses the limits.
pub fn confine_check() -> io::Result<()> {
    let at_most = |most| Rlimit { current: Some(most), maximum: Some(most) };
    setrlimit(Resource::Cpu, at_most(CHECK_SECONDS))?;
    setrlimit(Resource::As, at_most(CHECK_BYTES))?;
    Ok(())
}

/// What the child does: opens, reads everything, closes.
///
/// # Errors
/// What is wrong with the file. (A file that makes the database panic ends the child.)
pub fn check_file(file: &Path, key: &Path) -> Result<(), LedgerError> {
    let seal = Seal::load(key).map_err(|source| LedgerError::Io { what: "read the key", source })?;
    Ledger::open(FileDisk::new(file), seal)?.read().map(drop)
}

/// Opens the ledger in `state`. `clean`: the agent before closed it in good order, so that it needs
/// no trial. Otherwise `program` (this very program) tries it first in a process of its own: a
/// damaged file may make the database panic, and no item may stop an agent.
///
/// # Errors
/// Even an empty ledger cannot be made.
pub fn open_or_refill(state: &Path, program: &Path, clean: bool) -> Result<Opened, LedgerError> {
    let io = |what| move |source| LedgerError::Io { what, source };
    let (file, key) = (state.join("ledger.redb"), state.join("ledger.key"));
    let seal = || Seal::load(&key).map_err(io("read the key"));
    let doubtful = !clean && file.exists();
    let tried = if doubtful { try_in_child(program, &file, &key) } else { Ok(()) };
    let opened = tried.and_then(|()| {
        let ledger =
            Ledger::open(FileDisk::new(&file), seal().map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
        let contents = ledger.read().map_err(|e| e.to_string())?;
        Ok((ledger, contents))
    });
    match opened {
        Ok((ledger, contents)) => Ok(Opened { ledger, contents, moved_aside: None }),
        Err(why) => {
            let aside = state.join("ledger.damaged");
            if file.exists() {
                fs::rename(&file, &aside).map_err(io("move the damaged file aside"))?;
            }
            if Seal::load(&key).is_err() {
                fs::rename(&key, state.join("ledger.key.damaged")).map_err(io("move the damaged key aside"))?;
            }
            let ledger = Ledger::open(FileDisk::new(&file), seal()?)?;
            Ok(Opened { ledger, contents: Contents::default(), moved_aside: Some((aside, why)) })
        }
    }
}

fn try_in_child(program: &Path, file: &Path, key: &Path) -> Result<(), String> {
    let output = Command::new(program)
        .args([CHECK_COMMAND.as_ref(), file, key])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let words = String::from_utf8_lossy(&output.stderr);
            Err(format!("{}: {}", output.status, words.lines().next().unwrap_or("no reason given")))
        }
        // No child can be had: the file is tried here, which is no worse than not trying.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e.to_string()),
    }
}
