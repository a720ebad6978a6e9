//! Messages of shared groups that a member gives back.

use super::Session;
use super::durable::{note_freed, note_removed};
use super::queue::Entry;
use super::window::Slot;
use crate::mqtt::{Message, QoS};

/// A message of a shared group that another member may have.
#[derive(Clone, Debug)]
pub struct Redistribution {
    /// The group.
    pub group: u32,
    /// The message, published as before.
    pub message: Message,
    /// The QoS it had for the member that did not get it.
    pub qos: QoS,
    /// Whether that member was sent it, and did not acknowledge it.
    pub sent: bool,
}

impl Session {
    /// When the session ends: takes out what other members of shared groups shall get, in order:
    /// QoS 1 in flight and not acknowledged (section 4.8.2), then what was queued. QoS 2 that was
    /// sent is not among it [MQTT-4.8.2-5], nor what came by plain subscriptions.
    #[must_use]
    pub fn take_for_redistribution(&mut self) -> Vec<Redistribution> {
        let Some(active) = self.active.as_mut() else { return Vec::new() };
        let in_flight: Vec<_> = active
            .window
            .in_order()
            .filter_map(|(packet_id, slot)| match slot {
                Slot::Publish(p) if p.qos == QoS::AtLeastOnce => p.group().map(|_| packet_id),
                _ => None,
            })
            .collect();
        let mut taken = Vec::new();
        for packet_id in in_flight {
            let slot = active.window.remove(packet_id);
            note_freed(&self.durable, &slot);
            if let Slot::Publish(p) = slot {
                taken.extend(redistribution(p, true));
            }
        }
        let queued = active.queue.take(|entry| entry.group().is_some());
        queued.iter().for_each(|entry| note_removed(&self.durable, entry));
        taken.extend(queued.into_iter().filter_map(|entry| redistribution(entry, false)));
        taken
    }

    /// When the client leaves `group` and stays: takes out what was queued for it by that group.
    /// Delivery of what is in flight goes on [MQTT-3.10.4-3].
    #[must_use]
    pub fn take_queued(&mut self, group: u32) -> Vec<Redistribution> {
        let Some(active) = self.active.as_mut() else { return Vec::new() };
        let queued = active.queue.take(|entry| entry.group() == Some(group));
        queued.iter().for_each(|entry| note_removed(&self.durable, entry));
        queued.into_iter().filter_map(|entry| redistribution(entry, false)).collect()
    }
}

fn redistribution(entry: Entry, sent: bool) -> Option<Redistribution> {
    let group = entry.group()?;
    Some(Redistribution { group, message: entry.message, qos: entry.qos, sent })
}
