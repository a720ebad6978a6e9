//! What a connection is about to write: an ordered list of byte ranges, most of them borrowed.
//!
//! A QoS 0 message that needs no change is written from where it was read; a fan-out is encoded once
//! into the turn's scratch buffer; a large payload is referenced. Only what the kernel did not take by
//! the end of the turn is copied.

use std::io::IoSlice;

use bytes::Bytes;
use smallvec::SmallVec;

/// Where the bytes of a [`Segment`] live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The outbox's own buffer.
    Own,
    /// The shard's receive arena, valid until the end of the turn.
    Arena,
    /// The shard's scratch buffer, valid until the end of the turn.
    Scratch,
}

/// A piece of output.
#[derive(Debug)]
enum Segment {
    Range { place: Place, start: u32, end: u32 },
    Shared(Bytes),
}

impl Segment {
    /// Bytes that are in the outbox's own buffer.
    fn own_len(&self) -> usize {
        match self {
            Self::Range { place: Place::Own, start, end } => (end - start) as usize,
            Self::Range { .. } | Self::Shared(_) => 0,
        }
    }
}

/// The buffers that segments of one turn may point into.
#[derive(Clone, Copy)]
pub(super) struct TurnBuffers<'a> {
    pub(super) arena: &'a [u8],
    pub(super) scratch: &'a [u8],
}

/// The most slices that one vectored write is given.
const MAX_SLICES: usize = 64;

/// The slices of one vectored write.
pub(super) type Slices<'a> = SmallVec<[IoSlice<'a>; MAX_SLICES]>;

/// Bytes waiting to be written to one connection, in order.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    own: Vec<u8>,
    segments: Vec<Segment>,
    /// Segments already written whole.
    done: usize,
    len: usize,
}

impl Outbox {
    /// Bytes that wait.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends what `write` puts into the own buffer.
    #[inline]
    pub(super) fn append(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.own.len();
        write(&mut self.own);
        let end = self.own.len();
        self.push(Place::Own, start, end);
    }

    /// Appends a range of one of the turn's buffers without copying it.
    #[inline]
    pub(super) fn push(&mut self, place: Place, start: usize, end: usize) {
        if start == end {
            return;
        }
        self.len += end - start;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "turn buffers and backlogs are far below 4 GiB"
        )]
        let (start, end) = (start as u32, end as u32);
        if let Some(Segment::Range { place: last, end: tail, .. }) = self.segments.last_mut()
            && *last == place
            && *tail == start
        {
            *tail = end;
            return;
        }
        self.segments.push(Segment::Range { place, start, end });
    }

    /// Appends a shared payload without copying it.
    pub(super) fn push_shared(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.len += bytes.len();
            self.segments.push(Segment::Shared(bytes));
        }
    }

    /// The next bytes to write.
    pub(super) fn slices<'a>(&'a self, turn: TurnBuffers<'a>) -> Slices<'a> {
        self.segments[self.done..]
            .iter()
            .take(MAX_SLICES)
            .map(|segment| IoSlice::new(segment_bytes(&self.own, segment, turn)))
            .collect()
    }

    /// Whether one call of [`Self::slices`] yields everything.
    pub(super) fn fits_one_write(&self) -> bool {
        self.segments.len() - self.done <= MAX_SLICES
    }

    /// Takes note that the first `written` bytes are gone.
    pub(super) fn advance(&mut self, mut written: usize) {
        debug_assert!(written <= self.len, "wrote more than there was");
        self.len -= written;
        while written > 0 {
            let Some(segment) = self.segments.get_mut(self.done) else { break };
            match segment {
                Segment::Range { start, end, .. } => {
                    let here = (*end - *start) as usize;
                    if written < here {
                        #[expect(
                            clippy::cast_possible_truncation,
                            reason = "less than a u32 range"
                        )]
                        {
                            *start += written as u32;
                        }
                        return;
                    }
                    written -= here;
                }
                Segment::Shared(bytes) => {
                    let here = bytes.len();
                    if written < here {
                        bytes::Buf::advance(bytes, written);
                        return;
                    }
                    written -= here;
                    *bytes = Bytes::new();
                }
            }
            self.done += 1;
        }
    }

    /// Makes what is left independent of the turn's buffers, which are about to be reused. What it has of its own
    /// stays where it is, or else all that waits for a slow client would be copied in every turn; unless that is
    /// less than what has left of it.
    pub(super) fn settle(&mut self, turn: TurnBuffers<'_>) {
        let left: usize = self.segments[self.done..].iter().map(Segment::own_len).sum();
        let before = match self.own.len() < 2 * left + 4096 {
            true => None,
            false => Some(std::mem::replace(&mut self.own, Vec::with_capacity(left))),
        };
        let segments = std::mem::take(&mut self.segments).into_iter().skip(self.done);
        (self.done, self.len) = (0, 0);
        for segment in segments {
            match segment {
                Segment::Shared(bytes) => self.push_shared(bytes),
                Segment::Range { place: Place::Own, start, end } if before.is_none() => {
                    self.push(Place::Own, start as usize, end as usize);
                }
                Segment::Range { .. } => {
                    let own = before.as_deref().unwrap_or_default();
                    let bytes = segment_bytes(own, &segment, turn);
                    self.append(|own| own.extend_from_slice(bytes));
                }
            }
        }
    }

    /// Bytes of memory it takes while it is empty.
    fn footprint(&self) -> usize {
        size_of::<Self>() + self.own.capacity() + self.segments.capacity() * size_of::<Segment>()
    }

    fn clear(&mut self) {
        self.own.clear();
        self.segments.clear();
        self.done = 0;
        self.len = 0;
    }
}

fn segment_bytes<'a>(own: &'a [u8], segment: &'a Segment, turn: TurnBuffers<'a>) -> &'a [u8] {
    match segment {
        Segment::Range { place, start, end } => {
            let range = *start as usize..*end as usize;
            match place {
                Place::Own => &own[range],
                Place::Arena => &turn.arena[range],
                Place::Scratch => &turn.scratch[range],
            }
        }
        Segment::Shared(bytes) => bytes,
    }
}

/// Outboxes at rest: a connection holds one only while it has something to write.
#[derive(Debug, Default)]
pub(super) struct Pool {
    #[expect(clippy::vec_box, reason = "a connection holds the box itself")]
    free: Vec<Box<Outbox>>,
    /// What they take together.
    bytes: usize,
}

impl Pool {
    /// The most memory kept at rest: enough for a fan-out to thousands, whose outboxes hold little
    /// each, to go on without the allocator.
    const MAX_BYTES: usize = 2 * 1024 * 1024;
    /// An outbox larger than this is not kept.
    const MAX_EACH: usize = 64 * 1024;

    #[inline]
    pub(super) fn take(&mut self) -> Box<Outbox> {
        let Some(outbox) = self.free.pop() else { return Box::default() };
        self.bytes -= outbox.footprint();
        outbox
    }

    #[inline]
    pub(super) fn give(&mut self, mut outbox: Box<Outbox>) {
        outbox.clear();
        let bytes = outbox.footprint();
        if bytes <= Self::MAX_EACH && self.bytes + bytes <= Self::MAX_BYTES {
            self.bytes += bytes;
            self.free.push(outbox);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(outbox: &Outbox, turn: TurnBuffers<'_>) -> Vec<u8> {
        outbox.slices(turn).iter().flat_map(|slice| slice.to_vec()).collect()
    }

    #[test]
    fn neighbouring_ranges_become_one_slice() {
        let turn = TurnBuffers { arena: b"abcdef", scratch: b"" };
        let mut outbox = Outbox::default();
        outbox.push(Place::Arena, 0, 2);
        outbox.push(Place::Arena, 2, 4);
        outbox.push(Place::Arena, 5, 6);
        assert_eq!(outbox.slices(turn).len(), 2);
        assert_eq!(flat(&outbox, turn), b"abcdf");
        assert_eq!(outbox.len(), 5);
    }

    #[test]
    fn order_is_kept_over_places_and_short_writes() {
        let turn = TurnBuffers { arena: b"arena", scratch: b"scratch" };
        let mut outbox = Outbox::default();
        outbox.append(|own| own.extend_from_slice(b"own1"));
        outbox.push(Place::Arena, 0, 5);
        outbox.push_shared(Bytes::from_static(b"shared"));
        outbox.push(Place::Scratch, 0, 7);
        outbox.append(|own| own.extend_from_slice(b"own2"));
        let whole = b"own1arenasharedscratchown2";
        for cut in 0..=whole.len() {
            let mut copy = Outbox::default();
            copy.append(|own| own.extend_from_slice(b"own1"));
            copy.push(Place::Arena, 0, 5);
            copy.push_shared(Bytes::from_static(b"shared"));
            copy.push(Place::Scratch, 0, 7);
            copy.append(|own| own.extend_from_slice(b"own2"));
            copy.advance(cut);
            copy.settle(turn);
            let gone = TurnBuffers { arena: b"", scratch: b"" };
            assert_eq!(flat(&copy, gone), &whole[cut..], "after {cut} bytes");
            assert_eq!(copy.len(), whole.len() - cut);
        }
        assert_eq!(flat(&outbox, turn), whole);
    }

    /// While a client does not read, each turn adds to what waits for it.
    #[test]
    fn what_waits_is_not_moved_in_every_turn() {
        const TURNS: usize = 1_000;
        let turn = TurnBuffers { arena: &[7; 200], scratch: &[8; 100] };
        let mut outbox = Outbox::default();
        let mut moved = 0;
        for _ in 0..TURNS {
            outbox.push(Place::Arena, 0, 200);
            outbox.push(Place::Scratch, 0, 100);
            let before = outbox.own.as_ptr();
            outbox.settle(turn);
            moved += usize::from(outbox.own.as_ptr() != before);
        }
        assert_eq!((outbox.len(), outbox.slices(turn).len()), (TURNS * 300, 1));
        assert!(moved < 20, "{moved} times");
        // What has left leaves its memory, too.
        outbox.advance(TURNS * 290);
        outbox.settle(turn);
        assert!(outbox.own.capacity() < TURNS * 20, "{}", outbox.own.capacity());
    }

    #[test]
    fn a_long_list_is_written_in_several_calls() {
        let turn = TurnBuffers { arena: &[7; 400], scratch: b"" };
        let mut outbox = Outbox::default();
        for i in 0..100 {
            outbox.push(Place::Arena, i * 4, i * 4 + 2);
        }
        assert!(!outbox.fits_one_write());
        let first: usize = outbox.slices(turn).iter().map(|s| s.len()).sum();
        outbox.advance(first);
        assert!(outbox.fits_one_write());
        assert_eq!(outbox.len(), 200 - first);
    }

    #[test]
    fn a_pool_keeps_many_small_ones_and_a_bounded_amount_of_memory() {
        let mut pool = Pool::default();
        for _ in 0..5000 {
            let mut outbox = Box::<Outbox>::default();
            outbox.push(Place::Arena, 0, 1);
            pool.give(outbox);
        }
        assert_eq!(pool.free.len(), 5000);
        for _ in 0..1000 {
            let mut outbox = Box::<Outbox>::default();
            outbox.append(|own| own.resize(Pool::MAX_EACH / 2, 0));
            pool.give(outbox);
        }
        assert!(pool.bytes <= Pool::MAX_BYTES);
        while !pool.free.is_empty() {
            assert!(pool.take().is_empty());
        }
        assert_eq!(pool.bytes, 0);
    }
}
