//! A message on its way to shared groups: to the shard that was chosen, and to the member that shard chooses.

use crate::mqtt::QoS;
use crate::router::{GroupId, RouteId, ShardChoice, SubscriptionOptions};

use super::Core;
use super::deliver::{Kept, Share};
use super::distribute::Reach;
use super::outcomes::Why;
use super::parcel::Parcel;
use super::remote::RoutedGroup;

impl<S> Core<S> {
    /// Each shared group gets the message once.
    pub(super) fn distribute_to_groups(
        &mut self,
        parcel: &mut Parcel<'_>,
        route: RouteId,
        reach: &mut Reach,
    ) {
        let publisher = parcel.router_publisher();
        for index in 0..self.router.get(route).groups.len() {
            // By index, as with the targets.
            let Some(&group) = self.router.get(route).groups.get(index) else { break };
            let Some(mut choice) = self.router.choose_shard(group, &publisher) else {
                if self.router.is_left(group) {
                    self.pass_over(parcel, reach);
                }
                continue;
            };
            if choice.shard == self.id
                && parcel.qos > QoS::AtMostOnce
                && self.is_group_full(group)
                && let Some(other) = self.router.choose_other_shard(group, &publisher)
            {
                choice = other;
            }
            self.router.routed_to(group, choice.shard);
            if choice.shard == self.id {
                reach.add(self.deliver_to_group(parcel, choice.group));
            } else {
                self.send_to_group(parcel, Why::Wanted, choice, group);
                reach.remote |= 1 << choice.shard;
                reach.wanted |= 1 << choice.shard;
            }
        }
    }

    /// Hands a message to another shard, for a group that has the number `ours` here.
    pub(super) fn send_to_group(
        &mut self,
        parcel: &mut Parcel<'_>,
        why: Why,
        choice: ShardChoice,
        ours: GroupId,
    ) {
        let group = RoutedGroup { theirs: choice.group, ours };
        self.send_routed(choice.shard, parcel, why, None, Some(group));
    }

    /// Hands a message to one member, of this shard, of a group.
    pub(super) fn deliver_to_group(&mut self, parcel: &mut Parcel<'_>, group: GroupId) -> Kept {
        let publisher = parcel.router_publisher();
        let size = parcel.topic.len() + parcel.payload.len();
        let mut limits = self.settings.session;
        if !self.allowance.has(size, &self.shared.budget) {
            // Only what can be sent at once.
            limits.max_queued_messages = 0;
        }
        let sessions = &self.sessions;
        // One that may not receive the topic is about to lose its subscription.
        let member = |key| sessions.get(key).filter(|slot| slot.may_receive(parcel.topic));
        let chosen = self.router.choose_member(group, &publisher, |key| match member(key) {
            Some(slot) if slot.session.has_room(size, &limits) => slot.session.outstanding(),
            _ => usize::MAX,
        });
        // When every member is full, one of them suffers what its policy says.
        let any = |key| if member(key).is_some() { 0 } else { usize::MAX };
        let Some((key, options)) =
            chosen.or_else(|| self.router.choose_member(group, &publisher, any))
        else {
            return Kept::No;
        };
        let SubscriptionOptions { qos, retain_as_published, identifier, .. } = options;
        let identifier = identifier.map(std::num::NonZeroU32::get);
        let share = Share {
            qos: qos.min(parcel.qos),
            retain_as_published,
            identifiers: identifier.as_slice(),
            group: Some(group),
        };
        self.deliver_share(parcel, key, &share)
    }

    /// Shows the other shards how busy the members of groups are here.
    #[inline]
    pub(super) fn measure_loads(&mut self) {
        if !self.router.has_loads() {
            return;
        }
        let (sessions, limits) = (&self.sessions, &self.settings.session);
        self.router.measure_loads(|key| match sessions.get(key) {
            Some(slot) if !slot.session.is_full(limits) => slot.session.outstanding(),
            _ => usize::MAX,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::ending::EndedBy;
    use super::super::remote::Publisher;
    use super::super::settings::Settings;
    use super::super::{Shard, Shared};
    use crate::hooks::Hooks;
    use crate::mqtt::topic::Filter;
    use crate::mqtt::{Message, QoS};
    use crate::net::sim::{SimDriver, SimOptions, World};
    use crate::router::{SessionKey, SubscriptionOptions};
    use crate::session::{DropCause, Session};

    const COUNT: usize = 60;

    /// A session that is away, and a member of `$share/g/t`.
    fn member(shard: &mut Shard<SimDriver>, name: &str) -> SessionKey {
        let core = &mut shard.core;
        let key = core.sessions.insert(Session::new(name));
        core.shared.admission.add_session();
        let options = SubscriptionOptions { qos: QoS::AtLeastOnce, ..Default::default() };
        let filter = Filter { share: Some("g"), filter: "t" };
        let subscribed = core.router.subscribe(key, &filter, options);
        core.router.set_place(subscribed.handle, 0);
        core.sessions.get_mut(key).expect("it is new").subscriptions.push(subscribed.handle);
        core.shared.admission.add_subscription();
        core.tell_group(subscribed.group);
        key
    }

    /// Members end one after another, and another shard does not know yet of the last when it
    /// is given what the first has left: it comes back to where nobody is any more, and goes on to who is left.
    #[test]
    fn what_comes_back_to_a_shard_without_members_goes_on() {
        let shared = Shared::new(Settings::for_tests(), Hooks::default(), 2, 1).into();
        let world = World::new(1, SimOptions::default());
        let drivers = vec![world.add_driver(), world.add_driver()];
        let mut shards = Shard::assemble(drivers, &shared);
        let turn = |shard: &mut Shard<SimDriver>| {
            assert!(shard.turn(false).expect("a simulated driver does not fail"));
        };
        let stays = member(&mut shards[0], "stays");
        let ends = ["one", "other"].map(|name| member(&mut shards[1], name));
        for _ in 0..2 {
            shards.iter_mut().for_each(turn);
        }
        for n in 0..COUNT {
            let core = &mut shards[1].core;
            let (qos, payload) = (QoS::AtLeastOnce, n.to_string());
            let message = Message::new("t", qos, false, payload.as_bytes(), b"", None, core.now);
            core.publish_message(&message, Publisher::NOBODY);
        }
        for key in ends {
            turn(&mut shards[1]);
            shards[1].core.end_session(key, EndedBy::Other);
        }
        for _ in 0..4 {
            shards.iter_mut().rev().for_each(turn);
        }
        let session = &shards[0].core.sessions.get(stays).expect("it is there").session;
        let orphaned = DropCause::Orphaned as usize;
        let dropped = shards.iter().map(|shard| shard.core.stats.dropped[orphaned].value());
        assert_eq!((session.queued(), dropped.sum::<u64>()), (COUNT, 0));
    }
}
