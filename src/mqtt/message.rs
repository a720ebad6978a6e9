//! An application message that outlives the read it came in.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{Publish, QoS};
use crate::timer::Time;

/// From this many bytes on a payload is held as a slice of the frame it came in, not copied.
pub const LARGE_PAYLOAD: usize = 16 * 1024;

/// Topic, forwardable properties and payload, immutable and shared.
///
/// 16 bytes (an `Option` of it has 24); a clone is one increment. A small message is one exact
/// allocation.
#[derive(Clone, Debug)]
pub struct Message(Repr);

#[derive(Clone, Debug)]
enum Repr {
    /// [`Head`], topic, properties and payload in a row.
    Small(Arc<[u8]>),
    Large(Arc<Large>),
}

#[derive(Debug)]
struct Large {
    /// As in a small message, without the payload.
    head: Box<[u8]>,
    payload: Bytes,
}

/// What stands in front of the topic.
#[derive(Clone, Copy)]
struct Head {
    /// QoS in bits 0 and 1, RETAIN in bit 2, [`AT_ONCE`].
    flags: u8,
    topic_len: u16,
    properties_len: u32,
    /// [`NEVER`] without a Message Expiry Interval.
    expires_at: u64,
}

const NEVER: u64 = u64::MAX;
const HEAD_LEN: usize = 16;
const RETAIN: u8 = 0x04;
/// Its Message Expiry Interval was 0.
const AT_ONCE: u8 = 0x08;
/// The two counters an `Arc` allocates along.
const ARC_LEN: usize = 16;

impl Head {
    #[inline]
    fn to_bytes(self) -> [u8; HEAD_LEN] {
        let [t0, t1] = self.topic_len.to_le_bytes();
        let [p0, p1, p2, p3] = self.properties_len.to_le_bytes();
        let [e0, e1, e2, e3, e4, e5, e6, e7] = self.expires_at.to_le_bytes();
        [self.flags, 0, t0, t1, p0, p1, p2, p3, e0, e1, e2, e3, e4, e5, e6, e7]
    }

    #[inline]
    fn from_bytes(bytes: &[u8]) -> Self {
        // Never shorter: every constructor writes a head.
        let Some(&[flags, _, t0, t1, p0, p1, p2, p3, e0, e1, e2, e3, e4, e5, e6, e7]) =
            bytes.first_chunk::<HEAD_LEN>()
        else {
            return Self { flags: 0, topic_len: 0, properties_len: 0, expires_at: NEVER };
        };
        Self {
            flags,
            topic_len: u16::from_le_bytes([t0, t1]),
            properties_len: u32::from_le_bytes([p0, p1, p2, p3]),
            expires_at: u64::from_le_bytes([e0, e1, e2, e3, e4, e5, e6, e7]),
        }
    }
}

impl Message {
    /// The message of a PUBLISH, under `topic`: the one the alias stands for, if it used one.
    ///
    /// `frame` is the buffer that `publish` was decoded from, if that is the message's alone. A large
    /// payload is then a slice of it; all else is copied.
    #[must_use]
    pub fn from_publish(
        publish: &Publish<'_>,
        topic: &str,
        frame: Option<&Bytes>,
        now: Time,
    ) -> Self {
        let mut scratch = Vec::new();
        let properties = publish.properties.forwardable_in(&mut scratch);
        let expiry = Expiry::after(publish.properties.message_expiry_interval, now);
        let head = head(publish.qos, publish.retain, topic, properties, expiry);
        let payload = publish.payload;
        if payload.len() < LARGE_PAYLOAD {
            return Self::small(head, topic, properties, payload);
        }
        let payload = frame
            .and_then(|frame| slice_of(frame, payload))
            .unwrap_or_else(|| Bytes::copy_from_slice(payload));
        Self::large(head, topic, properties, payload)
    }

    /// A message that came in no PUBLISH. `properties` is a block of forwardable ones, without a
    /// length; `message_expiry_interval` is in seconds.
    #[must_use]
    pub fn new(
        topic: &str,
        qos: QoS,
        retain: bool,
        payload: &[u8],
        properties: &[u8],
        message_expiry_interval: Option<u32>,
        now: Time,
    ) -> Self {
        let expiry = Expiry::after(message_expiry_interval, now);
        Self::copy(head(qos, retain, topic, properties, expiry), topic, properties, payload)
    }

    /// A message as it was before, with the moment it expires.
    #[must_use]
    pub fn restore(
        topic: &str,
        qos: QoS,
        retain: bool,
        payload: &[u8],
        properties: &[u8],
        expires_at: Option<Time>,
    ) -> Self {
        let expiry = Expiry { at: expires_at.map_or(NEVER, |at| at.0), at_once: false };
        Self::copy(head(qos, retain, topic, properties, expiry), topic, properties, payload)
    }

    fn copy(head: Head, topic: &str, properties: &[u8], payload: &[u8]) -> Self {
        if payload.len() < LARGE_PAYLOAD {
            return Self::small(head, topic, properties, payload);
        }
        Self::large(head, topic, properties, Bytes::copy_from_slice(payload))
    }

    fn small(head: Head, topic: &str, properties: &[u8], payload: &[u8]) -> Self {
        let parts = [&head.to_bytes(), topic.as_bytes(), properties, payload];
        let len = parts.iter().map(|part| part.len()).sum();
        // Filled with zeros first because that keeps it to one allocation.
        let mut bytes: Arc<[u8]> = std::iter::repeat_n(0, len).collect();
        if let Some(mut rest) = Arc::get_mut(&mut bytes) {
            for part in parts {
                let Some((to, after)) = rest.split_at_mut_checked(part.len()) else { break };
                to.copy_from_slice(part);
                rest = after;
            }
        }
        Self(Repr::Small(bytes))
    }

    fn large(head: Head, topic: &str, properties: &[u8], payload: Bytes) -> Self {
        let head = [&head.to_bytes(), topic.as_bytes(), properties].concat().into_boxed_slice();
        Self(Repr::Large(Arc::new(Large { head, payload })))
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        match &self.0 {
            Repr::Small(bytes) => bytes,
            Repr::Large(large) => &large.head,
        }
    }

    #[inline]
    fn head(&self) -> Head {
        Head::from_bytes(self.bytes())
    }

    /// The QoS it was published with.
    #[inline]
    #[must_use]
    pub fn qos(&self) -> QoS {
        QoS::from_u8(self.head().flags & 0x03).unwrap_or_default()
    }

    /// The RETAIN flag it was published with.
    #[inline]
    #[must_use]
    pub fn retain(&self) -> bool {
        self.head().flags & RETAIN != 0
    }

    /// The topic. Goes over the bytes; where speed counts use [`topic_bytes`](Self::topic_bytes).
    #[inline]
    #[must_use]
    pub fn topic(&self) -> &str {
        std::str::from_utf8(self.topic_bytes()).unwrap_or_default()
    }

    /// The topic's bytes.
    #[inline]
    #[must_use]
    pub fn topic_bytes(&self) -> &[u8] {
        let bytes = self.bytes();
        let end = HEAD_LEN + usize::from(Head::from_bytes(bytes).topic_len);
        bytes.get(HEAD_LEN..end).unwrap_or_default()
    }

    /// The block of forwardable properties, without a length.
    #[inline]
    #[must_use]
    pub fn properties(&self) -> &[u8] {
        let bytes = self.bytes();
        let head = Head::from_bytes(bytes);
        let start = HEAD_LEN + usize::from(head.topic_len);
        bytes.get(start..start + head.properties_len as usize).unwrap_or_default()
    }

    /// The Application Message.
    #[inline]
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        match &self.0 {
            Repr::Small(bytes) => {
                let head = Head::from_bytes(bytes);
                let start = HEAD_LEN + usize::from(head.topic_len) + head.properties_len as usize;
                bytes.get(start..).unwrap_or_default()
            }
            Repr::Large(large) => &large.payload,
        }
    }

    /// The payload of a large message, to be written without a copy.
    #[must_use]
    pub fn payload_shared(&self) -> Option<Bytes> {
        match &self.0 {
            Repr::Small(_) => None,
            Repr::Large(large) => Some(large.payload.clone()),
        }
    }

    /// When it expires, if ever.
    #[inline]
    #[must_use]
    pub fn expires_at(&self) -> Option<Time> {
        let at = self.head().expires_at;
        (at != NEVER).then_some(Time(at))
    }

    /// The Message Expiry Interval to send: seconds left, rounded up [MQTT-3.3.2-6].
    #[must_use]
    pub fn message_expiry_interval(&self, now: Time) -> Option<u32> {
        let left_ms = self.expires_at()?.0.saturating_sub(now.0);
        Some(u32::try_from(left_ms.div_ceil(1000)).unwrap_or(u32::MAX))
    }

    /// Whether it must not be sent any more [MQTT-3.3.2-5].
    #[inline]
    #[must_use]
    pub fn is_expired(&self, now: Time) -> bool {
        now.0 >= self.head().expires_at
    }

    /// Whether its Message Expiry Interval was 0: it is for those who can be sent it at once, and
    /// waits for nobody.
    #[must_use]
    pub fn is_for_now(&self) -> bool {
        self.head().flags & AT_ONCE != 0
    }

    /// The bytes of memory it is accounted with.
    #[must_use]
    pub fn size(&self) -> usize {
        match &self.0 {
            Repr::Small(bytes) => ARC_LEN + bytes.len(),
            Repr::Large(large) => {
                ARC_LEN + size_of::<Large>() + large.head.len() + large.payload.len()
            }
        }
    }

    /// What [`size`](Self::size) says of a message with so many bytes of topic, properties and payload.
    #[must_use]
    pub fn size_of(topic: usize, properties: usize, payload: usize) -> usize {
        let head = HEAD_LEN + topic + properties;
        let own = if payload < LARGE_PAYLOAD { 0 } else { size_of::<Large>() };
        ARC_LEN + own + head + payload
    }

    /// What tells it from every other message in memory while it is there.
    #[must_use]
    pub fn address(&self) -> usize {
        match &self.0 {
            Repr::Small(bytes) => Arc::as_ptr(bytes).cast::<u8>() as usize,
            Repr::Large(large) => Arc::as_ptr(large) as usize,
        }
    }

    /// Whether nobody else holds it.
    #[must_use]
    pub fn is_unique(&self) -> bool {
        match &self.0 {
            Repr::Small(bytes) => Arc::strong_count(bytes) == 1,
            Repr::Large(large) => Arc::strong_count(large) == 1,
        }
    }

    /// Whether both are the same message in memory.
    #[must_use]
    pub fn ptr_eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Repr::Small(a), Repr::Small(b)) => Arc::ptr_eq(a, b),
            (Repr::Large(a), Repr::Large(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

/// When a message expires, [`NEVER`] perhaps, and whether it waits for nobody.
#[derive(Clone, Copy)]
struct Expiry {
    at: u64,
    at_once: bool,
}

impl Expiry {
    fn after(message_expiry_interval: Option<u32>, now: Time) -> Self {
        let at = |seconds: u32| now.plus(Duration::from_secs(seconds.into())).0;
        Self {
            at: message_expiry_interval.map_or(NEVER, at),
            at_once: message_expiry_interval == Some(0),
        }
    }
}

fn head(qos: QoS, retain: bool, topic: &str, properties: &[u8], expiry: Expiry) -> Head {
    let retain = if retain { RETAIN } else { 0 };
    let at_once = if expiry.at_once { AT_ONCE } else { 0 };
    Head {
        flags: qos.as_u8() | retain | at_once,
        topic_len: topic.len() as u16,
        properties_len: properties.len() as u32,
        expires_at: expiry.at,
    }
}

/// `part` as a slice of `whole`; `None` if it is none, or too small a part to keep the rest for.
fn slice_of(whole: &Bytes, part: &[u8]) -> Option<Bytes> {
    let start = (part.as_ptr() as usize).checked_sub(whole.as_ptr() as usize)?;
    let end = start.checked_add(part.len())?;
    (end <= whole.len() && whole.len() / 2 <= part.len()).then(|| whole.slice(start..end))
}

#[cfg(test)]
mod tests {
    use super::super::{Limits, PublishOut, Version, decode_publish, encode_publish, frame_head};
    use super::*;

    #[test]
    fn a_handle_is_16_bytes() {
        assert_eq!(size_of::<Message>(), 16);
    }

    #[test]
    fn small() {
        let now = Time(1_000);
        let m = Message::new("a/ü", QoS::ExactlyOnce, true, b"payload", b"\x01\x01", Some(2), now);
        assert_eq!((m.topic(), m.payload(), m.properties()), ("a/ü", &b"payload"[..], &[1, 1][..]));
        assert_eq!((m.qos(), m.retain(), m.payload_shared()), (QoS::ExactlyOnce, true, None));
        assert_eq!(m.expires_at(), Some(Time(3_000)));
        assert_eq!(m.message_expiry_interval(Time(2_001)), Some(1));
        assert!(!m.is_expired(Time(2_999)) && m.is_expired(Time(3_000)));
        assert_eq!(m.size(), 16 + 16 + 4 + 2 + 7);
        assert!(m.ptr_eq(&m.clone()));
        let m = Message::new("", QoS::AtMostOnce, false, b"", b"", None, now);
        assert_eq!((m.topic(), m.payload(), m.expires_at()), ("", &b""[..], None));
        assert!(!m.is_expired(Time(u64::MAX - 1)));
    }

    #[test]
    fn large_is_a_slice_of_its_frame() {
        let payload = vec![7; LARGE_PAYLOAD];
        let mut frame = Vec::new();
        encode_publish(Version::V5, &PublishOut::new(b"big", &payload), &mut frame);
        let frame = Bytes::from(frame);
        let head = frame_head(&frame, u32::MAX).unwrap().unwrap();
        let body = &frame[usize::from(head.head_len)..];
        let publish =
            decode_publish(Version::V5, head.first_byte, body, &Limits::default()).unwrap();
        let m = Message::from_publish(&publish, "big", Some(&frame), Time(0));
        assert_eq!(m.payload().as_ptr(), publish.payload.as_ptr());
        assert_eq!((m.topic(), m.payload()), ("big", &payload[..]));
        assert!(m.payload_shared().is_some());
        // A frame it is not part of, and none at all: copied.
        for frame in [Some(&Bytes::from_static(b"other")), None] {
            let m = Message::from_publish(&publish, "big", frame, Time(0));
            assert_eq!(m.payload(), &payload[..]);
            assert_ne!(m.payload().as_ptr(), publish.payload.as_ptr());
        }
    }
}
