//! `sluice store`, as a shell sees it, on directories of brokers that were killed.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::common::{Connect, V5};
use crate::process::{Broker, spawn};

/// Exit status, standard output, standard error.
pub(crate) fn store(arguments: &[&str], paths: &[&Path]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
    command.arg("store").args(arguments).args(paths).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = spawn(&mut command).wait_with_output().expect("it ends");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

/// A broker with a session, a queue and a retained message, killed.
fn killed(engine: &'static str) -> Broker {
    let mut broker = Broker::start(engine, 2);
    let (mut client, _) = broker.connect_with(&Connect::lasting(V5, "away"));
    client.subscribe("t/#", 2);
    client.disconnect();
    let mut publisher = broker.connect(V5, "publisher");
    for n in 0..10 {
        publisher.publish("t/x", n.to_string(), 1 + n % 2);
    }
    publisher.publish_retained("r", "kept", 1);
    broker.kill();
    broker
}

fn has_everything(broker: &Broker) {
    let (mut client, connack) = broker.connect_with(&Connect::lasting(V5, "away"));
    assert!(connack.session_present);
    for n in 0..10 {
        client.expect("t/x", n.to_string());
    }
    let mut late = broker.connect(V5, "late");
    late.subscribe("r", 1);
    late.expect("r", "kept");
}

fn to_another_engine(from: &'static str, to: &'static str) {
    let broker = killed(from);
    let new = TempDir::new().expect("a directory");
    let (_, before, _) = store(&["dump"], &[broker.data()]);
    let (status, out, err) = store(&["migrate"], &[broker.data(), new.path()]);
    assert_eq!(
        (status, out, err.as_str()),
        (0, format!("{}: 23 records\n", new.path().display()), "")
    );
    for directory in [broker.data(), new.path()] {
        let (status, dump, err) = store(&["dump"], &[directory]);
        assert_eq!((status, dump == before, err.as_str()), (0, true, ""), "{dump}");
    }
    let (status, out, err) = store(&["check"], &[new.path()]);
    assert_eq!((status, err.as_str()), (0, ""), "{out}");
    let head = format!("{}: format 2, engine {to}\n", new.path().display());
    assert!(out.starts_with(&head), "{out}");
    has_everything(&Broker::start_on(new, to, 3));
}

#[test]
fn from_fjall_to_sqlite() {
    to_another_engine("fjall", "sqlite");
}

#[test]
fn from_sqlite_to_fjall() {
    to_another_engine("sqlite", "fjall");
}

#[test]
fn what_was_written_out_is_taken_in() {
    let broker = killed("fjall");
    let (_, dump, _) = store(&["dump"], &[broker.data()]);
    let room = TempDir::new().expect("a directory");
    let (file, data) = (room.path().join("dump.jsonl"), TempDir::new().expect("a directory"));
    fs::write(&file, &dump).expect("written");
    let (status, out, err) = store(&["restore", "--engine", "sqlite"], &[data.path(), &file]);
    assert_eq!((status, err.as_str()), (0, ""));
    assert_eq!(out, format!("{}: 23 records\n", data.path().display()));
    assert_eq!(store(&["dump"], &[data.path()]), (0, dump.clone(), String::new()));
    // It is not empty any more.
    let (status, out, err) = store(&["restore"], &[data.path(), &file]);
    let said = format!(
        "sluice: the directory {} is not empty: name one that is, or that is not there yet\n",
        data.path().display()
    );
    assert_eq!((status, out.as_str(), err), (1, "", said));
    has_everything(&Broker::start_on(data, "sqlite", 1));
    // A wrong line leaves nothing.
    let line = dump.lines().position(|line| line.contains("\"queued\"")).expect("one") + 1;
    fs::write(&file, dump.replacen("\"queued\"", "\"cow\"", 1)).expect("written");
    let new = room.path().join("data");
    let (status, out, err) = store(&["restore"], &[&new, &file]);
    assert_eq!((status, out.as_str()), (1, ""));
    let said = format!("sluice: {}: line {line}: unknown variant `cow`", file.display());
    assert!(err.starts_with(&said) && err.lines().count() == 1, "{err}");
    assert!(!new.exists());
}

#[test]
fn a_directory_that_a_broker_uses_is_refused() {
    let broker = Broker::start("fjall", 1);
    let new = TempDir::new().expect("a directory");
    let said = format!(
        "sluice: another process uses the data directory {}: stop it first\n",
        broker.data().display()
    );
    for arguments in [["check"], ["dump"]] {
        let (status, out, err) = store(&arguments, &[broker.data()]);
        assert_eq!((status, out.as_str(), err), (1, "", said.clone()), "{arguments:?}");
    }
    let (status, _, err) = store(&["migrate"], &[broker.data(), new.path()]);
    assert_eq!((status, err), (1, said));
    let (status, _, err) = store(&["restore"], &[broker.data(), Path::new("/dev/null")]);
    assert_eq!(status, 1);
    assert!(err.contains(" is not empty: name one that is"), "{err}");
    assert_eq!(fs::read_dir(new.path()).expect("a directory").count(), 0);
}

#[test]
fn what_is_no_data_directory_is_refused() {
    let new = TempDir::new().expect("a directory");
    let nowhere = new.path().join("nowhere");
    let said = format!("sluice: there is no data directory {}\n", nowhere.display());
    for arguments in [["check"], ["dump"]] {
        assert_eq!(store(&arguments, &[&nowhere]), (1, String::new(), said.clone()));
    }
    let (status, _, err) = store(&["migrate"], &[&nowhere, new.path()]);
    assert_eq!((status, err), (1, said));
    let (status, _, err) = store(&["restore"], &[new.path(), &nowhere]);
    let said = format!("sluice: {}: cannot be read: No such file", nowhere.display());
    assert!(status == 1 && err.starts_with(&said), "{err}");
}

/// Whoever removes or copies the outer one does not expect another in it.
#[test]
fn a_directory_within_another_is_not_filled() {
    let broker = killed("fjall");
    for inner in ["inner", "fjall/deep/inner"].map(|name| broker.data().join(name)) {
        let said = format!(
            "sluice: {} would be in the data directory {}: name one outside of it\n",
            inner.display(),
            broker.data().display()
        );
        let (status, out, err) = store(&["migrate"], &[broker.data(), &inner]);
        assert_eq!((status, out.as_str(), err), (1, "", said.clone()));
        let (status, out, err) = store(&["restore"], &[&inner, Path::new("/dev/null")]);
        assert_eq!((status, out.as_str(), err), (1, "", said));
        assert!(!inner.exists());
    }
}

/// Who forgets the directory names the dump in its place.
#[test]
fn a_file_in_place_of_the_directory_is_told() {
    let room = TempDir::new().expect("a directory");
    let dump = room.path().join("dump.jsonl");
    fs::write(&dump, "").expect("written");
    let is_file = format!("sluice: cannot use the data directory {}: it is a file", dump.display());
    let (status, _, err) = store(&["restore"], &[&dump]);
    let way = ": the directory comes first, sluice store restore DIR FILE\n";
    assert_eq!((status, err), (1, format!("{is_file}{way}")));
    let (status, _, err) = store(&["check"], &[&dump]);
    assert_eq!((status, err), (1, format!("{is_file}\n")));
}

/// It reads the database as it is; a start makes one of what can be read.
#[test]
fn that_a_start_mends_it_is_said() {
    for (engine, name) in [("fjall", "fjall/version"), ("sqlite", "sluice.sqlite")] {
        let mut broker = killed(engine);
        broker.restart();
        broker.stop();
        let file = broker.data().join(name);
        let mut bytes = fs::read(&file).expect("a file");
        bytes[..3].fill(0xA5);
        fs::write(&file, bytes).expect("written");
        for arguments in [["check"], ["dump"]] {
            let (status, out, err) = store(&arguments, &[broker.data()]);
            assert_eq!(status, 1, "{out}");
            let begin = format!("sluice: {}: ", broker.data().display());
            assert!(err.starts_with(&begin) && err.lines().count() == 1, "{err}");
            assert!(err.contains("a start of the broker mends"), "{err}");
        }
        broker.restart();
        has_everything(&broker);
    }
}

/// What a start would say of files that are not there.
#[test]
fn what_is_missing_is_said() {
    let broker = killed("fjall");
    let log = broker.data().join("log");
    fs::remove_dir_all(&log).expect("removed");
    let (status, out, _) = store(&["check"], &[broker.data()]);
    assert_eq!(status, 1, "{out}");
    for name in ["a.log", "b.log"] {
        assert!(out.contains(&format!("{}: missing or empty", log.join(name).display())), "{out}");
    }
}

/// fjall would begin an empty one in its place. What was in it a start finds in the log and the journals.
#[test]
fn a_table_that_is_gone_is_not_taken_for_an_empty_one() {
    let mut broker = killed("fjall");
    let keyspaces = broker.data().join("fjall").join("keyspaces");
    let subscriptions = keyspaces.join("2");
    fs::remove_dir_all(&subscriptions).expect("it was made at the first start");
    let new = TempDir::new().expect("a directory");
    for (tool, paths) in [
        (&["check"][..], &[broker.data()][..]),
        (&["dump"], &[broker.data()]),
        (&["migrate"], &[broker.data(), new.path()]),
    ] {
        let (status, out, err) = store(tool, paths);
        assert_eq!((status, out.as_str()), (1, ""), "{tool:?}: {err}");
        let file = subscriptions.join("current");
        assert!(err.contains(&file.display().to_string()) && err.contains("a start"), "{err}");
    }
    broker.restart();
    has_everything(&broker);
}

/// All files of a directory, and itself.
pub(crate) fn everything_in(path: &Path) -> Vec<PathBuf> {
    let mut found = vec![path.to_owned()];
    if path.is_dir() {
        let entries = fs::read_dir(path).expect("a directory");
        found.extend(entries.flat_map(|entry| everything_in(&entry.expect("an entry").path())));
    }
    found
}

const NOBODY: u32 = 65_534;

/// Only root can give files to somebody else.
fn give_to_nobody(path: &Path) {
    for path in everything_in(path) {
        chown(path, Some(NOBODY), Some(NOBODY)).expect("it is root");
    }
}

fn is_of_nobody(path: &Path) {
    for path in everything_in(path) {
        let owner = path.metadata().expect("it is there").uid();
        assert_eq!(owner, NOBODY, "{}", path.display());
    }
}

/// What root made there its broker could not open.
#[test]
fn what_root_makes_belongs_to_who_has_the_directory() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let broker = killed("fjall");
    give_to_nobody(broker.data());
    let format = broker.data().join("format");
    // As it was written by an earlier version: it is written anew.
    let is_earlier = || {
        fs::write(&format, "2 fjall\n").expect("written");
        give_to_nobody(&format);
    };
    let mut dumped = String::new();
    for tool in ["check", "dump"] {
        is_earlier();
        let (status, out, err) = store(&[tool], &[broker.data()]);
        assert_eq!((status, err.as_str()), (0, ""), "{out}");
        assert_ne!(fs::read_to_string(&format).expect("a file"), "2 fjall\n");
        is_of_nobody(broker.data());
        dumped = out;
    }
    is_earlier();
    let moved = TempDir::new().expect("a directory");
    let (status, _, err) = store(&["migrate"], &[broker.data(), &moved.path().join("new")]);
    assert_eq!((status, err.as_str()), (0, ""));
    is_of_nobody(broker.data());
    let (new, dump) = (TempDir::new().expect("a directory"), TempDir::new().expect("a directory"));
    give_to_nobody(new.path());
    // Which only root can read.
    let dump = dump.path().join("dump");
    fs::write(&dump, dumped).expect("written");
    let (status, _, err) = store(&["restore"], &[new.path(), &dump]);
    assert_eq!((status, err.as_str()), (0, ""));
    is_of_nobody(new.path());
}

/// `StateDirectory` of a service with `DynamicUser` is in `/var/lib/private`, which only root may pass.
#[test]
fn what_root_makes_behind_a_closed_directory_belongs_to_who_has_it() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let private = TempDir::new().expect("a directory");
    let closed = fs::Permissions::from_mode(0o700);
    fs::set_permissions(private.path(), closed).expect("it is root's");
    for engine in ["fjall", "sqlite"] {
        let broker = killed(engine);
        let data = private.path().join(engine);
        fs::rename(broker.data(), &data).expect("it is empty");
        give_to_nobody(&data);
        let (status, out, err) = store(&["check"], &[&data]);
        assert_eq!((status, err.as_str()), (0, ""), "{out}");
        is_of_nobody(&data);
        let new = private.path().join(format!("new-{engine}"));
        fs::create_dir(&new).expect("a directory");
        give_to_nobody(&new);
        let (_, dumped, _) = store(&["dump"], &[&data]);
        let dump = private.path().join("dump");
        fs::write(&dump, dumped).expect("written");
        let (status, _, err) = store(&["restore", "--engine", engine], &[&new, &dump]);
        assert_eq!((status, err.as_str()), (0, ""));
        is_of_nobody(&new);
    }
}

/// One byte of a record is another one than it was.
#[test]
fn damage_is_said_and_is_the_exit_status() {
    let broker = killed("sqlite");
    let database = broker.data().join("sluice.sqlite");
    store(&["check"], &[broker.data()]);
    let connection = rusqlite::Connection::open(&database).expect("a database");
    let damaged = connection
        .execute("update retained set value = x'00' || substr(value, 2)", [])
        .expect("it can be changed");
    assert_eq!(damaged, 1);
    drop(connection);
    let (status, out, err) = store(&["check"], &[broker.data()]);
    assert_eq!((status, err.as_str()), (1, ""));
    assert!(out.contains("damaged: retained \"r\"\n"), "{out}");
    assert!(out.ends_with("1 damaged, 0 set aside as damaged earlier, 0 that belong to nothing\n"));
    let (status, dump, err) = store(&["dump"], &[broker.data()]);
    assert_eq!(status, 0);
    assert!(err.ends_with("1 of its records are damaged, and written as they are\n"), "{err}");
    assert!(dump.lines().any(|line| line.starts_with(r#"{"record":"damaged""#)), "{dump}");
}
