//! The start of the DNS process: sockets first, then no more privileges than a stranger has.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::process::{Gid, Uid, setsid};
use rustix::thread::{set_no_new_privs, set_thread_gid, set_thread_groups, set_thread_uid};

use super::serve::Server;

/// The user and group that own nothing, in every distribution.
const NOBODY: u32 = 65534;

/// Runs the DNS process: the agent's program starts itself as `coracle-agent dns-child SOCKET ADDRESS
/// RESOLV_CONF`. Returns when the agent orders the end.
///
/// # Errors
/// When an argument is missing or a socket cannot be bound.
pub fn child_main(arguments: impl Iterator<Item = String>) -> io::Result<()> {
    let [socket, address, resolv_conf]: [String; 3] = arguments
        .collect::<Vec<_>>()
        .try_into()
        .map_err(|_| io::Error::other("usage: dns-child SOCKET ADDRESS RESOLV_CONF"))?;
    let address: Ipv4Addr = address.parse().map_err(io::Error::other)?;
    // A session of its own: what ends the agent's does not end this one. It may have one already.
    let _ = setsid();
    let udp = UdpSocket::bind((address, 53))?;
    let tcp = TcpListener::bind((address, 53))?;
    let feed = listen(Path::new(&socket))?;
    udp.set_nonblocking(true)?;
    tcp.set_nonblocking(true)?;
    feed.set_nonblocking(true)?;
    drop_privileges()?;
    Server::new(udp, tcp, feed, PathBuf::from(resolv_conf))?.run()
}

/// Listens where only root may connect, from the first moment: the socket gets its name afterwards.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let temporary = path.with_extension("new");
    let _ = fs::remove_file(&temporary);
    let listener = UnixListener::bind(&temporary)?;
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o600))?;
    fs::rename(&temporary, path)?;
    Ok(listener)
}

/// This process has one thread, so that a thread's identity is the process's. Leaving root for an
/// ordinary user drops every capability.
fn drop_privileges() -> io::Result<()> {
    set_thread_groups(&[])?;
    set_thread_gid(Gid::from_raw(NOBODY))?;
    set_thread_uid(Uid::from_raw(NOBODY))?;
    set_no_new_privs(true)?;
    Ok(())
}
