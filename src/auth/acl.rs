//! Who may publish and subscribe to what: rules, and the rights of one client that follow from them.

mod mosquitto;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::hooks::{Client, Effect, Grant, Rights};

use super::network::Network;
use mosquitto::MosquittoAcl;

/// The rules.
#[derive(Clone, Debug, PartialEq)]
pub enum AclSettings {
    /// None: everybody may do everything.
    Open,
    /// In order, the first that speaks of a client and a topic decides.
    Rules {
        /// The rules.
        rules: Vec<AclRule>,
        /// Whether what no rule speaks of is allowed.
        otherwise: bool,
    },
    /// Those of a file in the form of Mosquitto's `acl_file`; what it does not allow is denied.
    MosquittoFile(PathBuf),
}

/// One rule.
#[derive(Clone, Debug, PartialEq)]
pub struct AclRule {
    /// What it says.
    pub effect: Effect,
    /// Whether it speaks of publishing.
    pub publish: bool,
    /// Whether it speaks of subscribing, and of receiving.
    pub subscribe: bool,
    /// Topic filters; `%u` stands for the user name and `%c` for the client identifier.
    pub topics: Vec<String>,
    /// The users it speaks of; if absent, all of them, and those without a name.
    pub users: Option<Vec<String>>,
    /// The client identifiers; all if there are none here.
    pub clients: Vec<String>,
    /// The addresses; all if there are none here.
    pub addresses: Vec<Network>,
    /// The names in client certificates; all clients, and those without one, if there are none here.
    pub certificates: Vec<String>,
}

/// Why an ACL file is no use.
#[derive(Debug, thiserror::Error)]
pub enum AclFileError {
    /// It cannot be read.
    #[error("{path}: cannot be read: {error}")]
    Unread {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// A line is wrong.
    #[error("{path}:{line}: {message}")]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        message: &'static str,
    },
}

/// The rules in force.
#[derive(Debug)]
pub(super) enum Acl {
    Open,
    Rules(Vec<(AclRule, Topics)>, bool),
    Mosquitto(MosquittoAcl),
}

impl Acl {
    pub(super) fn load(settings: &AclSettings) -> Result<Self, AclFileError> {
        match settings {
            AclSettings::Open => Ok(Self::Open),
            AclSettings::Rules { rules, otherwise } => {
                let rules = rules.iter().map(|rule| (rule.clone(), Topics::new(&rule.topics)));
                Ok(Self::Rules(rules.collect(), *otherwise))
            }
            AclSettings::MosquittoFile(path) => load_file(path).map(Self::Mosquitto),
        }
    }

    /// The first place in the settings that speaks of users.
    pub(super) fn speaks_of_users(&self, settings: &AclSettings) -> Option<String> {
        match (self, settings) {
            (Self::Rules(rules, _), _) => {
                rules.iter().enumerate().find_map(|(index, (rule, _))| {
                    let names = |filter: &String| filter.contains("%u");
                    let key = match &rule.users {
                        Some(_) => "",
                        None if rule.topics.iter().any(names) => ".topics: %u",
                        None => return None,
                    };
                    Some(format!("acl.rule[{index}]{key}"))
                })
            }
            (Self::Mosquitto(acl), AclSettings::MosquittoFile(path)) => {
                Some(format!("{}:{}: this", path.display(), acl.for_users?))
            }
            _ => None,
        }
    }

    /// What the client may do; `None`: everything.
    pub(super) fn rights(&self, client: &Client<'_>) -> Option<Rights> {
        match self {
            Self::Open => None,
            Self::Rules(rules, otherwise) => {
                let speaking = rules.iter().filter(|(rule, _)| rule.speaks_of(client));
                let grants = speaking.filter_map(|(rule, topics)| {
                    let topics = topics.of(client.username, client.client_id, rule.effect)?;
                    let AclRule { effect, publish, subscribe, .. } = *rule;
                    Some(Grant { effect, publish, subscribe, topics })
                });
                Some(Rights::new(grants.collect(), *otherwise, false))
            }
            Self::Mosquitto(acl) => Some(acl.rights(client)),
        }
    }
}

fn load_file(path: &Path) -> Result<MosquittoAcl, AclFileError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| AclFileError::Unread { path: path.to_owned(), error })?;
    MosquittoAcl::parse(&text).map_err(|(line, message)| AclFileError::Line {
        path: path.to_owned(),
        line,
        message,
    })
}

impl AclRule {
    fn speaks_of(&self, client: &Client<'_>) -> bool {
        let name = |names: &[String], own: Option<&str>| {
            own.is_some_and(|own| names.iter().any(|name| name == own))
        };
        let address: IpAddr = client.peer.ip();
        self.users.as_ref().is_none_or(|users| name(users, client.username))
            && (self.clients.is_empty() || name(&self.clients, Some(client.client_id)))
            && (self.certificates.is_empty() || name(&self.certificates, client.certificate_name))
            && (self.addresses.is_empty()
                || self.addresses.iter().any(|network| network.contains(address)))
    }
}

/// The filters of a rule.
#[derive(Clone, Debug)]
pub(super) struct Topics {
    filters: Arc<[Box<str>]>,
    /// Whether `%u` or `%c` stands in one of them.
    vary: bool,
}

impl Topics {
    pub(super) fn new(filters: &[impl AsRef<str>]) -> Self {
        let filters: Arc<[Box<str>]> = filters.iter().map(|one| one.as_ref().into()).collect();
        let vary = filters.iter().any(|one| one.contains("%u") || one.contains("%c"));
        Self { filters, vary }
    }

    /// The filters as they are for this client; `None` if there are none.
    pub(super) fn of(
        &self,
        user: Option<&str>,
        client_id: &str,
        effect: Effect,
    ) -> Option<Arc<[Box<str>]>> {
        if !self.vary {
            return Some(self.filters.clone());
        }
        // A denial may well reach further.
        let check = effect != Effect::Deny;
        let filters =
            self.filters.iter().filter_map(|filter| substitute(filter, user, client_id, check));
        let filters: Arc<[Box<str>]> = filters.collect();
        (!filters.is_empty()).then_some(filters)
    }
}

/// Puts the client's names in the place of `%u` and `%c`; not one that the client does not have. With
/// `check`, a name that would change which topics the filter selects, by a wildcard, a level more or a `$`
/// at the very beginning, has no place in it either.
fn substitute(filter: &str, user: Option<&str>, client_id: &str, check: bool) -> Option<Box<str>> {
    let mut filled = String::with_capacity(filter.len());
    let mut rest = filter;
    while let Some(at) = rest.find('%') {
        let (before, from) = rest.split_at(at);
        filled.push_str(before);
        let name = match from.as_bytes().get(1) {
            Some(b'u') => user?,
            Some(b'c') => client_id,
            _ => {
                filled.push('%');
                rest = &from[1..];
                continue;
            }
        };
        let reaches_further =
            name.contains(['+', '#', '/']) || filled.is_empty() && name.starts_with('$');
        if check && (name.is_empty() || reaches_further) {
            return None;
        }
        filled.push_str(name);
        rest = &from[2..];
    }
    filled.push_str(rest);
    Some(filled.into())
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::mqtt::QoS;

    pub(in super::super) fn client<'a>(
        username: Option<&'a str>,
        client_id: &'a str,
    ) -> Client<'a> {
        let peer = SocketAddr::from(([192, 0, 2, 1], 5));
        Client {
            client_id,
            username,
            certificate: None,
            certificate_name: None,
            peer,
            listener: None,
            protocol_version: 5,
        }
    }

    fn rule(effect: Effect, topics: &[&str]) -> AclRule {
        AclRule {
            effect,
            publish: true,
            subscribe: true,
            topics: topics.iter().map(|one| (*one).to_owned()).collect(),
            users: None,
            clients: Vec::new(),
            addresses: Vec::new(),
            certificates: Vec::new(),
        }
    }

    fn may(rules: &[AclRule], client: &Client<'_>, topic: &str) -> bool {
        let settings = AclSettings::Rules { rules: rules.to_vec(), otherwise: false };
        let rights = Acl::load(&settings).unwrap().rights(client).unwrap();
        let publish = rights.publish(topic).allows(QoS::ExactlyOnce, true);
        assert_eq!(publish, rights.receives(topic));
        publish
    }

    #[test]
    fn without_rules_nobody_is_asked() {
        assert_eq!(Acl::load(&AclSettings::Open).unwrap().rights(&client(None, "c")), None);
    }

    #[test]
    fn a_rule_is_for_those_it_names() {
        let all = rule(Effect::ALLOW, &["t"]);
        let users = AclRule { users: Some(vec!["a".to_owned(), "b".to_owned()]), ..all.clone() };
        let nobody = AclRule { users: Some(Vec::new()), ..all.clone() };
        let clients = AclRule { clients: vec!["c".to_owned()], ..all.clone() };
        let addresses = AclRule { addresses: vec!["192.0.2.0/24".parse().unwrap()], ..all.clone() };
        let elsewhere = AclRule { addresses: vec!["10.0.0.0/8".parse().unwrap()], ..all.clone() };
        let both = AclRule { users: users.users.clone(), ..clients.clone() };
        for (rule, user, client_id, speaks) in [
            (&all, None, "x", true),
            (&users, Some("b"), "x", true),
            (&users, Some("c"), "x", false),
            (&users, None, "a", false),
            (&nobody, Some("a"), "a", false),
            (&nobody, None, "a", false),
            (&clients, None, "c", true),
            (&clients, Some("c"), "x", false),
            (&addresses, None, "x", true),
            (&elsewhere, None, "x", false),
            (&both, Some("a"), "c", true),
            (&both, Some("a"), "x", false),
        ] {
            let client = client(user, client_id);
            assert_eq!(
                may(std::slice::from_ref(rule), &client, "t"),
                speaks,
                "{rule:?} {client:?}"
            );
        }
    }

    #[test]
    fn a_rule_may_be_for_certificates() {
        let names = ["ann", "bob"].map(str::to_owned).to_vec();
        let rule = AclRule { certificates: names, ..rule(Effect::ALLOW, &["t"]) };
        for (name, speaks) in [(Some("ann"), true), (Some("bob"), true), (Some("eve"), false)] {
            let one = Client { certificate_name: name, ..client(Some("eve"), "c") };
            assert_eq!(may(std::slice::from_ref(&rule), &one, "t"), speaks, "{name:?}");
        }
        assert!(!may(&[rule], &client(Some("ann"), "ann"), "t"), "without a certificate");
    }

    #[test]
    fn names_stand_for_the_client() {
        let rules = [rule(Effect::ALLOW, &["u/%u/#", "c/x%c%%u", "50%"])];
        let one = client(Some("ann"), "1");
        for allowed in ["u/ann/x", "u/ann", "c/x1%ann", "50%"] {
            assert!(may(&rules, &one, allowed), "{allowed}");
        }
        for denied in ["u/bob/x", "u/%u/x", "c/x1", "u"] {
            assert!(!may(&rules, &one, denied), "{denied}");
        }
        assert!(may(&rules, &client(None, "1"), "50%"));
    }

    #[test]
    fn a_denial_holds_for_every_name() {
        for name in ["+", "a/b", "a+"] {
            let rules = [rule(Effect::Deny, &["u/%u/x"]), rule(Effect::ALLOW, &["#"])];
            let client = client(Some(name), "c");
            assert!(!may(&rules, &client, "u/a/b/x") || name != "a/b");
            assert!(!may(&rules, &client, "u/bob/x") || name != "+");
            assert!(may(&rules, &client, "u/bob/y"));
        }
    }

    /// A filter that begins with a name selects ordinary topics, not those of the broker [MQTT-4.7.2-1].
    #[test]
    fn a_name_that_begins_with_a_dollar_does_not_reach_sys() {
        let rules = [rule(Effect::ALLOW, &["%c/#", "%u/#", "u/%u"])];
        let client = client(Some("$SYS"), "$SYS");
        assert!(!may(&rules, &client, "$SYS/broker/version"));
        assert!(may(&rules, &client, "u/$SYS"), "further on it is a name like any other");
    }

    #[test]
    fn a_name_with_a_wildcard_gains_nothing() {
        let rules = [rule(Effect::ALLOW, &["u/%u/x", "c/%c/x"])];
        for name in ["+", "#", "a/b", "a+", "/", ""] {
            let client = client(Some(name), name);
            for topic in ["u/bob/x", "c/bob/x", &format!("u/{name}/x"), &format!("c/{name}/x")] {
                assert!(!may(&rules, &client, topic), "{name} {topic}");
            }
        }
    }
}
