//! Every transport at once, on every shard.

use std::collections::BTreeSet;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use sluice::config::Bind;
use tempfile::TempDir;

use crate::common::client::subscribe;
use crate::common::{Connect, Message, Packet, V5, V311, fixture};
use crate::tls::{TLS13, Tls, ca, read_packet};
use crate::websocket::{Stream, Ws};

const SHARDS: usize = 3;
/// Whoever needs more connections than that to meet every shard meets a bug.
const MOST_CLIENTS: usize = 300;

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Speaks {
    Mqtt,
    Tls,
    Ws,
    Wss,
}

enum Over {
    Stream(Box<dyn Stream>),
    Ws(Ws),
}

struct Client {
    over: Over,
    connect: Connect,
}

impl Client {
    fn send(&mut self, bytes: &[u8]) {
        match &mut self.over {
            Over::Stream(stream) => stream.write_all(bytes).and_then(|()| stream.flush()).unwrap(),
            Over::Ws(ws) => ws.send(bytes),
        }
    }

    fn packet(&mut self) -> Option<Packet> {
        match &mut self.over {
            Over::Stream(stream) => read_packet(stream, &self.connect),
            Over::Ws(ws) => ws.packet(&self.connect),
        }
    }
}

/// A connection on which MQTT has not begun.
fn open(bind: &Bind, speaks: Speaks, tls: &Tls) -> Over {
    let patience = Some(Duration::from_secs(20));
    let address = match bind {
        Bind::Ip(address) => address,
        Bind::Unix(path) => {
            let socket = UnixStream::connect(path).unwrap();
            socket.set_read_timeout(patience).unwrap();
            return Over::Stream(Box::new(socket));
        }
    };
    let socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(patience).unwrap();
    socket.set_nodelay(true).unwrap();
    match speaks {
        Speaks::Mqtt => Over::Stream(Box::new(socket)),
        Speaks::Tls => Over::Stream(Box::new(tls.over(socket).0)),
        Speaks::Ws => Over::Ws(Ws::open(socket)),
        Speaks::Wss => Over::Ws(Ws::open(tls.over(socket).0)),
    }
}

/// The shards on which something was counted, by what it was and what it is.
fn changed(before: &[u64], after: &[u64]) -> impl Iterator<Item = usize> {
    (0..before.len()).filter(move |shard| before[*shard] != after[*shard])
}

/// TCP over both versions of IP, TLS, WebSocket over both, and a socket of this machine. Over each come
/// clients until every shard has accepted some and is the home of some; then each publishes, and all
/// of them hear all.
#[test]
fn a_message_goes_from_each_transport_to_each() {
    let (ca, dir) = (ca(), TempDir::new().unwrap());
    let unix = format!("unix:{}", dir.path().join("mqtt").display());
    let listeners = [
        ("127.0.0.1:0", Speaks::Mqtt),
        ("127.0.0.1:0", Speaks::Tls),
        ("127.0.0.1:0", Speaks::Ws),
        ("127.0.0.1:0", Speaks::Wss),
        (&unix, Speaks::Mqtt),
        ("[::1]:0", Speaks::Mqtt),
    ];
    let toml = listeners.iter().skip(1).map(|(bind, speaks)| {
        let websocket = match speaks {
            Speaks::Ws | Speaks::Wss => "[listener.websocket]\n",
            Speaks::Mqtt | Speaks::Tls => "",
        };
        let tls = match speaks {
            Speaks::Tls | Speaks::Wss => ca.listener(""),
            Speaks::Mqtt | Speaks::Ws => String::new(),
        };
        format!("[[listener]]\nbind = {bind:?}\n{websocket}{tls}")
    });
    let config = fixture::config(SHARDS as u16, "", &toml.collect::<String>());
    let broker = sluice::Broker::start(config).expect("the broker starts");
    let tls = Tls::new(&ca, TLS13, None);
    let counted = || -> [Vec<u64>; 2] {
        let stats = broker.stats();
        let accepted = stats.iter().map(|shard| shard.accepted.value()).collect();
        [accepted, stats.iter().map(|shard| shard.connects.value()).collect()]
    };

    let mut clients = Vec::new();
    for (bind, (_, speaks)) in broker.listeners().iter().zip(listeners) {
        let (mut accepted_by, mut at_home_on) = (BTreeSet::new(), BTreeSet::new());
        // Of the one socket that all shards share, whoever is awake takes the connections.
        let is_shared = matches!(bind, Bind::Unix(_));
        while (accepted_by.len() < SHARDS && !is_shared) || at_home_on.len() < SHARDS {
            assert!(clients.len() < MOST_CLIENTS, "{bind}: {accepted_by:?}, {at_home_on:?}");
            let version = if clients.len() % 2 == 0 { V5 } else { V311 };
            let connect = Connect::new(version, &format!("client-{}", clients.len()));
            let before = counted();
            let mut client = Client { over: open(bind, speaks, &tls), connect };
            client.send(&client.connect.bytes());
            assert!(matches!(client.packet(), Some(Packet::ConnAck(ack)) if ack.code == 0));
            client.send(&subscribe(version, 1, &[("all", 0)], &[]));
            assert!(matches!(client.packet(), Some(Packet::SubAck(_))));
            let after = counted();
            accepted_by.extend(changed(&before[0], &after[0]));
            at_home_on.extend(changed(&before[1], &after[1]));
            clients.push(client);
        }
    }
    for client in &mut clients {
        let message = Message::new("all", &client.connect.client_id);
        client.send(&message.bytes(client.connect.version));
    }
    let all: BTreeSet<String> =
        clients.iter().map(|client| client.connect.client_id.clone()).collect();
    for client in &mut clients {
        let came = (0..all.len()).map(|_| match client.packet() {
            Some(Packet::Publish(publish)) => publish.payload_text().to_owned(),
            other => panic!("{}: PUBLISH expected, got {other:?}", client.connect.client_id),
        });
        assert_eq!(came.collect::<BTreeSet<_>>(), all);
    }
    drop(clients);
    assert_eq!(broker.stop(), Ok(()));
}
