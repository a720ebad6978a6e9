//! Sockets of this machine: a file is their address.
//!
//! `SO_REUSEPORT` does not exist for them, so all shards watch one socket. Each is told of a connection; the
//! first to ask gets it, which is one that is awake or the first to wake.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::net::SocketFlags;
use socket2::{Domain, SockAddr, Socket, Type};

/// The file of a socket that listens. Dropped, it is removed, if it still is the same.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    identity: Identity,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|now| now == self.identity) {
            // If it cannot be removed, the next start finds that nobody listens.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Device, number and, where the system knows it, birth: numbers are given again.
type Identity = (u64, u64, Option<SystemTime>);

fn identity(path: &Path) -> io::Result<Identity> {
    let file = fs::symlink_metadata(path)?;
    Ok((file.dev(), file.ino(), file.created().ok()))
}

/// One listener at `path` for each of `count` shards. The file has the permissions `mode`, of which writing is
/// what lets somebody connect. `backlog` is how many may wait to be accepted.
///
/// # Errors
/// What the system says to the path; `AddrInUse` if somebody listens there already; `AlreadyExists` if
/// something else than a socket is there. A socket on which nobody listens is replaced.
pub fn bind_unix(
    path: &Path,
    mode: u32,
    count: usize,
    backlog: i32,
) -> io::Result<(SocketFile, Vec<UnixListener>)> {
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = SocketFile { path: path.to_owned(), identity: identity(path)? };
    // Nobody can connect before it listens.
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    socket.listen(backlog)?;
    let first = UnixListener::from(OwnedFd::from(socket));
    let mut listeners = vec![first];
    while let (Some(first), true) = (listeners.first(), listeners.len() < count) {
        let next = first.try_clone()?;
        listeners.push(next);
    }
    Ok((file, listeners))
}

/// Removes a socket that a process which is gone has left.
fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(file) if !file.file_type().is_socket() => {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
        _ => Err(io::ErrorKind::AddrInUse.into()),
    }
}

/// The next waiting connection, non-blocking, and what it counts as.
pub(super) fn accept(listener: &UnixListener) -> io::Result<(OwnedFd, SocketAddr)> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let fd = rustix::net::accept_with(listener, flags)?;
    Ok((fd, SocketAddr::from((Ipv4Addr::LOCALHOST, 0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_there_as_long_as_its_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let (file, listeners) = bind_unix(&path, 0o640, 3, 16).unwrap();
        assert_eq!(listeners.len(), 3);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        let _client = UnixStream::connect(&path).unwrap();
        assert_eq!(accept(&listeners[1]).unwrap().1.to_string(), "127.0.0.1:0");
        assert_eq!(accept(&listeners[2]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(bind_unix(&path, 0o600, 1, 16).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(listeners);
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn what_a_dead_process_left_is_replaced_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        drop(UnixListener::bind(&path).unwrap());
        let (old, listeners) = bind_unix(&path, 0o600, 1, 16).unwrap();
        drop(listeners);
        let _other = UnixListener::bind(dir.path().join("other")).unwrap();
        fs::rename(dir.path().join("other"), &path).unwrap();
        drop(old);
        assert!(path.exists(), "the file of another");
        let file = dir.path().join("file");
        fs::write(&file, "precious").unwrap();
        let refused = bind_unix(&file, 0o600, 1, 16).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&file).unwrap(), b"precious");
    }
}
