//! Timed redelivery on a live connection, for 3.x alone; 5.0 forbids it [MQTT-4.4.0-1].

use std::time::Duration;

use super::outbound::{millis, write};
use super::window::Slot;
use super::{Session, Sink};
use crate::mqtt::{AckKind, ReasonCode};
use crate::timer::Time;

/// What is to be done after [`Session::retry`].
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryOutcome {
    /// When to call again; `None`: when something is in flight again.
    pub next: Option<Time>,
    /// Whether something stayed unacknowledged to the end of the schedule.
    pub give_up: bool,
}

impl Session {
    /// Sends again what has waited for an acknowledgement: after the first interval, then after
    /// the second, and so on. When the last one has passed once more it says `give_up`, and sends
    /// nothing of it again unless told to repeat the last interval for ever.
    /// Intervals must be below 2^32 ms. Does nothing for 5.0 and for an empty schedule.
    pub fn retry<S: Sink>(
        &mut self,
        now: Time,
        after: &[Duration],
        repeat_last: bool,
        sink: &mut S,
    ) -> RetryOutcome {
        let mut outcome = RetryOutcome { next: None, give_up: false };
        let Some(last) = after.last() else { return outcome };
        let Self { active, link, durable, .. } = self;
        let Some(active) = active.as_mut() else { return outcome };
        if link.version.is_v5() || !link.live {
            return outcome;
        }
        let uncommitted = durable.as_ref().map(|durable| durable.uncommitted()).unwrap_or_default();
        for (packet_id, slot) in active.window.in_order() {
            if uncommitted.contains(&packet_id) {
                continue;
            }
            let (sent_at_ms, retries) = match slot {
                Slot::Publish(p) if !p.unsent => (&mut p.sent_at_ms, &mut p.retries),
                Slot::Release(r) => (&mut r.sent_at_ms, &mut r.retries),
                Slot::Publish(_) | Slot::Free => continue,
            };
            let interval = after.get(usize::from(*retries)).unwrap_or(last);
            let waited = Duration::from_millis(millis(now).wrapping_sub(*sent_at_ms).into());
            if waited < *interval {
                let due = now.plus(*interval - waited);
                outcome.next = Some(outcome.next.map_or(due, |next| next.min(due)));
                continue;
            }
            if usize::from(*retries) >= after.len() {
                outcome.give_up = true;
                if !repeat_last {
                    continue;
                }
            }
            *retries = retries.saturating_add(1);
            *sent_at_ms = millis(now);
            let due = now.plus(*after.get(usize::from(*retries)).unwrap_or(last));
            outcome.next = Some(outcome.next.map_or(due, |next| next.min(due)));
            match slot {
                // What was sent once on this connection was not too large for it.
                Slot::Publish(p) if sink.has_room() => {
                    let _ = write(link, &p.delivery(), Some(packet_id), true, now, sink);
                }
                Slot::Release(_) if sink.has_room() => {
                    sink.ack(AckKind::PubRel, packet_id, ReasonCode::Success);
                }
                // Behind what it does not read there is no use in more: that was its turn.
                Slot::Publish(_) | Slot::Release(_) | Slot::Free => {}
            }
        }
        outcome
    }
}
