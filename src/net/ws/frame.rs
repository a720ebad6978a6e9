//! Frames (RFC 6455, 5): read where they lie, written by their headers.

use std::ops::Deref;

/// The longest payload of a control frame in bytes (RFC 6455, 5.5).
pub const MAX_CONTROL_PAYLOAD: usize = 125;

/// The longest header in bytes.
const MAX_HEADER: usize = 14;

/// Which side of a connection one is. A client masks what it sends, a server does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The side that connects.
    Client,
    /// The side that accepts.
    Server,
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// More of a message.
    Continuation = 0,
    /// A message of text, or its beginning: never part of MQTT.
    Text = 1,
    /// A message of bytes, or its beginning.
    Binary = 2,
    /// The last frame of one side.
    Close = 8,
    /// To be answered by a pong with the same payload.
    Ping = 9,
    /// The answer to a ping.
    Pong = 10,
}

impl Opcode {
    fn of(first_byte: u8) -> Option<Self> {
        Some(match first_byte & 0x0F {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return None,
        })
    }

    fn is_control(self) -> bool {
        self as u8 >= Self::Close as u8
    }
}

/// The code of a close frame that says that all is well.
pub const CLOSE_NORMAL: u16 = 1000;
/// The code of a close frame for an end that has nothing to do with the other side: the server stops.
pub const CLOSE_GOING_AWAY: u16 = 1001;
/// The code of a close frame for a breach of the protocol.
pub const CLOSE_PROTOCOL_ERROR: u16 = 1002;
/// The code of a close frame for a kind of data that is not taken: text.
pub const CLOSE_UNSUPPORTED: u16 = 1003;
/// The code of a close frame for text that is not UTF-8.
pub const CLOSE_INVALID_TEXT: u16 = 1007;
/// The code of a close frame for a frame that is too long.
pub const CLOSE_TOO_BIG: u16 = 1009;

/// What the other side did wrong, and the code of the close frame that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} (closed with {code})")]
pub struct Violation {
    /// The code of the close frame.
    pub code: u16,
    pub(super) what: &'static str,
}

const fn breach(what: &'static str) -> Violation {
    Violation { code: CLOSE_PROTOCOL_ERROR, what }
}

/// A control frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control<'a> {
    /// To be answered by a pong with this payload.
    Ping(&'a [u8]),
    /// The answer to a ping.
    Pong(&'a [u8]),
    /// Nothing comes after it. The code says why, if the other side did.
    Close(Option<u16>),
}

/// The header of a frame as it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    bytes: [u8; MAX_HEADER],
    len: u8,
}

impl Header {
    /// The header of a whole message or control frame with `len` bytes of payload; `mask` is the key with
    /// which a client has masked it.
    #[must_use]
    pub fn new(opcode: Opcode, len: usize, mask: Option<[u8; 4]>) -> Self {
        let mut header = Self { bytes: [0; MAX_HEADER], len: 0 };
        header.push(&[0x80 | opcode as u8]);
        let masked = if mask.is_some() { 0x80 } else { 0 };
        match (u8::try_from(len), u16::try_from(len)) {
            (Ok(len), _) if len < 126 => header.push(&[masked | len]),
            (_, Ok(len)) => {
                header.push(&[masked | 126]);
                header.push(&len.to_be_bytes());
            }
            _ => {
                header.push(&[masked | 127]);
                header.push(&(len as u64).to_be_bytes());
            }
        }
        if let Some(mask) = mask {
            header.push(&mask);
        }
        header
    }

    fn push(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if let Some(place) = self.bytes.get_mut(usize::from(self.len)) {
                *place = *byte;
                self.len += 1;
            }
        }
    }
}

impl Deref for Header {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
}

/// Appends a whole frame to `out`. `mask` is the key of a client, which is to be new and not to be guessed
/// for each frame (RFC 6455, 5.3); a server gives none.
pub fn append_frame(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8], mask: Option<[u8; 4]>) {
    out.extend_from_slice(&Header::new(opcode, payload.len(), mask));
    let start = out.len();
    out.extend_from_slice(payload);
    if let Some(key) = mask {
        apply_mask(out.get_mut(start..).unwrap_or_default(), key);
    }
}

/// Masks a payload, or takes its mask off.
pub fn apply_mask(payload: &mut [u8], key: [u8; 4]) {
    let len = payload.len();
    unmask_to(payload, 0, 0, len, key);
}

/// What a header says.
#[derive(Clone, Copy)]
struct Parsed {
    opcode: Opcode,
    is_final: bool,
    len: u64,
    /// No mask is a mask of zeros.
    mask: [u8; 4],
    header_len: usize,
}

/// Reads frames as their bytes come, in whatever pieces, and takes the payloads out in place.
#[derive(Debug)]
pub struct Decoder {
    role: Role,
    max_frame: u64,
    /// The header, as far as it has come.
    header: [u8; MAX_HEADER],
    header_len: u8,
    /// The frame whose payload is coming.
    frame: Option<Frame>,
    /// The message is not at its end.
    in_message: bool,
    closed: bool,
    /// The payload of a control frame, as far as it has come.
    control: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    opcode: Opcode,
    is_final: bool,
    left: u64,
    mask: [u8; 4],
}

impl Decoder {
    /// A decoder for what the side `role` receives. A frame with more than `max_frame` bytes of payload is
    /// a [`Violation`]; none is collected, so that a frame takes no memory.
    #[must_use]
    pub fn new(role: Role, max_frame: u64) -> Self {
        Self {
            role,
            max_frame,
            header: [0; MAX_HEADER],
            header_len: 0,
            frame: None,
            in_message: false,
            closed: false,
            control: Vec::new(),
        }
    }

    /// Whether a close frame has come: nothing does after it.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Takes in the next bytes. What is payload in them is moved to the front; the result is how long it
    /// is. `control` is told of each control frame when it is complete. Bytes behind a close frame are
    /// ignored.
    ///
    /// # Errors
    /// What is against RFC 6455; a message of text, which MQTT does not have [MQTT-6.0.0-1]; a frame that
    /// is too long. The decoder is of no use then.
    pub fn decode(
        &mut self,
        bytes: &mut [u8],
        mut control: impl FnMut(Control<'_>),
    ) -> Result<usize, Violation> {
        let (mut read, mut written) = (0, 0);
        while !self.closed {
            if self.frame.is_none() {
                let taken = self.take_header(bytes.get(read..).unwrap_or_default())?;
                read += taken;
            }
            let Some(frame) = &mut self.frame else { break };
            let here = bytes.len().saturating_sub(read);
            let here = usize::try_from(frame.left).map_or(here, |left| left.min(here));
            if frame.opcode.is_control() {
                let start = self.control.len();
                self.control.extend_from_slice(bytes.get(read..read + here).unwrap_or_default());
                apply_mask(self.control.get_mut(start..).unwrap_or_default(), frame.mask);
            } else {
                unmask_to(bytes, read, written, here, frame.mask);
                written += here;
            }
            read += here;
            frame.left -= here as u64;
            if frame.left > 0 {
                frame.mask.rotate_left(here % 4);
                break;
            }
            self.end_frame(&mut control)?;
        }
        Ok(written)
    }

    /// Reads a header, or what there is of it; gives how many bytes that took.
    fn take_header(&mut self, bytes: &[u8]) -> Result<usize, Violation> {
        if self.header_len == 0
            && let Some(parsed) = parse(bytes)?
        {
            self.begin_frame(parsed)?;
            return Ok(parsed.header_len);
        }
        for (taken, byte) in (1..).zip(bytes) {
            if let Some(place) = self.header.get_mut(usize::from(self.header_len)) {
                *place = *byte;
            }
            self.header_len += 1;
            let header = self.header.get(..usize::from(self.header_len)).unwrap_or_default();
            if let Some(parsed) = parse(header)? {
                self.header_len = 0;
                self.begin_frame(parsed)?;
                return Ok(taken);
            }
        }
        Ok(bytes.len())
    }

    fn begin_frame(&mut self, parsed: Parsed) -> Result<(), Violation> {
        let Parsed { opcode, is_final, len, mask, .. } = parsed;
        self.check_mask(parsed)?;
        match opcode {
            Opcode::Text => {
                return Err(Violation { code: CLOSE_UNSUPPORTED, what: "a message of text" });
            }
            Opcode::Binary if self.in_message => {
                return Err(breach("a message within another"));
            }
            Opcode::Continuation if !self.in_message => {
                return Err(breach("more of a message that has not begun"));
            }
            Opcode::Binary | Opcode::Continuation if len > self.max_frame => {
                return Err(Violation { code: CLOSE_TOO_BIG, what: "a frame that is too long" });
            }
            _ => {}
        }
        self.frame = Some(Frame { opcode, is_final, left: len, mask });
        Ok(())
    }

    fn check_mask(&self, parsed: Parsed) -> Result<(), Violation> {
        // The length of a header is 2, 4 or 10, and 4 more with a mask.
        let masked = matches!(parsed.header_len, 6 | 8 | 14);
        match self.role {
            Role::Server if !masked => Err(breach("a frame without a mask")),
            Role::Client if masked => Err(breach("a frame with a mask")),
            _ => Ok(()),
        }
    }

    /// Ends the present frame, all of whose payload has come.
    fn end_frame(&mut self, control: &mut impl FnMut(Control<'_>)) -> Result<(), Violation> {
        let Some(frame) = self.frame.take() else { return Ok(()) };
        if !frame.opcode.is_control() {
            self.in_message = !frame.is_final;
            return Ok(());
        }
        match frame.opcode {
            Opcode::Ping => control(Control::Ping(&self.control)),
            Opcode::Pong => control(Control::Pong(&self.control)),
            _ => {
                self.closed = true;
                control(Control::Close(close_code(&self.control)?));
            }
        }
        self.control = Vec::new();
        Ok(())
    }
}

/// Reads a header; `None` if its end has not come. What is wrong with its first two bytes is found as soon
/// as they are there.
fn parse(bytes: &[u8]) -> Result<Option<Parsed>, Violation> {
    let &[first, second, ref rest @ ..] = bytes else { return Ok(None) };
    if first & 0x70 != 0 {
        return Err(breach("a bit of an extension that was not agreed on"));
    }
    let opcode = Opcode::of(first).ok_or(breach("an unknown kind of frame"))?;
    let is_final = first & 0x80 != 0;
    let short = second & 0x7F;
    if opcode.is_control() && (!is_final || usize::from(short) > MAX_CONTROL_PAYLOAD) {
        return Err(breach("a control frame that is too long or in pieces"));
    }
    let (len, rest, header_len) = match short {
        126 => {
            let Some((len, rest)) = rest.split_first_chunk() else { return Ok(None) };
            (u64::from(u16::from_be_bytes(*len)), rest, 4)
        }
        127 => {
            let Some((len, rest)) = rest.split_first_chunk() else { return Ok(None) };
            (u64::from_be_bytes(*len), rest, 10)
        }
        len => (u64::from(len), rest, 2),
    };
    let least = match short {
        126 => 126,
        127 => 1 << 16,
        _ => 0,
    };
    if len < least || len > i64::MAX as u64 {
        return Err(breach("a length that is not in its shortest form"));
    }
    if second & 0x80 == 0 {
        return Ok(Some(Parsed { opcode, is_final, len, mask: [0; 4], header_len }));
    }
    let Some(mask) = rest.first_chunk() else { return Ok(None) };
    Ok(Some(Parsed { opcode, is_final, len, mask: *mask, header_len: header_len + 4 }))
}

/// The code in a close frame, if that is well formed (RFC 6455, 5.5.1 and 7.4).
fn close_code(payload: &[u8]) -> Result<Option<u16>, Violation> {
    if payload.is_empty() {
        return Ok(None);
    }
    let Some((code, reason)) = payload.split_first_chunk() else {
        return Err(breach("half of a close code"));
    };
    let code = u16::from_be_bytes(*code);
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(breach("a close code that must not be sent"));
    }
    if std::str::from_utf8(reason).is_err() {
        return Err(Violation { code: CLOSE_INVALID_TEXT, what: "a reason that is not UTF-8" });
    }
    Ok(Some(code))
}

/// Moves `len` bytes forward, from `from` to `to`, and takes their mask off on the way.
#[inline]
fn unmask_to(bytes: &mut [u8], from: usize, to: usize, len: usize, key: [u8; 4]) {
    if key == [0; 4] {
        if from != to {
            bytes.copy_within(from..from + len, to);
        }
        return;
    }
    let mut done = 0;
    // A chunk is read whole before it is written, and never lands behind where it was.
    while len - done >= 32 && move_chunk::<32>(bytes, from + done, to + done, key) {
        done += 32;
    }
    while len - done >= 4 && move_chunk::<4>(bytes, from + done, to + done, key) {
        done += 4;
    }
    for (at, key) in (done..len).zip(key) {
        let byte = bytes.get(from + at).copied().unwrap_or_default();
        if let Some(place) = bytes.get_mut(to + at) {
            *place = byte ^ key;
        }
    }
}

/// Moves `N` bytes, a multiple of 4; false if they are not there.
#[inline]
fn move_chunk<const N: usize>(bytes: &mut [u8], from: usize, to: usize, key: [u8; 4]) -> bool {
    let Some(chunk) = bytes.get(from..).and_then(<[u8]>::first_chunk::<N>) else { return false };
    let mut chunk = *chunk;
    let key: [u8; N] = std::array::from_fn(|at| key[at % 4]);
    for (byte, key) in chunk.iter_mut().zip(key) {
        *byte ^= key;
    }
    match bytes.get_mut(to..).and_then(<[u8]>::first_chunk_mut::<N>) {
        Some(place) => *place = chunk,
        None => return false,
    }
    true
}
