//! The links of the chain, and what each says of a client.

use std::net::IpAddr;
use std::time::SystemTime;

use crate::hooks::{Client, Denial, Login};

use super::access::{AccessError, AccessSettings};
use super::acl::Acl;
use super::ban::BanSettings;
use super::jwt::Tokens;
use super::password_file::{Known, PasswordFile};
use super::scram::Verifier;

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
    anonymous: bool,
    passwords: Option<PasswordFile>,
    tokens: Option<Tokens>,
    pub(super) bans: BanSettings,
    pub(super) acl: Acl,
}

impl Links {
    pub(super) fn load(settings: &AccessSettings) -> Result<Self, AccessError> {
        Ok(Self {
            anonymous: settings.anonymous,
            passwords: settings.password_file.as_deref().map(PasswordFile::load).transpose()?,
            tokens: settings.jwt.as_ref().map(Tokens::load).transpose()?,
            bans: settings.bans.clone(),
            acl: Acl::load(&settings.acl)?,
        })
    }

    /// Whether a decision may take long: a hash or a signature has to be computed.
    pub(super) fn has_work(&self, client: &Client<'_>, password: Option<&[u8]>) -> bool {
        let user_name_is_token = self.tokens.as_ref().is_some_and(Tokens::are_user_names);
        let asked = self.passwords.is_some() || self.tokens.is_some();
        asked && (password.is_some() || (user_name_is_token && client.username.is_some()))
    }

    /// The user as whom a client failed to log in.
    pub(super) fn guessed_user<'a>(&self, claim: &'a Claim) -> Option<&'a str> {
        // A token is nobody's name.
        let is_token = self.tokens.as_ref().is_some_and(Tokens::are_user_names);
        claim.user.as_deref().filter(|_| !is_token)
    }

    /// Whether somebody can log in by SCRAM-SHA-256.
    pub(super) fn speak_scram(&self) -> bool {
        self.passwords.as_ref().is_some_and(PasswordFile::has_verifiers)
    }

    /// What SCRAM-SHA-256 needs of a user, and whether there is such a user.
    pub(super) fn verifier(&self, user: &str) -> Option<(Verifier, bool)> {
        self.passwords.as_ref()?.verifier(user)
    }

    /// Asks one link after the other.
    pub(super) fn decide(&self, claim: &Claim, now: SystemTime) -> Verdict {
        if self.passwords.is_none() && self.tokens.is_none() {
            // Nobody checks who the client says it is.
            return Verdict::Allow(Login::default());
        }
        if let Some(tokens) = &self.tokens {
            let verdict = tokens.check(claim, now);
            if verdict != Verdict::Pass {
                return verdict;
            }
        }
        if let Some(passwords) = &self.passwords
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
            None if self.anonymous => Verdict::Allow(Login::default()),
            None => Verdict::NOT_AUTHORIZED,
            Some(_) => Verdict::GUESS,
        }
    }
}
