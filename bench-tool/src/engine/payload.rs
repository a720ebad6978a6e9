//! The head of every payload: who sent it, as which one, and when.

/// Bytes of the head, and so the smallest payload that can be measured.
pub(crate) const HEAD_LEN: usize = 24;

/// What a payload says about itself; little-endian on the wire, followed by filling up to the payload's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PayloadHead {
    /// Told apart from what other runs left behind (retained messages, queues).
    pub(crate) run: u32,
    /// Index of the publisher in its run.
    pub(crate) publisher: u32,
    /// Counted from 0 by each publisher.
    pub(crate) sequence: u64,
    /// On the machine's monotonic clock.
    pub(crate) sent_ns: u64,
}

impl PayloadHead {
    #[inline]
    pub(crate) fn encode(self) -> [u8; HEAD_LEN] {
        let mut bytes = [0; HEAD_LEN];
        bytes[0..4].copy_from_slice(&self.run.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.publisher.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.sent_ns.to_le_bytes());
        bytes
    }

    #[inline]
    pub(crate) fn decode(payload: &[u8]) -> Option<Self> {
        let (run, rest) = payload.split_first_chunk()?;
        let (publisher, rest) = rest.split_first_chunk()?;
        let (sequence, rest) = rest.split_first_chunk()?;
        let sent_ns = rest.first_chunk()?;
        Some(Self {
            run: u32::from_le_bytes(*run),
            publisher: u32::from_le_bytes(*publisher),
            sequence: u64::from_le_bytes(*sequence),
            sent_ns: u64::from_le_bytes(*sent_ns),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back_as_it_went() {
        let head = PayloadHead { run: 7, publisher: 499, sequence: 1 << 40, sent_ns: u64::MAX - 1 };
        let mut payload = head.encode().to_vec();
        payload.resize(64, b'.');
        assert_eq!(PayloadHead::decode(&payload), Some(head));
        assert_eq!(PayloadHead::decode(&payload[..HEAD_LEN - 1]), None);
    }
}
