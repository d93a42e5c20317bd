//! `coracle backup`, `restore` and `rotate-key`: a copy of everything, and what is done with the
//! server's state while it is stopped (by `coracle-server` itself, which knows the formats).

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use argh::FromArgs;
use ring::digest::{Context, SHA256};
use serde_json::json;

use crate::client::Client;
use crate::error::Error;
use crate::output;

/// Write a copy of everything the server keeps, taken while it works, into a file. Secrets in it stay
/// encrypted with the server's STATE/store/secret.key: keep a copy of that key apart.
#[derive(FromArgs)]
#[argh(subcommand, name = "backup")]
pub struct Backup {
    /// where to write it
    #[argh(positional)]
    file: PathBuf,
}

/// Put a backup into an empty state directory, on the server's machine.
#[derive(FromArgs)]
#[argh(subcommand, name = "restore")]
pub struct Restore {
    /// the backup
    #[argh(positional)]
    file: PathBuf,
    /// the state directory of the server to be
    #[argh(option)]
    state: PathBuf,
    /// copy of the secret.key of the day of the backup
    #[argh(option)]
    key: PathBuf,
}

/// Encrypt everything anew with a new secret.key; the server must be stopped (pods run on).
#[derive(FromArgs)]
#[argh(subcommand, name = "rotate-key")]
pub struct RotateKey {
    /// the server's state directory
    #[argh(option)]
    state: PathBuf,
}

/// Bytes that are copied at once.
const PIECE: usize = 64 << 10;
/// The sum at a backup's end.
const SUM: usize = 32;

impl Backup {
    pub fn run(self, client: &Client) -> Result<(), Error> {
        let mut partial = self.file.clone().into_os_string();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let failed = |e: std::io::Error| Error::Usage(format!("{}: {e}", partial.display()));
        let made = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial);
        let mut file = made.map_err(failed)?;
        let copied = copy(client.stream("/coracle/v1/backup", "*/*")?, &mut file);
        let (bytes, sum) = copied.inspect_err(|_| drop(fs::remove_file(&partial)))?;
        file.sync_all().map_err(failed)?;
        fs::rename(&partial, &self.file).map_err(failed)?;
        sync_parent(&self.file).map_err(failed)?;
        let place = fs::canonicalize(&self.file).unwrap_or_else(|_| self.file.clone());
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let told = json!({"file": place.to_string_lossy(), "host": host.trim(), "sha256": sum});
        client.post("/coracle/v1/backup", &told)?;
        output::print(&format!("{}: {bytes} bytes, SHA-256 {sum}\n", self.file.display()))
    }
}

/// Copies a backup, checks the sum at its end, and answers with its length and its file's SHA-256.
fn copy(mut from: impl Read, to: &mut impl Write) -> Result<(u64, String), Error> {
    let broken = |e: std::io::Error| Error::Unreachable(format!("the backup broke off: {e}"));
    let (mut inner, mut whole) = (Context::new(&SHA256), Context::new(&SHA256));
    // The last bytes that came: they are the sum of all before, once nothing follows.
    let mut tail: Vec<u8> = Vec::new();
    let mut piece = vec![0; PIECE];
    let mut bytes = 0;
    loop {
        let length = from.read(&mut piece).map_err(broken)?;
        if length == 0 {
            break;
        }
        to.write_all(&piece[..length]).map_err(|e| Error::Usage(format!("writing the backup: {e}")))?;
        bytes += length as u64;
        whole.update(&piece[..length]);
        tail.extend_from_slice(&piece[..length]);
        let settled = tail.len().saturating_sub(SUM);
        inner.update(&tail[..settled]);
        tail.drain(..settled);
    }
    if inner.finish().as_ref() != tail {
        return Err(Error::Unreachable("the backup arrived incomplete or changed: try again".into()));
    }
    Ok((bytes, whole.finish().as_ref().iter().map(|b| format!("{b:02x}")).collect()))
}

fn sync_parent(file: &Path) -> std::io::Result<()> {
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

impl Restore {
    pub fn run(self) -> Result<(), Error> {
        let mut command = server();
        command.arg("--state").arg(self.state).arg("--restore").arg(self.file).arg("--key").arg(self.key);
        become_it(command)
    }
}

impl RotateKey {
    pub fn run(self) -> Result<(), Error> {
        let mut command = server();
        command.arg("--state").arg(self.state).arg("--rotate-key");
        become_it(command)
    }
}

/// The server's program: the one beside this one, or else the one in the path.
fn server() -> Command {
    let own = std::env::current_exe().ok();
    let beside = own.and_then(|own| Some(own.parent()?.join("coracle-server"))).filter(|path| path.exists());
    Command::new(beside.unwrap_or_else(|| PathBuf::from("coracle-server")))
}

fn become_it(mut command: Command) -> Result<(), Error> {
    let program = command.get_program().to_string_lossy().into_owned();
    let error = command.exec();
    Err(Error::Usage(format!("{program}: {error}; this is done on the server's machine, with its program installed")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], whole: bool) {
        let mut written = Vec::new();
        let copied = copy(bytes, &mut written);
        assert_eq!(copied.is_ok(), whole, "{copied:?}");
        if whole {
            assert_eq!((written.as_slice(), copied.expect("whole").0), (bytes, bytes.len() as u64));
        }
    }

    #[test]
    fn a_backup_is_whole_when_its_sum_says_so() {
        for length in [0, 1, 31, 100, PIECE, 3 * PIECE + 5] {
            let mut bytes: Vec<u8> = (0..length).map(|n| n as u8).collect();
            let sum = ring::digest::digest(&SHA256, &bytes);
            bytes.extend_from_slice(sum.as_ref());
            check(&bytes, true);
            check(&bytes[..bytes.len() - 1], false);
            bytes[length / 2] ^= 1;
            check(&bytes, false);
        }
        check(b"", false);
    }
}
