//! Whether a history is one that a broker may give.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use sluice::mqtt::topic::{Filter, matches};
use sluice::mqtt::{Limits, QoS};

use super::history::{History, Published, Received};

/// Violations of a kind that are shown.
const EXAMPLES: usize = 3;
/// Numbers that are named in one of them.
const NUMBERS: usize = 8;

/// What can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A message that was acknowledged did not reach one who had to get it.
    Lost,
    /// A QoS 2 message was delivered twice `[MQTT-4.3.3-1]`.
    Twice,
    /// A message came after a later one of its publisher `[MQTT-4.6.0-6]`.
    OutOfOrder,
    /// Session Present was not what it had to be `[MQTT-3.2.2-2]` `[MQTT-3.2.2-3]`.
    Session,
    /// A retained message was older than the last one acknowledged, or gone.
    Retained,
    /// A message came that nobody had sent.
    Invented,
    /// Something else that must not happen.
    Protocol,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Lost,
        Self::Twice,
        Self::OutOfOrder,
        Self::Session,
        Self::Retained,
        Self::Invented,
        Self::Protocol,
    ];

    const fn words(self) -> &'static str {
        match self {
            Self::Lost => "acknowledged messages that were lost",
            Self::Twice => "QoS 2 messages that were delivered twice",
            Self::OutOfOrder => "messages that came out of order",
            Self::Session => "CONNACKs with a wrong Session Present",
            Self::Retained => "retained messages that were older than acknowledged",
            Self::Invented => "messages that nobody had sent",
            Self::Protocol => "other violations",
        }
    }
}

/// How many of a kind, and the first of them in words.
#[derive(Clone, Debug, Default)]
pub struct Violations {
    /// How many.
    pub count: u64,
    /// The first.
    pub examples: Vec<String>,
}

/// What was looked at, and what was wrong.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Messages that were acknowledged.
    pub acknowledged: u64,
    /// Messages that were refused.
    pub refused: u64,
    /// Acknowledged messages that somebody had to get, for each of them.
    pub owed: u64,
    /// Those among them at QoS 2.
    pub exactly_once: u64,
    /// Sequences of one publisher to one subscriber.
    pub sequences: u64,
    /// CONNACKs whose Session Present was known.
    pub presences: u64,
    /// Looks at retained messages.
    pub reads: u64,
    /// What was wrong.
    pub violations: BTreeMap<Kind, Violations>,
}

/// Holds a history against what every broker owes its clients.
#[must_use]
pub fn check(history: &History) -> Verdict {
    let mut verdict = Verdict::default();
    for published in &history.published {
        verdict.acknowledged += published.acknowledged.len() as u64;
        verdict.refused += published.refused.len() as u64;
        for receivers in units(&history.received) {
            verdict.delivery(published, &receivers);
        }
    }
    for presence in &history.presences {
        verdict.presences += 1;
        if presence.expected != presence.found {
            let (expected, found) = (u8::from(presence.expected), u8::from(presence.found));
            let text = format!("{}: Session Present {found}, not {expected}", presence.client);
            verdict.add(Kind::Session, 1, text);
        }
    }
    for read in &history.reads {
        verdict.reads += 1;
        if !read.is_right() {
            let (found, last) = (word(read.found), word(read.acknowledged));
            let text = format!("{}: {found}, when {last} was acknowledged", read.topic);
            verdict.add(Kind::Retained, 1, text);
        }
    }
    for oddity in &history.oddities {
        verdict.add(Kind::Protocol, 1, oddity.clone());
    }
    verdict
}

fn word(number: Option<u32>) -> String {
    number.map_or("none".to_owned(), |number| format!("number {number}"))
}

/// Whether a filter, `$share/` and all, asks for a topic.
pub(super) fn selects(filter: &str, topic: &str) -> bool {
    Filter::parse(filter, &Limits::NONE).is_ok_and(|filter| matches(filter.filter, topic))
}

/// Those who get a message once between them: a subscriber, or a group.
fn units(received: &[Received]) -> Vec<Vec<&Received>> {
    let mut units: Vec<Vec<&Received>> = Vec::new();
    for one in received {
        let is_shared = one.filter.starts_with("$share/");
        match units.iter_mut().find(|unit| is_shared && unit[0].filter == one.filter) {
            Some(unit) => unit.push(one),
            None => units.push(vec![one]),
        }
    }
    units
}

impl Verdict {
    /// Whether nothing was wrong.
    #[must_use]
    pub fn is_right(&self) -> bool {
        self.violations.is_empty()
    }

    /// How many of a kind were found.
    #[must_use]
    pub fn count(&self, kind: Kind) -> u64 {
        self.violations.get(&kind).map_or(0, |violations| violations.count)
    }

    fn add(&mut self, kind: Kind, count: u64, example: String) {
        let violations = self.violations.entry(kind).or_default();
        violations.count += count;
        if violations.examples.len() < EXAMPLES {
            violations.examples.push(example);
        }
    }

    /// One publisher, and one who gets its messages.
    fn delivery(&mut self, published: &Published, receivers: &[&Received]) {
        let Published { topic, acknowledged, sent, .. } = published;
        let Some(first) = receivers.first() else { return };
        if !selects(&first.filter, topic) {
            return;
        }
        let whose = match receivers {
            [one] => format!("{} of {topic}", one.client),
            _ => format!("{} of {topic}", first.filter),
        };
        let numbers = |one: &&Received| one.numbers.get(topic).cloned().unwrap_or_default();
        let lists: Vec<Vec<u32>> = receivers.iter().map(numbers).collect();
        let distinct: BTreeSet<u32> = lists.iter().flatten().copied().collect();
        self.owed += acknowledged.len() as u64;
        self.complain(Kind::Lost, &whose, acknowledged.difference(&distinct).copied().collect());
        self.complain(Kind::Invented, &whose, distinct.range(sent..).copied().collect());
        if published.qos.min(first.qos) == QoS::ExactlyOnce {
            self.exactly_once += acknowledged.len() as u64;
            let mut seen = BTreeSet::new();
            let again = lists.iter().flatten().filter(|number| !seen.insert(**number));
            self.complain(Kind::Twice, &whose, again.copied().collect());
        }
        // Between members of a group there is no order.
        if let [list] = lists.as_slice()
            && published.is_ordered
        {
            self.sequences += 1;
            self.complain(Kind::OutOfOrder, &whose, late(list));
        }
    }

    fn complain(&mut self, kind: Kind, whose: &str, numbers: Vec<u32>) {
        if numbers.is_empty() {
            return;
        }
        let named: Vec<String> = numbers.iter().take(NUMBERS).map(u32::to_string).collect();
        let more = match numbers.len().saturating_sub(NUMBERS) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let text = format!("{whose}: {}{more}", named.join(", "));
        self.add(kind, numbers.len() as u64, text);
    }
}

/// Those whose first coming is after a higher number's. What comes again may do so.
fn late(numbers: &[u32]) -> Vec<u32> {
    let (mut seen, mut highest) = (BTreeSet::new(), None);
    let mut late = Vec::new();
    for &number in numbers {
        if !seen.insert(number) {
            continue;
        }
        if highest.is_some_and(|highest| number < highest) {
            late.push(number);
        }
        highest = highest.max(Some(number));
    }
    late
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "  {} messages acknowledged, {} refused; {} deliveries owed, {} of them at QoS 2, in {} \
             sequences",
            self.acknowledged, self.refused, self.owed, self.exactly_once, self.sequences
        )?;
        writeln!(f, "  {} CONNACKs, {} retained messages read", self.presences, self.reads)?;
        if self.is_right() && self.acknowledged == 0 {
            return writeln!(f, "  nothing was acknowledged, so this shows nothing");
        }
        if self.is_right() {
            return writeln!(f, "  nothing was lost, repeated, overtaken or forgotten");
        }
        for (kind, violations) in &self.violations {
            writeln!(f, "  VIOLATED: {} {}", violations.count, kind.words())?;
            for example in &violations.examples {
                writeln!(f, "    {example}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::history::{Presence, Read};
    use super::*;

    fn published(topic: &str, qos: QoS, sent: u32) -> Published {
        Published {
            client: topic.to_owned(),
            topic: topic.to_owned(),
            qos,
            sent,
            acknowledged: (0..sent).collect(),
            refused: BTreeSet::new(),
            is_ordered: true,
        }
    }

    fn received(client: &str, filter: &str, numbers: &[(&str, &[u32])]) -> Received {
        let numbers = numbers.iter().map(|(topic, list)| ((*topic).to_owned(), list.to_vec()));
        Received {
            client: client.to_owned(),
            filter: filter.to_owned(),
            qos: QoS::ExactlyOnce,
            numbers: numbers.collect(),
        }
    }

    fn found(history: &History) -> Vec<(Kind, u64)> {
        let verdict = check(history);
        verdict.violations.iter().map(|(kind, found)| (*kind, found.count)).collect()
    }

    fn with(qos: QoS, received: Vec<Received>) -> History {
        let published = vec![published("t/a", qos, 4)];
        History { published, received, ..History::default() }
    }

    #[test]
    fn a_history_in_which_nothing_was_acknowledged_shows_nothing() {
        let verdict = Verdict::default();
        assert!(verdict.is_right());
        assert!(
            verdict.to_string().ends_with("  nothing was acknowledged, so this shows nothing\n")
        );
    }

    #[test]
    fn a_right_history_is_right() {
        let history = with(
            QoS::ExactlyOnce,
            vec![
                received("a", "t/#", &[("t/a", &[0, 1, 2, 3])]),
                received("other", "u/#", &[]),
                received("b", "$share/g/t/+", &[("t/a", &[1, 2])]),
                received("c", "$share/g/t/+", &[("t/a", &[0, 3])]),
            ],
        );
        let verdict = check(&history);
        assert!(verdict.is_right(), "{verdict}");
        assert_eq!((verdict.acknowledged, verdict.owed, verdict.exactly_once), (4, 8, 8));
        assert_eq!(verdict.sequences, 1);
    }

    #[test]
    fn what_is_lost_is_found() {
        let one = |numbers| with(QoS::AtLeastOnce, vec![received("a", "t/#", numbers)]);
        assert_eq!(found(&one(&[("t/a", &[0, 1, 3])])), [(Kind::Lost, 1)]);
        assert_eq!(found(&one(&[])), [(Kind::Lost, 4)]);
        let group = vec![
            received("b", "$share/g/t/+", &[("t/a", &[1])]),
            received("c", "$share/g/t/+", &[("t/a", &[0, 3])]),
        ];
        assert_eq!(found(&with(QoS::AtLeastOnce, group)), [(Kind::Lost, 1)]);
        // What was not acknowledged, or was refused, may be lost.
        let mut history = one(&[("t/a", &[0, 1])]);
        history.published[0].acknowledged = (0..2).collect();
        history.published[0].refused = (2..3).collect();
        assert_eq!(found(&history), []);
    }

    #[test]
    fn what_comes_twice_is_found_at_qos_2() {
        let twice = || vec![received("a", "t/#", &[("t/a", &[0, 1, 2, 1, 3])])];
        assert_eq!(found(&with(QoS::ExactlyOnce, twice())), [(Kind::Twice, 1)]);
        assert_eq!(found(&with(QoS::AtLeastOnce, twice())), []);
        let group = vec![
            received("b", "$share/g/t/+", &[("t/a", &[1, 2])]),
            received("c", "$share/g/t/+", &[("t/a", &[0, 2, 3])]),
        ];
        assert_eq!(found(&with(QoS::ExactlyOnce, group)), [(Kind::Twice, 1)]);
    }

    #[test]
    fn what_is_overtaken_is_found() {
        let order =
            |numbers| with(QoS::AtLeastOnce, vec![received("a", "t/#", &[("t/a", numbers)])]);
        assert_eq!(found(&order(&[0, 2, 1, 3])), [(Kind::OutOfOrder, 1)]);
        assert_eq!(found(&order(&[3, 0, 1, 2])), [(Kind::OutOfOrder, 3)]);
        // What comes again may come late.
        assert_eq!(found(&order(&[0, 1, 2, 1, 2, 3])), []);
    }

    #[test]
    fn what_nobody_sent_is_found() {
        let numbers: &[u32] = &[0, 1, 2, 3, 4];
        let history = with(QoS::AtLeastOnce, vec![received("a", "t/#", &[("t/a", numbers)])]);
        assert_eq!(found(&history), [(Kind::Invented, 1)]);
    }

    #[test]
    fn a_wrong_session_present_is_found() {
        let presence = |expected, found| Presence { client: "a".to_owned(), expected, found };
        let presences = [(true, true), (false, false), (true, false), (false, true)];
        let presences = presences.map(|(expected, found)| presence(expected, found)).into();
        let history = History { presences, ..History::default() };
        assert_eq!(found(&history), [(Kind::Session, 2)]);
    }

    #[test]
    fn an_old_retained_message_is_found() {
        let read = |acknowledged, found, sent| Read {
            topic: "r".to_owned(),
            acknowledged,
            found,
            sent,
            clears_every: 4,
        };
        let right = [
            read(None, None, 0),
            read(None, Some(0), 1),
            read(Some(3), Some(3), 5),
            read(Some(3), Some(4), 5),
            read(Some(3), None, 4),
            read(Some(2), None, 4),
            read(None, None, 1),
        ];
        let history = History { reads: right.into(), ..History::default() };
        assert_eq!(found(&history), []);
        let wrong = [
            read(Some(3), Some(2), 5),
            read(Some(4), None, 5),
            read(Some(2), None, 3),
            read(None, Some(1), 1),
        ];
        let history = History { reads: wrong.into(), ..History::default() };
        assert_eq!(found(&history), [(Kind::Retained, 4)]);
    }

    #[test]
    fn the_first_of_each_kind_are_named() {
        let history = with(QoS::AtLeastOnce, vec![received("a", "t/#", &[("t/a", &[0, 1, 3])])]);
        let said = check(&history).to_string();
        let words = "VIOLATED: 1 acknowledged messages that were lost\n    a of t/a: 2\n";
        assert!(said.contains(words), "{said}");
    }
}
