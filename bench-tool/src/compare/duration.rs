//! How long a comparison takes, said before it begins.

use std::time::Duration;

use super::plan::{Comparison, Pace, ScenarioPlan, TargetPlan};
use super::run;
use crate::scenario::ScenarioName;

/// Around what is measured: a broker is started and ended, a moment of quiet is waited for, clients connect and
/// leave.
const AROUND_S: f64 = 0.7;

/// Clients that are let in, and leave again, a second.
const LOGINS_A_SECOND: f64 = 5_000.0;
const LOGINS_OVER_TLS_A_SECOND: f64 = 700.0;

/// Messages that are stored and fetched a second.
const STORED_A_SECOND: f64 = 100_000.0;

/// What all runs on these targets take on a quiet machine, about, if they start at once. Preparing them is not in it.
pub(super) fn expected(comparison: &Comparison, targets: &[&TargetPlan], pace: &Pace) -> Duration {
    let disk_alone = if comparison.disk.is_some() { run::DISK_ALONE.as_secs_f64() } else { 0.0 };
    let seconds = comparison.scenarios.iter().map(|scenario| {
        let runs = targets.iter().filter(|target| scenario.runs_on(target)).count();
        runs as f64 * (of_one_run(scenario, pace) + disk_alone)
    });
    Duration::from_secs_f64(seconds.sum::<f64>() * f64::from(pace.repetitions))
}

/// As one says it.
pub(super) fn show(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => format!("{seconds} seconds"),
        seconds => format!("{} minutes", seconds.div_ceil(60)),
    }
}

fn of_one_run(scenario: &ScenarioPlan, pace: &Pace) -> f64 {
    let parameters = &scenario.parameters;
    let seconds = scenario.seconds.unwrap_or(pace.seconds);
    let clients = f64::from(parameters.clients);
    let messages = f64::from(parameters.messages);
    let logins_a_second = match scenario.carrier {
        Some(carrier) if carrier.is_tls() => LOGINS_OVER_TLS_A_SECOND,
        _ => LOGINS_A_SECOND,
    };
    AROUND_S
        + match scenario.run {
            ScenarioName::Idle => clients / logins_a_second + 1.0,
            ScenarioName::Storm => clients / logins_a_second,
            ScenarioName::Retained => {
                f64::from(parameters.subscribers) * messages / STORED_A_SECOND
            }
            ScenarioName::Persistent => {
                f64::from(parameters.publishers) * messages / STORED_A_SECOND
            }
            ScenarioName::Slow => pace.warm_up + 2.0 * seconds,
            _ => pace.warm_up + seconds,
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::config::shipped;

    #[test]
    fn a_quick_comparison_is_over_in_two_minutes() {
        let mut comparison = shipped();
        comparison.keep_quick(&[]);
        // EMQX alone takes ten seconds to start.
        let targets: Vec<&TargetPlan> =
            comparison.targets.iter().filter(|target| target.name != "emqx").collect();
        let expected = expected(&comparison, &targets, &comparison.quick).as_secs();
        assert!((60..=110).contains(&expected), "{expected} s");
    }

    #[test]
    fn long_times_are_said_in_minutes() {
        assert_eq!(show(Duration::from_secs(119)), "119 seconds");
        assert_eq!(show(Duration::from_secs(121)), "3 minutes");
    }
}
