//! All clocks and counters at one moment.

use std::time::Duration;

use super::{
    LEAST_MEASURED, LEAST_STEADY, MachineCpu, ProcessGroup, Usage, monotonic_ns, own_cpu_ns,
};

pub(crate) struct Reading {
    pub(crate) at_ns: u64,
    own_cpu_ns: u64,
    broker: Option<Usage>,
    machine: Option<MachineCpu>,
}

/// What passed between two readings.
pub(crate) struct Spent {
    pub(crate) elapsed: Duration,
    pub(crate) own_cpu_ns: u64,
    pub(crate) broker_cpu_ns: Option<u64>,
    /// Of the broker's busiest thread.
    pub(crate) broker_busiest_ns: Option<u64>,
    /// Cores that were busy with anything else; known only if the broker's use is, and not of a moment.
    pub(crate) others_cores: Option<f64>,
    /// Cores that the host did not give; not known of a moment.
    pub(crate) stolen_cores: Option<f64>,
}

impl Reading {
    pub(crate) fn take(broker: &ProcessGroup) -> Self {
        // To look at the broker's threads takes time, in which nothing is sent.
        let at_ns = monotonic_ns();
        let broker = if broker.is_empty() { None } else { broker.usage().ok() };
        Self { at_ns, own_cpu_ns: own_cpu_ns(), broker, machine: MachineCpu::now() }
    }

    pub(crate) fn until(&self, later: &Reading) -> Spent {
        let broker = self.broker.as_ref().zip(later.broker.as_ref());
        let broker_cpu_ns = broker.map(|(earlier, later)| later.since_ns(earlier));
        let broker_busiest_ns = broker.map(|(earlier, later)| later.busiest_since_ns(earlier));
        let own_cpu_ns = later.own_cpu_ns - self.own_cpu_ns;
        let elapsed = Duration::from_nanos(later.at_ns - self.at_ns);
        let cores = |time: Duration| time.as_secs_f64() / elapsed.as_secs_f64().max(1e-9);
        let machine = self.machine.zip(later.machine).map(|(earlier, later)| later.since(earlier));
        let of_all = machine.filter(|_| elapsed >= LEAST_MEASURED);
        let others_cores = of_all.zip(broker_cpu_ns).map(|(machine, broker_cpu_ns)| {
            cores(machine.busy.saturating_sub(Duration::from_nanos(own_cpu_ns + broker_cpu_ns)))
        });
        let of_host = machine.filter(|_| elapsed >= LEAST_STEADY);
        let stolen_cores = of_host.map(|machine| cores(machine.stolen));
        Spent { elapsed, own_cpu_ns, broker_cpu_ns, broker_busiest_ns, others_cores, stolen_cores }
    }
}
