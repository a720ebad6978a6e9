//! Messages that expire while they wait [MQTT-3.3.2-5]: they make room for others, and leave memory and disk
//! though nobody comes for them.
//!
//! Of those in memory it is known which expires first. What is in the store only is looked through there, a
//! part at a time, when the first of it has expired.

use std::time::Duration;

use super::durable::note_removed;
use super::limits::{DropCause, SessionLimits};
use super::paging::{ExpiredOnDisk, PageOfQueue};
use super::queue::{Look, OnDisk, earliest};
use super::{Active, Session};
use crate::timer::Time;

/// Messages in the store that are looked at in one go: others want theirs.
const LOOKED_AT: u32 = 1024;

/// Between two looks through what a session has in the store, and beside that for each message there: so a
/// queue costs the look at 4,000 messages a second at most, however they expire.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
const LOOK_PAUSE_EACH: Duration = Duration::from_micros(250);

/// Messages that a full queue takes while a look is under way, which may make room for them.
const LOOK_EXCESS: u32 = 1024;

impl Session {
    /// When [`expire`](Self::expire) has something to do, as things are.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Time> {
        let queue = &self.active.as_ref()?.queue;
        earliest(queue.next_expiry(), queue.on_disk().and_then(OnDisk::next_look))
    }

    /// Drops what has expired of the queue, so many messages at most, and counts it as
    /// [`DropCause::Expired`]; gives how many. What is in the store only is dropped when that has looked
    /// for it, which is told by [`take_page`](Self::take_page).
    pub fn expire(&mut self, now: Time, most: u32) -> u32 {
        let expired = self.expire_while(now, |_, expired| expired < most);
        self.begin_look(now);
        expired
    }

    /// As [`expire`](Self::expire), until the queue has room for a message of `size` bytes. If there is none
    /// then, but the store looks for what has expired, a [`deliver`](Self::deliver) may succeed.
    pub fn make_room(&mut self, size: usize, limits: &SessionLimits, now: Time) -> u32 {
        let expired = self.expire_while(now, |active, _| !active.queue.has_room(size, limits));
        if self.active.as_ref().is_some_and(|active| !active.queue.has_room(size, limits)) {
            self.begin_look(now);
        }
        expired
    }

    fn expire_while(&mut self, now: Time, goes_on: impl Fn(&Active, u32) -> bool) -> u32 {
        let Some(active) = self.active.as_mut() else { return 0 };
        let mut expired = 0;
        while goes_on(active, expired)
            && let Some(entry) = active.queue.pop_expired(now)
        {
            note_removed(&self.durable, &entry);
            expired += 1;
        }
        if expired > 0 {
            self.drops.add(DropCause::Expired, expired);
        }
        expired
    }

    /// Has the store look for what has expired, if there is something and it is time to.
    fn begin_look(&mut self, now: Time) {
        let Some(active) = self.active.as_mut() else { return };
        let Some(disk) = active.queue.on_disk_mut() else { return };
        if disk.next_look().is_some_and(|at| at <= now) {
            let from = disk.paged.first;
            disk.look = Some(Look { from, next_expiry: None, excess: LOOK_EXCESS });
            // What comes meanwhile is not seen by it.
            disk.paged.next_expiry = None;
            self.look_on(now);
        }
    }

    /// Goes on with a look, if there is one and nothing else was asked for.
    pub(super) fn look_on(&mut self, now: Time) {
        let Self { active, durable, .. } = self;
        let (Some(active), Some(durable)) = (active.as_mut(), durable) else { return };
        let Some(disk) = active.queue.on_disk_mut() else { return };
        if let Some(look) = disk.look.filter(|_| !disk.asked) {
            disk.asked = true;
            durable.ask_to_expire(disk, look.from.max(disk.paged.first), LOOKED_AT, now);
        }
    }

    /// Part of a look is done.
    pub(super) fn expired_on_disk(
        &mut self,
        page: &PageOfQueue,
        expired: ExpiredOnDisk,
        now: Time,
    ) {
        let Some(active) = self.active.as_mut() else { return };
        let on_disk = active.queue.on_disk_mut();
        let Some(disk) = on_disk.as_mut() else { return };
        disk.asked = false;
        disk.paged.messages = disk.paged.messages.saturating_sub(expired.messages);
        disk.paged.bytes = disk.paged.bytes.saturating_sub(expired.bytes);
        if let Some(look) = &mut disk.look {
            look.from = page.end;
            look.next_expiry = earliest(look.next_expiry, expired.next_expiry);
        }
        if disk.paged.messages == 0 {
            *on_disk = None;
        } else if page.is_last
            && let Some(look) = disk.look.take()
        {
            disk.paged.next_expiry = earliest(disk.paged.next_expiry, look.next_expiry);
            disk.rests_until = now.plus(LOOK_PAUSE + LOOK_PAUSE_EACH * disk.paged.messages);
        }
        self.count_drops(DropCause::Expired, expired.messages.into());
        let disk = self.active.as_ref().and_then(|active| active.queue.on_disk());
        if self.link.live || disk.is_some_and(|disk| disk.excess) {
            self.ask_page();
        }
        self.look_on(now);
    }
}

impl OnDisk {
    /// When it is to be looked through: something has expired then.
    fn next_look(&self) -> Option<Time> {
        let at = self.paged.next_expiry.filter(|_| !self.asked && self.look.is_none())?;
        Some(at.max(self.rests_until))
    }
}
