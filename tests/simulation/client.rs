//! A simulated client: its connection, and what it does.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroU16;
use std::time::Duration;

use fastrand::Rng;
use sluice::mqtt::{
    AckKind, Disconnect, Packet, PacketId, QoS, ReasonCode, SubscribeFilter, Version,
};
use sluice::net::sim::{ClientId, World};
use sluice::timer::Time;

use crate::model::{Link, Model};
use crate::plan::Plan;
use crate::wire::{self, Hello, Testament};

/// What a client acts upon.
pub(crate) struct Stage<'a> {
    pub(crate) world: &'a World,
    pub(crate) model: &'a mut Model,
    pub(crate) rng: &'a mut Rng,
    pub(crate) plan: &'a Plan,
    /// Nothing new is begun, and everything is finished.
    pub(crate) draining: bool,
    /// Everybody publishes to one topic.
    pub(crate) flurry: bool,
}

/// A message of QoS 1 or 2 that the client has under way.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) packet_id: PacketId,
    pub(crate) message: usize,
    pub(crate) qos: QoS,
    /// PUBREC has come.
    pub(crate) released: bool,
}

#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) filter: String,
    /// `None`: UNSUBSCRIBE.
    pub(crate) qos: Option<QoS>,
    /// When it was sent, if no other shard can know of it.
    pub(crate) news: Option<u64>,
}

/// One connection of a client.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) net: ClientId,
    pub(crate) hello: Hello,
    /// CONNACK has come.
    pub(crate) admitted: bool,
    pub(crate) out: Vec<u8>,
    input: Vec<u8>,
    pub(crate) requests: BTreeMap<PacketId, Request>,
    pub(crate) pings: u32,
    /// Acknowledgements that the client takes its time with.
    pub(crate) owed: VecDeque<(AckKind, PacketId)>,
    /// What the broker has under way, by our Receive Maximum.
    pub(crate) inbound: BTreeSet<PacketId>,
    pub(crate) aliases: BTreeMap<u16, String>,
    pub(crate) our_receive_maximum: usize,
    stalled_until: Option<Time>,
    /// DISCONNECT was sent, or will be.
    goodbye: bool,
    /// The broker has said that it closes.
    pub(crate) dismissed: bool,
}

#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) index: usize,
    pub(crate) name: String,
    pub(crate) version: Version,
    persistent: bool,
    /// Seconds; 5.0.
    expiry: u32,
    keep_alive: u16,
    pub(crate) connection: Option<Connection>,
    connect_at: Time,
    /// Connections that a newer one replaced: the broker has to close them.
    left: Vec<ClientId>,
    /// What is under way belongs to this session of the model.
    pub(crate) session: Option<usize>,
    pub(crate) outgoing: VecDeque<Outgoing>,
    /// QoS 2 identifiers whose PUBREL has not come.
    pub(crate) held: BTreeSet<PacketId>,
    last_id: u16,
    /// It only subscribes to this.
    pub(crate) probe: bool,
}

const FILTERS: [&str; 10] = [
    "t/0",
    "t/1",
    "t/2",
    "t/+",
    "t/#",
    "r/+",
    "r/shared",
    "w/+",
    "$share/s1/s1/+",
    "$share/s2/s2/#",
];

pub(crate) fn qos(rng: &mut Rng) -> QoS {
    [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][rng.usize(0..3)]
}

impl Client {
    pub(crate) fn new(index: usize, plan: &Plan, rng: &mut Rng) -> Self {
        let version = [Version::V31, Version::V311, Version::V5, Version::V5][rng.usize(0..4)];
        let persistent = plan.steadfast || rng.u8(0..4) > 0;
        let expiry = if rng.u8(0..4) == 0 && !plan.steadfast { rng.u32(1..4) } else { 1_000_000 };
        Self {
            index,
            name: format!("client{index}"),
            version,
            persistent,
            expiry: if persistent { expiry } else { 0 },
            keep_alive: if rng.u8(0..8) == 0 { rng.u16(1..10) } else { 0 },
            connection: None,
            connect_at: Time(rng.u64(0..200)),
            left: Vec::new(),
            session: None,
            outgoing: VecDeque::new(),
            held: BTreeSet::new(),
            last_id: 0,
            probe: false,
        }
    }

    /// A client that looks at retained messages.
    pub(crate) fn probe(index: usize, plan: &Plan, rng: &mut Rng) -> Self {
        Self {
            version: Version::V5,
            persistent: false,
            expiry: 0,
            keep_alive: 0,
            connect_at: Time(0),
            probe: true,
            ..Self::new(index, plan, rng)
        }
    }

    /// One step: moves bytes, handles what came, perhaps begins something.
    pub(crate) fn step(&mut self, stage: &mut Stage<'_>) -> Result<(), String> {
        self.watch_left(stage);
        let now = stage.world.now();
        let Some(connection) = self.connection.as_mut() else {
            let wanted = !stage.draining || self.persistent || self.probe;
            if wanted && now >= self.connect_at {
                self.connect(stage);
            }
            return Ok(());
        };
        if connection.stalled_until.is_some_and(|until| until <= now || stage.draining) {
            connection.stalled_until = None;
            stage.world.client_stall(connection.net, false);
        }
        self.exchange(stage)?;
        let Some(connection) = self.connection.as_ref() else { return Ok(()) };
        if connection.admitted && !connection.goodbye && !stage.draining && stage.rng.bool() {
            self.act(stage);
        }
        Ok(())
    }

    /// Whether nothing is owed in either direction, while everything is to end.
    pub(crate) fn is_settled(&self) -> bool {
        let Some(it) = &self.connection else {
            return self.left.is_empty() && !(self.persistent || self.probe);
        };
        self.left.is_empty()
            && it.admitted
            && it.out.is_empty()
            && it.requests.is_empty()
            && it.pings == 0
            && it.owed.is_empty()
            && self.outgoing.is_empty()
            && self.held.is_empty()
    }

    /// Whether the broker owes it something, and nothing is owed to the broker.
    pub(crate) fn waits(&self) -> bool {
        self.connection.as_ref().is_some_and(|it| {
            let owes = !it.owed.is_empty();
            let owed = it.pings > 0 || !it.requests.is_empty() || !it.out.is_empty();
            !owes && (!it.admitted || owed || !self.outgoing.is_empty() || !self.held.is_empty())
        })
    }

    fn watch_left(&mut self, stage: &mut Stage<'_>) {
        self.left.retain(|net| {
            let mut unread = Vec::new();
            stage.world.client_recv(*net, &mut unread);
            // The CONNECT that was to replace it may never have arrived.
            let session = stage.model.session(net.0);
            let stays = session.is_some_and(|session| session.connection == Some(net.0));
            let over = stage.world.client_end(*net).is_some() || stage.draining && stays;
            if over {
                stage.world.client_close(*net);
            }
            !over
        });
    }

    fn connect(&mut self, stage: &mut Stage<'_>) {
        let rng = &mut *stage.rng;
        let v5 = self.version.is_v5();
        let stays = (stage.draining || stage.plan.steadfast) && !self.probe;
        let clean_start = match (v5, stays) {
            (_, true) => false,
            (true, false) => rng.u8(0..20) == 0 || !self.persistent,
            (false, false) => rng.u8(0..40) == 0 || !self.persistent,
        };
        let expiry = match v5 {
            true => self.expiry,
            false if clean_start => 0,
            false => u32::MAX,
        };
        let net = stage.world.connect();
        let mut link = Link::new(&self.name, clean_start, expiry);
        let mut will = None;
        if !self.probe && !stage.draining && rng.u8(0..3) == 0 {
            let topic = format!("w/{}", self.index);
            let qos = qos(rng);
            let message = stage.model.publish(self.index, &topic, qos);
            stage.model.messages[message].will = true;
            let delay = if v5 && rng.bool() { rng.u32(1..3) } else { 0 };
            // What is sent without delay may be replaced by nothing.
            let payload = wire::payload(message, u64::MAX >> 1, rng.usize(0..20));
            link.will = Some(message);
            link.keeps_alive = self.keep_alive > 0;
            link.will_delayed = delay > 0 && expiry > 0;
            will = Some(Testament { topic, payload, qos, retain: false, delay });
        }
        let our_receive_maximum = if v5 && rng.bool() { rng.u16(1..6) } else { u16::MAX };
        let hello = Hello {
            version: self.version,
            client_id: self.name.clone(),
            clean_start,
            session_expiry: expiry,
            keep_alive: if stage.draining { 0 } else { self.keep_alive },
            receive_maximum: NonZeroU16::new(our_receive_maximum),
            topic_alias_maximum: if v5 && rng.bool() { 3 } else { 0 },
            will,
        };
        stage.model.links.insert(net.0, link);
        let now = stage.world.now();
        stage.model.note(now, format_args!("{} connects as {}, {hello:?}", self.name, net.0));
        let mut out = Vec::new();
        wire::put_connect(&hello, &mut out);
        self.connection = Some(Connection {
            net,
            hello,
            admitted: false,
            out,
            input: Vec::new(),
            requests: BTreeMap::new(),
            pings: 0,
            owed: VecDeque::new(),
            inbound: BTreeSet::new(),
            aliases: BTreeMap::new(),
            our_receive_maximum: usize::from(our_receive_maximum),
            stalled_until: None,
            goodbye: false,
            dismissed: false,
        });
    }

    /// Sends and receives.
    fn exchange(&mut self, stage: &mut Stage<'_>) -> Result<(), String> {
        self.pay(stage);
        let Some(it) = self.connection.as_mut() else { return Ok(()) };
        if !it.out.is_empty()
            && let Ok(sent) = stage.world.client_send(it.net, &it.out)
        {
            it.out.drain(..sent);
        }
        stage.world.client_recv(it.net, &mut it.input);
        let mut input = std::mem::take(&mut it.input);
        let mut at = 0;
        loop {
            let version = self.version;
            let handled = wire::first_packet(version, &input[at..], |p| self.handle(stage, p))
                .map_err(|error| format!("{}: {error}", self.name))?;
            let Some((len, result)) = handled else { break };
            result?;
            at += len;
        }
        input.drain(..at);
        let Some(it) = self.connection.as_mut() else { return Ok(()) };
        it.input = input;
        if let Some(cause) = stage.world.client_end(it.net) {
            self.lost(stage, format!("{cause:?}"))?;
        }
        Ok(())
    }

    /// Sends some of the acknowledgements that are due.
    fn pay(&mut self, stage: &mut Stage<'_>) {
        let Some(it) = self.connection.as_mut() else { return };
        while !it.owed.is_empty() && (stage.draining || stage.rng.u8(0..4) > 0) {
            let Some((kind, packet_id)) = it.owed.pop_front() else { break };
            if matches!(kind, AckKind::PubAck | AckKind::PubComp) {
                it.inbound.remove(&packet_id);
            }
            sluice::mqtt::encode_ack(
                self.version,
                kind,
                packet_id,
                ReasonCode::Success,
                &mut it.out,
            );
        }
    }

    /// The broker, or the network, ended the connection.
    fn lost(&mut self, stage: &mut Stage<'_>, cause: String) -> Result<(), String> {
        let Some(it) = self.connection.take() else { return Ok(()) };
        let now = stage.world.now();
        stage.model.note(now, format_args!("{} lost {}: {cause}", self.name, it.net.0));
        stage.world.client_close(it.net);
        self.connect_at = now.plus(Duration::from_millis(stage.rng.u64(0..400)));
        let explained = it.goodbye
            || it.dismissed
            || it.hello.keep_alive > 0
            || stage.plan.retries
            || !stage.plan.lossless
            || stage.plan.options.faults.reset > 0.0;
        if !explained {
            return Err(format!("{} was thrown out: {it:?}", self.name));
        }
        Ok(())
    }

    fn act(&mut self, stage: &mut Stage<'_>) {
        if self.probe {
            return;
        }
        if stage.flurry {
            return self.publish(stage);
        }
        let (unrest, stalls) = (stage.plan.unrest, stage.plan.stalls);
        match stage.rng.u32(0..1000) {
            choice if choice < unrest => self.leave(stage),
            choice if choice < unrest + stalls => self.stall(stage),
            choice if choice < stage.plan.appetite => self.subscribe(stage),
            250..290 if !stage.plan.steadfast => self.unsubscribe(stage),
            290..320 => {
                let Some(it) = self.connection.as_mut() else { return };
                wire::put(self.version, &Packet::PingReq, &mut it.out);
                it.pings += 1;
            }
            _ => self.publish(stage),
        }
    }

    fn stall(&mut self, stage: &mut Stage<'_>) {
        let Some(it) = self.connection.as_mut() else { return };
        let until = stage.world.now().plus(Duration::from_millis(stage.rng.u64(10..5_000)));
        it.stalled_until = Some(until);
        stage.world.client_stall(it.net, true);
    }

    fn leave(&mut self, stage: &mut Stage<'_>) {
        let Some(it) = self.connection.as_mut() else { return };
        let (world, now) = (stage.world, stage.world.now());
        let (net, way) = (it.net, stage.rng.u8(0..4));
        stage.model.note(now, format_args!("{} leaves {}: {way}", self.name, net.0));
        match way {
            0 => {
                let reason = Disconnect::new(ReasonCode::Success);
                wire::put(self.version, &Packet::Disconnect(reason), &mut it.out);
                it.goodbye = true;
                if let Some(link) = stage.model.links.get_mut(&net.0) {
                    link.goodbye = true;
                }
                return;
            }
            1 => world.client_close(net),
            2 => world.client_reset(net),
            _ => {
                world.client_stall(net, false);
                self.left.push(net);
            }
        }
        self.connection = None;
        self.connect_at = now.plus(Duration::from_millis(stage.rng.u64(0..1_500)));
        if way == 3 {
            self.connect(stage);
        }
    }

    /// A packet identifier that is not in use.
    fn next_id(&mut self) -> PacketId {
        loop {
            self.last_id = self.last_id % 200 + 1;
            let Some(id) = PacketId::new(self.last_id) else { continue };
            let requests = self.connection.as_ref().map(|it| &it.requests);
            let free = !self.outgoing.iter().any(|it| it.packet_id == id)
                && !requests.is_some_and(|requests| requests.contains_key(&id));
            if free {
                return id;
            }
        }
    }

    pub(crate) fn subscribe(&mut self, stage: &mut Stage<'_>) {
        let filter = match self.probe {
            true => "r/#",
            false => FILTERS[stage.rng.usize(0..FILTERS.len())],
        };
        let packet_id = self.next_id();
        let Some(it) = self.connection.as_mut() else { return };
        if it.requests.len() > 3 || it.requests.values().any(|other| other.filter == filter) {
            return;
        }
        let mut wish = SubscribeFilter::new(filter, qos(stage.rng));
        if filter.starts_with('$') || self.probe || stage.plan.steadfast {
            wish.qos = wish.qos.max(QoS::AtLeastOnce);
        }
        wish.retain_as_published = stage.rng.u8(0..4) == 0 && !self.probe;
        let moment = stage.model.tick();
        if let Some(session) = stage.model.session(it.net.0) {
            session.subscribing(filter, wish.qos, moment);
        }
        let identifier = std::num::NonZeroU32::new(stage.rng.u32(0..3));
        wire::put_subscribe(self.version, packet_id, wish, identifier, &mut it.out);
        let news = stage.model.turns.ask(&self.name, filter).then_some(moment);
        let (filter, qos) = (filter.to_owned(), Some(wish.qos));
        it.requests.insert(packet_id, Request { filter, qos, news });
    }

    fn unsubscribe(&mut self, stage: &mut Stage<'_>) {
        let filter = FILTERS[stage.rng.usize(0..FILTERS.len())];
        let packet_id = self.next_id();
        let Some(it) = self.connection.as_mut() else { return };
        if it.requests.values().any(|other| other.filter == filter) {
            return;
        }
        if let Some(session) = stage.model.session(it.net.0) {
            session.unsubscribing(filter);
        }
        wire::put_unsubscribe(self.version, packet_id, filter, &mut it.out);
        it.requests.insert(packet_id, Request { filter: filter.to_owned(), qos: None, news: None });
    }

    fn publish(&mut self, stage: &mut Stage<'_>) {
        let limit = usize::from(stage.plan.settings.receive_maximum.get()).min(8);
        let burst = stage.rng.usize(1..4);
        let (topic, retain) = match stage.rng.u8(0..10) {
            _ if stage.flurry => ("r/shared".to_owned(), true),
            0..5 => (format!("t/{}", stage.rng.u8(0..4)), false),
            5 => (format!("r/{}", self.index), true),
            6 => ("r/shared".to_owned(), true),
            7 => (format!("s2/{}", stage.rng.u8(0..2)), false),
            _ => (format!("s1/{}", stage.rng.u8(0..2)), false),
        };
        for _ in 0..burst {
            let qos = qos(stage.rng);
            let full = qos > QoS::AtMostOnce && self.outgoing.len() >= limit;
            if full || self.connection.as_ref().is_none_or(|it| it.out.len() > 4_000) {
                return;
            }
            let message = stage.model.publish(self.index, &topic, qos);
            let it = &mut stage.model.messages[message];
            it.retain = retain;
            it.clears = retain && stage.rng.u8(0..8) == 0;
            let packet_id = (qos > QoS::AtMostOnce).then(|| self.next_id());
            if let Some(packet_id) = packet_id {
                let released = false;
                self.outgoing.push_back(Outgoing { packet_id, message, qos, released });
            }
            self.send_message(stage, message, packet_id, false);
        }
    }

    /// Sends a message, or sends it again.
    pub(crate) fn send_message(
        &mut self,
        stage: &mut Stage<'_>,
        message: usize,
        packet_id: Option<PacketId>,
        dup: bool,
    ) {
        let Some(connection) = self.connection.as_mut() else { return };
        let sending = stage.model.send(message);
        let it = &stage.model.messages[message];
        let filling = match stage.rng.u8(..) {
            0 if stage.rng.bool() => 20_000,
            0..40 => stage.rng.usize(100..1_000),
            _ => stage.rng.usize(0..30),
        };
        let payload = if it.clears { Vec::new() } else { wire::payload(message, sending, filling) };
        let flags = (it.qos, dup, it.retain);
        let line = format!(
            "{} -> {} {} id {packet_id:?} {flags:?} message {message}.{sending}",
            self.name, connection.net.0, it.topic
        );
        let (topic, out) = (it.topic.as_str(), &mut connection.out);
        wire::put_publish(self.version, (topic, &payload), flags, (packet_id, None), out);
        stage.model.note(stage.world.now(), format_args!("{line}"));
    }
}
