//! `tests/broker/NORMATIVE.md` says which test shows what of the specifications. This holds it to the
//! tests it names, and the statements that tests and sources cite to it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What may stand in the last column beside the names of tests.
const WORDS: [&str; 5] = [
    "client",
    "transport, not here",
    "none sent",
    "no connections to others, not here",
    "`tests/interop`",
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A row of one of the tables.
#[derive(Debug, PartialEq, Eq)]
struct Row<'a> {
    section: &'a str,
    statement: &'a str,
    tests: &'a str,
}

fn rows(page: &str) -> Vec<Row<'_>> {
    let mut rows = Vec::new();
    let mut section = "";
    for line in page.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            section = title;
        }
        let Some(cells) = line.strip_prefix("| ").and_then(|line| line.strip_suffix(" |")) else {
            continue;
        };
        let cells: Vec<&str> = cells.split(" | ").collect();
        assert_eq!(cells.len(), 3, "three columns: {line}");
        if !["statement", "section"].contains(&cells[0]) {
            rows.push(Row { section, statement: cells[0], tests: cells[2] });
        }
    }
    rows
}

/// The tests a row names: all that stands in backquotes and is no path alone.
fn named_tests(tests: &str) -> Vec<&str> {
    tests.split('`').skip(1).step_by(2).filter(|name| name.contains("::")).collect()
}

/// Where a test's source is: `qos::x` in `tests/broker/qos.rs`, others name their file.
fn source_of(test: &str) -> Option<(PathBuf, &str)> {
    let (place, function) = test.rsplit_once("::")?;
    let path = match Path::new(place).extension() {
        Some(_) => root().join(place),
        None => root().join("tests/broker").join(place).with_extension("rs"),
    };
    Some((path, function))
}

/// Whether `source` has a function of this name that the test harness calls, be it through one of
/// the macros of `tests/common/cases.rs` or of proptest.
fn has_test(source: &str, function: &str) -> bool {
    let lines: Vec<&str> = source.lines().map(str::trim_start).collect();
    let head = format!("fn {function}(");
    let attributed = |at: usize| {
        lines[..at]
            .iter()
            .rev()
            .take_while(|line| line.starts_with(['#', '/']))
            .any(|line| *line == "#[test]")
    };
    let defined = lines.iter().position(|line| line.starts_with(&head));
    let called = ["versions", "shards"].into_iter().any(|name| {
        let call = format!("{name}!({function}");
        lines
            .iter()
            .any(|line| line.strip_prefix(&call).is_some_and(|rest| rest.starts_with([')', ','])))
    });
    defined.is_some_and(|at| attributed(at) || called)
}

/// Whether a test runs with a version of the protocol, as far as its source tells: by the macro that calls
/// it, or by the versions it names itself.
fn runs_with(source: &str, function: &str, version: &str) -> bool {
    let call = format!("versions!({function}");
    let cases = source.lines().find_map(|line| line.strip_prefix(&call));
    if let Some(cases) = cases {
        return match version {
            "V5" => cases != ", 3.x);",
            "V311" => true,
            _ => cases != ", from 3.1.1);",
        };
    }
    let head = format!("fn {function}(");
    let body = source.split_once(&head).map_or("", |(_, rest)| rest);
    let body = body.split("\n}").next().unwrap_or(body);
    let words = || body.split(|c: char| !c.is_ascii_alphanumeric());
    let names = |name: &str| words().any(|word| word == name);
    names(version) || !["V5", "V311", "V31"].into_iter().any(names)
}

/// The statements a text cites, as `MQTT-1.2.3-4` in brackets.
fn cited(text: &str) -> BTreeSet<String> {
    text.split("[MQTT-")
        .skip(1)
        .filter_map(|rest| rest.split_once(']'))
        .map(|(number, _)| format!("MQTT-{number}"))
        .collect()
}

fn rust_files(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap_or_else(|error| panic!("{directory:?}: {error}")) {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

#[test]
fn every_row_names_tests_that_exist() {
    let page = read(&root().join("tests/broker/NORMATIVE.md"));
    let mut wrong = Vec::new();
    for row in rows(&page) {
        let tests = named_tests(row.tests);
        if tests.is_empty() && !WORDS.contains(&row.tests) {
            wrong.push(format!("{}: {:?} is neither tests nor a reason", row.statement, row.tests));
        }
        for test in tests {
            let exists = source_of(test)
                .is_some_and(|(path, function)| path.exists() && has_test(&read(&path), function));
            if !exists {
                wrong.push(format!("{}: there is no test {test}", row.statement));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Appendices B have 251 and 141 statements.
#[test]
fn every_statement_is_there_once() {
    let page = read(&root().join("tests/broker/NORMATIVE.md"));
    let rows = rows(&page);
    for (section, count) in [("5.0", 251), ("3.1.1", 141)] {
        let statements: Vec<&str> =
            rows.iter().filter(|row| row.section == section).map(|row| row.statement).collect();
        let unique: BTreeSet<&str> = statements.iter().copied().collect();
        assert_eq!(statements.len(), unique.len(), "{section}: a statement stands there twice");
        assert_eq!(statements.len(), count, "{section}");
    }
}

#[test]
fn every_citation_is_a_statement() {
    let page = read(&root().join("tests/broker/NORMATIVE.md"));
    let known: BTreeSet<String> = rows(&page).iter().map(|row| row.statement.to_owned()).collect();
    let mut files = Vec::new();
    for directory in ["src", "tests"] {
        rust_files(&root().join(directory), &mut files);
    }
    let mut wrong = Vec::new();
    // This file's own are none.
    for path in files.iter().filter(|path| !path.ends_with("tests/normative.rs")) {
        for statement in cited(&read(path)).difference(&known) {
            wrong.push(format!("{}: {statement} is no statement", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_row_has_a_test_that_runs_with_its_version() {
    let page = read(&root().join("tests/broker/NORMATIVE.md"));
    let mut wrong = Vec::new();
    for row in rows(&page) {
        let version = match row.section {
            "5.0" => "V5",
            "3.1.1" => "V311",
            "3.1" => "V31",
            _ => continue,
        };
        let sources = named_tests(row.tests).into_iter().filter_map(source_of);
        let mut runs = sources.map(|(path, test)| runs_with(&read(&path), test, version));
        if !named_tests(row.tests).is_empty() && !runs.any(|runs| runs) {
            wrong.push(format!("{} {}: {}", row.section, row.statement, row.tests));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_test_is_known_by_its_attribute_or_its_macro() {
    let source = "/// Says.\n#[test]\nfn plain() {}\n\nfn helper() {}\n\nfn cased(v: Version) {}\nversions!(cased, 3.x);\n";
    assert!(has_test(source, "plain") && has_test(source, "cased"));
    assert!(!has_test(source, "helper") && !has_test(source, "case") && !has_test(source, "none"));
    assert_eq!(cited("[MQTT-3.1.2-1], (3.1.1) [MQTT-1.5.3-1]").len(), 2);
    assert_eq!(named_tests("client, `a::b`, `tests/interop`"), ["a::b"]);
    for (version, runs) in [("V5", false), ("V311", true), ("V31", true)] {
        assert_eq!(runs_with(source, "cased", version), runs);
        assert!(runs_with(source, "plain", version), "it names none");
    }
    assert!(!runs_with("fn a() {\n    V31;\n}\nfn b() {\n    V5;\n}\n", "a", "V5"));
}
