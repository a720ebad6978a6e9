//! The codec as a whole: what goes in comes out, and what is wrong is refused by its name.

mod malformed;
mod roundtrip;
mod speed_paths;

use super::*;

/// The body of the one packet in `frame`, after its checked fixed header.
fn body(frame: &[u8]) -> (FrameHead, &[u8]) {
    let head = frame_head(frame, u32::MAX).unwrap().unwrap();
    assert_eq!(head.frame_len(), frame.len());
    assert!(head.is_minimal());
    (head, &frame[usize::from(head.head_len)..])
}
