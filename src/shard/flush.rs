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
    if connection.held_for_itself {
        // It reads: the sign of life that it can give while it is not read.
        connection.last_received = core.now;
    }
    flush_one(core, driver, arena, id);
    let Some(connection) = core.connections.get_mut(id) else { return };
    if connection.held_for_itself && !connection.ignores_answers(core.settings.qos0_backlog_bytes) {
        connection.held_for_itself = false;
        core.resumed.push(id);
    }
    let key = connection.session;
    if !connection.blocked
        && let Some(slot) = core.sessions.get_mut(key)
        && let Some(mut out) = core.connections.live_out(id, &core.settings)
    {
        slot.session.pump(core.now, &mut out);
        core.relieve(key);
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
    use super::super::settings::Settings;
    use super::super::{Shard, Shared};
    use crate::hooks::Hooks;
    use crate::net::ConnId;
    use crate::net::sim::{Faults, SimOptions, World};
    use crate::session::SessionLimits;

    /// A turn that reads 60 KiB from one publisher for many who do not read: each is written to before
    /// all of it is there, and found to be slow.
    #[test]
    fn output_is_flushed_in_the_middle_of_a_turn() {
        const BUFFER: usize = 64 * 1024;
        const BACKLOG: usize = 8 * 1024;
        const RECEIVERS: usize = 60;
        let session = SessionLimits { max_inflight: 10_000, ..SessionLimits::default() };
        let settings = Settings { qos0_backlog_bytes: BACKLOG, session, ..Settings::for_tests() };
        let shared = Shared::new(settings, Hooks::default(), 1, 1).into();
        let world = World::new(1, SimOptions { faults: Faults::NONE, buffer_bytes: BUFFER });
        let mut shard = Shard::assemble(vec![world.add_driver()], &shared).remove(0);
        let mut connect = |name: u8, then: &[u8]| {
            let client = world.connect();
            let connect =
                [b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01".as_slice(), &[name], then];
            world.client_send(client, &connect.concat()).expect("there is room");
            for _ in 0..3 {
                assert!(shard.turn(false).expect("a simulated driver does not fail"));
            }
            client
        };
        for name in 0..RECEIVERS as u8 {
            connect(b'A' + name, b"\x82\x06\x00\x01\x00\x01t\x01");
        }
        let publisher = connect(b'!', b"");
        let message = |id: u16| {
            let head = [0x32, 35, 0, 1, b't', (id >> 8) as u8, id as u8];
            [&head[..], &[b'.'; 30]].concat()
        };
        let flood: Vec<u8> = (1..=1_600).flat_map(message).collect();
        // The first time it is the network that takes it.
        for _ in 0..2 {
            world.client_send(publisher, &flood).expect("there is room");
            for _ in 0..3 {
                assert!(shard.turn(false).expect("a simulated driver does not fail"));
            }
        }
        let backlogs =
            (0..200).filter_map(|id| Some(shard.core.connections.get(ConnId(id))?.backlog()));
        let most = backlogs.max().expect("there are connections");
        let part = super::super::connection::MAX_UNFLUSHED / RECEIVERS;
        assert!(most <= BACKLOG + part + 100, "{most} bytes wait");
    }
}
