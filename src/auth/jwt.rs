//! Tokens: JSON Web Tokens (RFC 7519) that say who a client is, and for how long.

mod keys;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Validation, decode, decode_header};
use serde_json::{Map, Value};

use crate::hooks::{Denial, Effect, Grant, Login, Rights};
use crate::mqtt::Limits;
use crate::mqtt::topic::Filter;

use super::acl::Topics;
use super::chain::{Claim, Verdict};
use keys::Key;
pub use keys::{JwtAlgorithm, JwtKeyError};

/// The longest time that a login is valid: beyond it, it is as good as forever.
const LONGEST: Duration = Duration::from_secs(u32::MAX as u64);

/// How tokens are checked.
#[derive(Clone, Debug, PartialEq)]
pub struct JwtSettings {
    /// Whether the token is the User Name in CONNECT, or else the Password.
    pub in_user_name: bool,
    /// The file of a key, and what it is used with.
    pub key: Option<(PathBuf, JwtAlgorithm)>,
    /// The file of a JWK Set. A token names a key of it by `kid`.
    pub jwks: Option<PathBuf>,
    /// The claim that is the client's user. `None`: it is nobody in particular.
    pub user_claim: Option<String>,
    /// Whether that has to be the User Name in CONNECT.
    pub must_be_user_name: bool,
    /// How far the clocks of those who make tokens may differ from ours.
    pub leeway: Duration,
    /// Whether a token has to expire.
    pub must_expire: bool,
    /// What `iss` has to be.
    pub issuer: Option<String>,
    /// What `aud` has to be, or contain.
    pub audience: Option<String>,
    /// The claim that says what the client may do. `None`: none does.
    pub acl_claim: Option<String>,
}

/// The tokens that count.
#[derive(Debug)]
pub(super) struct Tokens {
    settings: JwtSettings,
    keys: Vec<Key>,
}

impl Tokens {
    pub(super) fn load(settings: &JwtSettings) -> Result<Self, JwtKeyError> {
        let mut keys = Vec::new();
        if let Some((path, algorithm)) = &settings.key {
            keys.push(keys::load_key(path, *algorithm)?);
        }
        if let Some(path) = &settings.jwks {
            keys.extend(keys::load_set(path)?);
        }
        Ok(Self { settings: settings.clone(), keys })
    }

    /// Whether a client without a password may have a token all the same.
    pub(super) fn are_user_names(&self) -> bool {
        self.settings.in_user_name
    }

    /// Decides about a client that has a token, and passes others on.
    pub(super) fn check(&self, claim: &Claim, now: SystemTime) -> Verdict {
        let token = if self.settings.in_user_name {
            claim.user.as_deref()
        } else {
            claim.password.as_deref().and_then(|bytes| std::str::from_utf8(bytes).ok())
        };
        let Some(token) = token else { return Verdict::Pass };
        let Ok(header) = decode_header(token) else { return Verdict::Pass };
        let claims = self.keys.iter().filter(|key| {
            // A key without a name is for tokens that name none, or any.
            let is_named = header.kid.is_none() || key.id.is_none() || key.id == header.kid;
            is_named && key.algorithm == header.alg
        });
        let mut claims = claims.filter_map(|key| verified(token, key));
        match claims.next().map(|claims| self.judge(claim, &claims, now)) {
            Some(Ok(login)) => Verdict::Allow(login),
            Some(Err(denial)) => denial,
            None => Verdict::Deny { denial: Denial::TokenSignature, is_guess: true },
        }
    }

    fn judge(
        &self,
        claim: &Claim,
        claims: &Map<String, Value>,
        now: SystemTime,
    ) -> Result<Login, Verdict> {
        let settings = &self.settings;
        // Nobody has guessed anything.
        let deny = |is_guess| move |cause| Verdict::Deny { denial: Denial::Token(cause), is_guess };
        let valid_for = self.validity(claims, now).map_err(deny(false))?;
        let need = |holds: bool, cause| if holds { Ok(()) } else { Err(deny(true)(cause)) };
        let user = match &settings.user_claim {
            None => None,
            Some(name) => {
                let user = claims.get(name).and_then(Value::as_str).unwrap_or_default();
                let is_name = !user.is_empty() && !user.contains(char::is_control);
                need(is_name, "its token has no user in auth.jwt.user_claim")?;
                Some(user)
            }
        };
        let is_issuer = settings.issuer.as_ref().is_none_or(|issuer| is(claims, "iss", issuer));
        need(is_issuer, "its token is not of auth.jwt.issuer")?;
        let is_for_us = settings.audience.as_ref().is_none_or(|us| is(claims, "aud", us));
        need(is_for_us, "its token is not for auth.jwt.audience")?;
        let is_own = !settings.must_be_user_name || user == claim.user.as_deref();
        need(
            is_own,
            "its token is of another user than its user name (auth.jwt.must_be_user_name)",
        )?;
        let acl = settings.acl_claim.as_ref().and_then(|name| claims.get(name));
        let rights = acl.map(|acl| rights(acl, user, &claim.client_id));
        need(rights != Some(None), "its token has no lists of topics in auth.jwt.acl_claim")?;
        let rights = rights.flatten().map(Arc::new);
        Ok(Login { user: user.map(Arc::from), rights, valid_for })
    }

    /// How long the token is valid yet, or why it is not.
    fn validity(
        &self,
        claims: &Map<String, Value>,
        now: SystemTime,
    ) -> Result<Option<Duration>, &'static str> {
        let now = now
            .duration_since(UNIX_EPOCH)
            .map_err(|_| "the clock here is before 1970")?
            .as_secs_f64();
        let leeway = self.settings.leeway.as_secs_f64();
        let date = |name| match claims.get(name) {
            None => Ok(None),
            Some(date) => {
                date.as_f64().map(Some).ok_or("its token has a time (nbf, exp) that is no number")
            }
        };
        if date("nbf")?.is_some_and(|begin| now + leeway < begin) {
            return Err("its token is not valid yet (nbf)");
        }
        match date("exp")? {
            None if self.settings.must_expire => {
                Err("its token has no end (exp; auth.jwt.must_expire)")
            }
            None => Ok(None),
            Some(end) if now < end + leeway => Ok(Some(longest(end + leeway - now))),
            Some(_) => Err("its token has expired (exp)"),
        }
    }
}

/// The claims of a token that was signed with a key.
fn verified(token: &str, key: &Key) -> Option<Map<String, Value>> {
    // Claims are looked at in `Tokens::judge`, by the clock that is given.
    let mut validation = Validation::new(key.algorithm);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    decode(token, &key.key, &validation).ok().map(|token| token.claims)
}

/// A time in seconds, or the longest that counts.
pub(super) fn longest(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(LONGEST).min(LONGEST)
}

/// Whether a claim is this, or a list with this in it.
fn is(claims: &Map<String, Value>, name: &str, wanted: &str) -> bool {
    match claims.get(name) {
        Some(Value::String(one)) => one == wanted,
        Some(Value::Array(all)) => all.iter().any(|one| one.as_str() == Some(wanted)),
        _ => false,
    }
}

/// What a claim like `{"publish": ["a/#"], "subscribe": ["b/+"], "all": []}` allows: these topics and
/// nothing else. `pub` and `sub` say the same. `None`: it is no such thing.
pub(super) fn rights(acl: &Value, user: Option<&str>, client_id: &str) -> Option<Rights> {
    let mut grants = Vec::new();
    for (action, filters) in acl.as_object()? {
        let (publish, subscribe) = match action.as_str() {
            "publish" | "pub" => (true, false),
            "subscribe" | "sub" => (false, true),
            "all" => (true, true),
            _ => return None,
        };
        let filters: Option<Vec<&str>> = filters.as_array()?.iter().map(Value::as_str).collect();
        let filters = filters?;
        let is_filter = |filter: &&str| {
            let filter = Filter::parse(filter, &Limits::default());
            filter.is_ok_and(|filter| filter.share.is_none())
        };
        if !filters.iter().all(is_filter) {
            return None;
        }
        let topics = Topics::new(&filters).of(user, client_id, Effect::ALLOW);
        grants.extend(topics.map(|topics| Grant {
            effect: Effect::ALLOW,
            publish,
            subscribe,
            topics,
        }));
    }
    Some(Rights::new(grants, false, false))
}

#[cfg(test)]
mod tests;
