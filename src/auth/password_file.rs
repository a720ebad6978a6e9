//! The password file: one `user:hash` a line, as Mosquitto has it.

use std::fs::{self, File, OpenOptions};
use std::hash::BuildHasher;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use hashbrown::HashMap;

use super::password::PasswordHash;
use super::scram::{Verifier, hmac};

/// The longest user name, in bytes: what CONNECT has room for.
const MAX_USER_BYTES: usize = 65_535;

/// A password file in memory.
#[derive(Debug, Default)]
pub struct PasswordFile {
    lines: Vec<Line>,
    /// By user, the place in `lines`.
    by_user: HashMap<Box<str>, usize, foldhash::fast::RandomState>,
    /// Chooses whose hash an unknown user is held against.
    seed: foldhash::fast::RandomState,
    /// The first user's who can log in by SCRAM-SHA-256: an unknown one looks like that.
    like: Option<Verifier>,
    /// Lines that count for nothing: their numbers, from 1, and why.
    skipped: Vec<(usize, String)>,
    /// The number of the last line, if that is wrong and has no end.
    cut: Option<usize>,
}

/// As it stands in the file: what others wrote may be read by others, and stays as it is.
#[derive(Debug)]
enum Line {
    User(Box<str>, PasswordHash),
    /// A comment, nothing, or what is skipped.
    Other(Box<str>),
}

/// What a password file knows of a user and a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// This is the user's password.
    Right,
    /// It is not.
    Wrong,
    /// It does not have the user.
    Not,
}

/// What is wrong with a password file.
#[derive(Debug, thiserror::Error)]
pub enum PasswordFileError {
    /// It cannot be read.
    #[error("{path}: cannot be read: {error}")]
    Unread {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// Its last line is wrong and has no end.
    #[error("{path}:{line}: is cut short, as if somebody were writing it")]
    Cut {
        /// The file.
        path: PathBuf,
        /// The number of the line, from 1.
        line: usize,
    },
}

impl PasswordFile {
    /// Reads a file. As Mosquitto does, it takes the last line of a user, and skips those that are wrong:
    /// [`warnings`](Self::warnings) tells which.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn load(path: &Path) -> Result<Self, PasswordFileError> {
        let text = fs::read_to_string(path)
            .map_err(|error| PasswordFileError::Unread { path: path.to_owned(), error })?;
        Ok(Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let mut file = Self::default();
        for (number, whole) in (1..).zip(text.split_inclusive('\n')) {
            let line = whole.strip_suffix('\n').unwrap_or(whole);
            if line.trim().is_empty() || line.starts_with('#') {
                file.lines.push(Line::Other(line.into()));
                continue;
            }
            let wrong = match parse_line(line) {
                Ok((user, hash)) => file
                    .put(user, line.into(), hash)
                    .then(|| format!("{user:?} stands here again; what stood before is skipped")),
                Err(wrong) => {
                    file.lines.push(Line::Other(line.into()));
                    file.cut = (!whole.ends_with('\n')).then_some(number);
                    Some(format!("{wrong}; the line is skipped"))
                }
            };
            file.skipped.extend(wrong.map(|wrong| (number, wrong)));
        }
        file
    }

    /// What was skipped of the file at `path`.
    pub fn warnings(&self, path: &Path) -> impl Iterator<Item = String> {
        self.skipped.iter().map(move |(line, wrong)| format!("{}:{line}: {wrong}", path.display()))
    }

    /// Fails if its last line is wrong and has no end: then somebody may be writing the file at `path`, and
    /// not as [`save`](Self::save) does.
    ///
    /// # Errors
    /// That.
    pub fn check_whole(&self, path: &Path) -> Result<(), PasswordFileError> {
        let cut = |line| PasswordFileError::Cut { path: path.to_owned(), line };
        self.cut.map_or(Ok(()), |line| Err(cut(line)))
    }

    /// How many users it has.
    #[cfg(test)]
    fn user_count(&self) -> usize {
        self.by_user.len()
    }

    /// Holds a password against the user's. For a user that it does not have it takes as long as for
    /// one that it has.
    #[must_use]
    pub fn check(&self, user: &str, password: &[u8]) -> Known {
        match self.by_user.get(user) {
            Some(&place) if self.hash_at(place).is_some_and(|hash| hash.verify(password)) => {
                Known::Right
            }
            Some(_) => Known::Wrong,
            None => {
                // Always the same one, as it would be if the user were there.
                let which = self.seed.hash_one(user) as usize % self.lines.len().max(1);
                let places = (which..self.lines.len()).chain(0..which);
                let decoy = places.filter_map(|place| self.hash_at(place)).next();
                let _ = decoy.map(|hash| hash.verify(password));
                Known::Not
            }
        }
    }

    /// Whether somebody can log in by SCRAM-SHA-256.
    pub(super) fn has_verifiers(&self) -> bool {
        self.like.is_some()
    }

    /// What SCRAM-SHA-256 needs of a user, and whether it has the user. One that it does not have looks
    /// like others: it has the costs of one of them, and a salt that stays the same for the same name,
    /// after a restart, too. `None` if nobody can log in like this.
    pub(super) fn verifier(&self, user: &str) -> Option<(Verifier, bool)> {
        let known = self.by_user.get(user).and_then(|&place| self.hash_at(place)?.verifier());
        if let Some(verifier) = known {
            return Some((verifier, true));
        }
        let like = self.like.clone()?;
        let secret = [like.stored_key, like.server_key].concat();
        let mut salt = hmac(&secret, user.as_bytes()).to_vec();
        salt.truncate(like.salt.len());
        // Nobody has a password for it.
        let key = hmac(&secret, &[user.as_bytes(), b" key"].concat());
        Some((Verifier { salt, stored_key: key, server_key: key, ..like }, false))
    }

    fn hash_at(&self, place: usize) -> Option<&PasswordHash> {
        match self.lines.get(place)? {
            Line::User(_, hash) => Some(hash),
            Line::Other(_) => None,
        }
    }

    /// Adds a user, or replaces the hash of one; says whether the user was there.
    pub fn set(&mut self, user: &str, hash: PasswordHash) -> bool {
        self.put(user, format!("{user}:{hash}").into(), hash)
    }

    fn put(&mut self, user: &str, line: Box<str>, hash: PasswordHash) -> bool {
        if self.like.is_none() {
            self.like = hash.verifier();
        }
        let line = Line::User(line, hash);
        match self.by_user.get(user).and_then(|&place| self.lines.get_mut(place)) {
            Some(known) => {
                *known = line;
                true
            }
            None => {
                self.by_user.insert(user.into(), self.lines.len());
                self.lines.push(line);
                false
            }
        }
    }

    /// Removes a user; says whether it was there.
    pub fn remove(&mut self, user: &str) -> bool {
        let Some(place) = self.by_user.remove(user) else { return false };
        self.lines.remove(place);
        self.by_user.values_mut().filter(|other| **other > place).for_each(|other| *other -= 1);
        self.like = (0..self.lines.len())
            .find_map(|place| self.hash_at(place).and_then(PasswordHash::verifier));
        true
    }

    /// Waits until nobody else changes a file at `path`, and keeps others from it until what it returns is
    /// dropped. The lock (flock(2)) is on the directory, since the file is another one after each change.
    ///
    /// # Errors
    /// What the system says.
    pub fn lock(path: &Path) -> io::Result<File> {
        let dir = directory(&resolve(path))?;
        dir.lock()?;
        Ok(dir)
    }

    /// Writes it in the place of `path`: at no time is there half a file. Only its owner may read a new one;
    /// who owns one that was there, and who may read it, stays so.
    ///
    /// # Errors
    /// What the system says.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let path = resolve(path);
        let name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}", std::process::id()));
        let new = path.with_file_name(hidden);
        let saved = self.write_new(&new, &path).and_then(|()| fs::rename(&new, &path));
        if saved.is_err() {
            let _ = fs::remove_file(&new);
            return saved;
        }
        directory(&path)?.sync_all()
    }

    fn write_new(&self, new: &Path, old: &Path) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(new)?;
        if let (Ok(old), own) = (fs::metadata(old), file.metadata()?) {
            if (old.uid(), old.gid()) != (own.uid(), own.gid()) {
                fchown(&file, Some(old.uid()), Some(old.gid()))?;
            }
            // A broker that reads it by its group has to go on doing so.
            file.set_permissions(old.permissions())?;
        }
        file.write_all(self.text().as_bytes())?;
        file.sync_all()
    }

    fn text(&self) -> String {
        let lines = self.lines.iter().flat_map(|line| {
            let (Line::User(line, _) | Line::Other(line)) = line;
            [&**line, "\n"]
        });
        lines.collect()
    }
}

/// The user of a line, and the hash; or what is wrong.
fn parse_line(line: &str) -> Result<(&str, PasswordHash), String> {
    let (user, hash) = line.split_once(':').ok_or("has no ':'")?;
    // Mosquitto takes it like this.
    let user = user.trim();
    check_user(user).map_err(|wrong| format!("the user name {wrong}"))?;
    // Its file may go on with further fields.
    let hash = hash.split(':').next().unwrap_or_default().trim_end();
    let hash =
        PasswordHash::parse(hash).map_err(|wrong| format!("the password of {user:?} {wrong}"))?;
    Ok((user, hash))
}

/// The file that a link leads to.
fn resolve(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// The directory that a file is in.
fn directory(path: &Path) -> io::Result<File> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    File::open(dir.unwrap_or(Path::new(".")))
}

/// Checks that a user name can stand in the file; says what is wrong with it.
pub(crate) fn check_user(user: &str) -> Result<(), &'static str> {
    match user {
        "" => Err("is empty"),
        _ if user.len() > MAX_USER_BYTES => Err("is too long"),
        _ if user.starts_with('#') => Err("begins with #"),
        _ if user.contains(':') => Err("has a : in it"),
        _ if user.contains(char::is_control) => Err("has a control character in it"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::super::password::VERIFICATIONS;
    use super::*;

    const BOB: &str = "$6$YWJjZGVmZ2hpamts$m7eOX5ZHdUXNDr3MLnsKk2gba4zcxIKDbsyRp3pyWjXZgDJSXHJT9KmXBu0\
                       fTbQHLha1eke74YY7/f+PyPf6PQ==";

    fn bob() -> PasswordHash {
        PasswordHash::parse(BOB).unwrap()
    }

    #[test]
    fn a_file_of_mosquitto_is_read_as_it_is() {
        let file = PasswordFile::parse(&format!("# users\n\nbob:{BOB}\nanna b :{BOB}:x\n"));
        assert_eq!(file.user_count(), 2);
        assert!(file.skipped.is_empty());
        assert_eq!(file.check("bob", b"sponge"), Known::Right);
        assert_eq!(file.check("anna b", b"sponge"), Known::Right);
        assert_eq!(file.check("bob", b"wrong"), Known::Wrong);
        assert_eq!(file.check("eve", b"sponge"), Known::Not);
        assert_eq!(PasswordFile::default().check("eve", b"sponge"), Known::Not);
    }

    /// Time must not tell who has an account: whatever the answer, one password is held against one
    /// hash.
    #[test]
    fn an_unknown_user_costs_what_a_wrong_password_does() {
        let costs = |file: &PasswordFile, user: &str| {
            VERIFICATIONS.set(0);
            (file.check(user, b"wrong"), VERIFICATIONS.get())
        };
        let (_, salt_and_hash) = BOB.split_once("$6$").unwrap();
        let hashes = [
            BOB.to_owned(),
            format!("$7$3${salt_and_hash}"),
            "$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2RRPPc"
                .to_owned(),
            PasswordHash::new_scram(b"secret", 4096).unwrap().to_string(),
        ];
        let mut text = "# users\n\n".to_owned();
        for (number, hash) in hashes.iter().enumerate() {
            text.push_str(&format!("# number {number}\nuser{number}:{hash}\n\n"));
        }
        let file = PasswordFile::parse(&text);
        assert_eq!(file.user_count(), hashes.len());
        for number in 0..hashes.len() {
            assert_eq!(costs(&file, &format!("user{number}")), (Known::Wrong, 1));
        }
        for number in 0..50 {
            assert_eq!(costs(&file, &format!("unknown{number}")), (Known::Not, 1), "{number}");
        }
        let nobody = PasswordFile::parse("# nobody yet\n");
        assert_eq!(costs(&nobody, "user0"), (Known::Not, 0));
    }

    #[test]
    fn a_wrong_line_is_named_and_skipped() {
        for (text, line, part) in [
            ("bob\n", 2, "has no ':'; the line is skipped"),
            (":x\n", 2, "the user name is empty"),
            ("eve:\n", 2, "the password of \"eve\" is not a password hash"),
            ("# fine\nbob:secret\n", 3, "\"bob\" is not a password hash"),
            ("bob:\n", 2, "\"bob\" is not a password hash"),
        ] {
            let file = PasswordFile::parse(&format!("bob:{BOB}\n{text}"));
            let warnings: Vec<String> = file.warnings(Path::new("users")).collect();
            let [warning] = &warnings[..] else { panic!("{text}: {warnings:?}") };
            assert!(warning.starts_with(&format!("users:{line}: ")), "{text}: {warning}");
            assert!(warning.contains(part), "{warning}");
            assert_eq!((file.user_count(), file.check("bob", b"sponge")), (1, Known::Right));
            assert_eq!(file.text(), format!("bob:{BOB}\n{text}"), "it is kept");
        }
    }

    /// Mosquitto 2.0 does not read a hash without the padding that it has written.
    #[test]
    fn what_others_wrote_is_written_as_it_was() {
        let text = format!("# users\n\nbob:{BOB}\n eve :{BOB}:further:fields\r\nwrong\n");
        let mut file = PasswordFile::parse(&text);
        assert_eq!(file.user_count(), 2);
        assert_eq!(file.check("eve", b"sponge"), Known::Right);
        assert_eq!(file.text(), text);
        let new = PasswordHash::new(b"new").unwrap();
        let added = format!("ann:{new}\n");
        assert!(!file.set("ann", new));
        assert_eq!(file.text(), format!("{text}{added}"));
        assert_eq!(PasswordFile::parse(text.trim_end()).text(), text, "the last line has an end");
    }

    #[test]
    fn a_file_that_is_cut_short_is_told_from_one_that_is_wrong() {
        let path = Path::new("users");
        let of = |text: &str| PasswordFile::parse(text).check_whole(path);
        let whole = format!("bob:{BOB}\neve:{BOB}\n");
        for (end, _) in whole.char_indices() {
            let (text, line) = (&whole[..end], whole[..end].rsplit('\n').next().unwrap());
            // Without its padding, the hash is all there.
            let is_whole = line.is_empty() || line.len() >= whole.len() / 2 - 3;
            assert_eq!(of(text).is_ok(), is_whole, "{text:?}");
        }
        for wrong in ["bob:x\n", &format!("bob:x\neve:{BOB}"), "bob:x\n# end"] {
            assert!(of(wrong).is_ok(), "{wrong:?}");
        }
        let error = of("bob:x\neve").unwrap_err().to_string();
        assert_eq!(error, "users:2: is cut short, as if somebody were writing it");
    }

    /// `mosquitto_passwd` adds none, but who puts files together does.
    #[test]
    fn the_last_line_of_a_user_counts() {
        let other = PasswordHash::new(b"other").unwrap();
        let file = PasswordFile::parse(&format!("bob:{other}\nann:{BOB}\nbob:{BOB}\n"));
        assert_eq!(file.check("bob", b"sponge"), Known::Right);
        assert_eq!(file.check("bob", b"other"), Known::Wrong);
        let warnings: Vec<String> = file.warnings(Path::new("users")).collect();
        let warning = "users:3: \"bob\" stands here again; what stood before is skipped";
        assert_eq!(warnings, [warning]);
        assert_eq!(file.text(), format!("bob:{BOB}\nann:{BOB}\n"), "nothing is left of it");
    }

    #[test]
    fn what_is_written_can_be_read_and_comments_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("passwords");
        let mut file = PasswordFile::parse("# first\n");
        for user in ["a", "b", "c"] {
            assert!(!file.set(user, bob()));
        }
        assert!(file.set("b", bob()), "it was there");
        assert!(file.remove("a"));
        assert!(!file.remove("a"));
        file.save(&path).unwrap();
        file.save(&path).unwrap();
        let written = fs::read_to_string(&path).unwrap();
        let bob = bob();
        assert_eq!(written, format!("# first\nb:{bob}\nc:{bob}\n"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let read = PasswordFile::load(&path).unwrap();
        assert_eq!(read.check("c", b"sponge"), Known::Right);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left over");
    }

    /// The broker may read it by its group, or as anybody, and has to after a change as well.
    #[test]
    fn who_may_read_it_may_so_after_a_change() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("passwords");
        for mode in [0o640, 0o644, 0o400] {
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            PasswordFile::default().save(&path).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode);
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn names_that_have_no_place_in_a_file_are_refused() {
        for bad in ["", "a:b", "a\nb", "a\0", "#a"] {
            assert!(check_user(bad).is_err(), "{bad:?}");
        }
        assert!(check_user("anna b/ü").is_ok());
    }

    #[test]
    fn who_is_not_in_it_looks_as_if_he_were() {
        let mut file = PasswordFile::parse(&format!("bob:{BOB}\n"));
        assert!(!file.has_verifiers() && file.verifier("eve").is_none());
        file.set("anna", PasswordHash::new_scram(b"secret", 5000).unwrap());
        let (anna, is_known) = file.verifier("anna").unwrap();
        assert!(is_known);
        let mut salts = vec![anna.salt.clone()];
        // One with another kind of hash is no different from one that is not there.
        for user in ["eve", "mallory", "bob"] {
            let (verifier, is_known) = file.verifier(user).unwrap();
            assert!(!is_known);
            assert_eq!((verifier.iterations, verifier.salt.len()), (5000, anna.salt.len()));
            assert!(!salts.contains(&verifier.salt));
            salts.push(verifier.salt.clone());
            file.set("new", PasswordHash::new_scram(b"other", 6000).unwrap());
            assert_eq!(file.verifier(user).unwrap().0, verifier, "always the same");
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = PasswordFile::load(Path::new("/nonexistent/passwords")).unwrap_err();
        assert!(error.to_string().starts_with("/nonexistent/passwords: cannot be read"));
    }
}
