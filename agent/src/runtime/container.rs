//! A container's files and groups on the node, around the start that its pause carries out.

use std::fs::{self, File, Permissions};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use coracle_pause::{self as wire, reply, request};

use super::plan::{self, Surroundings, c_path, text};
use super::sandbox::{Inner, refusal, start_error, started};
use super::{ContainerId, ContainerSpec, ContainerStatus, Error, LogSpec, Rootfs, Sandbox, cgroup, make_private, user};

/// What Kubernetes keeps of a termination message.
const MAX_MESSAGE: u64 = 4096;
/// The least log that a container gets when the node's budget is used up.
const LEAST_LOG: u64 = 64 << 10;
/// Device nodes copied for a privileged container; a node has a few hundred.
const MAX_DEVICES: usize = 4096;

/// Names in a container's directory.
const TERMINATION_LOG: &str = "termination-log";
/// A link to the container's place on disk: `fs`, `work` and its termination message.
const UPPER: &str = "upper";
/// The bytes of log promised to it.
const LOG_BYTES: &str = "log-bytes";

impl Sandbox {
    /// Starts a container and answers once execve succeeded.
    ///
    /// # Errors
    /// [`Error::Start`] when the container cannot be as asked; nothing is left of it then.
    pub async fn start_container(&self, spec: &ContainerSpec) -> Result<ContainerStatus, Error> {
        let link = self.inner.link()?;
        let (inner, wanted) = (self.inner.clone(), spec.clone());
        let start = smol::unblock(move || {
            // One that is there belongs to a container of this name: it must stay as it is.
            let directory = inner.container_directory(&wanted.id);
            fs::create_dir(&directory).map_err(Error::on("make", &directory))?;
            let start = prepare(&inner, &wanted);
            if start.is_err() {
                remove(&inner, &wanted.id);
            }
            start
        })
        .await?;
        let failed = match link.ask(request::START, |w| start.encode(w)).await {
            Ok(Ok(message)) if message.kind == reply::STARTED => {
                let status = started(&message)?;
                self.inner.learn(status.clone());
                return Ok(status);
            }
            Ok(Ok(message)) => Error::Protocol(format!("kind {} in answer to start", message.kind)),
            Ok(Err(failure)) if failure.errno == libc::EEXIST && failure.stage == wire::Stage::Request => {
                return Err(Error::Invalid(format!("container {} was started before", spec.id)));
            }
            Ok(Err(failure)) => start_error(failure, plan::describe(&start, &failure)),
            Err(error) => error,
        };
        let (inner, id) = (self.inner.clone(), spec.id.clone());
        smol::unblock(move || remove(&inner, &id)).await;
        Err(failed)
    }

    pub(super) fn promised_log_bytes(&self) -> u64 {
        let entries = fs::read_dir(&self.inner.facts.directory).into_iter().flatten().flatten();
        entries.map(|e| promised(&e.path())).sum()
    }

    /// Forgets an ended container: its record, cgroup, upper directory and termination message.
    /// Its log files stay; they are the caller's.
    ///
    /// # Errors
    /// It still runs, or its processes do not leave its cgroup.
    pub async fn remove_container(&self, id: &ContainerId) -> Result<(), Error> {
        if self.is_alive() {
            let name = text(&id.to_string())?;
            match self.inner.link()?.ask(request::REMOVE, |w| w.cstr(&name)).await? {
                Ok(_) => {}
                // Forgotten before, by an agent that did not get further.
                Err(failure) if failure.errno == libc::ENOENT => {}
                Err(failure) => return Err(refusal(id, "remove", failure)),
            }
        }
        self.inner.forget(id);
        let (inner, id) = (self.inner.clone(), id.clone());
        match smol::unblock(move || remove(&inner, &id)).await {
            None => Ok(()),
            Some(error) => Err(error),
        }
    }
}

fn prepare(inner: &Inner, spec: &ContainerSpec) -> Result<wire::Start<std::ffi::CString>, Error> {
    let directory = inner.container_directory(&spec.id);
    cgroup::check(&*inner.shared.cgroups, &spec.resources)?;
    let place = make_place(inner, spec, &directory)?;
    let termination_log = match spec.termination_message_path {
        Some(_) => Some(make_termination_log(&place)?),
        None => None,
    };
    let group = inner.group(&spec.id);
    let cgroups = &inner.shared.cgroups;
    let failed = |source| Error::Io { what: format!("set limits of cgroup {group}"), source };
    cgroups.create(&group, &spec.resources).map_err(failed)?;
    let log = open_log(inner, &spec.log, &directory)?;
    let home = match &spec.rootfs {
        Rootfs::Overlay { lowers, .. } => user::home(lowers, spec.user.uid),
        Rootfs::Directory(path) => user::home(std::slice::from_ref(path), spec.user.uid),
    };
    let devices = if spec.security.privileged { devices() } else { Vec::new() };
    plan::start(
        spec,
        &Surroundings {
            entry: &cgroups.entry(&group),
            view: &cgroups.view(),
            upper: place.join("fs"),
            work: place.join("work"),
            log,
            termination_log,
            shm: inner.facts.shm.clone(),
            host_pid: inner.facts.host_pid,
            devices: &devices,
            home,
        },
    )
}

/// Where the container writes: below the overlay's upper path, or its directory in `/run`.
fn make_place(inner: &Inner, spec: &ContainerSpec, directory: &Path) -> Result<PathBuf, Error> {
    let Rootfs::Overlay { upper, .. } = &spec.rootfs else {
        return Ok(directory.to_path_buf());
    };
    let place = upper.join(&inner.facts.uid.0).join(spec.id.to_string());
    let link = directory.join(UPPER);
    std::os::unix::fs::symlink(&place, &link).map_err(Error::on("make", &link))?;
    // Of an earlier life with the same id, cut short: an upper may not be mounted twice.
    let _ = fs::remove_dir_all(&place);
    make_private(&place)?;
    for name in ["fs", "work"] {
        let dir = place.join(name);
        fs::create_dir(&dir).map_err(Error::on("make", &dir))?;
    }
    // The upper directory's mode is that of the container's `/`.
    let root = place.join("fs");
    fs::set_permissions(&root, Permissions::from_mode(0o755)).map_err(Error::on("set the mode of", &root))?;
    Ok(place)
}

/// Any user of the container may write it.
fn make_termination_log(place: &Path) -> Result<PathBuf, Error> {
    let path = place.join(TERMINATION_LOG);
    let file = File::create_new(&path).map_err(Error::on("make", &path))?;
    file.set_permissions(Permissions::from_mode(0o666)).map_err(Error::on("set the mode of", &path))?;
    Ok(path)
}

/// Makes the log's directory and fits its size into what is left of the node's budget.
fn open_log(inner: &Inner, log: &LogSpec, directory: &Path) -> Result<wire::Log<std::ffi::CString>, Error> {
    if let Some(parent) = log.path.parent() {
        make_private(parent)?;
    }
    let files = log.max_files.max(1);
    let wanted = log.max_bytes.saturating_mul(files as u64);
    let promised = &inner.shared.log_promised;
    let left = inner.shared.config.log_budget.saturating_sub(promised.load(Ordering::Relaxed));
    // A quarter of what is left: the last containers of a full node still get some.
    let granted = wanted.min((left / 4).max(LEAST_LOG));
    promised.fetch_add(granted, Ordering::Relaxed);
    let note = directory.join(LOG_BYTES);
    fs::write(&note, granted.to_string()).map_err(Error::on("write", &note))?;
    Ok(wire::Log { path: c_path(&log.path)?, max_bytes: granted / files as u64, max_files: files })
}

/// The bytes of log promised to a container's directory.
fn promised(directory: &Path) -> u64 {
    fs::read_to_string(directory.join(LOG_BYTES)).ok().and_then(|t| t.parse().ok()).unwrap_or(0)
}

/// Takes back everything that `prepare` made. The first error, after trying it all.
fn remove(inner: &Inner, id: &ContainerId) -> Option<Error> {
    let directory = inner.container_directory(id);
    let mut errors = Vec::new();
    let group = inner.group(id);
    if let Err(source) = cgroup::remove(&*inner.shared.cgroups, &group) {
        errors.push(Error::Io { what: format!("remove cgroup {group}"), source });
    }
    remove_files(inner, &directory, &mut errors);
    errors.into_iter().next()
}

fn remove_files(inner: &Inner, directory: &Path, errors: &mut Vec<Error>) {
    let bytes = promised(directory);
    let _ = inner
        .shared
        .log_promised
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |sum| Some(sum.saturating_sub(bytes)));
    if let Ok(place) = fs::read_link(directory.join(UPPER)) {
        remove_tree(&place, errors);
        // The pod's own directory goes with its last container.
        if let Some(pod) = place.parent() {
            let _ = fs::remove_dir(pod);
        }
    }
    remove_tree(directory, errors);
}

fn remove_tree(path: &Path, errors: &mut Vec<Error>) {
    match fs::remove_dir_all(path) {
        Ok(()) => {}
        // On a card that has become read-only nothing can be removed, and nothing needs to be.
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ReadOnlyFilesystem) => {}
        Err(e) => errors.push(Error::on("remove", path)(e)),
    }
}

/// Everything of a pod whose processes have ended.
pub(super) fn remove_all(inner: &Inner) -> Vec<Error> {
    let mut errors = Vec::new();
    let directory = &inner.facts.directory;
    let group = inner.pod_group();
    if let Err(source) = cgroup::remove(&*inner.shared.cgroups, &group) {
        errors.push(Error::Io { what: format!("remove cgroup {group}"), source });
    }
    let shm = directory.join("shm");
    if shm.is_dir()
        && let Err(e) = rustix::mount::unmount(&shm, rustix::mount::UnmountFlags::DETACH)
        && e != rustix::io::Errno::INVAL
    {
        errors.push(Error::on("unmount", &shm)(e.into()));
    }
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.to_str().and_then(ContainerId::parse).is_some() {
            remove_files(inner, &entry.path(), &mut errors);
        }
    }
    // As long as something is left, the sandbox is found again by the next agent.
    if errors.is_empty() {
        remove_tree(directory, &mut errors);
    }
    errors
}

pub(super) fn termination_message(directory: &Path) -> String {
    let place = directory.join(UPPER);
    let path = if place.is_symlink() { place.join(TERMINATION_LOG) } else { directory.join(TERMINATION_LOG) };
    let read = || {
        let mut file = File::open(path)?;
        let size = file.metadata()?.len();
        file.seek(SeekFrom::Start(size.saturating_sub(MAX_MESSAGE)))?;
        let mut text = Vec::new();
        file.take(MAX_MESSAGE).read_to_end(&mut text)?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&text).into_owned())
    };
    read().unwrap_or_default()
}

/// The node's device nodes, but for terminals and shared memory, as (path, mode, major, minor).
fn devices() -> Vec<(String, u32, u32, u32)> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let mut found = Vec::new();
    let mut waiting = vec![PathBuf::from("/dev")];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let (path, Ok(meta)) = (entry.path(), entry.metadata()) else { continue };
            let skipped = ["/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/console"].iter().any(|p| path == Path::new(p));
            if skipped || found.len() >= MAX_DEVICES {
                continue;
            }
            let kind = meta.file_type();
            if kind.is_dir() {
                waiting.push(path);
            } else if kind.is_char_device() || kind.is_block_device() {
                let (major, minor) = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
                found.push((path.to_string_lossy().into_owned(), meta.mode(), major, minor));
            }
        }
    }
    found.retain(|(path, ..)| path != "/dev/ptmx");
    found
}
