//! All clocks and counters at one moment.

use std::time::Duration;

use super::{ProcessGroup, Usage, machine_cpu, monotonic_ns, own_cpu_ns};

pub(crate) struct Reading {
    pub(crate) at_ns: u64,
    own_cpu_ns: u64,
    broker: Option<Usage>,
    machine: Option<Duration>,
}

/// What passed between two readings.
pub(crate) struct Spent {
    pub(crate) elapsed: Duration,
    pub(crate) own_cpu_ns: u64,
    pub(crate) broker_cpu_ns: Option<u64>,
    /// Of the broker's busiest thread.
    pub(crate) broker_busiest_ns: Option<u64>,
    /// Cores that were busy with anything else; known only if the broker's use is.
    pub(crate) others_cores: Option<f64>,
}

impl Reading {
    pub(crate) fn take(broker: &ProcessGroup) -> Self {
        // To look at the broker's threads takes time, in which nothing is sent.
        let at_ns = monotonic_ns();
        let broker = if broker.is_empty() { None } else { broker.usage().ok() };
        Self { at_ns, own_cpu_ns: own_cpu_ns(), broker, machine: machine_cpu() }
    }

    pub(crate) fn until(&self, later: &Reading) -> Spent {
        let broker = self.broker.as_ref().zip(later.broker.as_ref());
        let broker_cpu_ns = broker.map(|(earlier, later)| later.since_ns(earlier));
        let broker_busiest_ns = broker.map(|(earlier, later)| later.busiest_since_ns(earlier));
        let own_cpu_ns = later.own_cpu_ns - self.own_cpu_ns;
        let elapsed = Duration::from_nanos(later.at_ns - self.at_ns);
        let others_cores = self.machine.zip(later.machine).zip(broker_cpu_ns);
        let others_cores = others_cores.map(|((earlier, later), broker_cpu_ns)| {
            let ours = Duration::from_nanos(own_cpu_ns + broker_cpu_ns);
            later.saturating_sub(earlier).saturating_sub(ours).as_secs_f64()
                / elapsed.as_secs_f64().max(1e-9)
        });
        Spent { elapsed, own_cpu_ns, broker_cpu_ns, broker_busiest_ns, others_cores }
    }
}
