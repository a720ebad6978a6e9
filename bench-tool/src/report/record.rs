//! One run as JSON: every number that there is of it, under its name.

use serde_json::{Map, Value, json};

use super::{Entry, Outcome};
use crate::measure::{DiskUse, Latencies};

/// What was run, what it cost, how long it took, what went wrong; the same names for every run.
pub(super) fn run_json(entry: &Entry<'_>, run: &Outcome) -> Value {
    let mut record = Map::new();
    let what = json!({
        "scenario": entry.scenario,
        "target": entry.target,
        "parameters": run.label,
        "version": run.version.map(|version| format!("{version:?}")),
        "carrier": run.carrier.name(),
    });
    let remarks: Vec<String> =
        run.remarks.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    let faults = json!({
        "lost": run.faults.lost,
        "duplicates": run.faults.duplicates,
        "reordered": run.unordered.is_none().then_some(run.faults.reordered),
        "unacknowledged": run.unacknowledged,
        "stalled_publishers": run.stalled,
        "remarks": remarks.join("; "),
        "problems": run.problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
    });
    for part in [what, parameters(run), cost(run), times(run), disk(run.disk.as_ref()), faults] {
        if let Value::Object(part) = part {
            record.extend(part);
        }
    }
    Value::Object(record)
}

fn parameters(run: &Outcome) -> Value {
    let parameters = run.parameters;
    json!({
        "qos": parameters.map(|one| one.qos.as_u8()),
        "clients": parameters.map(|one| one.clients),
        "publishers": parameters.map(|one| one.publishers),
        "subscribers": parameters.map(|one| one.subscribers),
        "window": parameters.map(|one| one.window),
        "payload_bytes": parameters.map(|one| one.payload_len),
        "rate": parameters.and_then(|one| one.rate),
        "burst": parameters.map(|one| one.burst),
        "messages": parameters.map(|one| one.messages),
        "ballast": parameters.map(|one| one.ballast),
        "topics": parameters.map(|one| one.topics),
        "stalled": parameters.map(|one| one.stalled),
        "lasting": parameters.map(|one| one.lasting),
        "spin": parameters.map(|one| one.spin),
        "warm_up_seconds": parameters.map(|one| one.warm_up_seconds),
    })
}

fn cost(run: &Outcome) -> Value {
    json!({
        "unit": run.work.unit(),
        "count": run.work.count(),
        "sent": run.sent,
        "seconds": run.elapsed.as_secs_f64(),
        "per_second": run.per_second(),
        "broker_us_each": run.broker_microseconds_each(),
        "broker_cores": run.broker_cores(),
        "tool_us_each": run.own_microseconds_each(),
        "tool_cores": run.own_cores(),
        "tool_bound": run.tool_was_the_bottleneck(),
        "others_cores": run.others_cores,
        "stolen_cores": run.stolen_cores,
        "disturbed": run.is_disturbed(),
        "bytes_per_connection": run.bytes_each(),
        "resident_bytes": run.resident_bytes,
    })
}

fn times(run: &Outcome) -> Value {
    let microseconds =
        |latencies: &Latencies, percent| latencies.percentile(percent).as_secs_f64() * 1e6;
    let percentile = |percent| microseconds(&run.latencies, percent);
    let acknowledgements = Some(&run.acknowledgements).filter(|times| times.count() > 0);
    let acknowledged = |percent| acknowledgements.map(|times| microseconds(times, percent));
    json!({
        "p50_us": percentile(50.0),
        "p90_us": percentile(90.0),
        "p99_us": percentile(99.0),
        "p99_9_us": percentile(99.9),
        "p99_99_us": percentile(99.99),
        "max_us": run.latencies.max().as_secs_f64() * 1e6,
        "acknowledged_p50_us": acknowledged(50.0),
        "acknowledged_p99_us": acknowledged(99.0),
    })
}

fn disk(used: Option<&DiskUse>) -> Value {
    let alone = used.and_then(|used| used.alone);
    json!({
        "taken_in_per_second": used.map(DiskUse::messages_per_second),
        "written_bytes_each": used.and_then(DiskUse::written_bytes_each),
        "syncs_per_second": used.and_then(DiskUse::syncs_per_second),
        "messages_per_sync": used.and_then(DiskUse::messages_per_sync),
        "disk_alone_per_second": used.and_then(DiskUse::allowed_per_second),
        "disk_alone_p50_us": alone.map(|alone| alone.p50.as_secs_f64() * 1e6),
        "disk_alone_p99_us": alone.map(|alone| alone.p99.as_secs_f64() * 1e6),
        "disk_alone_wait_p50_us": alone.map(|alone| alone.wait_p50.as_secs_f64() * 1e6),
        "disk_alone_wait_p99_us": alone.map(|alone| alone.wait_p99.as_secs_f64() * 1e6),
    })
}
