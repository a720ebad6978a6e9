//! `sluice passwd`: edits a password file.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::PathBuf;

use clap::Args;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use crate::auth::{PasswordFile, PasswordFileError, PasswordHash, SCRAM_ITERATIONS, check_user};

/// What to do with a password file.
#[derive(Clone, Debug, Args)]
pub struct Passwd {
    /// The password file; a file that is not there is made
    pub file: PathBuf,

    /// The user to add, or whose password to change
    #[arg(required_unless_present = "batch", conflicts_with = "batch")]
    pub user: Option<String>,

    /// Remove the user
    #[arg(short, long, conflicts_with = "batch")]
    pub delete: bool,

    /// Add the users that stand on standard input, "user:password" a line
    #[arg(long)]
    pub batch: bool,

    /// Keep what clients need that log in by SCRAM-SHA-256 (and by their password as well)
    #[arg(long, conflicts_with = "delete")]
    pub scram: bool,

    /// How many times such a client has to hash its password; more is safer, and takes it longer
    #[arg(long, value_name = "N", requires = "scram", default_value_t = 15_000)]
    #[arg(value_parser = clap::value_parser!(u32).range(iterations()))]
    pub iterations: u32,
}

fn iterations() -> std::ops::RangeInclusive<i64> {
    i64::from(*SCRAM_ITERATIONS.start())..=i64::from(*SCRAM_ITERATIONS.end())
}

/// Why a password file was not changed.
#[derive(Debug, thiserror::Error)]
pub enum PasswdError {
    /// It is wrong as it stands.
    #[error(transparent)]
    File(#[from] PasswordFileError),
    /// What was typed cannot be taken.
    #[error("{0}")]
    Input(String),
    /// The user to remove is not in it.
    #[error("{path}: {user:?} is not in the file")]
    Unknown {
        /// The file.
        path: PathBuf,
        /// The user.
        user: String,
    },
    /// It cannot be written.
    #[error("{path}: cannot be written: {error}")]
    Unwritten {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// The terminal or the input fails.
    #[error("cannot read the password: {0}")]
    Unread(#[from] io::Error),
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    added: usize,
    replaced: usize,
    removed: usize,
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let done = [(self.added, "added"), (self.replaced, "changed"), (self.removed, "removed")];
        let mut separator = "";
        for (count, what) in done.into_iter().filter(|(count, _)| *count > 0) {
            let users = if count == 1 { "user" } else { "users" };
            write!(f, "{separator}{count} {users} {what}")?;
            separator = ", ";
        }
        if separator.is_empty() { f.write_str("nothing to do") } else { Ok(()) }
    }
}

impl Passwd {
    /// Changes the file, as a whole or not at all. Others who do so at the same time lose nothing by it.
    ///
    /// # Errors
    /// The file, what was typed, or the system is at fault.
    pub fn run(&self) -> Result<Changes, PasswdError> {
        // Nobody types a password for a file that is wrong.
        self.load()?;
        // To ask and to hash take long, and others need not wait for that.
        let edits = self.edits()?;
        let mut changes = Changes::default();
        if edits.is_empty() {
            return Ok(changes);
        }
        let unwritten = |error| PasswdError::Unwritten { path: self.file.clone(), error };
        let _lock = PasswordFile::lock(&self.file).map_err(unwritten)?;
        let mut file = self.load()?;
        for edit in edits {
            edit.apply(&mut file, &mut changes)
                .map_err(|user| PasswdError::Unknown { path: self.file.clone(), user })?;
        }
        file.save(&self.file).map_err(unwritten)?;
        Ok(changes)
    }

    fn load(&self) -> Result<PasswordFile, PasswordFileError> {
        match PasswordFile::load(&self.file) {
            Err(PasswordFileError::Unread { error, .. })
                if error.kind() == io::ErrorKind::NotFound && !self.delete =>
            {
                Ok(PasswordFile::default())
            }
            loaded => loaded,
        }
    }

    /// What is to be changed.
    fn edits(&self) -> Result<Vec<Edit>, PasswdError> {
        let Some(user) = &self.user else { return self.batch(io::stdin().lock()) };
        if self.delete {
            return Ok(vec![Edit::Remove(user.clone())]);
        }
        check_user(user).map_err(|wrong| PasswdError::Input(format!("the user name {wrong}")))?;
        let password = ask_password()?;
        let edit = self.set(user, password.as_bytes());
        Ok(vec![edit.map_err(|wrong| PasswdError::Input(format!("{user} {wrong}")))?])
    }

    fn batch(&self, input: impl BufRead) -> Result<Vec<Edit>, PasswdError> {
        let mut edits = Vec::new();
        for (number, line) in (1..).zip(input.lines()) {
            let line = line?;
            if !line.is_empty() {
                edits.push(self.batch_line(&line).map_err(|wrong| {
                    PasswdError::Input(format!("line {number} of the input {wrong}"))
                })?);
            }
        }
        Ok(edits)
    }

    fn batch_line(&self, line: &str) -> Result<Edit, String> {
        let (user, password) = line.split_once(':').ok_or("has no ':'")?;
        check_user(user).map_err(|wrong| format!("has a user name that {wrong}"))?;
        self.set(user, password.as_bytes())
    }

    fn set(&self, user: &str, password: &[u8]) -> Result<Edit, String> {
        if password.is_empty() {
            return Err("has an empty password".to_owned());
        }
        let hash = if self.scram {
            PasswordHash::new_scram(password, self.iterations)?
        } else {
            PasswordHash::new(password)?
        };
        Ok(Edit::Set(user.to_owned(), hash))
    }
}

/// One change.
enum Edit {
    Set(String, PasswordHash),
    Remove(String),
}

impl Edit {
    /// Does it; or gives the user who is to be removed and is not there.
    fn apply(self, file: &mut PasswordFile, changes: &mut Changes) -> Result<(), String> {
        match self {
            Self::Set(user, hash) => match file.set(&user, hash) {
                true => changes.replaced += 1,
                false => changes.added += 1,
            },
            Self::Remove(user) if file.remove(&user) => changes.removed += 1,
            Self::Remove(user) => return Err(user),
        }
        Ok(())
    }
}

/// Asks twice at a terminal; otherwise takes the first line of standard input.
fn ask_password() -> Result<String, PasswdError> {
    if !io::stdin().is_terminal() {
        return read_line().map_err(PasswdError::Unread);
    }
    let _silent = Silence::new()?;
    let first = prompt("Password: ")?;
    if prompt("Again: ")? != first {
        return Err(PasswdError::Input("the two passwords are not the same".to_owned()));
    }
    Ok(first)
}

fn prompt(text: &str) -> io::Result<String> {
    let mut terminal = io::stderr();
    write!(terminal, "{text}")?;
    terminal.flush()?;
    let line = read_line();
    writeln!(terminal)?;
    line
}

fn read_line() -> io::Result<String> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

/// The terminal does not show what is typed while this lives.
struct Silence {
    terminal: File,
    before: rustix::termios::Termios,
}

impl Silence {
    fn new() -> io::Result<Self> {
        let terminal = File::open("/dev/tty")?;
        let before = tcgetattr(&terminal)?;
        let mut silent = before.clone();
        silent.local_modes -= LocalModes::ECHO;
        tcsetattr(&terminal, OptionalActions::Flush, &silent)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.terminal, OptionalActions::Flush, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Known;

    #[test]
    fn changes_are_said_in_words() {
        let changes = |added, replaced, removed| Changes { added, replaced, removed }.to_string();
        assert_eq!(changes(1, 0, 0), "1 user added");
        assert_eq!(changes(2, 1, 0), "2 users added, 1 user changed");
        assert_eq!(changes(0, 0, 0), "nothing to do");
    }

    #[test]
    fn lines_of_a_batch() {
        let passwd = Passwd {
            file: PathBuf::new(),
            user: None,
            delete: false,
            batch: true,
            scram: false,
            iterations: 4096,
        };
        for (line, wrong) in [
            ("a", "has no ':'"),
            (":x", "has a user name that is empty"),
            ("a:", "has an empty password"),
        ] {
            assert_eq!(passwd.batch_line(line).err(), Some(wrong.to_owned()));
        }
        let (mut file, mut changes) = (PasswordFile::default(), Changes::default());
        let edit = passwd.batch_line("a:one:two").expect("the line is right");
        edit.apply(&mut file, &mut changes).expect("it can be added");
        let all_of_it = file.check("a", b"one:two");
        assert_eq!(all_of_it, Known::Right, "the password is all after the first ':'");
        assert_eq!(changes, Changes { added: 1, ..Changes::default() });
    }
}
