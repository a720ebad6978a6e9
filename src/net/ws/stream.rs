//! The server's side of WebSocket over a socket or TLS.

use std::io::{self, IoSlice};
use std::sync::Arc;

use smallvec::SmallVec;

use super::frame::{
    CLOSE_GOING_AWAY, CLOSE_NORMAL, Control, Decoder, Header, Opcode, Role, Violation, append_frame,
};
use super::handshake::{Answer, WsSettings, answer};
use crate::net::driver::{READ_CHUNK, Refused};
use crate::net::tcp::Transport;
use crate::net::tls::Handshake;

/// The payload of the longest frame that is sent. More goes into several: some clients collect a whole
/// frame before they look at it.
const LONGEST_SENT: usize = 64 * 1024;

/// Bytes taken from the socket by one read, whatever is in them: who sends nothing but headers and pings
/// has no longer turn than others.
const TAKEN_PER_READ: usize = 2 * READ_CHUNK;

/// Bytes of a head that are read in one go.
const HEAD_STEP: usize = 2048;

/// One connection.
#[derive(Debug)]
pub(in crate::net) struct WsStream {
    /// What the frames travel over.
    inner: Transport,
    settings: Arc<WsSettings>,
    /// The head of the request as far as it has come; then what was read behind it.
    early: Vec<u8>,
    decoder: Decoder,
    /// Bytes of our own that go before all others: a response, the rest of a header, a control frame.
    out: Vec<u8>,
    /// The control frame that goes next, between two others: the answer to the last ping, or a close.
    control: Vec<u8>,
    /// What the frame that is being sent has still to be given.
    frame_left: usize,
    state: State,
    /// There may be more to read, although the last read fell short.
    has_more: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The handshake is not done.
    Handshake,
    Open,
    /// The peer sends nothing more, for the reason it gave. What answers what it sent before still goes to it,
    /// then a close frame (RFC 6455, 5.5.1).
    Left(Option<u16>),
    /// A close frame was made: nothing is sent after it.
    Closing,
    /// The peer broke the protocol, and is told so.
    Failed,
}

impl WsStream {
    /// Begins WebSocket on a connection that somebody has made.
    pub(in crate::net) fn new(inner: Transport, settings: Arc<WsSettings>) -> Self {
        let decoder = Decoder::new(Role::Server, settings.max_frame);
        Self {
            inner,
            settings,
            early: Vec::new(),
            decoder,
            out: Vec::new(),
            control: Vec::new(),
            frame_left: 0,
            state: State::Handshake,
            has_more: false,
        }
    }

    pub(in crate::net) fn inner(&self) -> &Transport {
        &self.inner
    }

    pub(in crate::net) fn is_handshaking(&self) -> bool {
        self.state == State::Handshake
    }

    /// Takes the handshake as far as it goes with what has come.
    pub(in crate::net) fn handshake(&mut self) -> io::Result<Handshake> {
        if self.inner.is_handshaking() {
            return self.inner.handshake();
        }
        loop {
            let mut step = [0; HEAD_STEP];
            let room = self.settings.max_head.saturating_sub(self.early.len()).min(HEAD_STEP);
            let room = step.get_mut(..room).unwrap_or_default();
            let len = match self.inner.recv(room) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Handshake::Waits);
                }
                Err(error) => return Err(error),
            };
            self.early.extend_from_slice(room.get(..len).unwrap_or_default());
            match answer(&self.early, &self.settings) {
                Answer::Incomplete => {}
                Answer::Accept { response, head_len } => {
                    self.early = self.early.split_off(head_len);
                    self.out = response;
                    self.state = State::Open;
                    self.flush()?;
                    return Ok(Handshake::Upgraded);
                }
                Answer::Refuse { response, why } => {
                    self.out = response;
                    self.state = State::Failed;
                    self.flush()?;
                    return Err(Refused(why).into());
                }
            }
        }
    }

    /// Receives payload into `buf`: as much as there is room for, or all that has come; if not, it
    /// [has more](Self::has_more). 0 is the end.
    pub(in crate::net) fn recv(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.has_more = false;
        let (mut filled, mut taken) = (0, 0);
        loop {
            let room = buf.get_mut(filled..).unwrap_or_default();
            let asked = room.len();
            if asked == 0 || (self.decoder.is_closed() && filled == 0) {
                return Ok(filled);
            }
            if taken >= TAKEN_PER_READ || self.decoder.is_closed() {
                self.has_more = true;
                return some(filled);
            }
            let (len, drained) = match self.take(room) {
                Ok((0, _)) if filled == 0 => return Ok(0),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return some(filled),
                Err(error) if filled == 0 => return Err(error),
                // What has come goes first.
                Ok((0, _)) | Err(_) => {
                    self.has_more = true;
                    return Ok(filled);
                }
                Ok(taken) => taken,
            };
            taken += len;
            filled += self.decode(room.get_mut(..len).unwrap_or_default())?;
            // Without payload the socket itself has to say that it is empty: its end may be next.
            if drained && filled > 0 && !self.decoder.is_closed() {
                return Ok(filled);
            }
        }
    }

    /// Takes bytes of frames in; also says whether there are no more.
    fn take(&mut self, room: &mut [u8]) -> io::Result<(usize, bool)> {
        if self.early.is_empty() {
            let len = self.inner.recv(room)?;
            return Ok((len, len < room.len()));
        }
        let len = self.early.len().min(room.len());
        let rest = self.early.split_off(len);
        room.get_mut(..len).unwrap_or_default().copy_from_slice(&self.early);
        self.early = rest;
        Ok((len, false))
    }

    /// Takes the payload out of frames, and answers those that ask for it.
    fn decode(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let control = &mut self.control;
        let state = &mut self.state;
        let decoded = self.decoder.decode(bytes, |frame| match frame {
            Control::Ping(payload) if *state == State::Open => {
                control.clear();
                append_frame(control, Opcode::Pong, payload, None);
            }
            Control::Close(code) if *state == State::Open => {
                *state = State::Left(code);
            }
            Control::Ping(_) | Control::Pong(_) | Control::Close(_) => {}
        });
        let result = decoded.map_err(|violation| self.fail(violation));
        if !self.control.is_empty() && self.flush().is_err() {
            // Whoever sends next is told.
            self.out.clear();
        }
        result
    }

    fn fail(&mut self, violation: Violation) -> io::Error {
        if self.is_open() {
            self.control = close_frame(Some(violation.code));
        }
        self.state = State::Failed;
        Refused(violation.what).into()
    }

    /// Whether the last read fell short without having taken all there is.
    #[inline]
    pub(in crate::net) fn has_more(&self) -> bool {
        self.has_more
    }

    /// Sends as much as there is room for, in frames; less than everything means that there is none left.
    pub(in crate::net) fn send(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let total = bufs.iter().map(|buf| buf.len()).sum();
        if !self.flush()? {
            return Ok(0);
        }
        if !self.is_open() {
            // Nobody reads behind a close frame.
            return Ok(total);
        }
        let mut sent = 0;
        while sent < total {
            let len = if self.frame_left > 0 { self.frame_left } else { LONGEST_SENT };
            let len = len.min(total - sent);
            let header = match self.frame_left {
                0 => Some(Header::new(Opcode::Binary, len, None)),
                _ => None,
            };
            let header = header.as_deref().unwrap_or_default();
            self.frame_left = self.frame_left.max(len);
            let mut slices: SmallVec<[IoSlice<'_>; 66]> = SmallVec::new();
            if !header.is_empty() {
                slices.push(IoSlice::new(header));
            }
            push_range(&mut slices, bufs, sent, len);
            let taken = self.inner.send(&slices)?;
            if taken < header.len() {
                self.out.extend_from_slice(header.get(taken..).unwrap_or_default());
                break;
            }
            let taken = taken - header.len();
            self.frame_left -= taken;
            sent += taken;
            if taken < len || !self.flush()? {
                break;
            }
        }
        Ok(sent)
    }

    /// Whether something that was taken waits for room.
    #[inline]
    pub(in crate::net) fn has_pending(&self) -> bool {
        !self.out.is_empty() || self.inner.has_pending()
    }

    /// Sends what waits for room; whether that is all of it.
    pub(in crate::net) fn flush(&mut self) -> io::Result<bool> {
        loop {
            if self.out.is_empty() && self.frame_left == 0 {
                std::mem::swap(&mut self.out, &mut self.control);
            }
            if self.out.is_empty() {
                return self.inner.flush();
            }
            let sent = self.inner.send(&[IoSlice::new(&self.out)])?;
            if sent < self.out.len() {
                self.out.drain(..sent);
                return Ok(false);
            }
            self.out = Vec::new();
        }
    }

    /// Whether something is said, or to be said, that the peer should still read, however the connection is
    /// closed. Whoever does not read has heard enough.
    pub(in crate::net) fn has_last_words(&self) -> bool {
        match self.state {
            State::Handshake => false,
            State::Open | State::Left(_) => self.frame_left == 0 && !self.has_pending(),
            State::Closing => self.has_pending(),
            State::Failed => true,
        }
    }

    /// Whether no close frame was made yet.
    fn is_open(&self) -> bool {
        matches!(self.state, State::Open | State::Left(_))
    }

    /// Says that nothing more will be sent, by a close frame if none was: the answer to the peer's own, or
    /// whether this side is `going_away`. If something is
    /// [pending](Self::has_pending) then, it is to be called again when there is room.
    pub(in crate::net) fn shutdown_write(&mut self, going_away: bool) -> io::Result<()> {
        let code = match self.state {
            State::Left(code) => Some(code),
            State::Open if going_away => Some(Some(CLOSE_GOING_AWAY)),
            State::Open => Some(Some(CLOSE_NORMAL)),
            State::Handshake | State::Closing | State::Failed => None,
        };
        if let Some(code) = code {
            self.state = State::Closing;
            self.control = close_frame(code);
        }
        if self.flush()? { self.inner.shutdown_write(going_away) } else { Ok(()) }
    }
}

/// The result of a read that has got `filled` bytes before there were no more.
fn some(filled: usize) -> io::Result<usize> {
    if filled == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(filled) }
}

fn close_frame(code: Option<u16>) -> Vec<u8> {
    let mut frame = Vec::new();
    let code = code.map(u16::to_be_bytes);
    let payload = code.as_ref().map_or(&[][..], |code| code);
    append_frame(&mut frame, Opcode::Close, payload, None);
    frame
}

/// Appends `len` bytes of `bufs`, from the offset `skip` on.
fn push_range<'a>(
    slices: &mut SmallVec<[IoSlice<'a>; 66]>,
    bufs: &'a [IoSlice<'_>],
    mut skip: usize,
    mut len: usize,
) {
    for buf in bufs {
        let rest = buf.get(skip.min(buf.len())..).unwrap_or_default();
        skip = skip.saturating_sub(buf.len());
        let part = rest.get(..len.min(rest.len())).unwrap_or_default();
        len -= part.len();
        if !part.is_empty() {
            slices.push(IoSlice::new(part));
        }
        if len == 0 {
            break;
        }
    }
}
