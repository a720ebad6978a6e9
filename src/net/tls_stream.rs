//! TLS over a non-blocking socket: rustls does the protocol, and this moves its bytes.
//!
//! What is read is as much as there is room for, or all that the socket has: an event loop is told of a
//! socket once, and takes a short read for an empty one. What one call writes shares records of up to 16 KiB.

use std::cell::RefCell;
use std::io::{self, IoSlice, Read, Write};
use std::ops::DerefMut;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use rustls::client::ClientConfig;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, ConnectionCommon, SideData};

use super::tcp::{recv_some, send_slices};

/// Ciphertext taken from a socket in one call.
const SCRATCH: usize = 64 * 1024;

/// Bytes that rustls holds encrypted for a socket without room. What is beyond is not taken.
const WRITE_BUFFER: usize = 64 * 1024;

thread_local! {
    /// Ciphertext on its way into rustls: one for all connections of a thread.
    static INCOMING: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// One side of a connection; `C` says which.
#[derive(Debug)]
pub struct TlsStream<C> {
    fd: OwnedFd,
    session: C,
    /// Ciphertext that was read when there was no room for what is in it.
    stash: Vec<u8>,
    /// The last alert is written.
    closing: bool,
}

/// What came from a socket.
#[derive(Clone, Copy)]
struct Received {
    /// Bytes of ciphertext; 0 is the end.
    len: usize,
    /// Neither the socket nor the stash has more.
    drained: bool,
}

impl TlsStream<ClientConnection> {
    /// The client's side on a connected, non-blocking socket; [`handshake`](Self::handshake) goes on with it.
    /// `name` is what the server's certificate has to be for.
    ///
    /// # Errors
    /// The configuration does not allow for a handshake.
    pub fn client(
        fd: OwnedFd,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<Self> {
        let session = ClientConnection::new(config, name).map_err(io::Error::other)?;
        Ok(Self::new(fd, session))
    }
}

impl<C, D> TlsStream<C>
where
    C: DerefMut<Target = ConnectionCommon<D>>,
    D: SideData,
{
    /// TLS on a non-blocking socket, before the handshake.
    pub(super) fn new(fd: OwnedFd, mut session: C) -> Self {
        session.set_buffer_limit(Some(WRITE_BUFFER));
        Self { fd, session, stash: Vec::new(), closing: false }
    }

    /// What rustls knows of the connection.
    pub fn session(&self) -> &C {
        &self.session
    }

    /// Whether encrypted bytes wait for room in the socket.
    #[inline]
    pub fn has_pending(&self) -> bool {
        self.session.wants_write()
    }

    /// Takes the handshake as far as it goes with what has come. Returns whether it is done; if not, the
    /// peer is to say more.
    ///
    /// # Errors
    /// What the system says; `UnexpectedEof` if the peer ends the connection; `InvalidData` around a
    /// [`rustls::Error`] if the two do not agree.
    pub fn handshake(&mut self) -> io::Result<bool> {
        self.flush()?;
        while self.session.is_handshaking() {
            match self.receive(SCRATCH) {
                Ok(Received { len: 0, .. }) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
            self.flush()?;
        }
        Ok(true)
    }

    /// Takes at most `room` bytes of ciphertext in.
    fn receive(&mut self, room: usize) -> io::Result<Received> {
        if !self.stash.is_empty() {
            let stash = std::mem::take(&mut self.stash);
            self.feed(&stash)?;
            return Ok(Received { len: stash.len(), drained: false });
        }
        INCOMING.with_borrow_mut(|incoming| {
            let buf = incoming.get_mut(..room.min(SCRATCH)).unwrap_or_default();
            let len = recv_some(&self.fd, buf)?;
            if len == 0 {
                // So rustls knows whether the end was said, or came.
                self.session.read_tls(&mut io::empty())?;
                return Ok(Received { len: 0, drained: true });
            }
            self.feed(buf.get(..len).unwrap_or_default())?;
            let drained = len < buf.len() && self.stash.is_empty();
            Ok(Received { len, drained })
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

    /// Receives plaintext into `buf`: as much as there is room for, or all that has come. 0 is the end.
    ///
    /// # Errors
    /// `WouldBlock` if nothing has come; else as [`handshake`](Self::handshake).
    pub fn recv(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        let mut drained = false;
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
                // Nobody asks an empty socket again to be told so.
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock && drained && filled > 0 =>
                {
                    return Ok(filled);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            match self.receive(room.len()) {
                Ok(received) => drained = received.drained,
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
    ///
    /// # Errors
    /// What the system says.
    pub fn send(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
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
    ///
    /// # Errors
    /// What the system says.
    pub fn flush(&mut self) -> io::Result<bool> {
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
    ///
    /// # Errors
    /// What the system says.
    pub fn shutdown_write(&mut self) -> io::Result<()> {
        if !self.closing {
            self.closing = true;
            self.session.send_close_notify();
        }
        if self.flush()? {
            rustix::net::shutdown(&self.fd, rustix::net::Shutdown::Write)?;
        }
        Ok(())
    }
}

impl<C> AsFd for TlsStream<C> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl<C> AsRawFd for TlsStream<C> {
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
