//! What an engine counts.

/// What has happened since the engine was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    /// Clients that connected, and subscribed if they wanted to.
    pub(crate) ready: u64,
    /// Of those, whose connection has ended since.
    pub(crate) closed: u64,
    /// Messages sent.
    pub(crate) sent: u64,
    /// Messages received that this tool has sent, each once by each receiver.
    pub(crate) delivered: u64,
    /// Messages received, whatever they hold.
    pub(crate) received: u64,
    /// Messages that the broker has acknowledged for good.
    pub(crate) acknowledged: u64,
    /// Acknowledgements that carried an error.
    pub(crate) refused: u64,
    /// QoS 0 messages no longer waited for.
    pub(crate) given_up: u64,
    /// Connections that failed or were closed by the broker.
    pub(crate) failed: u64,
    /// Messages that later ones of the same publisher have overtaken and that have not come since.
    pub(crate) missing: u64,
    /// Messages that came once more.
    pub(crate) duplicates: u64,
    /// Messages that came behind later ones.
    pub(crate) reordered: u64,
}

impl Counters {
    pub(crate) const COUNT: usize = 12;

    pub(crate) fn to_array(self) -> [u64; Self::COUNT] {
        [
            self.ready,
            self.closed,
            self.sent,
            self.delivered,
            self.received,
            self.acknowledged,
            self.refused,
            self.given_up,
            self.failed,
            self.missing,
            self.duplicates,
            self.reordered,
        ]
    }

    pub(crate) fn from_array(values: [u64; Self::COUNT]) -> Self {
        let [
            ready,
            closed,
            sent,
            delivered,
            received,
            acknowledged,
            refused,
            given_up,
            failed,
            missing,
            duplicates,
            reordered,
        ] = values;
        Self {
            ready,
            closed,
            sent,
            delivered,
            received,
            acknowledged,
            refused,
            given_up,
            failed,
            missing,
            duplicates,
            reordered,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_mixed_up_on_the_way() {
        let values = std::array::from_fn(|index| index as u64);
        assert_eq!(Counters::from_array(values).to_array(), values);
    }
}
