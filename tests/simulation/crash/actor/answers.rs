//! What a client does with what comes from the broker.

use std::num::NonZeroU32;

use sluice::mqtt::{
    AckKind, Disconnect, Packet, PacketId, Publish, QoS, ReasonCode, Version, encode_ack,
};

use super::{Actor, EndsBy, Half, Role};

impl Actor {
    pub(super) fn handle(&mut self, packet: &Packet<'_>) -> Result<(), String> {
        match packet {
            Packet::ConnAck(connack) => {
                self.is_answered = true;
                // Its connection is closed then.
                let may_be_refused = self.may_be_refused || self.broker_stops;
                if may_be_refused && connack.reason == ReasonCode::ServerUnavailable {
                    return Ok(());
                }
                if connack.reason != ReasonCode::Success {
                    return Err(format!("not let in: {connack:?}"));
                }
                self.admit(connack.session_present)
            }
            Packet::SubAck(suback) => {
                if let Role::Collector(collector) = &mut self.role {
                    collector.answered(suback.packet_id);
                }
                // 3.1 has no failure: it is told QoS 0.
                let is_at_most_once =
                    self.role.filter().is_some_and(|(_, qos)| qos == QoS::AtMostOnce);
                let is_one = |reason: &u8| is_at_most_once || (1..3).contains(reason);
                self.subscribed(suback.reasons.iter().all(is_one))
            }
            Packet::UnsubAck(_) => {
                if let Role::Fickle(fickle) = &mut self.role {
                    fickle.answered();
                }
                Ok(())
            }
            Packet::PubAck(ack) => self.acknowledged(AckKind::PubAck, ack.packet_id, ack.reason),
            Packet::PubRec(ack) => self.acknowledged(AckKind::PubRec, ack.packet_id, ack.reason),
            Packet::PubRel(ack) => self.acknowledged(AckKind::PubRel, ack.packet_id, ack.reason),
            Packet::PubComp(ack) => self.acknowledged(AckKind::PubComp, ack.packet_id, ack.reason),
            Packet::Publish(publish) => self.take(publish),
            // It has not more under way than was announced.
            Packet::Disconnect(Disconnect {
                reason: ReasonCode::ReceiveMaximumExceeded, ..
            }) => Err("told that it exceeds Receive Maximum".to_owned()),
            // An older CONNECT of its own may come after a newer one.
            Packet::Disconnect(_) => Ok(()),
            other => Err(format!("unexpected {other:?}")),
        }
    }

    fn subscribed(&mut self, granted: bool) -> Result<(), String> {
        match &mut self.role {
            _ if !granted && !self.may_be_refused => return Err("no subscription".to_owned()),
            Role::Fickle(fickle) if granted => fickle.answered(),
            Role::Fickle(fickle) => fickle.ask(self.version, &mut self.out),
            Role::Mortal(mortal, _) if granted => {
                mortal.subscribed();
                self.subscribed = true;
            }
            _ if granted => self.subscribed = true,
            _ => self.subscribe(),
        }
        Ok(())
    }

    fn take(&mut self, publish: &Publish<'_>) -> Result<(), String> {
        let is_new = match (publish.qos, publish.packet_id) {
            (QoS::ExactlyOnce, Some(id)) => {
                self.owed.push((AckKind::PubRec, id));
                self.half_done.insert(id)
            }
            (_, Some(id)) => {
                self.owed.push((AckKind::PubAck, id));
                true
            }
            (_, None) => true,
        };
        // An empty one has cleared what is retained.
        if !is_new || publish.payload.is_empty() {
            return Ok(());
        }
        let number = std::str::from_utf8(publish.payload).ok().and_then(|text| text.parse().ok());
        let number = number.ok_or("no number")?;
        if let Role::Collector(collector) = &mut self.role {
            let identifiers: Vec<_> =
                publish.properties.identifiers().map(NonZeroU32::get).collect();
            return collector.take(&identifiers, number);
        }
        match &mut self.role {
            Role::Setter(setter, _) => setter.sees(number),
            Role::Patient(patient, _) => patient.takes(publish, number)?,
            Role::Reader(reader) if publish.retain => reader.finds(number)?,
            _ => {}
        }
        if let Role::Fickle(fickle) = &self.role
            && !fickle.may_get(number)
        {
            return Err(format!("{number} came after UNSUBACK"));
        }
        let topic = String::from_utf8_lossy(publish.topic).into_owned();
        if let Role::Mortal(mortal, _) = &mut self.role {
            mortal.takes(&topic, number)?;
        }
        self.received.entry(topic).or_default().push(number);
        Ok(())
    }

    fn admit(&mut self, present: bool) -> Result<(), String> {
        if matches!(self.role, Role::Beginner) {
            return self.begin(present);
        }
        // A session that no CONNACK has told of may be there all the same.
        if self.clean && present {
            return Err("its session is there after a Clean Start".to_owned());
        }
        if !present && self.version != Version::V31 {
            self.half_done.clear();
        }
        if let Role::Mortal(mortal, _) = &mut self.role
            && !mortal.admitted(present)?
        {
            self.subscribed = false;
            self.half_done.clear();
        }
        let expires =
            matches!(self.role, Role::Mortal(..) | Role::Deserter { by: EndsBy::Expiry, .. });
        let promised = self.was_here && !self.left && !self.clean && self.version != Version::V31;
        if promised && !present && !expires {
            return Err("its session is lost".to_owned());
        }
        self.subscribed &= !self.clean && (present || !expires);
        if self.left && present && self.version != Version::V31 {
            // It had not come to the end of the session when its connection broke.
            self.subscribed = false;
        }
        (self.admitted, self.was_here, self.left) = (true, true, false);
        if self.is_guest {
            self.open.clear();
        }
        match &mut self.role {
            Role::Dying(dying) => dying.admitted(self.clean),
            Role::Fickle(fickle) => fickle.ask(self.version, &mut self.out),
            Role::Collector(collector) if !collector.is_answered => {
                collector.ask(self.version, false, &mut self.out);
            }
            _ if !self.subscribed => self.subscribe(),
            _ => {}
        }
        for (number, (id, half)) in self.open.clone() {
            self.repeat(number, id, half);
        }
        Ok(())
    }

    /// What CONNACK has ended does not come back, nor goes what it has told of [MQTT-3.1.2-4]
    /// [MQTT-3.2.2-2] [MQTT-3.2.2-3].
    fn begin(&mut self, present: bool) -> Result<(), String> {
        if self.expected.is_some_and(|expected| expected != present) {
            return Err(format!("Session Present {present}, clean {}", self.clean));
        }
        (self.admitted, self.there) = (true, Some(!self.clean));
        Ok(())
    }

    fn acknowledged(
        &mut self,
        kind: AckKind,
        id: PacketId,
        reason: ReasonCode,
    ) -> Result<(), String> {
        if kind == AckKind::PubRel {
            self.half_done.remove(&id);
            self.owed.push((AckKind::PubComp, id));
            return Ok(());
        }
        let number = self.open.iter().find(|(_, (of, _))| *of == id).map(|(number, _)| *number);
        let Some(number) = number else {
            // It may have said it again.
            let is_second = self.version == Version::V31;
            return is_second.then_some(()).ok_or(format!("{kind:?} {id} answers nothing"));
        };
        if reason == ReasonCode::QuotaExceeded && self.may_be_refused && kind != AckKind::PubComp {
            self.refused.insert(number);
            self.open.remove(&number);
            return Ok(());
        }
        if reason.is_error() && reason != ReasonCode::PacketIdentifierNotFound {
            return Err(format!("{kind:?} {reason:?} for {number}"));
        }
        self.acknowledged.insert(number);
        match &self.role {
            Role::Setter(setter, _) => setter.acknowledged(number),
            Role::Hurried(hurried) => hurried.acknowledged(number),
            _ => {}
        }
        if kind == AckKind::PubRec {
            self.open.insert(number, (id, Half::Release));
            encode_ack(self.version, AckKind::PubRel, id, ReasonCode::Success, &mut self.out);
        } else {
            self.open.remove(&number);
        }
        Ok(())
    }
}
