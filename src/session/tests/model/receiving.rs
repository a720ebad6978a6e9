//! Messages from a client: QoS 2 is routed exactly once, QoS 1 at least once, and nothing is
//! acknowledged before it is confirmed, nor out of order [MQTT-4.3.2-4], [MQTT-4.3.3-8] to
//! [MQTT-4.3.3-12], [MQTT-4.6.0-2], [MQTT-4.6.0-3], [MQTT-4.9.0-1].

use std::collections::VecDeque;

use proptest::prelude::*;

use super::super::*;

const RECEIVE_MAXIMUM: u16 = 5;

#[derive(Clone, Debug)]
enum Step {
    Publish(QoS),
    /// The server reads one packet; a new message is handed to the shards of that mask.
    ServerRead(u64),
    ClientRead,
    NextTurn,
    Confirm(usize),
    /// A shard has nothing to store of a message that it was handed first.
    Pass(usize),
    /// A shard returns a message, and the other one is handed it.
    Return(usize),
    Disconnect,
    Connect(Version),
}

fn step() -> impl Strategy<Value = Step> {
    let qos = prop_oneof![Just(QoS::AtLeastOnce), Just(QoS::ExactlyOnce), Just(QoS::ExactlyOnce)];
    let waiting = prop_oneof![Just(0), Just(0b010), Just(0b100), Just(0b110)];
    prop_oneof![
        6 => qos.prop_map(Step::Publish),
        8 => waiting.prop_map(Step::ServerRead),
        6 => Just(Step::ClientRead),
        2 => Just(Step::NextTurn),
        3 => (1..3_usize).prop_map(Step::Confirm),
        2 => (1..3_usize).prop_map(Step::Pass),
        2 => (1..3_usize).prop_map(Step::Return),
        1 => Just(Step::Disconnect),
        1 => prop_oneof![Just(Version::V311), Just(Version::V5)].prop_map(Step::Connect),
    ]
}

/// What a client sends.
#[derive(Clone, Copy, Debug)]
enum In {
    Publish { qos: QoS, packet_id: u16, dup: bool, number: u32 },
    PubRel(u16),
}

/// A message under way in the client's own state.
#[derive(Debug)]
struct Flow {
    packet_id: u16,
    qos: QoS,
    number: u32,
    released: bool,
}

/// A message that a shard has not confirmed.
#[derive(Debug)]
struct Handed {
    /// Each time it is routed it has another one.
    routing: u64,
    number: u32,
    to: usize,
    again: bool,
}

struct Model {
    rig: Rig,
    flows: Vec<Flow>,
    published: [Vec<u32>; 3],
    routed: [Vec<u32>; 3],
    /// What routed messages wait for.
    handed: Vec<Handed>,
    routings: u64,
    next: u32,
    turn: u64,
    confirmed: [u64; 64],
    to_server: VecDeque<In>,
    to_client: VecDeque<Out>,
    /// Number of the last message acknowledged on this connection.
    last_acknowledged: u32,
}

impl Model {
    fn new() -> Self {
        let mut model = Self {
            rig: Rig::new(Version::V5, 3),
            flows: Vec::new(),
            published: Default::default(),
            routed: Default::default(),
            handed: Vec::new(),
            routings: 0,
            next: 0,
            turn: 1,
            confirmed: [0; 64],
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
            last_acknowledged: 0,
        };
        model.step(&Step::Connect(Version::V5));
        model
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Publish(qos) => self.publish(qos),
            Step::ServerRead(waiting) => self.server_read(waiting),
            Step::ClientRead => self.client_read(),
            Step::NextTurn => self.turn += 1,
            Step::Confirm(shard) => {
                self.confirmed[shard] = self.turn;
                self.turn += 1;
                self.handed.retain(|handed| handed.to != shard);
                self.confirm();
            }
            Step::Pass(shard) => {
                let at = self.handed.iter().position(|handed| handed.to == shard && !handed.again);
                if let Some(at) = at {
                    let Handed { routing, .. } = self.handed.remove(at);
                    self.rig.session.pass(shard as u8, routing);
                    self.confirm();
                }
            }
            Step::Return(shard) => {
                let at = self.handed.iter().rposition(|handed| handed.to == shard);
                if let Some(at) = at {
                    self.give_back(at);
                }
            }
            Step::Disconnect => {
                self.rig.disconnect();
                self.forget_connection();
            }
            Step::Connect(version) => self.connect(version),
        }
        self.transmit();
    }

    fn confirm(&mut self) {
        let sink = self.rig.session.is_connected().then_some(&mut self.rig.wire);
        assert_eq!(self.rig.session.confirm(&self.confirmed, sink), Verdict::Continue);
    }

    fn give_back(&mut self, at: usize) {
        let Handed { routing, number, to: from, again } = self.handed[at];
        self.turn += 1;
        let (to, turn, session) = (3 - from, self.turn, &mut self.rig.session);
        match again {
            true => session.refuse_again(routing, false),
            false => session.refuse(from as u8, routing, false),
        }
        assert_ne!(session.route_again(routing, to as u8, turn), 0);
        self.handed.push(Handed { routing, number, to, again: true });
    }

    fn forget_connection(&mut self) {
        self.to_server.clear();
        self.to_client.clear();
        self.last_acknowledged = 0;
    }

    fn connect(&mut self, version: Version) {
        self.forget_connection();
        self.rig.connect(&LinkParameters {
            our_receive_maximum: RECEIVE_MAXIMUM,
            ..parameters(version, 10)
        });
        for flow in &self.flows {
            let Flow { packet_id, qos, number, released } = *flow;
            self.to_server.push_back(match released {
                true => In::PubRel(packet_id),
                false => In::Publish { qos, packet_id, dup: true, number },
            });
        }
    }

    fn publish(&mut self, qos: QoS) {
        if self.flows.len() >= usize::from(RECEIVE_MAXIMUM) || !self.rig.session.is_connected() {
            return;
        }
        let in_use = |id: &u16| self.flows.iter().any(|flow| flow.packet_id == *id);
        let packet_id = (1..).find(|id| !in_use(id)).unwrap();
        self.next += 1;
        let number = self.next;
        self.published[usize::from(qos.as_u8())].push(number);
        self.flows.push(Flow { packet_id, qos, number, released: false });
        self.to_server.push_back(In::Publish { qos, packet_id, dup: false, number });
    }

    fn server_read(&mut self, waiting: u64) {
        match self.to_server.pop_front() {
            Some(In::Publish { qos, packet_id, dup, number }) => {
                match self.rig.begin(qos, packet_id, dup) {
                    Begin::Duplicate => {}
                    Begin::ReceiveMaximumExceeded => panic!("{packet_id}"),
                    Begin::New => {
                        self.routed[usize::from(qos.as_u8())].push(number);
                        self.handed.retain(|handed| handed.number != number);
                        self.routings += 1;
                        let (routing, again) = (self.routings, false);
                        let shards = (0..64).filter(|shard| waiting & (1 << shard) != 0);
                        let handed = shards.map(|to| Handed { routing, number, to, again });
                        self.handed.extend(handed);
                        let outcome = PublishOutcome {
                            number: routing,
                            turn: self.turn,
                            waiting,
                            wanted: waiting,
                            kept: waiting == 0,
                            ..PublishOutcome::KEPT
                        };
                        let (packet_id, wire) = (id(packet_id), &mut self.rig.wire);
                        let verdict =
                            self.rig.session.finish_publish(qos, packet_id, outcome, wire);
                        assert_eq!(verdict, Verdict::Continue);
                    }
                }
            }
            Some(In::PubRel(packet_id)) => assert!(self.rig.pubrel(packet_id).is_ok()),
            None => {}
        }
    }

    /// What the server writes is checked as it is written.
    fn transmit(&mut self) {
        for out in self.rig.wire.take() {
            if let Out::Ack(AckKind::PubAck | AckKind::PubRec, packet_id, reason) = out {
                assert_eq!(reason, ReasonCode::Success);
                let flow = self.flows.iter().find(|flow| flow.packet_id == packet_id).unwrap();
                assert!(!flow.released);
                assert!(flow.number > self.last_acknowledged, "out of order");
                self.last_acknowledged = flow.number;
                let waits = self.handed.iter().find(|handed| handed.number == flow.number);
                assert!(waits.is_none(), "before its deed: {waits:?}");
            }
            self.to_client.push_back(out);
        }
    }

    fn client_read(&mut self) {
        let Some(out) = self.to_client.pop_front() else { return };
        let Out::Ack(kind, packet_id, _) = out else { panic!("{out:?}") };
        let place = self.flows.iter().position(|flow| flow.packet_id == packet_id).unwrap();
        match kind {
            AckKind::PubRec => {
                self.flows[place].released = true;
                self.to_server.push_back(In::PubRel(packet_id));
            }
            AckKind::PubAck | AckKind::PubComp => {
                self.flows.remove(place);
            }
            AckKind::PubRel => panic!("{out:?}"),
        }
    }

    fn finish(mut self) {
        self.step(&Step::Connect(Version::V5));
        while !self.flows.is_empty() {
            for step in [Step::ServerRead(0b010), Step::Confirm(1), Step::Confirm(2)] {
                self.step(&step);
            }
            self.step(&Step::ClientRead);
        }
        let [_, published1, published2] = &self.published;
        let [_, routed1, routed2] = &mut self.routed;
        assert_eq!(routed2, published2);
        routed1.sort_unstable();
        routed1.dedup();
        assert_eq!(routed1, published1);
        assert_eq!(self.rig.session.link.charged, 0);
        assert_eq!(self.rig.session.inbound_qos2(), 0);
        while self.rig.session.has_pending() {
            self.step(&Step::Confirm(1));
            self.step(&Step::Confirm(2));
        }
        self.rig.disconnect();
        assert!(self.rig.session.active.is_none());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn routed_once_and_acknowledged_after(steps in prop::collection::vec(step(), 0..250)) {
        let mut model = Model::new();
        for step in &steps {
            model.step(step);
        }
        model.finish();
    }
}
