//! Finding retained messages by filter: jumps from one possible topic to the next, so many at a time.

use std::ops::Bound;
use std::sync::Arc;

use super::Router;
use super::retained::{Retained, ordered_key, topic_of};
use crate::mqtt::{Message, topic};
use crate::timer::Time;

/// How many topics a call may look at for each message it may give.
const LOOKS_PER_MESSAGE: usize = 4;

impl Router {
    /// Calls `found` with the retained messages a filter matches, in the order of their topics,
    /// level by level, those expired left out.
    ///
    /// Stops after `limit` messages, or four times as many topics looked at, and then gives the
    /// topic to go on `after`: a call may thus give few or no messages and still not be the last.
    pub fn retained(
        &self,
        filter: &str,
        after: Option<&str>,
        limit: usize,
        now: Time,
        mut found: impl FnMut(&Message),
    ) -> Option<String> {
        if topic::has_wildcard(filter) {
            return self.retained.scan(filter, after, limit.max(1), now, found);
        }
        if after.is_none() {
            self.retained.get(filter).filter(|one| !one.is_expired(now)).map(&mut found);
        }
        None
    }
}

/// What a topic says about where to look on.
enum Next {
    /// It matches.
    Match,
    /// Nothing from it up to this key matches.
    Seek(String),
    /// Nothing from it on matches.
    End,
}

impl Retained {
    fn scan(
        &self,
        filter: &str,
        after: Option<&str>,
        limit: usize,
        now: Time,
        mut found: impl FnMut(&Message),
    ) -> Option<String> {
        let levels: Vec<&str> = topic::levels(filter).collect();
        let mut messages = 0;
        let mut from = match after {
            Some(topic) => Bound::Excluded(ordered_key(topic)),
            None => Bound::Included(first_key(&levels)),
        };
        let mut last: Option<&Arc<str>> = None;
        let mut range =
            self.order().range::<str, _>((from.as_ref().map(String::as_str), Bound::Unbounded));
        for _ in 0..limit.saturating_mul(LOOKS_PER_MESSAGE) {
            let (key, &slot) = range.next()?;
            last = Some(key);
            match next(&levels, key) {
                Next::Match => {
                    if let Some(one) = self.message(slot).filter(|one| !one.is_expired(now)) {
                        found(one);
                        messages += 1;
                        if messages == limit {
                            break;
                        }
                    }
                }
                Next::Seek(key) => {
                    from = Bound::Included(key);
                    let from = from.as_ref().map(String::as_str);
                    range = self.order().range::<str, _>((from, Bound::Unbounded));
                }
                Next::End => return None,
            }
        }
        last.map(|key| topic_of(key))
    }
}

/// The least key that could match.
fn first_key(levels: &[&str]) -> String {
    let literal = levels.iter().take_while(|level| !matches!(**level, "+" | "#"));
    literal.copied().collect::<Vec<_>>().join("\0")
}

/// Holds a key against a filter. Keys sort level by level, so that everything below a prefix
/// stands together and can be passed over at once.
fn next(levels: &[&str], key: &str) -> Next {
    let starts_with_wildcard = matches!(levels.first(), Some(&"+" | &"#"));
    if starts_with_wildcard && key.starts_with('$') {
        // [MQTT-4.7.2-1]; `%` follows `$`.
        return Next::Seek("%".to_owned());
    }
    // Where the level begins, and where the last one that `+` stands for ended.
    let mut begin = 0;
    let mut plus_end = None;
    for (depth, &level) in levels.iter().enumerate() {
        if level == "#" {
            return Next::Match;
        }
        let Some(rest) = key.get(begin..) else {
            // The topic ended above: what matches is below it.
            let literal = if level == "+" { "" } else { level };
            return Next::Seek(format!("{key}\0{literal}"));
        };
        let text = rest.split('\0').next().unwrap_or_default();
        let end = begin + text.len();
        if level == "+" {
            plus_end = Some(end);
        } else if text < level {
            return Next::Seek(format!("{}{level}", key.get(..begin).unwrap_or_default()));
        } else if text > level {
            return past(key, plus_end);
        }
        // The separator is one byte; past the end of the key there is none.
        begin = if end < key.len() { end + 1 } else { key.len() + 1 };
        if depth + 1 == levels.len() && end < key.len() {
            return past(key, plus_end);
        }
    }
    Next::Match
}

/// Past everything at and below what the last `+` stood for.
fn past(key: &str, plus_end: Option<usize>) -> Next {
    plus_end
        .and_then(|end| key.get(..end))
        .map_or(Next::End, |up_to| Next::Seek(format!("{up_to}\u{1}")))
}
