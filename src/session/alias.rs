//! Topic Aliases, both ways. They live and die with a connection [MQTT-3.3.2-7].

use std::num::NonZeroU16;
use std::sync::Arc;

use hashbrown::HashMap;

use crate::mqtt::{DecodeError, ReasonCode};

/// Aliases the client has set, by alias.
#[derive(Debug, Default)]
pub(super) struct InboundAliases {
    topics: Vec<Option<Arc<str>>>,
}

impl InboundAliases {
    /// The topic that `alias` stands for; a non-empty `topic` is what it stands for from now on.
    pub(super) fn resolve(
        &mut self,
        alias: NonZeroU16,
        topic: &str,
        maximum: u16,
    ) -> Result<&Arc<str>, DecodeError> {
        if alias.get() > maximum {
            return Err(invalid("Topic Alias above the Topic Alias Maximum"));
        }
        let index = usize::from(alias.get()) - 1;
        if topic.is_empty() {
            return self.topics.get(index).and_then(Option::as_ref).ok_or(UNKNOWN);
        }
        if index >= self.topics.len() {
            self.topics.resize(index + 1, None);
        }
        let slot = self.topics.get_mut(index).ok_or(UNKNOWN)?;
        match slot {
            Some(known) if **known == *topic => {}
            _ => *slot = Some(Arc::from(topic)),
        }
        slot.as_ref().ok_or(UNKNOWN)
    }
}

const UNKNOWN: DecodeError = invalid("unknown Topic Alias");

pub(super) const fn invalid(detail: &'static str) -> DecodeError {
    DecodeError::new(ReasonCode::TopicAliasInvalid, detail)
}

/// How a PUBLISH to a client names its topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AliasUse {
    /// By the topic alone.
    None,
    /// By the topic, together with an alias that is new to the client.
    First(NonZeroU16),
    /// By an alias the client knows; the topic is left empty.
    Known(NonZeroU16),
}

/// Aliases the server has set: a topic's first message gets one while there is room.
#[derive(Debug)]
pub(super) struct OutboundAliases {
    aliases: HashMap<Box<[u8]>, NonZeroU16, foldhash::fast::RandomState>,
    maximum: u16,
}

impl OutboundAliases {
    pub(super) fn new(maximum: u16) -> Self {
        Self { aliases: HashMap::default(), maximum }
    }

    /// How `topic` would be named, without promising it: a `First` counts once it is
    /// [assigned](Self::assign), which must wait until the packet is known to be sent.
    pub(super) fn plan(&self, topic: &[u8]) -> AliasUse {
        if let Some(&alias) = self.aliases.get(topic) {
            return AliasUse::Known(alias);
        }
        let next = u16::try_from(self.aliases.len()).ok().and_then(|len| len.checked_add(1));
        match next.filter(|&next| next <= self.maximum).and_then(NonZeroU16::new) {
            Some(alias) => AliasUse::First(alias),
            None => AliasUse::None,
        }
    }

    /// Remembers that a packet with `topic` and `alias` is on its way.
    pub(super) fn assign(&mut self, topic: &[u8], alias: NonZeroU16) {
        self.aliases.insert(topic.into(), alias);
    }
}
