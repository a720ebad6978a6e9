//! WebSocket: whatever comes, in whatever pieces, is the same to the decoder; what is encoded decodes to the
//! same; a handshake is judged by its bytes alone.

use sluice::net::ws::{
    Answer, ClientHandshake, Control, Decoder, Opcode, Role, WsSettings, answer, append_frame,
};

use crate::input::Input;

const MAX_FRAME: u64 = 70_000;

/// Payload and control frames, or the code of a close frame.
type Decoded = Result<(Vec<u8>, Vec<String>), u16>;

/// One run.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    match input.below(3) {
        0 => pieces(&mut input),
        1 => round_trip(&mut input),
        _ => handshake(&mut input),
    }
}

fn pieces(input: &mut Input<'_>) {
    let role = if input.below(2) == 0 { Role::Server } else { Role::Client };
    let step = 1 + input.below(40);
    let bytes = input.bytes(usize::MAX);
    assert_eq!(decode(role, bytes, step), decode(role, bytes, usize::MAX), "in pieces of {step}");
}

fn round_trip(input: &mut Input<'_>) {
    let role = if input.below(2) == 0 { Role::Server } else { Role::Client };
    let step = 1 + input.below(40);
    let (mut wire, mut payload, mut controls) = (Vec::new(), Vec::new(), Vec::new());
    while !input.is_empty() {
        let key = [input.byte(), input.byte(), input.byte(), input.byte()];
        let mask = (role == Role::Server).then_some(key);
        let kind = input.below(4);
        let len = if input.below(16) == 0 { usize::from(input.number()) } else { input.below(126) };
        let mut part = input.bytes(len).to_vec();
        if kind == 0 {
            part.truncate(125);
            append_frame(&mut wire, Opcode::Ping, &part, mask);
            controls.push(format!("{:?}", Control::Ping(&part)));
        } else {
            part.resize(len, b'.');
            append_frame(&mut wire, Opcode::Binary, &part, mask);
            payload.extend(part);
        }
    }
    assert_eq!(decode(role, &wire, step), Ok((payload, controls)));
}

fn decode(role: Role, bytes: &[u8], step: usize) -> Decoded {
    let mut decoder = Decoder::new(role, MAX_FRAME);
    let (mut payload, mut controls) = (Vec::new(), Vec::new());
    for piece in bytes.chunks(step.min(bytes.len()).max(1)) {
        let mut piece = piece.to_vec();
        let len = decoder
            .decode(&mut piece, |control| controls.push(format!("{control:?}")))
            .map_err(|violation| violation.code)?;
        payload.extend_from_slice(&piece[..len]);
    }
    Ok((payload, controls))
}

/// A head is judged the same with and without what follows it, and no part of one that is taken is refused.
fn handshake(input: &mut Input<'_>) {
    let settings = WsSettings { max_head: 512, ..WsSettings::default() };
    let client = ClientHandshake::new([7; 16]);
    let mut head = client.request("localhost", "/mqtt");
    for _ in 0..input.below(4) {
        let at = usize::from(input.number()) % head.len();
        head[at] = input.byte();
    }
    if input.below(2) == 0 {
        head = input.bytes(usize::MAX).to_vec();
    }
    let Answer::Accept { response, head_len } = answer(&head, &settings) else {
        let _ = client.check(&head);
        return;
    };
    assert!(head_len <= head.len().min(settings.max_head));
    for len in 0..head_len {
        assert_eq!(answer(&head[..len], &settings), Answer::Incomplete);
    }
    head.extend_from_slice(b"more");
    assert_eq!(answer(&head, &settings), Answer::Accept { response, head_len });
}
