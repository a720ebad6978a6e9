//! The end of a turn: every touched connection is written once.

use std::io;

use crate::net::{Arena, CloseMode, ConnId, Driver};
use crate::timer::Time;

use super::Core;
use super::connection::State;
use super::outbox::TurnBuffers;
use super::timers::Timer;

/// How long a connection that is to close may take to read what was written to it.
const CLOSE_PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

/// Memory that the scratch buffer keeps between flushes.
const SCRATCH_KEPT: usize = 1024 * 1024;

/// Writes what the turn produced so far, then gives the turn's buffers free.
pub(super) fn flush<D: Driver>(core: &mut Core<D::Socket>, driver: &mut D, arena: &mut Arena) {
    flush_output(core, driver, arena);
    arena.reset();
}

/// Writes what the turn produced so far; what was read stays where it is.
pub(super) fn flush_output<D: Driver>(core: &mut Core<D::Socket>, driver: &mut D, arena: &Arena) {
    let mut touched = std::mem::take(&mut core.connections.touched);
    for id in touched.drain(..) {
        if let Some(connection) = core.connections.get_mut(id) {
            connection.touched = false;
        }
        flush_one(core, driver, arena, id);
    }
    core.connections.touched = touched;
    core.connections.scratch.clear();
    core.connections.scratch.shrink_to(SCRATCH_KEPT);
    let written = std::mem::take(&mut core.connections.written);
    core.stats.packets_sent.add(written.packets);
    core.stats.publishes_sent.add(written.publishes);
    for (counter, count) in core.stats.dropped.iter().zip(written.dropped) {
        counter.add(count);
    }
}

/// There is room again: writes what waits, and then what the session kept back meanwhile.
pub(super) fn drained<D: Driver>(
    core: &mut Core<D::Socket>,
    driver: &mut D,
    arena: &Arena,
    id: ConnId,
) {
    let Some(connection) = core.connections.get_mut(id) else { return };
    connection.blocked = false;
    if connection.held {
        // It reads: the sign of life that it can give while it is not read.
        connection.last_received = core.now;
    }
    flush_one(core, driver, arena, id);
    let Some(connection) = core.connections.get_mut(id) else { return };
    if connection.held_for_output && !connection.ignores_answers(core.settings.qos0_backlog_bytes) {
        connection.held_for_output = false;
        core.resumed.push(id);
    }
    if !connection.blocked {
        core.pump(id);
    }
}

impl<S> Core<S> {
    /// Has the session of a connection send what it kept back.
    pub(super) fn pump(&mut self, id: ConnId) {
        if let Some(mut out) = self.connections.live_out(id, &self.settings) {
            let key = out.connection.session;
            out.connection.pumps = false;
            if let Some(slot) = self.sessions.get_mut(key) {
                slot.session.pump(self.now, &mut out);
                self.relieve(key);
            }
        }
    }
}

fn flush_one<D: Driver>(core: &mut Core<D::Socket>, driver: &mut D, arena: &Arena, id: ConnId) {
    let now = core.now;
    let connections = &mut core.connections;
    let scratch = std::mem::take(&mut connections.scratch);
    let turn = TurnBuffers { arena: arena.all(), scratch: &scratch };
    let mut broken = false;
    let mut freed = None;
    if let Some(connection) = connections.get_mut(id)
        && let Some(mut outbox) = connection.outbox.take()
    {
        if std::mem::take(&mut connection.expects) {
            driver.expect(id);
        }
        if !connection.blocked {
            match write(driver, id, &mut outbox, turn) {
                Ok((sent, all)) => {
                    core.stats.bytes_sent.add(sent);
                    connection.blocked = !all;
                }
                Err(_) => broken = true,
            }
        }
        if outbox.is_empty() || broken {
            freed = Some(outbox);
            if connection.pumps {
                core.pumping.push(id);
            }
        } else {
            outbox.settle(turn);
            connection.outbox = Some(outbox);
        }
    }
    connections.scratch = scratch;
    if let Some(outbox) = freed {
        connections.pool.give(outbox);
    }
    finish(core, driver, id, broken, now);
}

/// Closes the connection if it is to be closed and has nothing left to write.
fn finish<D: Driver>(
    core: &mut Core<D::Socket>,
    driver: &mut D,
    id: ConnId,
    broken: bool,
    now: Time,
) {
    let Some(connection) = core.connections.get_mut(id) else { return };
    if connection.state != State::Closing {
        // A broken connection that still counts as open completes as closed by itself.
        return;
    }
    if broken || connection.outbox.is_none() {
        driver.close(id, if broken { CloseMode::Abort } else { connection.close_mode });
        core.drop_connection(id);
    } else if connection.timer.is_none() {
        // A stop says itself how long it takes.
        let at = core.stopping.deadline().unwrap_or(now.plus(CLOSE_PATIENCE));
        connection.timer = Some(core.timers.insert(at, Timer::Connection(id)));
    }
}

/// Writes as much as the kernel takes; says how many bytes, and whether that was everything.
fn write<D: Driver>(
    driver: &mut D,
    id: ConnId,
    outbox: &mut super::outbox::Outbox,
    turn: TurnBuffers<'_>,
) -> io::Result<(u64, bool)> {
    let mut sent = 0;
    loop {
        let last = outbox.fits_one_write();
        let slices = outbox.slices(turn);
        let wanted: usize = slices.iter().map(|slice| slice.len()).sum();
        let taken = driver.send(id, &slices)?;
        drop(slices);
        outbox.advance(taken);
        sent += taken as u64;
        if taken < wanted {
            return Ok((sent, false));
        }
        if last {
            return Ok((sent, true));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::connection::MAX_UNFLUSHED;
    use super::super::settings::Settings;
    use super::super::{Shard, Shared};
    use crate::hooks::Hooks;
    use crate::mqtt::{PacketId, Property, PublishOut, QoS, Version, encode_publish};
    use crate::net::ConnId;
    use crate::net::sim::{ClientId, Faults, SimDriver, SimOptions, World};
    use crate::session::SessionLimits;

    const BUFFER: usize = 64 * 1024;
    const BACKLOG: usize = 8 * 1024;
    const RECEIVERS: usize = 60;

    /// A shard with many subscribers of `t` who do not read.
    struct Rig {
        world: World,
        shard: Shard<SimDriver>,
    }

    impl Rig {
        fn new() -> Self {
            let session = SessionLimits { max_inflight: 10_000, ..SessionLimits::default() };
            let settings =
                Settings { qos0_backlog_bytes: BACKLOG, session, ..Settings::for_tests() };
            let shared = Shared::new(settings, Hooks::default(), 1, 1).into();
            let world = World::new(1, SimOptions { faults: Faults::NONE, buffer_bytes: BUFFER });
            let shard = Shard::assemble(vec![world.add_driver()], &shared).remove(0);
            let mut rig = Self { world, shard };
            for name in 0..RECEIVERS as u8 {
                let receiver = rig.connect(b'A' + name);
                rig.send(receiver, b"\x82\x07\x00\x01\x00\x00\x01t\x01");
                rig.turns(3);
            }
            rig
        }

        fn connect(&mut self, name: u8) -> ClientId {
            let client = self.world.connect();
            let connect = b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x01";
            self.send(client, &[&connect[..], &[name]].concat());
            self.turns(3);
            client
        }

        fn send(&self, client: ClientId, bytes: &[u8]) {
            assert_eq!(self.world.client_send(client, bytes).expect("it is open"), bytes.len());
        }

        fn turns(&mut self, count: usize) {
            for _ in 0..count {
                assert!(self.shard.turn(false).expect("a simulated driver does not fail"));
            }
        }

        /// The most that waits for one connection.
        fn backlog(&self) -> usize {
            let connections = &self.shard.core.connections;
            let backlogs = (0..200).filter_map(|id| Some(connections.get(ConnId(id))?.backlog()));
            backlogs.max().expect("there are connections")
        }
    }

    /// A QoS 1 message on `t` with a payload and User Properties of these lengths.
    fn message(id: u16, payload: usize, user_properties: &[usize]) -> Vec<u8> {
        let mut properties = Vec::new();
        for len in user_properties {
            Property::UserProperty("", &"x".repeat(*len)).encode(&mut properties);
        }
        let payload = vec![b'.'; payload];
        let publish = PublishOut {
            qos: QoS::AtLeastOnce,
            packet_id: PacketId::new(id),
            properties: &properties,
            ..PublishOut::new(b"t", &payload)
        };
        let mut frame = Vec::new();
        encode_publish(Version::V5, &publish, &mut frame);
        frame
    }

    /// Who was only answered, or sent a message at QoS 0, is not.
    #[test]
    fn who_is_to_acknowledge_something_is_expected_to() {
        let mut rig = Rig::new();
        let publisher = rig.connect(b'!');
        let expected = |rig: &Rig| {
            let all = (0..=RECEIVERS as u32).map(ConnId);
            all.filter(|id| rig.shard.driver.has_expected(*id)).map(|id| id.0).collect::<Vec<_>>()
        };
        assert!(expected(&rig).is_empty());
        rig.send(publisher, b"\x30\x05\x00\x01t\x00.");
        rig.turns(3);
        assert!(expected(&rig).is_empty());
        rig.send(publisher, &message(1, 1, &[]));
        rig.turns(3);
        let receivers: Vec<u32> = (0..RECEIVERS as u32).collect();
        assert_eq!(expected(&rig), receivers);
        rig.send(publisher, b"\x34\x07\x00\x01t\x00\x02\x00.");
        rig.turns(3);
        assert_eq!(expected(&rig), receivers, "PUBREC");
    }

    /// A turn that reads 60 KiB from one publisher for many who do not read: each is written to before
    /// all of it is there, and found to be slow.
    #[test]
    fn output_is_flushed_in_the_middle_of_a_turn() {
        let mut rig = Rig::new();
        let publisher = rig.connect(b'!');
        let flood: Vec<u8> = (1..=1_600).flat_map(|id| message(id, 29, &[])).collect();
        // The first time it is the network that takes it.
        for _ in 0..2 {
            rig.send(publisher, &flood);
            rig.turns(3);
        }
        let most = rig.backlog();
        assert!(most <= BACKLOG + MAX_UNFLUSHED / RECEIVERS + 100, "{most} bytes wait");
    }

    /// So is a turn in which many a large frame becomes complete, whose properties are copied.
    #[test]
    fn output_is_flushed_between_large_frames() {
        let mut rig = Rig::new();
        let publishers: Vec<_> = (1..=5).map(|name| rig.connect(name)).collect();
        let frame = message(1, 0, &[50_000, 50_000]);
        let (first, rest) = frame.split_at(frame.len() / 2);
        for part in [first, rest] {
            for publisher in &publishers {
                rig.send(*publisher, part);
            }
            rig.turns(1);
        }
        let most = rig.backlog();
        assert!(most > 0 && most <= frame.len(), "{most} bytes wait");
    }
}
