//! A broker of the test's own.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};

use super::connect::Connect;
use super::packet::ConnAck;
use super::wire::Version;
use super::{Client, code};

/// A running broker; it ends with the test.
pub(crate) struct Broker {
    address: SocketAddr,
    child: Child,
    _dir: tempfile::TempDir,
}

/// Starts a broker with two shards on a free loopback port; `toml` is further configuration.
pub(crate) fn broker(toml: &str) -> Broker {
    assert!(toml.is_empty(), "needs sluice");
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let dir = tempfile::tempdir().unwrap();
    let conf = dir.path().join("m.conf");
    std::fs::write(
        &conf,
        format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\nmax_topic_alias 10\nsys_interval 1\n\
             max_inflight_messages 1000\nmax_queued_messages 100000\nset_tcp_nodelay true\n"
        ),
    )
    .unwrap();
    let mut child = Command::new("/usr/sbin/mosquitto")
        .arg("-c")
        .arg(&conf)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    for line in lines.by_ref() {
        if line.unwrap().contains("running") {
            break;
        }
    }
    std::thread::spawn(move || lines.count());
    Broker { address: SocketAddr::from(([127, 0, 0, 1], port)), child, _dir: dir }
}

/// The same with this many shards.
pub(crate) fn broker_with_shards(_shards: u16, toml: &str) -> Broker {
    broker(toml)
}

/// The same with further keys of its listener.
pub(crate) fn broker_with_listener(_shards: u16, _listener: &str, toml: &str) -> Broker {
    assert!(!toml.is_empty(), "needs sluice");
    broker(toml)
}

impl Broker {
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// A connection on which nothing was sent yet.
    pub(crate) fn open(&self, version: Version) -> Client {
        Client::open(self.address, version)
    }

    /// A clean connection.
    #[track_caller]
    pub(crate) fn connect(&self, version: Version, client_id: &str) -> Client {
        self.connect_with(&Connect::new(version, client_id)).0
    }

    /// A connection that must be accepted, and its CONNACK.
    #[track_caller]
    pub(crate) fn connect_with(&self, connect: &Connect) -> (Client, ConnAck) {
        let (client, connack) = Client::connect(self.address, connect);
        assert_eq!(connack.code, code::SUCCESS, "CONNECT of {}", connect.client_id);
        (client, connack)
    }

    pub(crate) fn stop(mut self) {
        self.child.kill().unwrap();
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
