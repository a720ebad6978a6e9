//! What a client does with the packets that come.

use sluice::mqtt::{AckKind, ConnAck, Packet, PacketId, Publish, QoS, ReasonCode, Version};

use crate::client::{Client, Stage};
use crate::model::Delivery;
use crate::wire;

impl Client {
    pub(crate) fn handle(
        &mut self,
        stage: &mut Stage<'_>,
        packet: Packet<'_>,
    ) -> Result<(), String> {
        let Some(it) = self.connection.as_mut() else { return Ok(()) };
        let net = it.net.0;
        stage
            .model
            .note(stage.world.now(), format_args!("{} ({net}) <- {}", self.name, brief(&packet)));
        if it.admitted == matches!(packet, Packet::ConnAck(_)) {
            return Err(format!("{}: {packet:?} in the wrong place", self.name));
        }
        match packet {
            Packet::ConnAck(ack) => self.connected(stage, &ack),
            Packet::Publish(publish) => self.receive(stage, &publish),
            Packet::PubAck(ack) => {
                self.acknowledged(stage, QoS::AtLeastOnce, ack.packet_id, ack.reason)
            }
            Packet::PubRec(ack) => {
                self.acknowledged(stage, QoS::ExactlyOnce, ack.packet_id, ack.reason)
            }
            Packet::PubComp(ack) => self.completed(ack.packet_id),
            Packet::PubRel(ack) => {
                self.held.remove(&ack.packet_id);
                it.owed.push_back((AckKind::PubComp, ack.packet_id));
                Ok(())
            }
            Packet::SubAck(ack) => self.answered(stage, ack.packet_id, Some(ack.reasons)),
            Packet::UnsubAck(ack) => self.answered(stage, ack.packet_id, None),
            Packet::PingResp => {
                it.pings = it.pings.checked_sub(1).ok_or("PINGRESP without PINGREQ")?;
                Ok(())
            }
            Packet::Disconnect(reason) => self.dismissed(stage, reason.reason),
            other => Err(format!("{}: a broker does not send {other:?}", self.name)),
        }
    }

    fn connected(&mut self, stage: &mut Stage<'_>, ack: &ConnAck<'_>) -> Result<(), String> {
        let Some(it) = self.connection.as_mut() else { return Ok(()) };
        if ack.reason != ReasonCode::Success {
            return Err(format!("{} was refused: {ack:?}", self.name));
        }
        let link = stage.model.links.get(&it.net.0);
        let Some((session, present)) = link.and_then(|link| link.session) else {
            return Err(format!("{}: CONNACK, but the broker has not let it in", self.name));
        };
        // 3.1 does not say.
        if present != ack.session_present && self.version != Version::V31 {
            return Err(format!("{}: session present {ack:?}, really {present}", self.name));
        }
        it.admitted = true;
        // A client that missed the CONNACK of a new session, and finds that present, cannot know
        // that what it has under way is of an older one. Here it does, or QoS 2 could not hold.
        if self.session.replace(session) != Some(session) {
            self.outgoing.clear();
            self.held.clear();
        }
        let again: Vec<_> =
            self.outgoing.iter().map(|out| (out.packet_id, out.message, out.released)).collect();
        for (packet_id, message, released) in again {
            match released {
                false => self.send_message(stage, message, Some(packet_id), true),
                true => self.release(packet_id),
            }
        }
        if !present && (self.probe || !stage.draining) {
            for _ in 0..stage.rng.usize(1..4) {
                self.subscribe(stage);
            }
        }
        Ok(())
    }

    fn release(&mut self, packet_id: PacketId) {
        if let Some(it) = self.connection.as_mut() {
            let (version, out) = (self.version, &mut it.out);
            sluice::mqtt::encode_ack(version, AckKind::PubRel, packet_id, ReasonCode::Success, out);
        }
    }

    fn receive(&mut self, stage: &mut Stage<'_>, publish: &Publish<'_>) -> Result<(), String> {
        let Some(it) = self.connection.as_mut() else { return Ok(()) };
        let mut topic = String::from_utf8_lossy(publish.topic).into_owned();
        if let Some(alias) = publish.properties.topic_alias {
            if alias.get() > it.hello.topic_alias_maximum {
                return Err(format!("{}: alias {alias} is too large", self.name));
            }
            if topic.is_empty() {
                let known = it.aliases.get(&alias.get());
                topic = known.ok_or_else(|| format!("{}: unknown {alias}", self.name))?.clone();
            } else {
                it.aliases.insert(alias.get(), topic.clone());
            }
        }
        let mut fresh = true;
        if let Some(packet_id) = publish.packet_id {
            let again = !it.inbound.insert(packet_id);
            if again && !(publish.dup && stage.plan.retries) {
                return Err(format!("{}: {packet_id} is in use", self.name));
            }
            if it.inbound.len() > it.our_receive_maximum {
                return Err(format!("{}: more than its Receive Maximum", self.name));
            }
            let answer = match publish.qos {
                QoS::ExactlyOnce => AckKind::PubRec,
                _ => AckKind::PubAck,
            };
            it.owed.push_back((answer, packet_id));
            if publish.qos == QoS::ExactlyOnce {
                fresh = self.held.insert(packet_id);
                if !fresh && !publish.dup {
                    return Err(format!("{}: {packet_id} is held", self.name));
                }
            }
        }
        if !fresh || publish.payload.is_empty() {
            return Ok(());
        }
        let Some((message, sending)) = wire::identify(publish.payload) else {
            return Err(format!("{}: a payload nobody sent on {topic}", self.name));
        };
        let (qos, dup, retain) = (publish.qos, publish.dup, publish.retain);
        let delivery = Delivery { message, sending, topic: &topic, qos, dup, retain };
        stage.model.deliver(it.net.0, &delivery)
    }

    /// PUBACK or PUBREC [MQTT-4.6.0-2] [MQTT-4.6.0-3].
    fn acknowledged(
        &mut self,
        stage: &mut Stage<'_>,
        qos: QoS,
        packet_id: PacketId,
        reason: ReasonCode,
    ) -> Result<(), String> {
        let known =
            self.outgoing.iter().position(|out| out.packet_id == packet_id && out.qos == qos);
        let Some(at) = known else {
            return Err(format!("{}: {qos:?} {packet_id} acknowledged, not sent", self.name));
        };
        if self.outgoing[at].released {
            self.release(packet_id);
            return Ok(());
        }
        let earlier = self.outgoing.iter().take(at).find(|out| out.qos == qos && !out.released);
        if let Some(earlier) = earlier {
            return Err(format!("{}: {packet_id} acknowledged before {earlier:?}", self.name));
        }
        let message = self.outgoing[at].message;
        let now = stage.world.now();
        stage.model.acknowledged(&self.name, message, reason.as_u8(), now)?;
        if qos == QoS::ExactlyOnce && !reason.is_error() {
            self.outgoing[at].released = true;
            self.release(packet_id);
        } else {
            self.outgoing.remove(at);
        }
        Ok(())
    }

    fn completed(&mut self, packet_id: PacketId) -> Result<(), String> {
        let known = self.outgoing.iter().position(|out| out.packet_id == packet_id);
        match known.filter(|at| self.outgoing[*at].released) {
            Some(at) => drop(self.outgoing.remove(at)),
            // PUBREL may have been sent twice, by a PUBREC that came twice.
            None if known.is_none() => {}
            None => return Err(format!("{}: PUBCOMP for {packet_id}, not released", self.name)),
        }
        Ok(())
    }

    /// SUBACK or UNSUBACK.
    fn answered(
        &mut self,
        stage: &mut Stage<'_>,
        packet_id: PacketId,
        reasons: Option<&[u8]>,
    ) -> Result<(), String> {
        let Some(it) = self.connection.as_mut() else { return Ok(()) };
        let Some(request) = it.requests.remove(&packet_id) else {
            return Err(format!("{}: {packet_id} answered, not asked", self.name));
        };
        let moment = stage.model.tick();
        if request.news.is_some_and(|asked| !stage.model.turns.heard_by_all(&self.name, asked)) {
            return Err(format!("{}: {request:?} answered before all know", self.name));
        }
        let Some(session) = stage.model.session(it.net.0) else { return Ok(()) };
        match (request.qos, reasons) {
            (Some(qos), Some(reasons)) if reasons == [qos.as_u8()] => {
                session.subscribed(&request.filter, moment);
                Ok(())
            }
            (None, None) => {
                session.unsubscribed(&request.filter, moment);
                Ok(())
            }
            _ => Err(format!("{}: {request:?} answered with {reasons:?}", self.name)),
        }
    }

    fn dismissed(&mut self, stage: &mut Stage<'_>, reason: ReasonCode) -> Result<(), String> {
        let Some(it) = self.connection.as_mut() else { return Ok(()) };
        it.dismissed = true;
        let fair = match reason {
            // An older connection's CONNECT may be handled late.
            ReasonCode::SessionTakenOver => true,
            ReasonCode::KeepAliveTimeout => it.hello.keep_alive > 0,
            ReasonCode::QuotaExceeded => !stage.plan.lossless,
            _ => false,
        };
        if fair { Ok(()) } else { Err(format!("{} dismissed with {reason:?}: {it:?}", self.name)) }
    }
}

fn brief(packet: &Packet<'_>) -> String {
    match packet {
        Packet::Publish(publish) => {
            let id = publish.packet_id.map_or(0, PacketId::get);
            let topic = String::from_utf8_lossy(publish.topic);
            let head = &publish.payload[..publish.payload.len().min(16)];
            let (dup, retain, qos) = (publish.dup, publish.retain, publish.qos as u8);
            let text = String::from_utf8_lossy(head);
            format!("PUBLISH {topic} id {id} q{qos} dup {dup} retain {retain} {text:?}")
        }
        Packet::ConnAck(ack) => format!("CONNACK {:?} present {}", ack.reason, ack.session_present),
        other => format!("{other:?}"),
    }
}
