//! What a publisher is told to do.

use sluice::mqtt::{MAX_REMAINING_LENGTH, QoS, Version};

use super::wire::TOPIC_DIGITS;

/// What a flow publishes and how much of it may be outstanding.
#[derive(Clone, Debug)]
pub(crate) struct FlowSpec {
    pub(crate) topic: String,
    pub(crate) qos: QoS,
    pub(crate) payload_len: usize,
    /// Messages outstanding at most: 1 to [`MAX_WINDOW`].
    pub(crate) window: u32,
    /// How many subscribers receive each message; it is outstanding until the last of them has it.
    /// 0: it is complete when the broker has taken it.
    pub(crate) receivers: u32,
    /// Messages a second, at times that do not depend on how the earlier ones fare; `None`: as the window allows.
    pub(crate) rate: Option<f64>,
    /// Messages of a rate that are due at the same time, at least 1.
    pub(crate) burst: u32,
    /// Messages in all.
    pub(crate) limit: Option<u64>,
    /// Topics that are used in turn; more than one get a number as last level.
    pub(crate) topics: u32,
    /// The broker owes each receiver their order: who has a later one will hardly get an earlier one.
    pub(crate) ordered: bool,
    pub(crate) retain: bool,
    /// Sent in turn as they are, instead of what can be measured.
    pub(crate) contents: Vec<Vec<u8>>,
    /// The time until the broker's acknowledgement is taken.
    pub(crate) times_acknowledgements: bool,
}

impl FlowSpec {
    /// A plain stream of messages to one receiver.
    pub(crate) fn new(topic: String, qos: QoS, payload_len: usize, window: u32) -> Self {
        Self {
            topic,
            qos,
            payload_len,
            window,
            receivers: 1,
            rate: None,
            burst: 1,
            limit: None,
            topics: 1,
            ordered: true,
            retain: false,
            contents: Vec::new(),
            times_acknowledgements: false,
        }
    }

    /// Whether MQTT has a length for its largest packet.
    ///
    /// # Errors
    /// How large a payload may be, in one line.
    pub(crate) fn check_size(&self, version: Version) -> Result<(), String> {
        let packet_id = if self.qos == QoS::AtMostOnce { 0 } else { 2 };
        let number = if self.topics > 1 { 1 + TOPIC_DIGITS } else { 0 };
        let no_properties = usize::from(version.is_v5());
        let head = 2 + self.topic.len() + number + packet_id + no_properties;
        let most = (MAX_REMAINING_LENGTH as usize).saturating_sub(head);
        let longest = self.contents.iter().map(Vec::len).max().unwrap_or(self.payload_len);
        if longest <= most {
            return Ok(());
        }
        Err(format!(
            "payload of {longest} bytes: at most {most}, which is what MQTT has a length for"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::wire;

    /// A packet's length is four bytes at most `[MQTT-2.1.4]`.
    #[test]
    fn a_payload_has_to_fit_a_packet() {
        for (version, qos, topics, head) in [
            (Version::V311, QoS::AtMostOnce, 1, 5),
            (Version::V5, QoS::AtLeastOnce, 1, 8),
            (Version::V5, QoS::AtMostOnce, 2, 15),
        ] {
            let spec = FlowSpec { topics, ..FlowSpec::new("a/b".into(), qos, 0, 1) };
            let most = MAX_REMAINING_LENGTH as usize - head;
            FlowSpec { payload_len: most, ..spec.clone() }.check_size(version).unwrap();
            let error = FlowSpec { payload_len: most + 1, ..spec }.check_size(version).unwrap_err();
            assert!(error.contains(&format!("at most {most},")), "{error}");
        }
        let contents = vec![vec![0; 7], Vec::new()];
        let spec = FlowSpec { contents, ..FlowSpec::new("a".into(), QoS::AtMostOnce, 0, 1) };
        let templates = wire::publish_templates(Version::V5, &spec);
        assert_eq!(templates[0].payload_at, 2 + 2 + 1 + 1);
    }
}
