//! Enhanced authentication: AUTH between CONNECT and CONNACK, and again later [MQTT-4.12.0-1].
//!
//! Unlike a password, which is looked at elsewhere, each step is answered at once: what takes long in
//! such a method is its client's to compute.

use std::sync::Arc;

use crate::hooks::{Denial, Exchange, Login, Step};
use crate::mqtt::{
    Auth, Connect, DecodeError, FrameHead, Packet, PacketType, Properties, ReasonCode, Version,
    decode, decode_connect, encode, frame_head,
};
use crate::net::ConnId;
use crate::session::Sink;

use super::Core;
use super::connection::State;
use super::ending::Ending;
use super::input::{PADDED, Reader, Source, Taken, Then};

/// A client that named an Authentication Method in CONNECT.
pub(super) struct Enhanced {
    method: Arc<str>,
    /// The exchange under way.
    exchange: Option<Box<dyn Exchange>>,
    /// CONNECT, as long as it was not answered.
    connect: Option<Box<[u8]>>,
    /// What CONNACK tells.
    last_word: Vec<u8>,
    /// Who it was found to be.
    user: Option<Arc<str>>,
}

impl<S> Core<S> {
    /// Begins with a CONNECT that names a method.
    pub(super) fn begin_exchange(
        &mut self,
        id: ConnId,
        connect: &Connect<'_>,
        body: &[u8],
    ) -> Then {
        let method = connect.properties.authentication_method.unwrap_or_default();
        let exchange = self.new_exchange(id, connect.client_id, connect.username, method);
        let Some(mut exchange) = exchange else {
            let detail = "this Authentication Method is not supported";
            self.refuse(id, Some(Version::V5), ReasonCode::BadAuthenticationMethod, detail);
            return Then::Stop;
        };
        let step = exchange.step(connect.properties.authentication_data.unwrap_or_default());
        if let Some(connection) = self.connections.get_mut(id) {
            connection.version = Version::V5;
            connection.state = State::Exchanging;
        }
        let enhanced = Enhanced {
            method: method.into(),
            exchange: Some(exchange),
            connect: Some(body.into()),
            last_word: Vec::new(),
            user: None,
        };
        self.authentication.enhanced.insert(id, enhanced);
        self.take_step(id, step)
    }

    fn new_exchange(
        &self,
        id: ConnId,
        client_id: &str,
        username: Option<&str>,
        method: &str,
    ) -> Option<Box<dyn Exchange>> {
        let connection = self.connections.get(id)?;
        let client = connection.client(client_id, username, Version::V5);
        self.shared.hooks.authenticator.as_ref()?.exchange(&client, method)
    }

    /// Handles what comes before CONNACK: AUTH, or the end of it [MQTT-3.1.2-30].
    pub(super) fn exchange_frames(
        &mut self,
        reader: &mut Reader<'_>,
        bytes: &[u8],
        mut at: usize,
        source: Source<'_>,
    ) -> Taken {
        let id = reader.id;
        loop {
            let rest = bytes.get(at..).unwrap_or_default();
            let head = match frame_head(rest, self.settings.max_connect_size) {
                Ok(Some(head)) if head.is_minimal() => head,
                Ok(None) => return Taken { consumed: at, frame_len: None, then: Then::Continue },
                wrong => {
                    let error = wrong.err().unwrap_or(PADDED);
                    self.refuse(id, Some(Version::V5), error.reason, error.detail);
                    return Taken { consumed: at, frame_len: None, then: Then::Stop };
                }
            };
            let Some(frame) = rest.get(..head.frame_len()) else {
                let frame_len = Some(head.frame_len());
                return Taken { consumed: at, frame_len, then: Then::Continue };
            };
            at += frame.len();
            self.stats.packets_received.add(1);
            let body = frame.get(usize::from(head.head_len)..).unwrap_or_default();
            let then = self.exchange_frame(id, head, body);
            match self.connections.get(id).map(|connection| connection.state) {
                Some(State::Exchanging) if then == Then::Continue => {}
                Some(State::Connected) if then == Then::Continue => {
                    return self.frames_after_connack(reader, bytes, at, source);
                }
                _ => return Taken { consumed: at, frame_len: None, then },
            }
        }
    }

    fn exchange_frame(&mut self, id: ConnId, head: FrameHead, body: &[u8]) -> Then {
        let decoded = match head.packet_type() {
            Some(PacketType::Auth) => {
                decode(Version::V5, head.first_byte, body, &self.settings.limits)
            }
            Some(PacketType::Disconnect) => {
                self.end(id, Ending::Silent("it gave up while it was authenticated"));
                return Then::Stop;
            }
            _ => Err(DecodeError::protocol("another packet than AUTH before CONNACK")),
        };
        let auth = decoded.and_then(|packet| match packet {
            Packet::Auth(auth) => Ok(auth),
            _ => Err(DecodeError::protocol("another packet than AUTH before CONNACK")),
        });
        match auth.and_then(|auth| self.answer(id, &auth)) {
            Ok(step) => self.take_step(id, step),
            Err(error) => {
                self.refuse(id, Some(Version::V5), error.reason, error.detail);
                Then::Stop
            }
        }
    }

    /// Has an exchange that is under way, or a new one, answer AUTH [MQTT-4.12.0-3] [MQTT-4.12.1-1].
    fn answer(&mut self, id: ConnId, auth: &Auth<'_>) -> Result<Step, DecodeError> {
        let Some(enhanced) = self.authentication.enhanced.get_mut(&id) else {
            let detail = "AUTH without an Authentication Method in CONNECT";
            return Err(DecodeError::protocol(detail));
        };
        if auth.method.is_some_and(|method| *method != *enhanced.method) {
            let detail = "AUTH names another Authentication Method than CONNECT";
            return Err(DecodeError::new(ReasonCode::BadAuthenticationMethod, detail));
        }
        let data = auth.data.unwrap_or_default();
        match (auth.reason, &mut enhanced.exchange) {
            (ReasonCode::ContinueAuthentication, Some(exchange)) => Ok(exchange.step(data)),
            (ReasonCode::ReAuthenticate, None) => {
                let (method, user) = (enhanced.method.clone(), enhanced.user.clone());
                let key = self.connections.get(id).map(|connection| connection.session);
                let session = key.and_then(|key| self.sessions.get(key));
                let client_id = session.map_or("", |slot| slot.session.client_id());
                let exchange = self.new_exchange(id, client_id, user.as_deref(), &method);
                let detail = "this Authentication Method is supported no longer";
                let no_longer = DecodeError::new(ReasonCode::BadAuthenticationMethod, detail);
                let mut exchange = exchange.ok_or(no_longer)?;
                let step = exchange.step(data);
                if let Some(enhanced) = self.authentication.enhanced.get_mut(&id) {
                    enhanced.exchange = Some(exchange);
                }
                Ok(step)
            }
            _ => Err(DecodeError::protocol("AUTH out of turn")),
        }
    }

    /// Goes on with a client that has no CONNACK yet.
    fn take_step(&mut self, id: ConnId, step: Step) -> Then {
        let (reason, detail) = match step {
            Step::Continue(data) => {
                if self.send_auth(id, ReasonCode::ContinueAuthentication, &data) {
                    return Then::Continue;
                }
                (ReasonCode::PacketTooLarge, "its Maximum Packet Size has no room for AUTH")
            }
            Step::Done(login, data) => return self.exchange_done(id, &login, data),
            Step::Deny(denial) => {
                self.refuse_exchange(id, denial);
                return Then::Stop;
            }
        };
        self.refuse(id, Some(Version::V5), reason, detail);
        Then::Stop
    }

    fn refuse_exchange(&mut self, id: ConnId, denial: Denial) {
        let Some(enhanced) = self.authentication.enhanced.get_mut(&id) else { return };
        let (body, exchange) = (enhanced.connect.take(), enhanced.exchange.take());
        let body = body.unwrap_or_default();
        // It was decoded before.
        if let Ok(connect) = decode_connect(&body, &self.settings.limits) {
            let user = exchange.as_ref().and_then(|exchange| exchange.user());
            self.refuse_login(id, &connect, user, denial);
        }
    }

    fn exchange_done(&mut self, id: ConnId, login: &Login, last_word: Vec<u8>) -> Then {
        let Some(enhanced) = self.authentication.enhanced.get_mut(&id) else { return Then::Stop };
        enhanced.exchange = None;
        enhanced.last_word = last_word;
        enhanced.user.clone_from(&login.user);
        let body = enhanced.connect.take().unwrap_or_default();
        // It was decoded before.
        let Ok(connect) = decode_connect(&body, &self.settings.limits) else { return Then::Stop };
        match self.check_connect(id, &connect) {
            Ok(()) => self.admit(id, &connect, login),
            Err((reason, detail)) => {
                self.refuse(id, Some(Version::V5), reason, detail);
                Then::Stop
            }
        }
    }

    /// AUTH from a client that is connected. Its user stays the same, and so does what it may do.
    pub(super) fn authenticate_again(
        &mut self,
        id: ConnId,
        auth: &Auth<'_>,
    ) -> Result<Then, DecodeError> {
        let refused = |detail| Err(DecodeError::new(ReasonCode::NotAuthorized, detail));
        let (reason, data) = match self.answer(id, auth)? {
            Step::Continue(data) => (ReasonCode::ContinueAuthentication, data),
            // DISCONNECT knows no other reason.
            Step::Deny(_) => return refused("refused by authentication"),
            Step::Done(login, data) => {
                if let Some(enhanced) = self.authentication.enhanced.get_mut(&id) {
                    enhanced.exchange = None;
                    if enhanced.user != login.user {
                        return refused("authenticated as another user");
                    }
                }
                self.limit_login(id, login.valid_for);
                (ReasonCode::Success, data)
            }
        };
        if !self.send_auth(id, reason, &data) {
            let detail = "its Maximum Packet Size has no room for AUTH";
            return Err(DecodeError::new(ReasonCode::PacketTooLarge, detail));
        }
        Ok(Then::Continue)
    }

    /// Sends AUTH, with the method of CONNECT [MQTT-4.12.0-5]; false if the client cannot take it.
    fn send_auth(&mut self, id: ConnId, reason: ReasonCode, data: &[u8]) -> bool {
        let Some(enhanced) = self.authentication.enhanced.get(&id) else { return false };
        let auth = Auth {
            reason,
            method: Some(&enhanced.method),
            data: Some(data).filter(|data| !data.is_empty()),
            reason_string: None,
            properties: Properties::EMPTY,
        };
        let Some(mut out) = self.connections.out(id) else { return false };
        let mut frame = Vec::new();
        let max = out.connection.maximum_packet_size;
        let fits = encode(Version::V5, &Packet::Auth(auth), max, &mut frame);
        if fits {
            out.raw(&frame);
        }
        fits
    }

    /// What CONNACK says of authentication: its method and the last word.
    pub(super) fn authentication_of(&self, id: ConnId) -> Option<(Arc<str>, Vec<u8>)> {
        let enhanced = self.authentication.enhanced.get(&id)?;
        Some((enhanced.method.clone(), enhanced.last_word.clone()))
    }
}

pub(super) fn reason_of(denial: Denial) -> ReasonCode {
    match denial {
        Denial::BadUserNameOrPassword | Denial::TokenSignature => ReasonCode::BadUserNameOrPassword,
        Denial::NotAuthorized | Denial::Token(_) => ReasonCode::NotAuthorized,
        Denial::ServerUnavailable | Denial::Busy => ReasonCode::ServerUnavailable,
        Denial::Banned => ReasonCode::Banned,
    }
}
