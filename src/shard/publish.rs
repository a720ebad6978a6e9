//! PUBLISH from a client of this shard.

use bytes::Bytes;

use crate::mqtt::{
    DecodeError, FrameHead, Message, PacketId, Publish, QoS, ReasonCode, decode_publish,
    publish_wire_reusable, topic,
};
use crate::router::Stamp;
use crate::session::{Begin, DropCause, PublishOutcome, STORE, Verdict};

use super::Core;
use super::distribute::Reach;
use super::input::{Reader, Source, Then};
use super::mail::STORE_LANE;
use super::parcel::Parcel;
use super::remote::Publisher;

/// Why a message is not retained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NotRetained {
    NoRoom,
    /// The store fails.
    Unstored,
}

impl<S> Core<S> {
    /// Handles one PUBLISH frame, which begins at `at` in the input.
    #[inline]
    pub(super) fn publish(
        &mut self,
        reader: &mut Reader<'_>,
        head: FrameHead,
        frame: &[u8],
        at: usize,
        source: Source<'_>,
    ) -> Result<Then, DecodeError> {
        let body = frame.get(usize::from(head.head_len)..).unwrap_or_default();
        let publish = decode_publish(reader.version, head.first_byte, body, &self.settings.limits)?;
        if publish.properties.topic_alias.is_some() || publish.topic.is_empty() {
            return self.publish_aliased(reader, &publish, source);
        }
        if topic::is_reserved(publish.topic) {
            topic::check_name(publish.topic, &self.settings.limits)?;
            return self.publish_reserved(reader, &publish);
        }
        if !self.router.recall(reader.route, publish.topic) {
            self.flush_run(reader);
            let name = topic::check_name(publish.topic, &self.settings.limits)?;
            reader.route = self.route(name);
            reader.rights = self.publish_rights(reader.session, name);
        }
        if !reader.rights.allows(publish.qos, publish.retain) {
            return self.publish_denied(reader, &publish);
        }
        if publish.qos == QoS::AtMostOnce
            && !publish.retain
            && let Source::Arena(base) = source
            && publish_wire_reusable(reader.version, &publish)
        {
            self.check_content(&publish)?;
            let lanes = self.lanes_blocked(reader.route, false);
            if lanes != 0 {
                return Ok(self.hold_for_lanes(reader, lanes));
            }
            let start = base + at;
            self.add_to_run(reader, start, start + frame.len());
            return Ok(Then::Continue);
        }
        self.publish_single(reader, &publish, source)
    }

    /// The checks that a decoder alone cannot make.
    #[inline]
    fn check_content(&self, publish: &Publish<'_>) -> Result<(), DecodeError> {
        if publish.properties.raw.is_empty() {
            return Ok(());
        }
        if publish.properties.subscription_identifiers {
            return Err(DecodeError::protocol("a Subscription Identifier from a client"));
        }
        if self.settings.validate_payload_format
            && publish.properties.payload_format_indicator == Some(1)
            && std::str::from_utf8(publish.payload).is_err()
        {
            let detail = "the payload is not the UTF-8 text it is said to be";
            return Err(DecodeError::new(ReasonCode::PayloadFormatInvalid, detail));
        }
        Ok(())
    }

    /// What no topic makes right: an error, or an answer if it has been given already.
    fn refuse_unfit(
        &mut self,
        reader: &mut Reader<'_>,
        publish: &Publish<'_>,
    ) -> Result<Option<Then>, DecodeError> {
        if publish.qos > self.settings.maximum_qos {
            return Err(DecodeError::new(ReasonCode::QoSNotSupported, "QoS above Maximum QoS"));
        }
        if publish.retain && !self.settings.retain_available {
            let detail = "RETAIN is not available";
            return Err(DecodeError::new(ReasonCode::RetainNotSupported, detail));
        }
        let Err(error) = self.check_content(publish) else { return Ok(None) };
        match publish.packet_id.filter(|_| error.reason == ReasonCode::PayloadFormatInvalid) {
            Some(packet_id) => self
                .acknowledge(reader, publish, packet_id, |_, _, _, _| Reach::refused(error.reason))
                .map(Some),
            None => Err(error),
        }
    }

    /// A client's message on a topic of the broker's own, or where it may not publish, goes nowhere.
    pub(super) fn publish_reserved(
        &mut self,
        reader: &mut Reader<'_>,
        publish: &Publish<'_>,
    ) -> Result<Then, DecodeError> {
        self.flush_run(reader);
        if let Some(then) = self.refuse_unfit(reader, publish)? {
            return Ok(then);
        }
        let Some(packet_id) = publish.packet_id else { return Ok(Then::Continue) };
        let reason = match reader.version.is_v5() {
            true => ReasonCode::NotAuthorized,
            // 3.x cannot be told, and must not try again for ever.
            false => ReasonCode::Success,
        };
        self.acknowledge(reader, publish, packet_id, |_, _, _, _| Reach::refused(reason))
    }

    /// A PUBLISH that sets or uses a topic alias [MQTT-3.3.2-8] [MQTT-3.3.2-12].
    fn publish_aliased(
        &mut self,
        reader: &mut Reader<'_>,
        publish: &Publish<'_>,
        source: Source<'_>,
    ) -> Result<Then, DecodeError> {
        self.flush_run(reader);
        let limits = self.settings.limits;
        if !publish.topic.is_empty() {
            topic::check_name(publish.topic, &limits)?;
        }
        let name = std::str::from_utf8(publish.topic).unwrap_or_default();
        let Some(slot) = self.sessions.get_mut(reader.session) else { return Ok(Then::Stop) };
        let name = match publish.properties.topic_alias {
            Some(alias) => slot.session.resolve_topic_alias(alias, name)?,
            None => return Err(DecodeError::protocol("neither a Topic Name nor a Topic Alias")),
        };
        if topic::is_reserved(name.as_bytes()) {
            return self.publish_reserved(reader, publish);
        }
        if !self.router.recall(reader.route, name.as_bytes()) {
            let name = name.to_owned();
            reader.route = self.route(&name);
            reader.rights = self.publish_rights(reader.session, &name);
        }
        if !reader.rights.allows(publish.qos, publish.retain) {
            return self.publish_denied(reader, publish);
        }
        self.publish_single(reader, publish, source)
    }

    /// A PUBLISH that is routed by itself; `reader.route` is its topic's.
    fn publish_single(
        &mut self,
        reader: &mut Reader<'_>,
        publish: &Publish<'_>,
        source: Source<'_>,
    ) -> Result<Then, DecodeError> {
        self.flush_run(reader);
        if let Some(then) = self.refuse_unfit(reader, publish)? {
            return Ok(then);
        }
        let lanes = self.lanes_blocked(reader.route, publish.retain);
        if lanes != 0 {
            return Ok(self.hold_for_lanes(reader, lanes));
        }
        let frame = match source {
            Source::Frame(frame) => Some(frame),
            Source::Arena(_) => None,
        };
        match publish.packet_id {
            None => {
                let publisher = self.publisher_of(reader, publish);
                self.route_publish(reader, publish, frame, publisher, None);
                Ok(Then::Continue)
            }
            Some(packet_id) => self.publish_acknowledged(reader, publish, packet_id, frame),
        }
    }

    /// Who the reader's messages come from.
    pub(super) fn publisher(&self, reader: &mut Reader<'_>) -> Publisher {
        *reader.publisher.get_or_insert_with(|| {
            let slot = self.sessions.get(reader.session);
            let (client, serial) = slot
                .map_or((0, 0), |slot| (self.sessions.hash(slot.session.client_id()), slot.serial));
            Publisher {
                shard: self.id,
                session: reader.session,
                serial,
                client,
                is_unstored: false,
            }
        })
    }

    /// Who a message comes from, and whether it may be stored: that is the same for all who get it, or
    /// whoever has it would get it again when it is repeated. A 3.x client repeats what is refused, under
    /// its identifier at QoS 2: so that is taken, and answered when it is stored.
    fn publisher_of(&self, reader: &mut Reader<'_>, publish: &Publish<'_>) -> Publisher {
        let waits = publish.qos == QoS::ExactlyOnce && !reader.version.is_v5();
        Publisher { is_unstored: !waits && self.store_fails(), ..self.publisher(reader) }
    }

    /// QoS 1 and 2.
    fn publish_acknowledged(
        &mut self,
        reader: &mut Reader<'_>,
        publish: &Publish<'_>,
        packet_id: PacketId,
        frame: Option<&Bytes>,
    ) -> Result<Then, DecodeError> {
        if self.pressure.any() && self.hold_for_receivers(reader) {
            return Ok(Then::Hold);
        }
        if self.mailbox.is_store_full() && self.waits_in_gate(reader.session) {
            // Perhaps for the store, and this would do so as well.
            return Ok(self.hold_for_lanes(reader, STORE_LANE));
        }
        self.acknowledge(reader, publish, packet_id, |core, reader, publisher, number| {
            core.route_publish(reader, publish, frame, publisher, Some(number))
        })
    }

    /// Takes a PUBLISH of QoS 1 or 2 in by `route`, unless it is here already, and acknowledges it
    /// when all that it reached have it.
    fn acknowledge(
        &mut self,
        reader: &mut Reader<'_>,
        publish: &Publish<'_>,
        packet_id: PacketId,
        route: impl FnOnce(&mut Self, &mut Reader<'_>, Publisher, u64) -> Reach,
    ) -> Result<Then, DecodeError> {
        if self.hold_for_gate(reader) {
            return Ok(Then::Hold);
        }
        let Some(slot) = self.sessions.get_mut(reader.session) else { return Ok(Then::Stop) };
        let Some(mut out) = self.connections.out(reader.id) else { return Ok(Then::Stop) };
        match slot.session.begin_publish(publish.qos, packet_id, publish.dup, &mut out) {
            Begin::New => {}
            Begin::Duplicate => return Ok(Then::Continue),
            Begin::ReceiveMaximumExceeded => {
                return Err(DecodeError::new(
                    ReasonCode::ReceiveMaximumExceeded,
                    "more unacknowledged messages than Receive Maximum",
                ));
            }
        }
        // The identifier is stored with what it is of.
        let stores_identifier = self.stores_identifier(reader.session, publish.qos);
        let noted = self.noted();
        let act = stores_identifier.then(|| self.begin_act());
        let (publisher, number) = (self.publisher_of(reader, publish), self.gate.next_number());
        let reach = route(self, reader, publisher, number);
        let stores_identifier = stores_identifier && !reach.unstored && !reach.reason.is_error();
        let stored = stores_identifier || self.noted() > noted;
        let outcome = PublishOutcome {
            number,
            turn: self.turn,
            waiting: reach.remote | u64::from(stored) << STORE,
            wanted: reach.wanted,
            kept: reach.kept,
            matched: reach.matched,
            retained: reach.retained,
            reason: reach.reason,
            unstored: reach.unstored,
            doubtful: publisher.is_unstored && !reader.version.is_v5(),
        };
        if outcome.waiting != 0 {
            self.mailbox.ask_confirmation(reach.remote);
            self.gate.wait(outcome.waiting, self.turn, reader.session, publisher.serial);
        }
        let slot = self.sessions.get_mut(reader.session);
        let verdict = slot.zip(self.connections.out(reader.id)).map(|(slot, mut out)| {
            slot.session.finish_publish(publish.qos, packet_id, outcome, &mut out)
        });
        if let Some(act) = act {
            self.end_act(act);
        }
        match verdict {
            None => Ok(Then::Stop),
            Some(Verdict::Continue) => Ok(Then::Continue),
            Some(Verdict::Close(why)) => {
                self.end_unkept(reader.id, why, Some(reader.route));
                Ok(Then::Stop)
            }
        }
    }

    /// Retains and distributes a PUBLISH of this shard.
    fn route_publish(
        &mut self,
        reader: &Reader<'_>,
        publish: &Publish<'_>,
        frame: Option<&Bytes>,
        publisher: Publisher,
        number: Option<u64>,
    ) -> Reach {
        let mut scratch = std::mem::take(&mut self.buffer);
        let mut topic = std::mem::take(&mut self.topic);
        topic.clear();
        topic.push_str(self.router.get(reader.route).topic());
        let mut parcel = Parcel::from_publish(publish, &topic, frame, &mut scratch, publisher);
        parcel.number = number;
        let reach = self.retain_and_distribute(&mut parcel, reader.route);
        self.give_back(scratch);
        self.topic = topic;
        reach
    }

    /// Routes a message that no client of this shard has just sent: a will, `$SYS`.
    pub(super) fn publish_message(&mut self, message: &Message, publisher: Publisher) -> Reach {
        let route = self.route(message.topic());
        let mut parcel = Parcel::from_message(message, self.now, publisher);
        self.retain_and_distribute(&mut parcel, route)
    }

    fn retain_and_distribute(
        &mut self,
        parcel: &mut Parcel<'_>,
        route: crate::router::RouteId,
    ) -> Reach {
        if !parcel.retain {
            return self.distribute(parcel, route, None);
        }
        let why = match self.retain(parcel) {
            Ok(stamp) => return self.distribute(parcel, route, Some(stamp)),
            Err(why) => why,
        };
        self.stats.dropped[DropCause::NotRetained as usize].add(1);
        let unstored = why == NotRetained::Unstored;
        if parcel.number.is_some() && (unstored || self.is_told_of_unkept(parcel.publisher)) {
            // It may be sent once more, and must not come twice.
            return Reach { unstored, ..Reach::refused(ReasonCode::QuotaExceeded) };
        }
        self.distribute(parcel, route, None)
    }

    /// Whether a client is told, or closed, when there was no room for its message.
    fn is_told_of_unkept(&self, publisher: Publisher) -> bool {
        let slot = self.sessions.get(publisher.session);
        slot.is_some_and(|slot| slot.session.is_told_of_unkept())
    }

    /// Sets or clears the retained message of a topic [MQTT-3.3.1-5] [MQTT-3.3.1-6].
    fn retain(&mut self, parcel: &mut Parcel<'_>) -> Result<Stamp, NotRetained> {
        if parcel.publisher.is_unstored {
            return Err(NotRetained::Unstored);
        }
        self.clock += 1;
        let stamp = Stamp(self.clock, self.id);
        let clears = parcel.payload.is_empty();
        let kept = (!clears).then(|| parcel.message(self.now).clone());
        match self.router.retain(parcel.topic, kept.clone(), stamp, self.now) {
            Ok(_) => {
                self.note_retained(parcel.topic, kept.as_ref(), stamp);
                Ok(stamp)
            }
            Err(_) => Err(NotRetained::NoRoom),
        }
    }
}
