//! Who may connect at all: limits that hold before the first byte is read.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hashbrown::HashMap;

use crate::net::{ClientCertificate, CloseMode, ConnId, Driver};
use crate::timer::Time;

use super::Core;
use super::connection::{Connection, State};
use super::settings::Settings;
use super::timers::Timer;
use super::turnstile::{AcceptRates, AddressRates};
use super::user_rate::UserRates;

/// The limits that count over all shards.
#[derive(Debug)]
pub(crate) struct Admission {
    open: AtomicUsize,
    by_listener: Vec<AtomicUsize>,
    sessions: AtomicUsize,
    subscriptions: AtomicUsize,
    /// What they take, by the count of each shard at the end of its last turn.
    subscription_bytes: AtomicUsize,
    /// Connections of the users whose quotas limit them.
    by_user: Mutex<HashMap<Arc<str>, u32, foldhash::fast::RandomState>>,
    by_address: Mutex<AddressRates>,
    pub(super) user_rates: UserRates,
    pub(super) turnstile: Arc<AcceptRates>,
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
            by_user: Mutex::default(),
            by_address: Mutex::default(),
            user_rates: UserRates::default(),
            turnstile: Arc::new(AcceptRates::new(settings)),
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
        let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        by_address.pass(address, most, now).then_some(()).ok_or(Refusal::AddressRate)
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

    /// Counts one more connection of a user; false if there are enough, and it `replaces` none of them.
    pub(super) fn admit_user(&self, user: &Arc<str>, most: u32, replaces: bool) -> bool {
        let mut by_user = self.by_user.lock().unwrap_or_else(PoisonError::into_inner);
        let open = by_user.get(user).copied().unwrap_or(0);
        let admitted = open < most || replaces;
        if admitted {
            by_user.insert(user.clone(), open + 1);
        }
        admitted
    }

    fn release_user(&self, user: &Arc<str>) {
        let mut by_user = self.by_user.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = by_user.get_mut(user) {
            *open -= 1;
            if *open == 0 {
                by_user.remove(user);
            }
        }
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

impl<S> Core<S> {
    /// Takes in a new connection, or closes it if a limit says so.
    pub(super) fn accepted<D: Driver<Socket = S>>(
        &mut self,
        driver: &mut D,
        id: ConnId,
        listener: usize,
        peer: SocketAddr,
    ) {
        self.follow_settings();
        self.stats.accepted.add(1);
        let of_listener = self.settings.listeners.get(listener);
        let has_tls = of_listener.is_some_and(|listener| listener.handshake_timeout.is_some());
        if has_tls && let Some((_, detail)) = self.is_slow() {
            // An answer would cost a handshake.
            self.stats.refused.add(1);
            self.stats.overload_refusals.add(1);
            self.log.client(self.now, peer, "", detail);
            driver.close(id, CloseMode::Abort);
            return;
        }
        let admitted = self.shared.admission.admit(&self.settings, listener, peer.ip(), self.now);
        if let Err(refusal) = admitted {
            self.stats.refused.add(1);
            self.log.client(self.now, peer, "", refusal.text());
            driver.close(id, CloseMode::Abort);
            return;
        }
        self.add_connection(id, listener, peer);
        self.await_handshake(id, listener);
    }

    /// Gives a new connection time for its TLS handshake, if there is one to come.
    fn await_handshake(&mut self, id: ConnId, listener: usize) {
        let timeout = self.settings.listeners.get(listener).and_then(|one| one.handshake_timeout);
        if let (Some(timeout), Some(connection)) = (timeout, self.connections.get_mut(id)) {
            connection.state = State::Handshaking;
            self.set_deadline(id, timeout);
        }
    }

    /// A connection may begin with CONNECT now; its client may have shown a certificate.
    pub(super) fn handshake_done(&mut self, id: ConnId, certificate: Option<ClientCertificate>) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.certificate = certificate;
        if connection.state == State::Handshaking {
            connection.state = State::AwaitingConnect;
            self.set_deadline(id, self.settings.connect_timeout);
        }
    }

    /// Sets the timer of a connection anew.
    fn set_deadline(&mut self, id: ConnId, timeout: Duration) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let timer = self.timers.insert(self.now.plus(timeout), Timer::Connection(id));
        if let Some(before) = connection.timer.replace(timer) {
            self.timers.cancel(before);
        }
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

    /// Makes the state of a connection that was admitted, here or by another shard.
    pub(super) fn add_connection(&mut self, id: ConnId, listener: usize, peer: SocketAddr) {
        self.follow_settings();
        let listener = u16::try_from(listener).unwrap_or(u16::MAX);
        let max_packet_size = self.settings.terms(listener).max_packet_size;
        let connection = Connection::new(listener, peer, max_packet_size, self.now);
        self.connections.insert(id, connection);
        self.set_deadline(id, self.settings.connect_timeout);
    }

    /// A connection counts no more among those of its user.
    pub(super) fn release_user(&mut self, id: ConnId) {
        let connection = self.connections.get_mut(id);
        let allotment = connection.and_then(|connection| connection.allotment.as_mut());
        if let Some(user) = allotment.and_then(|allotment| allotment.take_user()) {
            self.shared.admission.release_user(&user);
        }
    }

    /// Forgets a connection that the driver has closed.
    pub(super) fn drop_connection(&mut self, id: ConnId) {
        if let Some(timer) = self.authentication.forget(id) {
            self.timers.cancel(timer);
        }
        if let Some(connection) = self.connections.remove(id) {
            self.long_packets.forget(id);
            debug_assert_eq!(connection.state, State::Closing);
            let rate = connection.allotment.and_then(|mut allotment| allotment.take_timer());
            for timer in connection.timer.into_iter().chain(rate) {
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
        let listener = ListenerSettings { max_connections: 2, ..ListenerSettings::for_tests() };
        Settings {
            listeners: vec![listener; 2],
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
    fn connections_of_a_user_are_counted_down_again() {
        let admission = Admission::new(&settings());
        let [alice, bob] = ["alice", "bob"].map(Arc::from);
        let admit = |replaces| admission.admit_user(&alice, 2, replaces);
        assert_eq!([admit(false), admit(false), admit(false)], [true, true, false]);
        assert!(admission.admit_user(&bob, 2, false));
        assert!(admit(true), "it takes the place of another");
        admission.release_user(&alice);
        assert!(!admit(false));
        admission.release_user(&alice);
        assert!(admit(false));
        for user in [&alice, &alice, &bob] {
            admission.release_user(user);
        }
        assert!(admission.by_user.lock().unwrap().is_empty());
    }
}
