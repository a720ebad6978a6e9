//! The one thread that writes: takes the turns of all shards, commits them together, and says so.

mod link;
mod receive;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use hashbrown::HashMap;

use link::State;
pub use link::{Link, Page, Part, Turn};
use receive::Inbox;

use super::acts::Acts;
use super::pages::{self, each_queued};
use super::record::{Decoder, Epoch};
use super::staging::Staging;
use crate::hooks::{Commit, Store, StoreError, Table, Write};
use crate::session::{Change, PageOfQueue, PageRequest, SessionNumber};
use crate::timer::Time;

/// How long after a failed commit it is made again.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// How long after a commit a store does what it has put off.
const CATCH_UP_AFTER: Duration = Duration::from_secs(60);

/// The most turns in one commit, about.
const TURNS_PER_COMMIT: usize = 4096;

/// Messages read for pages, and records of ended sessions removed, between two commits: who waits for a
/// commit is not to wait for long queues. Half of it at most is for what is removed: nor is who waits for a page.
const READ_PER_COMMIT: usize = 4096;

/// Records that wait for a store that fails, at most, before no more pages are read: what becomes of what
/// is in them adds to those.
const MAX_STAGED: usize = 1 << 20;

/// Writes of a commit, memory for which is kept for the next.
const WRITES_KEPT: usize = 1 << 14;

/// Every shard: the store fails or works again, or is not far behind any more.
const ALL: u64 = u64::MAX;

/// Opens the records, at the start and after a failure.
pub type Open = Box<dyn FnMut() -> Result<Box<dyn Store>, StoreError> + Send>;

/// Writes what shards hand over.
pub struct Writer {
    open: Open,
    /// While it fails, too, for those who read; nothing if it was to be opened anew, and that failed.
    store: Option<Box<dyn Store>>,
    commit: Commit,
    inbox: Inbox,
    state: Arc<State>,
    staging: Staging,
    /// By the last commit: who waits for that is told before they are let go of.
    written: Vec<Write>,
    acts: Acts,
    /// By shard: the last turn taken in.
    taken: Vec<u64>,
    /// By shard: where its pages go.
    pages: Vec<Sender<Page>>,
    /// What is to be read.
    asked: VecDeque<Asked>,
    /// Sessions that have ended, and from which place on what they had queued is to be removed.
    forgotten: VecDeque<(SessionNumber, u64)>,
    /// What could not be read, with when it is tried again.
    unreadable: VecDeque<(Instant, Unreadable)>,
    is_unreadable_told: bool,
    /// A bit for each shard that has something to hear: a later turn is committed, a page has come or cannot be read
    /// now; or [all](ALL).
    news: u64,
    /// When the store is to do what it has put off, if there may be something.
    catch_up_at: Option<Instant>,
    /// The log has been told that the time of day is not followed any more.
    is_unfollowed_told: bool,
}

/// A page that a shard has asked for.
#[derive(Clone)]
struct Asked {
    shard: u8,
    request: PageRequest,
    /// It could not be read, which its shard knows: it may ask for another one meanwhile.
    is_put_off: bool,
}

/// Of what the store could not read, and will hardly read before it is mended by a start: others are not to
/// wait for it.
enum Unreadable {
    Page(Asked),
    Forgotten(SessionNumber, u64),
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("taken", &self.taken).finish_non_exhaustive()
    }
}

/// By a panic, too: who waits for it has to be told.
impl Drop for Writer {
    fn drop(&mut self) {
        self.state.gone.store(true, Ordering::Relaxed);
    }
}

impl Writer {
    pub(super) fn new(
        open: Open,
        store: Box<dyn Store>,
        commit: Commit,
        staging: Staging,
        shards: u8,
    ) -> (Self, Vec<Link>) {
        let (turns, inbox) = crossbeam_channel::unbounded();
        let state = Arc::new(State::new(shards));
        let mut pages = Vec::new();
        let link = |shard| {
            let (page, coming) = crossbeam_channel::unbounded();
            pages.push(page);
            Link { shard, turns: turns.clone(), pages: coming, state: state.clone() }
        };
        let links = (0..shards).map(link).collect();
        let writer = Self {
            open,
            store: Some(store),
            commit,
            inbox: Inbox::new(inbox),
            state,
            staging,
            written: Vec::new(),
            acts: Acts::default(),
            taken: vec![0; usize::from(shards)],
            pages,
            asked: VecDeque::new(),
            forgotten: VecDeque::new(),
            unreadable: VecDeque::new(),
            is_unreadable_told: false,
            news: 0,
            catch_up_at: None,
            is_unfollowed_told: false,
        };
        (writer, links)
    }

    /// Writes until all links have gone and everything is written, or cannot be. `tell` is called after
    /// each commit, when pages have been read, and when the store begins to fail or ends to, with a bit for each
    /// shard that has something to hear then: one that has not is not to be woken. `seen` gives the time of day
    /// as it is now, if that can be told.
    pub fn run(mut self, mut tell: impl FnMut(u64), mut seen: impl FnMut() -> Option<Epoch>) {
        self.state.set_writer();
        let (mut busy, mut again_at) = (false, None);
        loop {
            let read_again_at = self.unreadable.front().map(|(at, _)| *at);
            let catch_up_at = self.catch_up_at.filter(|_| again_at.is_none());
            let wake_at = [again_at, read_again_at, catch_up_at].into_iter().flatten().min();
            let gone = !busy && self.receive(wake_at);
            if !gone && again_at.is_some_and(|at| Instant::now() < at) {
                self.take_turns();
                busy = self.read();
            } else {
                seen().into_iter().for_each(|seen| self.follow(seen));
                busy = self.step();
                self.catch_up();
                again_at = self.fails().then(|| Instant::now() + RETRY_AFTER);
            }
            tell(std::mem::take(&mut self.news));
            self.let_go();
            if gone && !busy {
                return;
            }
        }
    }

    /// Goes by the time of day as it is `seen` now from here on, if that was set since the start, which can
    /// be followed so many times.
    pub fn follow(&mut self, seen: Epoch) {
        let is_followed = self.staging.follow(seen);
        if !is_followed && !std::mem::replace(&mut self.is_unfollowed_told, true) {
            tracing::warn!(
                "the time of day was set more often than is followed: until the next start, what expires is \
                 stored by the time as it was before"
            );
        }
    }

    /// Lets go of what was written.
    fn let_go(&mut self) {
        self.written.clear();
        self.written.shrink_to(WRITES_KEPT);
    }

    /// Commits what has come by now, then reads what was asked for. Says whether there is more to do.
    pub fn step(&mut self) -> bool {
        self.take_turns();
        self.commit_staged();
        self.read()
    }

    /// Has the store do what it has put off, when it is time.
    fn catch_up(&mut self) {
        let now = Instant::now();
        if self.catch_up_at.is_some_and(|at| at <= now) && !self.fails() {
            let is_behind = self.store.as_mut().is_some_and(|store| store.catch_up());
            self.catch_up_at = is_behind.then(|| now + CATCH_UP_AFTER);
        }
    }

    fn fails(&self) -> bool {
        self.state.failing.load(Ordering::Relaxed)
    }

    /// Reads what was asked for. Says whether there is more to do.
    fn read(&mut self) -> bool {
        let Some(store) = self.store.take() else { return false };
        self.try_unreadable();
        let (mut budget, failed) = (READ_PER_COMMIT / 2, self.fails());
        let forgotten = match failed {
            // That only adds to what waits.
            true => Ok(()),
            false => self.forget_some(&*store, &mut budget),
        };
        budget += READ_PER_COMMIT / 2;
        let forgets = forgotten.is_err();
        let done = forgotten.and_then(|()| match self.staging.len() < MAX_STAGED || !failed {
            true => self.read_pages(&*store, &mut budget),
            false => Ok(self.asked.len()),
        });
        match done {
            Ok(held_up) => {
                self.store = Some(store);
                self.is_unreadable_told &= !self.unreadable.is_empty();
                !failed && !self.staging.is_empty() || self.asked.len() > held_up
            }
            Err(error) if !store.wants_reopening() => {
                self.store = Some(store);
                self.put_off(forgets, &error);
                true
            }
            Err(error) => {
                self.begin_to_fail(&error);
                // It may have been a write, which reads do without while it fails.
                self.store = Some(store).filter(|_| !failed);
                !failed
            }
        }
    }

    /// Puts what could not be read last behind the rest.
    fn put_off(&mut self, forgets: bool, error: &StoreError) {
        if !std::mem::replace(&mut self.is_unreadable_told, true) {
            tracing::error!(
                "part of a queue cannot be read, and its session waits; what is damaged is set aside at \
                 the next start: {error}"
            );
        }
        let first = match forgets {
            true => self.forgotten.pop_front().map(|(of, from)| Unreadable::Forgotten(of, from)),
            false => self.asked.pop_front().map(|mut asked| {
                self.put_off_page(&mut asked);
                Unreadable::Page(asked)
            }),
        };
        let at = Instant::now() + RETRY_AFTER;
        self.unreadable.extend(first.map(|first| (at, first)));
    }

    /// A page is not read now, and its shard may ask for others.
    fn put_off_page(&mut self, asked: &mut Asked) {
        if !std::mem::replace(&mut asked.is_put_off, true)
            && let Some(count) = self.state.put_off(asked.shard, asked.request.passes_on)
        {
            count.fetch_add(1, Ordering::Relaxed);
            self.news |= 1 << asked.shard;
        }
    }

    fn try_unreadable(&mut self) {
        while let Some((_, first)) = self.unreadable.pop_front_if(|(at, _)| *at <= Instant::now()) {
            match first {
                Unreadable::Page(asked) => self.asked.push_back(asked),
                Unreadable::Forgotten(of, from) => self.forgotten.push_back((of, from)),
            }
        }
    }

    /// Removes what is left in the queues of sessions that have ended, so much at a time.
    fn forget_some(&mut self, store: &dyn Store, budget: &mut usize) -> Result<(), StoreError> {
        for _ in 0..self.forgotten.len() {
            let Some(&(session, from)) = self.forgotten.front() else { break };
            let (epochs, staging) = (self.staging.epochs(), &mut self.staging);
            // What is not committed yet comes later.
            let until = self.acts.first_place(session, from);
            let mut next = until;
            each_queued(store, session, from, |place, key, value| {
                if until.is_some_and(|until| place >= until) {
                    return false;
                }
                if *budget == 0 {
                    next = Some(place);
                    return false;
                }
                *budget -= 1;
                let fields = Decoder::open(Table::Queued, key, value, &epochs)
                    .and_then(|mut decoder| decoder.queued());
                match fields {
                    Some(fields) => staging.forget(key.into(), fields.message),
                    None => staging.set_aside(Table::Queued, key, value.to_vec()),
                }
                true
            })?;
            self.forgotten.pop_front();
            self.forgotten.extend(next.map(|next| (session, next)));
            if *budget == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Reads pages, so much at a time. Gives how many have to wait for an act, or for a store that fails.
    fn read_pages(&mut self, store: &dyn Store, budget: &mut usize) -> Result<usize, StoreError> {
        if self.asked.is_empty() {
            return Ok(0);
        }
        let (uncommitted, mut held_up) = (self.uncommitted(), 0);
        for _ in 0..self.asked.len() {
            if *budget == 0 {
                break;
            }
            let Some(mut asked) = self.asked.front().cloned() else { break };
            let request = &asked.request;
            let PageRequest { session, from, .. } = *request;
            let staged = uncommitted.get(&session).copied();
            let until = self.acts.first_place(session, from).into_iter().chain(staged).min();
            let waits_for_store = request.passes_on && self.fails();
            let page = match request.expired_by {
                _ if waits_for_store => None,
                Some(by) => Some(self.expire(store, request, by, until, budget)?),
                None => self.read_page(store, request, until, budget)?,
            };
            self.asked.pop_front();
            match page {
                Some(page) => self.send_page(&asked, page),
                None => {
                    if waits_for_store {
                        self.put_off_page(&mut asked);
                    }
                    self.asked.push_back(asked);
                    held_up += 1;
                }
            }
        }
        Ok(held_up)
    }

    /// By session that asked: the first place that is not committed, beside those that wait for an act. While the
    /// store works there is none.
    fn uncommitted(&self) -> HashMap<SessionNumber, u64> {
        let mut wanted = HashMap::new();
        if self.fails() {
            // The others are not read meanwhile.
            let asked = self.asked.iter().map(|asked| &asked.request);
            for request in asked.filter(|request| !request.passes_on) {
                let from = wanted.entry(request.session).or_insert(request.from);
                *from = request.from.min(*from);
            }
            if !wanted.is_empty() {
                wanted = self.staging.first_places(&wanted);
            }
        }
        wanted
    }

    /// Removes what has expired in a part of a queue.
    fn expire(
        &mut self,
        store: &dyn Store,
        request: &PageRequest,
        by: Time,
        until: Option<u64>,
        budget: &mut usize,
    ) -> Result<PageOfQueue, StoreError> {
        let (epochs, staging) = (self.staging.epochs(), &self.staging);
        let is_removed = |key: &[u8]| staging.is_removed(Table::Queued, key);
        let expired = pages::expired(store, request, by, until, &is_removed, &epochs)?;
        for (key, message) in expired.keys {
            self.staging.forget(key, message);
        }
        *budget = budget.saturating_sub(expired.seen as usize + 1);
        Ok(expired.page)
    }

    /// Reads a part of a queue; nothing if all of it has to wait.
    fn read_page(
        &mut self,
        store: &dyn Store,
        request: &PageRequest,
        until: Option<u64>,
        budget: &mut usize,
    ) -> Result<Option<PageOfQueue>, StoreError> {
        let (epochs, staging) = (self.staging.epochs(), &self.staging);
        let is_removed = |key: &[u8]| staging.is_removed(Table::Queued, key);
        let read = pages::read(store, request, until, &is_removed, &epochs)?;
        let pages::Read { page, damaged, stray } = read;
        if page.messages.is_empty() && page.lost == 0 && until.is_some() {
            return Ok(None);
        }
        if page.lost > 0 {
            tracing::error!("{} messages of a queue cannot be read, and were set aside", page.lost);
        }
        for (table, key, value) in damaged {
            self.staging.set_aside(table, &key, value);
        }
        for (key, message) in stray {
            self.staging.forget(key, message);
        }
        *budget = budget.saturating_sub(page.messages.len() + 1);
        Ok(Some(page))
    }

    fn send_page(&mut self, asked: &Asked, page: PageOfQueue) {
        self.news |= 1 << asked.shard;
        let PageRequest { session, waiter, passes_on, .. } = asked.request;
        if asked.is_put_off
            && let Some(count) = self.state.put_off(asked.shard, passes_on)
        {
            count.fetch_sub(1, Ordering::Relaxed);
        }
        if let Some(pages) = self.pages.get(usize::from(asked.shard)) {
            // A shard that is gone wants nothing.
            let _ = pages.send(Page { session, waiter, page });
        }
    }

    fn begin_to_fail(&mut self, error: &StoreError) {
        if !self.state.failing.swap(true, Ordering::Relaxed) {
            self.news = ALL;
            tracing::error!("the store fails, nothing more is kept until it works again: {error}");
        }
    }

    fn take_turns(&mut self) {
        for turn in self.inbox.take(&self.state) {
            self.take(turn);
        }
        for change in self.acts.complete() {
            self.stage(change);
        }
    }

    fn commit_staged(&mut self) {
        if self.staging.is_empty() && !self.fails() {
            self.staging.clear();
            self.staging.forget_unheld();
            self.publish();
            return;
        }
        self.let_go();
        let mut writes = std::mem::take(&mut self.written);
        self.staging.take(&mut writes);
        self.staging.forget_unheld();
        let begun = Instant::now();
        match self.commit(&writes) {
            Ok(()) => {
                self.inbox.took(begun.elapsed());
                if self.state.failing.swap(false, Ordering::Relaxed) {
                    tracing::warn!("the store works again");
                    self.news = ALL;
                    self.staging.shrink();
                }
                self.catch_up_at.get_or_insert_with(|| Instant::now() + CATCH_UP_AFTER);
                self.publish();
            }
            Err(error) => {
                self.staging.put_back(&mut writes);
                self.begin_to_fail(&error);
            }
        }
        self.written = writes;
    }

    /// Commits writes; if that failed before, in a store that is opened anew if that may help.
    fn commit(&mut self, writes: &[Write]) -> Result<(), StoreError> {
        if let Some(store) = &mut self.store {
            let done = store.commit(writes, self.commit);
            if done.is_ok()
                || !self.state.failing.load(Ordering::Relaxed)
                || !store.wants_reopening()
            {
                return done;
            }
        }
        // Two of one directory cannot be open.
        self.store = None;
        let store = self.store.insert((self.open)()?);
        store.commit(writes, self.commit)
    }

    fn take(&mut self, taken: Turn) {
        let Turn { shard, turn, parts, .. } = taken;
        let (changes, is_not_full) = self.state.take(&taken.changes);
        if is_not_full {
            self.news = ALL;
        }
        let mut parts = parts.into_iter().peekable();
        for (index, change) in changes.into_iter().enumerate() {
            while parts.next_if(|part| part.end <= index).is_some() {}
            let change = match parts.peek().filter(|part| part.first <= index) {
                Some(part) => self.acts.add(part.act, (shard, turn), change),
                None => self.acts.reconcile(change),
            };
            if let Some(change) = change {
                self.stage(change);
            }
        }
        for (act, with) in taken.handed {
            self.acts.handed(act, with, (shard, turn));
        }
        taken.unstored.into_iter().for_each(|act| self.acts.comes_behind_all(act));
        for act in taken.returned {
            self.acts.returned(act);
        }
        for act in taken.taken_back {
            self.acts.taken_back(act);
        }
        for act in taken.done {
            self.acts.done(shard, act);
        }
        let asked = |request| Asked { shard, request, is_put_off: false };
        self.asked.extend(taken.asked.into_iter().map(asked));
        if let Some(last) = self.taken.get_mut(usize::from(shard)) {
            *last = turn;
        }
    }

    #[inline]
    fn stage(&mut self, change: Change) {
        match change {
            Change::Forgotten(session, from) => self.forgotten.push_back((session, from)),
            change => self.staging.stage(change),
        }
    }

    /// Tells the shards how far they are committed: everything staged is.
    fn publish(&mut self) {
        self.inbox.forget_left();
        for (shard, (&taken, committed)) in (0..).zip(self.taken.iter().zip(&self.state.committed))
        {
            let until = self.acts.first_turn(shard).map_or(taken, |first| taken.min(first - 1));
            if committed.swap(until, Ordering::Release) != until {
                self.news |= 1 << shard;
            }
        }
    }
}

#[cfg(test)]
mod tests;
