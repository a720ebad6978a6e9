//! SUBSCRIBE and UNSUBSCRIBE.

use std::num::NonZeroU32;

use crate::mqtt::topic::Filter;
use crate::mqtt::{
    DecodeError, Packet, Properties, QoS, ReasonCode, RetainHandling, SubAck, Subscribe,
    SubscribeFilter, UnsubAck, Unsubscribe, encode, topic, varint_len,
};
use crate::router::{GroupCount, SessionKey, Subscribed, SubscriptionOptions};
use crate::session::{STORE, SubscriptionRecord};

use super::Core;
use super::input::{Reader, Then};
use super::long_packets::{Begun, WantedScan};
use super::remote::Item;
use super::scans::RetainedScan;

impl<S> Core<S> {
    pub(super) fn subscribe(
        &mut self,
        reader: &mut Reader<'_>,
        subscribe: &Subscribe<'_>,
    ) -> Result<Then, DecodeError> {
        if self.hold_for_others(reader) {
            return Ok(Then::Hold);
        }
        let (noted, count) = (self.noted(), subscribe.filters.iter().count());
        let mut begun = self.go_on_with(reader, count)?;
        let done = begun.reasons.len();
        for filter in subscribe.filters.iter().skip(done) {
            if !reader.may_go_on() {
                self.long_packets.put(reader.id, begun);
                return Ok(Then::Hold);
            }
            reader.did(filter.filter);
            let reason = self.subscribe_one(reader, subscribe, &filter, &mut begun);
            if reason.is_error() {
                self.log_refused_filter(reader, filter.filter, reason);
            }
            begun.reasons.push(reason as u8);
        }
        let packet = SubAck {
            packet_id: subscribe.packet_id,
            reasons: &begun.reasons,
            properties: Properties::EMPTY,
        };
        // The last of several turns may have changed nothing.
        let is_stored = done > 0 || self.noted() > noted;
        self.answer_when_known(reader, &Packet::SubAck(packet), is_stored);
        let mut wanted = begun.scans.into_iter().peekable();
        for (at, asked) in subscribe.filters.iter().enumerate() {
            let Some(WantedScan { handle, qos, noted, .. }) =
                wanted.next_if(|scan| scan.index == at)
            else {
                continue;
            };
            // What the client may do can have changed in between.
            let subscription = (done > 0).then(|| self.router.subscription(reader.session, handle));
            if subscription.is_none_or(|one| one.is_some_and(|one| *one.filter == *asked.filter)) {
                let identifier = subscribe.subscription_identifier.map(NonZeroU32::get);
                let filter = asked.filter.into();
                let scan = RetainedScan { filter, qos, identifier, after: None, noted };
                self.start_scan(reader.session, handle, scan);
            }
        }
        Ok(Then::Continue)
    }

    /// A client of 3.x is told no cause, and many show none.
    #[cold]
    fn log_refused_filter(&mut self, reader: &Reader<'_>, filter: &str, reason: ReasonCode) {
        if let (Some(connection), Some(slot)) =
            (self.connections.get(reader.id), self.sessions.get(reader.session))
        {
            let detail = format!("its subscription is refused: {reason}");
            self.log.refused(self.now, connection.peer, slot, filter, &detail);
        }
    }

    /// Holds the reader if other shards are behind with what they have to be told, or with the
    /// confirmations that too many of its answers wait for.
    fn hold_for_others(&mut self, reader: &mut Reader<'_>) -> bool {
        let lanes = self.mailbox.full();
        if lanes != 0 {
            self.hold_for_lanes(reader, lanes);
            return true;
        }
        self.hold_for_gate(reader)
    }

    /// What was done of the packet at hand, which has `count` filters.
    fn go_on_with(&mut self, reader: &mut Reader<'_>, count: usize) -> Result<Begun, DecodeError> {
        let begun = self.long_packets.take(reader);
        if begun.reasons.is_empty() {
            self.check_answer_fits(reader, count)?;
        }
        Ok(begun)
    }

    /// A SUBACK or UNSUBACK cannot be shortened, and must be sent. A packet whose answer would exceed
    /// the client's Maximum Packet Size is refused before anything is done for it [MQTT-3.1.2-24].
    fn check_answer_fits(&self, reader: &Reader<'_>, filters: usize) -> Result<(), DecodeError> {
        let Some(slot) = self.sessions.get(reader.session) else { return Ok(()) };
        // Packet Identifier, Property Length, and a reason code each.
        let body = 3 + filters;
        let len = 1 + varint_len(u32::try_from(body).unwrap_or(u32::MAX)) + body;
        if len as u64 > u64::from(slot.session.maximum_packet_size()) {
            let detail = "the answer is larger than the client's Maximum Packet Size";
            return Err(DecodeError::new(ReasonCode::PacketTooLarge, detail));
        }
        Ok(())
    }

    fn subscribe_one(
        &mut self,
        reader: &Reader<'_>,
        subscribe: &Subscribe<'_>,
        asked: &SubscribeFilter<'_>,
        begun: &mut Begun,
    ) -> ReasonCode {
        let filter = match Filter::parse(asked.filter, &self.settings.limits) {
            Ok(filter) => filter,
            Err(error) => return error.reason,
        };
        if let Some(refusal) = self.refuse_filter(&filter) {
            return refusal;
        }
        let Some(options) = self.granted(reader, subscribe, asked, &filter) else {
            return ReasonCode::NotAuthorized;
        };
        let Some(subscribed) = self.add_subscription(reader.session, &filter, options) else {
            self.stats.refused_subscriptions.add(1);
            return ReasonCode::QuotaExceeded;
        };
        let wants_retained = match asked.retain_handling {
            RetainHandling::Send => filter.share.is_none(),
            RetainHandling::SendIfNew => filter.share.is_none() && !subscribed.existed,
            RetainHandling::DoNotSend => false,
        };
        if wants_retained {
            self.scans.follow_no_more(reader.session, subscribed.handle);
        }
        // A crash before it has got them must not leave it without.
        let noted = wants_retained && self.router.retained_count() > 0;
        let retained_after = match noted {
            true => Some(Box::default()),
            false => self.scans.noted(reader.session, subscribed.handle),
        };
        if let Some(slot) = self.sessions.get(reader.session) {
            slot.session.note_subscribed(|| record(asked.filter, options, retained_after));
        }
        if subscribed.interest {
            self.tell_all(filter.filter.len(), || Item::Interest(filter.filter.into()));
        }
        self.tell_group(subscribed.group);
        if wants_retained {
            let (index, handle, qos) = (begun.reasons.len(), subscribed.handle, options.qos);
            begun.scans.push(WantedScan { index, handle, qos, noted });
        }
        match options.qos {
            QoS::AtMostOnce => ReasonCode::Success,
            QoS::AtLeastOnce => ReasonCode::GrantedQoS1,
            QoS::ExactlyOnce => ReasonCode::GrantedQoS2,
        }
    }

    /// The options that a client is granted; nothing if it may not subscribe.
    fn granted(
        &self,
        reader: &Reader<'_>,
        subscribe: &Subscribe<'_>,
        asked: &SubscribeFilter<'_>,
        filter: &Filter<'_>,
    ) -> Option<SubscriptionOptions> {
        // A bridge in 3.x cannot ask for what it needs: no echo, and RETAIN as it was.
        let bridge = self.connections.get(reader.id).is_some_and(|one| one.bridge);
        let rights = self.sessions.get(reader.session).and_then(|slot| slot.rights());
        let granted = match rights {
            Some(rights) => rights.subscribe(filter.filter, filter.share.is_some())?,
            None => QoS::ExactlyOnce,
        };
        Some(SubscriptionOptions {
            qos: asked.qos.min(self.settings.maximum_qos).min(granted),
            no_local: asked.no_local || (bridge && filter.share.is_none()),
            retain_as_published: asked.retain_as_published || bridge,
            identifier: subscribe.subscription_identifier,
        })
    }

    /// Adds a subscription or replaces its options; nothing if there is no room for another one.
    fn add_subscription(
        &mut self,
        key: SessionKey,
        filter: &Filter<'_>,
        options: SubscriptionOptions,
    ) -> Option<Subscribed> {
        let (has_bytes, store_fails) = (self.has_subscription_bytes(filter), self.store_fails());
        let slot = self.sessions.get_mut(key)?;
        if slot.session.is_stored() && store_fails {
            return None;
        }
        // A filter it holds already takes no further place, which only the router can tell.
        let admission = &self.shared.admission;
        let admitted = has_bytes
            && slot.subscriptions.len() < self.settings.max_subscriptions_per_client
            && admission.admit_subscription(&self.settings);
        if !admitted && !self.router.has_subscription(key, filter) {
            return None;
        }
        let subscribed = self.router.subscribe(key, filter, options);
        if !subscribed.existed {
            self.router.set_place(subscribed.handle, slot.subscriptions.len());
            slot.subscriptions.push(subscribed.handle);
        } else if admitted {
            admission.release_subscription();
        }
        Some(subscribed)
    }

    /// Whether there is room for a filter, be none of its levels there yet.
    fn has_subscription_bytes(&self, filter: &Filter<'_>) -> bool {
        let others =
            self.shared.admission.subscription_bytes().wrapping_sub(self.subscription_bytes);
        let here = self.router.counted_subscription_bytes();
        let wanted = others.wrapping_add(here) + self.router.most_subscription_bytes(filter);
        wanted <= self.settings.max_subscription_bytes
    }

    /// Lets the other shards know what subscriptions take here.
    pub(super) fn settle_subscriptions(&mut self) {
        let here = self.router.counted_subscription_bytes();
        if here != self.subscription_bytes {
            self.shared.admission.change_subscription_bytes(self.subscription_bytes, here);
            self.subscription_bytes = here;
        }
    }

    fn refuse_filter(&self, filter: &Filter<'_>) -> Option<ReasonCode> {
        if filter.share.is_some() && !self.settings.shared_subscription_available {
            return Some(ReasonCode::SharedSubscriptionsNotSupported);
        }
        if topic::has_wildcard(filter.filter) && !self.settings.wildcard_subscription_available {
            return Some(ReasonCode::WildcardSubscriptionsNotSupported);
        }
        None
    }

    pub(super) fn unsubscribe(
        &mut self,
        reader: &mut Reader<'_>,
        unsubscribe: &Unsubscribe<'_>,
    ) -> Result<Then, DecodeError> {
        if self.hold_for_others(reader) {
            return Ok(Then::Hold);
        }
        let (noted, count) = (self.noted(), unsubscribe.filters.iter().count());
        let mut begun = self.go_on_with(reader, count)?;
        let done = begun.reasons.len();
        for text in unsubscribe.filters.iter().skip(done) {
            if !reader.may_go_on() {
                self.long_packets.put(reader.id, begun);
                return Ok(Then::Hold);
            }
            reader.did(text);
            let reason = match Filter::parse(text, &self.settings.limits) {
                Ok(filter) => self.unsubscribe_one(reader.session, &filter),
                Err(error) => error.reason,
            };
            begun.reasons.push(reason as u8);
        }
        let packet = UnsubAck {
            packet_id: unsubscribe.packet_id,
            reasons: &begun.reasons,
            properties: Properties::EMPTY,
        };
        // The last of several turns may have changed nothing.
        let is_stored = done > 0 || self.noted() > noted;
        self.answer_when_known(reader, &Packet::UnsubAck(packet), is_stored);
        Ok(Then::Continue)
    }

    pub(super) fn unsubscribe_one(&mut self, key: SessionKey, filter: &Filter<'_>) -> ReasonCode {
        let group = filter.share.and_then(|share| self.router.group(share, filter.filter));
        let Some(gone) = self.router.unsubscribe(key, filter) else {
            return ReasonCode::NoSubscriptionExisted;
        };
        self.shared.admission.release_subscription();
        let Some(slot) = self.sessions.get_mut(key) else { return ReasonCode::Success };
        debug_assert_eq!(slot.subscriptions.get(gone.place), Some(&gone.handle));
        if gone.place < slot.subscriptions.len() {
            slot.subscriptions.swap_remove(gone.place);
            if let Some(moved) = slot.subscriptions.get(gone.place) {
                self.router.set_place(*moved, gone.place);
            }
            if slot.subscriptions.len() * 4 < slot.subscriptions.capacity() {
                slot.subscriptions.shrink_to_fit();
            }
        }
        let act = self.begin_act();
        let Some(slot) = self.sessions.get_mut(key) else { return ReasonCode::Success };
        slot.session.note_unsubscribed(|| full_filter(filter.share, filter.filter));
        let orphans = group.map_or_else(Vec::new, |group| slot.session.take_queued(group.index()));
        let is_stored = slot.session.is_stored();
        if !orphans.is_empty() {
            self.passes_on(is_stored);
        }
        self.scans.remove(key, gone.handle);
        if gone.interest {
            self.tell_all(filter.filter.len(), || Item::NoInterest(filter.filter.into()));
        }
        self.tell_group(gone.group);
        self.relieve(key);
        self.ask_again(key);
        for orphan in orphans {
            self.redistribute(orphan);
        }
        self.end_act(act);
        ReasonCode::Success
    }

    /// Says whether this session's shared subscriptions have somebody behind them. Other shards are
    /// told in [steps](Self::remove_remains).
    pub(super) fn set_members_online(&mut self, key: SessionKey, online: bool) {
        let Some(slot) = self.sessions.get(key) else { return };
        for handle in &slot.subscriptions {
            self.router.member_online(key, *handle, online);
        }
    }

    /// Tells the other shards of a group now, if they have to be told of it.
    pub(super) fn tell_news_of(&mut self, group: u32) {
        let news = self.router.group_news_of(group);
        self.tell_group(news);
    }

    pub(super) fn tell_group(&mut self, group: Option<GroupCount>) {
        if let Some(group) = group {
            let len = group.share.len() + group.filter.len();
            self.tell_all(len, || Item::Group(group.clone()));
        }
    }

    /// Tells every other shard something whose text takes `len` bytes.
    pub(super) fn tell_all(&mut self, len: usize, item: impl Fn() -> Item<S>) {
        let others = self.mailbox.others();
        self.tell(others, len, item);
        self.gate.told(others, self.turn);
    }

    fn tell(&mut self, mut mask: u64, len: usize, item: impl Fn() -> Item<S>) {
        while mask != 0 {
            self.mailbox.push(mask.trailing_zeros() as u8, len, item());
            mask &= mask - 1;
        }
    }

    /// Sends SUBACK or UNSUBACK once every shard knows what this one told it, and what there is to be stored
    /// for it is stored.
    fn answer_when_known(&mut self, reader: &Reader<'_>, packet: &Packet<'_>, is_stored: bool) {
        let mut waiting = self.gate.uninformed();
        self.mailbox.ask_confirmation(waiting);
        if self.store.is_some() {
            // They may have to commit something before they can confirm the turn.
            self.tell(waiting, 0, || Item::AskKnown);
        }
        if is_stored
            && let Some(store) = &self.store
            && let Some(slot) = self.sessions.get(reader.session)
            && slot.session.is_stored()
        {
            waiting |= 1 << STORE;
            store.journal.wait((reader.session, slot.serial));
        }
        let Some(slot) = self.sessions.get_mut(reader.session) else { return };
        self.gate.wait(waiting, self.turn, reader.session, slot.serial);
        let mut frame = std::mem::take(&mut self.buffer);
        frame.clear();
        let max = slot.session.maximum_packet_size();
        encode(reader.version, packet, max, &mut frame);
        if let Some(mut out) = self.connections.out(reader.id) {
            slot.session.send_when_confirmed(&frame, self.turn, waiting, &mut out);
        }
        self.give_back(frame);
    }
}

/// A subscription as it is stored; `filter` as a client writes it.
pub(super) fn record(
    filter: &str,
    options: SubscriptionOptions,
    retained_after: Option<Box<str>>,
) -> SubscriptionRecord {
    SubscriptionRecord {
        filter: filter.into(),
        qos: options.qos,
        no_local: options.no_local,
        retain_as_published: options.retain_as_published,
        identifier: options.identifier.map_or(0, NonZeroU32::get),
        retained_after,
    }
}

/// A filter as a client writes it.
pub(super) fn full_filter(share: Option<&str>, filter: &str) -> Box<str> {
    match share {
        Some(share) => format!("$share/{share}/{filter}").into(),
        None => filter.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::Settings;
    use super::super::{Shard, Shared};
    use crate::hooks::Hooks;
    use crate::net::sim::{Faults, SimDriver, SimOptions, World};

    /// A packet that begins with this byte.
    fn packet(first_byte: u8, body: &[u8]) -> Vec<u8> {
        assert!(body.len() < 0x4000, "two bytes say how long it is");
        let len = [body.len() as u8 | 0x80, (body.len() >> 7) as u8];
        [&[first_byte][..], &len, body].concat()
    }

    /// Filters that another shard has to be told of, while it takes nothing in, are not read without
    /// end: what is there for it stays near `mailbox.max_bytes`.
    #[test]
    fn filters_do_not_pile_up_for_a_shard_that_is_behind() {
        const LANE: usize = 16 * 1024;
        let settings = Settings { mailbox_bytes: LANE, ..Settings::for_tests() };
        let shared = Shared::new(settings, Hooks::default(), 2, 1).into();
        let world = World::new(1, SimOptions { faults: Faults::NONE, buffer_bytes: 1 << 20 });
        let drivers = vec![world.add_driver(), world.add_driver()];
        let mut shards = Shard::assemble(drivers, &shared);
        let client = world.connect_to(0);
        let connect = b"\x10\x0c\0\x04MQTT\x04\x02\0\0\0\0";
        let mut sent = connect.to_vec();
        for id in 1..=50u8 {
            let filter = [&[0x0F, 0xA0][..], &[b'a' + id % 26; 4000]].concat();
            sent.extend(packet(0x82, &[&[0, id][..], &filter, &[0]].concat()));
            sent.extend(packet(0xA2, &[&[0, id][..], &filter].concat()));
        }
        assert_eq!(world.client_send(client, &sent).expect("it is open"), sent.len());
        let received = || shared.stats[0].bytes_received.value() as usize;
        for _ in 0..200 {
            assert!(shards[0].turn(false).expect("a simulated driver does not fail"));
        }
        assert!(received() > LANE, "{} bytes", received());
        assert!(received() < 4 * LANE, "{} bytes", received());
        for _ in 0..200 {
            for shard in &mut shards {
                assert!(shard.turn(false).expect("a simulated driver does not fail"));
            }
        }
        assert_eq!(received(), sent.len(), "it goes on when there is room");
    }

    /// A SUBSCRIBE or UNSUBSCRIBE of many filters.
    fn many(first_byte: u8, id: u8, count: usize) -> Vec<u8> {
        let mut body = vec![0, id];
        for n in 0..count {
            let filter = format!("{n}/a/b");
            body.extend([0, filter.len() as u8]);
            body.extend(filter.as_bytes());
            body.extend((first_byte == 0x82).then_some(0));
        }
        packet(first_byte, &body)
    }

    const CONNECT: &[u8] = b"\x10\x0c\0\x04MQTT\x04\x02\0\0\0\0";
    const PINGREQ: [u8; 2] = [0xC0, 0];
    const PINGRESP: [u8; 2] = [0xD0, 0];

    /// So many filters of three levels a connection may have done in one turn.
    const MOST: usize = 1024 / (4 + 3) + 1;

    fn one_shard() -> (World, Shard<SimDriver>) {
        let shared = Shared::new(Settings::for_tests(), Hooks::default(), 1, 1).into();
        let world = World::new(1, SimOptions { faults: Faults::NONE, buffer_bytes: 1 << 20 });
        let shard = Shard::assemble(vec![world.add_driver()], &shared).remove(0);
        (world, shard)
    }

    fn turn(shard: &mut Shard<SimDriver>) {
        assert!(shard.turn(false).expect("a simulated driver does not fail"));
    }

    /// Sends these packets over a new connection, and a PINGREQ; gives what is answered, and the number of
    /// subscriptions after each turn.
    fn answers(packets: &[Vec<u8>]) -> (Vec<u8>, Vec<usize>) {
        let (world, mut shard) = one_shard();
        let client = world.connect_to(0);
        let sent = [CONNECT, &packets.concat(), &PINGREQ].concat();
        assert_eq!(world.client_send(client, &sent).expect("it is open"), sent.len());
        let (mut received, mut counts) = (Vec::new(), vec![0]);
        while !received.ends_with(&PINGRESP) {
            assert!(counts.len() < 100, "{counts:?}");
            turn(&mut shard);
            world.client_recv(client, &mut received);
            counts.push(shard.core.router.subscription_count());
        }
        assert!(shard.core.long_packets.is_empty());
        (received, counts)
    }

    fn most(counts: &[usize]) -> usize {
        counts.windows(2).map(|two| two[0].abs_diff(two[1])).max().unwrap_or(0)
    }

    /// However many filters a packet has, a turn does a few of them; the answer comes after the last,
    /// and what is behind the packet after that [MQTT-3.8.4-1] [MQTT-3.10.4-4].
    #[test]
    fn many_filters_are_done_in_steps() {
        const FILTERS: usize = 1000;
        let (received, counts) = answers(&[many(0x82, 1, FILTERS), many(0xA2, 2, FILTERS)]);
        assert!(counts.iter().any(|&count| count > FILTERS / 2), "{counts:?}");
        assert!(counts.ends_with(&[0]), "{counts:?}");
        assert!(most(&counts) <= MOST, "{counts:?}");
        let suback = received.windows(2).position(|at| at == [0, 1]).expect("SUBACK");
        assert_eq!(received[suback + 2..][..FILTERS], [0; FILTERS]);
    }

    /// The same filters in packets of their own, of which a read has many.
    #[test]
    fn many_packets_are_done_in_steps() {
        let packets: Vec<_> = (0..=250u8)
            .map(|n| {
                packet(0x82, &[&[0, n + 1, 0, 7][..], format!("{n:03}/a/b\0").as_bytes()].concat())
            })
            .collect();
        let (received, counts) = answers(&packets);
        assert_eq!(counts.last(), Some(&packets.len()), "{counts:?}");
        assert!(most(&counts) <= MOST, "{counts:?}");
        let subacks = received.windows(5).filter(|at| at[..3] == [0x90, 3, 0] && at[4] == 0);
        let ids: Vec<_> = subacks.map(|suback| suback[3]).collect();
        assert_eq!(ids, Vec::from_iter(1..=251), "in their order");
    }

    /// However many there are who always want more, others have their turn.
    #[test]
    fn who_wants_more_and_more_keeps_nobody_waiting() {
        let (world, mut shard) = one_shard();
        for _ in 0..20 {
            let greedy = world.connect_to(0);
            let sent = [CONNECT, &many(0x82, 1, 1000), &many(0x82, 2, 1000)].concat();
            assert_eq!(world.client_send(greedy, &sent).expect("it is open"), sent.len());
        }
        for _ in 0..5 {
            turn(&mut shard);
        }
        let client = world.connect_to(0);
        let sent = [CONNECT, &many(0x82, 1, 100), &PINGREQ].concat();
        assert_eq!(world.client_send(client, &sent).expect("it is open"), sent.len());
        let mut received = Vec::new();
        let mut turns = 0;
        while !received.ends_with(&PINGRESP) {
            assert!(turns < 8, "{received:?}");
            turns += 1;
            let before = shard.core.router.subscription_count();
            turn(&mut shard);
            let done = shard.core.router.subscription_count() - before;
            assert!(done <= 9 * MOST, "{done}");
            world.client_recv(client, &mut received);
        }
        assert!(!shard.core.long_packets.is_empty(), "they do not have what they want yet");
    }

    /// Who leaves in the middle leaves nothing behind.
    #[test]
    fn a_client_that_is_gone_in_the_middle_is_forgotten() {
        let (world, mut shard) = one_shard();
        let client = world.connect_to(0);
        let mut sent = b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01c".to_vec();
        sent.extend(many(0x82, 1, 300));
        assert_eq!(world.client_send(client, &sent).expect("it is open"), sent.len());
        while shard.core.long_packets.is_empty() {
            assert!(shard.turn(false).expect("a simulated driver does not fail"));
        }
        // Another connection of the same client takes its place [MQTT-3.1.4-3].
        let other = world.connect_to(0);
        world.client_send(other, &sent[..15]).expect("it is open");
        let mut received = Vec::new();
        for _ in 0..50 {
            assert!(shard.turn(false).expect("a simulated driver does not fail"));
            world.client_recv(other, &mut received);
        }
        assert_eq!(received, [0x20, 2, 0, 0]);
        assert!(shard.core.long_packets.is_empty());
        assert_eq!(shard.core.router.subscription_count(), 0);
    }
}
