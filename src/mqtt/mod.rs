//! The wire: packets, properties, reason codes, one codec for 3.1, 3.1.1 and 5.0, topic names and filters.
//!
//! Everything decoded borrows the bytes it was decoded from and is checked whole: what
//! [`decode`] returns keeps every rule of the specification that one packet alone can break.
//! [`decode_publish`] leaves one check to its caller, the topic's, so that a topic that is
//! known already is not checked again. Only [`Message`] owns what it holds.

mod ack;
mod connect;
mod decode;
mod encode;
mod frame;
mod message;
mod packet;
mod property;
mod publish;
mod reason;
pub mod topic;
mod types;

#[cfg(test)]
mod tests;

pub use ack::{decode_ack, encode_ack};
pub use connect::decode_connect;
pub use decode::decode;
pub use encode::encode;
pub use frame::{FrameHead, MAX_REMAINING_LENGTH, check_flags, frame_head, varint_len};
pub use message::{LARGE_PAYLOAD, Message};
pub use packet::{
    Ack, Auth, ConnAck, Connect, ConnectProperties, Disconnect, Packet, RetainHandling, SubAck,
    Subscribe, SubscribeFilter, SubscribeFilters, UnsubAck, Unsubscribe, UnsubscribeFilters, Will,
};
pub use property::{Properties, PropertiesOf, Property};
pub use publish::{
    Publish, PublishOut, PublishProperties, decode_publish, encode_publish, encode_publish_head,
    publish_len, publish_wire_reusable,
};
pub use reason::ReasonCode;
pub use types::{AckKind, ConnectError, DecodeError, Limits, PacketId, PacketType, QoS, Version};
