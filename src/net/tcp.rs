//! TCP: listening, accepting, and the system calls of one connection.

use std::io::{self, IoSlice};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, SocketFlags};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use super::proxy::Proxied;
use super::tls::{Handshake, Tls};
use super::ws::WsStream;

/// When the kernel asks a silent peer whether it is there (`SO_KEEPALIVE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// After so long without a word, in whole seconds.
    pub idle: Duration,
    /// And then again after so long, in whole seconds.
    pub interval: Duration,
    /// The connection is gone when so many got no answer.
    pub probes: u32,
}

/// How a listener, and every connection accepted from it, is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenOptions {
    /// Whether an address of IPv6 is for IPv6 alone; otherwise `[::]` is for IPv4, too.
    pub only_v6: bool,
    /// Whether and when silent peers are asked.
    pub keep_alive: Option<KeepAlive>,
    /// Send small packets at once (`TCP_NODELAY`).
    pub nodelay: bool,
    /// Leave a connection to the kernel until its client has sent something, for at most about a
    /// second (`TCP_DEFER_ACCEPT`).
    pub defer_accept: bool,
    /// Kernel receive buffer of a connection in bytes; `None`: the kernel tunes it.
    pub receive_buffer: Option<usize>,
    /// Kernel send buffer of a connection in bytes; `None`: the kernel tunes it.
    pub send_buffer: Option<usize>,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self {
            only_v6: false,
            keep_alive: None,
            nodelay: true,
            defer_accept: false,
            receive_buffer: None,
            send_buffer: None,
        }
    }
}

/// A listener that shares its port with others bound the same way (`SO_REUSEPORT`): the kernel spreads
/// connections over them. `backlog` is how many may wait to be accepted. Options set here are
/// inherited by accepted connections, which saves a system call for each.
///
/// # Errors
/// What the system says to the address.
pub fn bind(addr: SocketAddr, backlog: i32, options: &ListenOptions) -> io::Result<TcpListener> {
    let socket = listening_socket(addr, options)?;
    socket.set_reuse_port(true)?;
    socket.set_tcp_nodelay(options.nodelay)?;
    if let Some(size) = options.receive_buffer {
        socket.set_recv_buffer_size(size)?;
    }
    if let Some(size) = options.send_buffer {
        socket.set_send_buffer_size(size)?;
    }
    if let Some(KeepAlive { idle, interval, probes }) = options.keep_alive {
        let parameters = TcpKeepalive::new().with_time(idle).with_interval(interval);
        socket.set_tcp_keepalive(&parameters.with_retries(probes))?;
    }
    if options.defer_accept {
        defer_accept(&socket)?;
    }
    socket.bind(&addr.into())?;
    socket.listen(backlog)?;
    Ok(socket.into())
}

/// `count` listeners on one port, one for each shard; port 0 picks a free one for all of them.
///
/// # Errors
/// What the system says to the address; `AddrInUse` also if another process shares its port: two
/// brokers that each get half of the connections are nobody's wish.
pub fn bind_group(
    addr: SocketAddr,
    count: usize,
    backlog: i32,
    options: &ListenOptions,
) -> io::Result<Vec<TcpListener>> {
    if addr.port() != 0 {
        listening_socket(addr, options)?.bind(&addr.into())?;
    }
    let mut listeners: Vec<TcpListener> = Vec::with_capacity(count);
    for _ in 0..count {
        let addr = match listeners.first() {
            Some(first) => first.local_addr()?,
            None => addr,
        };
        listeners.push(bind(addr, backlog, options)?);
    }
    Ok(listeners)
}

fn listening_socket(addr: SocketAddr, options: &ListenOptions) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    // A restarted broker need not wait for the old connections' TIME_WAIT.
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(options.only_v6)?;
    }
    Ok(socket)
}

/// Every client of MQTT speaks first, and so does one of TLS or HTTP. Waiting for that in the kernel
/// saves an empty look at each new connection, and the acknowledgement of its handshake. One that
/// stays silent is handed over when the kernel first repeats its SYN-ACK, which is after a second.
fn defer_accept(socket: &Socket) -> io::Result<()> {
    let seconds: libc::c_int = 1;
    // SAFETY: the descriptor is open, and the value is an int of the size that is said.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The next waiting connection, non-blocking, and its peer.
pub(super) fn accept(listener: &TcpListener) -> io::Result<(OwnedFd, SocketAddr)> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (fd, peer) = rustix::net::acceptfrom_with(listener, flags)?;
    let peer = peer
        .and_then(|peer| SocketAddr::try_from(peer).ok())
        .ok_or(io::ErrorKind::ConnectionAborted)?;
    Ok((fd, peer))
}

/// What a connection's bytes travel over. Layered transports are in boxed variants, so that a plain
/// connection stays small.
#[derive(Debug)]
pub(super) enum Transport {
    /// A socket of TCP, or of this machine, and nothing over it.
    Plain(OwnedFd),
    /// TLS over TCP.
    Tls(Box<Tls>),
    /// WebSocket over one of the others.
    Ws(Box<WsStream>),
    /// One of the others, before the header of the PROXY protocol has come.
    Proxied(Box<Proxied>),
}

/// No system call takes more (`IOV_MAX`).
const MOST_BUFS: usize = 1024;

impl Transport {
    /// Whether something has to be agreed on before the first byte of MQTT.
    #[inline]
    pub(super) fn is_handshaking(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(tls) => tls.is_handshaking(),
            Self::Ws(ws) => ws.is_handshaking(),
            Self::Proxied(_) => true,
        }
    }

    /// Whether the next step of the handshake takes as long as hundreds of messages.
    pub(super) fn is_handshake_costly(&self) -> bool {
        match self {
            Self::Plain(_) | Self::Proxied(_) => false,
            Self::Tls(tls) => tls.is_handshaking(),
            Self::Ws(ws) => ws.inner().is_handshake_costly(),
        }
    }

    /// Takes the handshake as far as it goes with what has come.
    pub(super) fn handshake(&mut self) -> io::Result<Handshake> {
        match self {
            Self::Plain(_) => Ok(Handshake::Upgraded),
            Self::Tls(tls) => tls.handshake(),
            Self::Ws(ws) => ws.handshake(),
            Self::Proxied(proxied) => Ok(Handshake::Relayed(proxied.read_header()?)),
        }
    }

    /// What is spoken behind the header of the PROXY protocol.
    pub(super) fn unwrapped(self) -> Self {
        match self {
            Self::Proxied(proxied) => proxied.inner,
            other => other,
        }
    }

    /// Receives into `buf`; 0 is the end.
    #[inline]
    pub(super) fn recv(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(fd) => recv_some(fd, buf),
            Self::Tls(tls) => tls.stream.recv(buf),
            Self::Ws(ws) => ws.recv(buf),
            Self::Proxied(proxied) => proxied.inner.recv(buf),
        }
    }

    /// Receives at most `most` bytes into the spare capacity of `buf`, which is not zeroed first.
    pub(super) fn recv_spare(&mut self, buf: &mut Vec<u8>, most: usize) -> io::Result<usize> {
        let fd = match self {
            Self::Plain(fd) => fd,
            Self::Tls(tls) => return tls.stream.recv_spare(buf, most),
            Self::Ws(ws) => {
                let start = buf.len();
                buf.resize(start + most, 0);
                let result = ws.recv(buf.get_mut(start..).unwrap_or_default());
                buf.truncate(start + *result.as_ref().unwrap_or(&0));
                return result;
            }
            Self::Proxied(proxied) => return proxied.inner.recv_spare(buf, most),
        };
        loop {
            let result = if buf.capacity() - buf.len() <= most {
                rustix::net::recv(&*fd, spare_capacity(buf), RecvFlags::empty()).map(|(len, _)| len)
            } else {
                // An allocator that gave more than asked for: stay within the frame.
                let start = buf.len();
                buf.resize(start + most, 0);
                let spare = buf.get_mut(start..).unwrap_or_default();
                let result = rustix::net::recv(&*fd, spare, RecvFlags::empty()).map(|(len, _)| len);
                buf.truncate(start + result.unwrap_or(0));
                result
            };
            match result {
                Err(rustix::io::Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
    }

    /// Drops up to `scratch.len()` received bytes, which TCP does not even copy.
    pub(super) fn discard(&mut self, scratch: &mut [u8]) -> io::Result<usize> {
        loop {
            match rustix::net::recv(self.fd(), &mut *scratch, RecvFlags::TRUNC) {
                Ok((len, _)) => return Ok(len),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends what there is room for; less than everything, 0 included, means there is none left.
    #[inline]
    pub(super) fn send(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Plain(fd) => send_slices(fd, bufs),
            Self::Tls(tls) => tls.stream.send(bufs),
            Self::Ws(ws) => ws.send(bufs),
            Self::Proxied(proxied) => proxied.inner.send(bufs),
        }
    }

    /// Whether a read that fell short has left something to be read: a layer may stop in between.
    #[inline]
    pub(super) fn has_more(&self) -> bool {
        matches!(self, Self::Ws(ws) if ws.has_more())
    }

    /// Whether something is said, or to be said, that the peer should still read, however the connection is
    /// closed.
    pub(super) fn has_last_words(&self) -> bool {
        matches!(self, Self::Ws(ws) if ws.has_last_words())
    }

    /// Whether bytes may have come that no read has asked for, and the socket does not tell of.
    pub(super) fn is_layered(&self) -> bool {
        !matches!(self, Self::Plain(_))
    }

    /// Whether something that was taken waits for room: it leaves with [`flush`](Self::flush).
    #[inline]
    pub(super) fn has_pending(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(tls) => tls.stream.has_pending(),
            Self::Ws(ws) => ws.has_pending(),
            Self::Proxied(proxied) => proxied.inner.has_pending(),
        }
    }

    /// Sends what waits for room; whether that is all of it.
    pub(super) fn flush(&mut self) -> io::Result<bool> {
        match self {
            Self::Plain(_) => Ok(true),
            Self::Tls(tls) => tls.stream.flush(),
            Self::Ws(ws) => ws.flush(),
            Self::Proxied(proxied) => proxied.inner.flush(),
        }
    }

    /// Says that nothing more will be sent, and whether that is because this side is `going_away`, where
    /// there is a word for it. If something is [pending](Self::has_pending) then, it is to be
    /// called again when there is room.
    pub(super) fn shutdown_write(&mut self, going_away: bool) -> io::Result<()> {
        match self {
            Self::Plain(fd) => Ok(rustix::net::shutdown(&*fd, rustix::net::Shutdown::Write)?),
            Self::Tls(tls) => tls.stream.shutdown_write(),
            Self::Ws(ws) => ws.shutdown_write(going_away),
            Self::Proxied(proxied) => proxied.inner.shutdown_write(going_away),
        }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Plain(fd) => fd.as_fd(),
            Self::Tls(tls) => tls.stream.as_fd(),
            Self::Ws(ws) => ws.inner().fd(),
            Self::Proxied(proxied) => proxied.inner.fd(),
        }
    }
}

impl AsRawFd for Transport {
    fn as_raw_fd(&self) -> RawFd {
        self.fd().as_raw_fd()
    }
}

/// Receives from a socket into `buf`; 0 is the end.
#[inline]
pub(super) fn recv_some(fd: &OwnedFd, buf: &mut [u8]) -> io::Result<usize> {
    loop {
        match rustix::net::recv(fd, &mut *buf, RecvFlags::empty()) {
            Ok((len, _)) => return Ok(len),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Sends to a socket what there is room for; less than everything, 0 included, means there is none left.
#[inline]
pub(super) fn send_slices(fd: &OwnedFd, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
    if let [buf] = bufs {
        return send_some(|| rustix::net::send(fd, buf, SendFlags::NOSIGNAL));
    }
    let mut sent = 0;
    for bufs in bufs.chunks(MOST_BUFS) {
        let n = send_some(|| {
            let mut control = SendAncillaryBuffer::default();
            rustix::net::sendmsg(fd, bufs, &mut control, SendFlags::NOSIGNAL)
        })?;
        sent += n;
        if n < bufs.iter().map(|buf| buf.len()).sum() {
            break;
        }
    }
    Ok(sent)
}

#[inline]
fn send_some(mut call: impl FnMut() -> rustix::io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Ok(len) => return Ok(len),
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => return Ok(0),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpStream};

    use super::*;

    fn loopback() -> SocketAddr {
        ([127, 0, 0, 1], 0).into()
    }

    #[test]
    fn accepted_connections_inherit_the_options() {
        let (idle, interval) = (Duration::from_secs(77), Duration::from_secs(9));
        let options = ListenOptions {
            keep_alive: Some(KeepAlive { idle, interval, probes: 3 }),
            receive_buffer: Some(30_000),
            send_buffer: Some(20_000),
            ..ListenOptions::default()
        };
        let listener = bind(loopback(), 16, &options).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (fd, _) = accept(&listener).unwrap();
        assert_eq!(recv_some(&fd, &mut [0; 1]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(rustix::net::sockopt::tcp_nodelay(&fd).unwrap());
        let size = rustix::net::sockopt::socket_send_buffer_size(&fd).unwrap();
        assert!((20_000..=40_000).contains(&size), "{size}");
        let size = rustix::net::sockopt::socket_recv_buffer_size(&fd).unwrap();
        assert!((30_000..=60_000).contains(&size), "{size}");
        assert!(rustix::net::sockopt::socket_keepalive(&fd).unwrap());
        assert_eq!(rustix::net::sockopt::tcp_keepidle(&fd).unwrap(), idle);
        assert_eq!(rustix::net::sockopt::tcp_keepintvl(&fd).unwrap(), interval);
        assert_eq!(rustix::net::sockopt::tcp_keepcnt(&fd).unwrap(), 3);
    }

    #[test]
    fn an_address_of_ipv6_is_for_ipv4_unless_it_says_otherwise() {
        for only_v6 in [false, true] {
            let options = ListenOptions { only_v6, ..ListenOptions::default() };
            let listener = bind((Ipv6Addr::UNSPECIFIED, 0).into(), 16, &options).unwrap();
            let port = listener.local_addr().unwrap().port();
            let connects = |address: IpAddr| TcpStream::connect((address, port)).is_ok();
            assert!(connects(Ipv6Addr::LOCALHOST.into()));
            assert_eq!(connects(Ipv4Addr::LOCALHOST.into()), !only_v6);
        }
    }

    /// Who speaks comes in with what it said; who is silent comes in all the same, later.
    #[test]
    fn deferred_connections_come_in_with_their_first_bytes() {
        let options = ListenOptions { defer_accept: true, ..ListenOptions::default() };
        let listener = bind(loopback(), 16, &options).unwrap();
        let address = listener.local_addr().unwrap();
        let silent = TcpStream::connect(address).unwrap();
        let mut speaker = TcpStream::connect(address).unwrap();
        io::Write::write_all(&mut speaker, b"hello").unwrap();
        let take = || {
            let poll = &mut [rustix::event::PollFd::new(&listener, rustix::event::PollFlags::IN)];
            let patience = rustix::event::Timespec { tv_sec: 30, tv_nsec: 0 };
            assert_eq!(rustix::event::poll(poll, Some(&patience)), Ok(1));
            accept(&listener).unwrap()
        };
        let (first, peer) = take();
        assert_eq!(peer, speaker.local_addr().unwrap());
        assert_eq!(recv_some(&first, &mut [0; 8]).unwrap(), 5);
        let (second, peer) = take();
        assert_eq!(peer, silent.local_addr().unwrap());
        assert_eq!(recv_some(&second, &mut [0; 8]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_group_shares_one_port_and_keeps_others_out() {
        let group = bind_group(loopback(), 3, 16, &ListenOptions::default()).unwrap();
        let addr = group[0].local_addr().unwrap();
        assert!(group.iter().all(|l| l.local_addr().unwrap() == addr));
        let error = bind_group(addr, 1, 16, &ListenOptions::default()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(group);
        bind_group(addr, 2, 16, &ListenOptions::default()).unwrap();
    }

    #[test]
    fn more_buffers_than_one_call_takes() {
        let listener = bind(loopback(), 16, &ListenOptions::default()).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (fd, _) = accept(&listener).unwrap();
        let bufs = vec![IoSlice::new(b"ab"); 3000];
        assert_eq!(send_slices(&fd, &bufs).unwrap(), 6000);
        drop(fd);
        let mut got = Vec::new();
        io::Read::read_to_end(&mut &client, &mut got).unwrap();
        assert_eq!(got, b"ab".repeat(3000));
    }
}
