//! One life of the broker after the other.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;

use super::model::{Kept, State};
use super::{ANCHORS, CLIENTS, World};
use crate::common::{Connect, V5, let_pass};
use crate::offline::store;
use crate::process::spawn;

type Settings = &'static [(&'static str, &'static str)];

/// Settings of a life, with the messages that may be in flight to a client, and the bytes of a long one.
const SETTINGS: [(usize, usize, Settings); 4] = [
    (1000, 6000, &[]),
    (1000, 6000, &[("SLUICE_QUEUE_IN_MEMORY", "9"), ("SLUICE_QUEUE_IN_MEMORY_BYTES", "1KiB")]),
    (3, 6000, &[("SLUICE_QUEUE_IN_MEMORY", "1000"), ("SLUICE_MQTT_MAX_INFLIGHT", "3")]),
    (2, 600, &[("SLUICE_MQTT_MAX_INFLIGHT", "2"), ("SLUICE_LIMITS_MAX_PACKET_SIZE", "4KiB")]),
];

impl World {
    /// Kills the broker, looks at what is on disk, and starts it again with other settings.
    pub(super) fn restart(&mut self) {
        (0..CLIENTS).for_each(|at| self.settle(at));
        self.sync(0);
        self.broker.kill();
        self.look_at_disk();
        if self.one_in(2) {
            self.move_engine();
        }
        let (max_inflight, long, settings) = SETTINGS[self.rng.usize(..SETTINGS.len())];
        (self.max_inflight, self.long) = (max_inflight, long);
        self.broker.tell(["os", "fsync"][self.rng.usize(..2)], settings);
        for _ in 0..self.rng.usize(..3) {
            self.kill_while_it_starts();
        }
        let shards = self.rng.u8(1..=3);
        self.tell(|| format!("-- restarts with {shards} shards and {settings:?}"));
        self.broker.restart_with(shards);
        self.publisher = self.broker.connect(V5, "publisher");
        self.aliases.clear();
        self.all_are_gone();
        let (mut watcher, connack) = self.broker.connect_with(&Connect::lasting(V5, "watcher"));
        assert!(connack.session_present);
        for _ in 0..std::mem::take(&mut self.watched) {
            watcher.receive();
        }
        watcher.disconnect();
    }

    fn kill_while_it_starts(&mut self) {
        let mut command = self.broker.command();
        let mut child = spawn(command.stdin(Stdio::null()).stderr(Stdio::null()));
        let_pass(Duration::from_millis(self.rng.u64(..60)));
        child.kill().expect("it is ours");
        child.wait().expect("it ends");
    }

    /// What the end of the broker means: that of connections, whose Wills come in any order.
    fn all_are_gone(&mut self) {
        self.batch += 1;
        let batch = self.batch;
        let mut wills = Vec::new();
        for at in 0..CLIENTS {
            let Some(_) = self.connections[at].take() else { continue };
            let Some(session) = &mut self.sessions[at] else { continue };
            let is_due =
                session.will.as_ref().is_some_and(|(_, delay)| session.expiry.min(*delay) == 0);
            if session.is_stored && is_due {
                wills.push((at, session.will.take()));
            }
            if session.expiry == 0 {
                self.sessions[at] = None;
            }
        }
        for (at, will) in wills {
            self.route_will(at, will, batch);
        }
    }

    /// By `sluice store migrate`, or by what it writes out.
    fn move_engine(&mut self) {
        let new = TempDir::new().expect("a directory");
        let old = self.broker.engine();
        let engine = if old == "fjall" { "sqlite" } else { "fjall" };
        let (status, _, error) = if self.rng.bool() {
            store(&["migrate"], &[self.broker.data(), new.path()])
        } else {
            let (status, dump, error) = store(&["dump"], &[self.broker.data()]);
            assert_eq!((status, error.as_str()), (0, ""));
            let room = TempDir::new().expect("a directory");
            let file = room.path().join("dump");
            fs::write(&file, dump).expect("written");
            store(&["restore", "--engine", engine], &[new.path(), &file])
        };
        assert_eq!((status, error.as_str()), (0, ""));
        self.tell(|| format!("-- moves to {engine}"));
        self.broker.move_to(new, engine);
    }

    /// There is what has to be, and nothing else.
    fn look_at_disk(&mut self) {
        let (status, out, error) = store(&["check"], &[self.broker.data()]);
        assert_eq!((status, error.as_str()), (0, ""), "{out}");
        let (_, dump, _) = store(&["dump"], &[self.broker.data()]);
        let count = |record: &str| {
            let begin = format!("{{\"record\":\"{record}\"");
            dump.lines().filter(|line| line.starts_with(&begin)).count()
        };
        let stored = || self.sessions.iter().flatten().filter(|session| session.is_stored);
        let kept = |which: fn(&Kept) -> bool| -> usize {
            stored().map(|session| session.kept.iter().filter(|kept| which(kept)).count()).sum()
        };
        let queued = kept(|kept| !matches!(kept.state, State::Released(..)));
        let beside = ANCHORS * self.syncs + self.watched;
        let found =
            ["session", "subscription", "inbound", "queued", "released", "retained"].map(count);
        let wanted = [
            stored().count() + ANCHORS + 1,
            stored().map(|session| session.subscriptions.len()).sum::<usize>() + ANCHORS + 1,
            stored().map(|session| session.held.len()).sum(),
            queued + beside,
            kept(|kept| matches!(kept.state, State::Released(..))),
            self.retained.len(),
        ];
        let kept = |kept: &Kept| format!("{}: {:?}", kept.sent.told(), kept.state);
        let sessions = self.sessions.iter().flatten();
        let sessions: Vec<Vec<_>> =
            sessions.map(|session| session.kept.iter().map(kept).collect()).collect();
        assert_eq!(found, wanted, "{dump}{sessions:#?}");
    }

    /// Everybody gets all there is.
    pub(super) fn drain(&mut self) {
        for at in 0..CLIENTS {
            if self.names[at].is_empty() {
                continue;
            }
            self.connect(at);
            while self.sessions[at].as_ref().is_some_and(|session| !session.kept.is_empty()) {
                self.acknowledge(at);
            }
            if let Some(connection) = &mut self.connections[at] {
                connection.client.expect_nothing();
            }
            self.settle(at);
        }
        self.sync(0);
        self.broker.kill();
        self.look_at_disk();
    }
}
