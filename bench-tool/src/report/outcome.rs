//! The result of one run of one scenario.

use std::fmt;
use std::time::Duration;

use sluice::mqtt::Version;

use super::Problem;
use crate::engine::Carrier;
use crate::measure::{DiskUse, LEAST_MEASURED, Latencies, QUIET_CORES, STEADY_CORES, StreamFaults};
use crate::scenario::{Parameters, ScenarioName};

/// A share of one core above which a thread counts as fully used.
const BUSY: f64 = 0.92;

/// No broker has a connection in less than so many bytes.
const LEAST_EACH: f64 = 64.0;

/// What was done in the measured time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Messages delivered.
    Messages(u64),
    /// Messages sent and, at QoS 1 and 2, acknowledged.
    Published(u64),
    /// Clients connected and subscribed.
    Logins(u64),
    /// Connections held.
    Connections(u64),
}

/// The one number that brokers are compared by in a scenario.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Headline {
    /// CPU time of the broker for one message or login, in microseconds.
    CpuMicroseconds(f64),
    /// Resident memory of the broker for one connection, in bytes.
    BytesEach(f64),
}

#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) scenario: ScenarioName,
    pub(crate) label: String,
    pub(crate) version: Option<Version>,
    pub(crate) carrier: Carrier,
    /// Of a scenario.
    pub(crate) parameters: Option<Parameters>,
    /// What else is worth knowing, by name.
    pub(crate) remarks: Vec<(&'static str, String)>,
    pub(crate) work: Work,
    /// Messages sent in the measured time.
    pub(crate) sent: u64,
    pub(crate) elapsed: Duration,
    /// If its processes are known.
    pub(crate) broker_cpu_ns: Option<u64>,
    /// Of the broker's busiest thread.
    pub(crate) broker_busiest_ns: Option<u64>,
    pub(crate) own_cpu_ns: u64,
    /// Of the busiest of this tool's threads, if there are several.
    pub(crate) own_busiest_ns: Option<u64>,
    /// Cores that other processes of this machine kept busy.
    pub(crate) others_cores: Option<f64>,
    /// Cores that the host took from this machine.
    pub(crate) stolen_cores: Option<f64>,
    /// From sending to receiving; for logins from dialling to SUBACK.
    pub(crate) latencies: Latencies,
    /// From sending to PUBACK or PUBCOMP, in scenarios.
    pub(crate) acknowledgements: Latencies,
    /// If it was asked for.
    pub(crate) disk: Option<DiskUse>,
    /// Of everything that was sent, before and after the measured time, too.
    pub(crate) faults: StreamFaults,
    /// Messages sent from beginning to end, if more than in the measured time.
    pub(crate) sent_in_all: u64,
    /// Why messages that came behind later ones are no fault, if they are none.
    pub(crate) unordered: Option<&'static str>,
    /// Messages that the broker never acknowledged, and publishers that waited in vain at the end.
    pub(crate) unacknowledged: u64,
    pub(crate) stalled: u64,
    /// The broker's memory before the first connection.
    pub(crate) resident_before: Option<u64>,
    /// The broker's memory when half of the connections stood.
    pub(crate) resident_between: Option<u64>,
    /// The broker's memory at the end of the measured time.
    pub(crate) resident_bytes: Option<u64>,
    /// What makes the run a failure, one line each.
    pub(crate) problems: Vec<Problem>,
}

impl Default for Outcome {
    fn default() -> Self {
        Self {
            scenario: ScenarioName::P2p,
            label: String::new(),
            version: None,
            carrier: Carrier::Tcp,
            parameters: None,
            remarks: Vec::new(),
            work: Work::Messages(0),
            sent: 0,
            elapsed: Duration::ZERO,
            broker_cpu_ns: None,
            broker_busiest_ns: None,
            own_cpu_ns: 0,
            own_busiest_ns: None,
            others_cores: None,
            stolen_cores: None,
            latencies: Latencies::new(),
            acknowledgements: Latencies::new(),
            disk: None,
            faults: StreamFaults::default(),
            sent_in_all: 0,
            unordered: None,
            unacknowledged: 0,
            stalled: 0,
            resident_before: None,
            resident_between: None,
            resident_bytes: None,
            problems: Vec::new(),
        }
    }
}

impl Outcome {
    /// Of whatever was done.
    pub(crate) fn per_second(&self) -> f64 {
        self.work.count() as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// Messages that were sent.
    pub(crate) fn sent_per_second(&self) -> f64 {
        self.sent as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// CPU time of the broker for one unit of work, in microseconds.
    pub(crate) fn broker_microseconds_each(&self) -> Option<f64> {
        let count = self.work.count();
        let spent_ns = self.broker_cpu_ns.filter(|_| count > 0)?;
        Some(spent_ns as f64 / count as f64 / 1_000.0)
    }

    /// CPU time of this tool for one unit of work, in microseconds.
    pub(crate) fn own_microseconds_each(&self) -> Option<f64> {
        let count = self.work.count();
        (count > 0).then(|| self.own_cpu_ns as f64 / count as f64 / 1_000.0)
    }

    /// Cores that the broker kept busy.
    pub(crate) fn broker_cores(&self) -> Option<f64> {
        let spent_ns = self.broker_cpu_ns?;
        Some(spent_ns as f64 / self.elapsed.as_nanos().max(1) as f64)
    }

    /// Cores that this tool kept busy.
    pub(crate) fn own_cores(&self) -> f64 {
        self.own_cpu_ns as f64 / self.elapsed.as_nanos().max(1) as f64
    }

    /// Growth of the broker's memory for one connection, in bytes; `None` if that [says nothing](Self::reuses_memory).
    pub(crate) fn bytes_each(&self) -> Option<f64> {
        self.grown_each().filter(|_| !self.reuses_memory())
    }

    /// Whether the broker has put connections where its allocator had kept memory from before: it has hardly grown,
    /// or for the first half of them much less than for the second.
    pub(crate) fn reuses_memory(&self) -> bool {
        let Some(each) = self.grown_each() else { return false };
        let halves = self.resident_before.zip(self.resident_between).zip(self.resident_bytes);
        let is_uneven = halves.is_some_and(|((before, between), after)| {
            2 * between.saturating_sub(before) < after.saturating_sub(between)
        });
        each < LEAST_EACH || is_uneven
    }

    fn grown_each(&self) -> Option<f64> {
        let Work::Connections(count) = self.work else { return None };
        let grown = self.resident_bytes?.saturating_sub(self.resident_before?);
        Some(grown as f64 / count.max(1) as f64)
    }

    /// Whether this tool kept its core busy whatever it had to do.
    pub(crate) fn spun(&self) -> bool {
        self.parameters.is_some_and(|parameters| parameters.spin)
    }

    /// Whether the throughput says more about this tool than about the broker: one of its threads had no time
    /// left, and none of the broker's was as busy. One that spun at a rate never has any: of that only what was sent
    /// late says something.
    pub(crate) fn tool_was_the_bottleneck(&self) -> bool {
        let share = |ns: u64| ns as f64 / self.elapsed.as_nanos().max(1) as f64;
        let own = share(self.own_busiest_ns.unwrap_or(self.own_cpu_ns));
        let broker = self.broker_busiest_ns.or(self.broker_cpu_ns).map(share);
        let has_rate = self.parameters.is_some_and(|parameters| parameters.rate.is_some());
        let is_measured = self.elapsed >= LEAST_MEASURED && !(has_rate && self.spun());
        is_measured && own > BUSY && broker.is_none_or(|broker| broker < BUSY)
    }

    /// What made every figure worse, if anything did.
    pub(crate) fn disturbance(&self) -> Option<String> {
        let above = |cores: Option<f64>, most: f64| cores.filter(|cores| *cores > most);
        let others = above(self.others_cores, QUIET_CORES)
            .map(|cores| format!("other processes kept {cores:.2} cores busy"));
        let host = above(self.stolen_cores, STEADY_CORES)
            .map(|cores| format!("the host took {cores:.2} cores away"));
        let told: Vec<String> = others.into_iter().chain(host).collect();
        (!told.is_empty()).then(|| told.join(", "))
    }

    pub(crate) fn is_disturbed(&self) -> bool {
        self.disturbance().is_some()
    }

    pub(crate) fn headline(&self) -> Option<Headline> {
        match self.work {
            Work::Connections(_) => self.bytes_each().map(Headline::BytesEach),
            _ => self.broker_microseconds_each().map(Headline::CpuMicroseconds),
        }
    }
}

#[cfg(test)]
impl Outcome {
    /// A thousand messages, which cost the broker this much in all.
    pub(crate) fn costing(broker_cpu_ns: u64, others_cores: f64) -> Self {
        Self {
            work: Work::Messages(1_000),
            broker_cpu_ns: Some(broker_cpu_ns),
            others_cores: Some(others_cores),
            elapsed: Duration::from_secs(1),
            ..Self::default()
        }
    }
}

impl Work {
    pub(crate) fn count(self) -> u64 {
        match self {
            Self::Messages(count)
            | Self::Published(count)
            | Self::Logins(count)
            | Self::Connections(count) => count,
        }
    }

    /// What one is called.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::Messages(_) | Self::Published(_) => "message",
            Self::Logins(_) => "connect + subscribe",
            Self::Connections(_) => "client let in",
        }
    }
}

impl Headline {
    pub(crate) fn value(self) -> f64 {
        match self {
            Self::CpuMicroseconds(value) | Self::BytesEach(value) => value,
        }
    }

    /// What it is for.
    pub(crate) fn what(self) -> &'static str {
        match self {
            Self::CpuMicroseconds(_) => "",
            Self::BytesEach(_) => "memory for each connection",
        }
    }

    /// The same kind of number with another value.
    pub(crate) fn with_value(self, value: f64) -> Self {
        match self {
            Self::CpuMicroseconds(_) => Self::CpuMicroseconds(value),
            Self::BytesEach(_) => Self::BytesEach(value),
        }
    }
}

impl fmt::Display for Headline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::CpuMicroseconds(value) if value < 1.0 => write!(f, "{value:.3} µs"),
            Self::CpuMicroseconds(value) => write!(f, "{value:.2} µs"),
            Self::BytesEach(value) => write!(f, "{value:.0} B"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_per_unit_of_work() {
        let outcome = Outcome {
            work: Work::Messages(1_000_000),
            elapsed: Duration::from_secs(2),
            broker_cpu_ns: Some(500_000_000),
            own_cpu_ns: 1_900_000_000,
            ..Outcome::default()
        };
        assert_eq!(outcome.headline(), Some(Headline::CpuMicroseconds(0.5)));
        assert_eq!(outcome.per_second(), 500_000.0);
        assert_eq!(outcome.broker_cores(), Some(0.25));
        assert!(outcome.tool_was_the_bottleneck());
    }

    /// Ten seconds: the tool's busiest thread, all of its threads, the broker's busiest thread, all of those.
    #[test]
    fn a_thread_without_time_left_is_a_bottleneck_unless_the_broker_has_one_too() {
        let is_limit = |own: f64, own_all: f64, broker: f64, broker_all: f64| {
            let ns = |seconds: f64| (seconds * 1e9) as u64;
            let outcome = Outcome {
                elapsed: Duration::from_secs(10),
                own_busiest_ns: Some(ns(own)),
                own_cpu_ns: ns(own_all),
                broker_busiest_ns: Some(ns(broker)),
                broker_cpu_ns: Some(ns(broker_all)),
                ..Outcome::default()
            };
            outcome.tool_was_the_bottleneck()
        };
        assert!(is_limit(9.9, 9.9, 5.0, 5.0));
        assert!(!is_limit(9.0, 9.0, 5.0, 5.0));
        // Two threads at half a core are no limit; four of the broker's at half a core are none either.
        assert!(!is_limit(5.0, 10.0, 5.0, 5.0));
        assert!(is_limit(9.9, 12.0, 5.0, 20.0));
        assert!(!is_limit(9.9, 9.9, 9.8, 9.8));
    }

    /// It keeps its core busy when it has nothing to do; without a rate it has always something to do.
    #[test]
    fn a_tool_that_spins_at_a_rate_is_not_taken_for_a_bottleneck() {
        let is_limit = |spin, rate| {
            let elapsed = Duration::from_secs(10);
            let scenario = ScenarioName::P2p;
            let parameters = Some(Parameters { spin, rate, ..scenario.defaults() });
            let own_cpu_ns = elapsed.as_nanos() as u64;
            Outcome { elapsed, own_cpu_ns, parameters, ..Outcome::default() }
                .tool_was_the_bottleneck()
        };
        assert!(!is_limit(true, Some(100.0)));
        assert!(is_limit(false, Some(100.0)));
        assert!(is_limit(true, None));
    }

    #[test]
    fn nobody_is_a_bottleneck_for_a_moment() {
        let is_limit = |milliseconds| {
            let elapsed = Duration::from_millis(milliseconds);
            let own_cpu_ns = elapsed.as_nanos() as u64;
            Outcome { elapsed, own_cpu_ns, ..Outcome::default() }.tool_was_the_bottleneck()
        };
        assert!(!is_limit(10));
        assert!(is_limit(1_000));
    }

    #[test]
    fn what_disturbed_a_run_is_told() {
        let told = |others: f64, stolen: f64| {
            let (others_cores, stolen_cores) = (Some(others), Some(stolen));
            Outcome { others_cores, stolen_cores, ..Outcome::default() }.disturbance()
        };
        assert_eq!(Outcome::default().disturbance(), None);
        assert_eq!(told(0.15, 0.02), None);
        let others = "other processes kept 0.20 cores busy";
        let host = "the host took 0.03 cores away";
        assert_eq!(told(0.2, 0.0).as_deref(), Some(others));
        assert_eq!(told(0.1, 0.03).as_deref(), Some(host));
        assert_eq!(told(0.2, 0.03).unwrap(), format!("{others}, {host}"));
    }

    #[test]
    fn memory_is_what_it_grew_by() {
        let outcome = Outcome {
            work: Work::Connections(1000),
            resident_before: Some(5_000_000),
            resident_bytes: Some(6_200_000),
            ..Outcome::default()
        };
        assert_eq!(outcome.headline().unwrap().to_string(), "1200 B");
    }

    #[test]
    fn memory_that_was_there_before_makes_the_figure_worthless() {
        let grown = |between: u64, after: u64| Outcome {
            work: Work::Connections(1000),
            resident_before: Some(5_000_000),
            resident_between: Some(5_000_000 + between),
            resident_bytes: Some(5_000_000 + after),
            ..Outcome::default()
        };
        assert_eq!(grown(700_000, 1_200_000).bytes_each(), Some(1200.0));
        // A table that doubles is no memory from before.
        assert_eq!(grown(400_000, 1_100_000).bytes_each(), Some(1100.0));
        for (between, after) in [(0, 0), (0, 700_000), (200_000, 700_000), (4_000, 8_000)] {
            let outcome = grown(between, after);
            assert!(outcome.reuses_memory(), "{between} {after}");
            assert_eq!(outcome.headline(), None, "{between} {after}");
        }
    }
}
