//! A module imports only from lower layers. This reads every `crate::` path of the source, tests
//! and comments aside, and names the module that climbed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The modules and their layers, as ARCHITECTURE.md has them, and two that are to come (`cluster`,
/// `admin`). `lib.rs` and `main.rs` are the roof and stand above them all.
const LAYERS: [(&str, u8); 14] = [
    ("chunks", 0),
    ("timer", 1),
    ("mqtt", 2),
    ("session", 3),
    ("router", 3),
    ("hooks", 3),
    ("net", 4),
    ("auth", 4),
    ("store", 4),
    ("shard", 5),
    ("cluster", 5),
    ("admin", 6),
    ("config", 6),
    ("server", 7),
];

fn layer(module: &str) -> Option<u8> {
    LAYERS.iter().find(|(name, _)| *name == module).map(|(_, layer)| *layer)
}

/// What a file of `module` does that it may not.
fn climbs(module: &str, source: &str) -> Vec<String> {
    let Some(own) = layer(module) else {
        return vec![format!("{module} has no layer; give it one here and in ARCHITECTURE.md")];
    };
    let mut wrong = Vec::new();
    for target in imports(source) {
        match layer(&target) {
            _ if target == module => {}
            Some(other) if other < own => {}
            Some(other) => {
                wrong.push(format!("{module} (layer {own}) imports {target} (layer {other})"));
            }
            None => wrong.push(format!("{module} imports crate::{target}, which is no module")),
        }
    }
    wrong
}

/// The first names after `crate::`, also of `crate::{a, b::c}`.
fn imports(source: &str) -> BTreeSet<String> {
    let code = without_comments_and_texts(source);
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = code[at + "crate::".len()..].trim_start();
        match rest.strip_prefix('{') {
            Some(group) => names.extend(heads(group)),
            None => names.extend(name(rest)),
        }
    }
    names
}

/// The first names of each path in a group, up to its closing brace.
fn heads(group: &str) -> Vec<String> {
    let mut depth = 0;
    let mut start = 0;
    let mut heads = Vec::new();
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                heads.extend(name(&group[start..at]));
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                heads.extend(name(&group[start..at]));
                start = at + 1;
            }
            _ => {}
        }
    }
    heads
}

fn name(text: &str) -> Option<String> {
    let text = text.trim_start();
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    (end > 0).then(|| text[..end].to_owned())
}

/// The code with comments and the insides of texts taken out. Raw texts are taken as plain ones,
/// which is right as long as they hold no quotes.
fn without_comments_and_texts(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(c) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if c == '"' {
            text_len(rest)
        } else if rest.starts_with("'\"'") {
            3
        } else if rest.starts_with("'\\\"'") {
            4
        } else {
            code.push(c);
            c.len_utf8()
        };
        rest = &rest[skipped..];
    }
    code
}

/// The length of the text at the beginning of `rest`, quotes included.
fn text_len(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// Every source file below `dir`.
fn sources(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.expect("an entry of the directory").path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

#[test]
fn modules_import_only_from_lower_layers() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    for file in sources(&src) {
        let path = file.strip_prefix(&src).expect("it is below src");
        let first = path.components().next().expect("it has a name").as_os_str();
        let module = first.to_string_lossy().trim_end_matches(".rs").to_owned();
        if module == "lib" || module == "main" {
            continue;
        }
        let source = fs::read_to_string(&file).expect("it can be read");
        for climb in climbs(&module, &source) {
            wrong.push(format!("src/{}: {climb}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn who_climbs_is_named() {
    assert_eq!(climbs("session", "use crate::mqtt::QoS; use crate::timer::Time;"), [""; 0]);
    assert_eq!(climbs("session", "use crate::session::queue;"), [""; 0]);
    assert_eq!(climbs("mqtt", "use crate::timer::Time;"), [""; 0]);
    let up = ["router (layer 3) imports shard (layer 5)"];
    assert_eq!(climbs("router", "use crate::shard::Turn;"), up);
    assert_eq!(climbs("router", "pub(crate) use crate::{mqtt, shard::{Turn, net}};"), up);
    assert_eq!(climbs("router", "use crate::{\n    shard,\n};"), up);
    assert_eq!(climbs("router", "fn f() { crate::shard::run() }"), up);
    assert_eq!(climbs("router", "let a = \"//\"; crate::shard::run()"), up);
    assert_eq!(climbs("router", "use crate::session::X;").len(), 1, "sideways is not down");
    assert_eq!(climbs("server", "use crate::{config::Config, shard, net};"), [""; 0]);
    assert_eq!(climbs("router", "use crate::Broker;").len(), 1);
    assert_eq!(climbs("unheard_of", "").len(), 1);
}

#[test]
fn comments_and_texts_do_not_count() {
    let source =
        "// crate::shard\n/// [`crate::shard`]\n/* crate::shard */ let a = \"crate::shard\";";
    assert_eq!(climbs("mqtt", source), [""; 0]);
    assert_eq!(climbs("mqtt", "let q = '\"'; use mycrate::shard; let r = '\\\"';"), [""; 0]);
}
