//! One clear line for whatever is wrong with a configuration.

use std::collections::BTreeMap;
use std::fmt;

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// A file, as it was named, and the line in it (from 1).
    File(String, usize),
    /// A file as a whole, which could not be read.
    Unread(String),
    /// An environment variable.
    Variable(String),
    /// A flag of the command line.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(name, line) => write!(f, "{name}:{line}"),
            Self::Unread(name) | Self::Variable(name) => f.write_str(name),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

/// Where the values come from, by key; a key that is not in it has its default.
pub(super) type Origins = BTreeMap<String, Origin>;

/// What is wrong with a configuration: one line, `sluice.toml:12: key: what is wrong; what is
/// allowed`. A flag or variable stands for its key; what is nobody's has the key alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Where it is wrong.
    pub origin: Origin,
    /// The key, with its section; empty if none is to blame.
    pub key: String,
    /// What is wrong, and what is allowed.
    pub message: String,
}

impl ConfigError {
    pub(super) fn new(origin: Origin, key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { origin, key: key.into(), message: message.into() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.origin != Origin::Default {
            write!(f, "{}: ", self.origin)?;
        }
        let named = matches!(self.origin, Origin::Variable(_) | Origin::Flag(_));
        if !self.key.is_empty() && !named {
            write!(f, "{}: ", self.key)?;
        }
        // Texts of the TOML parser may have several lines.
        for (at, line) in self.message.lines().enumerate() {
            write!(f, "{}{}", if at == 0 { "" } else { ", " }, line.trim())?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}
