use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rustix::event::{PollFd, PollFlags, Timespec};

use super::*;
use crate::net::{ACCEPTS_PER_TURN, CloseCause, LARGE_FRAME, ListenOptions, bind};

mod closing;
mod turns;

const SOON: Option<Duration> = Some(Duration::from_millis(500));
const NOW: Option<Duration> = Some(Duration::ZERO);

/// A driver, its arena, and what it told, with the bytes taken out of the arena.
struct Rig {
    driver: MioDriver,
    arena: Arena,
    addr: SocketAddr,
}

#[derive(Debug, PartialEq)]
enum Told {
    Accepted(ConnId),
    Received(ConnId, Vec<u8>),
    Frame(ConnId, Bytes),
    Sent(ConnId),
    Closed(ConnId, CloseCause),
    Woken,
}

use Told::{Accepted, Closed, Frame, Received, Sent, Woken};
use bytes::Bytes;

impl Rig {
    fn new() -> Self {
        Self::with(&ListenOptions::default())
    }

    fn with(options: &ListenOptions) -> Self {
        let listener = bind(([127, 0, 0, 1], 0).into(), 1024, options).unwrap();
        let addr = listener.local_addr().unwrap();
        let driver = MioDriver::new(vec![listener], Instant::now()).unwrap();
        Self { driver, arena: Arena::default(), addr }
    }

    fn next(&mut self) -> Option<Told> {
        loop {
            return Some(match self.driver.next(&mut self.arena)? {
                Completion::Accepted { conn, listener, peer } => {
                    assert_eq!((listener, peer.ip()), (0, self.addr.ip()));
                    Accepted(conn)
                }
                Completion::Received { conn, range } => {
                    assert!(range.len() <= READ_CHUNK);
                    Received(conn, self.arena.bytes(range).to_vec())
                }
                Completion::Receiving { .. }
                | Completion::HandshakeDone { .. }
                | Completion::Relayed { .. } => continue,
                Completion::ReceivedFrame { conn, frame } => Frame(conn, frame),
                Completion::Sent { conn } => Sent(conn),
                Completion::Closed { conn, cause } => Closed(conn, cause),
                Completion::ArenaFull => {
                    self.arena.reset();
                    continue;
                }
                Completion::Woken => Woken,
            });
        }
    }

    fn turn(&mut self, timeout: Option<Duration>) -> Vec<Told> {
        self.arena.reset();
        self.driver.wait(timeout).unwrap();
        std::iter::from_fn(|| self.next()).collect()
    }

    /// The next thing told, however many turns it takes; nothing else may be told with it.
    fn one(&mut self) -> Told {
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(5) {
            let mut told = self.turn(SOON);
            assert!(told.len() <= 1, "{told:?}");
            if let Some(told) = told.pop() {
                return told;
            }
        }
        panic!("nothing happens");
    }

    fn quiet(&mut self) {
        for _ in 0..3 {
            assert_eq!(self.turn(Some(Duration::from_millis(20))), []);
        }
    }

    fn connect(&mut self) -> (TcpStream, ConnId) {
        let client = TcpStream::connect(self.addr).unwrap();
        client.set_nodelay(true).unwrap();
        socket2::SockRef::from(&client).set_recv_buffer_size(65_536).unwrap();
        let Accepted(conn) = self.one() else { panic!("not accepted") };
        (client, conn)
    }

    /// Sends of `all` until nothing moves any more; returns how much.
    fn fill(&mut self, conn: ConnId, all: &[u8]) -> usize {
        let mut at = self.send(conn, all).unwrap();
        loop {
            assert!(at < all.len());
            assert_eq!(self.send(conn, &all[at..]).unwrap(), 0);
            let told = self.turn(Some(Duration::from_millis(100)));
            if told.is_empty() {
                return at;
            }
            assert_eq!(told, [Sent(conn)]);
            at += self.send(conn, &all[at..]).unwrap();
        }
    }

    /// Waits until the kernel says that of a socket; an end or an error in any case.
    fn await_socket(&mut self, conn: ConnId, what: PollFlags) {
        let fd = self.driver.conns.get_mut(conn).unwrap().transport.fd();
        let patience = Timespec { tv_sec: 30, tv_nsec: 0 };
        let polled =
            rustix::event::poll(&mut [PollFd::from_borrowed_fd(fd, what)], Some(&patience));
        assert_eq!(polled, Ok(1));
    }

    fn send(&mut self, conn: ConnId, bytes: &[u8]) -> io::Result<usize> {
        self.driver.send(conn, &[IoSlice::new(bytes)])
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| ((i * 31) >> 3) as u8).collect()
}

#[test]
fn an_idle_connection_is_small() {
    assert!(size_of::<Option<Conn>>() <= 32, "{}", size_of::<Option<Conn>>());
}

#[test]
fn bytes_come_in_and_go_out() {
    let mut rig = Rig::new();
    let (mut client, conn) = rig.connect();
    client.write_all(b"hello").unwrap();
    assert_eq!(rig.one(), Received(conn, b"hello".to_vec()));
    let bufs = [IoSlice::new(b"wor"), IoSlice::new(b"ld")];
    assert_eq!(rig.driver.send(conn, &bufs).unwrap(), 5);
    let mut got = [0; 5];
    client.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"world");
    rig.quiet();
    drop(client);
    assert_eq!(rig.one(), Closed(conn, CloseCause::PeerClosed));
    rig.quiet();
    rig.driver.close(conn, CloseMode::Graceful);
    assert_eq!(rig.driver.connections(), 0);
}

#[test]
fn a_partial_frame_comes_again_in_front() {
    let mut rig = Rig::new();
    let (mut client, conn) = rig.connect();
    client.write_all(b"abc").unwrap();
    assert_eq!(rig.one(), Received(conn, b"abc".to_vec()));
    rig.driver.keep(conn, b"bc", Some(4));
    rig.quiet();
    client.write_all(b"de").unwrap();
    assert_eq!(rig.one(), Received(conn, b"bcde".to_vec()));
    client.write_all(b"f").unwrap();
    assert_eq!(rig.one(), Received(conn, b"f".to_vec()));
}

#[test]
fn a_large_frame_gets_a_buffer_of_its_own() {
    let mut rig = Rig::new();
    let (client, conn) = rig.connect();
    let sent = pattern(3_000_000);
    let frame_len = 2_500_000;
    let writer = thread::spawn({
        let sent = sent.clone();
        move || (&client).write_all(&sent).map(|()| client)
    });
    let Received(_, first) = rig.one() else { panic!() };
    assert!(first.len() < LARGE_FRAME * 3);
    rig.driver.keep(conn, &first, Some(frame_len));
    let Frame(_, frame) = rig.one() else { panic!() };
    assert_eq!(frame, sent[..frame_len]);
    let mut rest = Vec::new();
    while rest.len() < sent.len() - frame_len {
        let Received(_, bytes) = rig.one() else { panic!() };
        rest.extend(bytes);
    }
    assert_eq!(rest, sent[frame_len..]);
    drop(writer.join().unwrap());
}

#[test]
fn a_large_frame_may_end_with_the_connection() {
    let mut rig = Rig::new();
    let (client, conn) = rig.connect();
    let sent = pattern(LARGE_FRAME + 1);
    (&client).write_all(&sent[..10]).unwrap();
    assert_eq!(rig.one(), Received(conn, sent[..10].to_vec()));
    rig.driver.keep(conn, &sent[..10], Some(sent.len()));
    rig.quiet();
    (&client).write_all(&sent[10..]).unwrap();
    drop(client);
    assert_eq!(rig.one(), Frame(conn, sent.into()));
    assert_eq!(rig.one(), Closed(conn, CloseCause::PeerClosed));
}

#[test]
fn pausing_keeps_the_order() {
    let mut rig = Rig::new();
    let (mut client, conn) = rig.connect();
    client.write_all(b"one").unwrap();
    assert_eq!(rig.one(), Received(conn, b"one".to_vec()));
    rig.driver.pause(conn);
    rig.driver.keep(conn, b"ne", None);
    client.write_all(b"two").unwrap();
    rig.quiet();
    rig.driver.resume(conn);
    assert_eq!(rig.one(), Received(conn, b"netwo".to_vec()));
    // Kept bytes come again although nothing else does.
    rig.driver.pause(conn);
    rig.driver.keep(conn, b"two", None);
    rig.quiet();
    rig.driver.resume(conn);
    assert_eq!(rig.one(), Received(conn, b"two".to_vec()));
    rig.quiet();
}

#[test]
fn a_paused_connection_ends_after_what_it_sent() {
    let mut rig = Rig::new();
    let (mut client, conn) = rig.connect();
    client.write_all(b"one").unwrap();
    assert_eq!(rig.one(), Received(conn, b"one".to_vec()));
    rig.driver.pause(conn);
    rig.driver.keep(conn, b"one", None);
    drop(client);
    rig.quiet();
    rig.driver.resume(conn);
    assert_eq!(rig.one(), Received(conn, b"one".to_vec()));
    assert_eq!(rig.one(), Closed(conn, CloseCause::PeerClosed));
}

#[test]
fn resume_before_keep_loses_nothing() {
    let mut rig = Rig::new();
    let (mut client, conn) = rig.connect();
    client.write_all(b"one").unwrap();
    assert_eq!(rig.one(), Received(conn, b"one".to_vec()));
    rig.driver.pause(conn);
    rig.driver.resume(conn);
    rig.driver.keep(conn, b"one", None);
    assert_eq!(rig.one(), Received(conn, b"one".to_vec()));
}

#[test]
fn a_full_pause_buffer_is_given_back_alone() {
    let mut rig = Rig::new();
    let (client, conn) = rig.connect();
    let sent = pattern(300_000);
    let writer = thread::spawn({
        let sent = sent.clone();
        move || (&client).write_all(&sent).map(|()| client)
    });
    thread::sleep(Duration::from_millis(100));
    let mut got = Vec::new();
    while got.len() < sent.len() {
        let Received(_, bytes) = rig.one() else { panic!() };
        rig.driver.pause(conn);
        rig.driver.keep(conn, &bytes, None);
        rig.quiet();
        rig.driver.resume(conn);
        let Received(_, more) = rig.one() else { panic!() };
        assert!(more.starts_with(&bytes));
        got.extend(more);
    }
    assert_eq!(got, sent);
    drop(writer.join().unwrap());
}

#[test]
fn a_short_send_is_followed_by_sent() {
    let options = ListenOptions { send_buffer: Some(8192), ..ListenOptions::default() };
    let mut rig = Rig::with(&options);
    let (mut client, conn) = rig.connect();
    let all = pattern(8_000_000);
    // The second time the interest in writing is there already.
    for _ in 0..2 {
        let mut at = rig.fill(conn, &all);
        let reader = thread::spawn({
            let mut client = client.try_clone().unwrap();
            move || {
                let mut got = vec![0; 8_000_000];
                client.read_exact(&mut got).map(|()| got)
            }
        });
        while at < all.len() {
            assert_eq!(rig.one(), Sent(conn));
            at += rig.send(conn, &all[at..]).unwrap();
        }
        assert!(reader.join().unwrap().unwrap() == all);
        rig.turn(Some(Duration::from_millis(50)));
    }
    client.write_all(b"x").unwrap();
    assert_eq!(rig.one(), Received(conn, b"x".to_vec()));
}

#[test]
fn a_hand_over_moves_kept_bytes() {
    let (mut one, mut two) = (Rig::new(), Rig::new());
    let (mut client, conn) = one.connect();
    client.write_all(b"connect").unwrap();
    assert_eq!(one.one(), Received(conn, b"connect".to_vec()));
    one.driver.keep(conn, b"connect", None);
    client.write_all(b", and on").unwrap();
    let socket = one.driver.detach(conn).unwrap();
    assert!(one.driver.detach(conn).is_none());
    assert_eq!(one.driver.connections(), 0);
    let conn = two.driver.attach(socket).unwrap();
    let mut got = Vec::new();
    while got.len() < 15 {
        let Received(of, bytes) = two.one() else { panic!() };
        assert_eq!(of, conn);
        got.extend(bytes);
    }
    assert_eq!(got, b"connect, and on");
    client.write_all(b"!").unwrap();
    assert_eq!(two.one(), Received(conn, b"!".to_vec()));
    one.quiet();
}

#[test]
fn a_hand_over_moves_frames_short_sends_and_ends() {
    let options = ListenOptions { send_buffer: Some(8192), ..ListenOptions::default() };
    let (mut one, mut two) = (Rig::with(&options), Rig::new());
    let (mut client, conn) = one.connect();
    let frame = pattern(100_000);
    client.write_all(&frame[..50]).unwrap();
    let Received(_, bytes) = one.one() else { panic!() };
    one.driver.keep(conn, &bytes, Some(frame.len()));
    let all = pattern(8_000_000);
    let at = one.fill(conn, &all);
    let socket = one.driver.detach(conn).unwrap();
    let conn = two.driver.attach(socket).unwrap();
    two.quiet();
    client.read_exact(&mut vec![0; at]).unwrap();
    assert_eq!(two.one(), Sent(conn));
    two.quiet();
    let writer = thread::spawn(move || {
        client.write_all(&pattern(100_000)[50..]).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        client
    });
    assert_eq!(two.one(), Frame(conn, frame.into()));
    assert_eq!(two.one(), Closed(conn, CloseCause::PeerClosed));
    drop(writer.join());
}

#[test]
fn a_full_arena_says_so_and_goes_on() {
    let mut rig = Rig::new();
    rig.arena = Arena::new(0);
    let (mut one, a) = rig.connect();
    let (mut two, b) = rig.connect();
    one.write_all(b"1").unwrap();
    two.write_all(b"2").unwrap();
    rig.arena.reset();
    rig.driver.wait(SOON).unwrap();
    let mut seen = Vec::new();
    let mut full = 0;
    loop {
        match rig.driver.next(&mut rig.arena) {
            Some(Completion::Received { conn, .. }) => seen.push(conn),
            Some(Completion::ArenaFull) => {
                full += 1;
                rig.arena.reset();
            }
            None => break,
            other => panic!("{other:?}"),
        }
    }
    seen.sort();
    assert_eq!((seen, full), (vec![a, b], 1));
}

#[test]
fn a_wake_ends_the_wait() {
    let mut rig = Rig::new();
    let waker = rig.driver.waker();
    waker.wake();
    waker.clone().wake();
    assert_eq!(rig.turn(None), [Woken]);
    rig.quiet();
    let thread = thread::spawn(move || {
        thread::sleep(Duration::from_millis(50));
        waker.wake();
    });
    assert_eq!(rig.turn(None), [Woken]);
    thread.join().unwrap();
}

#[test]
fn accepting_is_bounded_and_stopped() {
    let mut rig = Rig::new();
    let count = ACCEPTS_PER_TURN + 10;
    let clients: Vec<_> = (0..count).map(|_| TcpStream::connect(rig.addr).unwrap()).collect();
    assert_eq!(rig.turn(SOON).len(), ACCEPTS_PER_TURN);
    assert_eq!(rig.turn(None).len(), 10);
    rig.driver.stop_accepting();
    rig.quiet();
    assert!(TcpStream::connect(rig.addr).is_err());
    assert_eq!(rig.driver.connections(), clients.len());
}

/// Lets so many pass until a time.
#[derive(Debug)]
struct Few {
    left: AtomicUsize,
    until: Time,
}

impl Turnstile for Few {
    fn pass(&self, _: usize, now: Time) -> Result<(), Time> {
        let pass = |left: usize| if now < self.until { left.checked_sub(1) } else { Some(left) };
        let passed = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, pass);
        passed.map(drop).map_err(|_| self.until)
    }
}

#[test]
fn who_does_not_pass_waits() {
    let mut rig = Rig::new();
    let until = rig.driver.now().plus(Duration::from_millis(300));
    rig.driver.set_turnstile(Arc::new(Few { left: 3.into(), until }));
    let mut clients = Vec::new();
    for _ in 0..2 {
        clients.push(TcpStream::connect(rig.addr).unwrap());
        assert_eq!(rig.turn(SOON).len(), 1, "one of whom there is none does not count");
    }
    clients.extend((0..5).map(|_| TcpStream::connect(rig.addr).unwrap()));
    assert_eq!(rig.turn(SOON).len(), 1);
    let mut turns = 0;
    while rig.driver.connections() < clients.len() {
        rig.turn(None);
        turns += 1;
    }
    assert!(rig.driver.now() >= until && turns <= 3, "{turns}");
}

#[test]
fn the_clock_moves_by_turns() {
    let mut rig = Rig::new();
    let before = rig.driver.now();
    thread::sleep(Duration::from_millis(15));
    assert_eq!(rig.driver.now(), before);
    rig.turn(Some(Duration::from_millis(15)));
    assert!(rig.driver.now().since(before) >= Duration::from_millis(29));
}

#[test]
fn exhausted_descriptors_make_no_busy_loop() {
    let mut rig = Rig::new();
    let _client = TcpStream::connect(rig.addr).unwrap();
    rig.driver.wait(SOON).unwrap();
    let now = rig.driver.now();
    rig.driver.acceptor.exhausted(now, &io::ErrorKind::Other.into());
    assert_eq!(rig.next(), None);
    let begin = Instant::now();
    let mut turns = 0;
    while rig.driver.connections() == 0 {
        rig.turn(None);
        turns += 1;
    }
    assert!(begin.elapsed() >= Duration::from_millis(80) && turns <= 3, "{turns}");
}

/// What a client sends at once is there in the turn in which it is accepted; nothing is lost of what it
/// sends before its socket is watched, and one that goes on its way to another driver is never watched here.
#[test]
fn a_fresh_connection_is_read_before_it_is_watched() {
    let mut rig = Rig::with(&ListenOptions { defer_accept: true, ..ListenOptions::default() });
    let mut other = Rig::new();
    let connect = |rig: &mut Rig| {
        let mut client = TcpStream::connect(rig.addr).unwrap();
        client.write_all(b"first").unwrap();
        rig.driver.wait(SOON).unwrap();
        let Some(Accepted(conn)) = rig.next() else { panic!("not accepted") };
        assert_eq!(rig.next(), Some(Received(conn, b"first".to_vec())));
        client.write_all(b"second").unwrap();
        (client, conn)
    };
    let (mut stays, conn) = connect(&mut rig);
    assert!(rig.driver.conn(conn).unwrap().has(flag::UNWATCHED));
    assert_eq!(rig.one(), Received(conn, b"second".to_vec()));
    assert!(!rig.driver.conn(conn).unwrap().has(flag::UNWATCHED));
    stays.write_all(b"third").unwrap();
    assert_eq!(rig.one(), Received(conn, b"third".to_vec()));

    let (_moves, conn) = connect(&mut rig);
    let moved = other.driver.attach(rig.driver.detach(conn).unwrap()).unwrap();
    assert_eq!(other.one(), Received(moved, b"second".to_vec()));
    rig.quiet();
    drop(stays);
}

/// A send that falls short before the socket is watched is followed by what it is due all the same.
#[test]
fn a_fresh_connection_may_be_full() {
    let mut rig = Rig::with(&ListenOptions { send_buffer: Some(8192), ..ListenOptions::default() });
    let mut client = TcpStream::connect(rig.addr).unwrap();
    rig.driver.wait(SOON).unwrap();
    let Some(Accepted(conn)) = rig.next() else { panic!("not accepted") };
    let all = pattern(16 << 20);
    let sent = rig.send(conn, &all).unwrap();
    assert!(sent < all.len());
    let reader = thread::spawn(move || {
        let mut got = vec![0; sent];
        client.read_exact(&mut got).unwrap();
        (client, got)
    });
    assert_eq!(rig.one(), Sent(conn));
    let (_client, got) = reader.join().unwrap();
    assert!(got == all[..sent]);
}
