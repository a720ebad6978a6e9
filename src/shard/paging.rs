//! Queues that are in the store in part: pages are asked for, and taken in when they come.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashMap;

use crate::mqtt::topic::Filter;
use crate::router::SessionKey;
use crate::session::{
    Change, DropCause, PageOfQueue, PageRequest, PageTaken, QueuedRecord, Redistribution,
    SessionNumber, SessionRecord,
};
use crate::store::{Link, Page};

use super::Core;
use super::ending::EndedBy;
use super::store::Keeper;

/// Pages that a shard has asked for and not taken in, at most: so many are in memory beside the queues. What the
/// store cannot read now comes on top.
const MAX_ASKED: usize = 32;
/// The same of pages of sessions that have ended.
const MAX_ASKED_OF_ENDED: usize = 8;
/// With so many asked for, or about to be, no absent session begins a look for what has expired: clients wait for
/// pages.
const ASKED_BESIDE_LOOKS: usize = MAX_ASKED / 2;

/// Messages and bytes of a page of a session that has ended.
const PAGE_MESSAGES: u32 = 256;
const PAGE_BYTES: u64 = 1024 * 1024;

/// No client's identifier has this in it: the store knows a session that has ended by it as long as others
/// have not got what is theirs of its queue.
const RETIRED: char = '\0';

/// What a shard knows of queues in the store.
#[derive(Debug, Default)]
pub(super) struct Paging {
    /// Pages and looks that sessions ask for.
    own: Asking,
    /// Pages of sessions that have ended.
    of_ended: Asking,
    /// Sessions that have ended and whose queues go to other members of their groups, and by whom they
    /// ended.
    retired: HashMap<SessionNumber, EndedBy>,
}

#[derive(Debug, Default)]
struct Asking {
    /// What is not asked for yet.
    waiting: VecDeque<PageRequest>,
    asked: usize,
}

impl Asking {
    /// How much was asked for, and can be read now.
    fn outstanding(&self, put_off: usize) -> usize {
        self.asked.saturating_sub(put_off)
    }

    /// Has so much be asked for, at most.
    fn ask(&mut self, most: usize, put_off: usize, now: &mut Vec<PageRequest>) {
        let free = most.saturating_sub(self.outstanding(put_off));
        let count = self.waiting.len().min(free);
        self.asked += count;
        now.extend(self.waiting.drain(..count));
    }
}

impl Paging {
    /// What to ask the store for now, behind that link.
    pub(super) fn ask(&mut self, wanted: Vec<PageRequest>, link: &Link) -> Vec<PageRequest> {
        for request in wanted {
            self.asking(request.passes_on).waiting.push_back(request);
        }
        let mut now = Vec::new();
        self.own.ask(MAX_ASKED, link.put_off(false), &mut now);
        // Who would be given the rest could not store it.
        if !link.is_failing() {
            self.of_ended.ask(MAX_ASKED_OF_ENDED, link.put_off(true), &mut now);
        }
        now
    }

    /// Whether an absent session may have the store look for what has expired, when `wanted` is still to be asked
    /// for.
    fn may_look(&self, wanted: usize, link: &Link) -> bool {
        let asked = self.own.outstanding(link.put_off(false));
        asked + self.own.waiting.len() + wanted < ASKED_BESIDE_LOOKS
    }

    fn asking(&mut self, passes_on: bool) -> &mut Asking {
        if passes_on { &mut self.of_ended } else { &mut self.own }
    }
}

impl Keeper {
    /// Whether an absent session may have the store look for what has expired.
    pub(super) fn may_look(&self) -> bool {
        self.paging.may_look(self.journal.wants(), &self.link)
    }
}

/// Whether a session has ended, and only its queue is left.
pub(super) fn is_retired(record: &SessionRecord) -> bool {
    record.client_id.starts_with(RETIRED)
}

fn retired_name(session: SessionNumber) -> Box<str> {
    format!("{RETIRED}{session}").into()
}

impl<S> Core<S> {
    /// Takes in the pages that have come.
    pub(super) fn take_pages(&mut self) {
        while let Some(store) = &mut self.store
            && let Some(page) = store.link.take_page()
        {
            let Page { session, waiter: (key, serial), mut page } = page;
            store.paging.asking(key == SessionKey::MAX).asked -= 1;
            let retired = store.paging.retired.get(&session).copied();
            for (_, record) in &mut page.messages {
                record.set_group(|share| self.group_of(share));
            }
            self.stats.dropped[DropCause::StoreFailed as usize].add(page.lost.into());
            match retired {
                Some(by) if key == SessionKey::MAX => self.give_away(session, page, by),
                // It had asked before it ended: all but what has expired is read once more.
                Some(by) => {
                    let expired = page.expired.filter(|_| by == EndedBy::Other);
                    let expired = expired.map_or(0, |expired| expired.messages);
                    self.stats.dropped[DropCause::Expired as usize].add(expired.into());
                }
                None => self.take_page(key, serial, page),
            }
        }
    }

    fn take_page(&mut self, key: SessionKey, serial: u32, page: PageOfQueue) {
        if self.sessions.get_serial(key, serial).is_none() {
            return;
        }
        let act = self.begin_act();
        let router = &self.router;
        let Some(slot) = self.sessions.get_mut(key) else { return };
        // A page is of few groups: the last answer is remembered.
        let mut last: Option<(Box<str>, bool)> = None;
        let has_left = |record: &QueuedRecord| {
            let Some(share) = record.share() else { return false };
            if let Some((of, left)) = &last
                && **of == *share
            {
                return *left;
            }
            let filter = Filter::parse(share, &crate::mqtt::Limits::NONE);
            let left = filter.is_ok_and(|filter| !router.has_subscription(key, &filter));
            last = Some((share.into(), left));
            left
        };
        let taken = slot.session.take_page(page, self.now, &self.settings.session, has_left);
        let PageTaken { given, orphaned, dropped, expired } = taken;
        self.count_dropped(key, DropCause::QueueFull, dropped);
        self.stats.dropped[DropCause::Orphaned as usize].add(orphaned.into());
        self.stats.dropped[DropCause::Expired as usize].add(expired.into());
        for orphan in given {
            self.redistribute(orphan);
        }
        self.end_act(act);
        let Some(slot) = self.sessions.get_mut(key) else { return };
        if let Some(mut out) =
            slot.connection.and_then(|id| self.connections.live_out(id, &self.settings))
        {
            slot.session.pump(self.now, &mut out);
        }
        self.relieve(key);
        self.has_less(key, expired);
    }

    /// A session has ended, and others shall have what it had of shared groups: that is read first. The store
    /// is told in the same act as of the end.
    pub(super) fn retire(&mut self, session: SessionNumber, from: u64, by: EndedBy) {
        let Some(store) = &mut self.store else { return };
        let record = SessionRecord {
            client_id: retired_name(session),
            session,
            session_expiry_interval: 0,
            disconnected_at: Some(self.now),
            will: None,
            will_at: None,
            identity: None,
        };
        store.journal.note(Change::Session(Box::new(record)));
        self.read_retired(session, from, by);
    }

    /// The broker has begun anew before all of that was given away, and nobody knows by whom it ended.
    pub(super) fn retire_again(&mut self, session: SessionNumber) {
        self.read_retired(session, 0, EndedBy::Other);
    }

    fn read_retired(&mut self, session: SessionNumber, from: u64, by: EndedBy) {
        let Some(store) = &mut self.store else { return };
        store.paging.retired.insert(session, by);
        store.journal.ask(PageRequest {
            session,
            from,
            messages: PAGE_MESSAGES,
            bytes: PAGE_BYTES,
            expired_by: None,
            // That ended with the session.
            in_flight: Arc::default(),
            passes_on: true,
            waiter: (SessionKey::MAX, 0),
        });
    }

    /// Gives away what others shall have of the queue of a session that has ended.
    fn give_away(&mut self, session: SessionNumber, page: PageOfQueue, by: EndedBy) {
        let PageOfQueue { messages, end, is_last, .. } = page;
        let act = self.begin_act();
        for (place, record) in messages {
            if record.share().is_none() {
                let lost = u64::from(by == EndedBy::Other);
                self.stats.dropped[DropCause::SessionEnded as usize].add(lost);
                continue;
            }
            let group = record.group();
            let QueuedRecord { message, qos, number, .. } = record;
            if let Some(store) = &self.store {
                let (message, flew) = (message.clone(), false);
                store.journal.note(Change::Removed { session, place, message, number, flew });
            }
            match group {
                Some(group) => {
                    self.tell_news_of(group);
                    self.redistribute(Redistribution { group, message, qos, sent: false });
                }
                None => self.stats.dropped[DropCause::Orphaned as usize].add(1),
            }
        }
        if is_last && let Some(store) = &mut self.store {
            store.paging.retired.remove(&session);
            store.journal.note(Change::Forgotten(session, 0));
            store.journal.note(Change::Ended { client_id: retired_name(session) });
        }
        self.end_act(act);
        if !is_last {
            self.read_retired(session, end, by);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::remote::Publisher;
    use super::super::settings::Settings;
    use super::super::{Shard, Shared, Stored};
    use super::*;
    use crate::hooks::Hooks;
    use crate::mqtt::{Message, QoS};
    use crate::net::Driver;
    use crate::net::sim::{SimDriver, SimOptions, World};
    use crate::router::SubscriptionOptions;
    use crate::session::{Session, SessionLimits};
    use crate::store::{Memory, Writer};

    type SimCore = Core<<SimDriver as Driver>::Socket>;

    /// A shard of which two messages of a queue are in memory.
    fn shard(memory: &Memory) -> (Shard<SimDriver>, Writer) {
        let (stored, writer) = Stored::in_memory(memory, 1);
        let mut settings = Settings::for_tests();
        settings.session.in_memory.messages = 2;
        let shared = Shared::new(settings, Hooks::default(), 1, 1).into();
        let driver = World::new(1, SimOptions::default()).add_driver();
        (Shard::assemble_stored(vec![driver], &shared, stored).remove(0), writer)
    }

    /// A stored session that is away, and a member of `$share/g/t`.
    fn member(core: &mut SimCore, name: &str) -> SessionKey {
        subscriber(core, name, &Filter { share: Some("g"), filter: "t" })
    }

    /// A stored session that is away, with a subscription.
    fn subscriber(core: &mut SimCore, name: &str, filter: &Filter<'_>) -> SessionKey {
        let key = core.sessions.insert(Session::new(name));
        core.shared.admission.add_session();
        core.store_session(key);
        let options = SubscriptionOptions { qos: QoS::AtLeastOnce, ..Default::default() };
        let handle = core.router.subscribe(key, filter, options).handle;
        core.router.set_place(handle, 0);
        core.sessions.get_mut(key).expect("it was inserted").subscriptions.push(handle);
        core.shared.admission.add_subscription();
        key
    }

    /// So many, each in a group of its own, with a queue that is on disk in part.
    fn members_alone(core: &mut SimCore, count: usize) -> Vec<SessionKey> {
        let member = |n: usize| {
            let topic = n.to_string();
            let key = subscriber(core, &topic, &Filter { share: Some("g"), filter: &topic });
            (0..3).for_each(|_| publish(core, &topic, b"", None));
            key
        };
        (0..count).map(member).collect()
    }

    fn publish(core: &mut SimCore, topic: &str, payload: &[u8], expiry: Option<u32>) {
        let message = Message::new(topic, QoS::AtLeastOnce, false, payload, b"", expiry, core.now);
        core.publish_message(&message, Publisher::NOBODY);
    }

    /// A turn, as far as the store has to do with it.
    fn turn(core: &mut SimCore, writer: &mut Writer) {
        core.hand_over();
        core.turn += 1;
        writer.step();
        core.take_pages();
    }

    fn turns(core: &mut SimCore, writer: &mut Writer) {
        (0..6).for_each(|_| turn(core, writer));
    }

    /// [MQTT-3.3.2-5] A session ends while the store looks for what has expired in its queue:
    /// others of its group get the rest, once.
    #[test]
    fn a_look_that_outlasts_its_session() {
        let (Shard { mut core, .. }, mut writer) = shard(&Memory::default());
        let ends = member(&mut core, "ends");
        for n in 0..6 {
            publish(&mut core, "t", &[b'0' + n], (n == 3).then_some(1));
        }
        let stays = member(&mut core, "stays");
        core.now = core.now.plus(Duration::from_secs(1));
        let session = &mut core.sessions.get_mut(ends).expect("it is there").session;
        assert_eq!((session.queued(), session.expire(core.now, 10)), (6, 0));
        assert!(session.awaits_page(), "a look");
        core.end_session(ends, EndedBy::Other);
        turns(&mut core, &mut writer);
        let session = &core.sessions.get(stays).expect("it is there").session;
        let dropped = |cause| core.stats.dropped[cause as usize].value();
        assert_eq!((session.queued(), dropped(DropCause::Expired)), (5, 1));
        assert_eq!((dropped(DropCause::SessionEnded), dropped(DropCause::Orphaned)), (0, 0));
    }

    /// What sessions that have ended leave to their groups is not read while the store fails: the queues of others
    /// are.
    #[test]
    fn what_waits_for_the_store_to_work_keeps_no_other_queue_waiting() {
        let memory = Memory::default();
        let (Shard { mut core, .. }, mut writer) = shard(&memory);
        let ends = members_alone(&mut core, MAX_ASKED + 1);
        let stays = subscriber(&mut core, "stays", &Filter { share: None, filter: "t" });
        [None, None, Some(1)].into_iter().for_each(|expiry| publish(&mut core, "t", b"", expiry));
        turns(&mut core, &mut writer);
        memory.fail(Some("no space left"));
        ends.iter().for_each(|key| core.end_session(*key, EndedBy::Other));
        turns(&mut core, &mut writer);
        assert!(core.store_fails());
        core.now = core.now.plus(Duration::from_secs(1));
        let session = &mut core.sessions.get_mut(stays).expect("it is there").session;
        assert_eq!((session.queued(), session.expire(core.now, 10)), (3, 0));
        assert!(session.awaits_page(), "a look");
        turns(&mut core, &mut writer);
        let session = &core.sessions.get(stays).expect("it is there").session;
        assert!(!session.awaits_page() && session.queued() == 2);
        memory.fail(None);
        turns(&mut core, &mut writer);
        let orphaned = core.stats.dropped[DropCause::Orphaned as usize].value();
        assert_eq!(orphaned, 3 * ends.len() as u64, "nobody is left in their groups");
        assert!(core.store.as_ref().is_some_and(|store| store.paging.retired.is_empty()));
    }

    /// Has a queue that is on disk in part, with nothing of it in memory, ask for the next page.
    fn ask_page(core: &mut SimCore, key: SessionKey) {
        let limits = SessionLimits { max_queued_messages: 4, ..core.settings.session };
        let session = &mut core.sessions.get_mut(key).expect("it is there").session;
        assert_eq!((session.queued(), session.drop_oldest(1, &limits)), (6, 2));
        assert!(session.awaits_page());
    }

    fn awaits_page(core: &SimCore, key: SessionKey) -> bool {
        core.sessions.get(key).is_some_and(|slot| slot.session.awaits_page())
    }

    /// So many sessions end that the first pages of all of them would take a while to read.
    #[test]
    fn what_is_left_to_others_is_read_beside_the_queues_of_clients() {
        let (Shard { mut core, .. }, mut writer) = shard(&Memory::default());
        let ends = members_alone(&mut core, 2 * MAX_ASKED);
        let stays = subscriber(&mut core, "stays", &Filter { share: None, filter: "t" });
        (0..6).for_each(|_| publish(&mut core, "t", b"", None));
        turn(&mut core, &mut writer);
        ends.iter().for_each(|key| core.end_session(*key, EndedBy::Other));
        turn(&mut core, &mut writer);
        ask_page(&mut core, stays);
        turn(&mut core, &mut writer);
        assert!(!awaits_page(&core, stays));
        let has_left = |core: &SimCore| {
            core.store.as_ref().is_some_and(|store| store.paging.retired.is_empty())
        };
        assert!(!has_left(&core));
        for _ in 0..ends.len() {
            turn(&mut core, &mut writer);
        }
        assert!(has_left(&core));
    }

    /// [MQTT-3.3.2-5] Messages expire in very many queues at the same moment.
    #[test]
    fn what_expires_is_looked_for_beside_the_queues_of_clients() {
        let (Shard { mut core, .. }, mut writer) = shard(&Memory::default());
        let names: Vec<_> = (0..2 * MAX_ASKED).map(|n| n.to_string()).collect();
        let filter = Filter { share: None, filter: "all" };
        let looks: Vec<_> = names.iter().map(|name| subscriber(&mut core, name, &filter)).collect();
        [None, None, Some(1)].into_iter().for_each(|expiry| publish(&mut core, "all", b"", expiry));
        let stays = subscriber(&mut core, "stays", &Filter { share: None, filter: "t" });
        (0..6).for_each(|_| publish(&mut core, "t", b"", None));
        turn(&mut core, &mut writer);
        core.now = core.now.plus(Duration::from_secs(1));
        looks.iter().for_each(|key| core.expiring_queues.insert(*key));
        core.expire_queues();
        ask_page(&mut core, stays);
        turn(&mut core, &mut writer);
        assert!(!awaits_page(&core, stays));
        let queued = |core: &SimCore| {
            let slots = looks.iter().filter_map(|key| core.sessions.get(*key));
            slots.map(|slot| slot.session.queued()).sum::<usize>()
        };
        assert!(core.may_expire_queues() && queued(&core) > 2 * looks.len());
        for _ in 0..looks.len() {
            core.expire_queues();
            turn(&mut core, &mut writer);
        }
        assert_eq!(queued(&core), 2 * looks.len());
    }
}
