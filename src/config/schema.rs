//! The keys: what each means, its unit, its default, and what happens when it is exceeded.
//!
//! Plain values, ready to use: durations are [`Duration`], sizes are bytes, `None` is `"unlimited"`.
//! The name of a field is the name of its key. `sluice.toml` says the same for the people who run
//! the broker, and a test holds it to this file.

mod access;
mod listener;
mod rates;

use std::path::PathBuf;
use std::time::Duration;

use super::value::show_size;

pub use access::{
    Acl, AclAction, AclDefault, AclEffect, AclGroup, AclRule, Auth, AuthLink, Ban, HttpAuth, Jwt,
    TokenPlace, WithoutAnswer,
};
pub use listener::{
    Bind, ClientCertificates, Listener, ListenerCertificate, ListenerTls, ListenerWebSocket,
    TlsVersion, UserFrom,
};

pub use rates::{ListenerLimits, PublishLimits, Quota};

/// Everything that can be configured.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Event loops, each a thread that owns its share of the clients; 0 (the default) is one a
    /// core. At most 63.
    pub shards: u8,
    /// Where clients come in (`[[listener]]`); by default one, on 127.0.0.1:1883.
    pub listeners: Vec<Listener>,
    /// Who comes in.
    pub auth: Auth,
    /// What those who come in may do.
    pub acl: Acl,
    /// What one packet, client or address may ask for.
    pub limits: Limits,
    /// What the clients of some users get (`[[quota]]`, default none).
    pub quotas: Vec<Quota>,
    /// What the protocol leaves to the server.
    pub mqtt: Mqtt,
    /// What waits for a receiver.
    pub queue: Queue,
    /// What happens when a queue is full.
    pub overflow: Overflow,
    /// Retained messages.
    pub retained: Retained,
    /// What outlives the process.
    pub store: Store,
    /// Shared subscriptions.
    pub shared: Shared,
    /// The `$SYS` topics.
    pub sys: Sys,
    /// The end of the broker.
    pub shutdown: Shutdown,
    /// What waits between shards.
    pub mailbox: Mailbox,
    /// The memory of who receives which topic.
    pub route_cache: RouteCache,
    /// The log.
    pub log: Log,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            shards: 0,
            listeners: vec![Listener::default()],
            auth: Auth::default(),
            acl: Acl::default(),
            limits: Limits::default(),
            quotas: Vec::new(),
            mqtt: Mqtt::default(),
            queue: Queue::default(),
            overflow: Overflow::default(),
            retained: Retained::default(),
            store: Store::default(),
            shared: Shared::default(),
            sys: Sys::default(),
            shutdown: Shutdown::default(),
            mailbox: Mailbox::default(),
            route_cache: RouteCache::default(),
            log: Log::default(),
        }
    }
}

/// What one packet, client or address may ask for (`[limits]`).
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Bytes of one whole packet (default 1 MiB); CONNACK states it. A larger one ends its
    /// connection with Packet too large (0x95) as soon as its length is seen [MQTT-3.2.2-15]. At most
    /// 255 MiB: with what the broker adds, it must not pass the protocol's 256.
    pub max_packet_size: u32,
    /// Bytes of CONNECT (default 256 KiB; never more than `max_packet_size`): what is taken in from
    /// somebody of whom nothing is known yet. A larger one ends its connection with Packet too large
    /// (0x95), in 3.x without a word, as soon as its length and version are seen.
    pub max_connect_size: u32,
    /// Bytes of a topic name or filter (default 4 KiB, at most 65,000: the store takes no longer ones). A
    /// longer one is answered with Topic Name invalid (0x90) or Topic Filter invalid (0x8F).
    pub max_topic_bytes: u16,
    /// Levels (`/` + 1) of a topic name or filter (default 128). Beyond it as `max_topic_bytes`.
    pub max_topic_levels: u16,
    /// User Properties of one packet (default 128). More end the connection with Quota exceeded
    /// (0x97).
    pub max_user_properties: u16,
    /// Topic filters of one SUBSCRIBE or UNSUBSCRIBE (default 1,024). More end the connection with
    /// Quota exceeded (0x97).
    pub max_filters_per_packet: u16,
    /// Bytes of a client identifier (default 1 KiB, at least 23, at most 65,000). A longer one is refused with
    /// Client Identifier not valid (0x85, in 3.x return code 2).
    pub max_client_id_bytes: u16,
    /// Subscriptions of one session (default 10,000). One more gets Quota exceeded (0x97) in its
    /// SUBACK, in 3.x 0x80.
    pub max_subscriptions_per_client: u32,
    /// Subscriptions of all sessions together (default 10,000,000). One more is refused as above,
    /// and counted.
    pub max_subscriptions: u32,
    /// Bytes of memory that the filters of all these take (default 2 GiB), by the number and length of
    /// their levels; what filters begin with alike counts once. One more is refused as above.
    pub max_subscription_bytes: u64,
    /// Connections over all shards and listeners (default 100,000). One more is closed at once and
    /// counted. Lowered at start to what the limit on open files can serve.
    pub max_connections: u32,
    /// Sessions over all shards, connected or not (default 1,000,000). A client that would need one
    /// more is refused with Quota exceeded (0x97, in 3.x return code 3).
    pub max_sessions: u32,
    /// New connections a second over all shards (default 50,000). Those
    /// beyond wait in the backlog of the listener.
    pub connections_per_second: Option<u32>,
    /// New connections a second from one address (default unlimited, as many clients may share
    /// one). Those beyond are closed at once and counted.
    pub connections_per_second_per_address: Option<u32>,
    /// Time from the connection to the end of its CONNECT (default 10 s). Then it is closed
    /// [MQTT-3.1.0-1].
    pub connect_timeout: Duration,
    /// TLS handshakes in progress on each shard (default 1,000). With so many of them, listeners of TLS
    /// accept nobody: connections wait in their backlog.
    pub max_handshakes: u32,
    /// The mean time that a turn of a shard's loop takes, over about a second (default 500 ms), or that as many take
    /// as it needs to read from everybody who has sent something. A shard beyond it refuses new clients with Server
    /// busy (0x89, in 3.x return code 3), and closes those of TLS at once, until turns take half as long.
    pub max_turn: Option<Duration>,
    /// Bytes of the process in memory (default unlimited), looked at once a second. Beyond it new clients are
    /// refused with Quota exceeded (0x97, in 3.x return code 3), and those of TLS closed at once, until
    /// there are a tenth less.
    pub max_memory: Option<u64>,
    /// PUBLISH packets a second from one client (default unlimited). A client that sends more is not read
    /// until it may go on; nothing is dropped.
    pub publish_messages_per_second: Option<u32>,
    /// Bytes of PUBLISH packets a second from one client (default unlimited). Beyond it as
    /// `publish_messages_per_second`; a packet begun within the limit is taken whole, and paid for
    /// afterwards.
    pub publish_bytes_per_second: Option<u64>,
    /// How long a client may save up what it does not publish, and then send it at once (default 1 s): at
    /// 100 messages a second and 2 s these are 200. A new connection has saved up all of it.
    pub publish_burst: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_packet_size: 1024 * 1024,
            max_connect_size: 256 * 1024,
            max_topic_bytes: 4 * 1024,
            max_topic_levels: 128,
            max_user_properties: 128,
            max_filters_per_packet: 1024,
            max_client_id_bytes: 1024,
            max_subscriptions_per_client: 10_000,
            max_subscriptions: 10_000_000,
            max_subscription_bytes: 2 * 1024 * 1024 * 1024,
            max_connections: 100_000,
            max_sessions: 1_000_000,
            connections_per_second: Some(50_000),
            connections_per_second_per_address: None,
            connect_timeout: Duration::from_secs(10),
            max_handshakes: 1000,
            max_turn: Some(Duration::from_millis(500)),
            max_memory: None,
            publish_messages_per_second: None,
            publish_bytes_per_second: None,
            publish_burst: Duration::from_secs(1),
        }
    }
}

/// What the protocol leaves to the server (`[mqtt]`).
#[derive(Clone, Debug, PartialEq)]
pub struct Mqtt {
    /// QoS 1 and 2 messages a client may have unacknowledged towards the broker (default 1,000).
    /// CONNACK states it; a client beyond it gets Receive Maximum exceeded (0x93) [MQTT-3.3.4-7].
    pub receive_maximum: u16,
    /// The highest QoS for messages to the broker and for subscriptions: 0, 1 or 2 (default 2).
    /// CONNACK states it; a message above it gets QoS not supported (0x9B), a subscription is
    /// granted less.
    pub max_qos: u8,
    /// Topic aliases a client may set (default 32, 0 for none). CONNACK states it; a higher one
    /// gets Topic Alias invalid (0x94).
    pub topic_alias_maximum: u16,
    /// Topic aliases the broker sets towards a client, if that takes so many (default 32, 0 for
    /// none). Topics beyond are sent in full.
    pub topic_alias_maximum_outbound: u16,
    /// The longest Keep Alive (default unlimited), in whole seconds. A v5 client that asks for
    /// more, or for none, is told this one as Server Keep Alive; a 3.x client cannot be told and
    /// keeps its own.
    pub max_keep_alive: Option<Duration>,
    /// How long a session may outlive its connection (default unlimited), in whole seconds.
    /// A v5 client that asks for more is told this one in CONNACK.
    pub max_session_expiry: Option<Duration>,
    /// How long the session of a 3.x client that connected with Clean Session 0 outlives its
    /// connection (default unlimited), in whole seconds; never more than `max_session_expiry`.
    pub v3_session_expiry: Option<Duration>,
    /// QoS 1 and 2 messages on their way to one client (default 1,000); a v5 client's Receive
    /// Maximum may lower it. The next ones wait in the queue.
    pub max_inflight: u16,
    /// Bytes of such messages, sent and not acknowledged (default 16 MiB). The next ones wait in the
    /// queue; a message larger than this is on its way alone.
    pub max_inflight_bytes: u32,
    /// Whether messages may be retained (default true). CONNACK says if not; a message or will that
    /// asks for it is then refused with Retain not supported (0x9A).
    pub retain_available: bool,
    /// Whether filters may hold `+` and `#` (default true). CONNACK says if not; they are then
    /// refused with 0xA2.
    pub wildcard_subscription_available: bool,
    /// Whether `$share/…` filters are served (default true). CONNACK says if not; they are then
    /// refused with 0x9E.
    pub shared_subscription_available: bool,
    /// Whether the payload of a message that declares itself text is checked to be UTF-8 (default
    /// true). If it is not, its sender gets Payload format invalid (0x99).
    pub validate_payload_format: bool,
    /// What the Response Information of a client that requests it begins with; its client
    /// identifier follows (default `response/`). Empty sends none.
    pub response_information_prefix: String,
    /// Whether a client may leave its identifier to the broker (default true). Otherwise it is
    /// refused with Client Identifier not valid (0x85, in 3.x return code 2).
    pub allow_zero_length_client_id: bool,
    /// Timed redelivery to connected 3.1 and 3.1.1 clients (default absent: on resume only). Never
    /// done for v5, which forbids it [MQTT-4.4.0-1].
    pub retry: Option<Retry>,
}

impl Default for Mqtt {
    fn default() -> Self {
        Self {
            receive_maximum: 1000,
            max_qos: 2,
            topic_alias_maximum: 32,
            topic_alias_maximum_outbound: 32,
            max_keep_alive: None,
            max_session_expiry: None,
            v3_session_expiry: None,
            max_inflight: 1000,
            max_inflight_bytes: 16 * 1024 * 1024,
            retain_available: true,
            wildcard_subscription_available: true,
            shared_subscription_available: true,
            validate_payload_format: true,
            response_information_prefix: "response/".to_owned(),
            allow_zero_length_client_id: true,
            retry: None,
        }
    }
}

/// Timed redelivery (`mqtt.retry`).
#[derive(Clone, Debug, PartialEq)]
pub struct Retry {
    /// How long each attempt waits for its acknowledgement before the next: the first after the
    /// first of them, and so on (default 10 s, 20 s, 60 s). 1 to 16 of them.
    pub after: Vec<Duration>,
    /// What follows the last attempt (default disconnect).
    pub give_up: GiveUp,
}

impl Default for Retry {
    fn default() -> Self {
        Self { after: [10, 20, 60].map(Duration::from_secs).to_vec(), give_up: GiveUp::Disconnect }
    }
}

/// What follows the last timed redelivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GiveUp {
    /// Close the connection; the message stays in flight until the session resumes.
    Disconnect,
    /// Go on with the last delay.
    Never,
}

/// What waits for a receiver (`[queue]`). [`Overflow`] says what happens beyond.
#[derive(Clone, Debug, PartialEq)]
pub struct Queue {
    /// Messages that wait for one session, without those in flight (default 1,000).
    pub max_messages: u32,
    /// Bytes of the messages that wait for one session (default 16 MiB).
    pub max_bytes: u64,
    /// Messages that wait for one stored session in memory (default 1,000). The rest of its queue is on
    /// disk only, and read back as the client takes it.
    pub in_memory: u32,
    /// Bytes of those messages (default 1 MiB).
    pub in_memory_bytes: u64,
    /// Bytes of the messages that wait for all sessions together (default 1 GiB), each counted for
    /// every session that it waits for, and without those on disk only. Beyond it a stored session has
    /// its messages on disk only, and the queue of each other one counts as full: a message for an absent
    /// session meets `overflow.offline`, one for a connected receiver slows its publishers.
    pub max_total_bytes: u64,
    /// Bytes that may wait to be written to one connection before QoS 0 messages to it are dropped
    /// and counted (default 1 MiB, at most 1 GiB). QoS 1 and 2 stay in the queue then, and when answers fill twice as
    /// much the client is not read until it reads.
    pub qos0_backlog_bytes: u64,
    /// Whether QoS 0 messages, too, wait for a session that is not connected (default false: they
    /// are not for it). They do so in memory only: the end of the broker is theirs, and a stored session takes
    /// none when [as much](Self::in_memory) waits as may be in memory.
    pub store_qos0_offline: bool,
}

impl Queue {
    /// Fewer bytes for each message of a queue than most messages have: then its other limit counts for little.
    const FEW_BYTES: u64 = 256;

    /// What to say if its bytes end long before its messages, which who raises only those may not mean.
    pub(crate) fn narrow(&self) -> Option<String> {
        let Self { max_messages, max_bytes, .. } = self;
        let each = max_bytes / u64::from(*max_messages).max(1);
        (each < Self::FEW_BYTES).then(|| {
            let bytes = show_size(*max_bytes);
            format!("queue.max_bytes = {bytes} is {each} bytes for each of queue.max_messages = {max_messages}")
        })
    }
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            max_messages: 1000,
            max_bytes: 16 * 1024 * 1024,
            in_memory: 1000,
            in_memory_bytes: 1024 * 1024,
            max_total_bytes: 1024 * 1024 * 1024,
            qos0_backlog_bytes: 1024 * 1024,
            store_qos0_offline: false,
        }
    }
}

/// What happens to QoS 1 and 2 messages when the queue of a receiver is full (`[overflow]`).
#[derive(Clone, Debug, PartialEq)]
pub struct Overflow {
    /// How long the publishers that feed the full queue of a connected receiver are slowed, by not
    /// reading from them, before `online` is done (default 2 s).
    pub patience: Duration,
    /// What is then done to a connected receiver (default disconnect).
    pub online: OnlineOverflow,
    /// What is done at once when the receiver is not connected (default drop the newest).
    pub offline: OfflineOverflow,
    /// What is done to a 3.x publisher whose message found no room anywhere, neither in a queue nor,
    /// if it was to be retained, among the retained ones (default disconnect). A v5 publisher is
    /// told Quota exceeded (0x97).
    pub v3_publisher: V3Publisher,
}

impl Default for Overflow {
    fn default() -> Self {
        Self {
            patience: Duration::from_secs(2),
            online: OnlineOverflow::Disconnect,
            offline: OfflineOverflow::DropNewest,
            v3_publisher: V3Publisher::Disconnect,
        }
    }
}

/// What happens when the queue of a connected receiver stays full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnlineOverflow {
    /// Close its connection with Quota exceeded (0x97); its session stays.
    Disconnect,
    /// Drop what waits longest.
    DropOldest,
    /// Drop what comes; its publisher is not told success.
    DropNewest,
}

/// What happens when the queue of an absent receiver is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OfflineOverflow {
    /// Drop what comes; its publisher is not told success.
    DropNewest,
    /// Drop what waits longest.
    DropOldest,
    /// End the session, with its subscriptions and all that waits for it.
    EndSession,
}

/// What is done to a 3.x publisher whose message nobody could keep: its protocol has no answer that
/// says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum V3Publisher {
    /// Close its connection: it knows that the message was not taken, and may send it again.
    Disconnect,
    /// Acknowledge the message as if it had been kept, as Mosquitto does.
    Acknowledge,
}

/// Retained messages (`[retained]`). A message that finds them full is refused, and v5 publishers are told
/// 0x97; one of QoS 0 is delivered, but not retained.
#[derive(Clone, Debug, PartialEq)]
pub struct Retained {
    /// Messages (default 1,000,000).
    pub max_messages: u32,
    /// Bytes of the messages (default 1 GiB).
    pub max_bytes: u64,
}

impl Default for Retained {
    fn default() -> Self {
        Self { max_messages: 1_000_000, max_bytes: 1024 * 1024 * 1024 }
    }
}

/// Shared subscriptions (`[shared]`).
#[derive(Clone, Debug, PartialEq)]
pub struct Shared {
    /// Who of a group gets a message (default round robin). Members that are connected go first.
    pub strategy: SharedStrategy,
}

impl Default for Shared {
    fn default() -> Self {
        Self { strategy: SharedStrategy::RoundRobin }
    }
}

/// Who of a group gets a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SharedStrategy {
    /// One after the other.
    RoundRobin,
    /// Anyone.
    Random,
    /// Who has the fewest messages in flight.
    LeastInFlight,
    /// One member until it leaves.
    Sticky,
    /// By the client identifier of the publisher: the same publisher, the same member.
    ClientId,
    /// By the topic: the same topic, the same member.
    Topic,
}

/// The `$SYS` topics (`[sys]`).
#[derive(Clone, Debug, PartialEq)]
pub struct Sys {
    /// Between two updates (default 10 s); zero publishes none.
    pub interval: Duration,
}

impl Default for Sys {
    fn default() -> Self {
        Self { interval: Duration::from_secs(10) }
    }
}

/// The end of the broker (`[shutdown]`).
#[derive(Clone, Debug, PartialEq)]
pub struct Shutdown {
    /// How long a stop may take to flush what is written and to say goodbye (default 10 s).
    /// Connections that are not done by then are cut.
    pub timeout: Duration,
    /// Whether the wills of the clients that a stop disconnects are published (default true).
    pub publish_wills: bool,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(10), publish_wills: true }
    }
}

/// What waits between shards (`[mailbox]`).
#[derive(Clone, Debug, PartialEq)]
pub struct Mailbox {
    /// Bytes that may wait from one shard to another (default 4 MiB). Beyond it the publishers that
    /// fill it are not read until it drains.
    pub max_bytes: u64,
}

impl Default for Mailbox {
    fn default() -> Self {
        Self { max_bytes: 4 * 1024 * 1024 }
    }
}

/// The memory of who receives which topic (`[route_cache]`).
#[derive(Clone, Debug, PartialEq)]
pub struct RouteCache {
    /// Topics each shard remembers (default 65,536). Beyond it old ones are looked up again.
    pub entries: u32,
}

impl Default for RouteCache {
    fn default() -> Self {
        Self { entries: 65_536 }
    }
}

/// What outlives the process (`[store]`): sessions that outlive their connections, with all that
/// belongs to them, and retained messages.
#[derive(Clone, Debug, PartialEq)]
pub struct Store {
    /// The directory it is in (default `sluice-data` where the process was started). It is made if it
    /// is not there; a directory that another broker uses is refused.
    pub data: PathBuf,
    /// What keeps the records (default fjall). A directory of another engine is refused.
    pub engine: StoreEngine,
    /// What an acknowledged message survives (default fsync).
    pub durability: Durability,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            data: "sluice-data".into(),
            engine: StoreEngine::Fjall,
            durability: Durability::Fsync,
        }
    }
}

/// What keeps records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreEngine {
    /// A log-structured merge tree: the faster one.
    Fjall,
    /// An SQLite database, which other tools can open.
    Sqlite,
}

/// What an acknowledged message survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Nothing: all is in memory, and the directory is not used.
    Memory,
    /// The end of the process: the operating system has it.
    Os,
    /// The end of the machine: the disk has it.
    Fsync,
}

/// The log (`[log]`), on stderr.
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// The least severe lines that are written (default info).
    pub level: LogLevel,
    /// What a line holds (default full).
    pub format: LogFormat,
    /// Lines a second of each shard about clients that break the protocol or a limit (default 10).
    /// Those beyond are counted only.
    pub client_lines_per_second: u32,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: LogLevel::Info, format: LogFormat::Full, client_lines_per_second: 10 }
    }
}

/// How severe a log line must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Nothing is logged.
    Off,
    /// What the broker cannot do.
    Error,
    /// What somebody should look at.
    Warn,
    /// Start, stop, and what changed.
    Info,
    /// Each client's coming and going.
    Debug,
    /// Everything.
    Trace,
}

/// What a log line holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Time, level, module, message.
    Full,
    /// Level and message, for a log that adds its own time (journald, containers).
    Short,
}
