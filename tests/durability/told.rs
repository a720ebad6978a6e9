//! What the log tells of messages that nobody keeps, and who may read those that are kept.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::TempDir;

use crate::clients::away;
use crate::common::{Message, V5, V311};
use crate::offline::{everything_in, store};
use crate::process::Broker;

/// Whose queue it is, and why the publisher is disconnected.
#[test]
fn whose_queue_is_full_and_why_its_publisher_is_closed() {
    let broker = Broker::start_set("fjall", 2, &[("SLUICE_QUEUE_MAX_MESSAGES", "2")]);
    away(&broker, "forgotten", "full/#");
    let mut first = broker.connect(V5, "first");
    first.publish("full/x", "kept", 1);
    first.publish("full/x", "kept", 2);
    for id in ["one", "two", "three"] {
        let mut publisher = broker.connect(V311, id);
        publisher.start_publish(Message::new("full/y", "refused").qos(1));
        publisher.expect_closed();
        let line = broker.wait_to_say(&format!("client_id=\"{id}\""));
        let why = "closed: its message was not kept: the queues of all who would get it are full (";
        assert!(line.contains(why) && line.contains("on \"full/y\" last"), "{line}");
    }
    let line = broker.wait_to_say("its queue is full");
    assert!(line.contains("client_id=\"forgotten\" topic=\"full/y\""), "{line}");
}

/// It would be a long search for who expects them.
#[test]
fn that_what_mosquitto_has_is_not_read_is_said() {
    let data = TempDir::new().expect("a directory");
    let database = data.path().join("mosquitto.db");
    fs::write(&database, "").expect("written");
    let broker = Broker::start_on(data, "fjall", 1);
    let line = broker.wait_to_say("it is Mosquitto's, and is not read");
    assert!(line.contains(&database.display().to_string()) && line.contains("WARN"), "{line}");
}

fn mode(path: &Path) -> u32 {
    path.metadata().expect("it is there").permissions().mode() & 0o777
}

fn is_for_its_user_alone(directory: &Path) {
    for path in everything_in(directory) {
        let expected = if path.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode(&path), expected, "{}", path.display());
    }
}

/// A directory that is made, and the files of one that was there, which keeps its mode.
#[test]
fn nobody_else_reads_what_is_stored() {
    let room = TempDir::new().expect("a directory");
    for engine in ["fjall", "sqlite"] {
        let mut broker = Broker::start(engine, 1);
        away(&broker, "away", "t");
        broker.connect(V5, "publisher").publish("t", "secret", 1);
        broker.stop();
        fs::set_permissions(broker.data(), Permissions::from_mode(0o755)).expect("it is ours");
        let (status, dumped, _) = store(&["dump"], &[broker.data()]);
        assert_eq!((status, mode(broker.data())), (0, 0o755));
        for path in everything_in(broker.data()).into_iter().filter(|path| path.is_file()) {
            assert_eq!(mode(&path), 0o600, "{}", path.display());
        }
        let (file, restored) = (room.path().join("dump"), room.path().join(engine));
        fs::write(&file, dumped).expect("written");
        assert_eq!(store(&["restore", "--engine", engine], &[&restored, &file]).0, 0);
        is_for_its_user_alone(&restored);
        let migrated = room.path().join("deep").join(engine);
        assert_eq!(store(&["migrate"], &[&restored, &migrated]).0, 0);
        is_for_its_user_alone(&room.path().join("deep"));
    }
}
