//! TLS over a socket, on the shard's own loop: rustls does the protocol, and this moves its bytes.
//!
//! What is read is as much as there is room for, or all that the socket has: the driver is told of a socket
//! once, and takes a short read for an empty one. What one call writes shares records of up to 16 KiB.

use std::cell::RefCell;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConnection;
use rustls::server::ServerConfig;

use super::certificate::{CertificateUser, user_of};
use super::tcp::{recv_some, send_slices};

/// Ciphertext taken from a socket in one call.
const SCRATCH: usize = 64 * 1024;

/// Bytes that rustls holds encrypted for a socket without room. What is beyond is not taken.
const WRITE_BUFFER: usize = 64 * 1024;

thread_local! {
    /// Ciphertext on its way into rustls: one for all connections of a shard.
    static INCOMING: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// What a listener of TLS goes by, shared by all shards. It can be replaced while connections are open,
/// which keep what they began with.
#[derive(Debug)]
pub struct TlsAcceptor {
    current: RwLock<Current>,
}

#[derive(Clone, Debug)]
struct Current {
    config: Arc<ServerConfig>,
    user: CertificateUser,
}

impl TlsAcceptor {
    /// An acceptor; `user` says which name in a client's certificate is its user name.
    #[must_use]
    pub fn new(config: Arc<ServerConfig>, user: CertificateUser) -> Arc<Self> {
        Arc::new(Self { current: RwLock::new(Current { config, user }) })
    }

    /// Has new connections go by another configuration.
    pub fn replace(&self, config: Arc<ServerConfig>, user: CertificateUser) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        *current = Current { config, user };
    }

    /// Begins TLS on a socket.
    pub(super) fn accept(&self, fd: OwnedFd) -> io::Result<Box<Tls>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut session = ServerConnection::new(current.config).map_err(io::Error::other)?;
        session.set_buffer_limit(Some(WRITE_BUFFER));
        Ok(Box::new(Tls { fd, session, user: current.user, stash: Vec::new(), closing: false }))
    }
}

/// One connection.
#[derive(Debug)]
pub(super) struct Tls {
    fd: OwnedFd,
    session: ServerConnection,
    user: CertificateUser,
    /// Ciphertext that was read when there was no room for what is in it.
    stash: Vec<u8>,
    /// The last alert is written.
    closing: bool,
}

/// How a handshake goes on.
#[derive(Debug)]
pub(super) enum Handshake {
    /// The client is to say more.
    Waits,
    /// It is done; the client's certificate names this user.
    Done(Option<Arc<str>>),
}

impl Tls {
    #[inline]
    pub(super) fn is_handshaking(&self) -> bool {
        self.session.is_handshaking()
    }

    /// Whether encrypted bytes wait for room in the socket.
    #[inline]
    pub(super) fn has_pending(&self) -> bool {
        self.session.wants_write()
    }

    /// Takes the handshake as far as it goes with what has come.
    pub(super) fn handshake(&mut self) -> io::Result<Handshake> {
        while self.session.is_handshaking() {
            match self.receive(SCRATCH) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Handshake::Waits);
                }
                Err(error) => return Err(error),
            }
            self.flush()?;
        }
        let certificate = self.session.peer_certificates().and_then(|chain| chain.first());
        let user = certificate.and_then(|certificate| user_of(certificate, self.user));
        Ok(Handshake::Done(user.map(Arc::from)))
    }

    /// Takes at most `room` bytes of ciphertext in; 0 is the end of the socket.
    fn receive(&mut self, room: usize) -> io::Result<usize> {
        if !self.stash.is_empty() {
            let stash = std::mem::take(&mut self.stash);
            self.feed(&stash)?;
            return Ok(stash.len());
        }
        INCOMING.with_borrow_mut(|incoming| {
            let buf = incoming.get_mut(..room.min(SCRATCH)).unwrap_or_default();
            let len = recv_some(&self.fd, buf)?;
            if len == 0 {
                // So rustls knows whether the end was said, or came.
                self.session.read_tls(&mut io::empty())?;
                return Ok(0);
            }
            self.feed(buf.get(..len).unwrap_or_default())?;
            Ok(len)
        })
    }

    /// Decrypts ciphertext, and keeps what there is no room for.
    fn feed(&mut self, mut ciphertext: &[u8]) -> io::Result<()> {
        while !ciphertext.is_empty() {
            let before = ciphertext.len();
            let taken = self.session.read_tls(&mut ciphertext);
            if let Err(error) = self.session.process_new_packets() {
                // The client is told why, if it still listens.
                let _ = self.flush();
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
            // Its buffer of plaintext is full.
            if taken.is_err() || ciphertext.len() == before {
                self.stash.extend_from_slice(ciphertext);
                break;
            }
        }
        Ok(())
    }

    /// Receives plaintext into `buf`; 0 is the end.
    pub(super) fn recv(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        loop {
            let room = buf.get_mut(filled..).unwrap_or_default();
            if room.is_empty() {
                return Ok(filled);
            }
            match self.session.reader().read(room) {
                Ok(0) => return Ok(filled),
                Ok(len) => {
                    filled += len;
                    continue;
                }
                // The socket ended without a word: as TCP does.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(filled),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            match self.receive(room.len()) {
                Ok(_) => {}
                Err(error) if filled > 0 && error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(filled);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Receives at most `most` bytes of plaintext behind what `buf` holds.
    pub(super) fn recv_spare(&mut self, buf: &mut Vec<u8>, most: usize) -> io::Result<usize> {
        let mut filled = 0;
        while filled < most {
            let start = buf.len();
            let step = (most - filled).min(SCRATCH);
            buf.resize(start + step, 0);
            let result = self.recv(buf.get_mut(start..).unwrap_or_default());
            let len = *result.as_ref().unwrap_or(&0);
            buf.truncate(start + len);
            filled += len;
            match result {
                Ok(len) if len == step => {}
                Err(error) if filled == 0 => return Err(error),
                _ => break,
            }
        }
        Ok(filled)
    }

    /// Encrypts and sends what there is room for. Less than everything means that there is none left; of
    /// what was taken some may still be [pending](Self::has_pending).
    pub(super) fn send(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        if !self.flush()? {
            return Ok(0);
        }
        let total: usize = bufs.iter().map(|buf| buf.len()).sum();
        let mut sent = self.session.writer().write_vectored(bufs)?;
        while self.flush()? && sent < total {
            let mut skip = sent;
            for buf in bufs {
                let rest = buf.get(skip.min(buf.len())..).unwrap_or_default();
                skip = skip.saturating_sub(buf.len());
                let len = self.session.writer().write(rest)?;
                sent += len;
                if len < rest.len() {
                    break;
                }
            }
        }
        Ok(sent)
    }

    /// Sends what is encrypted; whether that is all of it.
    pub(super) fn flush(&mut self) -> io::Result<bool> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut Socket(&self.fd)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Says that nothing more will be sent. The socket ends when all that is pending is out: then this is
    /// to be called again.
    pub(super) fn shutdown_write(&mut self) -> io::Result<()> {
        if !self.closing {
            self.closing = true;
            self.session.send_close_notify();
        }
        if self.flush()? {
            rustix::net::shutdown(&self.fd, rustix::net::Shutdown::Write)?;
        }
        Ok(())
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }
}

impl AsRawFd for Tls {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Where rustls writes.
struct Socket<'a>(&'a OwnedFd);

impl Write for Socket<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(buf)])
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        match send_slices(self.0, bufs)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            sent => Ok(sent),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
