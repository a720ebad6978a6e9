//! What a connection holds between turns, if anything.

use bytes::Bytes;

use super::driver::{LARGE_FRAME, READ_CHUNK};

/// Bytes given back by the shard: the head of a frame, all that a paused publisher sent, or a large
/// frame as far as it has come.
#[derive(Debug, Default)]
pub(super) struct Kept {
    bytes: Vec<u8>,
    /// Whole length of the large frame that is being collected, or 0.
    frame_len: usize,
}

impl Kept {
    /// Takes `rest`; as a large frame if `frame_len` says so and it is not all there.
    pub(super) fn fill(&mut self, rest: &[u8], frame_len: Option<usize>) {
        self.bytes.clear();
        self.frame_len =
            frame_len.filter(|len| *len >= LARGE_FRAME.max(rest.len() + 1)).unwrap_or(0);
        if self.frame_len > 0 {
            // A pooled buffer of another length would not end up exact.
            self.bytes = Vec::with_capacity(self.frame_len.min(READ_CHUNK.max(2 * rest.len())));
        }
        self.bytes.extend_from_slice(rest);
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    #[inline]
    pub(super) fn is_frame(&self) -> bool {
        self.frame_len > 0
    }

    /// The buffer of the large frame and how much of it may be read now: more than nothing, at most
    /// [`READ_CHUNK`], never past the frame. It grows with what has come, so that a length alone, which
    /// anyone can claim, commits no memory.
    pub(super) fn frame_room(&mut self) -> (&mut Vec<u8>, usize) {
        let missing = self.frame_len.saturating_sub(self.bytes.len());
        if self.bytes.capacity() == self.bytes.len() {
            self.bytes.reserve_exact(missing.min(self.bytes.len().max(READ_CHUNK)));
        }
        let room = self.bytes.capacity() - self.bytes.len();
        (&mut self.bytes, room.min(missing).min(READ_CHUNK))
    }

    /// The large frame, if it is complete; nothing is kept then.
    pub(super) fn take_frame(&mut self) -> Option<Bytes> {
        if self.frame_len == 0 || self.bytes.len() < self.frame_len {
            return None;
        }
        self.frame_len = 0;
        Some(Bytes::from(std::mem::take(&mut self.bytes)))
    }
}

/// A few spare [`Kept`]s: where frames straddle reads, keeping their heads need not allocate.
#[derive(Debug, Default)]
pub(super) struct KeptPool {
    #[expect(clippy::vec_box, reason = "the boxes are what is spared")]
    spare: Vec<Box<Kept>>,
}

impl KeptPool {
    const MOST: usize = 16;

    pub(super) fn take(&mut self) -> Box<Kept> {
        self.spare.pop().unwrap_or_default()
    }

    pub(super) fn give(&mut self, mut kept: Box<Kept>) {
        if self.spare.len() < Self::MOST && kept.bytes.capacity() <= READ_CHUNK {
            kept.bytes.clear();
            kept.frame_len = 0;
            self.spare.push(kept);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claimed_length_commits_no_memory() {
        let mut kept = Kept::default();
        kept.fill(&[1; 10], Some(256 << 20));
        assert!(kept.is_frame());
        assert!(kept.bytes.capacity() <= 2 * READ_CHUNK);
        let mut most = 0;
        while kept.bytes.len() < 1 << 20 {
            let (buf, room) = kept.frame_room();
            assert!(room > 0 && room <= READ_CHUNK);
            buf.resize(buf.len() + room, 2);
            most = most.max(kept.bytes.capacity() / kept.bytes.len());
        }
        assert!(most <= 2, "{most}");
    }

    #[test]
    fn a_frame_is_exact() {
        let len = 100_001;
        let mut kept = Kept::default();
        kept.fill(&[7; 3], Some(len));
        let frame = loop {
            let (buf, room) = kept.frame_room();
            buf.resize(buf.len() + room.min(1_000), 7);
            if let Some(frame) = kept.take_frame() {
                break frame;
            }
        };
        assert_eq!(frame.len(), len);
        assert!(frame.iter().all(|b| *b == 7));
        assert!(kept.bytes().is_empty() && !kept.is_frame());
    }

    #[test]
    fn small_or_whole_frames_are_plain() {
        let mut kept = Kept::default();
        kept.fill(&[1; 10], Some(LARGE_FRAME - 1));
        assert!(!kept.is_frame());
        kept.fill(&vec![1; LARGE_FRAME + 5], Some(LARGE_FRAME));
        assert!(!kept.is_frame());
        kept.fill(&[1; 4], None);
        assert!(!kept.is_frame());
        assert_eq!(kept.bytes(), [1; 4]);
    }
}
