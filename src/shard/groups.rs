//! A message on its way to shared groups: to the shard that was chosen, and to the member that shard chooses.

use crate::mqtt::QoS;
use crate::router::{GroupId, RouteId, ShardChoice, SubscriptionOptions};

use super::Core;
use super::distribute::{Kept, Parcel, Reach, Share};
use super::outcomes::Why;
use super::remote::RoutedGroup;

impl<S> Core<S> {
    /// Each shared group gets the message once.
    pub(super) fn distribute_to_groups(
        &mut self,
        parcel: &mut Parcel<'_>,
        route: RouteId,
        reach: &mut Reach,
    ) {
        let groups = self.router.get(route).groups.clone();
        let publisher = parcel.router_publisher();
        for group in groups {
            let Some(mut choice) = self.router.choose_shard(group, &publisher) else { continue };
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
