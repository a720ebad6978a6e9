//! A message on its way, borrowed for as long as nobody has to keep it.

use std::borrow::Cow;

use bytes::Bytes;

use crate::mqtt::{LARGE_PAYLOAD, Message, Publish, PublishOut, QoS};
use crate::timer::Time;

use super::remote::Publisher;

/// A message and who it came from. Owned only once somebody has to keep it.
pub(super) struct Parcel<'a> {
    pub(super) topic: &'a str,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    pub(super) payload: &'a [u8],
    properties: &'a [u8],
    message_expiry_interval: Option<u32>,
    /// What to make the owned form from, and the buffer that is this message's alone.
    publish: Option<(&'a Publish<'a>, Option<&'a Bytes>)>,
    /// The owned form, if it is made or came.
    message: Option<Cow<'a, Message>>,
    pub(super) publisher: Publisher,
    /// [What it is named by](crate::session::PublishOutcome::number) if it is to be acknowledged.
    pub(super) number: Option<u64>,
}

impl<'a> Parcel<'a> {
    /// A PUBLISH under its topic; `frame` is the buffer it was decoded from if that is its own.
    #[inline]
    pub(super) fn from_publish(
        publish: &'a Publish<'a>,
        topic: &'a str,
        frame: Option<&'a Bytes>,
        scratch: &'a mut Vec<u8>,
        publisher: Publisher,
    ) -> Self {
        Self {
            topic,
            qos: publish.qos,
            retain: publish.retain,
            payload: publish.payload,
            properties: publish.properties.forwardable_in(scratch),
            message_expiry_interval: publish.properties.message_expiry_interval,
            publish: Some((publish, frame)),
            message: None,
            publisher,
            number: None,
        }
    }

    pub(super) fn from_message(message: &'a Message, now: Time, publisher: Publisher) -> Self {
        Self {
            topic: message.topic(),
            qos: message.qos(),
            retain: message.retain(),
            payload: message.payload(),
            properties: message.properties(),
            message_expiry_interval: message.message_expiry_interval(now),
            publish: None,
            message: Some(Cow::Borrowed(message)),
            publisher,
            number: None,
        }
    }

    /// The owned form, made at its first use.
    #[inline]
    pub(super) fn message(&mut self, now: Time) -> &Message {
        self.message.get_or_insert_with(|| {
            Cow::Owned(match self.publish {
                Some((publish, frame)) => Message::from_publish(publish, self.topic, frame, now),
                None => {
                    let expiry = self.message_expiry_interval;
                    let (topic, payload, properties) = (self.topic, self.payload, self.properties);
                    Message::new(topic, self.qos, self.retain, payload, properties, expiry, now)
                }
            })
        })
    }

    /// Whether it has waited for too long on its way here [MQTT-3.3.2-5].
    #[inline]
    pub(super) fn is_expired(&self, now: Time) -> bool {
        let waited = self.message.as_ref();
        waited.is_some_and(|message| message.is_expired(now) && !message.is_for_now())
    }

    pub(super) fn out(&self, retain: bool) -> PublishOut<'a> {
        PublishOut {
            retain,
            properties: self.properties,
            message_expiry_interval: self.message_expiry_interval,
            ..PublishOut::new(self.topic.as_bytes(), self.payload)
        }
    }

    /// Of whom and what it is, for the strategy of a shared group.
    pub(super) fn router_publisher(&self) -> crate::router::Publisher<'a> {
        crate::router::Publisher { client: self.publisher.client, topic: self.topic }
    }

    /// The payload, to be written by reference, if it is large.
    pub(super) fn large(&mut self, now: Time) -> Option<Bytes> {
        if self.payload.len() < LARGE_PAYLOAD { None } else { self.message(now).payload_shared() }
    }
}
