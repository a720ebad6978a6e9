//! What a value may be: the kinds of keys, each with the one form it is written in.

mod listener;
mod text;

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::DeValue;

pub(super) use listener::{Address, Permissions};
pub(super) use text::{
    AddressRange, Directory, File, HeaderValue, Name, TopicFilter, TopicPrefix, Url, UrlPath,
    UserName, WebOrigin,
};

/// A value as it was given.
#[derive(Clone, Copy)]
pub(super) enum Given<'a> {
    /// In the file.
    Toml(&'a DeValue<'a>),
    /// In an environment variable: everything is text there, a list has commas.
    Variable(&'a str),
}

impl<'a> Given<'a> {
    fn text(self) -> Option<&'a str> {
        match self {
            Self::Toml(value) => value.as_str(),
            Self::Variable(text) => Some(text),
        }
    }

    fn integer(self) -> Option<i128> {
        match self {
            Self::Toml(value) => {
                let integer = value.as_integer()?;
                i128::from_str_radix(integer.as_str(), integer.radix()).ok()
            }
            Self::Variable(text) => text.parse().ok(),
        }
    }

    fn boolean(self) -> Option<bool> {
        match self {
            Self::Toml(value) => value.as_bool(),
            Self::Variable(text) => text.parse().ok(),
        }
    }

    fn items(self) -> Option<Vec<Given<'a>>> {
        match self {
            Self::Toml(value) => {
                Some(value.as_array()?.iter().map(|item| Given::Toml(item.get_ref())).collect())
            }
            Self::Variable("") => Some(Vec::new()),
            Self::Variable(text) => {
                Some(text.split(',').map(|item| Given::Variable(item.trim())).collect())
            }
        }
    }
}

/// The value as its author knows it, on one line.
impl fmt::Display for Given<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variable(text) => write!(f, "{text:?}"),
            Self::Toml(DeValue::String(text)) => write!(f, "{text:?}"),
            Self::Toml(DeValue::Integer(number)) => write!(f, "{number}"),
            Self::Toml(DeValue::Float(number)) => write!(f, "{number}"),
            Self::Toml(DeValue::Boolean(flag)) => write!(f, "{flag}"),
            Self::Toml(DeValue::Datetime(moment)) => write!(f, "{moment}"),
            Self::Toml(DeValue::Array(_)) => f.write_str("a list"),
            Self::Toml(DeValue::Table(_)) => f.write_str("a table"),
        }
    }
}

/// Why a value is not taken, to be read after the value itself: "is …", "has …".
pub(super) type Wrong = String;

/// A kind of value.
pub(super) trait Kind<T> {
    /// Takes the value, or says what is wrong with it.
    fn take(&self, given: Given<'_>) -> Result<T, Wrong>;
    /// What may be written, to be read after "write".
    fn allowed(&self) -> String;
    /// A value as it is written in the file.
    fn show(&self, value: &T) -> String;
    /// Whether a value is not for everybody's eyes, not even one that is wrong.
    fn is_secret(&self) -> bool {
        false
    }
}

/// A whole number within bounds.
pub(super) struct Count(pub(super) RangeInclusive<u64>);

impl<T: TryFrom<u64> + fmt::Display> Kind<T> for Count {
    fn take(&self, given: Given<'_>) -> Result<T, Wrong> {
        let number = given.integer().ok_or("is not a whole number")?;
        u64::try_from(number)
            .ok()
            .filter(|number| self.0.contains(number))
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| "is out of range".to_owned())
    }

    fn allowed(&self) -> String {
        format!("a whole number from {} to {}", self.0.start(), self.0.end())
    }

    fn show(&self, value: &T) -> String {
        value.to_string()
    }
}

/// Bytes with a unit, within bounds.
pub(super) struct Size(pub(super) RangeInclusive<u64>);

const SIZE_UNITS: [(&str, u64); 4] =
    [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl<T: TryFrom<u64> + Into<u64> + Copy> Kind<T> for Size {
    fn take(&self, given: Given<'_>) -> Result<T, Wrong> {
        let bytes = with_unit(given, &SIZE_UNITS, "a size")?;
        Some(bytes)
            .filter(|bytes| self.0.contains(bytes))
            .and_then(|bytes| T::try_from(bytes).ok())
            .ok_or_else(|| "is out of range".to_owned())
    }

    fn allowed(&self) -> String {
        let (low, high) = (show_size(*self.0.start()), show_size(*self.0.end()));
        format!("a size from {low} to {high}, in B, KiB, MiB or GiB")
    }

    fn show(&self, value: &T) -> String {
        show_size((*value).into())
    }
}

/// A duration with a unit, within bounds in milliseconds.
pub(super) struct Span {
    range_ms: RangeInclusive<u64>,
    step_ms: u64,
}

impl Span {
    /// Between these, to the millisecond.
    pub(super) fn ms(range_ms: RangeInclusive<u64>) -> Self {
        Self { range_ms, step_ms: 1 }
    }

    /// Between these, in whole seconds, because the protocol has no finer ones.
    pub(super) fn whole_seconds(range: RangeInclusive<u64>) -> Self {
        Self { range_ms: range.start() * 1000..=range.end() * 1000, step_ms: 1000 }
    }
}

const DURATION_UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

impl Kind<Duration> for Span {
    fn take(&self, given: Given<'_>) -> Result<Duration, Wrong> {
        let ms = with_unit(given, &DURATION_UNITS, "a duration")?;
        if !self.range_ms.contains(&ms) {
            return Err("is out of range".to_owned());
        }
        if !ms.is_multiple_of(self.step_ms) {
            return Err("is not in whole seconds".to_owned());
        }
        Ok(Duration::from_millis(ms))
    }

    fn allowed(&self) -> String {
        let range = [*self.range_ms.start(), *self.range_ms.end()];
        let [low, high] = range.map(|ms| show_duration(Duration::from_millis(ms)));
        let units = if self.step_ms == 1 { "ms, s, m, h or d" } else { "s, m, h or d" };
        format!("a duration from {low} to {high}, in {units}")
    }

    fn show(&self, value: &Duration) -> String {
        show_duration(*value)
    }
}

/// `"unlimited"`, or what `K` takes.
pub(super) struct OrUnlimited<K>(pub(super) K);

impl<T, K: Kind<T>> Kind<Option<T>> for OrUnlimited<K> {
    fn take(&self, given: Given<'_>) -> Result<Option<T>, Wrong> {
        if given.text() == Some("unlimited") { Ok(None) } else { self.0.take(given).map(Some) }
    }

    fn allowed(&self) -> String {
        format!("\"unlimited\" or {}", self.0.allowed())
    }

    fn show(&self, value: &Option<T>) -> String {
        value.as_ref().map_or("\"unlimited\"".to_owned(), |value| self.0.show(value))
    }
}

/// `""` for none, or what `K` takes.
pub(super) struct OrNone<K>(pub(super) K);

impl<T, K: Kind<T>> Kind<Option<T>> for OrNone<K> {
    fn take(&self, given: Given<'_>) -> Result<Option<T>, Wrong> {
        if given.text() == Some("") { Ok(None) } else { self.0.take(given).map(Some) }
    }

    fn allowed(&self) -> String {
        format!("\"\" for none, or {}", self.0.allowed())
    }

    fn show(&self, value: &Option<T>) -> String {
        value.as_ref().map_or("\"\"".to_owned(), |value| self.0.show(value))
    }

    fn is_secret(&self) -> bool {
        self.0.is_secret()
    }
}

/// `"inherit"`, or what `K` takes.
pub(super) struct OrInherit<K>(pub(super) K);

impl<T, K: Kind<T>> Kind<Option<T>> for OrInherit<K> {
    fn take(&self, given: Given<'_>) -> Result<Option<T>, Wrong> {
        if given.text() == Some("inherit") { Ok(None) } else { self.0.take(given).map(Some) }
    }

    fn allowed(&self) -> String {
        format!("\"inherit\" or {}", self.0.allowed())
    }

    fn show(&self, value: &Option<T>) -> String {
        value.as_ref().map_or("\"inherit\"".to_owned(), |value| self.0.show(value))
    }
}

/// Several of what `K` takes.
pub(super) struct List<K> {
    pub(super) of: K,
    pub(super) least: usize,
    pub(super) most: usize,
}

impl<T, K: Kind<T>> Kind<Vec<T>> for List<K> {
    fn take(&self, given: Given<'_>) -> Result<Vec<T>, Wrong> {
        let items = given.items().ok_or("is not a list")?;
        if !(self.least..=self.most).contains(&items.len()) {
            return Err(format!("has {} entries", items.len()));
        }
        items
            .into_iter()
            .map(|item| self.of.take(item).map_err(|wrong| format!("has {item}, which {wrong}")))
            .collect()
    }

    fn allowed(&self) -> String {
        format!("a list of {} to {}, each {}", self.least, self.most, self.of.allowed())
    }

    fn show(&self, value: &Vec<T>) -> String {
        let items: Vec<String> = value.iter().map(|item| self.of.show(item)).collect();
        format!("[{}]", items.join(", "))
    }
}

/// `true` or `false`.
pub(super) struct Flag;

impl Kind<bool> for Flag {
    fn take(&self, given: Given<'_>) -> Result<bool, Wrong> {
        given.boolean().ok_or_else(|| "is neither true nor false".to_owned())
    }

    fn allowed(&self) -> String {
        "true or false".to_owned()
    }

    fn show(&self, value: &bool) -> String {
        value.to_string()
    }
}

/// One of a few words.
pub(super) trait Keyword: Copy + PartialEq + 'static {
    /// Each word and what it stands for.
    const WORDS: &'static [(&'static str, Self)];
}

/// The kind of every [`Keyword`].
pub(super) struct Word;

impl<T: Keyword> Kind<T> for Word {
    fn take(&self, given: Given<'_>) -> Result<T, Wrong> {
        let text = given.text().ok_or("is not text")?;
        word(text).ok_or_else(|| "is not known".to_owned())
    }

    fn allowed(&self) -> String {
        let words: Vec<String> = T::WORDS.iter().map(|(word, _)| format!("{word:?}")).collect();
        words.join(" | ")
    }

    fn show(&self, value: &T) -> String {
        let word = T::WORDS.iter().find(|(_, known)| known == value).map(|(word, _)| *word);
        format!("{:?}", word.unwrap_or_default())
    }
}

/// What `text` stands for.
pub(super) fn word<T: Keyword>(text: &str) -> Option<T> {
    T::WORDS.iter().find(|(word, _)| *word == text).map(|(_, value)| *value)
}

/// Parses "10s" and the like: digits, then one unit, nothing else.
fn with_unit(given: Given<'_>, units: &[(&str, u64)], what: &str) -> Result<u64, Wrong> {
    if matches!(given, Given::Toml(DeValue::Integer(_) | DeValue::Float(_))) {
        return Err("has no unit".to_owned());
    }
    let text = given.text().ok_or_else(|| format!("is not {what}"))?;
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if digits == 0 {
        return Err(format!("is not {what}"));
    }
    if unit.is_empty() {
        return Err("has no unit".to_owned());
    }
    let Some((_, factor)) = units.iter().find(|(name, _)| *name == unit) else {
        return Err(format!("has a unit that is not known, {unit:?}"));
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(*factor))
        .ok_or_else(|| "is out of range".to_owned())
}

/// A size as it is written in the file.
pub(super) fn show_size(bytes: u64) -> String {
    let fits = |factor: u64| bytes != 0 && bytes.is_multiple_of(factor);
    let unit = SIZE_UNITS.iter().find(|(_, factor)| fits(*factor));
    let (unit, factor) = unit.copied().unwrap_or(("B", 1));
    format!("\"{}{unit}\"", bytes / factor)
}

/// A duration as it is written in the file.
pub(super) fn show_duration(duration: Duration) -> String {
    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let fits = |factor: u64| ms != 0 && ms.is_multiple_of(factor);
    let unit = DURATION_UNITS.iter().rev().find(|(_, factor)| fits(*factor));
    let (unit, factor) = unit.copied().unwrap_or(("s", 1000));
    format!("\"{}{unit}\"", ms / factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(text: &str) -> Result<u64, Wrong> {
        Size(0..=u64::MAX).take(Given::Variable(text))
    }

    fn span(text: &str) -> Result<Duration, Wrong> {
        Span::ms(0..=u64::MAX).take(Given::Variable(text))
    }

    #[test]
    fn sizes_have_one_form() {
        assert_eq!(size("0B"), Ok(0));
        assert_eq!(size("64KiB"), Ok(65_536));
        assert_eq!(size("1MiB"), Ok(1 << 20));
        assert_eq!(size("2GiB"), Ok(2 << 30));
        for bad in
            ["", "1", "1 MiB", "MiB", "1MB", "1mib", "1.5MiB", "-1B", "+1B", "1MiB ", "1MiB1"]
        {
            assert!(size(bad).is_err(), "{bad:?} was taken");
        }
        assert_eq!(size("99999999999GiB"), Err("is out of range".to_owned()));
        assert_eq!(size("99999999999999999999999B"), Err("is out of range".to_owned()));
    }

    #[test]
    fn durations_have_one_form() {
        assert_eq!(span("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(span("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(span("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(span("2h"), Ok(Duration::from_secs(7200)));
        assert_eq!(span("1d"), Ok(Duration::from_secs(86_400)));
        for bad in ["", "10", "10 s", "s", "1.5s", "-1s", "10S", "1m30s", "10sec", "1w"] {
            assert!(span(bad).is_err(), "{bad:?} was taken");
        }
        assert_eq!(span("10"), Err("has no unit".to_owned()));
    }

    #[test]
    fn whole_seconds_are_kept() {
        let kind = Span::whole_seconds(1..=60);
        assert_eq!(kind.take(Given::Variable("2000ms")), Ok(Duration::from_secs(2)));
        let wrong = kind.take(Given::Variable("1500ms"));
        assert_eq!(wrong, Err("is not in whole seconds".to_owned()));
    }

    #[test]
    fn shown_values_can_be_read_again() {
        for bytes in [0, 1, 1000, 1024, 4096, 1 << 20, 3 << 30] {
            let shown = show_size(bytes);
            assert_eq!(size(shown.trim_matches('"')), Ok(bytes), "{shown}");
        }
        for ms in [0, 1, 999, 1000, 90_000, 3_600_000, 86_400_000] {
            let shown = show_duration(Duration::from_millis(ms));
            assert_eq!(span(shown.trim_matches('"')), Ok(Duration::from_millis(ms)), "{shown}");
        }
    }

    #[test]
    fn lists_come_with_commas_from_a_variable() {
        let kind = List { of: Span::ms(0..=60_000), least: 1, most: 3 };
        let taken = kind.take(Given::Variable("10s, 20s"));
        assert_eq!(taken, Ok(vec![Duration::from_secs(10), Duration::from_secs(20)]));
        assert!(kind.take(Given::Variable("1s,2s,3s,4s")).is_err());
        assert!(kind.take(Given::Variable("1s,,3s")).is_err());
    }
}
