//! Commands beside a container's own process.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use coracle_pause::{self as wire, Reader, reply, request};
use smol::Async;

use super::link::{self, Message};
use super::plan::{environment, text};
use super::sandbox::{refusal, start_error};
use super::{Error, ExecSpec, ExitStatus, Sandbox};

impl Sandbox {
    /// Runs a command in a running container's namespaces, cgroup and confinement.
    ///
    /// # Errors
    /// [`Error::Start`] when the command cannot be run; [`Error::NotFound`] when the container is
    /// not running.
    pub async fn exec(&self, spec: &ExecSpec) -> Result<Exec, Error> {
        let message = wire::Exec {
            container: text(&spec.container.to_string())?,
            argv: spec.argv.iter().map(|a| text(a)).collect::<Result<Vec<CString>, _>>()?,
            env: spec.env.as_ref().map(|e| environment(e)).transpose()?,
        };
        if message.argv.is_empty() {
            return Err(Error::Invalid("no command".into()));
        }
        let failed = |source: io::Error| Error::Io { what: "make a pipe".into(), source };
        let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| failed(e.into()));
        let (input, stdin) = match spec.stdin {
            true => pipe().map(|(read, write)| (read, Some(write)))?,
            false => (self.inner.shared.null.try_clone().map_err(failed)?, None),
        };
        let (stdout, output) = pipe()?;
        let (stderr, errors) = pipe()?;
        let fds: [BorrowedFd; 3] = [input.as_fd(), output.as_fd(), errors.as_fd()];
        let answers = self.inner.link()?.send(request::EXEC, &fds, |w| message.encode(w)).await?;
        drop((input, output, errors));
        match link::answer(&answers).await? {
            Ok(message) if message.kind == reply::STARTED => {}
            Ok(message) => return Err(Error::Protocol(format!("kind {} in answer to exec", message.kind))),
            Err(failure) if failure.stage == wire::Stage::Exec => {
                let what = spec.argv[0].clone();
                return Err(start_error(failure, what));
            }
            Err(failure) => return Err(refusal(&spec.container, "exec", failure)),
        }
        let end = |fd: OwnedFd| Async::new(File::from(fd)).map_err(failed);
        Ok(Exec { stdin: stdin.map(end).transpose()?, stdout: end(stdout)?, stderr: end(stderr)?, answers })
    }
}

/// A running `exec`. Dropping it closes its pipes and leaves the process to end by itself.
pub struct Exec {
    /// Present when `ExecSpec::stdin`; dropping it is end of file.
    pub stdin: Option<Async<File>>,
    pub stdout: Async<File>,
    pub stderr: Async<File>,
    answers: async_channel::Receiver<Message>,
}

impl Exec {
    /// The command's end; call once.
    ///
    /// # Errors
    /// [`Error::Dead`] when the sandbox, or the connection to it, ended first.
    pub async fn wait(&self) -> Result<ExitStatus, Error> {
        let message = match link::answer(&self.answers).await? {
            Ok(message) if message.kind == reply::EXEC_ENDED => message,
            other => return Err(Error::Protocol(format!("{other:?} at the end of an exec"))),
        };
        let mut r = Reader::new(&message.body);
        let mut read = || Ok((r.i32()?, r.i32()?, r.i64()?));
        let (code, signal, finished_at) =
            read().map_err(|_: wire::Malformed| Error::Protocol("an end that cannot be read".into()))?;
        let signal = (signal != 0).then_some(signal);
        Ok(ExitStatus { code, signal, oom_killed: false, lost: false, finished_at })
    }
}
