//! Charts as SVG, readable on light and on dark ground.

use std::fmt::Write as _;
use std::time::Duration;

use super::short;

const WIDTH: f64 = 860.0;

/// Follows the reader's light or dark setting, in a file of its own and within a page.
const STYLE: &str = "<style>.t{fill:#1f2328;font:600 15px system-ui,sans-serif}.n{fill:#1f2328;font:600 13px system-ui,sans-serif}.m{fill:#59636e;font:13px system-ui,sans-serif}.v{fill:#1f2328;font:13px system-ui,sans-serif}.g{stroke:#d1d9e0;stroke-width:1;fill:none}.c0{fill:#0969da}.c1{fill:#bf5700}.c2{fill:#848d97}.c3{fill:#1a7f37}.c4{fill:#8250df}.l0{stroke:#0969da}.l1{stroke:#bf5700}.l2{stroke:#848d97}.l3{stroke:#1a7f37}.l4{stroke:#8250df}.l{fill:none;stroke-width:2.2;stroke-linejoin:round}@media(prefers-color-scheme:dark){.t,.n,.v{fill:#f0f6fc}.m{fill:#9198a1}.g{stroke:#3d444d}.c0{fill:#4493f8}.c1{fill:#f0883e}.c2{fill:#818b98}.c3{fill:#3fb950}.c4{fill:#ab7df8}.l0{stroke:#4493f8}.l1{stroke:#f0883e}.l2{stroke:#818b98}.l3{stroke:#3fb950}.l4{stroke:#ab7df8}}</style>";

const COLOURS: usize = 5;

/// Percentiles that are named on the horizontal axis: each step is ten times as rare.
const STEPS: [(&str, f64); 5] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999)];

/// One group of bars.
pub(crate) struct Group {
    pub(crate) name: String,
    /// By series: the value and how it is written.
    pub(crate) values: Vec<Option<(f64, String)>>,
}

/// Groups of horizontal bars; each group has a scale of its own, as scenarios differ by orders of magnitude.
pub(crate) fn bars(title: &str, note: &str, series: &[String], groups: &[Group]) -> String {
    const BAR: f64 = 14.0;
    const STEP: f64 = 20.0;
    const ROOM_FOR_VALUE: f64 = 230.0;
    let left =
        16.0 + 7.5 * series.iter().map(|name| name.chars().count()).max().unwrap_or(0) as f64;
    let mut body = format!("<text class=\"m\" x=\"0\" y=\"38\">{}</text>", escape(note));
    let mut y = 72.0;
    for group in groups {
        let values = group.values.iter().flatten().map(|(value, _)| *value);
        let highest = values.fold(f64::MIN_POSITIVE, f64::max);
        let name = escape(&group.name);
        let _ = write!(body, "<text class=\"n\" x=\"0\" y=\"{y:.0}\">{name}</text>");
        y += 8.0;
        for (index, value) in group.values.iter().enumerate() {
            let Some((value, shown)) = value else { continue };
            let width = (value / highest * (WIDTH - left - ROOM_FOR_VALUE)).max(1.5);
            let (colour, baseline) = (index % COLOURS, y + 11.5);
            let name = escape(series.get(index).map_or("", String::as_str));
            let _ = write!(
                body,
                "<text class=\"m\" x=\"0\" y=\"{baseline:.1}\">{name}</text><rect class=\"c{colour}\" x=\"{left:.1}\" y=\"{y:.0}\" width=\"{width:.1}\" height=\"{BAR}\" rx=\"2\"/><text class=\"v\" x=\"{:.1}\" y=\"{baseline:.1}\">{}</text>",
                left + width + 8.0,
                escape(shown),
            );
            y += STEP;
        }
        y += 24.0;
    }
    frame(title, &body, WIDTH, y - 24.0)
}

/// Latencies of one series.
pub(crate) struct Line<'a> {
    pub(crate) name: &'a str,
    /// Place among all series of the report: its colour.
    pub(crate) index: usize,
    pub(crate) count: u64,
    /// The latency that a part (0 to 1) of the messages does not exceed.
    pub(crate) at: &'a dyn Fn(f64) -> Duration,
}

/// Latency percentiles on a log axis.
pub(crate) fn percentiles(title: &str, lines: &[Line<'_>]) -> String {
    const WIDTH: f64 = 640.0;
    const TOP: f64 = 66.0;
    const HEIGHT: f64 = 230.0;
    const LEFT: f64 = 64.0;
    const RIGHT: f64 = 30.0;
    let rarity = |part: f64| -(1.0 - part).log10();
    let (first, last) = (rarity(STEPS[0].1), rarity(STEPS[STEPS.len() - 1].1));
    let x_of = |rarity: f64| LEFT + (WIDTH - LEFT - RIGHT) * (rarity - first) / (last - first);
    let drawn: Vec<Vec<(f64, f64)>> = lines.iter().map(|line| points(line, first, last)).collect();
    let (low, high) = range(drawn.iter().flatten().map(|(_, log)| *log));
    let y_of = |log: f64| TOP + HEIGHT * (high - log) / (high - low);
    let mut body = String::new();
    for log in ticks(low, high) {
        let y = y_of(log);
        let shown = axis_label(log);
        let _ = write!(
            body,
            "<path class=\"g\" d=\"M{LEFT} {y:.1}H{:.0}\"/><text class=\"m\" text-anchor=\"end\" x=\"{:.0}\" y=\"{:.1}\">{shown}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            y + 4.5
        );
    }
    for (name, part) in STEPS {
        let x = x_of(rarity(part));
        let _ = write!(
            body,
            "<path class=\"g\" d=\"M{x:.1} {:.1}v6\"/><text class=\"m\" text-anchor=\"middle\" x=\"{x:.1}\" y=\"{:.1}\">{name}</text>",
            TOP + HEIGHT,
            TOP + HEIGHT + 22.0
        );
    }
    for (line, points) in lines.iter().zip(&drawn) {
        let points = points.iter().map(|(x, y)| format!("{:.1},{:.1}", x_of(*x), y_of(*y)));
        let points: Vec<String> = points.collect();
        let colour = line.index % COLOURS;
        let _ = write!(body, "<polyline class=\"l l{colour}\" points=\"{}\"/>", points.join(" "));
    }
    body.push_str(&legend(lines));
    frame(title, &body, WIDTH, TOP + HEIGHT + 30.0)
}

/// Rarity and the logarithm of microseconds, as far as there are messages enough to say.
fn points(line: &Line<'_>, first: f64, last: f64) -> Vec<(f64, f64)> {
    const POINTS: i32 = 48;
    let rarest = (line.count.max(1) as f64).log10().min(last);
    let steps = (0..=POINTS).map(|n| first + (last - first) * f64::from(n) / f64::from(POINTS));
    steps
        .filter(|rarity| *rarity <= rarest + 1e-9)
        .map(|rarity| {
            let latency = (line.at)(1.0 - 10f64.powf(-rarity));
            (rarity, (latency.as_secs_f64() * 1e6).max(1.0).log10())
        })
        .collect()
}

/// Lowest and highest value of an axis that holds all of these, ending at a tick each.
fn range(logs: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) =
        logs.fold((f64::MAX, f64::MIN), |(low, high), log| (low.min(log), high.max(log)));
    if low > high {
        return (0.0, 1.0);
    }
    let round = |log: f64, up: bool| {
        let decade = log.floor();
        let steps = [0.0, 2f64.log10(), 5f64.log10(), 1.0].map(|step| decade + step);
        let fits = |step: &f64| if up { *step >= log - 1e-9 } else { *step <= log + 1e-9 };
        if up {
            steps.into_iter().find(fits).unwrap_or(decade + 1.0)
        } else {
            steps.into_iter().rev().find(fits).unwrap_or(decade)
        }
    };
    let (low, high) = (round(low, false), round(high, true));
    if high - low < 0.9 { (low, low + 1.0) } else { (low, high) }
}

/// 1, 2 and 5 of every decade, or only 1 if there are many.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    let is_wide = high - low > 2.5;
    let decades = low.floor() as i32..=high.ceil() as i32;
    let all = decades
        .flat_map(|decade| [1.0f64, 2.0, 5.0].map(|step| (f64::from(decade) + step.log10(), step)));
    all.filter(|(log, step)| (low - 1e-9..=high + 1e-9).contains(log) && (!is_wide || *step == 1.0))
        .map(|(log, _)| log)
        .collect()
}

fn axis_label(log_microseconds: f64) -> String {
    let microseconds = 10f64.powf(log_microseconds).round();
    if microseconds < 1e3 {
        format!("{microseconds} µs")
    } else if microseconds < 1e6 {
        format!("{} ms", microseconds / 1e3)
    } else {
        format!("{} s", microseconds / 1e6)
    }
}

/// The series with their median and their 99th percentile.
fn legend(lines: &[Line<'_>]) -> String {
    let mut text = String::new();
    let mut x = 0.0;
    for line in lines {
        let colour = line.index % COLOURS;
        let shown = format!("{} {}", line.name, short((line.at)(0.5)));
        let _ = write!(
            text,
            "<rect class=\"c{colour}\" x=\"{x:.0}\" y=\"34\" width=\"12\" height=\"12\" rx=\"2\"/><text class=\"m\" x=\"{:.0}\" y=\"45\">{}</text>",
            x + 18.0,
            escape(&shown)
        );
        x += 36.0 + 7.2 * shown.chars().count() as f64;
    }
    text
}

/// Title and ground.
fn frame(title: &str, body: &str, width: f64, height: f64) -> String {
    let title = escape(title);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height:.0}\" role=\"img\" aria-label=\"{title}\">{STYLE}<text class=\"t\" x=\"0\" y=\"17\">{title}</text>{body}</svg>\n"
    )
}

pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_and_missing_values_left_out() {
        let values = vec![Some((2.0, "2".to_owned())), None];
        let group = Group { name: "a<b".into(), values };
        let svg = bars("t", "", &["x".into(), "y".into()], &[group]);
        assert!(svg.contains("a&lt;b"));
        assert_eq!(svg.matches("<rect").count(), 1);
    }

    #[test]
    fn a_chart_without_values_is_still_a_chart() {
        assert!(percentiles("t", &[]).ends_with("</svg>\n"));
    }

    #[test]
    fn a_line_ends_where_messages_are_too_few() {
        let at = |part: f64| Duration::from_micros((100.0 / (1.0 - part)) as u64);
        let line = |count| Line { name: "x", index: 0, count, at: &at };
        assert!(points(&line(1_000), 0.3, 4.0).last().unwrap().0 <= 3.0);
        assert!(points(&line(1_000_000), 0.3, 4.0).last().unwrap().0 >= 4.0);
    }

    #[test]
    fn an_axis_holds_all_values_and_has_ticks_to_read() {
        let (low, high) = range([120.0f64.log10(), 4_500.0f64.log10()].into_iter());
        let labels: Vec<String> = ticks(low, high).into_iter().map(axis_label).collect();
        assert_eq!(labels, ["100 µs", "200 µs", "500 µs", "1 ms", "2 ms", "5 ms"]);
        let (low, high) = range([3.0f64.log10(), 2e6f64.log10()].into_iter());
        let labels: Vec<String> = ticks(low, high).into_iter().map(axis_label).collect();
        assert_eq!(labels, ["10 µs", "100 µs", "1 ms", "10 ms", "100 ms", "1 s"]);
    }
}
