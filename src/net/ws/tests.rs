use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const KEY: [u8; 4] = [0xA1, 0x02, 0xF3, 0x44];
const MAX: u64 = 1 << 20;

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    append_frame(&mut frame, Opcode::Binary, payload, Some(KEY));
    frame[0] = first;
    frame
}

/// What comes of bytes that arrive in pieces of these lengths, the last again and again.
fn decode(bytes: &[u8], pieces: &[usize]) -> Result<(Vec<u8>, Vec<String>), Violation> {
    let mut decoder = Decoder::new(Role::Server, MAX);
    let (mut payload, mut controls) = (Vec::new(), Vec::new());
    let (mut rest, mut pieces) = (bytes, pieces.iter());
    let mut len = bytes.len();
    while !rest.is_empty() {
        len = pieces.next().copied().unwrap_or(len).clamp(1, rest.len());
        let mut piece = rest[..len].to_vec();
        rest = &rest[len..];
        let got = decoder.decode(&mut piece, |control| controls.push(format!("{control:?}")))?;
        payload.extend_from_slice(&piece[..got]);
    }
    Ok((payload, controls))
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + at / 256) as u8).collect()
}

#[test]
fn payloads_of_all_lengths_come_together_however_they_are_cut() {
    let mut bytes = Vec::new();
    let mut wanted = Vec::new();
    for len in [0, 1, 3, 4, 5, 31, 32, 33, 63, 125, 126, 127, 1000, 65_535, 65_536, 70_000] {
        let payload = pattern(len);
        bytes.extend(frame(0x82, &payload));
        wanted.extend(payload);
    }
    for pieces in [&[usize::MAX][..], &[1], &[2], &[3], &[7, 1, 13], &[100], &[4096]] {
        let (payload, controls) = decode(&bytes, pieces).unwrap();
        assert!(payload == wanted && controls.is_empty(), "{pieces:?}");
    }
}

/// RFC 6455, 5.4: control frames may be injected in the middle of a message in pieces.
#[test]
fn control_frames_come_between_the_pieces_of_a_message() {
    let bytes = [
        frame(0x02, b"one "),
        frame(0x89, b"ping"),
        frame(0x00, b""),
        frame(0x8A, b""),
        frame(0x80, b"two"),
        frame(0x88, &[0x03, 0xE9, b'b', b'y', b'e']),
        frame(0x81, b"nobody reads this"),
    ]
    .concat();
    for step in 1..=bytes.len() {
        let (payload, controls) = decode(&bytes, &[step]).unwrap();
        assert_eq!(payload, b"one two");
        assert_eq!(controls, ["Ping([112, 105, 110, 103])", "Pong([])", "Close(Some(1001))"]);
    }
}

#[test]
fn what_breaks_the_protocol_has_its_code() {
    let with_len = |len: &[u8]| [&[0x82][..], len, &KEY].concat();
    let too_long = u64::to_be_bytes(MAX + 1);
    for (bytes, code) in [
        (vec![0x82, 0x00], 1002),                                // no mask
        (frame(0x81, b"text"), 1003),                            // text
        (frame(0xC2, b""), 1002),                                // a reserved bit
        (frame(0x83, b""), 1002),                                // an unknown kind
        (frame(0x8B, b""), 1002),                                // an unknown control frame
        (frame(0x80, b""), 1002),                                // nothing to continue
        ([frame(0x02, b""), frame(0x82, b"")].concat(), 1002),   // within a message
        (frame(0x09, b""), 1002),                                // a ping in pieces
        (frame(0x89, &[0; 126]), 1002),                          // a long ping
        (with_len(&[0xFE, 0, 125]), 1002),                       // a length in two bytes
        (with_len(&[0xFF, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF]), 1002), // in eight
        (with_len(&[0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0]), 1002),    // in 64 bits
        (with_len(&[&[0xFF][..], &too_long].concat()), 1009),    // too long
        (frame(0x88, &[3]), 1002),                               // half a code
        (frame(0x88, &[0x03, 0xED]), 1002),                      // 1005
        (frame(0x88, &[0x03, 0xE8, 0xFF]), 1007),                // no UTF-8
    ] {
        for step in [usize::MAX, 1] {
            let violation = decode(&bytes, &[step]).unwrap_err();
            assert_eq!(violation.code, code, "{bytes:02X?}: {violation}");
        }
    }
}

#[test]
fn a_client_takes_no_mask() {
    let decode = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        let mut decoder = Decoder::new(Role::Client, MAX);
        decoder.decode(&mut bytes, |_| {}).map(|len| bytes[..len].to_vec())
    };
    assert_eq!(decode(b"\x82\x02ab\x82\x01c"), Ok(b"abc".to_vec()));
    assert_eq!(decode(&frame(0x82, b"ab")).unwrap_err().code, CLOSE_PROTOCOL_ERROR);
    assert_eq!(decode(&frame(0x82, &[7; 300])).unwrap_err().code, CLOSE_PROTOCOL_ERROR);
}

/// What is written is read as what it was, by either side.
#[test]
fn headers_of_all_lengths() {
    for (len, header_len) in [(0, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
        assert_eq!(Header::new(Opcode::Binary, len, None).len(), header_len);
        assert_eq!(Header::new(Opcode::Binary, len, Some(KEY)).len(), header_len + 4);
    }
}

/// Bytes that often are frames: first bytes and lengths that are right as often as wrong.
fn nearly_frames() -> impl Strategy<Value = Vec<u8>> {
    let first =
        prop_oneof![Just(0x82), Just(0x02), Just(0x80), Just(0x89), Just(0x88), any::<u8>()];
    let second = prop_oneof![0x80..=0xFF_u8, any::<u8>()];
    let frame = (first, second, vec(any::<u8>(), 0..200)).prop_map(|(first, second, rest)| {
        let mut frame = vec![first, second];
        frame.extend(rest);
        // As often as not the length is that of what follows.
        if frame.len() > 6 && second & 1 == 0 {
            frame.truncate(6 + 125);
            frame[1] = 0x80 | (frame.len() - 6) as u8;
        }
        frame
    });
    vec(frame, 1..6).prop_map(|frames| frames.concat())
}

proptest! {
    /// Whatever comes, in whatever pieces, is the same.
    #[test]
    fn pieces_make_no_difference(bytes in nearly_frames(), step in 1..50_usize) {
        let code = |decoded: Result<_, Violation>| decoded.map_err(|violation| violation.code);
        prop_assert_eq!(code(decode(&bytes, &[step])), code(decode(&bytes, &[usize::MAX])));
    }

    #[test]
    fn any_bytes_are_a_handshake_or_none(bytes in vec(any::<u8>(), 0..600)) {
        let settings = WsSettings { max_head: 512, ..WsSettings::default() };
        let taken = matches!(answer(&bytes, &settings), Answer::Accept { .. });
        prop_assert!(!taken, "without a key");
    }
}
