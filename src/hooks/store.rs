//! The port for what keeps records over a restart.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;

/// The kinds of records; each has its own keys, in their order.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Sessions, by client identifier.
    Sessions = 0,
    /// Their subscriptions, by session number and filter.
    Subscriptions = 1,
    /// Packet identifiers of QoS 2 messages that clients have begun to send, by session number.
    Inbound = 2,
    /// Messages for clients, by session number and place.
    Queued = 3,
    /// How far messages in flight have come, by session number and place.
    Flights = 4,
    /// Messages, by their number; each once, whoever waits for it.
    Messages = 5,
    /// Retained messages, by topic.
    Retained = 6,
    /// Records that could not be read, by table and key, as they were found.
    Damaged = 7,
}

impl Table {
    /// How many there are.
    pub const COUNT: usize = 8;
    /// All of them, in the order of their values.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Sessions,
        Self::Subscriptions,
        Self::Inbound,
        Self::Queued,
        Self::Flights,
        Self::Messages,
        Self::Retained,
        Self::Damaged,
    ];

    /// Its name on disk.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sessions => "sessions",
            Self::Subscriptions => "subscriptions",
            Self::Inbound => "inbound",
            Self::Queued => "queued",
            Self::Flights => "flights",
            Self::Messages => "messages",
            Self::Retained => "retained",
            Self::Damaged => "damaged",
        }
    }
}

/// Bytes of the longest key that is kept inline: two numbers of 64 bits.
const SHORT_KEY: usize = 16;

/// Which record of a table: bytes, compared as such.
///
/// 24 bytes. Keys of up to 16 bytes, as those of messages, places and packet identifiers are, take no memory
/// beside.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(Repr);

#[derive(Clone, PartialEq, Eq)]
enum Repr {
    /// So many bytes, and zeros.
    Short(u8, Words),
    /// More than fit.
    Long(Box<[u8]>),
}

/// Aligned, so that they are compared and hashed as two words.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(align(8))]
struct Words([u8; SHORT_KEY]);

const _: () = assert!(size_of::<Key>() <= 24, "no larger than a `Vec`");

impl Deref for Key {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.0 {
            Repr::Short(len, bytes) => bytes.0.get(..usize::from(*len)).unwrap_or_default(),
            Repr::Long(bytes) => bytes,
        }
    }
}

impl Hash for Key {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        match &self.0 {
            // Without the length: keys that differ in zeros at their end share a hash only.
            Repr::Short(_, bytes) => state.write_u128(u128::from_ne_bytes(bytes.0)),
            Repr::Long(bytes) => bytes.hash(state),
        }
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        (**self).cmp(other)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<const N: usize> From<[u8; N]> for Key {
    #[inline]
    fn from(key: [u8; N]) -> Self {
        key.as_slice().into()
    }
}

impl From<&[u8]> for Key {
    #[inline]
    fn from(key: &[u8]) -> Self {
        let mut bytes = [0; SHORT_KEY];
        match (bytes.get_mut(..key.len()), u8::try_from(key.len())) {
            (Some(to), Ok(len)) => {
                to.copy_from_slice(key);
                Self(Repr::Short(len, Words(bytes)))
            }
            _ => Self(Repr::Long(key.into())),
        }
    }
}

impl From<Vec<u8>> for Key {
    fn from(key: Vec<u8>) -> Self {
        match key.len() {
            ..=SHORT_KEY => key.as_slice().into(),
            _ => Self(Repr::Long(key.into())),
        }
    }
}

impl From<&str> for Key {
    fn from(key: &str) -> Self {
        key.as_bytes().into()
    }
}

/// One change of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Where.
    pub table: Table,
    /// Of which record.
    pub key: Key,
    /// What it is from now on; `None`: gone, if it was there.
    pub value: Option<Vec<u8>>,
    /// The store has no record of that key, in whatever form; false if that is not known.
    pub fresh: bool,
}

/// How far a commit has to have come when it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commit {
    /// The operating system has it: it survives the end of the process.
    System,
    /// The disk has it: it survives the end of the machine.
    Disk,
}

/// Why a store failed, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreError(pub String);

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StoreError {}

impl From<std::io::Error> for StoreError {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

/// Tables of records that outlive the process. One thread calls it, which may wait here.
///
/// After a commit that failed it goes on being read: what was committed before is there. The commit is made
/// again, by this store or by one that was [opened anew](Self::wants_reopening).
pub trait Store: Send {
    /// Makes all changes or none, and returns when they, and those of the commits before, are safe in the
    /// sense of `commit`. No key occurs twice in a table.
    ///
    /// # Errors
    /// They may have been made or not. Made once more, they are as if made once.
    fn commit(&mut self, writes: &[Write], commit: Commit) -> Result<(), StoreError>;

    /// Whether no commit can succeed before it is opened anew, and that is worth a try. What is read until then may
    /// fail.
    fn wants_reopening(&self) -> bool {
        false
    }

    /// Does what it has put off, if that is not going on anyway; called a minute after a commit. Says whether
    /// something is left. What goes wrong is said of the next commit.
    fn catch_up(&mut self) -> bool {
        false
    }

    /// The value of a record, if it is there.
    ///
    /// # Errors
    /// It cannot be read.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// The records of a table whose keys are not below `from`, in the order of the bytes of their keys,
    /// until `each` answers false.
    ///
    /// # Errors
    /// What cannot be read.
    fn range(
        &self,
        table: Table,
        from: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError>;

    /// Every record of a table, in the order of the bytes of their keys.
    ///
    /// # Errors
    /// What cannot be read.
    fn scan(&self, table: Table, each: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StoreError> {
        self.range(table, &[], &mut |key, value| {
            each(key, value);
            true
        })
    }
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher, RandomState};

    use super::*;

    #[test]
    fn keys_are_as_their_bytes() {
        let bytes: Vec<u8> = (0..40).collect();
        let all: Vec<_> =
            (0..bytes.len()).flat_map(|n| [bytes[..n].to_vec(), vec![0; n]]).collect();
        let random = RandomState::new();
        for one in &all {
            let key = Key::from(one.as_slice());
            assert_eq!((&*key, Key::from(one.clone())), (one.as_slice(), key.clone()));
            for other in &all {
                let other_key = Key::from(other.clone());
                assert_eq!(key.cmp(&other_key), one.cmp(other), "{key:?} and {other_key:?}");
                assert_eq!(key == other_key, one == other, "{key:?} and {other_key:?}");
                let hashes = [&key, &other_key].map(|key| random.hash_one(key));
                assert!(one != other || hashes[0] == hashes[1], "{key:?}");
            }
        }
    }
}
