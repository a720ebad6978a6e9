//! Opens connections, from more than one source address when one has not enough ports.

use std::io::{self, Read};
use std::net::{self, IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::endpoint::Endpoint;
use super::transport::Transport;

/// Connections from one source address: well below the 28,000 ports that Linux gives out by default.
const CONNECTIONS_PER_SOURCE: u32 = 10_000;

/// File descriptors that are not connections.
const SPARE_DESCRIPTORS: u64 = 64;

/// Starts connecting; the socket becomes writable when it is done, and can be written to at once where that is near.
///
/// Connection number `index` to a loopback address comes from 127.0.0.(1 + index / 10,000).
pub(crate) fn dial(endpoint: &Endpoint, index: u32) -> io::Result<Transport> {
    let target = endpoint.address;
    let kind = Type::STREAM.nonblocking();
    let socket = Socket::new(Domain::for_address(target), kind, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    if let Some(source) = source_address(target.ip(), index) {
        socket.set_reuse_address(true)?;
        socket.bind(&SockAddr::from(SocketAddr::new(source, 0)))?;
    }
    match socket.connect(&SockAddr::from(target)) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(IN_PROGRESS) => {}
        Err(error) => return Err(error),
    }
    Transport::new(socket, endpoint)
}

/// Whether somebody lets connections in at the target.
pub(crate) fn is_listening(target: SocketAddr) -> bool {
    const PATIENCE: Duration = Duration::from_millis(500);
    let connect = || net::TcpStream::connect_timeout(&target, PATIENCE);
    let Ok(mut first) = connect() else { return false };
    // A process that is just ending closes its sockets one by one; with the listener ends what it let in.
    let heard = first.set_read_timeout(Some(PATIENCE)).and_then(|()| first.read(&mut [0]));
    heard.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) || connect().is_ok()
}

const IN_PROGRESS: i32 = rustix::io::Errno::INPROGRESS.raw_os_error();

fn source_address(target: IpAddr, index: u32) -> Option<IpAddr> {
    let number = index / CONNECTIONS_PER_SOURCE;
    if number == 0 || !matches!(target, IpAddr::V4(ip) if ip.is_loopback()) {
        return None;
    }
    let host = u32::from(Ipv4Addr::LOCALHOST).checked_add(number)?;
    Some(IpAddr::V4(Ipv4Addr::from(host)))
}

/// Raises the limit on file descriptors so that `connections` fit.
///
/// # Errors
/// If neither the hard limit nor this user's rights allow it.
pub(crate) fn make_room_for(connections: usize) -> io::Result<()> {
    let needed = connections as u64 + SPARE_DESCRIPTORS;
    let limit = getrlimit(Resource::Nofile);
    let is_enough = |limit: Option<u64>| limit.is_none_or(|limit| limit >= needed);
    if is_enough(limit.current) {
        return Ok(());
    }
    let maximum = if is_enough(limit.maximum) { limit.maximum } else { Some(needed) };
    let raised = Rlimit { current: Some(needed), maximum };
    setrlimit(Resource::Nofile, raised).map_err(|error| {
        let hard = limit.maximum.unwrap_or(u64::MAX);
        io::Error::other(format!(
            "{connections} connections need {needed} file descriptors, the hard limit is {hard} (ulimit -Hn): {error}"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_many_source_addresses() {
        let target = IpAddr::V4(Ipv4Addr::LOCALHOST);
        assert_eq!(source_address(target, 0), None);
        assert_eq!(source_address(target, 9_999), None);
        assert_eq!(source_address(target, 10_000), Some("127.0.0.2".parse().unwrap()));
        assert_eq!(source_address(target, 25_000), Some("127.0.0.3".parse().unwrap()));
        assert_eq!(source_address("192.0.2.1".parse().unwrap(), 25_000), None);
    }
}
