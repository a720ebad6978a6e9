//! One connection of the simulated network: two pipes and who holds their ends.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;

use fastrand::Rng;

use super::Faults;
use crate::net::driver::CloseCause;
use crate::timer::Time;

/// One direction of a connection. Bytes arrive in order, each chunk after a delay of its own.
#[derive(Debug)]
pub(super) struct Pipe {
    flight: VecDeque<(Time, Vec<u8>)>,
    arrived: VecDeque<u8>,
    /// Bytes in flight and arrived: what the buffer limit counts.
    size: usize,
    capacity: usize,
    /// Nothing arrives before this.
    last: Time,
    end: Option<(Time, CloseCause)>,
}

impl Pipe {
    fn new(capacity: usize) -> Self {
        let capacity = capacity.max(1);
        let (flight, arrived) = (VecDeque::new(), VecDeque::new());
        Self { flight, arrived, size: 0, capacity, last: Time(0), end: None }
    }

    pub(super) fn room(&self) -> usize {
        self.capacity - self.size
    }

    pub(super) fn is_empty(&self) -> bool {
        self.size == 0
    }

    fn arrival(&mut self, now: Time, faults: &Faults, rng: &mut Rng) -> Time {
        self.last = self.last.max(faults.delayed(now, rng));
        self.last
    }

    /// Takes what there is room for, or less if the faults will it.
    pub(super) fn write(
        &mut self,
        bytes: &[u8],
        now: Time,
        faults: &Faults,
        rng: &mut Rng,
    ) -> usize {
        let mut len = bytes.len().min(self.room());
        if len > 0 && faults.hits(faults.short_write, rng) {
            len = rng.usize(0..len);
        }
        if len > 0 && self.end.is_none() {
            let at = self.arrival(now, faults, rng);
            self.flight.push_back((at, bytes.iter().take(len).copied().collect()));
            self.size += len;
        }
        len
    }

    /// How many bytes can be read by now.
    pub(super) fn settle(&mut self, now: Time) -> usize {
        while self.flight.front().is_some_and(|(at, _)| *at <= now) {
            self.arrived.extend(self.flight.pop_front().into_iter().flat_map(|(_, chunk)| chunk));
        }
        self.arrived.len()
    }

    /// Takes out arrived bytes, at most `most` of them, perhaps fewer.
    pub(super) fn read(
        &mut self,
        most: usize,
        now: Time,
        faults: &Faults,
        rng: &mut Rng,
    ) -> impl ExactSizeIterator<Item = u8> {
        let mut len = self.settle(now).min(most);
        if len > 1 && faults.hits(faults.short_read, rng) {
            len = rng.usize(1..len);
        }
        self.size -= len;
        self.arrived.drain(..len)
    }

    /// How the direction ended, if all before that was read.
    pub(super) fn ended(&mut self, now: Time) -> Option<CloseCause> {
        let (at, cause) = self.end.clone()?;
        (at <= now && self.settle(now) == 0).then_some(cause)
    }

    fn is_reset(&self, now: Time) -> bool {
        self.end.as_ref().is_some_and(|(at, cause)| *at <= now && *cause == CloseCause::Reset)
    }

    /// Ends the direction behind what was written.
    fn finish(&mut self, cause: CloseCause, now: Time, faults: &Faults, rng: &mut Rng) {
        if self.end.is_none() {
            self.end = Some((self.arrival(now, faults, rng), cause));
        }
    }

    /// Ends the direction by a reset, which may overtake some of what was written.
    fn cut(&mut self, now: Time, faults: &Faults, rng: &mut Rng) {
        let keep = rng.usize(0..=self.flight.len());
        for (_, chunk) in self.flight.drain(keep..) {
            self.size -= chunk.len();
        }
        self.end = Some((self.arrival(now, faults, rng), CloseCause::Reset));
    }

    fn drain(&mut self) {
        self.flight.clear();
        self.arrived.clear();
        self.size = 0;
    }

    /// When something arrives next, after `now`.
    pub(super) fn next_arrival(&self, now: Time) -> Option<Time> {
        let chunk = self.flight.front().map(|(at, _)| *at);
        let end = self.end.as_ref().map(|(at, _)| *at);
        chunk.into_iter().chain(end).filter(|at| *at > now).min()
    }
}

/// The broker's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Server {
    /// In a backlog, a driver, or on the way between two.
    Open,
    /// Closed gracefully: what comes is discarded.
    Lingers,
    /// Closed.
    Gone,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) peer: SocketAddr,
    /// From the client.
    pub(super) up: Pipe,
    /// To the client.
    pub(super) down: Pipe,
    pub(super) server: Server,
    pub(super) client_open: bool,
    pub(super) client_stalled: bool,
    /// The broker sent to a client that is gone.
    refused: bool,
}

impl Link {
    pub(super) fn new(peer: SocketAddr, buffer_bytes: usize) -> Self {
        Self {
            peer,
            up: Pipe::new(buffer_bytes),
            down: Pipe::new(buffer_bytes),
            server: Server::Open,
            client_open: true,
            client_stalled: false,
            refused: false,
        }
    }

    /// Nobody holds an end any more.
    pub(super) fn is_dead(&self) -> bool {
        !self.client_open && self.server != Server::Open
    }

    /// The broker sends.
    pub(super) fn server_send(
        &mut self,
        bytes: &[u8],
        now: Time,
        faults: &Faults,
        rng: &mut Rng,
    ) -> io::Result<usize> {
        if self.refused || self.up.is_reset(now) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if !self.client_open {
            self.refused = true;
            return Ok(bytes.len());
        }
        Ok(self.down.write(bytes, now, faults, rng))
    }

    /// The broker closes its end.
    pub(super) fn server_close(
        &mut self,
        graceful: bool,
        now: Time,
        faults: &Faults,
        rng: &mut Rng,
    ) {
        if graceful {
            self.server = Server::Lingers;
            self.down.finish(CloseCause::PeerClosed, now, faults, rng);
        } else {
            self.server = Server::Gone;
            if self.up.is_empty() {
                self.down.finish(CloseCause::PeerClosed, now, faults, rng);
            } else {
                self.down.cut(now, faults, rng);
            }
        }
        self.up.drain();
    }

    /// The client sends.
    pub(super) fn client_send(
        &mut self,
        bytes: &[u8],
        now: Time,
        faults: &Faults,
        rng: &mut Rng,
    ) -> io::Result<usize> {
        if !self.client_open || self.up.end.is_some() || self.down.is_reset(now) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        match self.server {
            Server::Open => Ok(self.up.write(bytes, now, faults, rng)),
            Server::Lingers => Ok(bytes.len()),
            Server::Gone => {
                self.down.cut(now, faults, rng);
                Ok(bytes.len())
            }
        }
    }

    /// The client says that it sends no more.
    pub(super) fn client_shutdown(&mut self, now: Time, faults: &Faults, rng: &mut Rng) {
        self.up.finish(CloseCause::PeerClosed, now, faults, rng);
    }

    /// Neither direction has an end yet.
    pub(super) fn is_whole(&self) -> bool {
        self.up.end.is_none() && self.down.end.is_none()
    }

    /// The client closes; by a reset if there is something it has not read, as a kernel does.
    pub(super) fn client_close(&mut self, now: Time, faults: &Faults, rng: &mut Rng) {
        self.client_open = false;
        let unread = self.down.settle(now) > 0;
        let cause = if unread { CloseCause::Reset } else { CloseCause::PeerClosed };
        self.up.finish(cause, now, faults, rng);
        self.down.drain();
    }

    /// The network, or the client, resets the connection.
    pub(super) fn reset(&mut self, now: Time, faults: &Faults, rng: &mut Rng) {
        self.up.cut(now, faults, rng);
        self.down.cut(now, faults, rng);
    }
}
