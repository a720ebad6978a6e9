//! Whole runs over real sockets: against the floor, and against a relay that does damage on purpose.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use sluice::mqtt::{
    self, ConnAck, Limits, Packet, PacketId, PacketType, Properties, ReasonCode, SubAck, Version,
};

use super::*;
use crate::floor::Floor;
use crate::report::{Work, status_of};

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn setup(target: SocketAddr, version: Version) -> Setup {
    let login = Login { version, keep_alive_seconds: 0, username: None, password: None };
    Setup {
        endpoint: Endpoint { address: target, tls: None, web_socket: None },
        login,
        id_prefix: "test".into(),
        connect_burst: 8,
        spin: false,
        threads: 1,
        broker: ProcessGroup::new(vec![std::process::id()]),
        disk: None,
        stop: Arc::default(),
        monitor: Arc::default(),
    }
}

fn short(scenario: ScenarioName) -> Parameters {
    Parameters {
        clients: 20,
        publishers: 3,
        subscribers: 4,
        seconds: 0.2,
        warm_up_seconds: 0.05,
        window: 8,
        ..scenario.defaults()
    }
}

fn floor() -> SocketAddr {
    let floor = Floor::bind(LOOPBACK).unwrap();
    let address = floor.address().unwrap();
    thread::spawn(|| floor.serve());
    address
}

#[test]
fn pairs_lose_nothing_over_the_floor_at_any_qos_and_version() {
    let address = floor();
    for version in [Version::V31, Version::V311, Version::V5] {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let parameters = Parameters { qos, ..short(ScenarioName::P2p) };
            let outcome = ScenarioName::P2p.run(&setup(address, version), &parameters).unwrap();
            assert_eq!(outcome.problems, [], "{version:?} {qos:?}");
            assert_eq!(outcome.faults.lost, 0, "{version:?} {qos:?}");
            assert!(outcome.work.count() > 100, "{version:?} {qos:?}");
            assert!(outcome.broker_cpu_ns.unwrap() > 0);
            assert!(outcome.latencies.count() >= outcome.work.count());
        }
    }
}

#[test]
fn several_threads_work_as_one() {
    let address = floor();
    for scenario in [ScenarioName::P2p, ScenarioName::Fanin, ScenarioName::Fanout] {
        let setup = Setup { threads: 3, ..setup(address, Version::V311) };
        let outcome = scenario.run(&setup, &short(scenario)).unwrap();
        assert_eq!(outcome.problems, [], "{scenario:?}");
        assert_eq!(outcome.faults, Default::default(), "{scenario:?}");
        assert!(outcome.work.count() > 100, "{scenario:?}");
        assert!(outcome.own_busiest_ns.unwrap() <= outcome.own_cpu_ns);
        assert!(outcome.latencies.count() >= outcome.work.count());
    }
    let setup = Setup { threads: 2, ..setup(address, Version::V5) };
    let outcome = ScenarioName::Storm.run(&setup, &short(ScenarioName::Storm)).unwrap();
    assert_eq!(outcome.latencies.count(), 20);
}

#[test]
fn several_threads_count_losses_and_notice_a_death() {
    let parameters = Parameters { publishers: 1, ..short(ScenarioName::P2p) };
    let run = |damage| {
        let setup = Setup { threads: 2, ..setup(bad_relay(damage), Version::V311) };
        ScenarioName::P2p.run(&setup, &parameters).unwrap()
    };
    let outcome = run(Damage::Loses(10));
    assert!(outcome.faults.lost >= outcome.sent / 10);
    let outcome = run(Damage::DiesAfter(500));
    assert_eq!(status_of(&outcome.problems), Status::BrokerDied);
}

#[test]
fn a_fan_in_hears_everybody_and_a_fan_out_reaches_everybody() {
    let address = floor();
    for scenario in [ScenarioName::Fanin, ScenarioName::Fanout] {
        let parameters = short(scenario);
        let outcome = scenario.run(&setup(address, Version::V311), &parameters).unwrap();
        assert_eq!(outcome.problems, []);
        assert_eq!(outcome.faults, Default::default());
        assert!(outcome.work.count() > 4 * outcome.sent / 2);
    }
}

#[test]
fn wildcards_beside_ballast_and_large_payloads_pass_the_floor() {
    let address = floor();
    for scenario in [ScenarioName::Wildcard, ScenarioName::Large] {
        let parameters = Parameters { ballast: 200, topics: 5, ..short(scenario) };
        let outcome = scenario.run(&setup(address, Version::V5), &parameters).unwrap();
        assert_eq!(outcome.problems, [], "{scenario:?}");
        assert!(outcome.work.count() > 5);
    }
}

#[test]
fn a_slow_broker_shows_in_an_open_loop_and_not_in_a_closed_one() {
    let parameters = Parameters { publishers: 1, ..short(ScenarioName::P2p) };
    for (rate, window, is_open) in [(None, 1, false), (Some(1_000.0), OPEN_WINDOW, true)] {
        let address = bad_relay(Damage::StallsAfter(40, Duration::from_millis(150)));
        let parameters = Parameters { rate, window, warm_up_seconds: 0.0, ..parameters };
        let outcome = ScenarioName::P2p.run(&setup(address, Version::V311), &parameters).unwrap();
        assert_eq!(outcome.problems, []);
        // One message waited in a closed loop; every one that was due then in an open loop.
        let waited = outcome.latencies.count_above(Duration::from_millis(20));
        assert_eq!(waited > 50, is_open, "{waited} waited");
        assert!(waited >= 1);
    }
}

#[test]
fn bursts_keep_the_rate_and_the_window() {
    let bursts =
        Parameters { rate: Some(400.0), burst: 20, window: 30, ..short(ScenarioName::P2p) };
    let parameters = Parameters { seconds: 0.5, qos: QoS::AtLeastOnce, ..bursts };
    let outcome = ScenarioName::P2p.run(&setup(floor(), Version::V5), &parameters).unwrap();
    assert_eq!(outcome.problems, []);
    let share = outcome.per_second() / (3.0 * 400.0);
    assert!((0.5..1.7).contains(&share), "{share}");
    assert!(
        outcome.label.contains("400/s each in bursts of 20, 30 outstanding"),
        "{}",
        outcome.label
    );
}

#[test]
fn a_rate_is_kept() {
    let parameters = Parameters { rate: Some(500.0), seconds: 0.5, ..short(ScenarioName::P2p) };
    let outcome = ScenarioName::P2p.run(&setup(floor(), Version::V311), &parameters).unwrap();
    // What is late is made up for, so that a busy machine moves the edges only.
    let share = outcome.per_second() / (3.0 * 500.0);
    assert!((0.6..1.5).contains(&share), "{share}");
}

#[test]
fn stopping_keeps_the_partial_result() {
    let setup = setup(floor(), Version::V311);
    let stop = Arc::clone(&setup.stop);
    thread::spawn(move || {
        thread::sleep(Duration::from_millis(400));
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let parameters = Parameters { seconds: 30.0, ..short(ScenarioName::P2p) };
    let outcome = ScenarioName::P2p.run(&setup, &parameters).unwrap();
    assert_eq!(outcome.problems, [Problem::interrupted()]);
    assert!(outcome.work.count() > 100);
    assert!(outcome.elapsed < Duration::from_secs(5));
}

#[test]
fn payloads_larger_than_any_buffer_pass() {
    let parameters = Parameters { payload_len: 300_000, ..short(ScenarioName::P2p) };
    let setup = setup(floor(), Version::V311);
    let outcome = ScenarioName::P2p.run(&setup, &parameters).unwrap();
    assert_eq!(outcome.problems, []);
    assert!(outcome.work.count() > 3);
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
    let text =
        "shards = 1\n[[listener]]\nbind = \"127.0.0.1:0\"\n[store]\ndurability = \"memory\"\n";
    let config = sluice::Config::parse("test", text, []).unwrap();
    let broker = sluice::Broker::start(config).unwrap();
    let address = broker.addresses()[0];
    assert!(!has_session(address, "lasts"));
    assert!(has_session(address, "lasts"));
    let setup = Setup { disk: Some(std::env::temp_dir()), ..setup(address, Version::V311) };
    for scenario in [ScenarioName::P2p, ScenarioName::Shared] {
        let parameters = Parameters { qos: QoS::AtLeastOnce, lasting: true, ..short(scenario) };
        let outcome = scenario.run(&setup, &parameters).unwrap();
        assert_eq!(outcome.problems, [], "{scenario:?}");
        assert!(outcome.acknowledgements.count() > 100, "{scenario:?}");
        assert_eq!(outcome.unordered.is_some(), scenario == ScenarioName::Shared);
        let used = outcome.disk.unwrap();
        assert_eq!((used.messages, used.outstanding), (outcome.sent, Some(3 * 8)), "{scenario:?}");
        assert!(used.written_bytes.is_some());
        assert!(!has_session(address, "test-s0"), "{scenario:?}");
    }
}

#[test]
fn crowds_are_let_in() {
    let address = floor();
    for scenario in [ScenarioName::Idle, ScenarioName::Storm] {
        let outcome = scenario.run(&setup(address, Version::V5), &short(scenario)).unwrap();
        assert_eq!(outcome.work.count(), 20);
        assert_eq!(outcome.latencies.count(), 20);
    }
}

#[test]
fn a_refused_connection_is_one_clear_error() {
    let nobody = TcpListener::bind(LOOPBACK).unwrap().local_addr().unwrap();
    let error = ScenarioName::P2p
        .run(&setup(nobody, Version::V311), &short(ScenarioName::P2p))
        .unwrap_err();
    let error = error.to_string();
    assert!(error.starts_with("7 of 7 clients") || error.starts_with("6 of 6 clients"), "{error}");
    assert!(error.contains("refused"), "{error}");
}

/// What a bad relay does to the PUBLISH packets of a connection, counted from 0.
#[derive(Clone, Copy)]
enum Damage {
    Loses(u64),
    Repeats(u64),
    Swaps(u64),
    DiesAfter(u64),
    StallsAfter(u64, Duration),
    /// Closes both connections, and lets others in.
    ClosesAfter(u64),
    /// Forwards no more, but acknowledges.
    SwallowsAfter(u64),
    /// Neither forwards nor acknowledges any more.
    IgnoresAfter(u64),
}

#[test]
fn losses_duplicates_and_swaps_are_found_and_counted() {
    for damage in [Damage::Loses(10), Damage::Repeats(10), Damage::Swaps(10)] {
        let parameters = Parameters { publishers: 1, ..short(ScenarioName::P2p) };
        let address = bad_relay(damage);
        let outcome = ScenarioName::P2p.run(&setup(address, Version::V311), &parameters).unwrap();
        let faults = outcome.faults;
        let (expected, others) = match damage {
            Damage::Loses(_) => (faults.lost, faults.duplicates + faults.reordered),
            Damage::Repeats(_) => (faults.duplicates, faults.lost + faults.reordered),
            Damage::Swaps(_) => (faults.reordered, faults.lost + faults.duplicates),
            _ => unreachable!(),
        };
        assert!(outcome.sent > 100);
        // Warm-up and drain have their share too.
        assert!(expected >= outcome.sent / 10 && expected <= outcome.sent, "{expected}");
        assert!(others <= 1, "{faults:?}"); // a message held for a swap when the run ends
        let is_loss = matches!(damage, Damage::Loses(_));
        assert_eq!(outcome.problems.is_empty(), is_loss, "{:?}", outcome.problems);
    }
}

#[test]
fn a_loss_fails_a_qos_1_run() {
    let qos = QoS::AtLeastOnce;
    let parameters = Parameters { publishers: 1, qos, ..short(ScenarioName::P2p) };
    let setup = setup(bad_relay(Damage::Loses(10)), Version::V311);
    let outcome = ScenarioName::P2p.run(&setup, &parameters).unwrap();
    assert!(outcome.problems.iter().any(|problem| problem.to_string().ends_with("were lost")));
    assert_eq!(status_of(&outcome.problems), Status::Messages);
    // What later ones have overtaken does not close the window.
    let outcome_lost = outcome.faults.lost;
    assert!(outcome_lost >= outcome.sent / 10 && outcome.sent > 100, "{outcome_lost}");
    assert_eq!(outcome.stalled, 0);
}

#[test]
fn who_waits_in_vain_is_told_and_ends_the_run() {
    for (damage, lost, unacknowledged, what) in [
        (Damage::SwallowsAfter(100), 8, 0, "messages that were acknowledged and did not come"),
        (Damage::IgnoresAfter(100), 0, 8, "acknowledgements that did not come"),
    ] {
        let qos = QoS::AtLeastOnce;
        let parameters =
            Parameters { publishers: 1, qos, seconds: 60.0, ..short(ScenarioName::P2p) };
        let setup = setup(bad_relay(damage), Version::V311);
        let monitor = Arc::clone(&setup.monitor);
        let outcome = ScenarioName::P2p.run(&setup, &parameters).unwrap();
        let expected = format!(
            "1 of 1 publishers stalled, waiting for {what}; the run was ended when nothing had happened for 5.00 s"
        );
        assert_eq!(outcome.problems[0].to_string(), expected);
        assert_eq!(status_of(&outcome.problems), Status::Messages);
        assert_eq!((outcome.faults.lost, outcome.unacknowledged), (lost, unacknowledged));
        assert_eq!(monitor.snapshot().counters.stalled, 1);
        assert!(outcome.elapsed < Duration::from_secs(30));
    }
}

#[test]
fn a_relay_that_dies_leaves_a_partial_result() {
    let parameters = Parameters { publishers: 1, ..short(ScenarioName::P2p) };
    let setup = setup(bad_relay(Damage::DiesAfter(500)), Version::V311);
    let outcome = ScenarioName::P2p.run(&setup, &parameters).unwrap();
    let text = outcome.problems[0].to_string();
    assert!(text.contains("connections to "), "{text}");
    assert_eq!(status_of(&outcome.problems), Status::BrokerDied);
    assert!(matches!(outcome.work, Work::Messages(_)));
}

#[test]
fn a_broker_that_closes_every_connection_is_not_called_dead() {
    let parameters = Parameters { publishers: 1, ..short(ScenarioName::P2p) };
    let setup = setup(bad_relay(Damage::ClosesAfter(500)), Version::V311);
    let outcome = ScenarioName::P2p.run(&setup, &parameters).unwrap();
    let text = outcome.problems[0].to_string();
    assert!(text.starts_with("no connection is left, and the broker is still there"), "{text}");
    assert_eq!(status_of(&outcome.problems), Status::Connections);
}

/// A relay for one subscriber and then one publisher, which damages what it forwards.
fn bad_relay(damage: Damage) -> SocketAddr {
    let listener = TcpListener::bind(LOOPBACK).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || -> io::Result<()> {
        let (first, _) = listener.accept()?;
        let (second, _) = listener.accept()?;
        // They connect at once: which is which shows in what they say.
        let mut ends = [Frames::new(first), Frames::new(second)];
        let mut subscriber = None;
        let mut publisher = None;
        for end in &mut ends {
            let (_, connect) = end.next()?;
            assert_eq!(connect[0] >> 4, 1);
            let is_subscriber = connect.windows(6).any(|bytes| bytes == b"test-s");
            let ack = Packet::ConnAck(ConnAck::new(false, ReasonCode::Success));
            end.say(&ack)?;
            if is_subscriber {
                let _ = end.next()?;
                let packet_id = PacketId::MIN;
                let properties = Properties::EMPTY;
                end.say(&Packet::SubAck(SubAck { packet_id, reasons: &[1], properties }))?;
                subscriber = Some(end.socket.try_clone()?);
            } else {
                publisher =
                    Some(Frames { kept: end.kept.clone(), socket: end.socket.try_clone()? });
            }
        }
        let (Some(subscriber), Some(publisher)) = (subscriber, publisher) else { return Ok(()) };
        drop(ends);
        if let Damage::ClosesAfter(_) = damage {
            forward(publisher, subscriber, damage)?;
            return listener.incoming().try_for_each(|other| other.map(drop));
        }
        drop(listener);
        forward(publisher, subscriber, damage)
    });
    address
}

fn forward(mut publisher: Frames, mut subscriber: TcpStream, damage: Damage) -> io::Result<()> {
    let mut held = None;
    let mut count = 0;
    loop {
        let (packet_type, frame) = publisher.next()?;
        if packet_type != PacketType::Publish {
            return Ok(());
        }
        count += 1;
        if matches!(damage, Damage::IgnoresAfter(last) if count > last) {
            continue;
        }
        // QoS 1 is acknowledged here, and the subscriber's own acknowledgement is left unread.
        if frame[0] & 0x06 == 0x02 {
            let topic_len = usize::from(frame[3]);
            let [hi, lo] = [frame[4 + topic_len], frame[5 + topic_len]];
            publisher.socket.write_all(&[0x40, 2, hi, lo])?;
        }
        match damage {
            Damage::Loses(nth) if count % nth == 0 => continue,
            Damage::SwallowsAfter(last) if count > last => continue,
            Damage::Repeats(nth) if count % nth == 0 => subscriber.write_all(&frame)?,
            Damage::Swaps(nth) if count % nth == 0 => {
                held = Some(frame);
                continue;
            }
            Damage::StallsAfter(nth, time) if count == nth => thread::sleep(time),
            Damage::DiesAfter(last) | Damage::ClosesAfter(last) if count > last => return Ok(()),
            _ => {}
        }
        subscriber.write_all(&frame)?;
        if let Some(held) = held.take() {
            subscriber.write_all(&held)?;
        }
    }
}

struct Frames {
    socket: TcpStream,
    kept: Vec<u8>,
}

impl Frames {
    fn new(socket: TcpStream) -> Self {
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self { socket, kept: Vec::new() }
    }

    fn next(&mut self) -> io::Result<(PacketType, Vec<u8>)> {
        loop {
            let head = mqtt::frame_head(&self.kept, u32::MAX).map_err(io::Error::other)?;
            if let Some(head) = head.filter(|head| head.frame_len() <= self.kept.len()) {
                let frame = self.kept.drain(..head.frame_len()).collect();
                return Ok((head.packet_type().unwrap(), frame));
            }
            let mut chunk = [0; 4096];
            match self.socket.read(&mut chunk)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => self.kept.extend_from_slice(&chunk[..count]),
            }
        }
    }

    fn say(&mut self, packet: &Packet<'_>) -> io::Result<()> {
        let mut out = Vec::new();
        mqtt::encode(Version::V311, packet, Limits::NONE.max_packet_size, &mut out);
        self.socket.write_all(&out)
    }
}
