//! CONNECT: who comes in, to which session, under which terms.

use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use crate::hooks::{Client, Denial, Login};
use crate::mqtt::{
    ConnAck, Connect, ConnectError, FrameHead, Message, Packet, QoS, ReasonCode, Version,
    decode_connect, encode, topic,
};
use crate::net::{ClientCertificate, CloseMode, ConnId};
use crate::router::SessionKey;
use crate::session::{LinkParameters, STORE, Session, Will};

use super::Core;
use super::authenticate::Outcome;
use super::connection::State;
use super::ending::{EndedBy, Ending};
use super::exchange::reason_of;
use super::gate::STORE_FAILS;
use super::input::{PADDED, Then};
use super::rights::Identity;
use super::settings::{Settings, Terms};
use super::sys::{CLIENT_LOG, shown_user};
use super::timers::Timer;

/// Identifiers given to clients that sent none begin with this.
const ASSIGNED_PREFIX: &str = "sluice-";

/// How a client comes in.
struct Admission {
    key: SessionKey,
    session_present: bool,
    /// For the store.
    waits: bool,
    terms: Terms,
}

impl<S> Core<S> {
    /// Handles a whole CONNECT.
    pub(super) fn connect(&mut self, id: ConnId, head: FrameHead, body: &[u8]) -> Then {
        self.follow_settings();
        let mut connect = match decode_connect(body, &self.settings.limits) {
            Ok(connect) => connect,
            Err(ConnectError { version, error }) => {
                self.refuse(id, version, error.reason, error.detail);
                return Then::Stop;
            }
        };
        if connect.version.is_v5() && !head.is_minimal() {
            self.refuse(id, Some(connect.version), PADDED.reason, PADDED.detail);
            return Then::Stop;
        }
        if connect.bridge {
            // What Mosquitto's say of themselves under $SYS goes nowhere, as what they publish there does.
            connect.will = connect.will.filter(|will| !topic::is_reserved(will.topic.as_bytes()));
        }
        let home = match connect.client_id {
            "" => self.id,
            client_id => self.home(client_id),
        };
        let refusal = match self.is_slow() {
            None if home != self.id => return Then::Move(home),
            None => self.is_short_of_memory(connect.client_id),
            slow => slow,
        };
        if let Some((reason, detail)) = refusal {
            self.stats.overload_refusals.add(1);
            self.refuse_client(id, &connect, connect.client_id, (reason, detail));
            return Then::Stop;
        }
        if let Some(connection) = self.connections.get_mut(id) {
            // A refusal keeps to it too [MQTT-3.1.2-24].
            connection.maximum_packet_size = maximum_packet_size(&connect);
        }
        let refusal = match self.check_connect(id, &connect) {
            Err(refusal) => refusal,
            Ok(()) if connect.properties.authentication_method.is_some() => {
                return self.begin_exchange(id, &connect, body);
            }
            Ok(()) => match self.authenticate(id, &connect) {
                Outcome::In(login) => return self.admit(id, &connect, &login),
                Outcome::Waits => return Then::Hold,
                Outcome::Refused(denial) => {
                    self.refuse_login(id, &connect, None, denial);
                    return Then::Stop;
                }
            },
        };
        self.refuse_client(id, &connect, connect.client_id, refusal);
        Then::Stop
    }

    /// Refuses a login. The log says who it was and why, which is more than the client is told; `user` is who
    /// it says it is if CONNECT does not say so.
    pub(super) fn refuse_login(
        &mut self,
        id: ConnId,
        connect: &Connect<'_>,
        user: Option<&str>,
        denial: Denial,
    ) {
        let (version, reason) = (Some(connect.version), reason_of(denial));
        self.send_refusal(id, version, reason, "refused by authentication");
        let Some(connection) = self.connections.get(id) else { return };
        let named = connection.certificate.as_ref().and_then(ClientCertificate::user);
        let user = user.or(named).or(connect.username);
        let by_method = connect.properties.authentication_method.is_some();
        let cause = match (denial, user) {
            (Denial::BadUserNameOrPassword, _) => "wrong user name or password",
            (Denial::NotAuthorized, _) if by_method => {
                "not authorized by its Authentication Method"
            }
            (Denial::TokenSignature, _) => "no key of auth.jwt has signed its token",
            (Denial::Token(cause), _) => cause,
            (Denial::NotAuthorized, None) => "no user name",
            (Denial::NotAuthorized, Some(_)) => "not authorized",
            (Denial::Banned, _) => "banned",
            (Denial::ServerUnavailable, _) => "nobody can say now whether it may come in",
            (Denial::Busy, _) => "too many logins wait to be checked",
        };
        self.log.login(self.now, connection.peer, connect.client_id, user, cause);
        self.end(id, Ending::Logged);
    }

    /// The shard where a client's session lives.
    pub(super) fn home(&self, client_id: &str) -> u8 {
        (self.sessions.hash(client_id) % u64::from(self.shards)) as u8
    }

    pub(super) fn check_connect(
        &self,
        id: ConnId,
        connect: &Connect<'_>,
    ) -> Result<(), (ReasonCode, &'static str)> {
        let v5 = connect.version.is_v5();
        if self.stopping.is_stopping() {
            return Err((ReasonCode::ServerUnavailable, "the broker stops"));
        }
        if connect.client_id.is_empty() {
            // Without a clean session there is nothing to find it again by [MQTT-3.1.3-8]; 3.1 has none.
            let may = self.settings.allow_zero_length_client_id
                && (v5 || connect.clean_start)
                && connect.version != Version::V31;
            if !may {
                return Err((ReasonCode::ClientIdentifierNotValid, "no Client Identifier"));
            }
        }
        if let Some(will) = &connect.will {
            if topic::is_reserved(will.topic.as_bytes()) {
                return Err((ReasonCode::NotAuthorized, "a Will on a topic of the broker's own"));
            }
            if will.qos > self.settings.maximum_qos {
                return Err((ReasonCode::QoSNotSupported, "the Will's QoS is above Maximum QoS"));
            }
            if will.retain && !self.settings.retain_available {
                return Err((ReasonCode::RetainNotSupported, "RETAIN is not available"));
            }
            if self.settings.validate_payload_format
                && will.payload_format_indicator == Some(1)
                && std::str::from_utf8(will.payload).is_err()
            {
                let detail = "the Will Payload is not the UTF-8 text it is said to be";
                return Err((ReasonCode::PayloadFormatInvalid, detail));
            }
        }
        if v5 && !self.connack_fits(id, connect) {
            let detail = "its Maximum Packet Size has no room for CONNACK";
            return Err((ReasonCode::PacketTooLarge, detail));
        }
        Ok(())
    }

    /// Answers CONNECT with a refusal, in the client's version if that could be told. 3.x has return
    /// codes for few reasons, and no CONNACK for others (3.1.1) [MQTT-3.1.4-1] [MQTT-3.2.2-6].
    pub(super) fn refuse(
        &mut self,
        id: ConnId,
        version: Option<Version>,
        reason: ReasonCode,
        detail: &'static str,
    ) {
        self.send_refusal(id, version, reason, detail);
        self.end(id, Ending::Silent(detail));
    }

    /// The same, for a client whose identifier is known and has no session here, perhaps.
    fn refuse_client(
        &mut self,
        id: ConnId,
        connect: &Connect<'_>,
        client_id: &str,
        (reason, detail): (ReasonCode, &'static str),
    ) {
        self.send_refusal(id, Some(connect.version), reason, detail);
        if let Some(connection) = self.connections.get(id) {
            self.log.client(self.now, connection.peer, client_id, detail);
        }
        self.end(id, Ending::Logged);
    }

    fn send_refusal(
        &mut self,
        id: ConnId,
        version: Option<Version>,
        reason: ReasonCode,
        detail: &'static str,
    ) {
        self.stats.client_errors.add(1);
        if let Some(version) = version
            && (version.is_v5() || reason.connack_v3().is_some())
            && let Some(mut out) = self.connections.out(id)
        {
            out.connection.version = version;
            let reason_string = Some(detail);
            let packet = ConnAck { reason_string, ..ConnAck::new(false, reason) };
            out.packet(&Packet::ConnAck(packet));
            out.connection.close_mode = CloseMode::Graceful;
        }
    }

    /// Lets a client in.
    pub(super) fn admit(&mut self, id: ConnId, connect: &Connect<'_>, login: &Login) -> Then {
        let assigned = connect.client_id.is_empty().then(|| self.assign_client_id());
        let client_id = assigned.as_deref().unwrap_or(connect.client_id);
        let Some(connection) = self.connections.get(id) else { return Then::Stop };
        let (peer, certificate) = (connection.peer, connection.certificate.clone());
        let identity = self.identify(client_id, login, connection, connect);
        if let Some(refusal) = self.forbids(identity.as_deref(), client_id, connect) {
            self.refuse_client(id, connect, client_id, refusal);
            return Then::Stop;
        }
        let Ok(allotment) = self.allot(id, client_id, login) else {
            let detail = "max_connections of its user's quota is reached";
            self.refuse_client(id, connect, client_id, (ReasonCode::QuotaExceeded, detail));
            return Then::Stop;
        };
        if let Some(connection) = self.connections.get_mut(id) {
            connection.allotment = allotment;
        }
        let Some((key, session_present)) = self.open_session(client_id, connect.clean_start) else {
            self.release_user(id);
            let detail = "max_sessions is reached";
            self.refuse_client(id, connect, client_id, (ReasonCode::QuotaExceeded, detail));
            return Then::Stop;
        };
        self.take_up_buckets(id, client_id);
        self.set_identity(key, identity);
        let terms = self.terms(id);
        let keep_alive = keep_alive(connect, terms);
        let parameters = self.link_parameters(connect);
        if session_present {
            self.remember_former(key);
        }
        self.attach(key, id, connect, &parameters, keep_alive);
        self.limit_login(id, login.valid_for);
        if !session_present && parameters.session_expiry_interval > 0 {
            self.store_session(key);
        }
        let is_stored = self.sessions.get(key).is_some_and(|slot| slot.session.is_stored());
        // A stored session must not come back after its end was told [MQTT-3.1.2-4].
        let waits = is_stored || self.may_come_back(client_id);
        let admission = Admission { key, session_present, waits, terms };
        self.send_connack(id, &admission, connect, assigned.as_deref());
        let client = Client {
            client_id,
            username: login.user.as_deref(),
            certificate: None,
            certificate_name: certificate.as_ref().map(|one| &*one.name),
            peer,
            listener: None,
            protocol_version: connect.version as u8,
        };
        tracing::debug!(
            target: CLIENT_LOG,
            %peer,
            client_id,
            user = login.user.as_deref().map(shown_user),
            version = %connect.version,
            keep_alive,
            session_present,
            "connected"
        );
        self.shared.hooks.hook.connected(&client, session_present);
        self.set_members_online(key, true);
        if waits {
            // It is read when CONNACK has left.
            return Then::Hold;
        }
        self.finish_admission(key, id);
        Then::Continue
    }

    /// Gives a session its connection.
    fn attach(
        &mut self,
        key: SessionKey,
        id: ConnId,
        connect: &Connect<'_>,
        parameters: &LinkParameters,
        keep_alive: u16,
    ) {
        let now = self.now;
        if let Some(slot) = self.sessions.get_mut(key) {
            slot.session.connect(parameters, &self.settings.session, now);
            slot.session.set_will(connect.will.as_ref().map(|will| make_will(will, now)));
            slot.connection = Some(id);
            slot.will_at = None;
            if let Some(timer) = slot.timer.take() {
                self.timers.cancel(timer);
            }
        }
        self.connected += 1;
        self.stats.connects.add(1);
        if let Some(connection) = self.connections.get_mut(id) {
            let singly = parameters.topic_alias_maximum > 0 || self.settings.session.queue_qos0;
            connection.state = State::Committing;
            connection.version = connect.version;
            connection.bridge = connect.bridge;
            connection.session = key;
            connection.maximum_packet_size = parameters.maximum_packet_size;
            connection.singly = singly;
            connection.minds_frames = singly || parameters.maximum_packet_size != u32::MAX;
            connection.patience_ms = u32::from(keep_alive) * 1500;
        }
    }

    /// CONNACK has left: the session begins to send.
    pub(super) fn finish_admission(&mut self, key: SessionKey, id: ConnId) {
        let now = self.now;
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.state = State::Connected;
        if let Some(timer) = connection.timer.take() {
            self.timers.cancel(timer);
        }
        if connection.patience_ms > 0 {
            let patience = Duration::from_millis(connection.patience_ms.into());
            connection.timer = Some(self.timers.insert(now.plus(patience), Timer::Connection(id)));
        }
        if connection.held {
            self.resumed.push(id);
        }
        self.forget_former(key);
        self.scans.resume(key);
        let Some(slot) = self.sessions.get_mut(key) else { return };
        if let Some(mut out) = self.connections.live_out(id, &self.settings) {
            slot.session.resume(now, &mut out);
        }
        let limits = self.settings.session;
        if !self.has_room(key, 1, &limits) {
            self.became_full(key);
        }
        self.remember_patience(key);
        self.arm_redelivery(key);
    }

    /// An identifier that nobody has, of a client whose home is here.
    fn assign_client_id(&mut self) -> String {
        loop {
            let id = assigned_client_id(self.random.u64(..));
            if self.home(&id) == self.id && self.sessions.find(&id).is_none() {
                return id;
            }
        }
    }

    /// The client's session, and whether it was there before [MQTT-3.1.2-4] [MQTT-3.1.2-5];
    /// nothing if there are too many.
    fn open_session(&mut self, client_id: &str, clean_start: bool) -> Option<(SessionKey, bool)> {
        // What a session has missed in this turn, it has missed though its client comes in the same.
        self.end_doomed();
        if let Some(key) = self.sessions.find(client_id) {
            match self.sessions.get(key).and_then(|slot| slot.connection) {
                Some(old) => self.end(old, Ending::TakenOver),
                None => self.catch_up(key),
            }
            // Without a Session Expiry Interval it ended with its connection.
            if self.sessions.find(client_id) == Some(key) {
                if !clean_start {
                    return Some((key, true));
                }
                self.end_session(key, EndedBy::Client);
            }
        }
        if !self.shared.admission.admit_session(&self.settings) {
            return None;
        }
        Some((self.sessions.insert(Session::counted(client_id, self.allowance.account())), false))
    }

    /// Why a client that was let in may not have what its CONNECT asks for, if so.
    fn forbids(
        &self,
        identity: Option<&Identity>,
        client_id: &str,
        connect: &Connect<'_>,
    ) -> Option<(ReasonCode, &'static str)> {
        if !Self::will_is_allowed(identity, connect) {
            return Some((ReasonCode::NotAuthorized, "a Will where it may not publish"));
        }
        let fails = self.store_fails() && self.would_store(client_id, connect);
        fails.then_some((ReasonCode::ServerUnavailable, STORE_FAILS))
    }

    /// Whether CONNECT changes what is stored.
    fn would_store(&self, client_id: &str, connect: &Connect<'_>) -> bool {
        self.has_stored(client_id)
            || self.may_come_back(client_id)
            || self.session_expiry(connect) > 0
    }

    fn may_come_back(&self, client_id: &str) -> bool {
        self.store.as_ref().is_some_and(|store| store.may_come_back(client_id))
    }

    fn has_stored(&self, client_id: &str) -> bool {
        let found = self.sessions.find(client_id).and_then(|key| self.sessions.get(key));
        found.is_some_and(|slot| slot.session.is_stored())
    }

    fn terms(&self, id: ConnId) -> Terms {
        let Some(connection) = self.connections.get(id) else { return self.settings.terms(0) };
        // It is read by the limit that held when it came.
        let max_packet_size = connection.max_packet_size;
        Terms { max_packet_size, ..self.settings.terms(connection.listener) }
    }

    fn session_expiry(&self, connect: &Connect<'_>) -> u32 {
        let asked = match (connect.version, connect.clean_start) {
            (Version::V5, _) => connect.properties.session_expiry_interval.unwrap_or(0),
            (_, true) => 0,
            (_, false) => self.settings.persistent_session_expiry,
        };
        asked.min(self.settings.max_session_expiry)
    }

    fn link_parameters(&self, connect: &Connect<'_>) -> LinkParameters {
        let settings = &self.settings;
        let asked = &connect.properties;
        let v5 = connect.version.is_v5();
        LinkParameters {
            version: connect.version,
            receive_maximum: asked.receive_maximum.map_or(u16::MAX, NonZeroU16::get),
            maximum_packet_size: maximum_packet_size(connect),
            topic_alias_maximum: asked
                .topic_alias_maximum
                .min(settings.topic_alias_maximum_outbound),
            request_problem_information: asked.request_problem_information,
            session_expiry_interval: self.session_expiry(connect),
            session_expiry_maximum: settings.max_session_expiry,
            our_receive_maximum: if v5 { settings.receive_maximum.get() } else { u16::MAX },
            our_topic_alias_maximum: if v5 { settings.topic_alias_maximum } else { 0 },
            acknowledge_unkept: settings.acknowledge_unkept,
        }
    }

    /// Sends CONNACK: at once, or when what it says is committed.
    fn send_connack(
        &mut self,
        id: ConnId,
        admission: &Admission,
        connect: &Connect<'_>,
        assigned: Option<&str>,
    ) {
        let Admission { key, session_present, waits, terms } = *admission;
        let (settings, expiry) = (self.settings.clone(), self.session_expiry(connect));
        let information = response_information(&settings, connect, assigned);
        let authentication = self.authentication_of(id);
        let (method, data) =
            authentication.as_ref().map(|(method, data)| (&**method, &**data)).unzip();
        let packet = ConnAck {
            session_present,
            response_information: information.as_deref(),
            authentication_method: method,
            authentication_data: data.filter(|data: &&[u8]| !data.is_empty()),
            ..connack(&settings, terms, connect, assigned, expiry)
        };
        let Some(mut out) = self.connections.out(id) else { return };
        let Some(slot) = self.sessions.get_mut(key).filter(|_| waits) else {
            out.packet(&Packet::ConnAck(packet));
            return;
        };
        slot.note();
        if let Some(store) = &self.store {
            // It may have nothing to store itself.
            store.journal.wait((key, slot.serial));
        }
        let mut frame = Vec::new();
        let max = slot.session.maximum_packet_size();
        encode(connect.version, &Packet::ConnAck(packet), max, &mut frame);
        let waiting = 1 << STORE;
        slot.session.send_when_confirmed(&frame, self.turn, waiting, &mut out);
        self.gate.wait(waiting, self.turn, key, slot.serial);
    }

    /// Whether the client takes packets as long as its CONNACK.
    fn connack_fits(&self, id: ConnId, connect: &Connect<'_>) -> bool {
        let max = maximum_packet_size(connect);
        if max == u32::MAX {
            return true;
        }
        let assigned = connect.client_id.is_empty().then(|| assigned_client_id(0));
        let assigned = assigned.as_deref();
        let expiry = self.session_expiry(connect);
        let information = response_information(&self.settings, connect, assigned);
        let authentication = self.authentication_of(id);
        let (method, data) =
            authentication.as_ref().map(|(method, data)| (&**method, &**data)).unzip();
        let packet = ConnAck {
            response_information: information.as_deref(),
            authentication_method: method,
            authentication_data: data.filter(|data: &&[u8]| !data.is_empty()),
            ..connack(&self.settings, self.terms(id), connect, assigned, expiry)
        };
        encode(connect.version, &Packet::ConnAck(packet), max, &mut Vec::new())
    }
}

/// The Keep Alive in force, in seconds; 0: none.
fn keep_alive(connect: &Connect<'_>, terms: Terms) -> u16 {
    let (asked, max) = (connect.keep_alive, terms.max_keep_alive);
    // 3.x has no way to tell a client of another value than its own.
    if max == 0 || !connect.version.is_v5() || (1..=max).contains(&asked) { asked } else { max }
}

/// The CONNACK of one who is let in, but for its Response Information and Session Present.
fn connack<'a>(
    settings: &Settings,
    terms: Terms,
    connect: &Connect<'_>,
    assigned: Option<&'a str>,
    session_expiry: u32,
) -> ConnAck<'a> {
    let asked = connect.properties.session_expiry_interval.unwrap_or(0);
    let keep_alive = keep_alive(connect, terms);
    let no = |available: bool| (!available).then_some(false);
    ConnAck {
        session_expiry_interval: (session_expiry != asked).then_some(session_expiry),
        receive_maximum: Some(settings.receive_maximum),
        maximum_qos: (settings.maximum_qos != QoS::ExactlyOnce).then_some(settings.maximum_qos),
        retain_available: no(settings.retain_available),
        maximum_packet_size: NonZeroU32::new(terms.max_packet_size),
        assigned_client_identifier: assigned,
        topic_alias_maximum: Some(settings.topic_alias_maximum),
        wildcard_subscription_available: no(settings.wildcard_subscription_available),
        shared_subscription_available: no(settings.shared_subscription_available),
        server_keep_alive: (keep_alive != connect.keep_alive).then_some(keep_alive),
        ..ConnAck::new(false, ReasonCode::Success)
    }
}

fn response_information(
    settings: &Settings,
    connect: &Connect<'_>,
    assigned: Option<&str>,
) -> Option<String> {
    let prefix = &settings.response_information_prefix;
    let wanted = connect.properties.request_response_information && !prefix.is_empty();
    wanted.then(|| format!("{prefix}{}", assigned.unwrap_or(connect.client_id)))
}

fn maximum_packet_size(connect: &Connect<'_>) -> u32 {
    connect.properties.maximum_packet_size.map_or(u32::MAX, NonZeroU32::get)
}

fn assigned_client_id(number: u64) -> String {
    format!("{ASSIGNED_PREFIX}{number:016x}")
}

fn make_will(will: &crate::mqtt::Will<'_>, now: crate::timer::Time) -> Will {
    debug_assert!(!topic::has_wildcard(will.topic), "checked by the decoder");
    let mut properties = Vec::new();
    will.properties.write_to(&mut properties);
    let (topic, payload) = (will.topic, will.payload);
    Will {
        message: Message::new(topic, will.qos, will.retain, payload, &properties, None, now),
        message_expiry_interval: will.message_expiry_interval,
        delay_interval: will.delay_interval,
    }
}
