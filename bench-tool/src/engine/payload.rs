//! The head of every payload: who sent it, as which one, and when.

use std::fs;
use std::sync::LazyLock;

/// Bytes of the head, and so the smallest payload that can be measured.
pub(crate) const HEAD_LEN: usize = 28;

/// Begins every head, so that messages of others are not taken for ours.
const MAGIC: u16 = 0x5b1c;

/// What a payload says about itself; little-endian on the wire, followed by filling up to the payload's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PayloadHead {
    /// Where `sent_ns` was read; see [`this_machine`].
    pub(crate) machine: u16,
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
        bytes[0..2].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[2..4].copy_from_slice(&self.machine.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.run.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.publisher.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[20..28].copy_from_slice(&self.sent_ns.to_le_bytes());
        bytes
    }

    /// `None` if the payload is not one of this tool.
    #[inline]
    pub(crate) fn decode(payload: &[u8]) -> Option<Self> {
        let (magic, rest) = payload.split_first_chunk()?;
        let (machine, rest) = rest.split_first_chunk()?;
        let (run, rest) = rest.split_first_chunk()?;
        let (publisher, rest) = rest.split_first_chunk()?;
        let (sequence, rest) = rest.split_first_chunk()?;
        let sent_ns = rest.first_chunk()?;
        (u16::from_le_bytes(*magic) == MAGIC).then_some(Self {
            machine: u16::from_le_bytes(*machine),
            run: u32::from_le_bytes(*run),
            publisher: u32::from_le_bytes(*publisher),
            sequence: u64::from_le_bytes(*sequence),
            sent_ns: u64::from_le_bytes(*sent_ns),
        })
    }
}

/// Differs between machines, and between two starts of one: their monotonic clocks cannot be compared.
pub(crate) fn this_machine() -> u16 {
    static MACHINE: LazyLock<u16> = LazyLock::new(|| {
        let boot = fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        boot.iter().fold(1, |hash: u16, byte| hash.wrapping_mul(31).wrapping_add((*byte).into()))
    });
    *MACHINE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back_as_it_went() {
        let head = PayloadHead {
            machine: 9,
            run: 7,
            publisher: 499,
            sequence: 1 << 40,
            sent_ns: u64::MAX - 1,
        };
        let mut payload = head.encode().to_vec();
        payload.resize(64, b'.');
        assert_eq!(PayloadHead::decode(&payload), Some(head));
        assert_eq!(PayloadHead::decode(&payload[..HEAD_LEN - 1]), None);
        payload[0] ^= 1;
        assert_eq!(PayloadHead::decode(&payload), None);
    }
}
