//! How connections and sessions end.

use tracing::field::display;

use crate::mqtt::{DecodeError, Disconnect, Message, Packet, ReasonCode};
use crate::net::{CloseCause, CloseMode, ConnId};
use crate::router::{RouteId, SessionKey};
use crate::session::{Departure, DropCause, Session, Unkept, Will, WillDue};

use super::Core;
use super::connection::State;
use super::ended::Remains;
use super::input::{Reader, Then};
use super::remote::Publisher;
use super::sys::CLIENT_LOG;

/// Why a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The client sent DISCONNECT.
    Left(Departure),
    /// The socket is gone.
    Lost,
    /// The broker closes without a packet.
    Silent(&'static str),
    /// The same, and the log says why already.
    Logged,
    /// The broker closes; a 5.0 client is told why.
    Refused(ReasonCode, &'static str),
    /// Another connection took the session over [MQTT-3.1.4-3].
    TakenOver,
    /// The broker stops.
    Stopping,
}

/// Who had a session end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EndedBy {
    /// Its client, by DISCONNECT or another CONNECT: it gives up what it has not got.
    Client,
    /// Time, the network or the broker: what the client has not got is lost, and counted.
    Other,
}

impl Ending {
    /// A 3.x client must not be told that its message was kept, and cannot be told that it was not.
    fn not_kept(why: Unkept) -> Self {
        let detail = match why {
            Unkept::Full => {
                "its message was not kept: the queues of all who would get it are full \
                 (queue.max_messages, max_bytes; overflow.v3_publisher)"
            }
            Unkept::NotRetained => {
                "its message was not kept: there is no room for what it retains \
                 (retained.max_messages, max_bytes; overflow.v3_publisher)"
            }
            Unkept::Unstored => "its message was not kept: nothing can be stored now",
        };
        Self::Refused(ReasonCode::QuotaExceeded, detail)
    }

    /// What DISCONNECT says, and why; nothing if none is sent.
    fn packet(self) -> Option<(ReasonCode, &'static str)> {
        match self {
            Self::Left(_) | Self::Lost | Self::Silent(_) | Self::Logged => None,
            Self::Refused(reason, detail) => Some((reason, detail)),
            Self::TakenOver => Some((ReasonCode::SessionTakenOver, "another connection took over")),
            Self::Stopping => Some((ReasonCode::ServerShuttingDown, "the broker stops")),
        }
    }

    fn departure(self) -> Departure {
        match self {
            Self::Left(departure) => departure,
            _ => Departure::WithWill,
        }
    }

    /// Who has a session end that does not outlive the connection.
    fn ended_by(self) -> EndedBy {
        match self {
            Self::Left(_) | Self::TakenOver => EndedBy::Client,
            _ => EndedBy::Other,
        }
    }

    /// What happened, for the log.
    fn why(self) -> &'static str {
        match self {
            Self::Left(Departure::Normal) => "it said goodbye",
            Self::Left(_) => "it said goodbye and asked for its will",
            Self::Lost => "the connection was lost",
            Self::Logged => "it was refused",
            Self::Silent(detail) | Self::Refused(_, detail) => detail,
            Self::TakenOver => "another connection took over",
            Self::Stopping => "the broker stops",
        }
    }

    /// What the log always says; nothing for what clients do every day.
    fn log(self) -> Option<&'static str> {
        match self {
            Self::Silent(detail) | Self::Refused(_, detail) => Some(detail),
            _ => None,
        }
    }
}

impl<S> Core<S> {
    /// Ends a connection: nothing of it is read any more, what is written to it by now still leaves.
    pub(super) fn end(&mut self, id: ConnId, ending: Ending) {
        self.end_telling(id, ending, ending.log());
    }

    /// Ends the connection of a 3.x client whose message was not kept. The log says which topic it has published
    /// on last (`route`, or else as its last read left it): of most publishers that is the message's.
    pub(super) fn end_unkept(&mut self, id: ConnId, why: Unkept, route: Option<RouteId>) {
        let ending = Ending::not_kept(why);
        let last = || self.connections.get(id).map(|connection| connection.last_route);
        let topic = route.or_else(last).map_or("", |route| self.router.get(route).topic());
        let logged = format!("{}; it has published on {topic:?} last", ending.why());
        self.end_telling(id, ending, Some(&logged));
    }

    /// Ends the connection of a 3.x client that may not publish on this topic, which the log names.
    pub(super) fn end_denied(&mut self, id: ConnId, route: RouteId, detail: &'static str) {
        let logged = format!("{detail}: {:?}", self.router.get(route).topic());
        self.end_telling(id, Ending::Silent(detail), Some(&logged));
    }

    /// The same, with what the log says in any case.
    fn end_telling(&mut self, id: ConnId, ending: Ending, logged: Option<&str>) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        if connection.state == State::Closing {
            return;
        }
        let was = std::mem::replace(&mut connection.state, State::Closing);
        let (key, peer) = (connection.session, connection.peer);
        if let Some(timer) = connection.timer.take() {
            self.timers.cancel(timer);
        }
        let v5 = connection.version.is_v5();
        let session = self.sessions.get(key).map(|slot| &slot.session);
        let client_id = session.map_or("", Session::client_id);
        let dropped = session.map(Session::drops).filter(|drops| drops.total() > 0);
        if let Some(detail) = logged {
            self.log.closed(self.now, peer, client_id, detail, dropped);
        } else if was == State::Connected {
            let dropped = dropped.map(display);
            tracing::debug!(target: CLIENT_LOG, %peer, client_id, dropped, "disconnected: {}", ending.why());
        }
        if matches!(was, State::Connected | State::Committing) {
            // Before CONNACK there is no DISCONNECT.
            let told = v5 && was == State::Connected;
            if let Some((reason, detail)) = ending.packet().filter(|_| told) {
                let wants_detail = self
                    .sessions
                    .get(key)
                    .is_some_and(|slot| slot.session.request_problem_information());
                let reason_string = wants_detail.then_some(detail);
                let packet = Disconnect { reason_string, ..Disconnect::new(reason) };
                if let Some(mut out) = self.connections.out(id) {
                    out.packet(&Packet::Disconnect(packet));
                    out.connection.close_mode = CloseMode::Graceful;
                }
            }
            self.release_user(id);
            self.leave_buckets(id, key);
            self.detach(key, ending);
        }
        if let Some(connection) = self.connections.get_mut(id)
            && connection.backlog() > 0
            && ending != Ending::Lost
        {
            connection.close_mode = CloseMode::Graceful;
        }
        self.connections.touch(id);
    }

    /// The other side closed its socket, or the network did, or its transport was not taken from it.
    pub(super) fn peer_closed(&mut self, id: ConnId, cause: CloseCause) {
        match cause {
            CloseCause::Refused(why) => self.end_telling(id, Ending::Logged, Some(&why)),
            CloseCause::PeerClosed | CloseCause::Reset | CloseCause::Error(_) => {
                self.end(id, Ending::Lost);
            }
        }
    }

    /// DISCONNECT from a client [MQTT-3.14.4-3].
    pub(super) fn client_disconnect(
        &mut self,
        reader: &mut Reader<'_>,
        disconnect: &Disconnect<'_>,
    ) -> Result<Then, DecodeError> {
        let departure = match disconnect.reason {
            ReasonCode::Success => Departure::Normal,
            reason if reason.is_of_servers_only() => {
                return Err(DecodeError::protocol("a Disconnect Reason Code of servers only"));
            }
            _ => Departure::WithWill,
        };
        if let Some(interval) = disconnect.session_expiry_interval
            && let Some(slot) = self.sessions.get_mut(reader.session)
        {
            slot.session.change_session_expiry_interval(interval)?;
        }
        self.end(reader.id, Ending::Left(departure));
        Ok(Then::Stop)
    }

    /// Separates a session from its connection.
    fn detach(&mut self, key: SessionKey, ending: Ending) {
        let now = self.now;
        self.forget_former(key);
        let Some(slot) = self.sessions.get_mut(key) else { return };
        slot.connection = None;
        if let Some(timer) = slot.timer.take() {
            self.timers.cancel(timer);
        }
        let wills = ending != Ending::Stopping || self.settings.shutdown_wills;
        let due = slot.session.will_due(ending.departure(), now);
        slot.session.disconnect(now);
        let due = match due {
            // Asked before the disconnection, the session did not know its end.
            WillDue::At(_) => slot.session.will_due(ending.departure(), now),
            due => due,
        };
        let mut will = None;
        match due {
            WillDue::Never => {}
            WillDue::Now(due) => will = Some(due),
            WillDue::At(_) if ending == Ending::Stopping => will = slot.session.take_will(),
            WillDue::At(at) => slot.will_at = Some(at),
        }
        self.connected -= 1;
        self.set_members_online(key, false);
        self.forget_receiver(key);
        self.note_and_publish(key, will.filter(|_| wills));
        if let Some(slot) = self.sessions.get(key) {
            self.shared.hooks.hook.disconnected(slot.session.client_id());
            if slot.session.ends_at().is_some_and(|at| at <= now) {
                self.end_session(key, ending.ended_by());
            } else {
                self.arm_absent(key);
            }
        }
    }

    /// Notes a session as it is now, and publishes the will that it has given away: as one, or else that would
    /// come again after a crash.
    pub(super) fn note_and_publish(&mut self, key: SessionKey, will: Option<Will>) {
        let act = self.begin_act();
        if let Some(will) = will {
            self.publish_will(key, will);
        }
        if let Some(slot) = self.sessions.get(key) {
            slot.note();
        }
        self.end_act(act);
    }

    /// Publishes the will of a session.
    fn publish_will(&mut self, key: SessionKey, will: Will) {
        let message = will.into_message(self.now);
        if self.sessions.get(key).is_none_or(|slot| slot.may_publish(&message)) {
            self.route_will(key, &message);
        }
    }

    fn route_will(&mut self, key: SessionKey, will: &Message) {
        let publisher = Publisher { session: key, shard: self.id, ..Publisher::NOBODY };
        // A will has no acknowledgement to withhold.
        self.publish_message(will, publisher);
    }

    /// Ends a session: its subscriptions go, what it had of shared groups goes to other members.
    pub(super) fn end_session(&mut self, key: SessionKey, by: EndedBy) {
        let Some(mut slot) = self.sessions.take(key) else { return };
        debug_assert!(slot.connection.is_none(), "a connected session ends with its connection");
        self.shared.admission.release_session();
        if let Some(timer) = slot.timer.take() {
            self.timers.cancel(timer);
        }
        self.scans.forget(key);
        let act = self.begin_act();
        let number = slot.session.number();
        if let Some(store) = self.store.as_mut().filter(|_| number.is_some()) {
            store.ends_session(slot.session.client_id(), self.turn);
        }
        let mut remains = Remains::of(key, &mut slot);
        self.begin_removal(&mut remains);
        let orphans = slot.session.take_for_redistribution();
        if !orphans.is_empty() {
            self.passes_on(number.is_some());
        }
        for orphan in orphans {
            // Or else another shard would send it back here.
            self.tell_news_of(orphan.group);
            self.redistribute(orphan);
        }
        let will = slot.session.take_will().map(|will| will.into_message(self.now));
        if let Some(will) = will.filter(|will| slot.may_publish(will)) {
            self.route_will(key, &will);
        }
        let paged = slot.session.paged().filter(|paged| paged.shared);
        if by == EndedBy::Other {
            // What others shall have some of is counted when it is read.
            let later = paged.map_or(0, |paged| paged.messages as usize);
            let lost = slot.session.undelivered().saturating_sub(later) as u64;
            if lost > 0 {
                slot.session.count_drops(DropCause::SessionEnded, lost);
                self.stats.dropped[DropCause::SessionEnded as usize].add(lost);
            }
        }
        slot.session.note_ended();
        if let (Some(paged), Some(number)) = (paged, number) {
            self.retire(number, paged.first, by);
        }
        self.end_act(act);
        if slot.session.drops().total() > 0 {
            self.log.session_ended(self.now, &slot.session);
        }
        self.go_on_removing(remains);
    }

    /// Ends the sessions whose queues overflowed under `overflow.offline = "end_session"`.
    pub(super) fn end_doomed(&mut self) {
        while let Some((key, serial)) = self.doomed.pop() {
            let slot = self.sessions.get_serial(key, serial);
            if slot.is_some_and(|slot| slot.connection.is_none()) {
                self.end_session(key, EndedBy::Other);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::{OverflowOffline, Settings};
    use super::super::{Shard, Shared};
    use crate::hooks::Hooks;
    use crate::net::sim::{ClientId, Faults, SimDriver, SimOptions, World};

    /// What a client gets that comes in the very turn in which there is one message too many for its session.
    fn received_in_the_turn_of_an_overflow(seed: u64) -> Vec<u8> {
        let mut settings = Settings::for_tests();
        settings.session.max_queued_messages = 1;
        settings.overflow_offline = OverflowOffline::EndSession;
        let shared = Shared::new(settings, Hooks::default(), 1, 1).into();
        let world = World::new(seed, SimOptions { faults: Faults::NONE, ..SimOptions::default() });
        let shard = &mut Shard::assemble(vec![world.add_driver()], &shared)[0];
        let turns = |shard: &mut Shard<SimDriver>, count: usize| {
            for _ in 0..count {
                assert!(shard.turn(false).expect("a simulated driver does not fail"));
            }
        };
        let send = |client: ClientId, bytes: &[u8]| {
            assert_eq!(world.client_send(client, bytes).expect("it is open"), bytes.len());
        };
        let connect = b"\x10\x0d\0\x04MQTT\x04\0\0\0\0\x01a";
        let subscriber = world.connect();
        send(subscriber, &[&connect[..], b"\x82\x06\0\x01\0\x01t\x01"].concat());
        let (publisher, again) = (world.connect(), world.connect());
        send(publisher, b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01b");
        turns(shard, 4);
        world.client_close(subscriber);
        turns(shard, 4);
        send(publisher, b"\x32\x06\0\x01t\0\x01.");
        turns(shard, 1);
        send(publisher, b"\x32\x06\0\x01t\0\x02.");
        send(again, connect);
        turns(shard, 4);
        let mut received = Vec::new();
        world.client_recv(again, &mut received);
        received
    }

    /// Whichever of the two is read first: a session that is there has missed nothing.
    #[test]
    fn who_comes_in_the_turn_of_an_overflow_finds_all_or_no_session() {
        let begun = [0x20, 2, 0, 0];
        let resumed = b"\x20\x02\x01\0\x32\x06\0\x01t\0\x01.\x32\x06\0\x01t\0\x02.";
        for seed in 0..20 {
            let received = received_in_the_turn_of_an_overflow(seed);
            assert!(received == begun || received == resumed, "{received:?}");
        }
    }
}
