//! One client connection: its socket, where it stands, and the bytes in between.

use std::io;

use sluice::mqtt::{QoS, Version};

use super::Failure;
use super::large::{Beginning, HEAD_CHUNK, LargePublish};
use super::transport::Transport;

/// Where a client stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Not dialled yet.
    Waiting,
    /// The TCP handshake is under way.
    Dialling,
    /// CONNECT is sent.
    Connecting,
    /// SUBSCRIBE is sent.
    Subscribing,
    /// In, and subscribed if it wants to be.
    Ready,
    /// Closed by either side.
    Closed,
}

/// How a client begins and ends its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Session {
    /// Nothing of an earlier session is wanted.
    pub(crate) clean_start: bool,
    /// Seconds that it outlives the connection in 5.0; in 3.x one that does not start clean has no end.
    pub(crate) expiry_seconds: u32,
}

impl Default for Session {
    fn default() -> Self {
        Self { clean_start: true, expiry_seconds: 0 }
    }
}

impl Session {
    /// One that the broker keeps when the client goes, and has kept before.
    pub(crate) const KEPT: Self = Self { clean_start: false, expiry_seconds: 3600 };
}

/// A subscription that a client makes once it is connected.
#[derive(Clone, Debug)]
pub(crate) struct Subscription {
    pub(crate) filters: Vec<String>,
    pub(crate) qos: QoS,
}

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) phase: Phase,
    pub(crate) client_id: String,
    /// Instead of the common one.
    pub(crate) username: Option<String>,
    pub(crate) subscription: Option<Subscription>,
    /// What of its session is kept, here and beyond the connection.
    pub(crate) session: Session,
    /// Its end is no failure.
    pub(crate) expendable: bool,
    /// It reads nothing any more.
    pub(crate) stalled: bool,
    /// SUBACK packets that are still to come.
    pub(crate) subscribing: usize,
    /// Latencies count from here, not from the sending, if set.
    pub(crate) latency_from_ns: Option<u64>,
    /// Index of what it publishes.
    pub(crate) flow: Option<u32>,
    /// Index of what it receives.
    pub(crate) stream: Option<u32>,
    /// When dialling began.
    pub(crate) dialled_ns: u64,
    /// To be written: acknowledgements of this turn, or what the socket did not take.
    pub(crate) out: Vec<u8>,
    /// How much of that is written already.
    out_at: usize,
    /// In the engine's list of connections to flush in this turn.
    pub(crate) touched: bool,
    /// The socket is full; a writable event follows.
    pub(crate) blocked: bool,
    /// Something was written since the last look at its keep alive.
    pub(crate) wrote: bool,
    /// A PINGREQ is sent, and nothing has come since.
    pub(crate) pinging: bool,
    /// It has been looked at once while that was so.
    pub(crate) unanswered: bool,
    transport: Option<Transport>,
    /// Part of a packet.
    kept: Vec<u8>,
    /// A large message whose end is dropped unseen.
    skipping: Option<LargePublish>,
    /// Another large message is to be expected.
    pub(crate) reads_heads: bool,
}

/// What came of a look at the socket.
#[derive(Debug, Default)]
pub(crate) struct Read {
    /// Bytes of the buffer that are filled.
    pub(crate) filled: usize,
    /// The socket has no more.
    pub(crate) drained: bool,
    /// The end of this message has come; it goes before what is in the buffer.
    pub(crate) large: Option<LargePublish>,
}

impl Connection {
    pub(crate) fn new(client_id: String, subscription: Option<Subscription>) -> Self {
        Self {
            phase: Phase::Waiting,
            client_id,
            username: None,
            subscription,
            session: Session::default(),
            expendable: false,
            stalled: false,
            subscribing: 0,
            latency_from_ns: None,
            flow: None,
            stream: None,
            dialled_ns: 0,
            out: Vec::new(),
            out_at: 0,
            touched: false,
            blocked: false,
            wrote: false,
            pinging: false,
            unanswered: false,
            transport: None,
            kept: Vec::new(),
            skipping: None,
            reads_heads: false,
        }
    }

    pub(crate) fn open(&mut self, transport: Transport, now_ns: u64) {
        self.transport = Some(transport);
        self.phase = Phase::Dialling;
        self.dialled_ns = now_ns;
    }

    pub(crate) fn transport(&mut self) -> Option<&mut Transport> {
        self.transport.as_mut()
    }

    /// Whether there is a socket and nobody has closed it.
    pub(crate) fn is_open(&self) -> bool {
        self.transport.is_some()
    }

    pub(crate) fn close(&mut self) {
        if let Some(transport) = self.transport.take() {
            transport.abort();
        }
        self.phase = Phase::Closed;
        self.out = Vec::new();
        self.out_at = 0;
        self.kept = Vec::new();
        self.skipping = None;
    }

    /// Bytes kept of an unfinished packet.
    #[inline]
    pub(crate) fn kept(&self) -> usize {
        self.kept.len()
    }

    /// Reads what is there into `buffer`, which is longer than what was kept, behind what was kept; of a large
    /// message that is known nothing more is read. `None` when there is nothing to read.
    #[inline]
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<Option<Read>, Failure> {
        let Some(transport) = self.transport.as_mut() else { return Ok(None) };
        if self.skipping.is_some() {
            return self.skip(buffer);
        }
        let kept = self.kept.len();
        let (front, space) = buffer.split_at_mut(kept);
        let most = if self.reads_heads { HEAD_CHUNK } else { space.len() };
        let space = &mut space[..most];
        let Some(count) = received(transport.read(space))? else { return Ok(None) };
        self.pinging = false;
        front.copy_from_slice(&self.kept);
        self.kept.clear();
        Ok(Some(Read { filled: kept + count, drained: count < most, large: None }))
    }

    #[cold]
    fn skip(&mut self, buffer: &mut [u8]) -> Result<Option<Read>, Failure> {
        let (Some(transport), Some(large)) = (&mut self.transport, &mut self.skipping) else {
            return Ok(None);
        };
        let most = large.missing.min(buffer.len());
        let Some(count) = received(transport.skip(&mut buffer[..most]))? else { return Ok(None) };
        self.pinging = false;
        large.missing -= count;
        let large = if large.missing == 0 { self.skipping.take() } else { None };
        Ok(Some(Read { filled: 0, drained: count < most, large }))
    }

    /// Whether anything is to be written.
    #[inline]
    pub(crate) fn has_output(&self) -> bool {
        !self.output().is_empty() || self.has_pending()
    }

    /// What is to be written.
    #[inline]
    pub(crate) fn output(&self) -> &[u8] {
        self.out.get(self.out_at..).unwrap_or_default()
    }

    #[inline]
    fn has_pending(&self) -> bool {
        self.transport.as_ref().is_some_and(Transport::has_pending)
    }

    /// Says that nothing more will be written.
    pub(crate) fn finish(&mut self) {
        if let Some(transport) = &mut self.transport {
            transport.finish();
        }
    }

    /// Keeps a part of a packet for the next read, or only the beginning of a message of which no more is needed.
    #[inline]
    pub(crate) fn keep(&mut self, version: Version, rest: &[u8]) {
        if rest.is_empty() {
            return;
        }
        if self.transport.as_ref().is_some_and(Transport::can_skip) {
            match Beginning::of(version, rest) {
                Beginning::Small => {}
                // What is long enough to tell and does not is read as a whole.
                Beginning::Short => self.reads_heads |= rest.len() < HEAD_CHUNK,
                Beginning::Enough(large) => {
                    self.reads_heads = true;
                    self.skipping = Some(large);
                    return;
                }
            }
        }
        self.kept.extend_from_slice(rest);
    }

    /// Writes `bytes`, which must begin with all of [`output`](Self::output); what the socket does not take becomes `out`.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let written = self.write_some(bytes)?;
        self.out.clear();
        self.out_at = 0;
        self.out.extend_from_slice(bytes.get(written..).unwrap_or_default());
        self.blocked = self.has_output();
        Ok(())
    }

    /// The same for bytes in two parts, of which the first begins with all of [`output`](Self::output).
    pub(crate) fn write_parts(&mut self, front: &[u8], rest: &[u8]) -> Result<(), Failure> {
        let Some(transport) = self.transport.as_mut() else { return Ok(()) };
        let written = taken(transport.write_parts(front, rest))?;
        self.wrote |= written > 0;
        self.out.clear();
        self.out_at = 0;
        self.out.extend_from_slice(front.get(written..).unwrap_or_default());
        let written = written.saturating_sub(front.len());
        self.out.extend_from_slice(rest.get(written..).unwrap_or_default());
        self.blocked = self.has_output();
        Ok(())
    }

    /// Writes `out`.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        let out = std::mem::take(&mut self.out);
        let written = self.write_some(out.get(self.out_at..).unwrap_or_default());
        self.out = out;
        self.out_at += written?;
        if self.out_at == self.out.len() {
            self.out.clear();
            self.out_at = 0;
        }
        self.blocked = self.has_output();
        Ok(())
    }

    fn write_some(&mut self, bytes: &[u8]) -> Result<usize, Failure> {
        let Some(transport) = self.transport.as_mut() else { return Ok(bytes.len()) };
        let written = taken(transport.write(bytes))?;
        self.wrote |= written > 0;
        Ok(written)
    }
}

/// Bytes that came; `None` when there is nothing to read.
#[inline]
fn received(read: io::Result<usize>) -> Result<Option<usize>, Failure> {
    match read {
        Ok(0) => Err(Failure::ClosedByBroker),
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Bytes that the socket took.
#[inline]
fn taken(written: io::Result<usize>) -> Result<usize, Failure> {
    match written {
        Ok(written) => Ok(written),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        Err(error) => Err(error.into()),
    }
}
