//! One message on its way to everybody who wants it.

use smallvec::SmallVec;

use crate::mqtt::{QoS, ReasonCode};
use crate::router::{RouteId, Stamp};

use super::Core;
use super::deliver::{Forms, Kept, Share};
use super::outcomes::{Awaited, Why};
use super::parcel::Parcel;
use super::remote::{Item, Routed, RoutedGroup};

/// How far a message came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reach {
    /// Somebody on this shard is subscribed.
    pub(super) matched: bool,
    /// A session of this shard has it.
    pub(super) kept: bool,
    /// A session of this shard has it not, because the store fails.
    pub(super) unstored: bool,
    pub(super) retained: bool,
    /// The shards that were handed it.
    pub(super) remote: u64,
    /// Those among them where somebody wants it.
    pub(super) wanted: u64,
    pub(super) reason: ReasonCode,
}

impl Reach {
    pub(super) const NONE: Self = Self {
        matched: false,
        kept: false,
        unstored: false,
        retained: false,
        remote: 0,
        wanted: 0,
        reason: ReasonCode::Success,
    };

    pub(super) fn refused(reason: ReasonCode) -> Self {
        Self { reason, ..Self::NONE }
    }

    /// Somebody on this shard is subscribed, and has it or not.
    pub(super) fn add(&mut self, kept: Kept) {
        self.matched = true;
        self.kept |= kept == Kept::Yes;
        self.unstored |= kept == Kept::Unstored;
    }
}

impl<S> Core<S> {
    /// Hands a message to every session of this shard, and to every shard, that wants it.
    pub(super) fn distribute(
        &mut self,
        parcel: &mut Parcel<'_>,
        route: RouteId,
        stamp: Option<Stamp>,
    ) -> Reach {
        let mut reach = self.distribute_here(parcel, route);
        reach.retained = stamp.is_some();
        reach.wanted = self.router.get(route).remote;
        // What is retained is retained by every shard.
        reach.remote = if stamp.is_some() { self.mailbox.others() } else { reach.wanted };
        self.hand_on(parcel, &reach, stamp);
        if !self.router.get(route).groups.is_empty() {
            self.distribute_to_groups(parcel, route, &mut reach);
        }
        reach
    }

    /// Hands a message to the shards that it is to reach.
    fn hand_on(&mut self, parcel: &mut Parcel<'_>, reach: &Reach, stamp: Option<Stamp>) {
        let mut mask = reach.remote;
        while mask != 0 {
            let to = mask.trailing_zeros();
            mask &= mask - 1;
            let wanted = reach.wanted & 1 << to != 0;
            let why = if wanted { Why::Wanted } else { Why::Retained };
            self.send_routed(to as u8, parcel, why, stamp, None);
        }
    }

    /// Hands a message to another shard: to a group there, or to the plain subscribers.
    pub(super) fn send_routed(
        &mut self,
        to: u8,
        parcel: &mut Parcel<'_>,
        why: Why,
        stamp: Option<Stamp>,
        group: Option<RoutedGroup>,
    ) {
        let publisher = parcel.publisher;
        let awaited = parcel.number.map(|number| Awaited { number, why });
        let message = parcel.message(self.now).clone();
        let weight = message.size();
        let act = self.act_with(to);
        let routed = Routed { message, stamp, publisher, awaited, group, act };
        self.mailbox.push(to, weight, Item::Routed(routed));
    }

    /// Hands a message to the plain subscribers of this shard.
    pub(super) fn distribute_here(&mut self, parcel: &mut Parcel<'_>, route: RouteId) -> Reach {
        let mut reach = Reach::NONE;
        let mut forms = Forms::default();
        let count = self.router.get(route).targets.len();
        let own_session = (parcel.publisher.shard == self.id).then_some(parcel.publisher.session);
        for index in 0..count {
            // By index, because delivering needs the rest of the shard; the route stays as it is.
            let Some(target) = self.router.get(route).targets.get(index) else { break };
            let own = own_session == Some(target.session);
            let Some(wanted) = target.for_publisher(own) else { continue };
            if wanted.qos.min(parcel.qos) == QoS::AtMostOnce && !target.has_identifiers() {
                let (key, retain_as_published) = (target.session, wanted.retain_as_published);
                let share = Share { retain_as_published, ..Share::AT_MOST_ONCE };
                self.deliver_at_most_once(parcel, key, &share, &mut forms);
                reach.add(Kept::Yes);
            } else {
                reach.add(self.deliver_to_target(parcel, route, index, own));
            }
        }
        if self.router.get(route).leaving {
            self.pass_over(parcel, &mut reach);
        }
        reach
    }

    /// Hands a message to one plain subscriber, by its place in the route.
    pub(super) fn deliver_to_target(
        &mut self,
        parcel: &mut Parcel<'_>,
        route: RouteId,
        index: usize,
        own: bool,
    ) -> Kept {
        let route = self.router.get(route);
        let Some(target) = route.targets.get(index) else { return Kept::No };
        let Some(wanted) = target.for_publisher(own) else { return Kept::No };
        let identifiers: SmallVec<[u32; 4]> = route.identifiers(target, own).into();
        let key = target.session;
        let share = Share {
            qos: wanted.qos.min(parcel.qos),
            retain_as_published: wanted.retain_as_published,
            identifiers: &identifiers,
            group: None,
        };
        self.deliver_share(parcel, key, &share)
    }
}
