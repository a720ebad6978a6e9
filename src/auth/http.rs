//! A server of one's own that is asked over HTTP who a client is.

mod cache;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use ureq::Agent;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

use crate::hooks::{Denial, Login, Rights};

use super::chain::{Claim, Verdict};
use super::jwt::{longest, rights};
use cache::Cache;

/// The longest answer that is read, in bytes. A longer one is none.
const MAX_ANSWER: u64 = 64 * 1024;

/// Between two lines in the log about a server that does not answer.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// How a server is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpSettings {
    /// Where.
    pub url: String,
    /// The CA of its certificate, in PEM.
    pub ca: Option<PathBuf>,
    /// What goes along in the header `Authorization`.
    pub authorization: Option<String>,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Questions at a time, each on a thread of its own; not changed by a reload.
    pub threads: usize,
    /// Clients that wait for one of them. One more is refused with Server unavailable (0x88); not changed
    /// by a reload.
    pub queue: usize,
    /// How long an answer counts.
    pub cache_time: Duration,
    /// Answers that are remembered.
    pub cache_entries: usize,
    /// Whether clients are let in when there is no answer.
    pub allow_without_answer: bool,
}

/// Why a server cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The file of the CA cannot be read.
    #[error("{path}: cannot be read: {error}")]
    Unread {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// It has no certificate.
    #[error("{0}: has no certificate in PEM")]
    NoCertificate(PathBuf),
}

/// A server that is asked.
pub(super) struct Server {
    settings: HttpSettings,
    agent: Agent,
    cache: Mutex<Cache>,
    silence: Silence,
}

/// What a server said of a client.
#[derive(Clone, Debug, PartialEq)]
enum Answer {
    /// Until then, in seconds since 1970.
    Allow {
        rights: Option<Arc<Rights>>,
        until: Option<f64>,
    },
    Deny,
    Pass,
}

/// That a server does not answer is told now and then.
#[derive(Debug, Default)]
struct Silence {
    told: Mutex<Option<Instant>>,
    untold: AtomicU64,
}

impl Server {
    pub(super) fn new(settings: &HttpSettings) -> Result<Self, HttpError> {
        let mut tls = TlsConfig::builder();
        if let Some(path) = &settings.ca {
            let unread = |error| HttpError::Unread { path: path.clone(), error };
            let pem = std::fs::read(path).map_err(unread)?;
            let certificates: Vec<_> = parse_pem(&pem)
                .filter_map(|item| match item {
                    Ok(PemItem::Certificate(certificate)) => Some(certificate),
                    _ => None,
                })
                .collect();
            if certificates.is_empty() {
                return Err(HttpError::NoCertificate(path.clone()));
            }
            tls = tls.root_certs(RootCerts::new_with_certs(&certificates));
        }
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let tls = tls.unversioned_rustls_crypto_provider(Arc::new(provider)).build();
        let config = Agent::config_builder()
            .timeout_global(Some(settings.timeout))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .user_agent("sluice")
            .max_idle_connections_per_host(settings.threads)
            .tls_config(tls)
            .build();
        Ok(Self {
            agent: config.into(),
            cache: Mutex::new(Cache::new(settings.cache_time, settings.cache_entries)),
            settings: settings.clone(),
            silence: Silence::default(),
        })
    }

    /// Decides about a client that has waited for its turn since then; waits for the server, unless it said
    /// the same thing lately.
    pub(super) fn check(&self, claim: &Claim, since: Instant) -> Verdict {
        let password = claim.password.as_deref().map(std::str::from_utf8).transpose();
        let Ok(password) = password else { return Verdict::GUESS };
        let question = json!({
            "clientid": claim.client_id,
            "username": claim.user,
            "password": password,
            "peerhost": claim.address,
        })
        .to_string();
        let cache = || self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let known = cache().get(question.as_bytes(), Instant::now());
        let answer = match known {
            Some(answer) => answer,
            // Or else all who come would wait for a server that is down, one after the other.
            None if since.elapsed() >= self.settings.timeout => {
                return self.without_answer(claim, "it is slower than clients come");
            }
            None => match self.ask(&question, claim) {
                Ok(answer) => {
                    cache().insert(question.as_bytes(), answer.clone(), Instant::now());
                    answer
                }
                Err(why) => return self.without_answer(claim, &why),
            },
        };
        verdict(answer, claim, SystemTime::now())
    }

    fn ask(&self, question: &str, claim: &Claim) -> Result<Answer, String> {
        let mut request =
            self.agent.post(&self.settings.url).header("content-type", "application/json");
        if let Some(authorization) = &self.settings.authorization {
            request = request.header("authorization", authorization);
        }
        let mut response = request.send(question).map_err(|error| error.to_string())?;
        match response.status().as_u16() {
            200 => {
                let body = response.body_mut().with_config().limit(MAX_ANSWER).read_to_vec();
                let body = body.map_err(|error| error.to_string())?;
                parse(&body, claim).ok_or("its answer has no \"result\", or is wrong".to_owned())
            }
            204 => Ok(Answer::Allow { rights: None, until: None }),
            408 | 429 => Err(format!("its answer is {}", response.status())),
            400..500 => Ok(Answer::Deny),
            _ => Err(format!("its answer is {}", response.status())),
        }
    }

    fn without_answer(&self, claim: &Claim, why: &str) -> Verdict {
        let allow = self.settings.allow_without_answer;
        if let Some(others) = self.silence.tell(Instant::now()) {
            let url = &self.settings.url;
            let then = if allow { "let in" } else { "refused" };
            tracing::warn!(
                "{url} gives no answer, and a client is {then} ({others} more before): {why}"
            );
        }
        if allow {
            Verdict::Allow(Login::user(claim.user.as_deref().map(Arc::from)))
        } else {
            Verdict::Deny { denial: Denial::ServerUnavailable, is_guess: false }
        }
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("url", &self.settings.url).finish_non_exhaustive()
    }
}

impl Silence {
    /// Whether it is time to say something again, and of how many clients nothing was said.
    fn tell(&self, now: Instant) -> Option<u64> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_some_and(|at| now.duration_since(at) < LOG_INTERVAL) {
            self.untold.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        *told = Some(now);
        Some(self.untold.swap(0, Ordering::Relaxed))
    }
}

/// Reads `{"result": "allow"}` and what may stand beside it.
fn parse(body: &[u8], claim: &Claim) -> Option<Answer> {
    let body: Value = serde_json::from_slice(body).ok()?;
    match body.get("result")?.as_str()? {
        "deny" => Some(Answer::Deny),
        "ignore" => Some(Answer::Pass),
        "allow" => {
            let given = |name| body.get(name).filter(|value| !value.is_null());
            let is_superuser = given("is_superuser").is_some_and(|value| *value == json!(true));
            let rights = match given("acl") {
                _ if is_superuser => Some(Arc::new(Rights::new(Vec::new(), true, false))),
                None => None,
                Some(acl) => Some(Arc::new(rights(acl, claim.user.as_deref(), &claim.client_id)?)),
            };
            let until = match given("expire_at") {
                None => None,
                Some(at) => Some(at.as_f64()?),
            };
            Some(Answer::Allow { rights, until })
        }
        _ => None,
    }
}

fn verdict(answer: Answer, claim: &Claim, now: SystemTime) -> Verdict {
    match answer {
        Answer::Deny => Verdict::GUESS,
        Answer::Pass => Verdict::Pass,
        Answer::Allow { rights, until } => {
            let now = now.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
            let left = until.map(|until| until - now);
            if left.is_some_and(|left| left <= 0.0) {
                return Verdict::Deny { denial: Denial::NotAuthorized, is_guess: false };
            }
            let user = claim.user.as_deref().map(Arc::from);
            let valid_for = left.map(longest);
            Verdict::Allow(Login { user, rights, valid_for })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_server_is_told_of_now_and_then() {
        let (silence, start) = (Silence::default(), Instant::now());
        assert_eq!(silence.tell(start), Some(0));
        for _ in 0..5 {
            assert_eq!(silence.tell(start + LOG_INTERVAL / 2), None);
        }
        assert_eq!(silence.tell(start + LOG_INTERVAL), Some(5));
        assert_eq!(silence.tell(start + LOG_INTERVAL), None);
        assert_eq!(silence.tell(start + LOG_INTERVAL * 2), Some(1));
    }
}
