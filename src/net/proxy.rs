//! The PROXY protocol, versions 1 and 2: the line or header in which a proxy says whose connection it brings.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::str::FromStr;

use rustix::net::RecvFlags;

use super::driver::Refused;
use super::tcp::Transport;

/// The longest header in bytes, with all that version 2 may carry behind the addresses. A longer one is
/// refused.
pub const MAX_HEADER: usize = 4096;

/// The longest line of version 1 in bytes, with its end.
const MAX_LINE: usize = 107;

/// What version 2 begins with.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// What version 1 begins with.
const WORD: &[u8] = b"PROXY ";

/// The header of version 2 up to where its addresses begin.
const FIXED: usize = 16;

/// What a header is wrong about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ProxyError(&'static str);

/// A connection whose header has not come yet.
#[derive(Debug)]
pub(super) struct Proxied {
    /// What is spoken behind the header.
    pub(super) inner: Transport,
    /// The header as far as it has come.
    head: Vec<u8>,
}

impl Proxied {
    pub(super) fn new(inner: Transport) -> Self {
        Self { inner, head: Vec::new() }
    }

    /// Takes the header from the socket, and nothing behind it. Gives whom it names, when it is complete.
    pub(super) fn read_header(&mut self) -> io::Result<Option<SocketAddr>> {
        loop {
            let mut seen = [0; MAX_HEADER];
            let room = seen.get_mut(self.head.len()..).unwrap_or_default();
            let len = receive(self.inner.fd(), room, RecvFlags::PEEK)?;
            if len == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let before = self.head.len();
            self.head.extend_from_slice(room.get(..len).unwrap_or_default());
            let parsed = parse(&self.head).map_err(|ProxyError(why)| Refused(why))?;
            let taken = match parsed {
                Parsed::Incomplete => len,
                Parsed::Complete { len, .. } => len - before,
            };
            // It was seen, so it is there.
            let room = room.get_mut(..taken).unwrap_or_default();
            if receive(self.inner.fd(), room, RecvFlags::empty())? != taken {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Parsed::Complete { peer, .. } = parsed {
                return Ok(peer);
            }
        }
    }
}

fn receive(fd: BorrowedFd<'_>, room: &mut [u8], flags: RecvFlags) -> io::Result<usize> {
    loop {
        match rustix::net::recv(fd, &mut *room, flags) {
            Ok((len, _)) => return Ok(len),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// What has come of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// Its end has not come.
    Incomplete,
    /// It is complete, and this long.
    Complete {
        /// In bytes.
        len: usize,
        /// Who connected to the proxy; none if it is the proxy itself, or has no address.
        peer: Option<SocketAddr>,
    },
}

/// Reads the header that `bytes` begins with.
///
/// # Errors
/// It is none, or a version, family or length that is not known here.
pub fn parse(bytes: &[u8]) -> Result<Parsed, ProxyError> {
    if bytes.starts_with(&SIGNATURE[..bytes.len().min(SIGNATURE.len())]) {
        return parse_binary(bytes);
    }
    if bytes.starts_with(&WORD[..bytes.len().min(WORD.len())]) {
        return parse_line(bytes);
    }
    Err(ProxyError("there is no PROXY header"))
}

fn parse_line(bytes: &[u8]) -> Result<Parsed, ProxyError> {
    let within = bytes.get(..MAX_LINE).unwrap_or(bytes);
    let Some(end) = within.windows(2).position(|pair| pair == b"\r\n") else {
        let too_long = bytes.len() >= MAX_LINE;
        return if too_long {
            Err(ProxyError("the PROXY header is too long"))
        } else {
            Ok(Parsed::Incomplete)
        };
    };
    let line = within.get(WORD.len()..end).and_then(|line| std::str::from_utf8(line).ok());
    let words: Vec<&str> = line.unwrap_or_default().split(' ').collect();
    let peer = match words[..] {
        ["UNKNOWN", ..] => None,
        ["TCP4", source, target, port, target_port] => {
            Some(line_peer::<Ipv4Addr>([source, target], [port, target_port])?)
        }
        ["TCP6", source, target, port, target_port] => {
            Some(line_peer::<Ipv6Addr>([source, target], [port, target_port])?)
        }
        _ => return Err(ProxyError("the PROXY header is not understood")),
    };
    Ok(Parsed::Complete { len: end + 2, peer })
}

/// The first of two addresses with the first of two ports, if all are right.
fn line_peer<A: FromStr + Into<IpAddr>>(
    addresses: [&str; 2],
    ports: [&str; 2],
) -> Result<SocketAddr, ProxyError> {
    let wrong = ProxyError("the PROXY header has an address or port that is none");
    let address = |text: &str| text.parse::<A>().map_err(|_| wrong);
    // `u16::from_str` takes a sign.
    let port = |text: &str| match text.parse::<u16>() {
        Ok(port) if text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(port),
        _ => Err(wrong),
    };
    let [source, target] = addresses;
    let [source_port, target_port] = ports;
    address(target)?;
    port(target_port)?;
    Ok(SocketAddr::new(address(source)?.into(), port(source_port)?))
}

fn parse_binary(bytes: &[u8]) -> Result<Parsed, ProxyError> {
    let Some([command, family, high, low]) = bytes.get(SIGNATURE.len()..FIXED) else {
        return Ok(Parsed::Incomplete);
    };
    let is_local = match command {
        0x20 => true,
        0x21 => false,
        _ => return Err(ProxyError("the PROXY header has a version or command that is not known")),
    };
    let len = FIXED + usize::from(u16::from_be_bytes([*high, *low]));
    if len > MAX_HEADER {
        return Err(ProxyError("the PROXY header is too long"));
    }
    let Some(body) = bytes.get(FIXED..len) else { return Ok(Parsed::Incomplete) };
    let short = ProxyError("the PROXY header has no room for its addresses");
    // Transport protocols are in the lower half; what lies behind the addresses is for others.
    let peer = match family >> 4 {
        _ if is_local => None,
        1 => {
            let Some(&[a, b, c, d, _, _, _, _, high, low, _, _]) = body.first_chunk::<12>() else {
                return Err(short);
            };
            Some(SocketAddr::from(([a, b, c, d], u16::from_be_bytes([high, low]))))
        }
        2 => {
            let address = body.first_chunk::<16>().ok_or(short)?;
            let port = body.get(32..36).and_then(<[u8]>::first_chunk).ok_or(short)?;
            Some(SocketAddr::from((Ipv6Addr::from(*address), u16::from_be_bytes(*port))))
        }
        0 | 3 => None,
        _ => {
            return Err(ProxyError("the PROXY header has a family of addresses that is not known"));
        }
    };
    Ok(Parsed::Complete { len, peer })
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn binary(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let len = u16::try_from(body.len()).unwrap().to_be_bytes();
        [SIGNATURE, &[command, family], &len, body].concat()
    }

    fn ipv4() -> Vec<u8> {
        vec![192, 0, 2, 1, 192, 0, 2, 2, 0x30, 0x39, 0x07, 0x5B]
    }

    fn ipv6() -> Vec<u8> {
        let address = |last: u8| [&[0x20, 0x01, 0x0D, 0xB8][..], &[0; 11], &[last]].concat();
        [address(1), address(2), vec![0x30, 0x39, 0x07, 0x5B]].concat()
    }

    #[test]
    fn headers_name_who_connected() {
        let v4 = Some("192.0.2.1:12345".parse().unwrap());
        let v6 = Some("[2001:db8::1]:12345".parse().unwrap());
        for (header, peer) in [
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 12345 1883\r\n".to_vec(), v4),
            (b"PROXY TCP6 2001:db8::1 2001:db8::2 12345 1883\r\n".to_vec(), v6),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff:: ffff:: 1 2\r\n".to_vec(), None),
            (binary(0x21, 0x11, &ipv4()), v4),
            (binary(0x21, 0x21, &ipv6()), v6),
            (binary(0x21, 0x11, &[ipv4(), vec![1; 500]].concat()), v4),
            (binary(0x20, 0x00, b""), None),
            (binary(0x20, 0x11, &ipv4()), None),
            (binary(0x21, 0x00, b"whatever"), None),
            (binary(0x21, 0x31, &[b'/'; 216]), None),
        ] {
            for len in 0..header.len() {
                assert_eq!(parse(&header[..len]), Ok(Parsed::Incomplete), "{len} of {header:?}");
            }
            let complete = Ok(Parsed::Complete { len: header.len(), peer });
            assert_eq!(parse(&header), complete);
            assert_eq!(parse(&[&header[..], b"\r\nmore"].concat()), complete);
        }
    }

    #[test]
    fn what_is_no_header_is_refused() {
        for wrong in [
            b"\x10\x0c\0\x04MQTT".to_vec(),
            b"GET / HTTP/1.1\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 192.0.2.2 12345\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 192.0.2.2 12345 1883 \r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 192.0.2.2 +1 1883\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 192.0.2.2 65536 1883\r\n".to_vec(),
            b"PROXY TCP4 2001:db8::1 192.0.2.2 1 1883\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 nowhere 1 1883\r\n".to_vec(),
            b"PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n".to_vec(),
            [&b"PROXY UNKNOWN "[..], &[b'x'; 100]].concat(),
            binary(0x11, 0x11, &ipv4()),
            binary(0x22, 0x11, &ipv4()),
            binary(0x21, 0x41, &ipv4()),
            binary(0x21, 0x11, &ipv4()[..11]),
            binary(0x21, 0x21, &ipv6()[..35]),
            binary(0x21, 0x11, &[0; MAX_HEADER]),
        ] {
            assert!(parse(&wrong).is_err(), "{wrong:?}");
        }
    }

    proptest! {
        /// A header ends where it ends, whatever it says and whatever follows.
        #[test]
        fn no_part_of_a_header_is_one(begin in 0..3_usize, bytes in vec(any::<u8>(), 0..200)) {
            let begin: &[u8] = [&b""[..], WORD, SIGNATURE][begin];
            let bytes = [begin, &bytes].concat();
            if let Ok(Parsed::Complete { len, peer }) = parse(&bytes) {
                for part in 0..len {
                    prop_assert_eq!(parse(&bytes[..part]), Ok(Parsed::Incomplete));
                }
                prop_assert_eq!(parse(&bytes[..len]), Ok(Parsed::Complete { len, peer }));
            }
        }
    }
}
