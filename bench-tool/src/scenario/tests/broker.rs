//! Against the broker: what it keeps, and that nothing of it is left there.

use std::io::{Read, Write};

use sluice::mqtt::PacketType;
use sluice::{Broker, Config};

use super::bad_relay::Frames;
use super::*;

fn broker() -> (Broker, SocketAddr) {
    // What else the machine does holds turns up, too.
    let text = "shards = 1\n[[listener]]\nbind = \"127.0.0.1:0\"\n[store]\ndurability = \"memory\"\n\
                [limits]\nmax_turn = \"unlimited\"\n";
    let broker = Broker::start(Config::parse("test", text, []).unwrap()).unwrap();
    let address = broker.addresses()[0];
    (broker, address)
}

/// Whether the broker has a session of this client `[MQTT-3.2.2-2]`.
fn has_session(broker: SocketAddr, client_id: &str) -> bool {
    let len = client_id.len() as u8;
    let head = [&[0x10, 12 + len, 0, 4][..], b"MQTT", &[4, 0, 0, 0, 0, len]].concat();
    let mut socket = TcpStream::connect(broker).unwrap();
    socket.write_all(&[&head, client_id.as_bytes()].concat()).unwrap();
    let mut answer = [0; 4];
    socket.read_exact(&mut answer).unwrap();
    assert_eq!((answer[0], answer[3]), (0x20, 0));
    answer[2] == 1
}

#[test]
fn lasting_sessions_are_ended_after_the_run_and_what_they_cost_the_disk_is_known() {
    let (_broker, address) = broker();
    assert!(!has_session(address, "lasts"));
    assert!(has_session(address, "lasts"));
    let setup = Setup { disk: Some(std::env::temp_dir()), ..setup(address, Version::V311) };
    for scenario in [ScenarioName::P2p, ScenarioName::Shared] {
        let parameters = Parameters { qos: QoS::AtLeastOnce, lasting: true, ..short(scenario) };
        let outcome = scenario.run(&setup, &parameters).unwrap();
        assert_eq!(outcome.problems, [], "{scenario:?}");
        assert!(outcome.acknowledgements.count() > 20, "{scenario:?}");
        assert_eq!(outcome.unordered.is_some(), scenario == ScenarioName::Shared);
        let used = outcome.disk.unwrap();
        assert_eq!((used.messages, used.outstanding), (outcome.sent, 3 * 8), "{scenario:?}");
        assert!(used.written_bytes.is_some());
        assert!(!has_session(address, "test-s0"), "{scenario:?}");
    }
}

#[test]
fn queues_are_filled_and_fetched_to_the_last_message() {
    let (_broker, address) = broker();
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let parameters = Parameters { qos, messages: 40, ..short(ScenarioName::Persistent) };
        let setup = setup(address, Version::V5);
        let outcome = ScenarioName::Persistent.run(&setup, &parameters).unwrap();
        assert_eq!(outcome.problems, [], "{qos:?}");
        assert_eq!((outcome.sent, outcome.work), (3 * 40, Work::Messages(3 * 40)), "{qos:?}");
        assert_eq!(outcome.faults, Default::default(), "{qos:?}");
        assert_eq!(outcome.acknowledgements.count(), 3 * 40, "{qos:?}");
        let remarks: Vec<&str> = outcome.remarks.iter().map(|(name, _)| *name).collect();
        assert_eq!(remarks, ["filled", "fetched", "memory"], "{qos:?}");
        for subscriber in ["test-s0", "test-s1", "test-s2"] {
            assert!(!has_session(address, subscriber), "{qos:?} {subscriber}");
        }
    }
}

/// Retained messages that a new subscriber of everything below `bench` gets: as many as expected, and what follows
/// them at once.
fn retained(broker: SocketAddr, expected: usize) -> usize {
    let mut client = Frames::new(TcpStream::connect(broker).unwrap());
    let connect = [&[0x10, 12, 0, 4][..], b"MQTT", &[4, 2, 0, 0, 0, 0]].concat();
    let subscribe = [&[0x82, 12, 0, 1, 0, 7][..], b"bench/#", &[0]].concat();
    client.socket.write_all(&[connect, subscribe].concat()).unwrap();
    // CONNACK and SUBACK come, too.
    let mut frames: Vec<_> = (0..2 + expected).map(|_| client.next().unwrap()).collect();
    client.socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    frames.extend(std::iter::from_fn(|| client.next().ok()));
    frames.iter().filter(|(packet_type, _)| *packet_type == PacketType::Publish).count()
}

/// `[MQTT-3.3.1-6]`
#[test]
fn every_subscriber_gets_all_retained_messages_and_none_is_left() {
    let (_broker, address) = broker();
    let parameters = Parameters { subscribers: 3, messages: 50, ..short(ScenarioName::Retained) };
    for version in [Version::V311, Version::V5] {
        let outcome = ScenarioName::Retained.run(&setup(address, version), &parameters).unwrap();
        assert_eq!(outcome.problems, []);
        assert_eq!(outcome.work, Work::Messages(150));
        assert_eq!(outcome.faults.lost, 0);
        assert_eq!(outcome.latencies.count(), 150);
        assert!(outcome.remarks[0].1.starts_with("50, "), "{:?}", outcome.remarks);
        assert_eq!(retained(address, 0), 0);
    }
    let mut other = TcpStream::connect(address).unwrap();
    let connect = [&[0x10, 12, 0, 4][..], b"MQTT", &[4, 2, 0, 0, 0, 0]].concat();
    let publish = [&[0x31, 13, 0, 10][..], b"bench/kept!"].concat();
    let kept = [connect, publish, vec![0xE0, 0]].concat();
    other.write_all(&kept).unwrap();
    other.read_to_end(&mut Vec::new()).unwrap();
    assert_eq!(retained(address, 1), 1);
}

#[test]
fn who_stops_reading_does_not_hinder_the_others() {
    let (_broker, address) = broker();
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
        let base = short(ScenarioName::Slow);
        let parameters = Parameters { publishers: 1, stalled: 2, payload_len: 8192, qos, ..base };
        let outcome = ScenarioName::Slow.run(&setup(address, Version::V311), &parameters).unwrap();
        assert_eq!(outcome.problems, [], "{qos:?}");
        assert_eq!(outcome.faults, Default::default(), "{qos:?}");
        assert!(outcome.work.count() > 50, "{qos:?}");
        let [("while all read", rate)] = outcome.remarks.as_slice() else {
            panic!("{:?}", outcome.remarks)
        };
        assert!(!rate.starts_with("0/s"), "{rate}");
    }
}
