//! Messages of which only the beginning is looked at, and the rest is dropped in the socket: a payload of 256 KiB
//! costs a copy less.

use sluice::mqtt::{self, Limits, PacketId, PacketType, QoS, Version};

use super::payload::HEAD_LEN;

/// For less than this one system call more is not worth it.
pub(crate) const LEAST_SKIPPED: usize = 16 * 1024;

/// Read at once where a large message is to be expected: enough for its beginning.
pub(crate) const HEAD_CHUNK: usize = 4 * 1024;

/// A PUBLISH whose end has not come.
#[derive(Debug)]
pub(crate) struct LargePublish {
    pub(crate) qos: QoS,
    pub(crate) packet_id: Option<PacketId>,
    /// How its payload begins.
    pub(crate) payload: [u8; HEAD_LEN],
    /// Bytes still to come.
    pub(crate) missing: usize,
}

/// What is at hand of a packet.
#[derive(Debug)]
pub(crate) enum Beginning {
    /// Of one that has to be read whole.
    Small,
    /// Of a large PUBLISH, and too little to tell what it is.
    Short,
    /// Of a large PUBLISH; the rest may be dropped.
    Enough(LargePublish),
}

impl Beginning {
    /// Of the packet whose first bytes these are.
    pub(crate) fn of(version: Version, bytes: &[u8]) -> Self {
        let Ok(Some(head)) = mqtt::frame_head(bytes, mqtt::MAX_REMAINING_LENGTH) else {
            return Self::Small;
        };
        let missing = head.frame_len().saturating_sub(bytes.len());
        if missing < LEAST_SKIPPED || head.packet_type() != Some(PacketType::Publish) {
            return Self::Small;
        }
        let body = bytes.get(usize::from(head.head_len)..).unwrap_or_default();
        // What is cut off before the payload is no packet.
        let Ok(publish) = mqtt::decode_publish(version, head.first_byte, body, &Limits::NONE)
        else {
            return Self::Short;
        };
        let Some(payload) = publish.payload.first_chunk() else { return Self::Short };
        let (qos, packet_id) = (publish.qos, publish.packet_id);
        Self::Enough(LargePublish { qos, packet_id, payload: *payload, missing })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{FlowSpec, wire};

    #[test]
    fn a_beginning_is_enough_when_it_holds_the_head_of_the_payload() {
        for (version, qos) in [(Version::V311, QoS::AtMostOnce), (Version::V5, QoS::ExactlyOnce)] {
            let spec = FlowSpec::new("a/b".into(), qos, 100_000, 1);
            let template = wire::publish_templates(version, &spec).remove(0);
            let (frame, payload_at) = (&template.frame, template.payload_at);
            for len in [0, 1, 4, 9, payload_at, payload_at + HEAD_LEN - 1] {
                let beginning = Beginning::of(version, &frame[..len]);
                assert!(!matches!(beginning, Beginning::Enough(_)), "{len} {beginning:?}");
            }
            let end = payload_at + HEAD_LEN;
            let Beginning::Enough(publish) = Beginning::of(version, &frame[..end]) else {
                panic!()
            };
            assert_eq!((publish.qos, publish.missing), (qos, frame.len() - end));
            assert_eq!(publish.packet_id.is_some(), qos != QoS::AtMostOnce);
            let nearly = &frame[..frame.len() - LEAST_SKIPPED + 1];
            assert!(matches!(Beginning::of(version, nearly), Beginning::Small));
        }
        let subscribe = [&[0x82, 0xff, 0xff, 3][..], &[0; 60]].concat();
        assert!(matches!(Beginning::of(Version::V311, &subscribe), Beginning::Small));
    }
}
