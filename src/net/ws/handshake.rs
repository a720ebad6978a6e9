//! The handshake in HTTP (RFC 6455, 4): judged by the server, made and checked by a client.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use httparse::{EMPTY_HEADER, Header, Request, Response, Status};
use sha1::{Digest, Sha1};

/// Fields of one head. More of them are refused.
const MAX_FIELDS: usize = 64;

/// What MQTT goes by: version 3.1.1 and 5.0 [MQTT-6.0.0-3], and 3.1.
const PROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];

/// What a listener asks of a handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WsSettings {
    /// The path that is served, without a query.
    pub path: String,
    /// The origins whose pages may connect, like `https://example.org`; none: those of any. Programs that
    /// are no browser give no origin, and are not asked for one.
    pub origins: Vec<String>,
    /// Bytes of the head of the request. A longer one is refused (431).
    pub max_head: usize,
    /// Bytes of the payload of one frame. A longer one is refused (1009).
    pub max_frame: u64,
}

impl Default for WsSettings {
    fn default() -> Self {
        Self {
            path: "/mqtt".to_owned(),
            origins: Vec::new(),
            max_head: 8 * 1024,
            max_frame: 16 * 1024 * 1024,
        }
    }
}

/// What the server has to say to what it has of a head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Its end has not come.
    Incomplete,
    /// It begins WebSocket.
    Accept {
        /// What is sent.
        response: Vec<u8>,
        /// The length of the head; what follows is for the [`Decoder`](super::Decoder).
        head_len: usize,
    },
    /// It does not.
    Refuse {
        /// What is sent before the connection ends.
        response: Vec<u8>,
        /// Why.
        why: &'static str,
    },
}

/// Why a handshake is refused: status, its phrase, fields it needs, words.
type Refusal = (&'static str, &'static str, &'static str);

const BAD_REQUEST: &str = "400 Bad Request";
const TOO_LARGE: Refusal =
    ("431 Request Header Fields Too Large", "", "the head of the request is too large");

/// Judges the head of a request as far as it has come.
#[must_use]
pub fn answer(head: &[u8], settings: &WsSettings) -> Answer {
    let mut fields = [EMPTY_HEADER; MAX_FIELDS];
    let mut request = Request::new(&mut fields);
    let within = head.get(..settings.max_head).unwrap_or(head);
    let judged = match request.parse(within) {
        Ok(Status::Partial) if head.len() < settings.max_head => return Answer::Incomplete,
        Ok(Status::Partial) | Err(httparse::Error::TooManyHeaders) => Err(TOO_LARGE),
        Err(_) => Err((BAD_REQUEST, "", "the request is not HTTP")),
        Ok(Status::Complete(head_len)) => {
            judge(&request, settings).map(|agreed| (agreed, head_len))
        }
    };
    match judged {
        Ok(((key, protocol), head_len)) => {
            let response = format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Accept: {}\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n",
                accept_key(key)
            );
            Answer::Accept { response: response.into_bytes(), head_len }
        }
        Err((status, fields, why)) => {
            let response = format!(
                "HTTP/1.1 {status}\r\nConnection: close\r\n{fields}Content-Type: text/plain\r\n\
                 Content-Length: {}\r\n\r\n{why}\n",
                why.len() + 1
            );
            Answer::Refuse { response: response.into_bytes(), why }
        }
    }
}

/// Gives the key of the client, and the protocol that it is answered.
fn judge<'a>(
    request: &Request<'_, 'a>,
    settings: &WsSettings,
) -> Result<(&'a str, &'static str), Refusal> {
    let fields = Fields(request.headers);
    if request.method != Some("GET") {
        return Err(("405 Method Not Allowed", "Allow: GET\r\n", "the method is not GET"));
    }
    if request.version != Some(1) {
        return Err((BAD_REQUEST, "", "the version of HTTP is not 1.1"));
    }
    let target = request.path.unwrap_or_default();
    if target.split('?').next() != Some(&settings.path) {
        return Err(("404 Not Found", "", "there is no such path"));
    }
    fields.only("Host").ok_or((BAD_REQUEST, "", "there is no Host"))?;
    if fields.announce_body() {
        // It would be read as frames (RFC 9112, 6).
        return Err((BAD_REQUEST, "", "the request has a body"));
    }
    if !fields.has("Upgrade", "websocket") || !fields.has("Connection", "upgrade") {
        let upgrade = "Upgrade: websocket\r\n";
        return Err(("426 Upgrade Required", upgrade, "this is for WebSocket alone"));
    }
    if fields.only("Sec-WebSocket-Version") != Some("13") {
        let version = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n";
        return Err(("426 Upgrade Required", version, "the version of WebSocket is not 13"));
    }
    let key = fields.only("Sec-WebSocket-Key").filter(|key| is_key(key));
    let key = key.ok_or((BAD_REQUEST, "", "there is no Sec-WebSocket-Key of 16 bytes"))?;
    let is_allowed = |origin: &str| {
        settings.origins.is_empty()
            || settings.origins.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin))
    };
    if !fields.all("Origin").all(is_allowed) {
        return Err(("403 Forbidden", "", "pages of this origin may not connect"));
    }
    let offered = |name: &&str| fields.has("Sec-WebSocket-Protocol", name);
    let protocol = PROTOCOLS.into_iter().find(offered);
    let none = (BAD_REQUEST, "", "the subprotocol mqtt is not asked for");
    Ok((key, protocol.ok_or(none)?))
}

/// The fields of a head.
struct Fields<'h, 'a>(&'h [Header<'a>]);

impl<'a> Fields<'_, 'a> {
    fn all(&self, name: &str) -> impl Iterator<Item = &'a str> {
        let named = self.0.iter().filter(move |field| field.name.eq_ignore_ascii_case(name));
        // What is not UTF-8 is nothing that is known here.
        named.map(|field| std::str::from_utf8(field.value).unwrap_or("?").trim())
    }

    /// The field, if it is there once.
    fn only(&self, name: &str) -> Option<&'a str> {
        let mut all = self.all(name);
        let only = all.next();
        only.filter(|_| all.next().is_none())
    }

    /// Whether something follows the head that belongs to it.
    fn announce_body(&self) -> bool {
        let mut lengths = self.all("Content-Length");
        lengths.any(|len| len != "0") || self.all("Transfer-Encoding").next().is_some()
    }

    /// Whether a word is in a field that is a list of them.
    fn has(&self, name: &str, word: &str) -> bool {
        let mut words = self.all(name).flat_map(|value| value.split(',')).map(str::trim);
        words.any(|found| found.eq_ignore_ascii_case(word))
    }
}

fn is_key(key: &str) -> bool {
    STANDARD.decode(key).is_ok_and(|key| key.len() == 16)
}

/// What a server answers to a key.
fn accept_key(key: &str) -> String {
    let mut hash = Sha1::new();
    hash.update(key);
    hash.update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(hash.finalize())
}

/// The handshake of a client that speaks MQTT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHandshake {
    key: String,
}

/// What a server answered that does not begin WebSocket.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// The server refuses, with this status.
    #[error("the server answers with status {0}")]
    Status(u16),
    /// The answer is not what it has to be.
    #[error("{0}")]
    Answer(&'static str),
}

impl ClientHandshake {
    /// A handshake with 16 bytes that are not to be guessed.
    #[must_use]
    pub fn new(nonce: [u8; 16]) -> Self {
        Self { key: STANDARD.encode(nonce) }
    }

    /// What is sent first: `host` is the server as the user named it (`example.org:8080`), `path` as in
    /// [`WsSettings`].
    #[must_use]
    pub fn request(&self, host: &str, path: &str) -> Vec<u8> {
        let key = &self.key;
        format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Protocol: mqtt\r\n\r\n"
        )
        .into_bytes()
    }

    /// Checks what has come of the answer; gives the length of its head when it is complete. What follows
    /// is for the [`Decoder`](super::Decoder).
    ///
    /// # Errors
    /// The server refuses, or its answer is not one to this request.
    pub fn check(&self, answer: &[u8]) -> Result<Option<usize>, HandshakeError> {
        let mut fields = [EMPTY_HEADER; MAX_FIELDS];
        let mut response = Response::new(&mut fields);
        let head_len = match response.parse(answer) {
            Ok(Status::Complete(len)) => len,
            Ok(Status::Partial) if answer.len() < WsSettings::default().max_head => {
                return Ok(None);
            }
            Ok(Status::Partial) => return Err(HandshakeError::Answer("the answer is too large")),
            Err(_) => return Err(HandshakeError::Answer("the answer is not HTTP")),
        };
        let status = response.code.unwrap_or_default();
        if status != 101 {
            return Err(HandshakeError::Status(status));
        }
        let fields = Fields(response.headers);
        if !fields.has("Upgrade", "websocket") || !fields.has("Connection", "upgrade") {
            return Err(HandshakeError::Answer("the answer is no upgrade to WebSocket"));
        }
        if fields.only("Sec-WebSocket-Accept") != Some(&accept_key(&self.key)) {
            return Err(HandshakeError::Answer("the answer is to another key"));
        }
        if fields.only("Sec-WebSocket-Protocol") != Some("mqtt") {
            return Err(HandshakeError::Answer("the server does not speak the subprotocol mqtt"));
        }
        Ok(Some(head_len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: &str = "GET /mqtt HTTP/1.1\r\nHost: a\r\nUpgrade: WebSocket\r\n\
        Connection: keep-alive, Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: other, mqtt\r\n\r\n";

    fn status(request: &str, settings: &WsSettings) -> String {
        match answer(request.as_bytes(), settings) {
            Answer::Incomplete => "none".to_owned(),
            Answer::Accept { response, .. } | Answer::Refuse { response, .. } => {
                String::from_utf8(response).unwrap()[9..12].to_owned()
            }
        }
    }

    /// The example of RFC 6455, 1.3.
    #[test]
    fn the_key_is_answered() {
        assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let head = [REQUEST.as_bytes(), b"more"].concat();
        let Answer::Accept { response, head_len } = answer(&head, &WsSettings::default()) else {
            panic!("refused");
        };
        assert_eq!(head_len, REQUEST.len());
        let response = String::from_utf8(response).unwrap();
        assert!(response.contains("\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
        assert!(response.ends_with("\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"));
    }

    #[test]
    fn both_sides_agree() {
        let client = ClientHandshake::new(*b"0123456789abcdef");
        let request = client.request("localhost:80", "/mqtt");
        let Answer::Accept { response, .. } = answer(&request, &WsSettings::default()) else {
            panic!("refused");
        };
        for len in 0..response.len() {
            assert_eq!(client.check(&response[..len]), Ok(None));
        }
        assert_eq!(client.check(&response), Ok(Some(response.len())));
        let other = ClientHandshake::new(*b"0123456789abcdeF");
        assert!(other.check(&response).is_err());
        let refusal = b"HTTP/1.1 404 Not Found\r\n\r\n";
        assert_eq!(client.check(refusal), Err(HandshakeError::Status(404)));
    }

    #[test]
    fn what_is_not_a_handshake_is_refused() {
        let settings = WsSettings::default();
        for len in 0..REQUEST.len() {
            assert_eq!(status(&REQUEST[..len], &settings), "none");
        }
        for (part, other, wanted) in [
            ("", "", "101"),
            ("/mqtt ", "/mqtt?token=x ", "101"),
            ("other, mqtt", "mqttv3.1", "101"),
            ("GET ", "POST ", "405"),
            ("HTTP/1.1", "HTTP/1.0", "400"),
            ("/mqtt ", "/other ", "404"),
            ("Host: a\r\n", "", "400"),
            ("Upgrade: WebSocket\r\n", "", "426"),
            ("keep-alive, Upgrade", "close", "426"),
            ("Version: 13", "Version: 8", "426"),
            ("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZQ==", "400"),
            ("other, mqtt", "other", "400"),
            ("Host: a\r\n", "Host: a\r\nContent-Length: 0\r\n", "101"),
            ("Host: a\r\n", "Host: a\r\ncontent-length: 2\r\n", "400"),
            ("Host: a\r\n", "Host: a\r\nContent-Length: 0\r\nContent-Length: 2\r\n", "400"),
            ("Host: a\r\n", "Host: a\r\nTransfer-Encoding: chunked\r\n", "400"),
            ("GET ", "\u{1}", "400"),
        ] {
            let request = REQUEST.replacen(part, other, 1);
            assert_eq!(status(&request, &settings), wanted, "{part:?} -> {other:?}");
        }
        let many = REQUEST.replacen("Host: a\r\n", &"Host: a\r\n".repeat(65), 1);
        assert_eq!(status(&many, &settings), "431");
    }

    #[test]
    fn heads_and_origins_are_limited() {
        let small = WsSettings { max_head: REQUEST.len() - 1, ..WsSettings::default() };
        assert_eq!(status(REQUEST, &small), "431");
        let exact = WsSettings { max_head: REQUEST.len(), ..WsSettings::default() };
        assert_eq!(status(REQUEST, &exact), "101");
        let origins = vec!["https://a.example".to_owned()];
        let settings = WsSettings { origins, ..WsSettings::default() };
        assert_eq!(status(REQUEST, &settings), "101", "no browser");
        for (origin, wanted) in [("https://A.example", "101"), ("https://b.example", "403")] {
            let with = format!("Host: a\r\nOrigin: {origin}\r\n");
            assert_eq!(status(&REQUEST.replacen("Host: a\r\n", &with, 1), &settings), wanted);
        }
    }
}
