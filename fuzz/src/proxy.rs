//! The PROXY protocol: a header is the same with and without what follows it, and no part of one is another.

use sluice::net::proxy::{MAX_HEADER, Parsed, parse};

use crate::input::Input;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// One run.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut bytes = match input.below(3) {
        0 => Vec::new(),
        1 => b"PROXY ".to_vec(),
        _ => SIGNATURE.to_vec(),
    };
    bytes.extend_from_slice(input.bytes(usize::MAX));
    let Ok(Parsed::Complete { len, peer }) = parse(&bytes) else { return };
    assert!(len <= bytes.len().min(MAX_HEADER));
    for part in 0..len {
        assert_eq!(parse(&bytes[..part]), Ok(Parsed::Incomplete), "{part} of {len}");
    }
    bytes.extend_from_slice(b"more");
    assert_eq!(parse(&bytes), Ok(Parsed::Complete { len, peer }));
}
