//! What an engine counts.

/// One list for the fields and for their places in an array.
macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What has happened since the engine was made.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub(crate) struct Counters {
            $($(#[$doc])* pub(crate) $name: u64,)*
        }

        impl Counters {
            pub(crate) const COUNT: usize = [$(stringify!($name)),*].len();

            pub(crate) fn to_array(self) -> [u64; Self::COUNT] {
                [$(self.$name),*]
            }

            pub(crate) fn from_array([$($name),*]: [u64; Self::COUNT]) -> Self {
                Self { $($name),* }
            }
        }
    };
}

counters! {
    /// Clients that connected, and subscribed if they wanted to.
    ready,
    /// Of those, whose connection has ended since.
    closed,
    /// Messages sent.
    sent,
    /// Messages received that this tool has sent, each once by each receiver.
    delivered,
    /// Messages received, whatever they hold.
    received,
    /// Messages that the broker has acknowledged for good.
    acknowledged,
    /// Acknowledgements that carried an error.
    refused,
    /// QoS 0 messages no longer waited for.
    given_up,
    /// Connections that failed or were closed by the broker.
    failed,
    /// Messages that later ones of the same publisher have overtaken and that have not come since.
    missing,
    /// Messages that came once more.
    duplicates,
    /// Messages that came behind later ones.
    reordered,
    /// Publishers that wait now, and none of whose messages has become complete for about a second.
    stalled,
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
