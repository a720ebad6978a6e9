//! The links of the chain, and what each says of a client.

use std::net::IpAddr;
use std::time::{Instant, SystemTime};

use crate::hooks::{Client, Denial, Login};

use super::access::{AccessError, AccessSettings};
use super::acl::Acl;
use super::ban::BanSettings;
use super::http::Server;
use super::jwt::Tokens;
use super::password_file::{Known, PasswordFile};
use super::scram::Verifier;

/// A link that a listener may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Clients without a User Name come in.
    Anonymous,
    /// The password file.
    PasswordFile,
    /// Tokens.
    Jwt,
    /// The server.
    Http,
}

/// Who a client says it is.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) client_id: Box<str>,
    pub(super) user: Option<Box<str>>,
    pub(super) password: Option<Box<[u8]>>,
    pub(super) address: IpAddr,
}

impl Claim {
    pub(super) fn of(client: &Client<'_>, password: Option<&[u8]>) -> Self {
        Self {
            client_id: client.client_id.into(),
            user: client.username.map(Into::into),
            password: password.map(Into::into),
            address: client.peer.ip(),
        }
    }
}

/// What a link says.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    Allow(Login),
    /// With `is_guess` it counts as a failure to log in.
    Deny {
        denial: Denial,
        is_guess: bool,
    },
    /// It is for the next one to say.
    Pass,
}

impl Verdict {
    pub(super) const GUESS: Self =
        Self::Deny { denial: Denial::BadUserNameOrPassword, is_guess: true };
    pub(super) const NOT_AUTHORIZED: Self =
        Self::Deny { denial: Denial::NotAuthorized, is_guess: true };
}

/// The rules: what a reload replaces as a whole.
#[derive(Debug)]
pub(super) struct Links {
    passwords: Option<PasswordFile>,
    tokens: Option<Tokens>,
    server: Option<Server>,
    /// Of listeners that have one of their own.
    chains: Vec<Option<Chain>>,
    chain: Chain,
    pub(super) bans: BanSettings,
    pub(super) acl: Acl,
    /// What is wrong, though not so that they could not be put in force.
    pub(super) warnings: Vec<String>,
}

/// Which links count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    anonymous: bool,
    passwords: bool,
    tokens: bool,
    server: bool,
    /// Nobody checks who clients say they are.
    open: bool,
}

impl Chain {
    fn new(links: &[Link]) -> Self {
        let has = |link| links.contains(&link);
        Self {
            anonymous: has(Link::Anonymous),
            passwords: has(Link::PasswordFile),
            tokens: has(Link::Jwt),
            server: has(Link::Http),
            open: links == [Link::Anonymous],
        }
    }
}

impl Links {
    pub(super) fn load(settings: &AccessSettings) -> Result<Self, AccessError> {
        let all = [
            (settings.anonymous, Link::Anonymous),
            (settings.password_file.is_some(), Link::PasswordFile),
            (settings.jwt.is_some(), Link::Jwt),
            (settings.http.is_some(), Link::Http),
        ];
        let all = all.into_iter().filter_map(|(is_there, link)| is_there.then_some(link));
        let all: Vec<Link> = all.collect();
        let mut chain = Chain::new(&all);
        chain.open |= all.is_empty();
        let own = settings.listeners.iter();
        let acl = Acl::load(&settings.acl)?;
        let for_users = acl.speaks_of_users(&settings.acl).or_else(|| settings.for_users.clone());
        if let Some(place) = for_users.filter(|_| !settings.names_users) {
            return Err(AccessError::Nameless { place });
        }
        let passwords = settings.password_file.as_deref().map(PasswordFile::load).transpose()?;
        let file = passwords.as_ref().zip(settings.password_file.as_deref());
        Ok(Self {
            warnings: file.iter().flat_map(|(file, path)| file.warnings(path)).collect(),
            passwords,
            tokens: settings.jwt.as_ref().map(Tokens::load).transpose()?,
            server: settings.http.as_ref().map(Server::new).transpose()?,
            chains: own.map(|links| links.as_deref().map(Chain::new)).collect(),
            chain,
            bans: settings.bans.clone(),
            acl,
        })
    }

    /// Fails if somebody seems to be in the middle of writing a file.
    pub(super) fn check_whole(&self, settings: &AccessSettings) -> Result<(), AccessError> {
        let file = self.passwords.as_ref().zip(settings.password_file.as_deref());
        file.map_or(Ok(()), |(file, path)| Ok(file.check_whole(path)?))
    }

    /// Has the log tell of what is wrong.
    pub(super) fn warn(&self) {
        for warning in &self.warnings {
            tracing::warn!("{warning}");
        }
    }

    /// The chain of a listener.
    pub(super) fn chain(&self, listener: Option<u16>) -> Chain {
        let own = listener.and_then(|listener| *self.chains.get(usize::from(listener))?);
        own.unwrap_or(self.chain)
    }

    fn passwords(&self, chain: Chain) -> Option<&PasswordFile> {
        self.passwords.as_ref().filter(|_| chain.passwords)
    }

    fn tokens(&self, chain: Chain) -> Option<&Tokens> {
        self.tokens.as_ref().filter(|_| chain.tokens)
    }

    /// Whether a decision may take long: a hash or a signature has to be computed.
    pub(super) fn has_work(
        &self,
        chain: Chain,
        client: &Client<'_>,
        password: Option<&[u8]>,
    ) -> bool {
        let user_name_is_token = self.tokens(chain).is_some_and(Tokens::are_user_names);
        (chain.passwords || chain.tokens)
            && (password.is_some() || (user_name_is_token && client.username.is_some()))
    }

    /// The user as whom a client failed to log in.
    pub(super) fn guessed_user<'a>(&self, claim: &'a Claim) -> Option<&'a str> {
        // A token is nobody's name.
        let is_token = self.tokens.as_ref().is_some_and(Tokens::are_user_names);
        claim.user.as_deref().filter(|_| !is_token)
    }

    /// Whether somebody can log in by SCRAM-SHA-256.
    pub(super) fn speak_scram(&self, chain: Chain) -> bool {
        self.passwords(chain).is_some_and(PasswordFile::has_verifiers)
    }

    /// What SCRAM-SHA-256 needs of a user, and whether there is such a user.
    pub(super) fn verifier(&self, user: &str) -> Option<(Verifier, bool)> {
        self.passwords.as_ref()?.verifier(user)
    }

    /// Asks one link after the other, but for the server, to which it passes clients on.
    pub(super) fn decide(&self, chain: Chain, claim: &Claim, now: SystemTime) -> Verdict {
        if chain.open {
            return Verdict::Allow(Login::default());
        }
        if let Some(tokens) = self.tokens(chain) {
            let verdict = tokens.check(claim, now);
            if verdict != Verdict::Pass {
                return verdict;
            }
        }
        if let Some(passwords) = self.passwords(chain)
            && let (Some(user), Some(password)) = (&claim.user, &claim.password)
        {
            match passwords.check(user, password) {
                Known::Right => {
                    return Verdict::Allow(Login::user(Some(user.as_ref().into())));
                }
                Known::Wrong => return Verdict::GUESS,
                Known::Not => {}
            }
        }
        match &claim.user {
            None if chain.anonymous => Verdict::Allow(Login::default()),
            _ if chain.server => Verdict::Pass,
            _ => Self::nobody(claim),
        }
    }

    /// Asks the server about a client that waits since then, and waits for it.
    pub(super) fn ask(&self, claim: &Claim, since: Instant) -> Verdict {
        match self.server.as_ref().map_or(Verdict::Pass, |server| server.check(claim, since)) {
            Verdict::Pass => Self::nobody(claim),
            verdict => verdict,
        }
    }

    /// What becomes of a client whom nobody knows.
    fn nobody(claim: &Claim) -> Verdict {
        if claim.user.is_some() { Verdict::GUESS } else { Verdict::NOT_AUTHORIZED }
    }
}
