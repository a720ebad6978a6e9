//! Bytes: the data types of section 1.5, the fixed header, and a cursor that takes them apart.

/// The protocol versions, by the level they carry in CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    V31 = 3,
    V311 = 4,
    V5 = 5,
}

impl Version {
    pub(crate) const ALL: [Version; 3] = [Version::V31, Version::V311, Version::V5];

    pub(crate) fn is_v5(self) -> bool {
        self == Version::V5
    }
}

pub(crate) const CONNECT: u8 = 0x10;
pub(crate) const CONNACK: u8 = 0x20;
pub(crate) const PUBLISH: u8 = 0x30;
pub(crate) const PUBACK: u8 = 0x40;
pub(crate) const PUBREC: u8 = 0x50;
pub(crate) const PUBREL: u8 = 0x62;
pub(crate) const PUBCOMP: u8 = 0x70;
pub(crate) const SUBSCRIBE: u8 = 0x82;
pub(crate) const SUBACK: u8 = 0x90;
pub(crate) const UNSUBSCRIBE: u8 = 0xA2;
pub(crate) const UNSUBACK: u8 = 0xB0;
pub(crate) const PINGREQ: u8 = 0xC0;
pub(crate) const PINGRESP: u8 = 0xD0;
pub(crate) const DISCONNECT: u8 = 0xE0;
pub(crate) const AUTH: u8 = 0xF0;

/// A whole packet: first byte, Remaining Length, body.
pub(crate) fn packet(first_byte: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first_byte];
    out.extend(variable(body.len() as u32));
    out.extend_from_slice(body);
    out
}

/// A Variable Byte Integer in its shortest form [MQTT-1.5.5-1].
pub(crate) fn variable(mut value: u32) -> Vec<u8> {
    assert!(value < 1 << 28, "{value} does not fit a Variable Byte Integer");
    let mut out = Vec::new();
    loop {
        let low = (value % 128) as u8;
        value /= 128;
        if value == 0 {
            out.push(low);
            return out;
        }
        out.push(low | 0x80);
    }
}

/// A length-prefixed string or binary field.
pub(crate) fn field(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    let length = u16::try_from(bytes.len()).expect("a field of at most 65,535 bytes");
    let mut out = length.to_be_bytes().to_vec();
    out.extend_from_slice(bytes);
    out
}

/// Joins parts, to write a body down field by field.
pub(crate) fn concat(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// Takes a body apart; every misfit is a failure of the broker, told with its packet.
pub(crate) struct Cursor<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { rest: bytes, what }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn take(&mut self, length: usize) -> &'a [u8] {
        assert!(
            length <= self.rest.len(),
            "{}: {length} bytes wanted, {} left",
            self.what,
            self.rest.len()
        );
        let (head, rest) = self.rest.split_at(length);
        self.rest = rest;
        head
    }

    pub(crate) fn rest(&mut self) -> &'a [u8] {
        self.take(self.rest.len())
    }

    pub(crate) fn u8(&mut self) -> u8 {
        self.take(1)[0]
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.take(2).try_into().unwrap())
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.take(4).try_into().unwrap())
    }

    pub(crate) fn variable(&mut self) -> u32 {
        let before = self.rest;
        let mut value = 0u32;
        for shift in [0, 7, 14, 21] {
            let byte = self.u8();
            value |= u32::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                let used = before.len() - self.rest.len();
                assert_eq!(
                    used,
                    variable(value).len(),
                    "{}: {value} not in its shortest form [MQTT-1.5.5-1]",
                    self.what
                );
                return value;
            }
        }
        panic!("{}: a Variable Byte Integer of more than four bytes", self.what);
    }

    pub(crate) fn bytes(&mut self) -> &'a [u8] {
        let length = self.u16();
        self.take(usize::from(length))
    }

    /// A UTF-8 Encoded String [MQTT-1.5.4-1], without U+0000 [MQTT-1.5.4-2].
    pub(crate) fn text(&mut self) -> String {
        let what = self.what;
        let text = std::str::from_utf8(self.bytes())
            .unwrap_or_else(|error| panic!("{what}: ill-formed UTF-8: {error}"));
        assert!(!text.contains('\0'), "{what}: U+0000 in {text:?}");
        text.to_owned()
    }

    pub(crate) fn end(&self) {
        assert!(self.rest.is_empty(), "{}: {} bytes too many", self.what, self.rest.len());
    }
}
