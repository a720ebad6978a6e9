//! Enhanced authentication: SCRAM-SHA-256 against the password file.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::hooks::{Denial, Exchange, Login, Step};

use super::ban::Bans;
use super::chain::Links;
use super::scram::{Challenge, ClientFinal, ClientFirst};

/// Bytes of the server's part of a nonce.
const NONCE_LEN: usize = 18;

/// How far an exchange has come.
#[derive(Debug)]
enum Stage {
    /// The client has to say who it is.
    First,
    /// It has to prove it.
    Proof {
        challenge: Challenge,
        is_known: bool,
    },
    Over,
}

/// One exchange.
#[derive(Debug)]
pub(super) struct ScramExchange {
    links: Arc<Links>,
    bans: Arc<Bans>,
    address: IpAddr,
    stage: Stage,
    /// Who the client says it is.
    user: Option<Arc<str>>,
}

impl ScramExchange {
    pub(super) fn new(links: Arc<Links>, bans: Arc<Bans>, address: IpAddr) -> Self {
        Self { links, bans, address, stage: Stage::First, user: None }
    }

    fn first(&mut self, message: &[u8]) -> Step {
        let Ok(first) = ClientFirst::parse(message) else { return self.failed() };
        let Ok(user) = stringprep::saslprep(&first.user) else { return self.failed() };
        self.user = Some(user.as_ref().into());
        if self.bans.is_banned(&self.links.bans, self.address, Some(&user), Instant::now()) {
            return Step::Deny(Denial::Banned);
        }
        // Nobody acts for others.
        if first.act_for.as_ref().is_some_and(|other| *other != first.user) {
            return Step::Deny(Denial::NotAuthorized);
        }
        let mut random = [0; NONCE_LEN];
        let filled = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty());
        let verifier = self.links.verifier(&user);
        let (Ok(NONCE_LEN), Some((verifier, is_known))) = (filled, verifier) else {
            return Step::Deny(Denial::ServerUnavailable);
        };
        let challenge = Challenge::new(&first, &BASE64.encode(random), verifier);
        let message = challenge.message().into();
        self.stage = Stage::Proof { challenge, is_known };
        Step::Continue(message)
    }

    fn proof(&mut self, message: &[u8]) -> Step {
        let stage = std::mem::replace(&mut self.stage, Stage::Over);
        let Stage::Proof { challenge, is_known } = stage else { return self.failed() };
        let last = ClientFinal::parse(message);
        let verified = last.ok().and_then(|last| challenge.verify(&last));
        match verified.filter(|_| is_known) {
            Some(message) => Step::Done(Login::user(self.user.clone()), message.into()),
            None => self.failed(),
        }
    }

    fn failed(&mut self) -> Step {
        self.stage = Stage::Over;
        let user = self.user.as_deref();
        self.bans.failed(&self.links.bans, self.address, user, Instant::now());
        Step::Deny(Denial::NotAuthorized)
    }
}

impl Exchange for ScramExchange {
    fn step(&mut self, data: &[u8]) -> Step {
        match self.stage {
            // The first word is the client's.
            Stage::First if data.is_empty() => Step::Continue(Vec::new()),
            Stage::First => self.first(data),
            Stage::Proof { .. } => self.proof(data),
            Stage::Over => Step::Deny(Denial::NotAuthorized),
        }
    }

    fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }
}
