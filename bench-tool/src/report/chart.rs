//! Charts as SVG, readable on light and on dark ground.

use std::fmt::Write as _;

const WIDTH: f64 = 860.0;
const LABEL: f64 = 250.0;
const BAR: f64 = 16.0;

/// Follows the reader's light or dark setting, in a file of its own and within a page.
const STYLE: &str = "<style>.t{fill:#1f2328;font:13px system-ui,sans-serif}.m{fill:#59636e;font:12px system-ui,sans-serif}.g{stroke:#d1d9e0}.c0{fill:#0969da}.c1{fill:#bf5700}.c2{fill:#6e7781}.c3{fill:#1a7f37}.c4{fill:#8250df}.l0{stroke:#0969da}.l1{stroke:#bf5700}.l2{stroke:#6e7781}.l3{stroke:#1a7f37}.l4{stroke:#8250df}.l{fill:none;stroke-width:2}@media(prefers-color-scheme:dark){.t{fill:#f0f6fc}.m{fill:#9198a1}.g{stroke:#3d444d}.c0{fill:#4493f8}.c1{fill:#f0883e}.c2{fill:#9198a1}.c3{fill:#3fb950}.c4{fill:#ab7df8}.l0{stroke:#4493f8}.l1{stroke:#f0883e}.l2{stroke:#9198a1}.l3{stroke:#3fb950}.l4{stroke:#ab7df8}}</style>";

const COLOURS: usize = 5;

/// Percentiles of the horizontal axis: each step is ten times as rare.
const STEPS: [(&str, f64); 5] =
    [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9), ("p99.99", 99.99)];

/// One group of bars, a value for each series.
pub(crate) struct Group {
    pub(crate) name: String,
    /// By series: the value and how it is written.
    pub(crate) values: Vec<Option<(f64, String)>>,
}

/// Groups of horizontal bars; each group has a scale of its own, as scenarios differ by orders of magnitude.
pub(crate) fn bars(title: &str, series: &[String], groups: &[Group]) -> String {
    let mut body = String::new();
    let mut y = 62.0;
    for group in groups {
        let values = group.values.iter().flatten().map(|(value, _)| *value);
        let highest = values.fold(f64::MIN_POSITIVE, f64::max);
        let _ = write!(
            body,
            "<text class=\"t\" x=\"0\" y=\"{:.0}\">{}</text>",
            y + 12.0,
            escape(&group.name)
        );
        for (index, value) in group.values.iter().enumerate() {
            let Some((value, shown)) = value else { continue };
            let width = (value / highest * (WIDTH - LABEL - 120.0)).max(1.0);
            let colour = index % COLOURS;
            let _ = write!(
                body,
                "<rect class=\"c{colour}\" x=\"{LABEL}\" y=\"{y:.0}\" width=\"{width:.1}\" height=\"{:.0}\" rx=\"2\"/><text class=\"m\" x=\"{:.1}\" y=\"{:.0}\">{}</text>",
                BAR - 3.0,
                LABEL + width + 6.0,
                y + 11.0,
                escape(shown),
            );
            y += BAR;
        }
        y += 12.0;
    }
    frame(title, series, &body, y)
}

/// Latency percentiles, in microseconds on a log axis; a line for each series.
pub(crate) fn percentiles(
    title: &str,
    series: &[String],
    value: impl Fn(usize, f64) -> Option<f64>,
) -> String {
    const TOP: f64 = 62.0;
    const HEIGHT: f64 = 240.0;
    const LEFT: f64 = 70.0;
    let lines: Vec<Vec<f64>> = (0..series.len())
        .map(|one| STEPS.iter().filter_map(|(_, percent)| value(one, *percent)).collect())
        .collect();
    let all = || lines.iter().flatten().map(|value| value.max(1.0).log10());
    let low = all().fold(f64::MAX, f64::min).min(9.0).floor();
    let high = all().fold(low + 1.0, f64::max).ceil();
    let y_of = |log: f64| TOP + HEIGHT * (high - log) / (high - low);
    let x_of = |step: usize| LEFT + (WIDTH - LEFT - 60.0) * step as f64 / (STEPS.len() - 1) as f64;
    let mut body = String::new();
    for decade in low as i32..=high as i32 {
        let y = y_of(f64::from(decade));
        let shown = super::short(std::time::Duration::from_secs_f64(10f64.powi(decade) / 1e6));
        let _ = write!(
            body,
            "<path class=\"g\" d=\"M{LEFT} {y:.1}H{:.0}\"/><text class=\"m\" x=\"0\" y=\"{:.1}\">{shown}</text>",
            WIDTH - 40.0,
            y + 4.0
        );
    }
    for (step, (name, _)) in STEPS.iter().enumerate() {
        let _ = write!(
            body,
            "<text class=\"m\" text-anchor=\"middle\" x=\"{:.0}\" y=\"{:.0}\">{name}</text>",
            x_of(step),
            TOP + HEIGHT + 20.0
        );
    }
    for (index, line) in lines.iter().enumerate() {
        let point = |(step, value): (usize, &f64)| {
            format!("{:.1},{:.1}", x_of(step), y_of(value.max(1.0).log10()))
        };
        let points: Vec<String> = line.iter().enumerate().map(point).collect();
        let colour = index % COLOURS;
        let _ = write!(body, "<polyline class=\"l l{colour}\" points=\"{}\"/>", points.join(" "));
    }
    frame(title, series, &body, TOP + HEIGHT + 32.0)
}

/// Title, legend and ground.
fn frame(title: &str, series: &[String], body: &str, height: f64) -> String {
    let title = escape(title);
    let mut legend = String::new();
    let mut x = 0.0;
    for (index, name) in series.iter().enumerate() {
        let colour = index % COLOURS;
        let _ = write!(
            legend,
            "<rect class=\"c{colour}\" x=\"{x:.0}\" y=\"32\" width=\"12\" height=\"12\" rx=\"2\"/><text class=\"m\" x=\"{:.0}\" y=\"43\">{}</text>",
            x + 18.0,
            escape(name)
        );
        x += 44.0 + 8.0 * name.chars().count() as f64;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" aria-label=\"{title}\">{STYLE}<text class=\"t\" x=\"0\" y=\"18\" font-weight=\"bold\">{title}</text>{legend}{body}</svg>\n"
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
        let svg = bars("t", &["x".into(), "y".into()], &[group]);
        assert!(svg.contains("a&lt;b"));
        assert_eq!(svg.matches("rx=\"2\"").count(), 3);
    }

    #[test]
    fn a_chart_without_values_is_still_a_chart() {
        assert!(percentiles("t", &["x".into()], |_, _| None).ends_with("</svg>\n"));
    }
}
