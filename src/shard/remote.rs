//! What shards tell each other, and what a shard does with it.

use std::net::SocketAddr;

use crate::mqtt::Message;
use crate::net::{Arena, ClientCertificate, ConnId, Driver};
use crate::router::{GroupCount, GroupId, SessionKey, ShardChoice, Stamp};
use crate::session::{DropCause, Redistribution};
use crate::store::ActId;

use super::Core;
use super::connection::Connection;
use super::deliver::Kept;
use super::distribute::Reach;
use super::flush::flush_output;
use super::mail::Batch;
use super::outcomes::{Awaited, Outcome, Outcomes, Why};
use super::parcel::Parcel;
use super::runs::Run;
use super::store::Keeper;

/// Who sent a message: where its connection is slowed, where its acknowledgement waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Publisher {
    pub(super) shard: u8,
    pub(super) session: SessionKey,
    pub(super) serial: u32,
    /// Hash of its client identifier, the same on all shards; 0 if it is no client.
    pub(super) client: u64,
    /// The store failed when the message came: no shard stores it, and its client is told.
    pub(super) is_unstored: bool,
}

impl Publisher {
    /// No client: `$SYS`, retained messages.
    pub(super) const NOBODY: Self =
        Self { shard: u8::MAX, session: SessionKey::MAX, serial: 0, client: 0, is_unstored: false };

    /// Whether it can be held.
    pub(super) fn is_client(&self) -> bool {
        self.client != 0
    }
}

/// A message for the sessions of another shard.
#[derive(Debug)]
pub(super) struct Routed {
    pub(super) message: Message,
    /// Set if the shard shall retain it.
    pub(super) stamp: Option<Stamp>,
    pub(super) publisher: Publisher,
    /// Set if the publisher waits to have it acknowledged.
    pub(super) awaited: Option<Awaited>,
    /// The group that shall get it; else the plain subscribers.
    pub(super) group: Option<RoutedGroup>,
    /// The act that it is part of.
    pub(super) act: Option<ActId>,
}

/// A shared group between two shards.
#[derive(Clone, Copy, Debug)]
pub(super) struct RoutedGroup {
    /// Its id on the shard that receives.
    pub(super) theirs: GroupId,
    /// Its id on the shard that sends.
    pub(super) ours: GroupId,
}

/// A message that waits for an acknowledgement and found a group without members: its publisher's
/// shard chooses again.
#[derive(Debug)]
pub(super) struct Returned {
    message: Message,
    publisher: Publisher,
    /// What it is named by.
    number: u64,
    /// By the id of the shard it returns to.
    group: GroupId,
    /// The act that it is part of.
    act: Option<ActId>,
}

impl Returned {
    /// The bytes of memory that it holds.
    pub(super) fn size(&self) -> usize {
        self.message.size()
    }
}

/// A connection on the way to its client's home.
#[derive(Debug)]
pub(super) struct Handoff<S> {
    socket: S,
    listener: u16,
    peer: SocketAddr,
    certificate: Option<ClientCertificate>,
}

/// One thing that a shard tells another.
#[derive(Debug)]
pub(super) enum Item<S> {
    /// QoS 0 frames, in the batch's bytes.
    Run(Run),
    Routed(Routed),
    /// A filter that somebody on the sending shard wants from now on.
    Interest(Box<str>),
    NoInterest(Box<str>),
    /// The members of a shared group on the sending shard.
    Group(GroupCount),
    Connection(Box<Handoff<S>>),
    /// Everything up to the turn is done, but for what is refused or returned.
    Confirm {
        turn: u64,
        refused: Vec<Outcome>,
        returned: Vec<Returned>,
    },
    /// Do not read from this client: it fills a queue here.
    Hold {
        client: u64,
    },
    Release {
        client: u64,
    },
    /// A message that a member of a shared group left behind.
    Orphan {
        message: Message,
        group: GroupId,
        hops: u8,
        act: Option<ActId>,
    },
    /// Of messages of a turn whose confirmation waits for a commit, those that need not wait for it.
    Passed(Vec<Outcome>),
    /// A client waits until the receiver knows the filters that it was told of so far.
    AskKnown,
    /// The sender knows all filters up to the turn, which it cannot confirm yet.
    Knows {
        turn: u64,
    },
    /// The sender routes nothing more for clients: it stops.
    Quiet,
    /// The sender has let everyone go.
    Empty,
}

impl<S> Core<S> {
    /// Does what another shard asked for in one turn.
    pub(super) fn take_batch<D: Driver<Socket = S>>(
        &mut self,
        driver: &mut D,
        arena: &Arena,
        batch: Batch<Item<S>>,
    ) {
        let Batch { from, turn, wants_confirmation, items, bytes, .. } = batch;
        let mut outcomes = Outcomes::new(self.store.is_some());
        let before = self.noted();
        let (mut acts, mut asks) = (false, false);
        for item in items {
            if self.connections.wants_flush() {
                flush_output(self, driver, arena);
            }
            match item {
                Item::Run(run) => {
                    let frames = bytes.get(run.start..run.end).unwrap_or_default();
                    self.run_from_mail(run, frames);
                }
                Item::Routed(routed) => {
                    let act = self.join_act(routed.act);
                    self.take_routed(&routed, &mut outcomes);
                    self.end_act(act);
                    acts |= routed.act.is_some();
                }
                Item::Interest(filter) => self.router.add_interest(from, &filter),
                Item::NoInterest(filter) => self.router.remove_interest(from, &filter),
                Item::Group(count) => self.router.set_group_online(from, &count),
                Item::Connection(handoff) => self.take_connection(driver, *handoff),
                Item::Confirm { turn, refused, returned } => {
                    // What goes elsewhere now is not refused by all.
                    self.take_returned(returned);
                    self.take_refused(from, refused);
                    self.confirmed(from, turn);
                }
                Item::Hold { client } => self.hold_publisher(driver, client),
                Item::Release { client } => self.release_publisher(client),
                Item::Orphan { message, group, hops, act } => {
                    acts |= act.is_some();
                    let act = self.join_act(act);
                    self.router.arrived(group);
                    self.take_orphan(&message, group, hops);
                    self.end_act(act);
                }
                Item::Passed(passed) => self.take_passed(from, passed),
                Item::AskKnown => asks = true,
                Item::Knows { turn } => self.knows(from, turn),
                Item::Quiet => self.stopping.peer_is_quiet(from),
                Item::Empty => self.stopping.peer_is_empty(from),
            }
        }
        outcomes.settle();
        if let Some(store) = self.store.as_mut().filter(|_| acts) {
            store.did_all((from, turn));
            outcomes.refused.iter().filter_map(|one| one.act).for_each(|act| store.gives_back(act));
        }
        if wants_confirmation && !self.confirm_to(from, turn, outcomes, before) && asks {
            self.mailbox.push(from, 0, Item::Knows { turn });
        }
    }

    /// Takes in which messages another shard had no receiver for, or could not store.
    fn take_refused(&mut self, from: u8, refused: Vec<Outcome>) {
        for Outcome { session, serial, number, again, matched, unstored, act, .. } in refused {
            if let (Some(store), Some(act)) = (&mut self.store, act) {
                // What follows for the identifier is part of it.
                store.has_back(act);
            }
            let Some(slot) = self.sessions.get_serial(session, serial) else { continue };
            if unstored {
                slot.session.refuse_unstored(number);
                self.let_out(session, serial);
            } else if again {
                slot.session.refuse_again(number, matched);
            } else {
                slot.session.refuse(from, number, matched);
            }
        }
    }

    /// Lets publishers go on whose messages another shard has nothing to commit for.
    fn take_passed(&mut self, from: u8, passed: Vec<Outcome>) {
        for Outcome { session, serial, number, .. } in passed {
            let Some(slot) = self.sessions.get_serial(session, serial) else { continue };
            slot.session.pass(from, number);
            self.let_out(session, serial);
        }
    }

    /// Takes back messages that another shard had no member of a group for.
    fn take_returned(&mut self, returned: Vec<Returned>) {
        for returned in returned {
            let act = self.join_act(returned.act);
            self.route_again(&returned);
            self.end_act(act);
            if let (Some(store), Some(act)) = (&mut self.store, returned.act) {
                store.has_back(act);
            }
            // It may have been refused here.
            let Publisher { session, serial, .. } = returned.publisher;
            self.let_out(session, serial);
        }
    }

    fn take_routed(&mut self, routed: &Routed, outcomes: &mut Outcomes) {
        let Routed { message, stamp, publisher, awaited, group, .. } = routed;
        let (noted, returned) = (self.noted(), outcomes.returned.len());
        if let Some(stamp) = stamp {
            self.take_retained(message, *stamp);
        }
        let mut parcel = Parcel::from_message(message, self.now, *publisher);
        parcel.number = awaited.map(|awaited| awaited.number);
        let here = match group {
            Some(group) => self.take_for_group(&mut parcel, *group, outcomes),
            None => {
                let route = self.route(message.topic());
                self.distribute_here(&mut parcel, route)
            }
        };
        if let Some(Awaited { number, why }) = *awaited {
            let Publisher { session, serial, .. } = *publisher;
            let waits = self.noted() > noted || outcomes.returned.len() > returned;
            let Reach { kept, matched, unstored, .. } = here;
            let (again, wanted) = (why == Why::Returned, why != Why::Retained || matched);
            outcomes.note(Outcome {
                session,
                serial,
                number,
                again,
                wanted,
                kept,
                waits,
                matched,
                unstored,
                act: routed.act,
            });
        }
    }

    /// Hands a message to a member of this shard. If they have all left meanwhile, one that its
    /// publisher waits for returns, and any other is passed on.
    fn take_for_group(
        &mut self,
        parcel: &mut Parcel<'_>,
        group: RoutedGroup,
        outcomes: &mut Outcomes,
    ) -> Reach {
        let mut reach = Reach::NONE;
        self.router.arrived(group.theirs);
        if self.router.members_here(group.theirs) > 0 {
            reach.add(self.deliver_to_group(parcel, group.theirs));
            return reach;
        }
        if self.router.is_left(group.theirs) {
            self.pass_over(parcel, &mut reach);
            return reach;
        }
        // Who sent it has not heard that, or would send it here again.
        let count = self.router.count_of(group.theirs);
        self.tell_group(count);
        let publisher = parcel.publisher;
        let message = parcel.message(self.now).clone();
        match parcel.number {
            Some(number) => {
                let group = group.ours;
                let act = self.store.as_mut().and_then(Keeper::gives_part_back);
                outcomes.returned.push(Returned { message, publisher, number, group, act });
            }
            None => self.take_orphan(&message, group.theirs, 0),
        }
        reach
    }

    /// Chooses again for a message that another shard had no member for. Its acknowledgement goes on
    /// waiting, for whoever is handed it now.
    fn route_again(&mut self, returned: &Returned) {
        let Returned { message, publisher, number, group, .. } = returned;
        let mut parcel = Parcel::from_message(message, self.now, *publisher);
        let Some(choice) = self.router.choose_shard(*group, &parcel.router_publisher()) else {
            return;
        };
        let Publisher { session, serial, .. } = *publisher;
        if let Some(store) = &self.store {
            // What waits for the store waits for this turn now.
            store.journal.wait((session, serial));
        }
        self.router.routed_to(*group, choice.shard);
        if choice.shard == self.id {
            let noted = self.noted();
            let kept = self.deliver_to_group(&mut parcel, choice.group);
            let stored = self.noted() > noted;
            let Some(slot) = self.sessions.get_serial(session, serial) else { return };
            slot.session.route_here(*number, kept == Kept::Yes);
            if kept == Kept::Unstored {
                slot.session.refuse_unstored(*number);
            } else if stored {
                let waiting = slot.session.store_again(*number, self.turn);
                self.mailbox.ask_confirmation(waiting);
                self.gate.wait(waiting, self.turn, session, serial);
            }
            return;
        }
        let slot = self.sessions.get_serial(session, serial);
        let waiting =
            slot.map_or(0, |slot| slot.session.route_again(*number, choice.shard, self.turn));
        if waiting != 0 {
            parcel.number = Some(*number);
            self.mailbox.ask_confirmation(waiting);
            self.gate.wait(waiting, self.turn, session, serial);
        }
        self.send_to_group(&mut parcel, Why::Returned, choice, *group);
    }

    /// Sends a connection to its client's home shard.
    pub(super) fn send_home<D: Driver<Socket = S>>(
        &mut self,
        driver: &mut D,
        id: ConnId,
        home: u8,
    ) {
        let Some(socket) = driver.detach(id) else { return };
        let Some(connection) = self.connections.remove(id) else { return };
        if let Some(timer) = connection.timer {
            self.timers.cancel(timer);
        }
        let Connection { listener, peer, certificate, .. } = connection;
        let handoff = Handoff { socket, listener, peer, certificate };
        self.mailbox.push(home, 0, Item::Connection(Box::new(handoff)));
    }

    fn take_connection<D: Driver<Socket = S>>(&mut self, driver: &mut D, handoff: Handoff<S>) {
        let Handoff { socket, listener, peer, certificate } = handoff;
        match driver.attach(socket) {
            Ok(id) => {
                self.add_connection(id, usize::from(listener), peer);
                if let Some(connection) = self.connections.get_mut(id) {
                    connection.certificate = certificate;
                }
            }
            Err(error) => {
                self.shared.admission.release(usize::from(listener));
                self.log.client(self.now, peer, "", &error.to_string());
            }
        }
    }

    /// Gives a message that a member left behind to another one.
    pub(super) fn redistribute(&mut self, orphan: Redistribution) {
        if orphan.message.is_for_now() {
            self.stats.dropped[DropCause::Expired as usize].add(1);
            return;
        }
        // The group may be gone, and its number another's.
        match self.router.group_wanting(orphan.group, orphan.message.topic()) {
            Some(group) => self.take_orphan(&orphan.message, group, 0),
            None => self.count_orphan(),
        }
    }

    fn take_orphan(&mut self, message: &Message, group: GroupId, hops: u8) {
        let mut parcel = Parcel::from_message(message, self.now, Publisher::NOBODY);
        let chosen = self.router.choose_shard(group, &parcel.router_publisher());
        match chosen {
            // Who has members here keeps it in the end. Who has none passes it on in any case: others have
            // told of theirs by the time that it comes back.
            Some(choice)
                if choice.shard != self.id
                    && (hops < self.shards || self.router.members_here(group) == 0) =>
            {
                self.router.routed_to(group, choice.shard);
                self.pass_on(message, choice, hops.saturating_add(1));
            }
            _ if self.router.members_here(group) > 0 => {
                self.router.routed_to(group, self.id);
                self.deliver_to_group(&mut parcel, group);
            }
            _ => self.count_orphan(),
        }
    }

    fn count_orphan(&self) {
        self.stats.dropped[DropCause::Orphaned as usize].add(1);
    }

    fn pass_on(&mut self, message: &Message, choice: ShardChoice, hops: u8) {
        let act = self.act_with(choice.shard);
        let item = Item::Orphan { message: message.clone(), group: choice.group, hops, act };
        self.mailbox.push(choice.shard, message.size(), item);
    }
}
