//! Making a sandbox, and finding the ones that are there.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coracle_pause::{self as wire, Reader, SandboxFile};
use coracle_shared::ids::PodUid;

use super::plan::text;
use super::sandbox::{Facts, Sandbox};
use super::{Error, Network, SandboxSpec, Shared, cgroup, make_private, now};
use crate::sys;

/// Bytes of `SandboxSpec::note`.
const MAX_NOTE: usize = 64 << 10;
/// The kernel's limit on host names.
const MAX_HOSTNAME: usize = 64;
/// Of a pod's shared `/dev/shm`.
const SHM_OPTIONS: &std::ffi::CStr = c"mode=1777,size=65536k";

pub async fn create(shared: &Arc<Shared>, spec: &SandboxSpec) -> Result<Sandbox, Error> {
    validate(spec)?;
    cgroup::check(&*shared.cgroups, &spec.resources)?;
    let directory = shared.pods().join(&spec.uid.0);
    let (at, owner, wanted) = (directory.clone(), shared.clone(), spec.clone());
    let made = smol::unblock(move || {
        let made = make(&owner, &at, &wanted);
        if made.is_err()
            && !matches!(&made, Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists)
        {
            undo(&owner, &at, &wanted.uid);
        }
        made
    })
    .await?;
    let facts = Facts {
        uid: spec.uid.clone(),
        note: spec.note.clone(),
        created_at: made.created_at,
        host_pid: spec.host_pid,
        shm: shm(&directory, spec.host_ipc),
        directory,
    };
    let sandbox = Sandbox::living(shared.clone(), facts, made.directory, made.pidfd);
    match sandbox.attach(true).await {
        Ok(()) => Ok(sandbox),
        Err(error) => {
            let _ = sandbox.remove().await;
            Err(error)
        }
    }
}

/// Where the pod's `/dev/shm` comes from, when not from a tmpfs of each container.
fn shm(directory: &Path, host_ipc: bool) -> Option<PathBuf> {
    let own = directory.join("shm");
    if host_ipc {
        return Some(PathBuf::from("/dev/shm"));
    }
    own.is_dir().then_some(own)
}

fn validate(spec: &SandboxSpec) -> Result<(), Error> {
    let uid = &spec.uid.0;
    if uid.is_empty() || uid.len() > 64 || !uid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Err(Error::Invalid(format!("{uid:?} is no pod uid")));
    }
    if spec.note.len() > MAX_NOTE {
        return Err(Error::Invalid(format!("a note of {} bytes", spec.note.len())));
    }
    if spec.hostname.as_ref().is_some_and(|h| h.is_empty() || h.len() > MAX_HOSTNAME) {
        return Err(Error::Invalid(format!("host name {:?}", spec.hostname)));
    }
    let forbidden = spec.sysctls.iter().find(|(name, _)| !namespaced(name, spec));
    match forbidden {
        Some((name, _)) => Err(Error::Invalid(format!("sysctl {name:?} is not the pod's own"))),
        None => Ok(()),
    }
}

/// Whether a sysctl belongs to a namespace that the pod does not share with the node.
fn namespaced(name: &str, spec: &SandboxSpec) -> bool {
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    let ipc = ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."].iter().any(|p| name.starts_with(p));
    let net = name.starts_with("net.");
    plain
        && !name.split('.').any(str::is_empty)
        && ((ipc && !spec.host_ipc) || (net && !matches!(spec.network, Network::Host)))
}

struct Made {
    directory: OwnedFd,
    pidfd: OwnedFd,
    created_at: i64,
}

fn make(shared: &Shared, path: &Path, spec: &SandboxSpec) -> Result<Made, Error> {
    make_new(path)?;
    if spec.share_shm && !spec.host_ipc {
        let shm = path.join("shm");
        make_private(&shm)?;
        let flags =
            rustix::mount::MountFlags::NOSUID | rustix::mount::MountFlags::NODEV | rustix::mount::MountFlags::NOEXEC;
        rustix::mount::mount("tmpfs", &shm, "tmpfs", flags, SHM_OPTIONS)
            .map_err(|e| Error::on("mount tmpfs on", &shm)(e.into()))?;
    }
    let group = format!("pods/{}", spec.uid);
    let cgroup_failed = |source| Error::Io { what: format!("make cgroup {group}"), source };
    // A limit that the node cannot hold is refused where a container asks for it.
    let limits = cgroup::held(&*shared.cgroups, &spec.resources);
    shared.cgroups.create_parent(&group, &limits).map_err(cgroup_failed)?;
    let created_at = now();
    write_sandbox_file(shared, path, spec, created_at)?;
    let directory: OwnedFd = File::open(path).map_err(Error::on("open", path))?.into();
    let listener = bind(&directory).map_err(Error::on("bind the control socket in", path))?;
    let pidfd = spawn(shared, spec, &directory, &listener)?;
    Ok(Made { directory, pidfd, created_at })
}

fn make_new(dir: &Path) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().mode(0o700).create(dir).map_err(Error::on("make", dir))
}

fn write_sandbox_file(shared: &Shared, path: &Path, spec: &SandboxSpec, created_at: i64) -> Result<(), Error> {
    let mut sysctls = Vec::new();
    for (name, value) in &spec.sysctls {
        sysctls.push((text(&name.replace('.', "/"))?, text(value)?));
    }
    let file: SandboxFile<CString> = SandboxFile {
        boot_id: text(&shared.config.boot_id)?,
        hostname: text(spec.hostname.as_deref().unwrap_or_default())?,
        sysctls,
        host_pid: spec.host_pid,
        host_ipc: spec.host_ipc,
        uid: text(&spec.uid.0)?,
        namespace: text(&spec.namespace)?,
        name: text(&spec.name)?,
        created_at,
        note: spec.note.clone(),
    };
    let mut w = wire::Writer::default();
    file.encode(&mut w);
    let path = path.join(wire::SANDBOX_FILE);
    let mut out = File::create_new(&path).map_err(Error::on("make", &path))?;
    out.write_all(&w.finish()).map_err(Error::on("write", &path))
}

/// Bound but not listening: the pause's process does that, so that it is who others see as peer.
fn bind(directory: &OwnedFd) -> io::Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let path = format!("/proc/self/fd/{}/{}", directory.as_raw_fd(), wire::SOCKET_FILE);
    rustix::net::bind(&socket, &SocketAddrUnix::new(path.as_str())?)?;
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    Ok(socket)
}

fn spawn(shared: &Shared, spec: &SandboxSpec, directory: &OwnedFd, listener: &OwnedFd) -> Result<OwnedFd, Error> {
    let entry = shared.cgroups.entry("pause");
    let open_all = || -> io::Result<_> {
        let join: Vec<OwnedFd> = entry
            .join
            .iter()
            .map(|file| Ok(fs::OpenOptions::new().write(true).open(file)?.into()))
            .collect::<io::Result<_>>()?;
        let into: Option<OwnedFd> = entry.into.as_ref().map(File::open).transpose()?.map(OwnedFd::from);
        Ok((join, into))
    };
    let (join, into) = open_all().map_err(|source| Error::Io { what: "open the pause cgroup".into(), source })?;
    let mut namespaces = libc::CLONE_NEWUTS;
    let mut network: Option<BorrowedFd> = None;
    match &spec.network {
        // The node's own host name belongs to its own network, as `hostname` says there.
        Network::Host => namespaces = if spec.hostname.is_some() { namespaces } else { 0 },
        Network::New => namespaces |= libc::CLONE_NEWNET,
        Network::Namespace(fd) => network = Some(fd.as_fd()),
    }
    if !spec.host_pid {
        namespaces |= libc::CLONE_NEWPID;
    }
    if !spec.host_ipc {
        namespaces |= libc::CLONE_NEWIPC;
    }
    let uid = text(&spec.uid.0)?;
    let spawned = sys::spawn(&sys::Spawn {
        program: &shared.pause,
        argv: &[c"coracle-pause", &uid],
        fds: &[directory.as_fd(), listener.as_fd()],
        listener: listener.as_fd(),
        null: &shared.null,
        namespaces,
        network,
        join: &join,
        into: into.as_ref(),
    });
    let (_, pidfd) = spawned.map_err(|source| Error::Io { what: "start the pause process".into(), source })?;
    Ok(pidfd)
}

/// Takes back what `make` did before it failed.
fn undo(shared: &Shared, path: &Path, uid: &PodUid) {
    let _ = rustix::mount::unmount(path.join("shm"), rustix::mount::UnmountFlags::DETACH);
    let _ = cgroup::remove(&*shared.cgroups, &format!("pods/{uid}"));
    let _ = fs::remove_dir_all(path);
}

pub async fn adopt(shared: &Arc<Shared>) -> Result<Vec<Sandbox>, Error> {
    let pods = shared.pods();
    let entries = fs::read_dir(&pods).map_err(Error::on("read", &pods))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(Error::on("read", &pods))?.path();
        let Some(uid) = path.file_name().and_then(|n| n.to_str()).map(|n| PodUid(n.to_string())) else { continue };
        match read_facts(&path, &uid, &shared.config.boot_id) {
            Some((facts, this_boot)) => found.push(find(shared, facts, this_boot).await),
            // Written before its pause is started: without it there is nothing that runs.
            None => undo(shared, &path, &uid),
        }
    }
    let promised: u64 = found.iter().map(Sandbox::promised_log_bytes).sum();
    shared.log_promised.store(promised, std::sync::atomic::Ordering::Relaxed);
    found.sort_by(|a, b| (a.created_at(), &a.uid().0).cmp(&(b.created_at(), &b.uid().0)));
    Ok(found)
}

fn read_facts(path: &Path, uid: &PodUid, boot_id: &str) -> Option<(Facts, bool)> {
    let raw = fs::read(path.join(wire::SANDBOX_FILE)).ok()?;
    let file = SandboxFile::decode(Reader::new(&raw)).ok()?;
    let this_boot = file.boot_id.to_bytes() == boot_id.as_bytes();
    let facts = Facts {
        uid: uid.clone(),
        note: file.note,
        created_at: file.created_at,
        host_pid: file.host_pid,
        shm: shm(path, file.host_ipc),
        directory: path.to_path_buf(),
    };
    Some((facts, this_boot))
}

async fn find(shared: &Arc<Shared>, facts: Facts, this_boot: bool) -> Sandbox {
    let directory = File::open(&facts.directory).ok().map(OwnedFd::from);
    if let Some(directory) = directory.filter(|_| this_boot)
        && let Some(sandbox) = Sandbox::reconnect(shared.clone(), facts.clone(), directory).await
    {
        return sandbox;
    }
    Sandbox::dead(shared.clone(), facts)
}
