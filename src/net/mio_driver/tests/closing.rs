use super::*;

#[test]
fn half_close_with_data_pending() {
    let mut rig = Rig::new();
    let (mut client, conn) = rig.connect();
    let sent = pattern(200_000);
    let writer = thread::spawn({
        let sent = sent.clone();
        move || {
            client.write_all(&sent).unwrap();
            client.shutdown(std::net::Shutdown::Write).unwrap();
            client
        }
    });
    let mut got = Vec::new();
    while got.len() < sent.len() {
        let Received(_, bytes) = rig.one() else { panic!() };
        got.extend(bytes);
    }
    assert_eq!(got, sent);
    assert_eq!(rig.one(), Closed(conn, CloseCause::PeerClosed));
    // The other half still works.
    assert_eq!(rig.send(conn, b"bye").unwrap(), 3);
    rig.driver.close(conn, CloseMode::Graceful);
    assert_eq!(rig.driver.connections(), 0);
    let mut got = Vec::new();
    writer.join().unwrap().read_to_end(&mut got).unwrap();
    assert_eq!(got, b"bye");
}

#[test]
fn a_graceful_close_saves_the_last_packet() {
    let mut rig = Rig::new();
    let (mut client, conn) = rig.connect();
    client.write_all(&[7; 100_000]).unwrap();
    assert_eq!(rig.send(conn, b"refused").unwrap(), 7);
    rig.driver.close(conn, CloseMode::Graceful);
    for _ in 0..20 {
        rig.turn(NOW);
        // The peer has not noticed yet, and sends on.
        client.write_all(&[8; 1000]).unwrap();
        thread::sleep(Duration::from_millis(1));
    }
    let mut got = Vec::new();
    client.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"refused");
    assert_eq!(rig.driver.connections(), 1);
    drop(client);
    rig.quiet();
    assert_eq!(rig.driver.connections(), 0);
}

#[test]
fn a_lingering_connection_has_no_id_and_a_deadline() {
    let mut rig = Rig::new();
    let (client, conn) = rig.connect();
    rig.driver.close(conn, CloseMode::Graceful);
    assert!(rig.send(conn, b"x").is_err());
    assert!(rig.driver.detach(conn).is_none());
    rig.driver.close(conn, CloseMode::Abort);
    assert_eq!(rig.driver.connections(), 1);
    let begin = Instant::now();
    while rig.driver.connections() == 1 {
        assert_eq!(rig.turn(None), []);
        assert!(begin.elapsed() < LINGER * 2);
    }
    assert!(begin.elapsed() >= LINGER - Duration::from_millis(50));
    drop(client);
}

#[test]
fn lingering_ends_at_a_number_of_bytes() {
    let mut rig = Rig::new();
    let (mut client, conn) = rig.connect();
    rig.driver.close(conn, CloseMode::Graceful);
    let writer = thread::spawn(move || while client.write_all(&[0; 10_000]).is_ok() {});
    let begin = Instant::now();
    while rig.driver.connections() == 1 {
        rig.turn(SOON);
    }
    assert!(begin.elapsed() < LINGER);
    writer.join().unwrap();
}

#[test]
fn ids_rest_for_the_turn_they_were_released_in() {
    let mut rig = Rig::new();
    let (mut one, a) = rig.connect();
    let (mut two, b) = rig.connect();
    one.write_all(b"1").unwrap();
    two.write_all(b"2").unwrap();
    rig.await_socket(a, PollFlags::IN);
    rig.await_socket(b, PollFlags::IN);
    rig.driver.wait(SOON).unwrap();
    // Both are in this turn's batch; the second is closed before it is its turn.
    let Some(Received(first, _)) = rig.next() else { panic!() };
    let other = if first == a { b } else { a };
    rig.driver.close(other, CloseMode::Abort);
    assert_eq!(rig.next(), None);
    let socket = rig.driver.detach(first).unwrap();
    let again = rig.driver.attach(socket).unwrap();
    assert!(again != first && again != other);
    rig.turn(NOW);
    let (_client, reused) = rig.connect();
    assert!(reused == first || reused == other);
}

#[test]
fn closing_within_the_turn_of_the_accept() {
    let mut rig = Rig::new();
    let mut client = TcpStream::connect(rig.addr).unwrap();
    client.write_all(b"x").unwrap();
    rig.driver.wait(SOON).unwrap();
    let Some(Accepted(conn)) = rig.next() else { panic!() };
    rig.driver.close(conn, CloseMode::Abort);
    assert_eq!(rig.next(), None);
    rig.quiet();
    assert_eq!(rig.driver.connections(), 0);
}

#[test]
fn a_reset_completes_after_the_data() {
    let mut rig = Rig::new();
    let (mut client, conn) = rig.connect();
    client.write_all(b"last words").unwrap();
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    rig.await_socket(conn, PollFlags::empty());
    match rig.one() {
        Received(_, bytes) => {
            assert_eq!(bytes, b"last words");
            let Closed(of, _) = rig.one() else { panic!() };
            assert_eq!(of, conn);
        }
        told => assert_eq!(told, Closed(conn, CloseCause::Reset)),
    }
    rig.driver.close(conn, CloseMode::Graceful);
    rig.quiet();
}

#[test]
fn a_failed_send_is_followed_by_the_data_and_closed() {
    let mut rig = Rig::new();
    let (mut client, conn) = rig.connect();
    client.write_all(b"x").unwrap();
    assert_eq!(rig.one(), Received(conn, b"x".to_vec()));
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    rig.await_socket(conn, PollFlags::empty());
    assert!(rig.send(conn, b"y").is_err());
    let Closed(of, _) = rig.one() else { panic!() };
    assert_eq!(of, conn);
    rig.quiet();
}

#[test]
fn connections_that_come_and_go_leave_nothing() {
    let mut rig = Rig::new();
    let addr = rig.addr;
    const COUNT: usize = 10_000;
    let clients = thread::spawn(move || {
        for i in 0..COUNT {
            let mut client = TcpStream::connect(addr).unwrap();
            client.write_all(b"x").unwrap();
            if i % 2 == 0 {
                // No TIME_WAIT: the ports would run out.
                socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
            }
        }
    });
    let fds = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let (mut accepted, mut closed, mut received) = (0, 0, 0);
    let begin = Instant::now();
    while closed < COUNT {
        assert!(begin.elapsed() < Duration::from_secs(60), "{closed} closed");
        for told in rig.turn(SOON) {
            match told {
                Accepted(_) => accepted += 1,
                Received(..) => received += 1,
                Closed(conn, _) => {
                    closed += 1;
                    rig.driver.close(conn, CloseMode::Graceful);
                }
                told => panic!("{told:?}"),
            }
        }
    }
    clients.join().unwrap();
    assert_eq!(accepted, COUNT);
    assert!(received >= COUNT / 2);
    assert_eq!(rig.driver.connections(), 0);
    assert!(rig.driver.lingering.is_empty() && rig.driver.ready.is_empty());
    // Other tests run beside this one.
    assert!(fds() < 1000);
}
