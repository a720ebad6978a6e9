//! Mosquitto's `acl_file`, read as it is.
//!
//! `topic [read|write|readwrite|deny] FILTER` below `user NAME` is for that user, above the first `user` for
//! clients without a user name; `pattern …` is for everybody, with `%u` and `%c`. Of those of a user, then
//! of the patterns, denials go first. What nothing allows is denied. A subscription is granted if anything
//! it matches may be received, and the rest is withheld at delivery.

use hashbrown::HashMap;

use crate::hooks::{Client, Effect, Grant, Rights};
use crate::mqtt::Limits;
use crate::mqtt::topic::Filter;

use super::Topics;

/// Such a file in memory.
#[derive(Debug, Default)]
pub(in crate::auth) struct MosquittoAcl {
    anonymous: Entries,
    users: HashMap<Box<str>, Entries, foldhash::fast::RandomState>,
    patterns: Entries,
    /// The first line that is for a user, or has the name of one filled in.
    pub(super) for_users: Option<usize>,
}

/// Denials first.
#[derive(Debug, Default)]
struct Entries(Vec<Entry>);

#[derive(Debug)]
struct Entry {
    access: Access,
    topics: Topics,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Read,
    Write,
    ReadWrite,
    Deny,
}

impl Entries {
    fn add(&mut self, entry: Entry) {
        let denials = self.0.iter().take_while(|one| one.access == Access::Deny).count();
        let place = if entry.access == Access::Deny { denials } else { self.0.len() };
        self.0.insert(place, entry);
    }

    fn grants<'a>(&'a self, client: &'a Client<'_>) -> impl Iterator<Item = Grant> + 'a {
        self.0.iter().filter_map(|entry| {
            let denies = entry.access == Access::Deny;
            let effect = if denies { Effect::Deny } else { Effect::ALLOW };
            Some(Grant {
                effect,
                publish: entry.access != Access::Read,
                subscribe: entry.access != Access::Write,
                topics: entry.topics.of(client.username, client.client_id, effect)?,
            })
        })
    }
}

impl MosquittoAcl {
    /// Reads the text of a file; of a wrong line, its number (from 1) and what is wrong.
    pub(super) fn parse(text: &str) -> Result<Self, (usize, &'static str)> {
        let mut acl = Self::default();
        let mut user: Option<Box<str>> = None;
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (word, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
            let rest = rest.trim_start();
            if rest.is_empty() {
                return Err((number, "has nothing after its first word"));
            }
            match word {
                "user" => {
                    acl.for_users.get_or_insert(number);
                    user = Some(rest.into());
                }
                "topic" => {
                    // Only patterns have names to be filled in.
                    let entry = entry(rest, false).map_err(|wrong| (number, wrong))?;
                    match &user {
                        None => acl.anonymous.add(entry),
                        Some(user) => acl.users.entry(user.clone()).or_default().add(entry),
                    }
                }
                "pattern" => {
                    if rest.contains("%u") {
                        acl.for_users.get_or_insert(number);
                    }
                    acl.patterns.add(entry(rest, true).map_err(|wrong| (number, wrong))?);
                }
                _ => return Err((number, "begins with none of user, topic, pattern")),
            }
        }
        Ok(acl)
    }

    pub(super) fn rights(&self, client: &Client<'_>) -> Rights {
        let own = match client.username {
            None => Some(&self.anonymous),
            Some(user) => self.users.get(user),
        };
        let grants = own.into_iter().chain([&self.patterns]);
        Rights::new(grants.flat_map(|entries| entries.grants(client)).collect(), false, true)
    }
}

fn entry(text: &str, is_pattern: bool) -> Result<Entry, &'static str> {
    let (word, rest) = text.split_once([' ', '\t']).unwrap_or((text, ""));
    let access = match word {
        "read" => Some(Access::Read),
        "write" => Some(Access::Write),
        "readwrite" => Some(Access::ReadWrite),
        "deny" => Some(Access::Deny),
        _ => None,
    };
    let (access, filter) = match access {
        Some(access) if !rest.is_empty() => (access, rest.trim_start()),
        // A topic with spaces in it has its access in front, or else a slip would make a denial a permission.
        None if !rest.is_empty() => {
            return Err("has none of read, write, readwrite, deny in front of its topic");
        }
        _ => (Access::ReadWrite, text),
    };
    if Filter::parse(filter, &Limits::default()).is_err() {
        return Err("has a topic that is none");
    }
    let mut topics = Topics::new(&[filter]);
    topics.vary &= is_pattern;
    Ok(Entry { access, topics })
}

#[cfg(test)]
mod tests {
    use super::super::tests::client;
    use super::*;
    use crate::mqtt::QoS;

    const FILE: &str = "\
# anybody without a name
topic read news/#
topic deny news/secret

user ann
topic readwrite home/#
topic write\tlog/with space
topic deny home/safe/#
topic plain
topic %u/literal

user bob
topic read #

pattern write devices/%c/state
pattern readwrite users/%u/#
pattern deny users/%u/locked
";

    /// Whether a client may write and read.
    fn may(user: Option<&str>, client_id: &str, topic: &str) -> [bool; 2] {
        let acl = MosquittoAcl::parse(FILE).unwrap();
        let rights = acl.rights(&client(user, client_id));
        [rights.publish(topic).allows(QoS::ExactlyOnce, true), rights.receives(topic)]
    }

    #[test]
    fn it_says_what_mosquitto_reads_in_it() {
        let (ann, bob) = (Some("ann"), Some("bob"));
        for (user, topic, write_and_read) in [
            (None, "news/x", [false, true]),
            (None, "news/secret", [false, false]),
            (None, "home/x", [false, false]),
            (ann, "news/x", [false, false]),
            (ann, "home/x", [true, true]),
            (ann, "home/safe/x", [false, false]),
            (ann, "log/with space", [true, false]),
            (ann, "plain", [true, true]),
            (ann, "%u/literal", [true, true]),
            (ann, "ann/literal", [false, false]),
            (bob, "anything", [false, true]),
            (bob, "$SYS/x", [false, false]),
            (bob, "users/bob/x", [true, true]),
            (ann, "users/ann/locked", [false, false]),
            (bob, "users/bob/locked", [false, true]),
            (ann, "users/bob/x", [false, false]),
            (ann, "devices/c1/state", [true, false]),
            (None, "devices/c1/state", [true, false]),
            (ann, "devices/c2/state", [false, false]),
            (None, "users//x", [false, false]),
        ] {
            assert_eq!(may(user, "c1", topic), write_and_read, "{user:?} {topic}");
        }
    }

    #[test]
    fn a_subscription_is_granted_if_anything_comes_of_it() {
        let acl = MosquittoAcl::parse(FILE).unwrap();
        let rights = acl.rights(&client(Some("ann"), "c1"));
        for filter in ["#", "home/+", "home/#", "+"] {
            assert!(rights.subscribe(filter, false).is_some(), "{filter}");
        }
        for filter in ["news/#", "home/safe/#", "log/with space", "$SYS/#"] {
            assert!(rights.subscribe(filter, false).is_none(), "{filter}");
        }
    }

    #[test]
    fn a_wrong_line_is_named() {
        for (text, line) in [
            ("topic\n", 1),
            ("\nuser  \n", 2),
            ("topics a\n", 1),
            ("# fine\ntopic read a/#/b\n", 2),
            ("pattern a+\n", 1),
            ("topic dney secret/#\ntopic readwrite #\n", 1),
            ("topic foo bar baz\n", 1),
        ] {
            assert_eq!(MosquittoAcl::parse(text).unwrap_err().0, line, "{text}");
        }
    }
}
