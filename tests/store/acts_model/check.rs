//! What the store may hold.

use std::collections::BTreeSet;

use sluice::hooks::Table;
use sluice::store::{Memory, Recovered, Report};

use super::{Delivery, Publication, SHARDS, Stay, World, home, name, topic};
use crate::engines::records;
use crate::turns::{Bench, START};

/// The keys of what is stored.
struct Stored {
    queued: BTreeSet<(u64, u64)>,
    inbound: BTreeSet<(u64, u16)>,
}

impl Stored {
    fn of(memory: &Memory) -> Self {
        let keys = |table| records(memory, table).into_iter().map(|(key, _)| key);
        let number = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().expect("8 bytes"));
        let place = |key: Vec<u8>| (number(&key[..8]), number(&key[8..]));
        let inbound = keys(Table::Inbound)
            .map(|key| (number(&key[..8]), u16::from_be_bytes([key[8], key[9]])));
        Self { queued: keys(Table::Queued).map(place).collect(), inbound: inbound.collect() }
    }

    /// What is in flight is sent first after a start: nothing that is not may stand before it.
    fn check_order(&self, recovered: &Recovered) {
        for session in &recovered.sessions {
            let number = session.record.session;
            let in_flight: BTreeSet<_> = session.kept.iter().map(|(place, _)| *place).collect();
            let Some(last) = in_flight.last() else { continue };
            let before = self.queued.range((number, 0)..(number, *last)).map(|(_, place)| *place);
            let overtaken: Vec<_> = before.filter(|place| !in_flight.contains(place)).collect();
            assert!(overtaken.is_empty(), "{number}: {overtaken:?}, {in_flight:?} are in flight");
        }
    }
}

/// Whether a value is the last one that is committed, or a later one.
fn may_be<T: PartialEq>(values: &[(u64, T)], committed: u64, found: &T) -> bool {
    let last = values.iter().rposition(|(turn, _)| *turn <= committed).unwrap_or(0);
    values[last..].iter().any(|(_, value)| value == found)
}

impl World {
    /// What the machine would find if it stopped now is what it may find.
    pub(super) fn check(&self) {
        let memory = self.bench.memory.crashed();
        let before = Stored::of(&memory).queued;
        let recovered = Bench::on(memory.clone(), SHARDS as u8, START).recovered;
        let stored = Stored::of(&memory);
        stored.check_order(&recovered);
        let strays: Vec<_> = before.difference(&stored.queued).collect();
        strays.iter().for_each(|place| self.check_stray(**place));
        // Each with its message, if nobody else waits for that.
        let Report { damaged, stray, .. } = recovered.report;
        assert!(damaged == 0 && stray <= 2 * strays.len() as u64, "{:?}", recovered.report);
        for (client, this) in self.clients.iter().enumerate() {
            let name = name(client);
            let found = recovered.sessions.iter().find(|one| *one.record.client_id == *name);
            let number = found.map(|one| one.record.session);
            let committed = self.committed(home(client));
            assert!(may_be(&this.sessions, committed, &number), "{name}: {number:?}");
            if let Some(found) = found.filter(|one| one.record.session == this.number) {
                let subscribed = !found.subscriptions.is_empty();
                assert!(may_be(&this.subscribed, committed, &subscribed), "{name}: {subscribed}");
            }
        }
        for (shard, this) in self.shards.iter().enumerate() {
            let found = recovered.retained.iter().find(|one| *one.topic == *topic(shard));
            let stamp = found.map_or(0, |one| one.stamp.0);
            assert!(may_be(&this.retained, self.committed(shard), &stamp), "value {stamp}");
        }
        let numbers: BTreeSet<u64> =
            recovered.sessions.iter().map(|one| one.record.session).collect();
        let whole = self.publications.iter().map(|one| self.is_whole(one, &stored, &numbers));
        let whole: Vec<bool> = whole.collect();
        let found = self
            .deliveries
            .iter()
            .map(|one| self.check_delivery(one, whole[one.publication], &stored));
        assert_eq!(found.sum::<usize>(), stored.queued.len(), "nothing else is queued");
    }

    /// An act that is open drops it, and the session has ended since.
    fn check_stray(&self, place: (u64, u64)) {
        let one =
            self.deliveries.iter().find(|one| one.stays.iter().any(|stay| stay.place == place));
        let one = one.expect("it was queued");
        let stay = one.stays.iter().find(|stay| stay.place == place).expect("it was there");
        let left = stay.left.is_some_and(|turn| turn > self.committed(stay.shard));
        assert!(one.gone && left, "{place:?} belongs to nobody");
    }

    /// Whether a message was stored, with the identifier that it came under.
    fn is_whole(&self, one: &Publication, stored: &Stored, sessions: &BTreeSet<u64>) -> bool {
        let committed = self.committed(home(one.client));
        let held = stored.inbound.contains(&(one.session, one.packet_id));
        let whole = match one.freed {
            None => held,
            Some((turn, false)) => {
                assert!(!held || turn > committed, "{} is free", one.packet_id);
                true
            }
            Some((_, true)) => held || !sessions.contains(&one.session),
        };
        assert!(whole || one.turn > committed, "{} is acknowledged", one.packet_id);
        whole
    }

    /// A message is with one receiver if it was stored at all; or with none, if that has it. Says with how many.
    fn check_delivery(&self, one: &Delivery, whole: bool, stored: &Stored) -> usize {
        let is_there = |stay: &&Stay| stored.queued.contains(&stay.place);
        let found: Vec<&Stay> = one.stays.iter().filter(is_there).collect();
        let what = format!(
            "message {} at {:?}",
            one.publication,
            found.iter().map(|stay| stay.place).collect::<Vec<_>>()
        );
        assert!(found.len() <= usize::from(whole), "{what}, stored: {whole}");
        assert!(!whole || one.gone || found.len() == 1, "{what} is lost");
        for stay in &found {
            let left = stay.left.is_some_and(|turn| turn <= self.committed(stay.shard));
            assert!(!left, "{what} has left");
        }
        let came = one.stays.iter().rposition(|stay| stay.came <= self.committed(stay.shard));
        let at = one.stays.iter().position(|stay| stored.queued.contains(&stay.place));
        assert!(at.is_none_or(|at| Some(at) >= came), "{what} has gone on");
        found.len()
    }

    /// Nothing is under way: the store holds what there is, and no more.
    pub(super) fn check_settled(&self) {
        for (shard, this) in self.shards.iter().enumerate() {
            assert_eq!(self.committed(shard), this.turn - 1, "shard {shard} is committed");
        }
        let stored = Stored::of(&self.bench.memory);
        let stays =
            self.deliveries.iter().filter(|one| !one.gone).filter_map(|one| one.stays.last());
        assert_eq!(stored.queued, stays.map(|stay| stay.place).collect());
        let held = self.publications.iter().filter(|one| one.freed.is_none());
        assert_eq!(stored.inbound, held.map(|one| (one.session, one.packet_id)).collect());
    }
}
