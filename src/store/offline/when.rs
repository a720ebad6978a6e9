//! Times of day as text (RFC 3339).

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::timer::Time;

/// A time of day in milliseconds since 1970: text, or beyond the year 9999 the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct When(u64);

impl From<Time> for When {
    fn from(time: Time) -> Self {
        Self(time.0)
    }
}

impl From<When> for Time {
    fn from(when: When) -> Self {
        Self(when.0)
    }
}

impl When {
    fn text(self) -> Option<String> {
        let time =
            OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000_000).ok()?;
        time.format(&Rfc3339).ok()
    }

    fn parse(text: &str) -> Option<Self> {
        let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
        u64::try_from(time.unix_timestamp_nanos() / 1_000_000).ok().map(Self)
    }
}

impl Serialize for When {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.text() {
            Some(text) => to.serialize_str(&text),
            None => to.serialize_u64(self.0),
        }
    }
}

impl<'de> Deserialize<'de> for When {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Text(String),
            Number(u64),
        }
        match Either::deserialize(from)? {
            Either::Number(ms) => Ok(Self(ms)),
            Either::Text(text) => Self::parse(&text).ok_or_else(|| {
                D::Error::custom(format!("{text:?} is no time like 2026-01-31T12:00:00Z"))
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for (ms, text) in [
            (0, "\"1970-01-01T00:00:00Z\""),
            (1_700_000_000_007, "\"2023-11-14T22:13:20.007Z\""),
            (u64::MAX - 1, "18446744073709551614"),
        ] {
            let when = When(ms);
            assert_eq!(serde_json::to_string(&when).expect("text"), text);
            assert_eq!(serde_json::from_str::<When>(text).expect("a time"), when);
        }
        assert!(serde_json::from_str::<When>("\"yesterday\"").is_err());
    }
}
