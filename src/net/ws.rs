//! WebSocket (RFC 6455) as a transport of MQTT: its handshake, its frames, and both over a socket.
//!
//! MQTT is a stream of bytes in binary frames, which may be cut anywhere [MQTT-6.0.0-2]. So nothing here
//! collects frames: payloads are unmasked and moved together in the buffer they were read into.
//!
//! The parts a client needs are public. Over any non-blocking stream it goes like this:
//!
//! ```
//! use sluice::net::ws::{ClientHandshake, Control, Decoder, Opcode, Role, append_frame};
//!
//! # let random = || 7_u8;
//! // 1. The request, with 16 random bytes; then read until the answer is complete.
//! let handshake = ClientHandshake::new(std::array::from_fn(|_| random()));
//! let request = handshake.request("localhost:8080", "/mqtt");
//! assert!(request.starts_with(b"GET /mqtt HTTP/1.1\r\n"));
//! assert_eq!(handshake.check(b"HTTP/1.1 101 Swi"), Ok(None));
//!
//! // 2. Sending: any number of packets, or parts of them, in one frame, masked by four random bytes.
//! let mut out = Vec::new();
//! append_frame(&mut out, Opcode::Binary, b"\xC0\x00", Some([1, 2, 3, 4]));
//! assert_eq!(out, [0x82, 0x82, 1, 2, 3, 4, 0xC1, 0x02]);
//!
//! // 3. Receiving: whatever was read (here two frames) is decoded in place.
//! let mut decoder = Decoder::new(Role::Client, u64::MAX);
//! let mut bytes = *b"\x82\x01\xD0\x89\x00\x82\x01\x00";
//! let mut pings = 0;
//! let len = decoder.decode(&mut bytes, |control| match control {
//!     Control::Ping(_) => pings += 1, // to be answered by a masked pong with the same payload
//!     Control::Pong(_) | Control::Close(_) => {}
//! })?;
//! assert_eq!((&bytes[..len], pings), (&b"\xD0\x00"[..], 1));
//! # Ok::<(), sluice::net::ws::Violation>(())
//! ```

mod frame;
mod handshake;
mod stream;

pub use frame::{
    CLOSE_GOING_AWAY, CLOSE_INVALID_TEXT, CLOSE_NORMAL, CLOSE_PROTOCOL_ERROR, CLOSE_TOO_BIG,
    CLOSE_UNSUPPORTED, Control, Decoder, Header, MAX_CONTROL_PAYLOAD, Opcode, Role, Violation,
    append_frame, apply_mask,
};
pub use handshake::{Answer, ClientHandshake, HandshakeError, WsSettings, answer};

pub(super) use stream::WsStream;

#[cfg(test)]
mod tests;
