//! A connection that may end at any time.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use sluice::mqtt::{
    self, AckKind, Connect, ConnectProperties, Disconnect, Limits, Packet, PacketId, Properties,
    PublishOut, QoS, ReasonCode, Subscribe, SubscribeFilter, SubscribeFilters, Unsubscribe,
    UnsubscribeFilters, Version, Will,
};

/// Seconds that a session outlives its connection.
const SESSION_EXPIRY_INTERVAL: u32 = 3600;
/// How long a CONNECT may go without its CONNACK before the client tries again.
const CONNACK_WITHIN: Duration = Duration::from_secs(10);

/// Who a client is.
#[derive(Clone, Debug)]
pub(super) struct Persona {
    pub(super) name: String,
    pub(super) version: Version,
}

/// A message in, as far as it matters here.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) topic: String,
    /// What it carries, if that is one of ours.
    pub(super) number: Option<u32>,
    pub(super) qos: QoS,
    pub(super) id: Option<PacketId>,
    pub(super) retain: bool,
}

#[derive(Debug)]
pub(super) enum Incoming {
    ConnAck { reason: ReasonCode, session_present: bool },
    Publish(Delivery),
    Ack(AckKind, PacketId, ReasonCode),
    SubAck { is_granted: bool },
    UnsubAck,
    Disconnect,
    Other(String),
}

pub(super) struct Link {
    stream: TcpStream,
    version: Version,
    buffer: Vec<u8>,
}

/// What a client wants of its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Session {
    /// The one that is there, or a new one that stays.
    Resume,
    /// A new one that ends with the connection.
    Clean,
}

impl Link {
    /// Connects once; gives Session Present. An error of the kind [`ErrorKind::PermissionDenied`] is a refusal.
    pub(super) fn try_open(
        address: SocketAddr,
        persona: &Persona,
        session: Session,
    ) -> io::Result<(Self, bool)> {
        Self::try_open_with(address, persona, session, None)
    }

    /// The same with a Will of QoS 2: its topic and number.
    pub(super) fn try_open_with(
        address: SocketAddr,
        persona: &Persona,
        session: Session,
        will: Option<(&str, u32)>,
    ) -> io::Result<(Self, bool)> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let version = persona.version;
        let mut link = Self { stream, version, buffer: Vec::new() };
        let is_lasting = session == Session::Resume;
        let expiry = (version.is_v5() && is_lasting).then_some(SESSION_EXPIRY_INTERVAL);
        let payload = will.map_or(String::new(), |(_, number)| number.to_string());
        let will = will.map(|(topic, _)| Will {
            qos: QoS::ExactlyOnce,
            retain: false,
            topic,
            payload: payload.as_bytes(),
            delay_interval: 0,
            message_expiry_interval: None,
            payload_format_indicator: None,
            properties: Properties::EMPTY,
        });
        link.send(&Packet::Connect(Connect {
            version,
            bridge: false,
            clean_start: !is_lasting,
            keep_alive: 0,
            client_id: &persona.name,
            will,
            username: None,
            password: None,
            properties: ConnectProperties {
                session_expiry_interval: expiry,
                ..ConnectProperties::default()
            },
        }))?;
        match link.receive(CONNACK_WITHIN)? {
            Some(Incoming::ConnAck { reason, session_present }) if !reason.is_error() => {
                Ok((link, session_present))
            }
            None => Err(ErrorKind::TimedOut.into()),
            Some(Incoming::ConnAck { reason, .. }) => {
                let text = format!("CONNACK says {}", reason.name());
                Err(io::Error::new(ErrorKind::PermissionDenied, text))
            }
            Some(other) => {
                Err(io::Error::new(ErrorKind::PermissionDenied, format!("{other} to CONNECT")))
            }
        }
    }

    /// The next packet, if one comes within that time.
    pub(super) fn receive(&mut self, within: Duration) -> io::Result<Option<Incoming>> {
        let until = Instant::now() + within;
        loop {
            if let Some(packet) = self.take()? {
                return Ok(Some(packet));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.stream.set_read_timeout(Some(left))?;
            let mut chunk = [0; 16 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.buffer.extend_from_slice(chunk.get(..count).unwrap_or_default()),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn take(&mut self) -> io::Result<Option<Incoming>> {
        let wrong = |error: mqtt::DecodeError| io::Error::new(ErrorKind::InvalidData, error);
        let most = mqtt::MAX_REMAINING_LENGTH;
        let Some(head) = mqtt::frame_head(&self.buffer, most).map_err(wrong)? else {
            return Ok(None);
        };
        let Some(body) = self.buffer.get(usize::from(head.head_len)..head.frame_len()) else {
            return Ok(None);
        };
        let packet = mqtt::decode(self.version, head.first_byte, body, &Limits::NONE);
        let incoming = Incoming::of(&packet.map_err(wrong)?);
        self.buffer.drain(..head.frame_len());
        Ok(Some(incoming))
    }

    fn send(&mut self, packet: &Packet<'_>) -> io::Result<()> {
        let mut bytes = Vec::new();
        mqtt::encode(self.version, packet, mqtt::MAX_REMAINING_LENGTH, &mut bytes);
        self.stream.write_all(&bytes)
    }

    pub(super) fn publish(
        &mut self,
        (topic, payload): (&str, &str),
        (qos, retain, dup): (QoS, bool, bool),
        id: PacketId,
    ) -> io::Result<()> {
        let plain = PublishOut::new(topic.as_bytes(), payload.as_bytes());
        let publish = PublishOut { qos, retain, dup, packet_id: Some(id), ..plain };
        let mut bytes = Vec::new();
        mqtt::encode_publish(self.version, &publish, &mut bytes);
        self.stream.write_all(&bytes)
    }

    pub(super) fn subscribe(&mut self, filter: &str, qos: QoS) -> io::Result<()> {
        let mut filters = Vec::new();
        SubscribeFilter::new(filter, qos).encode(self.version, &mut filters);
        self.send(&Packet::Subscribe(Subscribe {
            packet_id: PacketId::MIN,
            subscription_identifier: None,
            filters: SubscribeFilters::trusted(&filters),
            properties: Properties::EMPTY,
        }))
    }

    pub(super) fn unsubscribe(&mut self, filter: &str) -> io::Result<()> {
        let mut filters = Vec::new();
        UnsubscribeFilters::encode(filter, &mut filters);
        self.send(&Packet::Unsubscribe(Unsubscribe {
            packet_id: PacketId::MIN,
            filters: UnsubscribeFilters::trusted(&filters),
            properties: Properties::EMPTY,
        }))
    }

    pub(super) fn ack(&mut self, kind: AckKind, id: PacketId) -> io::Result<()> {
        let mut bytes = Vec::new();
        mqtt::encode_ack(self.version, kind, id, ReasonCode::Success, &mut bytes);
        self.stream.write_all(&bytes)
    }

    /// DISCONNECT; the session stays as CONNECT asked for it.
    pub(super) fn disconnect(mut self) -> io::Result<()> {
        self.send(&Packet::Disconnect(Disconnect::new(ReasonCode::Success)))
    }
}

/// As it is told of when it should not have come.
impl fmt::Display for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Other(packet) => f.write_str(packet),
            packet => write!(f, "{packet:?}"),
        }
    }
}

impl Incoming {
    fn of(packet: &Packet<'_>) -> Self {
        let ack = |kind, ack: &mqtt::Ack<'_>| Self::Ack(kind, ack.packet_id, ack.reason);
        match packet {
            Packet::ConnAck(packet) => {
                Self::ConnAck { reason: packet.reason, session_present: packet.session_present }
            }
            Packet::Publish(publish) => Self::Publish(Delivery {
                topic: String::from_utf8_lossy(publish.topic).into_owned(),
                number: std::str::from_utf8(publish.payload)
                    .ok()
                    .and_then(|text| text.parse().ok()),
                qos: publish.qos,
                id: publish.packet_id,
                retain: publish.retain,
            }),
            Packet::PubAck(packet) => ack(AckKind::PubAck, packet),
            Packet::PubRec(packet) => ack(AckKind::PubRec, packet),
            Packet::PubRel(packet) => ack(AckKind::PubRel, packet),
            Packet::PubComp(packet) => ack(AckKind::PubComp, packet),
            Packet::SubAck(packet) => {
                Self::SubAck { is_granted: packet.reasons.iter().all(|code| *code < 0x80) }
            }
            Packet::UnsubAck(_) => Self::UnsubAck,
            Packet::Disconnect(_) => Self::Disconnect,
            other => Self::Other(format!("{other:?}")),
        }
    }
}
