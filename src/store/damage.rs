//! Files of which a part is damaged: read as far as the disk gives them, and what is wrong set aside.

use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// What the extension of a file begins with that was set aside as damaged; then comes where it began.
pub(super) const SET_ASIDE: &str = "damaged-";
/// The extension of a file until all of it is there.
pub(super) const DRAFT: &str = "draft";
/// What the system writes at once, and what a disk does not give at once.
const PAGE: usize = 4096;
const ZEROS: [u8; PAGE] = [0; PAGE];
/// Said behind their number.
pub(super) const FREE: &str = " bytes are free on that disk";
const WAY_OUT: &str =
    "make room (a start may take 256 MB), or move the whole directory to a larger one";
/// With less a start, or a commit, may not have what it needs.
const LITTLE_ROOM: u64 = 1 << 20;
/// Stands for a byte that the disk does not give: it begins nothing, and is not what was never written.
const UNREADABLE: u8 = 0xFF;

/// Whether the disk does not give what is on it.
pub(super) fn is_unreadable(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::IO.raw_os_error())
}

/// The same error, which says of what it is.
pub(super) fn of(path: &Path) -> impl Fn(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// All of a file, and how many bytes of it the disk does not give: [`UNREADABLE`] stands for each.
pub(super) fn read(path: &Path) -> io::Result<(Vec<u8>, usize)> {
    read_all(path).map_err(of(path))
}

fn read_all(path: &Path) -> io::Result<(Vec<u8>, usize)> {
    match fs::read(path) {
        Err(error) if is_unreadable(&error) => {
            let file = File::open(path)?;
            let len = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
            read_around(len, |into, at| file.read_at(into, at))
        }
        read => Ok((read?, 0)),
    }
}

fn read_around(
    len: usize,
    read_at: impl Fn(&mut [u8], u64) -> io::Result<usize>,
) -> io::Result<(Vec<u8>, usize)> {
    let (mut bytes, mut at, mut unreadable) = (vec![0; len], 0, 0);
    while let Some(rest) = bytes.get_mut(at..).filter(|rest| !rest.is_empty()) {
        let len = (PAGE - at % PAGE).min(rest.len());
        let page = rest.get_mut(..len).unwrap_or_default();
        match read_at(page, at as u64) {
            Ok(0) => bytes.truncate(at),
            Ok(read) => at += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if is_unreadable(&error) => {
                page.fill(UNREADABLE);
                (at, unreadable) = (at + len, unreadable + len);
            }
            Err(error) => return Err(error),
        }
    }
    Ok((bytes, unreadable))
}

/// Whether nothing was written to a whole page of that part of a file. Of what a machine had not synced when
/// it stopped some pages may be on disk, and others not.
pub(super) fn has_hole(bytes: &[u8], part: &Range<usize>) -> bool {
    (part.start.next_multiple_of(PAGE)..part.end).step_by(PAGE).any(|at| is_hole(bytes, at))
}

/// Whether bytes that begin there are in a page to which nothing was written, or go on in one.
pub(super) fn has_hole_at(bytes: &[u8], at: usize, len: usize) -> bool {
    let page = (at + 1).next_multiple_of(PAGE);
    let before = bytes.get(at..(at + len).min(page)).unwrap_or_default();
    before.iter().all(|byte| *byte == 0) || page < at + len && is_hole(bytes, page)
}

fn is_hole(bytes: &[u8], at: usize) -> bool {
    let page = bytes.get(at..).unwrap_or_default();
    let page = page.get(..PAGE).unwrap_or(page);
    !page.is_empty() && page == ZEROS.get(..page.len()).unwrap_or_default()
}

/// How much of a file was written, when zeros at its end are room that was set apart.
pub(super) fn written_len(bytes: &[u8]) -> usize {
    let whole = bytes.chunks(PAGE).rposition(|page| page != &ZEROS[..page.len()]);
    let end = whole.map_or(0, |page| (page + 1) * PAGE).min(bytes.len());
    bytes
        .get(..end)
        .and_then(|bytes| bytes.iter().rposition(|byte| *byte != 0))
        .map_or(0, |at| at + 1)
}

/// Puts damaged bytes of a file into one beside it, named after where they began.
pub(super) fn set_aside(path: &Path, at: usize, bytes: &[u8]) -> io::Result<()> {
    let first = path.with_extension(format!("{SET_ASIDE}{at}"));
    let (mut target, mut count) = (first.clone(), 0);
    // Not over something else; the same again after an opening that failed.
    while target.exists() && fs::read(&target)? != bytes {
        count += 1;
        target = first.with_extension(format!("{SET_ASIDE}{at}-{count}"));
    }
    fs::write(&target, bytes).and_then(|()| File::open(&target)?.sync_all()).map_err(|error| {
        // Half of it would take the room that is needed.
        let _ = fs::remove_file(&target);
        with_room(path, bytes.len(), error)
    })?;
    sync_above(path)
}

/// Has a file be these parts of what it was.
pub(super) fn rewrite(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let draft = path.with_extension(DRAFT);
    let write = || {
        let mut file = File::create(&draft)?;
        parts.iter().try_for_each(|part| file.write_all(part))?;
        file.sync_all()?;
        fs::rename(&draft, path)
    };
    write().map_err(|error| {
        let _ = fs::remove_file(&draft);
        with_room(path, parts.iter().map(|part| part.len()).sum(), error)
    })?;
    sync_above(path)
}

/// Has the disk have what can be read of a file. After a write to the disk that failed the system goes on giving
/// what was to be written, and says of a sync that all is there.
pub(super) fn write_again(path: &Path) -> io::Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    let mut page = [0; PAGE];
    for at in (0..file.metadata()?.len()).step_by(PAGE) {
        match file.read_at(&mut page, at).map(|len| page.get(..len).unwrap_or_default()) {
            // Room that was set apart stays as it is.
            Ok(read) if read.iter().all(|byte| *byte == 0) => {}
            Ok(read) => file.write_all_at(read, at)?,
            Err(error) if is_unreadable(&error) => {}
            Err(error) => return Err(error),
        }
    }
    file.sync_data()
}

fn with_room(path: &Path, needed: usize, error: io::Error) -> io::Error {
    match without_room(path, needed as u64) {
        Some(room) => io::Error::new(error.kind(), format!("{error}; {room}")),
        None => error,
    }
}

/// Has the disk know of the names in the directory of a file.
pub(super) fn sync_above(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), sync_directory)
}

pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    File::open(path)?.sync_all()
}

/// The bytes of a file, or of all files in a directory; 0 if nothing is there.
pub(super) fn bytes(path: &Path) -> io::Result<u64> {
    let metadata = match path.metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        metadata => metadata?,
    };
    if !metadata.is_dir() {
        return Ok(metadata.len());
    }
    entries(path)?.iter().map(|path| bytes(path)).sum()
}

/// What is in a directory; nothing if it is not there.
pub(super) fn entries(path: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => {
            let entries = entries.map_err(of(path))?;
            entries.map(|entry| entry.map(|entry| entry.path())).collect()
        }
    }
}

/// How much room there is on the disk that something is on, if that can be told.
pub(crate) fn free_bytes(path: &Path) -> Option<u64> {
    let system = rustix::fs::statvfs(path).ok()?;
    Some(system.f_bavail.saturating_mul(system.f_frsize))
}

/// How much room there is, and what to do about it, to be read after what is wrong, if that may be why: not every
/// engine says so.
pub(crate) fn room(path: &Path, wrong: &str) -> String {
    let says_so = ["No space left", "disk is full"].iter().any(|full| wrong.contains(full));
    let free = free_bytes(path).filter(|free| says_so || *free < LITTLE_ROOM);
    match free {
        Some(_) if wrong.contains(WAY_OUT) => String::new(),
        Some(_) if wrong.ends_with(FREE) => format!(": {WAY_OUT}"),
        Some(free) => format!("; {free}{FREE}: {WAY_OUT}"),
        None => String::new(),
    }
}

/// What to say if so many bytes have no room beside a file, for which they are to be written.
pub(super) fn without_room(path: &Path, needed: u64) -> Option<String> {
    let above = path.parent().filter(|above| !above.as_os_str().is_empty());
    let free = free_bytes(above.unwrap_or(Path::new(".")))?;
    (free < needed).then(|| {
        format!(
            "to mend {} may take {needed} bytes of room beside it, and {free} are free",
            path.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Once, by whoever says it first.
    #[test]
    fn that_there_is_no_room_is_said() {
        let (full, usual) = (Path::new("/proc"), Path::new(env!("CARGO_MANIFEST_DIR")));
        let said = room(full, "no");
        assert_eq!(said, format!("; 0{FREE}: {WAY_OUT}"));
        assert_eq!(room(full, &format!("no{said}")), "");
        assert_eq!(room(full, &format!("no, 0{FREE}")), format!(": {WAY_OUT}"));
        assert_eq!(room(usual, "no"), "");
        assert!(room(usual, "No space left on device (os error 28)").ends_with(WAY_OUT));
    }

    #[test]
    fn what_the_disk_does_not_give_is_filled() {
        let there: Vec<u8> = (0..3 * PAGE + 100).map(|n| n as u8).collect();
        let read_at = |into: &mut [u8], at: u64| {
            let at = at as usize;
            if at / PAGE == 1 {
                return Err(Errno::IO.into());
            }
            // A short read now and then.
            let len = into.len().min(1000).min(there.len() - at);
            into[..len].copy_from_slice(&there[at..at + len]);
            Ok(len)
        };
        let (bytes, unreadable) = read_around(there.len(), read_at).expect("read");
        assert_eq!(unreadable, PAGE);
        assert_eq!(bytes.len(), there.len());
        for (at, (byte, whole)) in bytes.iter().zip(&there).enumerate() {
            assert_eq!(*byte, if at / PAGE == 1 { UNREADABLE } else { *whole }, "{at}");
        }
        let refused = |_: &mut [u8], _| Err(Errno::ACCESS.into());
        assert_eq!(
            read_around(10, refused).expect_err("another error").kind(),
            io::ErrorKind::PermissionDenied
        );
    }

    #[test]
    fn what_was_set_aside_stays() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("0.jnl");
        for bytes in [b"one", b"two", b"two"] {
            set_aside(&path, 7, bytes).expect("room");
        }
        let read = |name: &str| fs::read(directory.path().join(name)).expect("a file");
        assert_eq!(read("0.damaged-7"), b"one");
        assert_eq!(read("0.damaged-7-1"), b"two");
        assert_eq!(entries(directory.path()).expect("a directory").len(), 2);
    }

    #[test]
    fn how_much_room_is_needed_is_said() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("db");
        assert_eq!(without_room(&path, 0), None);
        let text = without_room(&path, u64::MAX).expect("too much");
        assert!(text.contains(&format!("take {} bytes", u64::MAX)), "{text}");
    }
}
