//! Bans: whoever fails too often has to wait, and whoever is listed never comes in.

use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hashbrown::HashMap;

use super::network::Network;

/// Addresses, and users, whose failures are remembered at a time. Beyond it the oldest are forgotten.
const MAX_REMEMBERED: usize = 65_536;

/// Characters of a user name that the log shows.
const MAX_SHOWN: usize = 100;

/// Who is banned, and after what.
#[derive(Clone, Debug, PartialEq)]
pub struct BanSettings {
    /// Failures of an address within `within`; `None`: an address is not banned for them.
    pub failures_by_address: Option<u32>,
    /// Failures of a user name; `None`: a user is not banned for them.
    pub failures_by_user: Option<u32>,
    /// The time in which failures add up.
    pub within: Duration,
    /// How long a ban lasts.
    pub duration: Duration,
    /// Addresses that are banned always.
    pub addresses: Vec<Network>,
    /// Users that are banned always.
    pub users: Vec<String>,
    /// Addresses that are not banned for failures, nor are the users they name.
    pub exempt: Vec<Network>,
    /// Users that are not banned for failures; the address they come from may be.
    pub exempt_users: Vec<String>,
}

/// The failures of one address or user.
#[derive(Clone, Copy, Debug)]
struct Failures {
    count: u32,
    since: Instant,
    banned_until: Option<Instant>,
}

impl Failures {
    /// Whether nothing of it counts any more.
    fn is_over(&self, settings: &BanSettings, now: Instant) -> bool {
        match self.banned_until {
            Some(until) => until <= now,
            None => now.duration_since(self.since) > settings.within,
        }
    }
}

type Table<K> = Mutex<HashMap<K, Failures, foldhash::fast::RandomState>>;

/// The failures of late.
#[derive(Debug, Default)]
pub(super) struct Bans {
    by_address: Table<IpAddr>,
    /// By the hash of the name, which may be long, and is whatever somebody makes up.
    by_user: Table<u64>,
    names: foldhash::fast::RandomState,
}

impl Bans {
    /// Whether the client must not come in.
    pub(super) fn is_banned(
        &self,
        settings: &BanSettings,
        address: IpAddr,
        user: Option<&str>,
        now: Instant,
    ) -> bool {
        let listed = settings.addresses.iter().any(|network| network.contains(address))
            || user.is_some_and(|user| settings.users.iter().any(|banned| banned == user));
        if listed || is_exempt(settings, address) {
            return listed;
        }
        is_banned(&self.by_address, &place(address), now)
            || user.is_some_and(|user| {
                !is_exempt_user(settings, user)
                    && is_banned(&self.by_user, &self.names.hash_one(user), now)
            })
    }

    /// Counts a failure; whoever has had too many is banned.
    pub(super) fn failed(
        &self,
        settings: &BanSettings,
        address: IpAddr,
        user: Option<&str>,
        now: Instant,
    ) {
        if is_exempt(settings, address) {
            return;
        }
        let place = place(address);
        if let Some(most) = settings.failures_by_address
            && count(&self.by_address, place, most, settings, now)
        {
            let duration = settings.duration;
            tracing::warn!("{address} is banned for {duration:?} after {most} failures to log in");
        }
        let user = user.filter(|user| !is_exempt_user(settings, user));
        if let (Some(most), Some(user)) = (settings.failures_by_user, user)
            && count(&self.by_user, self.names.hash_one(user), most, settings, now)
        {
            let duration = settings.duration;
            let user: String = user.chars().take(MAX_SHOWN).collect();
            tracing::warn!(
                "user {user:?} is banned for {duration:?} after {most} failures to log in, the last \
                 from {address}"
            );
        }
    }
}

fn lock<K>(
    table: &Table<K>,
) -> std::sync::MutexGuard<'_, HashMap<K, Failures, foldhash::fast::RandomState>> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_banned<K, Q>(table: &Table<K>, key: &Q, now: Instant) -> bool
where
    K: std::borrow::Borrow<Q> + std::hash::Hash + Eq,
    Q: std::hash::Hash + Eq + ?Sized,
{
    lock(table).get(key).and_then(|one| one.banned_until).is_some_and(|until| now < until)
}

/// Counts a failure; true if a ban begins with it.
fn count<K: std::hash::Hash + Eq>(
    table: &Table<K>,
    key: K,
    most: u32,
    settings: &BanSettings,
    now: Instant,
) -> bool {
    let mut table = lock(table);
    if table.len() >= MAX_REMEMBERED && !table.contains_key(&key) {
        make_room(&mut table, settings, now);
    }
    let fresh = Failures { count: 0, since: now, banned_until: None };
    let one = table.entry(key).or_insert(fresh);
    if one.is_over(settings, now) {
        *one = fresh;
    }
    one.count += 1;
    let begins = one.count >= most && one.banned_until.is_none();
    if begins {
        one.banned_until = Some(now + settings.duration);
    }
    begins
}

/// Forgets what is over, and if that is not enough, the older half.
fn make_room<K: std::hash::Hash + Eq>(
    table: &mut HashMap<K, Failures, foldhash::fast::RandomState>,
    settings: &BanSettings,
    now: Instant,
) {
    table.retain(|_, one| !one.is_over(settings, now));
    if table.len() >= MAX_REMEMBERED {
        let mut since: Vec<Instant> = table.values().map(|one| one.since).collect();
        since.sort_unstable();
        let median = since[since.len() / 2];
        table.retain(|_, one| one.since > median);
    }
}

fn is_exempt(settings: &BanSettings, address: IpAddr) -> bool {
    settings.exempt.iter().any(|network| network.contains(address))
}

fn is_exempt_user(settings: &BanSettings, user: &str) -> bool {
    settings.exempt_users.iter().any(|exempt| exempt == user)
}

/// What counts as one address: of IPv6 the first 64 bits, which one household has.
fn place(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn settings() -> BanSettings {
        BanSettings {
            failures_by_address: Some(3),
            failures_by_user: Some(2),
            within: 10 * SECOND,
            duration: 60 * SECOND,
            addresses: vec!["198.51.100.0/24".parse().unwrap()],
            users: vec!["mallory".to_owned()],
            exempt: vec!["10.0.0.0/8".parse().unwrap()],
            exempt_users: vec!["pump".to_owned()],
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn who_fails_too_often_waits() {
        let (bans, settings, now) = (Bans::default(), settings(), Instant::now());
        let address = ip("192.0.2.1");
        for user in ["a", "b"] {
            bans.failed(&settings, address, Some(user), now);
            assert!(!bans.is_banned(&settings, address, Some("c"), now));
        }
        bans.failed(&settings, address, None, now);
        assert!(bans.is_banned(&settings, address, Some("c"), now));
        assert!(bans.is_banned(&settings, ip("::ffff:192.0.2.1"), None, now));
        assert!(!bans.is_banned(&settings, ip("192.0.2.2"), Some("c"), now));
        assert!(!bans.is_banned(&settings, address, Some("c"), now + 60 * SECOND), "it ends");
        bans.failed(&settings, address, None, now + 60 * SECOND);
        assert!(!bans.is_banned(&settings, address, None, now + 60 * SECOND), "and starts anew");
    }

    #[test]
    fn a_user_is_banned_whatever_its_address() {
        let (bans, settings, now) = (Bans::default(), settings(), Instant::now());
        bans.failed(&settings, ip("192.0.2.1"), Some("a"), now);
        bans.failed(&settings, ip("192.0.2.2"), Some("a"), now + 9 * SECOND);
        assert!(bans.is_banned(&settings, ip("192.0.2.3"), Some("a"), now + 9 * SECOND));
        assert!(!bans.is_banned(&settings, ip("192.0.2.3"), Some("b"), now + 9 * SECOND));
    }

    #[test]
    fn a_user_can_be_exempt_but_not_its_address() {
        let (bans, settings, now) = (Bans::default(), settings(), Instant::now());
        for _ in 0..3 {
            assert!(!bans.is_banned(&settings, ip("192.0.2.1"), Some("pump"), now));
            bans.failed(&settings, ip("192.0.2.1"), Some("pump"), now);
        }
        assert!(!bans.is_banned(&settings, ip("192.0.2.2"), Some("pump"), now));
        assert!(bans.is_banned(&settings, ip("192.0.2.1"), Some("pump"), now));
        // It lifts a ban, too.
        for _ in 0..2 {
            bans.failed(&settings, ip("192.0.2.3"), Some("a"), now);
        }
        assert!(bans.is_banned(&settings, ip("192.0.2.4"), Some("a"), now));
        let lifted = BanSettings { exempt_users: vec!["a".to_owned()], ..settings };
        assert!(!bans.is_banned(&lifted, ip("192.0.2.4"), Some("a"), now));
    }

    #[test]
    fn old_failures_do_not_count() {
        let (bans, settings, now) = (Bans::default(), settings(), Instant::now());
        for seconds in [0, 11, 22, 33] {
            let now = now + seconds * SECOND;
            bans.failed(&settings, ip("192.0.2.1"), Some("a"), now);
            assert!(!bans.is_banned(&settings, ip("192.0.2.1"), Some("a"), now));
        }
    }

    #[test]
    fn lists_go_before_failures() {
        let (bans, settings, now) = (Bans::default(), settings(), Instant::now());
        assert!(bans.is_banned(&settings, ip("198.51.100.7"), None, now));
        assert!(bans.is_banned(&settings, ip("192.0.2.1"), Some("mallory"), now));
        for _ in 0..10 {
            bans.failed(&settings, ip("10.1.1.1"), Some("a"), now);
        }
        assert!(!bans.is_banned(&settings, ip("10.1.1.1"), Some("a"), now));
        assert!(bans.is_banned(&settings, ip("10.1.1.1"), Some("mallory"), now));
    }

    #[test]
    fn ipv6_is_banned_by_its_first_64_bits() {
        let (bans, settings, now) = (Bans::default(), settings(), Instant::now());
        for last in 1..=3 {
            bans.failed(&settings, ip(&format!("2001:db8::{last}")), None, now);
        }
        assert!(bans.is_banned(&settings, ip("2001:db8::ffff:9"), None, now));
        assert!(!bans.is_banned(&settings, ip("2001:db8:0:1::1"), None, now));
    }

    #[test]
    fn memory_is_bounded() {
        let (bans, settings, now) = (Bans::default(), settings(), Instant::now());
        for number in 0..(2 * MAX_REMEMBERED as u32) {
            let now = now + Duration::from_nanos(number.into());
            bans.failed(&settings, std::net::Ipv4Addr::from_bits(number).into(), None, now);
        }
        assert!(lock(&bans.by_address).len() <= MAX_REMEMBERED);
    }
}
