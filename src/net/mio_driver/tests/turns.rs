//! Who is read in a turn, and in which order.

use super::*;

impl Rig {
    /// Connections of each of whom so many bytes wait to be read.
    fn waiting<const N: usize>(&mut self, bytes: usize) -> [(TcpStream, ConnId); N] {
        let mut all = std::array::from_fn(|_| self.connect());
        for (client, conn) in &mut all {
            client.write_all(&pattern(bytes)).unwrap();
            self.await_bytes(*conn, bytes);
        }
        all
    }

    fn await_bytes(&mut self, conn: ConnId, bytes: usize) {
        let begin = Instant::now();
        self.await_socket(conn, PollFlags::IN);
        let fd = self.driver.conns.get_mut(conn).unwrap().transport.fd();
        while rustix::io::ioctl_fionread(fd).unwrap() < bytes as u64 {
            assert!(begin.elapsed() < Duration::from_secs(30));
            thread::yield_now();
        }
    }

    /// Whom the next turn reads.
    fn readers(&mut self) -> Vec<ConnId> {
        let told = self.turn(Some(Duration::from_secs(30)));
        let whom = told.iter().map(|told| match told {
            Received(conn, _) => *conn,
            other => panic!("{other:?}"),
        });
        whom.collect()
    }
}

/// Once for each time that it is expected.
#[test]
fn what_is_expected_comes_before_what_came_earlier() {
    let mut rig = Rig::new();
    let mut all: Vec<_> = (0..3).map(|_| rig.connect()).collect();
    let conns: Vec<ConnId> = all.iter().map(|(_, conn)| *conn).collect();
    rig.driver.expect(conns[2]);
    for order in [[2, 0, 1], [0, 1, 2]] {
        for (client, conn) in &mut all {
            client.write_all(b"x").unwrap();
            rig.await_socket(*conn, PollFlags::IN);
        }
        assert_eq!(rig.turn(SOON), order.map(|at| Received(conns[at], b"x".to_vec())));
    }
}

/// What a turn leaves for the next does not wait for anything to happen.
#[test]
fn a_turn_begins_no_more_than_can_be_sent_on_soon() {
    let mut rig = Rig::new();
    let all: [_; 4] = rig.waiting(40_000);
    let begin = Instant::now();
    let first = rig.readers();
    assert_eq!(first.len(), 2);
    assert!(rig.driver.has_more());
    let second = rig.readers();
    assert_eq!(second.len(), 2);
    assert!(second.iter().all(|conn| !first.contains(conn)), "{second:?} after {first:?}");
    assert!(!rig.driver.has_more());
    assert!(begin.elapsed() < Duration::from_secs(20));
    drop(all);
}

/// Who waits for the next turn is known to, and what turns it takes to get round counts as one time.
#[test]
fn who_was_not_read_is_unread_until_he_is() {
    let mut rig = Rig::new();
    let all: [_; 4] = rig.waiting(40_000);
    let unread = |rig: &mut Rig| {
        let conns = all.iter().map(|(_, conn)| *conn);
        conns.filter(|conn| rig.driver.is_unread(*conn)).collect::<Vec<_>>()
    };
    assert_eq!(rig.readers().len(), 2);
    let left = unread(&mut rig);
    assert_eq!(left.len(), 2);
    let pause = Duration::from_millis(30);
    thread::sleep(pause);
    rig.driver.pause(left[0]);
    assert_eq!(unread(&mut rig), [left[1]]);
    assert_eq!(rig.readers(), [left[1]]);
    assert!(rig.driver.last_round() >= pause);
    thread::sleep(pause);
    assert!(unread(&mut rig).is_empty());
    assert_eq!(rig.turn(NOW), []);
    assert!(rig.driver.last_round() >= 2 * pause, "both turns");
    assert_eq!(rig.turn(NOW), []);
    assert!(rig.driver.last_round() < pause, "a new round");
}

#[test]
fn parts_of_large_frames_count_too() {
    let mut rig = Rig::new();
    let mut all: [_; 4] = rig.waiting(100);
    assert_eq!(rig.readers().len(), 4);
    for (client, conn) in &mut all {
        rig.driver.keep(*conn, &[0; 100], Some(LARGE_FRAME * 2));
        client.write_all(&pattern(40_000)).unwrap();
        rig.await_bytes(*conn, 40_000);
    }
    let mut looked_at = || {
        rig.driver.wait(SOON).unwrap();
        let told = std::iter::from_fn(|| rig.driver.next(&mut rig.arena));
        told.filter(|told| matches!(told, Completion::Receiving { .. })).count()
    };
    assert_eq!([looked_at(), looked_at()], [2, 2]);
}

/// Room to send is no answer.
#[test]
fn what_is_expected_of_a_slow_reader_stays_expected() {
    let mut rig = Rig::new();
    let (mut early, other) = rig.connect();
    let (mut slow, conn) = rig.connect();
    let sent = rig.fill(conn, &pattern(16 << 20));
    rig.driver.expect(conn);
    slow.read_exact(&mut vec![0; sent]).unwrap();
    assert_eq!(rig.one(), Sent(conn));
    for (client, of) in [(&mut early, other), (&mut slow, conn)] {
        client.write_all(b"x").unwrap();
        rig.await_bytes(of, 1);
    }
    assert_eq!(rig.readers(), [conn, other]);
}

/// Who closes while he waits for the next turn does not leave his place to who gets his id.
#[test]
fn a_place_goes_with_its_connection() {
    let mut rig = Rig::new();
    let (mut calm, before) = rig.connect();
    let all: [_; 5] = rig.waiting(40_000);
    let first = rig.readers();
    let mut left = all.iter().map(|(_, conn)| *conn).filter(|conn| !first.contains(conn));
    let gone = left.next_back().unwrap();
    rig.driver.close(gone, CloseMode::Abort);
    calm.write_all(b"x").unwrap();
    rig.await_bytes(before, 1);
    let mut client = TcpStream::connect(rig.addr).unwrap();
    client.write_all(b"x").unwrap();
    let told = rig.turn(SOON);
    assert_eq!(told.len(), 3);
    assert_eq!(told.last(), Some(&Accepted(gone)));
    let x = |conn| Received(conn, b"x".to_vec());
    assert_eq!(rig.turn(NOW), [x(before), x(gone)]);
}

/// Also where others are first.
#[test]
fn who_waits_to_be_read_first_is_not_watched_before() {
    let mut rig = Rig::new();
    let all: [_; 4] = rig.waiting(40_000);
    let mut client = TcpStream::connect(rig.addr).unwrap();
    client.write_all(b"x").unwrap();
    let told = rig.turn(SOON);
    let Some(&Accepted(conn)) = told.last() else { panic!("not accepted") };
    assert_eq!(told.len(), 3);
    assert_eq!(rig.turn(NOW).len(), 2);
    assert!(rig.driver.conn(conn).unwrap().has(flag::UNWATCHED));
    assert_eq!(rig.turn(NOW), [Received(conn, b"x".to_vec())]);
    rig.quiet();
    assert!(!rig.driver.conn(conn).unwrap().has(flag::UNWATCHED));
    drop(all);
}

#[test]
fn every_reader_gets_its_share_of_a_turn() {
    let mut rig = Rig::new();
    let (flood, a) = rig.connect();
    let (mut calm, b) = rig.connect();
    // What is written is there for the other side at once: both have something when the turn begins.
    (&flood).write_all(&[1; 100_000]).unwrap();
    calm.write_all(b"x").unwrap();
    let writer = thread::spawn(move || (&flood).write_all(&[1; 3_900_000]).map(|()| flood));
    // One of them, of whom there is more, may be all that a turn begins with.
    let turns = [rig.turn(SOON), rig.turn(SOON)];
    let place = turns.iter().flatten().position(|told| *told == Received(b, b"x".to_vec()));
    assert!(place.is_some_and(|place| place <= 1), "{turns:?}");
    assert_eq!(turns.iter().flatten().count(), 3, "{turns:?}");
    let mut total = 0;
    let mut count = |told: Vec<Told>| {
        assert!(told.iter().filter(|t| matches!(t, Received(..))).count() <= 2);
        for told in told {
            if let Received(of, bytes) = told
                && of == a
            {
                total += bytes.len();
            }
        }
        total
    };
    for told in turns {
        count(told);
    }
    while count(rig.turn(SOON)) < 4_000_000 {}
    drop(writer.join().unwrap());
}
