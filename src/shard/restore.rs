//! What was stored, put back into the shards before their first turn.

use std::num::NonZeroU32;

use crate::mqtt::Limits;
use crate::mqtt::topic::Filter;
use crate::net::Driver;
use crate::router::{SessionKey, Stamp, SubscriptionOptions};
use crate::session::{Departure, DropCause, Restored, Session, SubscriptionRecord, WillDue};
use crate::store::{Link, Recovered, StoredSession};

use super::paging::is_retired;
use super::remote::Item;
use super::scans::RetainedScan;
use super::store::Keeper;
use super::{Core, Shard};

/// What a broker with a store gives its shards.
#[derive(Debug)]
pub struct Stored {
    /// One for each shard.
    pub links: Vec<Link>,
    /// What was there.
    pub recovered: Recovered,
}

#[cfg(test)]
impl Stored {
    /// What is in a store in memory, and who writes to it.
    pub(super) fn in_memory(
        memory: &crate::store::Memory,
        shards: u8,
    ) -> (Self, crate::store::Writer) {
        use crate::hooks::{Commit, Store};
        use crate::store::{Epoch, PROGRESS_RECORDS, recover};
        let memory = memory.clone();
        let open = Box::new(move || Ok(Box::new(memory.clone()) as Box<dyn Store>));
        let epoch = Epoch { unix_ms: 1 << 40 };
        let (recovered, writer, links) =
            recover(open, Commit::Disk, epoch, shards, PROGRESS_RECORDS).expect("whole records");
        (Self { links, recovered }, writer)
    }
}

impl<D: Driver> Shard<D> {
    /// Gives the shards of a broker their store and what was in it: before their first turn.
    pub(super) fn restore(shards: &mut [Self], stored: Stored) {
        let Stored { links, recovered } = stored;
        #[expect(clippy::cast_possible_truncation, reason = "at most MAX_SHARDS")]
        let count = shards.len() as u8;
        for (shard, link) in shards.iter_mut().zip(links) {
            let core = &mut shard.core;
            core.store = Some(Keeper::new(link, core.id, count, &recovered, core.turn));
        }
        for session in recovered.sessions {
            let home = shards.first().map_or(0, |shard| shard.core.home(&session.record.client_id));
            if let Some(shard) = shards.get_mut(usize::from(home)) {
                shard.core.restore_session(session);
            }
        }
        for shard in shards.iter_mut() {
            for one in &recovered.retained {
                let stamp = Stamp(one.stamp.0, one.stamp.1);
                shard.core.clock = shard.core.clock.max(stamp.0);
                let (message, now) = (Some(one.message.clone()), shard.core.now);
                shard.core.router.accept_retained(&one.topic, message, stamp, now);
            }
        }
        // Whoever publishes from the first turn on knows all who are subscribed.
        for shard in shards.iter_mut() {
            shard.core.mailbox.post(shard.core.turn, shard.core.now);
        }
        for shard in shards {
            shard.take_all_mail();
        }
    }
}

impl<S> Core<S> {
    /// Puts a session back that was stored.
    fn restore_session(&mut self, stored: StoredSession) {
        let StoredSession { mut record, subscriptions, inbound, mut kept, paged, expired } = stored;
        self.stats.dropped[DropCause::Expired as usize].add(expired.into());
        if is_retired(&record) {
            return self.retire_again(record.session);
        }
        let identity = record.identity.take();
        let now = self.now;
        let Some(store) = &self.store else { return };
        let journal = store.journal.clone();
        let key =
            self.sessions.insert(Session::counted(&record.client_id, self.allowance.account()));
        // One beyond a limit that is lower now than it was keeps its place.
        self.shared.admission.add_session();
        let Some(slot) = self.sessions.get_mut(key) else { return };
        let in_memory = self.settings.session.in_memory;
        slot.session.store_as(record.session, (key, slot.serial), journal, in_memory);
        for subscription in &subscriptions {
            self.restore_subscription(key, subscription);
        }
        self.restore_identity(key, identity);
        for (_, one) in &mut kept {
            if let Restored::Message { record, .. } = one {
                record.set_group(|share| self.group_of(share));
            }
        }
        let was_connected = record.disconnected_at.is_none();
        let will_at = record.will_at;
        let Some(slot) = self.sessions.get_mut(key) else { return };
        slot.session.restore(record, &inbound, kept, paged, now);
        slot.session.count_drops(DropCause::Expired, expired.into());
        slot.will_at = will_at;
        if was_connected {
            // Its connection ended with the process.
            slot.will_at = match slot.session.will_due(Departure::WithWill, now) {
                WillDue::Never => None,
                WillDue::At(at) => Some(at),
                WillDue::Now(will) => {
                    slot.session.set_will(Some(will));
                    Some(now)
                }
            };
            slot.note();
        }
        self.arm_absent(key);
    }

    fn restore_subscription(&mut self, key: SessionKey, record: &SubscriptionRecord) {
        // The limits of today do not take away what was granted.
        let limits = Limits::NONE;
        let Ok(filter) = Filter::parse(&record.filter, &limits) else { return };
        let options = SubscriptionOptions {
            qos: record.qos,
            no_local: record.no_local,
            retain_as_published: record.retain_as_published,
            identifier: NonZeroU32::new(record.identifier),
        };
        let subscribed = self.router.subscribe(key, &filter, options);
        if let Some(slot) = self.sessions.get_mut(key)
            && !subscribed.existed
        {
            self.router.set_place(subscribed.handle, slot.subscriptions.len());
            slot.subscriptions.push(subscribed.handle);
            self.shared.admission.add_subscription();
        }
        if let Some(after) = &record.retained_after {
            let (identifier, qos) = (options.identifier.map(NonZeroU32::get), options.qos);
            let after = (!after.is_empty()).then(|| String::from(&**after));
            let filter = filter.filter.into();
            // It begins when its client comes.
            let scan = RetainedScan { filter, qos, identifier, after, noted: true };
            self.scans.insert(key, subscribed.handle, scan);
        }
        if subscribed.interest {
            self.tell_all(filter.filter.len(), || Item::Interest(filter.filter.into()));
        }
        self.router.member_online(key, subscribed.handle, false);
        self.tell_group(subscribed.group);
    }
}
