//! PINGREQ, for connections that have nothing else to say.

use super::connection::Phase;
use super::{Engine, Failure, wire};

/// Each connection is looked at this many times in one keep alive, so that it is never silent for longer than
/// two of these steps `[MQTT-3.1.2-20]`.
const LOOKS: u64 = 3;

/// A walk over all connections that takes one step of the keep alive.
#[derive(Debug, Default)]
pub(super) struct Round {
    began_ns: u64,
    next: usize,
}

impl Engine {
    /// Looks at as many connections as the time that has passed asks for.
    pub(super) fn keep_alive(&mut self, now_ns: u64) {
        let step_ns = u64::from(self.keep_alive_seconds) * 1_000_000_000 / LOOKS;
        if step_ns == 0 {
            return;
        }
        let count = self.connections.len();
        let passed_ns = now_ns.saturating_sub(self.round.began_ns).min(step_ns);
        let due = (count as u128 * u128::from(passed_ns) / u128::from(step_ns)) as usize;
        while self.round.next < due.min(count) {
            self.look_after(self.round.next);
            self.round.next += 1;
        }
        if passed_ns == step_ns {
            self.round = Round { began_ns: now_ns, next: 0 };
        }
    }

    fn look_after(&mut self, index: usize) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        if connection.phase != Phase::Ready {
            return;
        }
        if std::mem::take(&mut connection.wrote) && !connection.pinging {
            return;
        }
        if connection.pinging && !connection.stalled {
            // A whole step without an answer; one more, as the broker may be busy.
            if std::mem::replace(&mut connection.unanswered, true) {
                self.fail(index, &Failure::NoPingResp);
            }
            return;
        }
        connection.pinging = true;
        connection.unanswered = false;
        wire::ping(self.options.login.version, &mut connection.out);
        self.touch_connection(index);
    }
}
