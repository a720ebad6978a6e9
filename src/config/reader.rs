//! Reads keys from the file and the environment, and remembers where each came from.
//!
//! The schema visits the reader with one call a key (see [`super::keys`]). Each call takes its value
//! out of the file's table and out of the environment; what is left in the end is unknown.

use std::collections::BTreeMap;
use std::{fmt, mem};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Origin, Origins};
use super::schema::Config;
use super::syntax;
use super::value::{Given, Kind};

/// What the variables that override a key begin with.
pub(super) const PREFIX: &str = "SLUICE_";

/// What is still to be read.
pub(super) struct Reader<'a> {
    file_name: &'a str,
    text: &'a str,
    /// What nobody has asked for yet in the section at hand.
    table: DeTable<'a>,
    /// Where the section at hand begins, if it is in the file, for what is missing in it.
    section_start: Option<usize>,
    /// The section at hand with a dot at its end, or nothing.
    path: String,
    /// The same for the names of variables.
    variable_path: String,
    /// The keys asked for in the section at hand.
    asked: Vec<&'static str>,
    /// These with what they are, as it is written in the file.
    shown: Vec<String>,
    variables: BTreeMap<String, String>,
    /// What flags say, by key.
    flags: Vec<(&'static str, &'static str, String)>,
    /// How many entries each list has, by the beginning of their variables.
    lists: Vec<(String, usize)>,
    origins: Origins,
    changes: Vec<Change>,
    /// Every key asked for, and every variable.
    keys: Vec<String>,
    variable_names: Vec<String>,
    /// Nothing is set: the values that there are, by key.
    values: Option<Values>,
}

/// What keys are, as it is written in the file.
pub(super) type Values = BTreeMap<String, String>;

/// What one reading tells besides the values.
pub(super) struct Seen {
    /// Where each value that was set comes from.
    pub(super) origins: Origins,
    /// Every key of the schema.
    pub(super) keys: Vec<String>,
    /// What is not as it is by default.
    pub(super) changes: Vec<Change>,
}

/// A setting that somebody has changed, or a section that somebody has switched on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key, with its section.
    pub key: String,
    /// What it is, as it is written in the file.
    pub value: String,
    /// What it would be, "off" if it is a section; nothing if it has to be set.
    pub default: Option<String>,
    /// Who changed it.
    pub origin: Origin,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, value, default, origin } = self;
        write!(f, "{key} = {value}  # {origin}")?;
        default.as_ref().map_or(Ok(()), |default| write!(f, ", by default {default}"))
    }
}

impl<'a> Reader<'a> {
    /// Starts on the text of a file and all variables of the environment.
    pub(super) fn new(
        file_name: &'a str,
        text: &'a str,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let table = DeTable::parse(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            let line = line_of(text, at);
            let message = syntax::wrong(text, line, error.message());
            ConfigError::new(Origin::File(file_name.to_owned(), line), "", message)
        })?;
        let variables = environment.into_iter().filter(|(name, _)| is_ours(name)).collect();
        Ok(Self {
            file_name,
            text,
            table: table.into_inner(),
            section_start: None,
            path: String::new(),
            variable_path: PREFIX.to_owned(),
            asked: Vec::new(),
            shown: Vec::new(),
            variables,
            flags: Vec::new(),
            lists: Vec::new(),
            origins: Origins::new(),
            changes: Vec::new(),
            keys: Vec::new(),
            variable_names: Vec::new(),
            values: None,
        })
    }

    /// Visits a configuration that was read, and tells what is in it.
    pub(super) fn values_of(config: &Config) -> Result<Values, ConfigError> {
        let mut reader = Self { values: Some(Values::new()), ..Self::new("", "", [])? };
        config.clone().read(&mut reader)?;
        Ok(reader.values.unwrap_or_default())
    }

    fn note_value(&mut self, key: &str, value: impl FnOnce() -> String) {
        if let Some(values) = &mut self.values {
            values.insert(key.to_owned(), value());
        }
    }

    /// Has a flag of the command line go before all else for `key`.
    pub(super) fn flag(&mut self, flag: &'static str, key: &'static str, text: Option<String>) {
        self.flags.extend(text.map(|text| (key, flag, text)));
    }

    /// Reads one key into its field, if anybody set it.
    pub(super) fn key<T>(
        &mut self,
        name: &'static str,
        field: &mut T,
        kind: impl Kind<T>,
    ) -> Result<&mut Self, ConfigError> {
        self.take_key(name, field, &kind)?;
        Ok(self)
    }

    /// Reads one key; says whether its value was changed.
    fn take_key<T>(
        &mut self,
        name: &'static str,
        field: &mut T,
        kind: &impl Kind<T>,
    ) -> Result<bool, ConfigError> {
        self.asked.push(name);
        let key = format!("{}{name}", self.path);
        let default = kind.show(field);
        let mut by = None;
        if let Some((_, value)) = self.table.remove_entry(name) {
            let origin = by.insert(self.in_file(value.span().start));
            *field = take(&key, origin.clone(), Given::Toml(value.get_ref()), kind)?;
        }
        let variable = format!("{}{}", self.variable_path, name.to_uppercase());
        if let Some(text) = self.variables.remove(&variable) {
            let origin = by.insert(Origin::Variable(variable.clone()));
            *field = take(&key, origin.clone(), Given::Variable(&text), kind)?;
        }
        if let Some((_, flag, text)) = self.flags.iter().find(|(of, ..)| *of == key) {
            let origin = by.insert(Origin::Flag(flag));
            *field = take(&key, origin.clone(), Given::Variable(text), kind)?;
        }
        let value = kind.show(field);
        let is_changed = by.is_some() && value != default;
        if let Some(origin) = by {
            self.origins.insert(key.clone(), origin.clone());
            if is_changed {
                let (key, value, default) = (key.clone(), value.clone(), Some(default));
                self.changes.push(Change { key, value, default, origin });
            }
        }
        self.shown.push(format!("{name} = {value}"));
        self.note_value(&key, || value);
        self.keys.push(key);
        self.variable_names.push(variable);
        Ok(is_changed)
    }

    /// Reads one key that has no default.
    pub(super) fn required<T>(
        &mut self,
        name: &'static str,
        field: &mut T,
        kind: impl Kind<T>,
    ) -> Result<&mut Self, ConfigError> {
        let key = format!("{}{name}", self.path);
        let is_changed = self.take_key(name, field, &kind)?;
        if self.values.is_some() {
            return Ok(self);
        }
        if let Some(origin) = self.origins.get(&key) {
            if is_changed {
                self.changes.pop();
            }
            let (value, origin) = (kind.show(field), origin.clone());
            self.changes.push(Change { key, value, default: None, origin });
            return Ok(self);
        }
        let origin = match self.section_start {
            Some(start) => self.in_file(start),
            None => Origin::Variable(format!("{}{}", self.variable_path, name.to_uppercase())),
        };
        let message = format!("is missing, and has no default here; write {}", kind.allowed());
        Err(ConfigError::new(origin, key, message))
    }

    /// Reads a section, and refuses what it does not know.
    pub(super) fn section(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&mut Self) -> Result<(), ConfigError>,
    ) -> Result<&mut Self, ConfigError> {
        self.asked.push(name);
        let (start, table) = match self.table.remove_entry(name) {
            None => (None, DeTable::new()),
            Some((_, value)) => self.as_table(name, value)?,
        };
        self.inside(name, name, start, table, read)?;
        Ok(self)
    }

    /// Reads a section that is absent unless somebody sets something in it.
    pub(super) fn optional<T: Default>(
        &mut self,
        name: &'static str,
        field: &mut Option<T>,
        read: impl FnOnce(&mut Self, &mut T) -> Result<(), ConfigError>,
    ) -> Result<&mut Self, ConfigError> {
        let variables = format!("{}{}_", self.variable_path, name.to_uppercase());
        let present = self.table.contains_key(name)
            || self.variables.keys().any(|v| v.starts_with(&variables));
        let key = format!("{}{name}", self.path);
        self.note_value(&key, || field.is_some().to_string());
        let mut value = field.take().unwrap_or_default();
        let (changes, mut shown) = (self.changes.len(), String::new());
        self.section(name, |reader| {
            read(reader, &mut value)?;
            shown = format!("{{ {} }}", reader.shown.join(", "));
            Ok(())
        })?;
        *field = present.then_some(value);
        // What is changed in it says that it is there.
        if present && self.changes.len() == changes {
            let set = self.origins.range(key.clone()..).next();
            if let Some((_, origin)) = set.filter(|(set, _)| set.starts_with(&key)) {
                let (default, origin) = (Some("off".to_owned()), origin.clone());
                self.changes.push(Change { key, value: shown, default, origin });
            }
        }
        Ok(self)
    }

    /// Reads a list of sections (`[[name]]`). What the file lists replaces the default; a variable
    /// changes the one it numbers (from 0), or adds the next.
    pub(super) fn list<T>(
        &mut self,
        name: &'static str,
        list: &mut Vec<T>,
        fresh: impl Fn() -> T,
        mut read: impl FnMut(&mut Self, &mut T, bool) -> Result<(), ConfigError>,
    ) -> Result<&mut Self, ConfigError> {
        self.asked.push(name);
        let mut tables = Vec::new();
        if let Some((_, value)) = self.table.remove_entry(name) {
            tables = self.as_tables(name, value)?;
            list.clear();
        }
        let mut from_file = tables.into_iter();
        for index in 0.. {
            let numbered = [format!("{name}[{index}]"), format!("{name}_{index}")];
            let variables = format!("{}{}_", self.variable_path, numbered[1].to_uppercase());
            let table = from_file.next();
            let set = table.is_some() || self.variables.keys().any(|v| v.starts_with(&variables));
            let existed = index < list.len();
            if !existed && !set {
                break;
            }
            if !existed {
                list.push(fresh());
            }
            let (start, table) = table.unwrap_or_default();
            if let Some(item) = list.get_mut(index) {
                let [name, variable] = &numbered;
                self.inside(name, variable, start, table, |reader| read(reader, item, !existed))?;
            }
        }
        let variables = format!("{}{}_", self.variable_path, name.to_uppercase());
        self.lists.push((variables, list.len()));
        Ok(self)
    }

    /// Refuses what nobody asked for, and tells what was seen.
    pub(super) fn finish(self) -> Result<Seen, ConfigError> {
        self.refuse_unknown_keys()?;
        if let Some(name) = self.variables.keys().next() {
            let message = self.unknown_variable(name);
            return Err(ConfigError::new(Origin::Variable(name.clone()), "", message));
        }
        Ok(Seen { origins: self.origins, keys: self.keys, changes: self.changes })
    }

    /// What to say of a variable that nobody asked for.
    fn unknown_variable(&self, name: &str) -> String {
        for (list, len) in &self.lists {
            let number = name.strip_prefix(list).and_then(|rest| rest.split('_').next());
            if number.and_then(|n| n.parse::<usize>().ok()).is_some_and(|n| n > *len) {
                return format!("leaves out a number; the next would begin with {list}{len}_");
            }
        }
        let known = || self.variable_names.iter().map(String::as_str);
        let rest = name.strip_prefix(PREFIX).unwrap_or(name);
        let related = |known: &&str| {
            known.strip_prefix(name).is_some_and(|more| more.starts_with('_'))
                || known.strip_suffix(rest).is_some_and(|section| section.ends_with('_'))
        };
        match known().find(related).or_else(|| nearest(name, known())) {
            Some(known) => format!("is not a known variable; did you mean {known}?"),
            None if rest == "CONFIG" => {
                "is not a known variable; a file is named by --config FILE".to_owned()
            }
            None => "is not a known variable; each is SLUICE_<SECTION>_<KEY>, and all sections and keys \
                     are listed by sluice config"
                .to_owned(),
        }
    }

    /// Reads what `read` asks for from `table`, one section deeper.
    fn inside(
        &mut self,
        name: &str,
        variable: &str,
        start: Option<usize>,
        table: DeTable<'a>,
        read: impl FnOnce(&mut Self) -> Result<(), ConfigError>,
    ) -> Result<(), ConfigError> {
        let path = format!("{}{name}.", self.path);
        if let Some(start) = start {
            self.origins.insert(format!("{}{name}", self.path), self.in_file(start));
        }
        let variable_path = format!("{}{}_", self.variable_path, variable.to_uppercase());
        let outer = (
            mem::replace(&mut self.table, table),
            mem::replace(&mut self.section_start, start),
            mem::replace(&mut self.path, path),
            mem::replace(&mut self.variable_path, variable_path),
            mem::take(&mut self.asked),
            mem::take(&mut self.shown),
        );
        read(self)?;
        self.refuse_unknown_keys()?;
        (self.table, self.section_start, self.path, self.variable_path, self.asked, self.shown) =
            outer;
        Ok(())
    }

    fn refuse_unknown_keys(&self) -> Result<(), ConfigError> {
        let Some(key) = self.table.keys().min_by_key(|key| key.span().start) else {
            return Ok(());
        };
        let name = key.get_ref().as_ref();
        let all = Config::keys();
        let elsewhere = all.iter().find(|known| known.rsplit('.').next() == Some(name));
        let section = all.iter().find_map(|known| section_in(known, name));
        let message = if let Some(known) = nearest(name, self.asked.iter().copied()) {
            format!("is not a known key; did you mean {known}?")
        } else if let Some((list, known)) = elsewhere.and_then(|known| known.split_once("[0].")) {
            format!("is not a known key here; it belongs below a line [[{list}]], as {known}")
        } else if let Some(known) = elsewhere {
            format!("is not a known key here; did you mean {known}?")
        } else if let Some(section) = section {
            format!("is not a known section here; did you mean {section}?")
        } else {
            format!("is not a known key; known here: {}", self.asked.join(", "))
        };
        let origin = self.in_file(key.span().start);
        Err(ConfigError::new(origin, format!("{}{name}", self.path), message))
    }

    fn as_table(
        &self,
        name: &str,
        value: Spanned<DeValue<'a>>,
    ) -> Result<(Option<usize>, DeTable<'a>), ConfigError> {
        let start = value.span().start;
        let path = format!("{}{name}", self.path);
        match value.into_inner() {
            DeValue::Table(table) => Ok((Some(start), table)),
            other => {
                let given = Given::Toml(&other);
                let message = format!("{given} is not a section; write [{}]", header(&path));
                Err(ConfigError::new(self.in_file(start), path, message))
            }
        }
    }

    fn as_tables(
        &self,
        name: &str,
        value: Spanned<DeValue<'a>>,
    ) -> Result<Vec<(Option<usize>, DeTable<'a>)>, ConfigError> {
        let start = value.span().start;
        match value.into_inner() {
            DeValue::Array(items) if !items.is_empty() => {
                items.into_iter().map(|item| self.as_table(name, item)).collect()
            }
            _ => {
                let path = format!("{}{name}", self.path);
                let written = header(&path);
                let message = format!("is a list; write [[{written}]] above each of its entries");
                Err(ConfigError::new(self.in_file(start), path, message))
            }
        }
    }

    fn in_file(&self, at: usize) -> Origin {
        Origin::File(self.file_name.to_owned(), line_of(self.text, at))
    }
}

/// The path of a section as it stands in the file, where entries of lists have no numbers.
fn header(path: &str) -> String {
    let names: Vec<&str> =
        path.split('.').map(|name| name.split('[').next().unwrap_or(name)).collect();
    names.join(".")
}

/// The section of this name in the path of a known key, as its line in the file.
fn section_in(known: &str, name: &str) -> Option<String> {
    let parts: Vec<&str> = known.split('.').collect();
    let (_, sections) = parts.split_last()?;
    let at = sections.iter().position(|part| header(part) == name)?;
    let path = sections.get(..=at)?.join(".");
    let written = header(&path);
    Some(match path.split_once("[0].") {
        _ if path.ends_with(']') => format!("[[{written}]]"),
        Some((list, _)) => format!("[{written}] below a line [[{list}]]"),
        None => format!("[{written}]"),
    })
}

fn take<T>(
    key: &str,
    origin: Origin,
    given: Given<'_>,
    kind: &impl Kind<T>,
) -> Result<T, ConfigError> {
    kind.take(given).map_err(|wrong| {
        let given = if kind.is_secret() { "it".to_owned() } else { given.to_string() };
        ConfigError::new(origin, key, format!("{given} {wrong}; write {}", kind.allowed()))
    })
}

/// Whether a variable is meant for the broker. Kubernetes gives each container variables of the
/// services around it; those of a service named "sluice" are not.
fn is_ours(name: &str) -> bool {
    let service =
        |rest: &str| rest == "PORT" || rest.starts_with("PORT_") || rest.starts_with("SERVICE_");
    name.strip_prefix(PREFIX).is_some_and(|rest| !service(rest))
}

/// The variable that overrides a key.
pub(super) fn variable_of(key: &str) -> String {
    let name = key.replace('[', "_").replace(']', "").replace('.', "_");
    format!("{PREFIX}{}", name.to_uppercase())
}

/// The line (from 1) of the byte at `at`.
fn line_of(text: &str, at: usize) -> usize {
    let before = text.as_bytes().get(..at).unwrap_or_default();
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}

/// The known name that `name` was most likely meant to be.
fn nearest<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let (distance, nearest) =
        known.map(|known| (distance(name, known), known)).min_by_key(|(distance, _)| *distance)?;
    (distance <= name.len() / 4 + 1).then_some(nearest)
}

/// How many letters must change to make one word of the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (y, cell) in b.bytes().zip(row.iter_mut().skip(1)) {
            let replaced = diagonal + usize::from(x != y);
            diagonal = *cell;
            left = replaced.min(*cell + 1).min(left + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(a.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_letters() {
        assert_eq!(distance("", ""), 0);
        assert_eq!(distance("abc", ""), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("max_bytes", "max_byte"), 1);
    }

    #[test]
    fn variables_of_a_kubernetes_service_are_not_ours() {
        for ours in ["SLUICE_SHARDS", "SLUICE_NONSENSE", "SLUICE_PORTS"] {
            assert!(is_ours(ours), "{ours}");
        }
        for other in
            ["SLUICE_PORT", "SLUICE_PORT_1883_TCP", "SLUICE_SERVICE_HOST", "PATH", "XSLUICE_A"]
        {
            assert!(!is_ours(other), "{other}");
        }
    }

    #[test]
    fn lines_count_from_one() {
        assert_eq!(line_of("a\nb\nc", 0), 1);
        assert_eq!(line_of("a\nb\nc", 2), 2);
        assert_eq!(line_of("a\nb\nc", 99), 1);
    }
}
