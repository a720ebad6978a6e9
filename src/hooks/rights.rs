//! What one client may do: plain values, and the decisions that follow from them.

use std::sync::Arc;

use crate::mqtt::{QoS, topic};

/// A rule as it concerns one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// What it says.
    pub effect: Effect,
    /// Whether it speaks of publishing.
    pub publish: bool,
    /// Whether it speaks of subscribing, and of receiving.
    pub subscribe: bool,
    /// Topic filters; it speaks of what any of them matches.
    pub topics: Arc<[Box<str>]>,
}

/// What a rule says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It allows. A message above these limits is not what the rule speaks of; a subscription is granted
    /// at the QoS of the limit.
    Allow {
        /// The highest QoS.
        max_qos: QoS,
        /// Whether messages may be retained.
        retain: bool,
    },
    /// It denies.
    Deny,
}

impl Effect {
    /// Allows without limits.
    pub const ALLOW: Self = Self::Allow { max_qos: QoS::ExactlyOnce, retain: true };
}

/// What one client may do. Of the grants that speak of a topic the first one decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rights {
    grants: Vec<Grant>,
    otherwise: bool,
    partly: bool,
}

/// At which QoS, retained or not, a client may publish on a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishRights(u8);

impl PublishRights {
    /// At any.
    pub const ALL: Self = Self(0b11_1111);
    /// At none.
    pub const NONE: Self = Self(0);

    /// Whether a message like this may be published.
    #[inline]
    #[must_use]
    pub fn allows(self, qos: QoS, retain: bool) -> bool {
        self.0 & (1 << bit(qos, retain)) != 0
    }
}

fn bit(qos: QoS, retain: bool) -> u8 {
    qos.as_u8() + 3 * u8::from(retain)
}

impl Rights {
    /// What no grant speaks of is allowed if `otherwise` says so. With `partly`, a subscription is granted
    /// if anything it matches may be received; without, all of it has to be allowed but for what is denied
    /// in particular.
    #[must_use]
    pub fn new(grants: Vec<Grant>, otherwise: bool, partly: bool) -> Self {
        Self { grants, otherwise, partly }
    }

    /// How the client may publish on a topic.
    #[must_use]
    pub fn publish(&self, name: &str) -> PublishRights {
        let mut decided = 0;
        let mut allowed = 0;
        let speaking = self.grants.iter().filter(|grant| grant.publish && grant.matches(name));
        for grant in speaking {
            let reach = match grant.effect {
                Effect::Deny => PublishRights::ALL.0,
                Effect::Allow { max_qos, retain } => {
                    let up_to = (1 << (max_qos.as_u8() + 1)) - 1;
                    up_to | if retain { up_to << 3 } else { 0 }
                }
            };
            if grant.effect != Effect::Deny {
                allowed |= reach & !decided;
            }
            decided |= reach;
        }
        if self.otherwise {
            allowed |= PublishRights::ALL.0 & !decided;
        }
        PublishRights(allowed)
    }

    /// Whether the client may receive messages of a topic.
    #[must_use]
    pub fn receives(&self, name: &str) -> bool {
        let first = self.grants.iter().find(|grant| grant.subscribe && grant.matches(name));
        first.map_or(self.otherwise, |grant| grant.effect != Effect::Deny)
    }

    /// The highest QoS that a subscription is granted at; `None`: it is refused. `shared` ones have to be
    /// allowed to the last topic, because a group gives each message to one member.
    #[must_use]
    pub fn subscribe(&self, filter: &str, shared: bool) -> Option<QoS> {
        for grant in self.grants.iter().filter(|grant| grant.subscribe) {
            let covers = grant.topics.iter().any(|own| topic::covers(own, filter));
            let touches = || grant.topics.iter().any(|own| topic::overlaps(own, filter));
            match grant.effect {
                Effect::Deny if covers || (shared && touches()) => return None,
                Effect::Allow { max_qos, .. }
                    if covers || (self.partly && !shared && touches()) =>
                {
                    return Some(max_qos);
                }
                _ => {}
            }
        }
        self.otherwise.then_some(QoS::ExactlyOnce)
    }
}

impl Grant {
    fn matches(&self, name: &str) -> bool {
        self.topics.iter().any(|own| topic::matches(own, name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(effect: Effect, action: &str, topics: &[&str]) -> Grant {
        Grant {
            effect,
            publish: action != "subscribe",
            subscribe: action != "publish",
            topics: topics.iter().map(|one| Box::from(*one)).collect(),
        }
    }

    fn limited(max_qos: QoS, retain: bool) -> Effect {
        Effect::Allow { max_qos, retain }
    }

    const QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

    #[test]
    fn the_first_that_speaks_of_a_topic_decides() {
        let rights = Rights::new(
            vec![
                grant(Effect::Deny, "all", &["a/secret/#"]),
                grant(Effect::ALLOW, "publish", &["a/#"]),
                grant(Effect::ALLOW, "subscribe", &["b/+", "c"]),
            ],
            false,
            false,
        );
        let may_publish = |name| rights.publish(name) == PublishRights::ALL;
        assert!(may_publish("a/x") && may_publish("a"));
        for denied in ["a/secret", "a/secret/x", "b/x", "z"] {
            assert_eq!(rights.publish(denied), PublishRights::NONE, "{denied}");
        }
        assert!(rights.receives("b/x") && rights.receives("c"));
        for denied in ["a/x", "a/secret", "b/x/y", "z"] {
            assert!(!rights.receives(denied), "{denied}");
        }
    }

    #[test]
    fn what_no_grant_speaks_of_is_as_stated() {
        for otherwise in [true, false] {
            let rights = Rights::new(vec![], otherwise, false);
            assert_eq!(rights.publish("t").allows(QoS::ExactlyOnce, true), otherwise);
            assert_eq!(rights.receives("t"), otherwise);
            assert_eq!(rights.subscribe("#", false).is_some(), otherwise);
            assert_eq!(rights.subscribe("#", true).is_some(), otherwise);
        }
    }

    #[test]
    fn limits_leave_what_is_above_them_to_the_next_grant() {
        let rights = Rights::new(
            vec![
                grant(limited(QoS::AtMostOnce, true), "all", &["a"]),
                grant(limited(QoS::AtLeastOnce, false), "all", &["+"]),
            ],
            false,
            false,
        );
        let allowed = |name| {
            let rights = rights.publish(name);
            [false, true].map(|retain| QOS.map(|qos| rights.allows(qos, retain)))
        };
        assert_eq!(allowed("a"), [[true, true, false], [true, false, false]]);
        assert_eq!(allowed("b"), [[true, true, false], [false; 3]]);
        assert_eq!(rights.subscribe("a", false), Some(QoS::AtMostOnce));
        assert_eq!(rights.subscribe("b", false), Some(QoS::AtLeastOnce));
    }

    #[test]
    fn a_subscription_has_to_be_allowed() {
        let grants =
            || vec![grant(Effect::Deny, "all", &["a/x"]), grant(Effect::ALLOW, "all", &["a/#"])];
        let strict = Rights::new(grants(), false, false);
        let partly = Rights::new(grants(), false, true);
        // Filter, then whether it is granted: strictly, partly, shared.
        for (filter, granted) in [
            ("a/#", [true, true, false]),
            ("a/y", [true, true, true]),
            ("a/y/+", [true, true, true]),
            ("a/x", [false, false, false]),
            ("a/+", [true, true, false]),
            ("#", [false, true, false]),
            ("+/y", [false, true, false]),
            ("b/#", [false, false, false]),
            ("$SYS/#", [false, false, false]),
        ] {
            let is_granted = [
                strict.subscribe(filter, false).is_some(),
                partly.subscribe(filter, false).is_some(),
                strict.subscribe(filter, true).is_some(),
            ];
            assert_eq!(is_granted, granted, "{filter}");
            assert_eq!(partly.subscribe(filter, true).is_some(), granted[2], "{filter}");
        }
    }
}
