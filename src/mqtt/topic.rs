//! Topic names and filters: their syntax, and the plain matcher the faster ones are held against.

use super::{DecodeError, Limits, ReasonCode};

const fn bad_name(detail: &'static str) -> DecodeError {
    DecodeError::new(ReasonCode::TopicNameInvalid, detail)
}

const fn bad_filter(detail: &'static str) -> DecodeError {
    DecodeError::new(ReasonCode::TopicFilterInvalid, detail)
}

/// Whether a topic is one that only the broker publishes on.
#[inline]
#[must_use]
pub const fn is_reserved(topic: &[u8]) -> bool {
    matches!(topic, [b'$', b'S', b'Y', b'S', b'/', ..])
}

/// Checks a Topic Name: not empty [MQTT-4.7.3-1], no wildcards [MQTT-3.3.2-2], within the limits
/// (0x90 otherwise); well-formed UTF-8 without U+0000 [MQTT-1.5.4-1] [MQTT-4.7.3-2] (0x81 otherwise).
pub fn check_name<'a>(bytes: &'a [u8], limits: &Limits) -> Result<&'a str, DecodeError> {
    let text = check_text(bytes)?;
    if bytes.is_empty() {
        return Err(bad_name("empty topic name"));
    }
    if bytes.len() > usize::from(limits.max_topic_bytes) {
        return Err(bad_name("topic name too long (limits.max_topic_bytes)"));
    }
    if has_wildcard(text) {
        return Err(bad_name("wildcard in a topic name"));
    }
    if level_count(text) > usize::from(limits.max_topic_levels) {
        return Err(bad_name("topic name with too many levels (limits.max_topic_levels)"));
    }
    Ok(text)
}

/// Checks a UTF-8 Encoded String: well formed, no surrogates, no U+0000; 0x81 otherwise.
pub(super) fn check_text(bytes: &[u8]) -> Result<&str, DecodeError> {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Err(DecodeError::malformed("ill-formed UTF-8"));
    };
    // Over short strings a plain loop beats a call into a searcher.
    if bytes.iter().fold(false, |found, &byte| found | (byte == 0)) {
        return Err(DecodeError::malformed("U+0000 in a string"));
    }
    Ok(text)
}

/// A well-formed Topic Filter, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Filter<'a> {
    /// The ShareName of a shared subscription.
    pub share: Option<&'a str>,
    /// The filter itself; without `$share/{ShareName}/` if it is shared.
    pub filter: &'a str,
}

impl<'a> Filter<'a> {
    /// Takes the text of a SUBSCRIBE or UNSUBSCRIBE apart; everything wrong with it is 0x8F.
    ///
    /// `#` stands alone in the last level [MQTT-4.7.1-1], `+` alone in its level [MQTT-4.7.1-2];
    /// `$share/` is followed by a name without wildcards, `/` and a filter [MQTT-4.8.2-1] [MQTT-4.8.2-2].
    pub fn parse(text: &'a str, limits: &Limits) -> Result<Self, DecodeError> {
        if text.len() > usize::from(limits.max_topic_bytes) {
            return Err(bad_filter("topic filter too long (limits.max_topic_bytes)"));
        }
        let Some(shared) = text.strip_prefix("$share/") else {
            check_filter(text, limits)?;
            return Ok(Self { share: None, filter: text });
        };
        let Some((share, filter)) = shared.split_once('/') else {
            return Err(bad_filter("no filter after the ShareName"));
        };
        if share.is_empty() {
            return Err(bad_filter("empty ShareName"));
        }
        if has_wildcard(share) {
            return Err(bad_filter("wildcard in a ShareName"));
        }
        check_filter(filter, limits)?;
        Ok(Self { share: Some(share), filter })
    }
}

fn check_filter(filter: &str, limits: &Limits) -> Result<(), DecodeError> {
    if filter.is_empty() {
        return Err(bad_filter("empty topic filter"));
    }
    if filter.as_bytes().contains(&0) {
        return Err(bad_filter("U+0000 in a topic filter"));
    }
    if level_count(filter) > usize::from(limits.max_topic_levels) {
        return Err(bad_filter("topic filter with too many levels (limits.max_topic_levels)"));
    }
    let mut ended = false;
    for level in levels(filter) {
        if ended {
            return Err(bad_filter("# before the last level"));
        }
        match level {
            "#" => ended = true,
            "+" => {}
            _ if has_wildcard(level) => return Err(bad_filter("wildcard inside a level")),
            _ => {}
        }
    }
    Ok(())
}

/// Whether `filter` selects `name`: the plain matcher, level by level.
///
/// A filter that begins with a wildcard selects no name that begins with `$` [MQTT-4.7.2-1];
/// `a/#` selects `a` too. Both are taken to be well formed, and `filter` not to be shared.
#[must_use]
pub fn matches(filter: &str, name: &str) -> bool {
    if name.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut name_levels = levels(name);
    for level in levels(filter) {
        if level == "#" {
            return true;
        }
        match name_levels.next() {
            Some(name_level) if level == "+" || level == name_level => {}
            _ => return false,
        }
    }
    name_levels.next().is_none()
}

/// Whether `filter` selects every name that `other` selects. Where that takes more than a look at each
/// level (`+/#` and `#`) it may say no.
#[must_use]
pub fn covers(filter: &str, other: &str) -> bool {
    if other.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut other_levels = levels(other);
    for level in levels(filter) {
        if level == "#" {
            return true;
        }
        match other_levels.next() {
            Some("#") | None => return false,
            Some(other_level) if level == "+" || level == other_level => {}
            Some(_) => return false,
        }
    }
    other_levels.next().is_none()
}

/// Whether some name is selected by both filters.
#[must_use]
pub fn overlaps(one: &str, other: &str) -> bool {
    let wild = |filter: &str| filter.starts_with(['+', '#']);
    if (one.starts_with('$') && wild(other)) || (other.starts_with('$') && wild(one)) {
        return false;
    }
    let (mut ones, mut others) = (levels(one), levels(other));
    loop {
        match (ones.next(), others.next()) {
            (None, None) | (Some("#"), _) | (_, Some("#")) => return true,
            (Some(a), Some(b)) if a == "+" || b == "+" || a == b => {}
            _ => return false,
        }
    }
}

/// The levels of a name or filter; one more than there are slashes, empty ones included.
#[inline]
pub fn levels(text: &str) -> impl Iterator<Item = &str> + Clone {
    text.split('/')
}

/// How many levels a name or filter has.
#[must_use]
pub fn level_count(text: &str) -> usize {
    1 + text.bytes().filter(|&byte| byte == b'/').count()
}

/// Whether a well-formed filter has a wildcard in it.
#[inline]
#[must_use]
pub fn has_wildcard(filter: &str) -> bool {
    filter.bytes().fold(false, |found, byte| found | (byte == b'+') | (byte == b'#'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let limits = Limits { max_topic_bytes: 8, max_topic_levels: 3, ..Limits::default() };
        for good in ["a", "/", "//", "a/b/c", "$SYS/a", " ", "\u{feff}é"] {
            assert_eq!(check_name(good.as_bytes(), &limits), Ok(good));
        }
        for invalid in ["", "+", "a/#", "a+", "a/b/c/d", "123456789"] {
            let error = check_name(invalid.as_bytes(), &limits).unwrap_err();
            assert_eq!(error.reason, ReasonCode::TopicNameInvalid, "{invalid}");
        }
        let malformed: [&[u8]; 5] =
            [b"a\0b", b"\xED\xA0\x80", b"\xC0\x80", b"\xFF", b"\xF4\x90\x80\x80"];
        for bytes in malformed {
            let error = check_name(bytes, &limits).unwrap_err();
            assert_eq!(error.reason, ReasonCode::MalformedPacket, "{bytes:?}");
        }
    }

    #[test]
    fn filters() {
        let limits = Limits { max_topic_bytes: 24, max_topic_levels: 4, ..Limits::default() };
        let plain = |text| Filter::parse(text, &limits).map(|f| (f.share, f.filter)).ok();
        for good in ["#", "+", "a/#", "+/+", "/+", "+/#", "a//b", "$SYS/#", "$share", "$shared/a/#"]
        {
            assert_eq!(plain(good), Some((None, good)));
        }
        assert_eq!(plain("$share/g/a/#"), Some((Some("g"), "a/#")));
        assert_eq!(plain("$share/g//"), Some((Some("g"), "/")));
        for bad in [
            "",
            "a#",
            "#/a",
            "a/#/b",
            "+a",
            "a/b+",
            "a/b/c/d/e",
            "$share/",
            "$share/g",
            "$share/g/",
            "$share//a",
            "$share/+/a",
            "$share/g#/a",
            "$share/g/a#",
            "1234567890123456789012345",
        ] {
            assert_eq!(plain(bad), None, "{bad}");
            let error = Filter::parse(bad, &limits).unwrap_err();
            assert_eq!(error.reason, ReasonCode::TopicFilterInvalid);
        }
    }

    #[test]
    fn matching() {
        for (filter, name) in [
            ("a", "a"),
            ("#", "a/b"),
            ("#", "/"),
            ("a/#", "a"),
            ("a/#", "a/b/c"),
            ("+", "a"),
            ("+/+", "/a"),
            ("/+", "/a"),
            ("a/+/c", "a//c"),
            ("a/+", "a/"),
            ("$SYS/#", "$SYS/x"),
            ("$SYS/+", "$SYS/x"),
            ("+/#", "a"),
            ("/#", "/"),
            ("a/$b/+", "a/$b/c"),
            ("a/+", "a/$b"),
        ] {
            assert!(matches(filter, name), "{filter} {name}");
        }
        for (filter, name) in [
            ("a", "a/b"),
            ("a", "A"),
            ("+", "/a"),
            ("+", "a/b"),
            ("a/+", "a"),
            ("#", "$SYS/x"),
            ("+/x", "$SYS/x"),
            ("/#", "a"),
            ("a/b", "a"),
            ("a/+/#", "a"),
            ("/", "a"),
        ] {
            assert!(!matches(filter, name), "{filter} {name}");
        }
    }

    #[test]
    fn covering_and_overlapping() {
        // Filters, whether the first covers the second, whether they overlap.
        for (filter, other, covered, overlapping) in [
            ("a", "a", true, true),
            ("a/#", "a", true, true),
            ("a/#", "a/b/+", true, true),
            ("a/#", "a/#", true, true),
            ("a/+", "a/b", true, true),
            ("a/+", "a/+", true, true),
            ("#", "a/#", true, true),
            ("#", "$SYS/#", false, false),
            ("$SYS/#", "$SYS/a", true, true),
            ("a/b", "a/+", false, true),
            ("a/+", "a/#", false, true),
            ("a/b", "#", false, true),
            ("a", "a/#", false, true),
            ("a/b", "+/c", false, false),
            ("a/b", "a", false, false),
            ("a/+", "a/b/c", false, false),
            ("+/b", "a/+", false, true),
            ("+/#", "a", true, true),
            ("+/a", "$SYS/a", false, false),
        ] {
            assert_eq!(covers(filter, other), covered, "{filter} covers {other}");
            assert_eq!(overlaps(filter, other), overlapping, "{filter} overlaps {other}");
            assert_eq!(overlaps(other, filter), overlapping, "{other} overlaps {filter}");
        }
    }
}
