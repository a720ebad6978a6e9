use std::io::IoSlice;

use super::*;
use crate::net::{Arena, CloseMode, Completion, Driver, LARGE_FRAME, Wake};

fn calm() -> SimOptions {
    SimOptions { faults: Faults::NONE, ..SimOptions::default() }
}

/// One turn; received bytes are copied out.
#[derive(Debug, PartialEq)]
enum Told {
    Accepted(ConnId),
    Received(ConnId, Vec<u8>),
    Frame(ConnId, Vec<u8>),
    Sent(ConnId),
    Closed(ConnId, CloseCause),
    Woken,
}

use Told::{Accepted, Closed, Frame, Received, Sent, Woken};

fn turn(driver: &mut SimDriver) -> Vec<Told> {
    let mut arena = Arena::default();
    driver.wait(None).unwrap();
    let mut told = Vec::new();
    while let Some(completion) = driver.next(&mut arena) {
        told.push(match completion {
            Completion::Accepted { conn, .. } => Accepted(conn),
            Completion::Received { conn, range } => Received(conn, arena.bytes(range).to_vec()),
            Completion::Receiving { .. }
            | Completion::HandshakeDone { .. }
            | Completion::Relayed { .. } => continue,
            Completion::ReceivedFrame { conn, frame } => Frame(conn, frame.to_vec()),
            Completion::Sent { conn } => Sent(conn),
            Completion::Closed { conn, cause } => Closed(conn, cause),
            Completion::ArenaFull => {
                arena.reset();
                continue;
            }
            Completion::Woken => Woken,
        });
    }
    told
}

fn connect(world: &World, driver: &mut SimDriver) -> (ClientId, ConnId) {
    let client = world.connect();
    let told = turn(driver);
    let [Accepted(conn)] = told[..] else { panic!("{told:?}") };
    (client, conn)
}

fn send(driver: &mut SimDriver, conn: ConnId, bytes: &[u8]) -> io::Result<usize> {
    driver.send(conn, &[IoSlice::new(bytes)])
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| ((i * 31) >> 3) as u8).collect()
}

#[test]
fn keeping_pausing_and_closing_are_as_with_sockets() {
    let world = World::new(1, calm());
    let mut driver = world.add_driver();
    let (client, conn) = connect(&world, &mut driver);
    assert_eq!(world.client_send(client, b"abc").unwrap(), 3);
    assert_eq!(turn(&mut driver), [Received(conn, b"abc".to_vec())]);
    driver.keep(conn, b"bc", Some(4));
    assert_eq!(turn(&mut driver), []);
    world.client_send(client, b"de").unwrap();
    assert_eq!(turn(&mut driver), [Received(conn, b"bcde".to_vec())]);
    driver.pause(conn);
    driver.keep(conn, b"bcde", None);
    world.client_send(client, b"f").unwrap();
    world.client_close(client);
    assert_eq!(turn(&mut driver), []);
    driver.resume(conn);
    assert_eq!(turn(&mut driver), [Received(conn, b"bcdef".to_vec())]);
    assert_eq!(turn(&mut driver), [Closed(conn, CloseCause::PeerClosed)]);
    assert_eq!(turn(&mut driver), []);
    assert_eq!(send(&mut driver, conn, b"x").unwrap(), 1);
    assert!(send(&mut driver, conn, b"x").is_err());
    driver.close(conn, CloseMode::Graceful);
    assert!(send(&mut driver, conn, b"x").is_err());
    assert_eq!((driver.connections(), world.connections()), (0, 0));
}

#[test]
fn kept_bytes_come_back_on_resume_alone() {
    let world = World::new(1, calm());
    let mut driver = world.add_driver();
    let (client, conn) = connect(&world, &mut driver);
    world.client_send(client, b"abc").unwrap();
    turn(&mut driver);
    driver.pause(conn);
    driver.keep(conn, b"abc", None);
    driver.resume(conn);
    assert!(world.is_ready(0));
    assert_eq!(turn(&mut driver), [Received(conn, b"abc".to_vec())]);
}

#[test]
fn large_frames_are_collected() {
    let world = World::new(1, calm());
    let mut driver = world.add_driver();
    let (client, conn) = connect(&world, &mut driver);
    let all = pattern(LARGE_FRAME * 3);
    let len = all.len() - 7;
    let mut at = world.client_send(client, &all[..5]).unwrap();
    assert_eq!(turn(&mut driver), [Received(conn, all[..5].to_vec())]);
    driver.keep(conn, &all[..5], Some(len));
    let mut told = Vec::new();
    while at < all.len() {
        at += world.client_send(client, &all[at..]).unwrap();
        told.extend(turn(&mut driver));
    }
    told.extend(turn(&mut driver));
    assert_eq!(told, [Frame(conn, all[..len].to_vec()), Received(conn, all[len..].to_vec())]);
}

#[test]
fn a_client_that_does_not_read_stops_the_broker() {
    let world = World::new(1, SimOptions { buffer_bytes: 100, ..calm() });
    let mut driver = world.add_driver();
    let (client, conn) = connect(&world, &mut driver);
    assert_eq!(send(&mut driver, conn, &[1; 150]).unwrap(), 100);
    assert_eq!(send(&mut driver, conn, &[1; 50]).unwrap(), 0);
    assert_eq!(turn(&mut driver), []);
    let mut got = Vec::new();
    world.client_stall(client, true);
    assert_eq!(world.client_recv(client, &mut got), 0);
    assert!(!world.is_ready(0));
    world.client_stall(client, false);
    assert_eq!(world.client_recv(client, &mut got), 100);
    assert_eq!(turn(&mut driver), [Sent(conn)]);
    assert_eq!(send(&mut driver, conn, &[1; 50]).unwrap(), 50);
    assert_eq!(turn(&mut driver), []);
}

#[test]
fn a_client_is_stopped_by_a_paused_connection() {
    let world = World::new(1, SimOptions { buffer_bytes: 100, ..calm() });
    let mut driver = world.add_driver();
    let (client, conn) = connect(&world, &mut driver);
    driver.pause(conn);
    assert_eq!(world.client_send(client, &[1; 150]).unwrap(), 100);
    assert_eq!(world.client_send(client, &[1; 50]).unwrap(), 0);
    driver.resume(conn);
    assert_eq!(turn(&mut driver), [Received(conn, vec![1; 100])]);
    assert_eq!(world.client_send(client, &[1; 50]).unwrap(), 50);
}

#[test]
fn a_hand_over_moves_what_is_kept_and_a_lost_one_closes() {
    let world = World::new(1, calm());
    let (mut one, mut two) = (world.add_driver(), world.add_driver());
    let client = world.connect_to(0);
    let conn = ConnId(0);
    assert_eq!(turn(&mut one), [Accepted(conn)]);
    world.client_send(client, b"abc").unwrap();
    turn(&mut one);
    driver_keeps_and_moves(&mut one, &mut two, conn);
    world.client_send(client, b"d").unwrap();
    assert_eq!(turn(&mut two), [Received(conn, b"abcd".to_vec())]);
    drop(two.detach(conn));
    assert_eq!(world.client_end(client), Some(CloseCause::PeerClosed));
    assert_eq!((one.connections(), two.connections()), (0, 0));
}

fn driver_keeps_and_moves(one: &mut SimDriver, two: &mut SimDriver, conn: ConnId) {
    one.keep(conn, b"abc", None);
    let socket = one.detach(conn).unwrap();
    assert!(one.detach(conn).is_none());
    assert_eq!(two.attach(socket).unwrap(), conn);
}

#[test]
fn closing_gracefully_saves_the_last_packet_and_aborting_may_not() {
    let mut lost = 0;
    for seed in 0..50 {
        let faults = Faults { max_delay: Duration::from_millis(10), ..Faults::NONE };
        let world = World::new(seed, SimOptions { faults, ..calm() });
        let mut driver = world.add_driver();
        let clients = [CloseMode::Graceful, CloseMode::Abort].map(|mode| (world.connect(), mode));
        world.advance(Duration::from_millis(10));
        let told = turn(&mut driver);
        for ((client, mode), told) in clients.into_iter().zip(told) {
            let Accepted(conn) = told else { panic!() };
            world.client_send(client, b"unread").unwrap();
            send(&mut driver, conn, b"bye").unwrap();
            driver.close(conn, mode);
        }
        world.advance(Duration::from_millis(50));
        // Accepted in the order of arrival, so either client may be the one that was aborted.
        for (client, _) in clients {
            let mut got = Vec::new();
            world.client_recv(client, &mut got);
            match world.client_end(client) {
                Some(CloseCause::PeerClosed) => assert_eq!(got, b"bye"),
                Some(CloseCause::Reset) => lost += usize::from(got.is_empty()),
                end => panic!("{end:?}"),
            }
        }
    }
    assert!((1..50).contains(&lost), "{lost}");
}

#[test]
fn wakes_and_timeouts_make_a_shard_ready() {
    let world = World::new(1, calm());
    let mut driver = world.add_driver();
    turn(&mut driver);
    assert!(!world.is_ready(0));
    assert_eq!((world.ready_shard(), world.next_event()), (None, None));
    driver.waker().wake();
    assert_eq!((world.ready_shard(), world.wakes(0)), (Some(0), 1));
    assert_eq!(turn(&mut driver), [Woken]);
    // It did something, so it may want another timeout.
    assert!(world.is_ready(0));
    driver.wait(Some(Duration::from_millis(30))).unwrap();
    assert_eq!(driver.next(&mut Arena::default()).map(|_| ()), None);
    assert!(!world.is_ready(0));
    assert_eq!(world.next_event(), Some(Time(30)));
    world.advance_to(Time(30));
    assert!(world.is_ready(0));
    assert_eq!(driver.now(), Time(0));
    turn(&mut driver);
    assert_eq!(driver.now(), Time(30));
}

/// Nobody passes before.
#[derive(Debug)]
struct NotBefore(Time);

impl Turnstile for NotBefore {
    fn pass(&self, _: usize, now: Time) -> Result<(), Time> {
        if now < self.0 { Err(self.0) } else { Ok(()) }
    }
}

#[test]
fn accepting_can_wait_and_stop() {
    let world = World::new(1, calm());
    let mut driver = world.add_driver();
    driver.set_turnstile(Arc::new(NotBefore(Time(100))));
    let (one, two) = (world.connect(), world.connect());
    assert_eq!(turn(&mut driver), []);
    assert!(!world.is_ready(0));
    assert_eq!(world.next_event(), Some(Time(100)));
    world.advance_to(Time(100));
    assert!(world.is_ready(0));
    assert_eq!(turn(&mut driver).len(), 2);
    let late = world.connect();
    driver.stop_accepting();
    for refused in [late, world.connect()] {
        assert!(world.client_end(refused).is_some());
    }
    assert_eq!((world.client_end(one), world.client_end(two)), (None, None));
    drop(driver);
    assert!(world.client_end(one).is_some() && world.client_end(two).is_some());
}

#[test]
fn a_reset_comes_after_what_arrived_before_it() {
    let world = World::new(1, calm());
    let mut driver = world.add_driver();
    let (client, conn) = connect(&world, &mut driver);
    world.client_send(client, b"abc").unwrap();
    assert!(world.is_ready(0));
    world.client_reset(client);
    assert!(send(&mut driver, conn, b"x").is_err());
    assert_eq!(turn(&mut driver), [Received(conn, b"abc".to_vec())]);
    assert_eq!(turn(&mut driver), [Closed(conn, CloseCause::Reset)]);
}

/// Every connection echoes through a pair of shards, with everything that can go wrong; returns a
/// record of the run.
fn chaos(seed: u64, reset: f64) -> Vec<String> {
    let faults = Faults { reset, ..Faults::default() };
    let world = World::new(seed, SimOptions { faults, buffer_bytes: 300 });
    let mut shards: Vec<_> = (0..2).map(|_| (world.add_driver(), BTreeMap::new())).collect();
    let data = pattern(5_000);
    let mut clients: Vec<_> = (0..8).map(|_| (world.connect(), 0, Vec::new())).collect();
    let mut record = Vec::new();
    for _ in 0..200_000 {
        let open = |(id, _, got): &(ClientId, usize, Vec<u8>)| {
            got.len() < data.len() && world.client_end(*id).is_none()
        };
        if !clients.iter().any(open) {
            break;
        }
        match (world.below(3), world.ready_shard()) {
            (0, Some(shard)) => echo_turn(&world, &mut shards, shard, &mut record),
            (1, _) => {
                let choice = world.below(clients.len());
                let (id, at, got) = &mut clients[choice];
                let most = world.below(400).min(data.len() - *at);
                *at += world.client_send(*id, &data[*at..*at + most]).unwrap_or(0);
                world.client_recv(*id, got);
                assert!(data.starts_with(got), "seed {seed}: bytes lost or out of order");
            }
            _ => world.advance(Duration::from_millis(1)),
        }
    }
    for (id, _, got) in &clients {
        assert!(
            got.len() == data.len() || reset > 0.0,
            "seed {seed}: {id:?} stuck at {}",
            got.len()
        );
        assert!(got.len() == data.len() || world.client_end(*id).is_some());
        record.push(format!("{id:?} {}", got.len()));
        world.client_close(*id);
    }
    world.heal();
    for _ in 0..100 {
        world.advance(Duration::from_millis(5));
        (0..2).for_each(|shard| echo_turn(&world, &mut shards, shard, &mut record));
    }
    assert_eq!(world.connections(), 0, "seed {seed}");
    assert!(shards.iter().all(|(driver, _)| driver.connections() == 0));
    record
}

type Echo = (SimDriver, BTreeMap<ConnId, Vec<u8>>);

fn echo_turn(world: &World, shards: &mut [Echo], shard: usize, record: &mut Vec<String>) {
    let (driver, pending) = &mut shards[shard];
    let mut moved = Vec::new();
    for told in turn(driver) {
        record.push(format!("{shard} {told:?}"));
        match told {
            Accepted(conn) => drop(pending.insert(conn, Vec::new())),
            Received(conn, bytes) => {
                let out = pending.get_mut(&conn).unwrap();
                if world.chance(0.1) {
                    driver.keep(conn, &bytes, None);
                    if world.chance(0.5) {
                        driver.pause(conn);
                        driver.resume(conn);
                    } else {
                        moved.push(conn);
                    }
                } else {
                    out.extend(bytes);
                }
            }
            Sent(_) | Woken => {}
            Closed(conn, _) => {
                pending.remove(&conn);
                moved.retain(|other| *other != conn);
                driver.close(conn, CloseMode::Graceful);
            }
            Frame(..) => unreachable!(),
        }
    }
    for (conn, out) in pending.iter_mut() {
        if !out.is_empty()
            && let Ok(sent) = driver.send(*conn, &[IoSlice::new(out)])
        {
            out.drain(..sent);
        }
    }
    for conn in moved {
        let (driver, pending) = &mut shards[shard];
        let out = pending.remove(&conn).unwrap();
        let socket = driver.detach(conn).unwrap();
        let (other, pending) = &mut shards[1 - shard];
        pending.insert(other.attach(socket).unwrap(), out);
    }
}

#[test]
fn nothing_is_lost_or_reordered_on_a_bad_network() {
    for seed in 0..40 {
        chaos(seed, 0.0);
        chaos(seed, 0.002);
    }
}

#[test]
fn a_seed_names_a_run() {
    assert_eq!(chaos(7, 0.001), chaos(7, 0.001));
    assert_ne!(chaos(7, 0.001), chaos(8, 0.001));
}
