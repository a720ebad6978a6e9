//! A log of commits in front of an engine: a commit is one write to a file, and one sync of it.
//!
//! Most records are gone before an engine would have to have them. So commits go to a log first, and when
//! a segment of it is full, the other takes the commits. When that has come to a quarter, what is still there
//! of the records of the full one goes to the engine, in steps. Of a record that is in the log only, memory
//! has key and place. An opening brings the engine up to date before anything else, and so does whoever
//! reads. While nothing can be written, reads go through the log to the engine.

mod frame;
mod live;
mod overlay;
mod segments;
mod window;

use std::cell::RefCell;
use std::hash::{BuildHasher, RandomState};

use frame::{Beginning, FRAME_HEAD, Found, Head, SEGMENT_HEAD};
use live::{Live, Place};
use overlay::Overlay;
pub(super) use segments::{Files, LOGS};
pub use segments::{Segment, Segments};
use window::Window;

use super::Torn;
use crate::hooks::{Commit, Store, StoreError, Table, Write};

/// Bytes of a segment on disk.
pub(super) const SEGMENT_BYTES: u64 = 32 << 20;
/// How much longer than that a segment stays whose last commit was a large one: syncs of what does not grow
/// are faster.
const SEGMENTS_KEPT: u64 = 2;
/// The engine is given nothing of a full segment before the other has come to this part of its bytes: the
/// records of messages that were under way when it was full have gone by then.
const REST: u64 = 4;
/// The engine is given this part of a segment in one commit, or twice what the log has grown.
const STEPS: u64 = 512;
/// Bytes of a buffer that is kept for the next commit.
const FRAME_KEPT: usize = 4 << 20;
/// Bytes that the engine is given in one commit when somebody waits for the last one. What damage in its
/// journal can take is one commit.
const SETTLE_BYTES: u64 = 256 << 10;

/// An engine behind a log.
pub struct Logged<S: Store, L: Segments> {
    log: RefCell<Log<S, L>>,
}

struct Log<S, L> {
    engine: S,
    segments: L,
    /// Bytes of one when the next one begins.
    segment_bytes: u64,
    life: u64,
    /// The number of the next frame.
    sequence: u64,
    /// Where the next one goes.
    active: Segment,
    /// Bytes of it; 0: it has no head yet.
    len: u64,
    /// Records whose last change the engine has not got.
    live: Live,
    /// How far the other segment is.
    other: Other,
    /// A segment was begun since it was last asked to catch up.
    is_going_on: bool,
    /// The engine was given something that may not be on disk.
    is_ahead: bool,
    /// Bytes were written to the segments that may not be on disk.
    unsynced: [bool; 2],
    state: State,
    /// What went wrong last, if anything did.
    wrong: Option<StoreError>,
    frame: Vec<u8>,
    window: Window,
    /// Made when somebody reads, while it does not go well.
    overlay: Option<Overlay>,
}

/// Whether there is something in the log: it did not come to a good end.
pub(super) fn is_in_use(segments: &impl Segments) -> std::io::Result<bool> {
    for segment in Segment::BOTH {
        let mut head = [0; SEGMENT_HEAD];
        segments.read_at(segment, 0, &mut head)?;
        if Beginning::of(&head) != Beginning::Nothing {
            return Ok(true);
        }
    }
    Ok(false)
}

/// How it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Well,
    /// The last commit could not be written, and all is as it was before.
    Refused,
    /// What the engine and the disk have is not known.
    Unknown,
}

/// What becomes of the segment that is not active.
enum Other {
    /// Nothing in it is needed.
    Free,
    /// It is full, and the engine has been given nothing of it.
    Rests,
    /// The engine is given what is in these places, from the last to the first, if it is still there.
    Leaves(Vec<Place>),
}

impl<S: Store, L: Segments> Logged<S, L> {
    /// Brings the engine up to date with what is in the segments, and begins to use them anew. A last
    /// commit that is there in part is cut off, a damaged one is set aside, and the log of the process
    /// tells of both. One that has come to `segment_bytes` is followed by the other.
    ///
    /// # Errors
    /// The engine's, the system's, or that the segments do not belong together.
    pub fn open(engine: S, segments: L, segment_bytes: u64) -> Result<Self, StoreError> {
        let mut log = Log::new(engine, segments, segment_bytes);
        log.replay(Torn::IsTold)?;
        log.careful(Log::close)?;
        Ok(Self { log: RefCell::new(log) })
    }

    /// As [`open`](Self::open), after a failure. Of a last commit that is there in part nothing is said:
    /// whoever made it makes it again. If the engine cannot be brought up to date, records can be read all
    /// the same; commits fail.
    ///
    /// # Errors
    /// As there, but for those of the engine.
    pub fn reopen(engine: S, segments: L, segment_bytes: u64) -> Result<Self, StoreError> {
        let mut log = Log::new(engine, segments, segment_bytes);
        log.replay(Torn::IsExpected)?;
        // If that goes wrong, the next commit says so.
        let _ = log.careful(Log::close);
        Ok(Self { log: RefCell::new(log) })
    }

    /// Has the engine be up to date, or knows what it has not got.
    fn prepare(&self) -> Result<(), StoreError> {
        // Whoever reads while it reads has prepared before.
        let is_prepared = {
            let log = self.log.borrow();
            if log.state == State::Well { log.is_settled() } else { log.overlay.is_some() }
        };
        if is_prepared {
            return Ok(());
        }
        let mut log = self.log.borrow_mut();
        // If the engine takes nothing, the next commit says so.
        if log.state == State::Well && log.careful(Log::settle).is_ok() {
            return Ok(());
        }
        log.lay_over()
    }
}

impl<S: Store, L: Segments> Store for Logged<S, L> {
    fn commit(&mut self, writes: &[Write], commit: Commit) -> Result<(), StoreError> {
        self.log.get_mut().commit(writes, commit)
    }

    fn catch_up(&mut self) -> bool {
        let log = self.log.get_mut();
        let goes_on = std::mem::take(&mut log.is_going_on);
        if goes_on || log.state != State::Well {
            return goes_on;
        }
        // If that goes wrong, the next commit says so.
        let _ = log.careful(Log::settle);
        false
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.prepare()?;
        let log = self.log.borrow();
        match &log.overlay {
            None => log.engine.get(table, key),
            Some(overlay) => overlay.get(&log.segments, &log.engine, table, key),
        }
    }

    fn range(
        &self,
        table: Table,
        from: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        self.prepare()?;
        let log = self.log.borrow();
        match &log.overlay {
            None => log.engine.range(table, from, each),
            Some(overlay) => overlay.range(&log.segments, &log.engine, (table, from), each),
        }
    }

    fn wants_reopening(&self) -> bool {
        self.log.borrow().state == State::Unknown
    }
}

/// What is closed well needs no log: then other tools find all of it in the engine.
impl<S: Store, L: Segments> Drop for Logged<S, L> {
    fn drop(&mut self) {
        let log = self.log.get_mut();
        if log.state != State::Unknown {
            // If that goes wrong, the next opening does it.
            let _ = log.close();
        }
    }
}

impl<S: Store, L: Segments> Log<S, L> {
    fn new(engine: S, segments: L, segment_bytes: u64) -> Self {
        Self {
            engine,
            segments,
            segment_bytes,
            life: RandomState::new().hash_one("life"),
            sequence: 1,
            active: Segment::A,
            len: 0,
            live: Live::default(),
            other: Other::Free,
            is_going_on: false,
            is_ahead: false,
            unsynced: [false; 2],
            state: State::Well,
            wrong: None,
            frame: Vec::new(),
            window: Window::default(),
            overlay: None,
        }
    }

    /// Does something after which, if it does not come to its end, it is not known any more what the engine
    /// and the disk have.
    fn careful(
        &mut self,
        action: impl FnOnce(&mut Self) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.state = State::Unknown;
        self.overlay = None;
        let done = action(self);
        match &done {
            Ok(()) => self.state = State::Well,
            Err(error) => self.wrong = Some(error.clone()),
        }
        done
    }

    fn commit(&mut self, writes: &[Write], commit: Commit) -> Result<(), StoreError> {
        if self.state == State::Unknown {
            let before = || StoreError("it failed before, and was not opened anew".to_owned());
            return Err(self.wrong.clone().unwrap_or_else(before));
        }
        if !writes.is_empty()
            && let Err(error) = self.append(writes)
        {
            self.state = State::Refused;
            return Err(error);
        }
        self.careful(|log| log.keep(commit))
    }

    /// Does the rest of a commit that was written.
    fn keep(&mut self, commit: Commit) -> Result<(), StoreError> {
        if commit == Commit::Disk {
            self.sync()?;
        }
        let grown = 2 * self.frame.len() as u64;
        self.frame.clear();
        self.frame.shrink_to(FRAME_KEPT);
        match &self.other {
            Other::Free if self.len >= self.segment_bytes => self.change_segments(),
            Other::Rests if self.len >= self.segment_bytes / REST => {
                let mut places = self.live.leaving_places();
                places.reverse();
                self.other = Other::Leaves(places);
                self.step(grown.max(self.segment_bytes / STEPS))
            }
            Other::Leaves(_) => self.step(grown.max(self.segment_bytes / STEPS)),
            Other::Free | Other::Rests => Ok(()),
        }
    }

    /// Has the disk have all that was written.
    fn sync(&mut self) -> Result<(), StoreError> {
        for segment in Segment::BOTH {
            if std::mem::take(&mut self.unsynced[segment as usize]) {
                self.segments.sync(segment)?;
            }
        }
        Ok(())
    }

    /// Writes a commit behind the others. If that fails, it is as if there had been none.
    fn append(&mut self, writes: &[Write]) -> Result<(), StoreError> {
        let Self { life, sequence, active, len, live, frame, .. } = self;
        frame.clear();
        if *len == 0 {
            frame.extend_from_slice(&Head { life: *life, first: *sequence }.encode());
        }
        let mut at = *len + (frame.len() + FRAME_HEAD) as u64;
        frame::encode(writes, *life, *sequence, frame);
        let end = *len + frame.len() as u64;
        frame.extend_from_slice(&[0; FRAME_HEAD]);
        self.segments.write(*active, *len, frame)?;
        for write in writes {
            live.note(write, Place::new(*active, at));
            at += frame::record_len(write) as u64;
        }
        self.unsynced[*active as usize] = true;
        *len = end;
        *sequence += 1;
        Ok(())
    }

    /// Begins the other segment.
    fn change_segments(&mut self) -> Result<(), StoreError> {
        // Or else the disk could have what came last from the engine, and not from the log, and a replay
        // of what came before would undo it.
        self.sync()?;
        self.live.change_segments();
        self.is_going_on = true;
        self.active = self.active.other();
        self.len = 0;
        if self.is_ahead || !self.live.is_empty() {
            self.other = Other::Rests;
            return Ok(());
        }
        self.give_up(self.active.other())
    }

    /// A segment is not needed any more. Until the disk knows, nothing may be written over what is in it:
    /// a replay of some of it would undo the rest.
    fn give_up(&mut self, segment: Segment) -> Result<(), StoreError> {
        self.segments.write(segment, 0, &[0; SEGMENT_HEAD])?;
        self.segments.sync(segment)?;
        self.unsynced[segment as usize] = false;
        Ok(self.segments.cut(segment, SEGMENTS_KEPT * self.segment_bytes)?)
    }

    /// Gives the engine some of the full segment.
    fn step(&mut self, bytes: u64) -> Result<(), StoreError> {
        let Other::Leaves(places) = &mut self.other else { return Ok(()) };
        let mut places = std::mem::take(places);
        self.give(&mut places, bytes)?;
        if !places.is_empty() {
            self.other = Other::Leaves(places);
            return Ok(());
        }
        if std::mem::take(&mut self.is_ahead) {
            self.engine.commit(&[], Commit::Disk)?;
        }
        // What has gone since is told by the active segment alone from here on.
        self.sync()?;
        self.give_up(self.active.other())?;
        self.live.forget_old();
        self.other = Other::Free;
        Ok(())
    }

    fn is_settled(&self) -> bool {
        self.live.is_empty()
    }

    fn settle(&mut self) -> Result<(), StoreError> {
        self.sync()?;
        // One after the other: a record may be in both.
        for mut places in [self.live.leaving_places(), self.live.new_places()] {
            places.reverse();
            while !places.is_empty() {
                self.give(&mut places, SETTLE_BYTES)?;
            }
        }
        self.live.forget();
        if let Other::Leaves(places) = &mut self.other {
            places.clear();
        }
        Ok(())
    }

    /// Takes about so many bytes of records off the end of some places, and gives the engine what is still
    /// there of them.
    fn give(&mut self, places: &mut Vec<Place>, bytes: u64) -> Result<(), StoreError> {
        let writes = self.window.next(&self.segments, places, bytes, &self.live)?;
        let Some((last, writes)) = writes else { return Ok(()) };
        self.is_ahead = true;
        self.engine.commit(&writes, Commit::System)?;
        self.live.set_given(last);
        Ok(())
    }

    /// Has those who read find what the engine has not got.
    fn lay_over(&mut self) -> Result<(), StoreError> {
        let places = self.live.old_places().into_iter().chain(self.live.new_places());
        self.overlay = Some(Overlay::new(&self.segments, places)?);
        Ok(())
    }

    fn replay(&mut self, torn: Torn) -> Result<(), StoreError> {
        let mut found = Vec::new();
        for segment in Segment::BOTH {
            // The engine must not have what the log could lose.
            self.segments.sync(segment)?;
            let bytes = self.segments.read(segment)?;
            match Beginning::of(&bytes) {
                Beginning::Nothing => {}
                Beginning::Head(head) => found.push((head, segment, bytes)),
                Beginning::Damaged => {
                    self.segments.set_aside(segment, 0, &bytes)?;
                    let name = self.segments.name(segment);
                    tracing::error!(
                        "{name}: its beginning is damaged, and all of it was set aside"
                    );
                }
            }
        }
        found.sort_unstable_by_key(|(head, ..)| head.first);
        let mut last = None;
        for (head, segment, bytes) in &found {
            let commits = Found::of(bytes, *head);
            let len: usize = commits.whole.iter().map(std::ops::Range::len).sum();
            if len > 0 {
                let name = self.segments.name(*segment);
                tracing::info!("{name}: {len} bytes of commits are handed to the engine");
            }
            self.report(*segment, bytes, &commits, torn)?;
            match last.replace((head.life, commits.next)) {
                Some((life, _)) if life != head.life => {
                    let [a, b] = Segment::BOTH.map(|segment| self.segments.name(segment));
                    return Err(StoreError(format!(
                        "{a} and {b} do not belong together: put back the one that was replaced, or move it \
                         away, and what it had is lost"
                    )));
                }
                Some((_, next)) if next < head.first => tracing::error!(
                    "{}: {} commits before it are not there",
                    self.segments.name(*segment),
                    head.first - next
                ),
                _ => {}
            }
            for records in commits.whole {
                let (mut at, end) = (records.start, records.end);
                while at < end {
                    let rest = bytes.get(at..end).unwrap_or_default();
                    let Some((write, len)) = frame::record(rest) else {
                        let name = self.segments.name(*segment);
                        return Err(StoreError(format!("{name}: no record at byte {at}")));
                    };
                    self.live.note(&write, Place::new(*segment, at as u64));
                    at += len;
                }
            }
        }
        if let Some((_, segment, _)) = found.last() {
            self.active = *segment;
        }
        Ok(())
    }

    fn report(
        &mut self,
        segment: Segment,
        bytes: &[u8],
        found: &Found,
        torn: Torn,
    ) -> Result<(), StoreError> {
        let name = self.segments.name(segment);
        for range in &found.damaged {
            self.segments.set_aside(
                segment,
                range.start,
                bytes.get(range.clone()).unwrap_or_default(),
            )?;
        }
        if !found.damaged.is_empty() {
            let lost: usize = found.damaged.iter().map(std::ops::Range::len).sum();
            tracing::error!("{name}: {lost} bytes of commits are damaged, and were set aside");
        }
        if found.torn > 0 && torn == Torn::IsTold {
            tracing::warn!(
                "{name}: the last commit is there in part, {} bytes were cut off",
                found.torn
            );
        }
        Ok(())
    }

    /// Leaves nothing in the log: the engine has everything, on disk. With nothing found in it, too: that
    /// nothing is needed may not have come to the disk.
    fn close(&mut self) -> Result<(), StoreError> {
        self.settle()?;
        if std::mem::take(&mut self.is_ahead) {
            self.engine.commit(&[], Commit::Disk)?;
        }
        // The older one first: with the newer alone, a replay changes nothing.
        self.give_up(self.active.other())?;
        self.give_up(self.active)?;
        self.other = Other::Free;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hooks::Table;
    use crate::store::Memory;

    #[test]
    fn a_segment_is_as_long_as_its_largest_commit_for_as_long_as_it_is_needed() {
        const SEGMENT_BYTES: u64 = 4_000;
        let directory = tempfile::tempdir().expect("a directory");
        let files = Files::open(directory.path()).expect("made");
        let mut store =
            Logged::open(Memory::default(), files, SEGMENT_BYTES).expect("nothing is in it");
        let len = || {
            let names = ["a.log", "b.log"].map(|name| directory.path().join(name));
            names.map(|file| file.metadata().map_or(0, |file| file.len())).into_iter().max()
        };
        let put = |n: u64, len| {
            let (table, key) = (Table::Messages, n.to_be_bytes().to_vec());
            [Write { table, key: key.into(), value: Some(vec![7; len]), fresh: true }]
        };
        store.commit(&put(0, 100_000), Commit::System).expect("room");
        assert!(len() > Some(100_000));
        for n in 1..100 {
            store.commit(&put(n, 100), Commit::System).expect("room");
        }
        assert!(len() <= Some(SEGMENTS_KEPT * SEGMENT_BYTES), "{:?}", len());
        assert_eq!(store.get(Table::Messages, &[0; 8]).expect("whole"), Some(vec![7; 100_000]));
    }
}
