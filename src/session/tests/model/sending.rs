//! Messages to a client: none lost, reordered, or (QoS 2) duplicated [MQTT-4.3.1-1] to
//! [MQTT-4.3.3-7], [MQTT-4.4.0-1], [MQTT-4.6.0-1] to [MQTT-4.6.0-6], [MQTT-4.9.0-2].

use std::collections::{BTreeSet, VecDeque};

use proptest::prelude::*;

use super::super::*;

#[derive(Clone, Debug)]
enum Step {
    Deliver(QoS),
    ClientRead,
    /// Of the QoS 1 messages read, acknowledge the one at this place.
    ClientAck(usize),
    ServerRead,
    Disconnect,
    Connect {
        version: Version,
        receive_maximum: u16,
    },
    Block(bool),
    Pump,
}

fn step() -> impl Strategy<Value = Step> {
    let qos = prop_oneof![
        Just(QoS::AtMostOnce),
        Just(QoS::AtLeastOnce),
        Just(QoS::ExactlyOnce),
        Just(QoS::ExactlyOnce)
    ];
    let version = prop_oneof![Just(Version::V311), Just(Version::V5)];
    prop_oneof![
        6 => qos.prop_map(Step::Deliver),
        6 => Just(Step::ClientRead),
        3 => (0..4_usize).prop_map(Step::ClientAck),
        6 => Just(Step::ServerRead),
        1 => Just(Step::Disconnect),
        2 => (version, 1..6_u16).prop_map(|(version, receive_maximum)| Step::Connect {
            version,
            receive_maximum,
        }),
        2 => any::<bool>().prop_map(Step::Block),
        1 => Just(Step::Pump),
    ]
}

struct Model {
    rig: Rig,
    /// What was taken, by QoS.
    taken: [Vec<u32>; 3],
    /// What the client's application got, by QoS.
    got: [Vec<u32>; 3],
    next: u32,
    receive_maximum: usize,
    to_client: VecDeque<Out>,
    to_server: VecDeque<(AckKind, u16)>,
    /// Identifiers sent on this connection, whose flow has not ended.
    outstanding: BTreeSet<u16>,
    /// The client's: QoS 1 identifiers to acknowledge, QoS 2 identifiers held.
    unacknowledged: Vec<u16>,
    held: BTreeSet<u16>,
}

impl Model {
    fn new() -> Self {
        let mut rig = Rig::new(Version::V5, 3);
        rig.limits.max_queued_messages = 12;
        Self {
            rig,
            taken: Default::default(),
            got: Default::default(),
            next: 0,
            receive_maximum: 3,
            to_client: VecDeque::new(),
            to_server: VecDeque::new(),
            outstanding: BTreeSet::new(),
            unacknowledged: Vec::new(),
            held: BTreeSet::new(),
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Deliver(qos) => {
                self.next += 1;
                let delivered = self.rig.send(qos, &self.next.to_string());
                if matches!(delivered, Delivered::Sent | Delivered::Queued) {
                    self.taken[usize::from(qos.as_u8())].push(self.next);
                }
            }
            Step::ClientRead => self.client_read(),
            Step::ClientAck(place) => {
                if place < self.unacknowledged.len() {
                    let packet_id = self.unacknowledged.remove(place);
                    self.to_server.push_back((AckKind::PubAck, packet_id));
                }
            }
            Step::ServerRead => self.server_read(),
            Step::Disconnect => {
                self.rig.disconnect();
                self.forget_connection();
            }
            Step::Connect { version, receive_maximum } => {
                // Mostly a takeover.
                self.forget_connection();
                self.rig.wire.take();
                self.receive_maximum = receive_maximum.into();
                self.rig.connect(&parameters(version, receive_maximum));
            }
            Step::Block(blocked) => self.rig.wire.blocked = blocked,
            Step::Pump => self.rig.session.pump(self.rig.now, &mut self.rig.wire),
        }
        self.transmit();
    }

    fn forget_connection(&mut self) {
        self.to_client.clear();
        self.to_server.clear();
        self.outstanding.clear();
        self.unacknowledged.clear();
    }

    fn transmit(&mut self) {
        for out in self.rig.wire.take() {
            if let Out::Publish(p) = &out
                && p.qos != QoS::AtMostOnce
            {
                assert!(self.outstanding.insert(p.id), "{} is in use", p.id);
                assert!(p.dup || !self.held.contains(&p.id), "{} is held", p.id);
            }
            self.to_client.push_back(out);
        }
        assert!(self.outstanding.len() <= self.receive_maximum);
        assert!(self.rig.session.queued() <= 12);
    }

    fn client_read(&mut self) {
        match self.to_client.pop_front() {
            Some(Out::Publish(p)) => {
                let number: u32 = String::from_utf8(p.payload).unwrap().parse().unwrap();
                let got = &mut self.got[usize::from(p.qos.as_u8())];
                match p.qos {
                    QoS::AtMostOnce => got.push(number),
                    QoS::AtLeastOnce => {
                        assert!(p.dup || !got.contains(&number));
                        got.push(number);
                        self.unacknowledged.push(p.id);
                    }
                    QoS::ExactlyOnce => {
                        if self.held.insert(p.id) {
                            got.push(number);
                        }
                        self.to_server.push_back((AckKind::PubRec, p.id));
                    }
                }
            }
            Some(Out::Ack(AckKind::PubRel, packet_id, _)) => {
                self.held.remove(&packet_id);
                self.to_server.push_back((AckKind::PubComp, packet_id));
            }
            Some(other) => panic!("{other:?}"),
            None => {}
        }
    }

    fn server_read(&mut self) {
        let Some((kind, packet_id)) = self.to_server.pop_front() else { return };
        let acked = match kind {
            AckKind::PubAck => self.rig.puback(packet_id),
            AckKind::PubRec => self.rig.pubrec(packet_id),
            AckKind::PubComp => self.rig.pubcomp(packet_id),
            AckKind::PubRel => unreachable!(),
        };
        if kind != AckKind::PubRec {
            self.outstanding.remove(&packet_id);
        }
        assert_ne!(acked, Ok(Acked::Unknown), "{kind:?} {packet_id}");
        assert!(acked.is_ok(), "{kind:?} {packet_id}: {acked:?}");
    }

    /// Lets everything arrive, and compares.
    fn finish(mut self) {
        self.step(&Step::Block(false));
        self.step(&Step::Connect { version: Version::V5, receive_maximum: 3 });
        while !(self.to_client.is_empty() && self.to_server.is_empty()) {
            for step in [Step::ClientRead, Step::ClientAck(0), Step::ServerRead] {
                self.step(&step);
            }
            self.step(&Step::ClientAck(0));
        }
        let [_, taken1, taken2] = &self.taken;
        let [got0, got1, got2] = &mut self.got;
        assert!(got0.is_sorted_by(|a, b| a < b));
        assert_eq!(got2, taken2);
        let mut seen = BTreeSet::new();
        got1.retain(|&number| seen.insert(number));
        assert_eq!(got1, taken1);
        assert_eq!((self.rig.session.in_flight(), self.rig.session.queued()), (0, 0));
        assert_eq!(self.rig.session.queued_bytes(), 0);
        self.rig.disconnect();
        assert!(self.rig.session.active.is_none());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_reordered_or_duplicated(steps in prop::collection::vec(step(), 0..250)) {
        let mut model = Model::new();
        for step in &steps {
            model.step(step);
        }
        model.finish();
    }
}
