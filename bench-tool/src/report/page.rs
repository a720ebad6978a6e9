//! One self-contained page: the ratios, the charts, and what it takes to repeat the run.

use std::fmt::Write as _;

use serde_json::Value;

use super::chart::escape;
use super::files::Report;
use super::summary::{Summary, less};

const STYLE: &str = ":root{color-scheme:light dark;--ink:#1f2328;--faint:#59636e;--line:#d1d9e0;--ground:#fff;--box:#f6f8fa;--best:#1a7f37}@media(prefers-color-scheme:dark){:root{--ink:#f0f6fc;--faint:#9198a1;--line:#3d444d;--ground:#0d1117;--box:#151b23;--best:#3fb950}}*{box-sizing:border-box}body{max-width:1140px;margin:2.5rem auto;padding:0 1.25rem;font:15px/1.55 system-ui,sans-serif;background:var(--ground);color:var(--ink)}h1{font-size:1.7rem;margin:0}h2{font-size:1.2rem;margin:2.5rem 0 .5rem}p{margin:.4rem 0;color:var(--faint)}p.problem{color:var(--ink);font-weight:600}table{border-collapse:collapse;width:100%;font-size:14px;font-variant-numeric:tabular-nums}th,td{padding:.4rem .7rem;border-bottom:1px solid var(--line);text-align:right}th:first-child,td:first-child{text-align:left}th{font-weight:600}td small{color:var(--faint)}td.best{color:var(--best);font-weight:600}.wide{overflow-x:auto}svg{display:block;width:100%;height:auto;margin:1.5rem 0}.two{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,460px),1fr));gap:1.5rem 2.5rem}.two svg{margin:.5rem 0}pre{overflow-x:auto;font-size:12px;line-height:1.45;background:var(--box);padding:1rem;border-radius:6px}details{margin:.6rem 0}summary{cursor:pointer}";

/// Builds the page from the charts, by file name, and what `about` says about the run.
pub(super) fn build(report: &Report<'_>, about: &Value, charts: &[(String, String)]) -> String {
    let title = "sluice-bench: what brokers spend";
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title><style>{STYLE}</style>\n<h1>{title}</h1>\n<p>{}</p>\n",
        escape(&machine(about))
    );
    let _ = write!(page, "<div class=\"wide\">{}</div>\n{}", figures(report), remarks(report));
    let (latencies, others): (Vec<_>, Vec<_>) =
        charts.iter().partition(|(name, _)| name.starts_with("latency-"));
    if !others.is_empty() {
        page.push_str("<h2>What it costs the broker, and how much it does</h2>\n");
        others.iter().for_each(|(_, svg)| page.push_str(svg));
    }
    if !latencies.is_empty() {
        page.push_str("<h2>Latency</h2>\n<p>Each step to the right is ten times as rare; both axes are logarithmic. Beside each name stands its median. Where so many messages are outstanding, latency follows from throughput: compare it where the rate is fixed, or where one is outstanding. A curve is of the messages of all undisturbed runs, where the tables have the median of what the runs have each.</p>\n<div class=\"two\">\n");
        latencies.iter().for_each(|(_, svg)| page.push_str(svg));
        page.push_str("</div>\n");
    }
    let _ = write!(
        page,
        "<h2>As text</h2>\n<pre>{}</pre>\n<h2>To repeat it</h2>\n{}</html>\n",
        escape(report.text.trim()),
        repeat(about)
    );
    page
}

fn machine(about: &Value) -> String {
    let word = |name: &str| about.get(name).map(plain).unwrap_or_default();
    format!(
        "{}, {} cores, {}; {}, kernel {}; {}; {}",
        word("cpu"),
        word("cores"),
        word("memory"),
        word("system"),
        word("kernel"),
        word("tool"),
        word("started")
    )
}

/// The table of headlines, with ratios in the cells.
fn figures(report: &Report<'_>) -> String {
    let (targets, scenarios) = (report.targets(), report.scenarios());
    let mut table =
        String::from("<table><tr><th>CPU time of the broker per message, or as named</th>");
    for target in &targets {
        let mark = if Some(target.as_str()) == report.baseline { " (baseline)" } else { "" };
        let _ = write!(table, "<th>{}{mark}</th>", escape(target));
    }
    table.push_str("</tr>\n");
    for scenario in &scenarios {
        let summaries: Vec<Option<Summary>> =
            targets.iter().map(|target| Summary::of(report.runs(scenario, target))).collect();
        let baseline = targets.iter().position(|target| Some(target.as_str()) == report.baseline);
        let baseline = baseline.and_then(|column| summaries[column].clone());
        let unit = summaries.iter().flatten().next().map_or("", |one| one.median.what());
        let _ = write!(table, "<tr><td>{} <small>{unit}</small></td>", escape(scenario));
        for (target, summary) in targets.iter().zip(&summaries) {
            let Some(summary) = summary else {
                table.push_str("<td>–</td>");
                continue;
            };
            let is_baseline = Some(target.as_str()) == report.baseline;
            let ratio = baseline.as_ref().filter(|_| !is_baseline);
            let ratio = ratio.and_then(|baseline| summary.ratio(baseline));
            let shown = ratio.map_or_else(String::new, |ratio| format!("<br>{}", less(ratio)));
            let class = if ratio.is_some_and(|ratio| ratio > 1.0) { " class=\"best\"" } else { "" };
            let _ = write!(table, "<td{class}>{}{shown}</td>", escape(&summary.show()));
        }
        table.push_str("</tr>\n");
    }
    table + "</table>"
}

fn remarks(report: &Report<'_>) -> String {
    let runs = || report.entries.iter().flat_map(|entry| entry.runs);
    let mut text = String::new();
    if report.entries.iter().any(|entry| entry.runs.len() > 1) {
        text += "<p>Medians of several runs; ± is half the distance between the lowest and the highest of them.</p>\n";
    }
    if let Some(baseline) = report.baseline {
        let baseline = escape(baseline);
        let _ = writeln!(text, "<p>\"2× less\" reads: {baseline} spends twice as much.</p>");
    }
    let disturbed = runs().filter(|run| run.is_disturbed()).count();
    if disturbed > 0 {
        let all = runs().count();
        let _ = writeln!(
            text,
            "<p>{disturbed} of {all} runs were disturbed by other processes or by the machine's host. Figures are of the others; where there are none, they are marked with ~ and may be worse than the broker's.</p>"
        );
    }
    for entry in report.entries {
        for problem in entry.runs.iter().flat_map(|run| &run.problems) {
            let (scenario, target) = (escape(entry.scenario), escape(entry.target));
            let problem = escape(&problem.to_string());
            let _ = writeln!(text, "<p class=\"problem\">{scenario}, {target}: {problem}</p>");
        }
    }
    text
}

fn repeat(about: &Value) -> String {
    let mut rows = String::from("<div class=\"wide\"><table>");
    let mut folded = String::new();
    for (name, value) in about.as_object().into_iter().flatten() {
        if value.is_object() || value.as_str().is_some_and(|text| text.contains('\n')) {
            let text = value.as_str().map_or_else(|| format!("{value:#}"), str::to_owned);
            let (name, text) = (escape(name), escape(&text));
            let _ =
                writeln!(folded, "<details><summary>{name}</summary><pre>{text}</pre></details>");
        } else {
            let value = escape(&plain(value));
            let _ = write!(rows, "<tr><td>{}</td><td>{value}</td></tr>", escape(name));
        }
    }
    format!("{rows}</table></div>\n{folded}")
}

/// A value as a person writes it.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(words) => words.iter().map(plain).collect::<Vec<_>>().join(" "),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}
