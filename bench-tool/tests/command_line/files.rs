//! What `--out` writes: a page with its charts, JSON, CSV, percentile files.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::compare::FILE;
use super::*;

/// Runs the comparison with `--out`. Returns the file that says what is compared, too.
fn written(directory: &Path) -> (String, String) {
    let version =
        "{port}\"]\nversion = [\"{self}\", \"--version\"]\n[[target]]\nname = \"nowhere\"";
    let text = FILE.replace("{port}\"]\n[[target]]\nname = \"nowhere\"", version);
    let text = text.replace("clients = 10", "clients = 400");
    let (file, out) = (directory.join("compare.toml"), directory.join("out"));
    fs::write(&file, &text).unwrap();
    let (file, shown) = (file.to_str().unwrap(), out.to_str().unwrap());
    let output = run(&["compare", file, "--quick", "--out", shown]);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{errors}");
    assert!(errors.contains("nowhere: skipped, no-such-broker is not installed"), "{errors}");
    (file.to_owned(), text)
}

#[test]
fn a_quick_comparison_writes_everything() {
    let directory = tempfile::tempdir().unwrap();
    let (file, configuration) = written(directory.path());
    let out = directory.path().join("out");
    let read = |name: &str| fs::read_to_string(out.join(name)).unwrap();
    let mut names: Vec<String> = fs::read_dir(&out)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let charts =
        ["cpu.svg", "latency-idle.svg", "latency-pairs.svg", "memory.svg", "throughput.svg"];
    let others =
        ["idle-floor.hgrm", "pairs-floor.hgrm", "report.html", "result.csv", "result.json"];
    let mut expected = [charts, others].concat();
    expected.sort_unstable();
    assert_eq!(names, expected);

    let page = read("report.html");
    assert_eq!(page.matches("<svg ").count(), charts.len());
    for chart in charts {
        let svg = read(chart);
        assert!(page.contains(svg.trim()), "{chart}");
        assert!(svg.contains("floor") && svg.trim_end().ends_with("</svg>"), "{chart}");
        assert_is_light_and_dark(&svg);
        assert_leads_nowhere(&svg);
    }
    assert!(page.contains("color-scheme:light dark"));
    assert_is_light_and_dark(&page);
    assert_leads_nowhere(&page);

    let json: Value = serde_json::from_str(&read("result.json")).unwrap();
    assert_tells_how_to_repeat_it(&json["about"], &file, &configuration);
    assert_is_the_same(&read("result.csv"), &json);
    assert_eq!(last_total(&read("pairs-floor.hgrm")), delivered(&json, "pairs"));
    assert_eq!(last_total(&read("idle-floor.hgrm")), delivered(&json, "idle"));
}

fn assert_is_light_and_dark(text: &str) {
    assert!(text.contains("@media(prefers-color-scheme:dark)"), "{text}");
}

/// Nothing is fetched from anywhere.
fn assert_leads_nowhere(text: &str) {
    for way in ["src=", "href=", "url(", "action=", "@import", "http-equiv", "<script", "<link"] {
        for (at, _) in text.match_indices(way) {
            let target = text[at + way.len()..].trim_start_matches(['"', '\'', ' ']);
            let is_within = target.starts_with('#') || target.starts_with("data:");
            assert!(is_within, "{}", &text[at..text.len().min(at + 80)]);
        }
    }
}

fn assert_tells_how_to_repeat_it(about: &Value, file: &str, configuration: &str) {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(about["kernel"], kernel.trim());
    let this = concat!("sluice-bench ", env!("CARGO_PKG_VERSION"));
    assert_eq!(about["tool"], this);
    assert_eq!(about["versions"]["floor"], this);
    let arguments: Vec<&str> =
        about["arguments"].as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect();
    assert_eq!(arguments[..4], [PROGRAM, "compare", file, "--quick"]);
    assert_eq!(about["file"], file);
    assert_eq!(about["configuration"], configuration);
    for name in ["system", "cpu", "cores", "memory", "started", "profile"] {
        assert!(about[name].as_str().is_none_or(|text| !text.is_empty()), "{name}");
        assert!(!about[name].is_null(), "{name}");
    }
}

/// The cells of each line; what is quoted may hold commas and doubled quotes.
fn cells(csv: &str) -> Vec<Vec<String>> {
    let cells = |line: &str| {
        let mut cells = vec![String::new()];
        let mut is_quoted = false;
        let mut chars = line.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '"' if is_quoted && chars.peek() == Some(&'"') => {
                    chars.next();
                    cells.last_mut().unwrap().push('"');
                }
                '"' => is_quoted = !is_quoted,
                ',' if !is_quoted => cells.push(String::new()),
                c => cells.last_mut().unwrap().push(c),
            }
        }
        assert!(!is_quoted, "{line}");
        cells
    };
    csv.lines().map(cells).collect()
}

/// The CSV has a line for each run of the JSON, and in each what it takes to repeat it.
fn assert_is_the_same(csv: &str, json: &Value) {
    let cells = cells(csv);
    let (names, lines) = cells.split_first().unwrap();
    let runs = json["runs"].as_array().unwrap();
    assert_eq!((lines.len(), runs.len()), (4, 4));
    let about = &json["about"];
    for (line, run) in lines.iter().zip(runs) {
        assert_eq!(line.len(), names.len());
        for (name, cell) in names.iter().zip(line) {
            let value = match name.as_str() {
                "target_version" => &about["versions"]["floor"],
                name => run.get(name).unwrap_or(&about[name]),
            };
            let shown = match value {
                Value::Null => String::new(),
                Value::String(text) => text.clone(),
                Value::Array(words) => {
                    words.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
                }
                // The last digit may be lost on the way.
                Value::Number(number) if number.is_f64() => {
                    let (cell, number) = (cell.parse::<f64>().unwrap(), number.as_f64().unwrap());
                    assert!((cell - number).abs() <= number.abs() * 1e-12, "{name}");
                    continue;
                }
                other => other.to_string(),
            };
            assert_eq!(*cell, shown, "{name}");
        }
    }
    for name in ["scenario", "target", "target_version", "kernel", "arguments", "tool_us_each"] {
        assert!(names.iter().any(|one| one == name), "{name}");
    }
}

/// Messages delivered, or connections let in, in the runs of a scenario that figures are taken from.
fn delivered(json: &Value, scenario: &str) -> u64 {
    let runs = json["runs"].as_array().unwrap().iter();
    let runs = runs.filter(|run| run["scenario"] == scenario);
    let (disturbed, quiet): (Vec<&Value>, Vec<&Value>) =
        runs.partition(|run| run["disturbed"].as_bool().unwrap());
    let chosen = if quiet.is_empty() { disturbed } else { quiet };
    chosen.into_iter().map(|run| run["count"].as_u64().unwrap()).sum()
}

/// How many values the last line of a percentile file stands for.
fn last_total(text: &str) -> u64 {
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("       Value     Percentile TotalCount 1/(1-Percentile)"));
    let mut values = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    let last: Vec<&str> = values.next_back().unwrap().split_whitespace().collect();
    assert_eq!(last[1], "1.000000000000");
    last[2].parse().unwrap()
}
