//! The fixed header, Variable Byte Integers, and the cursor the decoders read with.

use super::{DecodeError, PacketType, ReasonCode, Version, topic};

/// The most a Remaining Length, or any Variable Byte Integer, can say.
pub const MAX_REMAINING_LENGTH: u32 = 268_435_455;

/// The flags each packet type may have in some version, one bit for each of the 16 values.
///
/// PUBLISH: all but QoS 3 [MQTT-3.3.1-4]. PUBREL, SUBSCRIBE and UNSUBSCRIBE: 0b0010, and in 3.1,
/// which sends them again, 0b1010 too. All others: 0 [MQTT-2.1.3-1].
const FLAGS: [u16; 16] = {
    const ZERO: u16 = 1;
    const TWO: u16 = 1 << 0b0010 | 1 << 0b1010;
    const PUBLISH: u16 = 0b0011_1111_0011_1111;
    [0, ZERO, ZERO, PUBLISH, ZERO, ZERO, TWO, ZERO, TWO, ZERO, TWO, ZERO, ZERO, ZERO, ZERO, ZERO]
};

/// A packet's fixed header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHead {
    /// Packet type and flags.
    pub first_byte: u8,
    /// Bytes of the fixed header, 2 to 5.
    pub head_len: u8,
    /// Bytes after it: the Remaining Length.
    pub body_len: u32,
}

impl FrameHead {
    /// Bytes of the whole packet.
    #[inline]
    #[must_use]
    pub const fn frame_len(self) -> usize {
        self.head_len as usize + self.body_len as usize
    }

    /// The packet's type.
    #[inline]
    #[must_use]
    pub const fn packet_type(self) -> Option<PacketType> {
        PacketType::from_first_byte(self.first_byte)
    }

    /// Whether the Remaining Length takes no more bytes than it must.
    ///
    /// 5.0 demands it [MQTT-1.5.5-1]; 3.x does not, and small devices are known to pad it.
    #[inline]
    #[must_use]
    pub const fn is_minimal(self) -> bool {
        self.head_len == 2 || self.body_len >> (7 * (self.head_len as u32 - 2)) != 0
    }
}

/// Reads a fixed header off the front of `buf`; `None` while there are not enough bytes for it.
///
/// Refuses as soon as it shows: a reserved packet type, flags that no version allows, a Remaining
/// Length of more than four bytes (0x81), a packet longer than `max_packet_size` in all (0x95).
#[inline]
pub fn frame_head(buf: &[u8], max_packet_size: u32) -> Result<Option<FrameHead>, DecodeError> {
    let Some(&first_byte) = buf.first() else { return Ok(None) };
    // Both halves are below 16: no bounds check is left.
    if FLAGS[usize::from(first_byte >> 4)] >> (first_byte & 0x0F) & 1 == 0 {
        return Err(DecodeError::malformed("reserved packet type or flags"));
    }
    let Some(&second) = buf.get(1) else { return Ok(None) };
    let (head_len, body_len) = if second < 0x80 {
        (2, u32::from(second))
    } else {
        match long_length(buf)? {
            Some(lengths) => lengths,
            None => return Ok(None),
        }
    };
    if u32::from(head_len) + body_len > max_packet_size {
        return Err(DecodeError::new(
            ReasonCode::PacketTooLarge,
            "packet too large (max_packet_size)",
        ));
    }
    Ok(Some(FrameHead { first_byte, head_len, body_len }))
}

/// A Remaining Length of two to four bytes, as (header length, value).
fn long_length(buf: &[u8]) -> Result<Option<(u8, u32)>, DecodeError> {
    let mut value = 0;
    for index in 0..4u8 {
        let Some(&byte) = buf.get(1 + usize::from(index)) else { return Ok(None) };
        value |= u32::from(byte & 0x7F) << (7 * u32::from(index));
        if byte < 0x80 {
            return Ok(Some((index + 2, value)));
        }
    }
    Err(DecodeError::malformed("Remaining Length of more than four bytes"))
}

/// Checks what [`frame_head`] could not without the version: DUP on a packet other than PUBLISH.
pub fn check_flags(version: Version, first_byte: u8) -> Result<(), DecodeError> {
    if FLAGS[usize::from(first_byte >> 4)] >> (first_byte & 0x0F) & 1 == 0 {
        return Err(DecodeError::malformed("reserved packet type or flags"));
    }
    if version != Version::V31 && first_byte >> 4 != 3 && first_byte & 0x08 != 0 {
        return Err(DecodeError::malformed("reserved flags"));
    }
    Ok(())
}

/// How many bytes a Variable Byte Integer takes, 1 to 4.
#[inline]
#[must_use]
pub const fn varint_len(value: u32) -> usize {
    match value {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}

/// Appends a Variable Byte Integer.
#[inline]
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends bytes behind their two-byte length. What is longer than that can say is cut off:
/// nothing decoded here ever is.
#[inline]
pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let len = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(bytes.get(..usize::from(len)).unwrap_or(bytes));
}

/// A cursor over the rest of a packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a> {
    pub(super) rest: &'a [u8],
}

const SHORT: DecodeError = DecodeError::malformed("packet ends too early");

impl<'a> Reader<'a> {
    #[inline]
    pub(super) const fn new(rest: &'a [u8]) -> Self {
        Self { rest }
    }

    #[inline]
    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        let (&byte, rest) = self.rest.split_first().ok_or(SHORT)?;
        self.rest = rest;
        Ok(byte)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (&array, rest) = self.rest.split_first_chunk().ok_or(SHORT)?;
        self.rest = rest;
        Ok(array)
    }

    #[inline]
    pub(super) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    #[inline]
    pub(super) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    /// A Variable Byte Integer in as few bytes as it can be [MQTT-1.5.5-1].
    #[inline]
    pub(super) fn varint(&mut self) -> Result<u32, DecodeError> {
        let first = self.u8()?;
        if first < 0x80 {
            return Ok(u32::from(first));
        }
        let mut value = u32::from(first & 0x7F);
        for shift in [7, 14, 21] {
            let byte = self.u8()?;
            value |= u32::from(byte & 0x7F) << shift;
            if byte == 0 {
                return Err(DecodeError::malformed("Variable Byte Integer longer than need be"));
            }
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(DecodeError::malformed("Variable Byte Integer of more than four bytes"))
    }

    #[inline]
    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(SHORT)?;
        self.rest = rest;
        Ok(taken)
    }

    /// Binary Data.
    #[inline]
    pub(super) fn bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = self.u16()?;
        self.take(usize::from(len))
    }

    /// A property block, behind its length.
    #[inline]
    pub(super) fn block(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = self.varint()?;
        self.take(len as usize)
    }

    /// A UTF-8 Encoded String.
    pub(super) fn text(&mut self) -> Result<&'a str, DecodeError> {
        topic::check_text(self.bytes()?)
    }

    /// A Packet Identifier; zero is a Protocol Error [MQTT-2.2.1-3].
    #[inline]
    pub(super) fn packet_id(&mut self) -> Result<super::PacketId, DecodeError> {
        super::PacketId::new(self.u16()?).ok_or(DecodeError::protocol("Packet Identifier 0"))
    }

    /// That nothing is left.
    #[inline]
    pub(super) fn end(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(DecodeError::malformed("bytes after the end of the packet"))
    }
}
