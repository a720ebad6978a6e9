//! The client's side of WebSocket: MQTT in binary frames, masked as a client has to, over TCP or TLS.

use std::io;

use sluice::net::ws::{ClientHandshake, Control, Decoder, Opcode, Role, append_frame};

use super::transport::Transport;

/// What brokers let MQTT in by.
pub(crate) const USUAL_PATH: &str = "/mqtt";

/// The payload of the longest frame that is sent.
const LONGEST_SENT: usize = 64 * 1024;

/// Bytes of an answer's head that are read in one go.
const HEAD_STEP: usize = 2048;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WebSocketTarget {
    /// As the user named it, with its port.
    pub(crate) host: String,
    pub(crate) path: String,
}

#[derive(Debug)]
pub(crate) struct WebSocket {
    inner: Transport,
    stage: Stage,
    decoder: Decoder,
    /// What was read of the answer, and then what came behind it.
    early: Vec<u8>,
    /// Whole frames, and how much of them is written already.
    out: Vec<u8>,
    out_at: usize,
}

#[derive(Debug)]
enum Stage {
    /// What is beneath is not ready.
    Beneath(WebSocketTarget),
    /// The request is sent.
    Asked(ClientHandshake),
    Open,
}

impl WebSocket {
    pub(crate) fn new(inner: Transport, target: WebSocketTarget) -> Self {
        Self {
            inner,
            stage: Stage::Beneath(target),
            decoder: Decoder::new(Role::Client, u64::MAX),
            early: Vec::new(),
            out: Vec::new(),
            out_at: 0,
        }
    }

    pub(crate) fn inner(&self) -> &Transport {
        &self.inner
    }

    /// Takes the handshake as far as it goes. Returns whether it is done.
    pub(crate) fn establish(&mut self) -> io::Result<bool> {
        if let Stage::Beneath(target) = &self.stage {
            if !self.inner.establish()? {
                return Ok(false);
            }
            let handshake = ClientHandshake::new(fastrand::u128(..).to_ne_bytes());
            self.out = handshake.request(&target.host, &target.path);
            self.stage = Stage::Asked(handshake);
        }
        self.flush()?;
        while let Stage::Asked(handshake) = &self.stage {
            let mut step = [0; HEAD_STEP];
            let len = match self.inner.read(&mut step) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            };
            self.early.extend_from_slice(step.get(..len).unwrap_or_default());
            if let Some(head_len) = handshake.check(&self.early).map_err(io::Error::other)? {
                self.early.drain(..head_len);
                self.stage = Stage::Open;
            }
        }
        Ok(true)
    }

    /// Reads payload: as much as there is space for, or all that has come. 0 is the end.
    pub(crate) fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        loop {
            let room = space.get_mut(filled..).unwrap_or_default();
            if room.is_empty() || self.decoder.is_closed() {
                return Ok(filled);
            }
            let (len, is_drained) = match self.take(room) {
                Ok((0, _)) => return Ok(filled),
                Err(error) if filled > 0 && error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(filled);
                }
                taken => taken?,
            };
            filled += self.decode(room.get_mut(..len).unwrap_or_default())?;
            // Without payload the socket itself has to say that it is empty.
            if is_drained && filled > 0 {
                return Ok(filled);
            }
        }
    }

    /// Takes bytes of frames in; also says whether there are no more.
    fn take(&mut self, room: &mut [u8]) -> io::Result<(usize, bool)> {
        if self.early.is_empty() {
            let len = self.inner.read(room)?;
            return Ok((len, len < room.len()));
        }
        let len = self.early.len().min(room.len());
        room.iter_mut().zip(self.early.drain(..len)).for_each(|(to, from)| *to = from);
        Ok((len, false))
    }

    fn decode(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let out = &mut self.out;
        let answer = |control: Control<'_>| {
            if let Control::Ping(payload) = control {
                append_frame(out, Opcode::Pong, payload, Some(mask()));
            }
        };
        let len = self.decoder.decode(bytes, answer).map_err(io::Error::other)?;
        self.flush()?;
        Ok(len)
    }

    /// Takes what there is room for, of which some may still be pending.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut taken = 0;
        while self.flush()? && taken < bytes.len() {
            let rest = bytes.get(taken..).unwrap_or_default();
            let payload = rest.get(..LONGEST_SENT).unwrap_or(rest);
            append_frame(&mut self.out, Opcode::Binary, payload, Some(mask()));
            taken += payload.len();
        }
        Ok(taken)
    }

    pub(crate) fn has_pending(&self) -> bool {
        !self.out.is_empty() || self.inner.has_pending()
    }

    /// Writes what is pending; whether that is all of it.
    fn flush(&mut self) -> io::Result<bool> {
        while let Some(rest) = self.out.get(self.out_at..).filter(|rest| !rest.is_empty()) {
            match self.inner.write(rest) {
                Ok(0) => return Ok(false),
                Ok(written) => self.out_at += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.out_at = 0;
        if self.inner.has_pending() {
            // What TLS has taken leaves with the next write, were it of nothing.
            self.inner.write(&[])?;
        }
        Ok(!self.inner.has_pending())
    }

    /// Says that nothing more will be sent.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        const NORMAL_CLOSURE: [u8; 2] = 1000_u16.to_be_bytes();
        append_frame(&mut self.out, Opcode::Close, &NORMAL_CLOSURE, Some(mask()));
        if self.flush()? {
            self.inner.finish();
        }
        Ok(())
    }
}

fn mask() -> [u8; 4] {
    fastrand::u32(..).to_ne_bytes()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::thread;

    use super::*;

    /// Both ends, after the handshake; they block.
    fn open() -> (WebSocket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let inner = Transport::Tcp(client.into());
        let target = WebSocketTarget { host: String::new(), path: String::new() };
        let client = WebSocket { stage: Stage::Open, ..WebSocket::new(inner, target) };
        (client, listener.accept().unwrap().0)
    }

    fn read(client: &mut WebSocket, len: usize) -> Vec<u8> {
        let mut payload = Vec::new();
        while payload.len() < len {
            let mut space = [0; 100];
            let count = client.read(&mut space).unwrap();
            assert!(count > 0);
            payload.extend_from_slice(&space[..count]);
        }
        payload
    }

    /// `[MQTT-6.0.0-2]`, and RFC 6455, 5.5.3.
    #[test]
    fn payload_comes_however_frames_are_cut_and_pings_are_answered() {
        // A ping, a whole message, an empty one, and one in two frames.
        let bytes = b"\x89\x02hi\x82\x03abc\x82\x00\x02\x02de\x80\x02fg";
        for cut in 0..bytes.len() {
            let (mut client, mut server) = open();
            server.set_nodelay(true).unwrap();
            let (first, second) = bytes.split_at(cut);
            let mut writer = server.try_clone().unwrap();
            let written = thread::spawn(move || {
                writer.write_all(first).unwrap();
                thread::yield_now();
                writer.write_all(second).unwrap();
            });
            assert_eq!(read(&mut client, 7), b"abcdefg", "{cut}");
            written.join().unwrap();
            let mut pong = [0; 8];
            server.read_exact(&mut pong).unwrap();
            let mut answers = Vec::new();
            let mut decoder = Decoder::new(Role::Server, u64::MAX);
            let note = |control: Control<'_>| answers.push(format!("{control:?}"));
            decoder.decode(&mut pong, note).unwrap();
            assert_eq!(answers, [format!("{:?}", Control::Pong(b"hi"))]);
        }
    }

    #[test]
    fn what_is_written_is_masked_and_in_frames_of_a_bounded_length() {
        let (mut client, mut server) = open();
        let payload: Vec<u8> = (0..200_000_u32).map(|n| n as u8).collect();
        let expected = payload.clone();
        let reader = thread::spawn(move || {
            let mut decoder = Decoder::new(Role::Server, LONGEST_SENT as u64);
            let mut received = Vec::new();
            while received.len() < expected.len() {
                let mut space = vec![0; 10_000];
                let count = server.read(&mut space).unwrap();
                let len = decoder.decode(&mut space[..count], |_| {}).unwrap();
                received.extend_from_slice(&space[..len]);
            }
            assert!(received == expected);
        });
        assert_eq!(client.write(&payload).unwrap(), payload.len());
        assert!(!client.has_pending());
        reader.join().unwrap();
    }

    #[test]
    fn a_close_frame_is_an_end_and_text_is_an_error() {
        let (mut client, mut server) = open();
        server.write_all(b"\x88\x02\x03\xe8").unwrap();
        assert_eq!(client.read(&mut [0; 100]).unwrap(), 0);
        let (mut client, mut server) = open();
        server.write_all(b"\x81\x01a").unwrap();
        let error = client.read(&mut [0; 100]).unwrap_err();
        assert!(error.get_ref().unwrap().is::<sluice::net::ws::Violation>(), "{error}");
    }
}
