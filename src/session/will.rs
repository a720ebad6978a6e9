//! The Will: what is published for a client that went without a word, and when.

use std::time::Duration;

use super::Session;
use crate::mqtt::Message;
use crate::timer::Time;

/// A Will Message as a CONNECT gave it.
#[derive(Clone, Debug)]
pub struct Will {
    /// Topic, payload, forwardable properties, QoS and retain flag; made *without* an expiry.
    pub message: Message,
    /// Its Message Expiry Interval in seconds; it counts from publication, not from CONNECT.
    pub message_expiry_interval: Option<u32>,
    /// Will Delay Interval in seconds; 0 in 3.x.
    pub delay_interval: u32,
}

impl Will {
    /// The message to publish now.
    #[must_use]
    pub fn into_message(self, now: Time) -> Message {
        let Some(interval) = self.message_expiry_interval else { return self.message };
        let m = &self.message;
        let (topic, payload, properties) = (m.topic(), m.payload(), m.properties());
        Message::new(topic, m.qos(), m.retain(), payload, properties, Some(interval), now)
    }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Departure {
    /// DISCONNECT with Normal disconnection (0x00), or any DISCONNECT of 3.x: no Will
    /// [MQTT-3.1.2-10] [MQTT-3.14.4-3].
    Normal,
    /// Anything else: DISCONNECT with another reason code (0x04 among them), a network error, a
    /// Keep Alive timeout, a protocol error, a takeover, the server's own doing [MQTT-3.1.2-8].
    WithWill,
}

/// When a Will has to be published.
#[derive(Debug)]
pub enum WillDue {
    /// Never.
    Never,
    /// Now. The session has given it away.
    Now(Will),
    /// At that time, by [`Session::take_will`], unless the client is back before: then
    /// [`Session::connect`] removes it [MQTT-3.1.3-9].
    At(Time),
}

impl Session {
    /// Sets or removes the Will: for a CONNECT, after [`Session::connect`]; or again as it was before one that
    /// comes to nothing.
    pub fn set_will(&mut self, will: Option<Will>) {
        self.will = will.map(Box::new);
    }

    /// Gives the Will away to be published: at the time told by [`WillDue::At`], when the
    /// session is ended early (clean start, administration), or at the server's stop. Or to be kept until a
    /// CONNECT has come to something.
    pub fn take_will(&mut self) -> Option<Will> {
        self.will.take().map(|will| *will)
    }

    /// What becomes of the Will, after [`Session::disconnect`]. A delayed one is due at the end
    /// of its delay or of the session, whichever is earlier [MQTT-3.1.2-8] [MQTT-3.1.3-9].
    ///
    /// On takeover by a CONNECT with Clean Start the session ends at once: publish
    /// [`Session::take_will`] whatever this says.
    pub fn will_due(&mut self, departure: Departure, now: Time) -> WillDue {
        if departure == Departure::Normal {
            self.will = None;
            return WillDue::Never;
        }
        let Some(will) = self.will.take() else { return WillDue::Never };
        let mut due = now.plus(Duration::from_secs(will.delay_interval.into()));
        if let Some(end) = self.ends_at() {
            due = due.min(end);
        }
        if due <= now {
            return WillDue::Now(*will);
        }
        self.will = Some(will);
        WillDue::At(due)
    }
}
