//! The two segments of the log, on disk and in memory.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::store::damage;

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    /// The first.
    A,
    /// The second.
    B,
}

impl Segment {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::A, Self::B];

    /// The one that this is not.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// Two files that are written from their beginning on, again and again.
pub trait Segments: Send {
    /// All that is in one; other bytes stand for what the disk does not give.
    ///
    /// # Errors
    /// The system's.
    fn read(&self, segment: Segment) -> io::Result<Vec<u8>>;

    /// Fills a buffer from that place on, as far as the segment goes; gives how far that is.
    ///
    /// # Errors
    /// The system's.
    fn read_at(&self, segment: Segment, at: u64, into: &mut [u8]) -> io::Result<usize>;

    /// Writes bytes over what is there, and behind it.
    ///
    /// # Errors
    /// The system's. Some of it may have been written.
    fn write(&mut self, segment: Segment, at: u64, bytes: &[u8]) -> io::Result<()>;

    /// Returns when the disk has all that was written.
    ///
    /// # Errors
    /// The system's. What was written since the last time is lost, or not.
    fn sync(&mut self, segment: Segment) -> io::Result<()>;

    /// Keeps bytes that cannot be read, where nobody looks for commits.
    ///
    /// # Errors
    /// The system's.
    fn set_aside(&mut self, segment: Segment, at: usize, bytes: &[u8]) -> io::Result<()>;

    /// Gives back what is beyond that length; the disk need not know yet.
    ///
    /// # Errors
    /// The system's.
    fn cut(&mut self, segment: Segment, len: u64) -> io::Result<()>;

    /// How people are told of it.
    fn name(&self, segment: Segment) -> String;
}

/// Files of a directory.
#[derive(Debug)]
pub(in crate::store) struct Files {
    path: PathBuf,
    files: [File; 2],
}

impl Files {
    /// Makes what is not there.
    pub(in crate::store) fn open(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path).map_err(damage::of(path))?;
        let open = |name| {
            let (mut options, path) = (File::options(), path.join(name));
            options.read(true).write(true).create(true).truncate(false);
            options.open(&path).map_err(damage::of(&path))
        };
        let files = [open(name(Segment::A))?, open(name(Segment::B))?];
        damage::sync_directory(path)?;
        damage::sync_above(path)?;
        Ok(Self { path: path.to_owned(), files })
    }

    fn file(&self, segment: Segment) -> &File {
        let [a, b] = &self.files;
        match segment {
            Segment::A => a,
            Segment::B => b,
        }
    }
}

/// The names of the two.
pub(in crate::store) const LOGS: [&str; 2] = ["a.log", "b.log"];

const fn name(segment: Segment) -> &'static str {
    LOGS[segment as usize]
}

impl Segments for Files {
    fn read(&self, segment: Segment) -> io::Result<Vec<u8>> {
        let (bytes, unreadable) = damage::read(&self.path.join(name(segment)))?;
        if unreadable > 0 {
            tracing::error!(
                "{}: the disk does not give {unreadable} bytes of it",
                self.name(segment)
            );
        }
        Ok(bytes)
    }

    fn read_at(&self, segment: Segment, at: u64, into: &mut [u8]) -> io::Result<usize> {
        let (file, mut len) = (self.file(segment), 0);
        while let Some(rest) = into.get_mut(len..).filter(|rest| !rest.is_empty()) {
            match file.read_at(rest, at + len as u64) {
                Ok(0) => break,
                Ok(more) => len += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(len)
    }

    fn write(&mut self, segment: Segment, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.file(segment).write_all_at(bytes, at)
    }

    fn sync(&mut self, segment: Segment) -> io::Result<()> {
        self.file(segment).sync_data()
    }

    fn set_aside(&mut self, segment: Segment, at: usize, bytes: &[u8]) -> io::Result<()> {
        damage::set_aside(&self.path.join(name(segment)), at, bytes)
    }

    fn cut(&mut self, segment: Segment, len: u64) -> io::Result<()> {
        let file = self.file(segment);
        if file.metadata()?.len() > len { file.set_len(len) } else { Ok(()) }
    }

    fn name(&self, segment: Segment) -> String {
        self.path.join(name(segment)).display().to_string()
    }
}
