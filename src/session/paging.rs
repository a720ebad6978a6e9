//! The part of a long queue that is in the store only, and how it comes back.
//!
//! When a stored session has as much of its queue in memory as it may, what comes is noted in the journal and
//! not kept. As long as there is such a rest, everything goes behind it. It is asked for in pages, one at a
//! time, when half of what may be in memory has gone.

use super::change::QueuedRecord;
use super::limits::{DropCause, SessionLimits};
use super::queue::Entry;
use super::{Redistribution, Session};
use crate::timer::Time;

/// The next part of a queue, as it was read.
#[derive(Debug, Default)]
pub struct PageOfQueue {
    /// With their places, in order.
    pub messages: Vec<(u64, QueuedRecord)>,
    /// The place after the last that was read.
    pub end: u64,
    /// Messages that could not be read, and are set aside.
    pub lost: u32,
    /// Whether the store has no more of the queue.
    pub is_last: bool,
    /// What was removed, if that was [asked for](super::PageRequest::expired_by).
    pub expired: Option<ExpiredOnDisk>,
}

/// What of a part of a queue had expired, and was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExpiredOnDisk {
    /// Messages.
    pub messages: u32,
    /// Their bytes, by [`Message::size`](crate::mqtt::Message::size).
    pub bytes: u64,
    /// When the first of the others expires.
    pub next_expiry: Option<Time>,
}

/// What of a page did not stay with its session.
#[derive(Debug, Default)]
pub struct PageTaken {
    /// What other members of a group shall have, which the client has left.
    pub given: Vec<Redistribution>,
    /// Messages of groups that nobody is in any more.
    pub orphaned: u32,
    /// Messages dropped as [`DropCause::QueueFull`].
    pub dropped: u32,
    /// Messages dropped as [`DropCause::Expired`].
    pub expired: u32,
}

impl Session {
    /// What of the queue is in the store only.
    #[must_use]
    pub fn paged(&self) -> Option<super::Paged> {
        Some(self.active.as_ref()?.queue.on_disk()?.paged)
    }

    /// Whether the next part of the queue was asked for and has not come.
    #[must_use]
    pub fn awaits_page(&self) -> bool {
        let disk = self.active.as_ref().and_then(|active| active.queue.on_disk());
        disk.is_some_and(|disk| disk.asked)
    }

    /// Asks for the next page, if one is wanted.
    pub(super) fn ask_page(&mut self) {
        let Self { active, durable, .. } = self;
        let (Some(active), Some(durable)) = (active.as_mut(), durable) else { return };
        let most = durable.in_memory();
        let (messages, bytes) = active.queue.in_memory();
        let Some(disk) = active.queue.on_disk_mut() else { return };
        if disk.asked || messages > most.messages as usize / 2 || bytes > most.bytes / 2 {
            return;
        }
        let messages = u32::try_from(messages).unwrap_or(u32::MAX);
        let wanted = most.messages.saturating_sub(messages).max(1);
        (disk.asked, disk.since) = (true, 0);
        durable.ask_page(disk, wanted, most.bytes.saturating_sub(bytes));
    }

    /// The oldest messages are to be dropped, and only the store has them: they are when they are read.
    pub(super) fn drop_from_disk(&mut self) {
        let Some(active) = self.active.as_mut() else { return };
        if let Some(disk) = active.queue.on_disk_mut() {
            disk.excess = true;
            self.ask_page();
        }
    }

    /// Takes in the page that was asked for, but for what `gives` says is not the session's any more. Sends
    /// nothing: [`pump`](Self::pump) does.
    pub fn take_page(
        &mut self,
        page: PageOfQueue,
        now: Time,
        limits: &SessionLimits,
        mut gives: impl FnMut(&QueuedRecord) -> bool,
    ) -> PageTaken {
        let mut taken = PageTaken::default();
        if let Some(expired) = page.expired {
            taken.expired = expired.messages;
            self.expired_on_disk(&page, expired, now);
            return taken;
        }
        let Self { active, durable, .. } = self;
        let (Some(active), Some(durable)) = (active.as_mut(), durable) else { return taken };
        let queue = &mut active.queue;
        let Some(disk) = queue.on_disk_mut() else { return taken };
        disk.asked = false;
        disk.paged.first = disk.paged.first.max(page.end);
        disk.paged.messages = disk.paged.messages.saturating_sub(page.lost);
        for (place, record) in page.messages {
            if let Some(disk) = queue.on_disk_mut() {
                disk.paged.messages = disk.paged.messages.saturating_sub(1);
                let size = record.message.size() as u64;
                disk.paged.bytes = disk.paged.bytes.saturating_sub(size);
            }
            if gives(&record) {
                durable.removed(place, record.message.clone(), record.number);
                let group = record.group();
                let QueuedRecord { message, qos, .. } = record;
                match group {
                    Some(group) => {
                        taken.given.push(Redistribution { group, message, qos, sent: false });
                    }
                    None => taken.orphaned += 1,
                }
                continue;
            }
            if record.message.is_expired(now) {
                durable.removed(place, record.message, record.number);
                taken.expired += 1;
                continue;
            }
            queue.push(Entry::restore(place, &record));
        }
        let disk = queue.on_disk_mut();
        let excess = disk.as_ref().is_some_and(|disk| disk.excess);
        if disk
            .as_ref()
            .is_some_and(|disk| disk.paged.messages == 0 || page.is_last && disk.since == 0)
        {
            *disk = None;
        } else if let Some(disk) = disk {
            disk.excess = false;
        }
        self.count_drops(DropCause::StoreFailed, page.lost.into());
        self.count_drops(DropCause::Expired, taken.expired.into());
        if excess {
            taken.dropped = self.trim_oldest(limits);
        }
        self.look_on(now);
        taken
    }
}
