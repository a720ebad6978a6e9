//! When each shard took its turns: what one shard tells another takes effect in a turn of the other,
//! and is confirmed in a later turn of its own.

use std::collections::{BTreeMap, BTreeSet};

/// The turns of every shard, by the moments of the model.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    by_shard: Vec<Vec<u64>>,
    /// The shard that each client's session lives on.
    home: BTreeMap<String, usize>,
    /// Filters that a session of the shard has asked for.
    filters: BTreeSet<(usize, String)>,
}

impl Turns {
    pub(crate) fn new(shards: usize) -> Self {
        Self { by_shard: vec![Vec::new(); shards], ..Self::default() }
    }

    pub(crate) fn note(&mut self, shard: usize, moment: u64) {
        self.by_shard[shard].push(moment);
    }

    pub(crate) fn settle(&mut self, client: &str, shard: usize) {
        self.home.insert(client.to_owned(), shard);
    }

    /// A client asks for a filter; says whether its shard has to tell the others.
    pub(crate) fn ask(&mut self, client: &str, filter: &str) -> bool {
        let home = self.home.get(client).copied();
        home.is_some_and(|shard| self.filters.insert((shard, filter.to_owned())))
    }

    /// Whether what one client sent at `since` can have been confirmed by the shard of another.
    pub(crate) fn heard(&self, client: &str, other: &str, since: u64) -> bool {
        match (self.home.get(client), self.home.get(other)) {
            (Some(&from), Some(&to)) => from == to || self.confirmed(from, to, since),
            _ => true,
        }
    }

    /// Whether what a client sent at `since` can have been confirmed by every shard.
    pub(crate) fn heard_by_all(&self, client: &str, since: u64) -> bool {
        let Some(&from) = self.home.get(client) else { return true };
        (0..self.by_shard.len()).all(|to| from == to || self.confirmed(from, to, since))
    }

    fn confirmed(&self, from: usize, to: usize, since: u64) -> bool {
        let next = |shard: usize, after: u64| {
            let turns = &self.by_shard[shard];
            turns.get(turns.partition_point(|&moment| moment <= after)).copied()
        };
        let sent = next(from, since);
        let taken = sent.and_then(|sent| next(to, sent));
        taken.and_then(|taken| next(from, taken)).is_some()
    }
}
