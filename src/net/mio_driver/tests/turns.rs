//! Who is read in a turn, and in which order.

use super::*;

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
    let mut all: Vec<_> = (0..4).map(|_| rig.connect()).collect();
    for (client, conn) in &mut all {
        client.write_all(&pattern(40_000)).unwrap();
        rig.await_socket(*conn, PollFlags::IN);
    }
    let mut turn = || {
        let told = rig.turn(Some(Duration::from_secs(30)));
        let whom = told.iter().map(|told| match told {
            Received(conn, _) => *conn,
            other => panic!("{other:?}"),
        });
        whom.collect::<Vec<_>>()
    };
    let (begin, first, second) = (Instant::now(), turn(), turn());
    assert!(begin.elapsed() < Duration::from_secs(20));
    assert!(!first.is_empty() && first.len() < 4, "{first:?}");
    assert!(!second.is_empty(), "after {first:?}");
    assert!(second.iter().all(|conn| !first.contains(conn)), "{second:?} after {first:?}");
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
