//! A small MQTT client of its own and a broker fixture.
//!
//! Nothing here uses the broker's codec: packets are built and read byte by byte from the
//! specification's text, so that a mistake made on both sides cannot cancel out.
// Not every test target that includes this module uses all of it.
#![allow(dead_code, unused_imports, unused_macros)]

pub(crate) mod cases;
pub(crate) mod client;
pub(crate) mod connect;
pub(crate) mod fixture;
pub(crate) mod message;
pub(crate) mod packet;
pub(crate) mod property;
pub(crate) mod wire;

pub(crate) use client::{Client, Event};
pub(crate) use connect::{Connect, Will};
pub(crate) use fixture::{Broker, broker, broker_with_shards};
pub(crate) use message::Message;
pub(crate) use packet::{Packet, Publish};
pub(crate) use wire::Version::{self, V5, V31, V311};

/// Lets time pass, where its passing is what the test is about.
pub(crate) fn let_pass(time: std::time::Duration) {
    std::thread::sleep(time);
}

/// Reason codes of version 5, by their names in the specification (section 2.4).
pub(crate) mod code {
    pub(crate) const SUCCESS: u8 = 0x00;
    pub(crate) const DISCONNECT_WITH_WILL: u8 = 0x04;
    pub(crate) const NO_MATCHING_SUBSCRIBERS: u8 = 0x10;
    pub(crate) const NO_SUBSCRIPTION_EXISTED: u8 = 0x11;
    pub(crate) const UNSPECIFIED_ERROR: u8 = 0x80;
    pub(crate) const MALFORMED_PACKET: u8 = 0x81;
    pub(crate) const PROTOCOL_ERROR: u8 = 0x82;
    pub(crate) const UNSUPPORTED_PROTOCOL_VERSION: u8 = 0x84;
    pub(crate) const CLIENT_IDENTIFIER_NOT_VALID: u8 = 0x85;
    pub(crate) const NOT_AUTHORIZED: u8 = 0x87;
    pub(crate) const SERVER_UNAVAILABLE: u8 = 0x88;
    pub(crate) const SERVER_BUSY: u8 = 0x89;
    pub(crate) const SERVER_SHUTTING_DOWN: u8 = 0x8B;
    pub(crate) const BAD_AUTHENTICATION_METHOD: u8 = 0x8C;
    pub(crate) const KEEP_ALIVE_TIMEOUT: u8 = 0x8D;
    pub(crate) const SESSION_TAKEN_OVER: u8 = 0x8E;
    pub(crate) const TOPIC_FILTER_INVALID: u8 = 0x8F;
    pub(crate) const TOPIC_NAME_INVALID: u8 = 0x90;
    pub(crate) const PACKET_IDENTIFIER_NOT_FOUND: u8 = 0x92;
    pub(crate) const RECEIVE_MAXIMUM_EXCEEDED: u8 = 0x93;
    pub(crate) const TOPIC_ALIAS_INVALID: u8 = 0x94;
    pub(crate) const PACKET_TOO_LARGE: u8 = 0x95;
    pub(crate) const MESSAGE_RATE_TOO_HIGH: u8 = 0x96;
    pub(crate) const QUOTA_EXCEEDED: u8 = 0x97;
    pub(crate) const ADMINISTRATIVE_ACTION: u8 = 0x98;
    pub(crate) const PAYLOAD_FORMAT_INVALID: u8 = 0x99;
    pub(crate) const RETAIN_NOT_SUPPORTED: u8 = 0x9A;
    pub(crate) const QOS_NOT_SUPPORTED: u8 = 0x9B;
    pub(crate) const SHARED_SUBSCRIPTIONS_NOT_SUPPORTED: u8 = 0x9E;
    pub(crate) const WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED: u8 = 0xA2;
    pub(crate) const CONNECTION_RATE_EXCEEDED: u8 = 0x9F;
}
