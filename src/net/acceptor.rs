//! The listeners of one driver.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::io::Errno;
use tracing::warn;

use super::driver::{ACCEPTS_PER_TURN, Turnstile};
use super::proxy::Proxied;
use super::tcp::{self, Transport};
use super::tls::TlsAcceptor;
use super::unix;
use super::ws::{WsSettings, WsStream};
use crate::timer::Time;

/// How long to leave connections in the kernel's queue when descriptors or memory have run out.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// The least time between two log lines about that.
const WARN_INTERVAL: Duration = Duration::from_secs(10);

/// A socket that listens.
#[derive(Debug)]
pub enum ListenSocket {
    /// For TCP.
    Tcp(TcpListener),
    /// For this machine.
    Unix(UnixListener),
}

impl ListenSocket {
    /// The next waiting connection, non-blocking, and its peer.
    fn accept(&self) -> io::Result<(OwnedFd, SocketAddr)> {
        match self {
            Self::Tcp(socket) => tcp::accept(socket),
            Self::Unix(socket) => unix::accept(socket),
        }
    }

    fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.set_nonblocking(true),
            Self::Unix(socket) => socket.set_nonblocking(true),
        }
    }
}

impl AsRawFd for ListenSocket {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Self::Tcp(socket) => socket.as_raw_fd(),
            Self::Unix(socket) => socket.as_raw_fd(),
        }
    }
}

/// A socket that listens, and what its connections speak.
#[derive(Debug)]
pub struct Listening {
    /// The socket.
    pub socket: ListenSocket,
    /// Whether each connection begins with a header of the PROXY protocol. Whose is believed is for the
    /// one who is told of the connection to say.
    pub proxied: bool,
    /// TLS; plain TCP without.
    pub tls: Option<Arc<TlsAcceptor>>,
    /// WebSocket, over TLS if there is that, too; MQTT is spoken directly without.
    pub ws: Option<Arc<WsSettings>>,
}

/// Plain TCP.
impl From<TcpListener> for Listening {
    fn from(socket: TcpListener) -> Self {
        Self { socket: ListenSocket::Tcp(socket), proxied: false, tls: None, ws: None }
    }
}

#[derive(Debug)]
struct Listener {
    socket: ListenSocket,
    proxied: bool,
    tls: Option<Arc<TlsAcceptor>>,
    ws: Option<Arc<WsSettings>>,
    /// The poll said so, and the queue has not been seen empty since.
    ready: bool,
    /// The next to pass: who is not there must not take the place of another.
    first: Option<(OwnedFd, SocketAddr)>,
    accepted_this_turn: usize,
    /// Nobody passes until then.
    shut_until: Option<Time>,
}

impl Listener {
    /// Whether it has more to accept; `tls`: whether any with TLS may come.
    fn waits(&self, tls: bool) -> bool {
        self.ready && self.shut_until.is_none() && (tls || self.tls.is_none())
    }

    /// The next connection that may pass, if this turn may take one. An error is one that has no room in the
    /// system.
    fn accept(
        &mut self,
        tls: bool,
        pass: impl Fn() -> Result<(), Time>,
    ) -> io::Result<Option<(Transport, SocketAddr)>> {
        while self.waits(tls) && self.accepted_this_turn < ACCEPTS_PER_TURN {
            self.accepted_this_turn += 1;
            let accepted = self.first.take().map_or_else(|| self.socket.accept(), Ok);
            let (fd, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => match error.raw_os_error().map(Errno::from_raw_os_error) {
                    Some(Errno::AGAIN) => {
                        self.ready = false;
                        break;
                    }
                    // One that died in the queue. The others may be well.
                    None
                    | Some(Errno::CONNABORTED | Errno::INTR | Errno::PROTO | Errno::PERM)
                    | Some(Errno::NETDOWN | Errno::NETUNREACH | Errno::HOSTUNREACH)
                    | Some(Errno::HOSTDOWN | Errno::NONET | Errno::TIMEDOUT) => continue,
                    // No descriptors, no memory, or what nobody has thought of: never spin.
                    Some(_) => return Err(error),
                },
            };
            if let Err(until) = pass() {
                self.first = Some((fd, peer));
                self.shut_until = Some(until);
                break;
            }
            match self.transport(fd) {
                Ok(transport) => return Ok(Some((transport, peer))),
                // Only a configuration that no client can use.
                Err(error) => warn!(%error, "cannot begin TLS"),
            }
        }
        Ok(None)
    }

    /// What is spoken over a socket that was accepted.
    fn transport(&self, fd: OwnedFd) -> io::Result<Transport> {
        let transport = match &self.tls {
            None => Transport::Plain(fd),
            Some(tls) => Transport::Tls(tls.accept(fd)?),
        };
        let transport = match &self.ws {
            None => transport,
            Some(ws) => Transport::Ws(Box::new(WsStream::new(transport, ws.clone()))),
        };
        Ok(if self.proxied {
            Transport::Proxied(Box::new(Proxied::new(transport)))
        } else {
            transport
        })
    }
}

/// Accepts in bounded batches. Readiness is remembered, so waiting costs no system call and a full
/// descriptor table makes no busy loop.
#[derive(Debug)]
pub(super) struct Acceptor {
    listeners: Vec<Listener>,
    /// The listener to look at first: one of each in turn, lest the one with most to accept takes all that
    /// may pass.
    next: usize,
    turnstile: Option<Arc<dyn Turnstile>>,
    retry_at: Option<Time>,
    warned_at: Option<Time>,
}

impl Acceptor {
    /// Watches `listeners`, the first under the token `base`, the others below it.
    pub(super) fn new(
        registry: &Registry,
        sockets: Vec<Listening>,
        base: usize,
    ) -> io::Result<Self> {
        let mut listeners = Vec::with_capacity(sockets.len());
        for (index, Listening { socket, proxied, tls, ws }) in sockets.into_iter().enumerate() {
            socket.set_nonblocking()?;
            let token = Token(base - index);
            registry.register(&mut SourceFd(&socket.as_raw_fd()), token, Interest::READABLE)?;
            listeners.push(Listener {
                socket,
                proxied,
                tls,
                ws,
                ready: false,
                first: None,
                accepted_this_turn: 0,
                shut_until: None,
            });
        }
        Ok(Self { listeners, next: 0, turnstile: None, retry_at: None, warned_at: None })
    }

    pub(super) fn set_ready(&mut self, index: usize) {
        if let Some(listener) = self.listeners.get_mut(index) {
            listener.ready = true;
        }
    }

    pub(super) fn set_turnstile(&mut self, turnstile: Arc<dyn Turnstile>) {
        self.turnstile = Some(turnstile);
    }

    pub(super) fn begin_turn(&mut self, now: Time) {
        self.retry_at = self.retry_at.filter(|at| *at > now);
        for listener in &mut self.listeners {
            listener.accepted_this_turn = 0;
            listener.shut_until = listener.shut_until.filter(|at| *at > now);
        }
    }

    /// Descriptors were freed: no need to wait longer.
    #[inline]
    pub(super) fn retry_soon(&mut self) {
        self.retry_at = None;
    }

    /// Whether the next turn has connections to accept already; `tls`: whether any with TLS may come.
    pub(super) fn has_more(&self, tls: bool) -> bool {
        let mut listeners = self.listeners.iter();
        self.retry_at.is_none() && listeners.any(|listener| listener.waits(tls))
    }

    /// Whether connections of a listener begin with a TLS handshake.
    pub(super) fn has_tls(&self, index: usize) -> bool {
        self.listeners.get(index).is_some_and(|listener| listener.tls.is_some())
    }

    /// When to look again although the poll says nothing.
    pub(super) fn retry_at(&self) -> Option<Time> {
        let shut = self.listeners.iter().filter(|listener| listener.ready);
        let opens = shut.filter_map(|listener| listener.shut_until).min();
        self.retry_at.or(opens)
    }

    /// The next connection that this turn may take; `tls`: whether any with TLS may come.
    pub(super) fn accept(
        &mut self,
        now: Time,
        tls: bool,
    ) -> Option<(Transport, usize, SocketAddr)> {
        if self.retry_at.is_some() {
            return None;
        }
        let count = self.listeners.len();
        for index in (0..count).map(|step| (self.next + step) % count) {
            let Some(listener) = self.listeners.get_mut(index) else { continue };
            let turnstile = self.turnstile.as_deref();
            let pass = || turnstile.map_or(Ok(()), |turnstile| turnstile.pass(index, now));
            match listener.accept(tls, pass) {
                Ok(None) => {}
                Ok(Some((transport, peer))) => {
                    self.next = index + 1;
                    return Some((transport, index, peer));
                }
                Err(error) => {
                    self.exhausted(now, &error);
                    break;
                }
            }
        }
        None
    }

    /// The system has no room for another connection: let the queue wait.
    pub(super) fn exhausted(&mut self, now: Time, error: &io::Error) {
        self.retry_at = Some(now.plus(EXHAUSTED_PAUSE));
        if self.warned_at.is_none_or(|at| now.since(at) >= WARN_INTERVAL) {
            self.warned_at = Some(now);
            warn!(%error, "cannot accept connections for now");
        }
    }

    /// Closes the listeners.
    pub(super) fn stop(&mut self, registry: &Registry) {
        for listener in self.listeners.drain(..) {
            // Closing is not enough if the descriptor was duplicated. A failure changes nothing.
            let _ = registry.deregister(&mut SourceFd(&listener.socket.as_raw_fd()));
        }
        self.retry_at = None;
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use mio::Poll;

    use super::*;

    const NOW: Time = Time(5_000);
    const LATER: Time = Time(6_000);

    /// Lets so many pass, and more later.
    #[derive(Debug, Default)]
    struct Few(AtomicUsize);

    impl Turnstile for Few {
        fn pass(&self, _: usize, now: Time) -> Result<(), Time> {
            let pass = |left: usize| left.checked_sub(1);
            let passed = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, pass);
            if now < LATER { passed.map(drop).map_err(|_| LATER) } else { Ok(()) }
        }
    }

    /// Listeners, each with so many connections waiting, and so many that pass.
    fn waiting<const N: usize>(counts: [usize; N], pass: usize) -> (Acceptor, Vec<TcpStream>) {
        let registry = Poll::new().unwrap().registry().try_clone().unwrap();
        let sockets = counts.map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let addresses = sockets.each_ref().map(|socket| socket.local_addr().unwrap());
        let sockets = sockets.into_iter().map(Into::into).collect();
        let mut acceptor = Acceptor::new(&registry, sockets, usize::MAX).unwrap();
        acceptor.set_turnstile(Arc::new(Few(pass.into())));
        (0..N).for_each(|index| acceptor.set_ready(index));
        let each = addresses.into_iter().zip(counts);
        let all = each.flat_map(|(address, count)| std::iter::repeat_n(address, count));
        let clients = all.map(|address| TcpStream::connect(address).unwrap()).collect();
        (acceptor, clients)
    }

    /// Whose connections a turn accepts.
    fn turn(acceptor: &mut Acceptor, now: Time) -> Vec<usize> {
        acceptor.begin_turn(now);
        std::iter::from_fn(|| acceptor.accept(now, true).map(|(_, index, _)| index)).collect()
    }

    #[test]
    fn listeners_take_turns() {
        let (mut acceptor, _clients) = waiting([5, 1, 3], 100);
        assert_eq!(turn(&mut acceptor, NOW), [0, 1, 2, 0, 2, 0, 2, 0, 0]);
        // Who was the first to be refused is the first to come.
        let (mut acceptor, _clients) = waiting([5, 3], 3);
        assert_eq!(turn(&mut acceptor, NOW), [0, 1, 0]);
        assert!(turn(&mut acceptor, NOW).is_empty());
        assert_eq!(turn(&mut acceptor, LATER), [1, 0, 1, 0, 0]);
    }

    #[test]
    fn who_is_not_there_is_not_asked_for() {
        let (mut acceptor, _clients) = waiting([2, 0], 3);
        assert_eq!(turn(&mut acceptor, NOW), [0, 0]);
        assert!(turn(&mut acceptor, NOW).is_empty());
        assert_eq!(acceptor.retry_at(), None, "nobody waits");
        let (mut acceptor, _clients) = waiting([0, 2], 1);
        assert_eq!(turn(&mut acceptor, NOW), [1]);
        assert_eq!(acceptor.retry_at(), Some(LATER));
        assert!(!acceptor.has_more(true));
        assert_eq!(turn(&mut acceptor, LATER), [1], "the one who waited");
    }
}
