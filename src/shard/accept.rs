//! Who may connect at all: limits that hold before the first byte is read.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use hashbrown::HashMap;

use crate::net::{CloseMode, ConnId, Driver};
use crate::timer::Time;

use super::Core;
use super::connection::{Connection, State};
use super::settings::Settings;
use super::timers::Timer;

/// Addresses remembered in one second, at most; beyond that all of them count as one.
const MAX_ADDRESSES: usize = 65_536;

/// The limits that count over all shards.
#[derive(Debug)]
pub(crate) struct Admission {
    open: AtomicUsize,
    by_listener: Vec<AtomicUsize>,
    sessions: AtomicUsize,
    subscriptions: AtomicUsize,
    /// What they take, by the count of each shard at the end of its last turn.
    subscription_bytes: AtomicUsize,
    rate: Mutex<Rate>,
}

#[derive(Debug, Default)]
struct Rate {
    second: u64,
    by_address: HashMap<IpAddr, u32, foldhash::fast::RandomState>,
}

/// Which limit a connection met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    Connections,
    ListenerConnections,
    AddressRate,
    NoProxy,
}

impl Refusal {
    fn text(self) -> &'static str {
        match self {
            Self::Connections => "max_connections is reached",
            Self::ListenerConnections => "max_connections of the listener is reached",
            Self::AddressRate => "connections_per_second_per_address is reached",
            Self::NoProxy => "is not in proxy_from of the listener",
        }
    }
}

impl Admission {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            open: AtomicUsize::new(0),
            sessions: AtomicUsize::new(0),
            subscriptions: AtomicUsize::new(0),
            subscription_bytes: AtomicUsize::new(0),
            by_listener: settings.listeners.iter().map(|_| AtomicUsize::new(0)).collect(),
            rate: Mutex::default(),
        }
    }

    fn admit(
        &self,
        settings: &Settings,
        listener: usize,
        address: IpAddr,
        now: Time,
    ) -> Result<(), Refusal> {
        match settings.listeners.get(listener).and_then(|listener| listener.proxies.as_ref()) {
            None => self.check_rate(settings, address, now)?,
            // The rate is that of whom it brings.
            Some(proxies) if proxies.iter().any(|network| network.contains(address)) => {}
            Some(_) => return Err(Refusal::NoProxy),
        }
        if self.open.fetch_add(1, Ordering::Relaxed) >= settings.max_connections {
            self.open.fetch_sub(1, Ordering::Relaxed);
            return Err(Refusal::Connections);
        }
        if let (Some(open), Some(limit)) =
            (self.by_listener.get(listener), settings.listeners.get(listener))
            && open.fetch_add(1, Ordering::Relaxed) >= limit.max_connections
        {
            self.release(listener);
            return Err(Refusal::ListenerConnections);
        }
        Ok(())
    }

    fn check_rate(&self, settings: &Settings, address: IpAddr, now: Time) -> Result<(), Refusal> {
        let Some(most) = settings.connections_per_second_per_address else { return Ok(()) };
        let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        let second = now.0 / 1000;
        if rate.second != second {
            rate.second = second;
            rate.by_address.clear();
        }
        let known = rate.by_address.len() < MAX_ADDRESSES || rate.by_address.contains_key(&address);
        let key = if known { address } else { IpAddr::from([0, 0, 0, 0]) };
        let count = rate.by_address.entry(key).or_insert(0);
        if *count >= most {
            return Err(Refusal::AddressRate);
        }
        *count += 1;
        Ok(())
    }

    /// Counts one more session; false if there are enough.
    pub(super) fn admit_session(&self, settings: &Settings) -> bool {
        let admitted = self.sessions.fetch_add(1, Ordering::Relaxed) < settings.max_sessions;
        if !admitted {
            self.release_session();
        }
        admitted
    }

    /// Counts a session that is there whatever the limit.
    pub(super) fn add_session(&self) {
        self.sessions.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn release_session(&self) {
        self.sessions.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts one more subscription; false if there are enough.
    pub(super) fn admit_subscription(&self, settings: &Settings) -> bool {
        let before = self.subscriptions.fetch_add(1, Ordering::Relaxed);
        let admitted = before < settings.max_subscriptions;
        if !admitted {
            self.release_subscription();
        }
        admitted
    }

    /// What subscriptions take, on all shards.
    pub(super) fn subscription_bytes(&self) -> usize {
        self.subscription_bytes.load(Ordering::Relaxed)
    }

    /// What they take on one shard has changed.
    pub(super) fn change_subscription_bytes(&self, from: usize, to: usize) {
        self.subscription_bytes.fetch_add(to.wrapping_sub(from), Ordering::Relaxed);
    }

    /// Counts a subscription that is there whatever the limit.
    pub(super) fn add_subscription(&self) {
        self.subscriptions.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn release_subscription(&self) {
        self.subscriptions.fetch_sub(1, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(super) fn subscriptions(&self) -> usize {
        self.subscriptions.load(Ordering::Relaxed)
    }

    pub(super) fn release(&self, listener: usize) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        if let Some(open) = self.by_listener.get(listener) {
            open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// How many connections this shard accepted in the present second.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Accepting {
    second: u64,
    count: u32,
    paused: bool,
    /// The pause is over.
    pub(super) resume: bool,
}

impl<S> Core<S> {
    /// Takes in a new connection, or closes it if a limit says so.
    pub(super) fn accepted<D: Driver<Socket = S>>(
        &mut self,
        driver: &mut D,
        id: ConnId,
        listener: usize,
        peer: SocketAddr,
    ) {
        self.stats.accepted.add(1);
        self.count_accepted(driver);
        let admitted = self.shared.admission.admit(&self.settings, listener, peer.ip(), self.now);
        if let Err(refusal) = admitted {
            self.stats.refused.add(1);
            self.log.client(self.now, peer, "", refusal.text());
            driver.close(id, CloseMode::Abort);
            return;
        }
        self.add_connection(id, listener, peer);
    }

    /// A proxy has said whose connection this is.
    pub(super) fn relayed<D: Driver<Socket = S>>(
        &mut self,
        driver: &mut D,
        id: ConnId,
        peer: SocketAddr,
    ) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.peer = peer;
        let admitted = self.shared.admission.check_rate(&self.settings, peer.ip(), self.now);
        if let Err(refusal) = admitted {
            self.stats.refused.add(1);
            self.log.client(self.now, peer, "", refusal.text());
            connection.state = State::Closing;
            driver.close(id, CloseMode::Abort);
            self.drop_connection(id);
        }
    }

    /// Stops accepting for the rest of a second in which enough have come.
    fn count_accepted<D: Driver<Socket = S>>(&mut self, driver: &mut D) {
        let Some(most) = self.settings.connections_per_second else { return };
        let second = self.now.0 / 1000;
        if self.accepting.second != second {
            self.accepting = Accepting { second, count: 0, ..self.accepting };
        }
        self.accepting.count += 1;
        if self.accepting.count >= (most / u32::from(self.shards)).max(1) && !self.accepting.paused
        {
            self.accepting.paused = true;
            driver.pause_accepting();
            let next = Time((second + 1) * 1000);
            self.timers.insert(next, Timer::Accept);
        }
    }

    /// Accepts again when a new second has begun.
    pub(super) fn accept_again<D: Driver<Socket = S>>(&mut self, driver: &mut D) {
        if std::mem::take(&mut self.accepting.resume) && !self.stopping.is_stopping() {
            self.accepting.paused = false;
            driver.resume_accepting();
        }
    }

    /// Makes the state of a connection that was admitted, here or by another shard.
    pub(super) fn add_connection(&mut self, id: ConnId, listener: usize, peer: SocketAddr) {
        let listener = u16::try_from(listener).unwrap_or(u16::MAX);
        let mut connection = Connection::new(listener, peer, self.now);
        let deadline = self.now.plus(self.settings.connect_timeout);
        connection.timer = Some(self.timers.insert(deadline, Timer::Connection(id)));
        self.connections.insert(id, connection);
    }

    /// Forgets a connection that the driver has closed.
    pub(super) fn drop_connection(&mut self, id: ConnId) {
        if let Some(timer) = self.authentication.forget(id) {
            self.timers.cancel(timer);
        }
        if let Some(connection) = self.connections.remove(id) {
            debug_assert_eq!(connection.state, State::Closing);
            if let Some(timer) = connection.timer {
                self.timers.cancel(timer);
            }
            self.shared.admission.release(usize::from(connection.listener));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::ListenerSettings;
    use super::*;

    const NOW: Time = Time(5_000);

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn settings() -> Settings {
        Settings {
            listeners: vec![ListenerSettings { max_connections: 2, proxies: None }; 2],
            max_connections: 3,
            max_sessions: 2,
            connections_per_second_per_address: None,
            ..Settings::for_tests()
        }
    }

    #[test]
    fn whoever_is_refused_takes_no_place() {
        let settings = settings();
        let admission = Admission::new(&settings);
        let admit = |listener| admission.admit(&settings, listener, address(1), NOW);
        assert_eq!([admit(0), admit(0)], [Ok(()); 2]);
        for _ in 0..5 {
            assert_eq!(admit(0), Err(Refusal::ListenerConnections));
        }
        assert_eq!(admit(1), Ok(()), "those refused do not count over all");
        for _ in 0..5 {
            assert_eq!(admit(1), Err(Refusal::Connections));
        }
        admission.release(0);
        assert_eq!(admit(1), Ok(()), "those refused do not count for their listener");
        assert_eq!(admit(1), Err(Refusal::Connections));
    }

    #[test]
    fn sessions_are_counted_down_again() {
        let settings = settings();
        let admission = Admission::new(&settings);
        let admitted = [(); 4].map(|()| admission.admit_session(&settings));
        assert_eq!(admitted, [true, true, false, false]);
        admission.release_session();
        assert!(admission.admit_session(&settings));
    }

    #[test]
    fn an_address_has_its_rate_anew_each_second() {
        let settings = Settings {
            connections_per_second_per_address: Some(2),
            max_connections: usize::MAX,
            ..settings()
        };
        let admission = Admission::new(&settings);
        let check = |last, now| admission.check_rate(&settings, address(last), now);
        assert_eq!([1, 1, 1, 2].map(|last| check(last, NOW).is_ok()), [true, true, false, true]);
        assert_eq!(check(1, Time(NOW.0 + 999)), Err(Refusal::AddressRate));
        assert_eq!(check(1, Time(NOW.0 + 1000)), Ok(()));
    }
}
