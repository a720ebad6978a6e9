//! One connection of the relay.

use std::io::{self, IoSlice, Read, Write};
use std::ops::Range;

use mio::net::TcpStream;
use sluice::mqtt::Version;

/// What a peer that does not read may leave unwritten, in bytes, before it is dropped.
const MAX_PENDING: usize = 256 * 1024 * 1024;

/// Stretches written by one system call.
const MAX_SLICES: usize = 64;

pub(super) struct Peer {
    socket: TcpStream,
    pub(super) version: Version,
    /// Part of a frame.
    kept: Vec<u8>,
    /// What the socket did not take.
    pending: Vec<u8>,
    blocked: bool,
    /// Stretches of the turn's buffer that go to this peer.
    runs: Vec<Range<usize>>,
    /// In the relay's list of peers to write to.
    pub(super) queued: bool,
    /// The route of its last PUBLISH.
    pub(super) route: Option<usize>,
    /// The peer whose messages it received last, and which gets its acknowledgements.
    pub(super) publisher: Option<usize>,
    pub(super) filters: Vec<String>,
}

impl Peer {
    pub(super) fn new(socket: TcpStream) -> Self {
        Self {
            socket,
            version: Version::V311,
            kept: Vec::new(),
            pending: Vec::new(),
            blocked: false,
            runs: Vec::new(),
            queued: false,
            route: None,
            publisher: None,
            filters: Vec::new(),
        }
    }

    /// Bytes kept of an unfinished frame.
    pub(super) fn kept(&self) -> usize {
        self.kept.len()
    }

    /// Puts what was kept and then what is there into `space`. Returns the bytes filled and whether the
    /// socket is drained.
    #[inline]
    pub(super) fn read(&mut self, space: &mut [u8]) -> io::Result<(usize, bool)> {
        let (front, rest) = space.split_at_mut(self.kept.len());
        let count = match self.socket.read(rest)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => count,
        };
        front.copy_from_slice(&self.kept);
        self.kept.clear();
        Ok((front.len() + count, count < rest.len()))
    }

    #[inline]
    pub(super) fn keep(&mut self, rest: &[u8]) {
        self.kept.extend_from_slice(rest);
    }

    /// Appends a stretch of the turn's buffer to what is to be written.
    #[inline]
    pub(super) fn push_run(&mut self, run: Range<usize>) {
        match self.runs.last_mut() {
            Some(last) if last.end == run.start => last.end = run.end,
            _ => self.runs.push(run),
        }
    }

    /// Writes bytes of the relay's own, which are rare.
    pub(super) fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.pending.extend_from_slice(bytes);
        self.write_pending()
    }

    pub(super) fn on_writable(&mut self) -> io::Result<()> {
        self.blocked = false;
        self.write_pending()
    }

    /// Writes all stretches, and keeps what the socket does not take.
    pub(super) fn write_runs(&mut self, buffer: &[u8]) -> io::Result<()> {
        let mut written = 0;
        if self.pending.is_empty() && !self.blocked {
            written = self.write_some(buffer)?;
        }
        for run in self.runs.drain(..) {
            let skipped = written.min(run.len());
            written -= skipped;
            self.pending.extend_from_slice(&buffer[run.start + skipped..run.end]);
        }
        if self.pending.len() > MAX_PENDING {
            return Err(io::Error::other("does not read"));
        }
        self.write_pending()
    }

    fn write_some(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = if let [run] = self.runs.as_slice() {
            self.socket.write(&buffer[run.clone()])
        } else {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            for (slice, run) in slices.iter_mut().zip(&self.runs) {
                *slice = IoSlice::new(&buffer[run.clone()]);
            }
            self.socket.write_vectored(&slices[..self.runs.len().min(MAX_SLICES)])
        };
        self.unless_blocked(written)
    }

    fn write_pending(&mut self) -> io::Result<()> {
        while !self.pending.is_empty() && !self.blocked {
            let written = self.socket.write(&self.pending);
            let written = self.unless_blocked(written)?;
            self.pending.drain(..written);
        }
        Ok(())
    }

    fn unless_blocked(&mut self, written: io::Result<usize>) -> io::Result<usize> {
        match written {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.blocked = true;
                Ok(0)
            }
            written => written,
        }
    }
}
