//! The chain of those who decide about a client.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Instant, SystemTime};

use crate::hooks::{
    Answer, Asking, Authenticator, Authorizer, Client, Decision, Denial, Exchange, Login, Reply,
    Rights,
};

use super::acl::{AclFileError, AclSettings};
use super::ban::{BanSettings, Bans};
use super::chain::{Claim, Link, Links, Verdict};
use super::enhanced::ScramExchange;
use super::http::{HttpError, HttpSettings};
use super::jwt::{JwtKeyError, JwtSettings};
use super::password_file::PasswordFileError;
use super::scram::SCRAM_SHA_256;
use super::workers::Workers;

/// Who may come in.
#[derive(Clone, Debug, PartialEq)]
pub struct AccessSettings {
    /// Whether clients without a User Name come in. Without a password file, all come in, as nobody in
    /// particular.
    pub anonymous: bool,
    /// The password file.
    pub password_file: Option<PathBuf>,
    /// How tokens are checked.
    pub jwt: Option<JwtSettings>,
    /// The server that is asked about clients whom nobody else knows.
    pub http: Option<HttpSettings>,
    /// The links of each listener; `None`: all of those above.
    pub listeners: Vec<Option<Vec<Link>>>,
    /// Threads that hash passwords and check signatures; not changed by a reload.
    pub threads: usize,
    /// Clients that wait for one of them. One more is refused with Server unavailable (0x88); not changed
    /// by a reload.
    pub queue: usize,
    /// Whether some clients have a user name that counts. Without, what is for users is an error.
    pub names_users: bool,
    /// What is for users beside the rules, if anything is: the place of a quota.
    pub for_users: Option<String>,
    /// Who is banned.
    pub bans: BanSettings,
    /// What those who come in may do.
    pub acl: AclSettings,
}

/// Why the rules of access cannot be put in force.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The password file is no use.
    #[error(transparent)]
    PasswordFile(#[from] PasswordFileError),
    /// The keys of tokens are no use.
    #[error(transparent)]
    JwtKey(#[from] JwtKeyError),
    /// The server cannot be asked.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The ACL file is no use.
    #[error(transparent)]
    AclFile(#[from] AclFileError),
    /// A rule or a quota is for users, and no client is one.
    #[error(
        "{place} is for users, but nobody is asked who they are; name the users in auth.password_file \
         (sluice passwd FILE USER makes one), write an [auth.jwt] or an [auth.http], take the names in client \
         certificates (certificate_user in [listener.tls]), or take it out"
    )]
    Nameless {
        /// What says so.
        place: String,
    },
    /// No threads.
    #[error("cannot start a thread for authentication: {0}")]
    Thread(#[source] io::Error),
}

/// The rules in force, and those who apply them.
#[derive(Debug)]
pub struct Access {
    links: RwLock<Arc<Links>>,
    desk: Desk,
    workers: OnceLock<Workers>,
    threads: usize,
    queue: usize,
}

/// What a decision needs wherever it is made.
#[derive(Clone, Debug, Default)]
struct Desk {
    bans: Arc<Bans>,
    /// Those who wait for the server.
    askers: Arc<OnceLock<Workers>>,
}

impl Access {
    /// Puts rules in force.
    ///
    /// # Errors
    /// A file is wrong, a rule or a quota speaks of nobody, or there are no threads.
    pub fn new(settings: &AccessSettings) -> Result<Self, AccessError> {
        let access = Self {
            links: RwLock::new(Arc::new(Links::load(settings)?)),
            desk: Desk::default(),
            workers: OnceLock::new(),
            threads: settings.threads,
            queue: settings.queue,
        };
        access.start_workers(settings)?;
        access.links().warn();
        Ok(access)
    }

    /// Reads the files of these settings, and does nothing with them. Gives what else the log would say of
    /// them.
    ///
    /// # Errors
    /// A file is wrong, or a rule or a quota speaks of nobody.
    pub fn check(settings: &AccessSettings) -> Result<Vec<String>, AccessError> {
        Links::load(settings).map(|links| links.warnings)
    }

    /// Puts new rules in force, all of them or none. Failures so far, and bans for them, stay.
    ///
    /// # Errors
    /// As [`Access::new`], or somebody is writing the password file; the old rules stay in force then.
    pub fn reload(&self, settings: &AccessSettings) -> Result<(), AccessError> {
        let links = Links::load(settings)?;
        links.check_whole(settings)?;
        self.start_workers(settings)?;
        links.warn();
        *self.links.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(links);
        Ok(())
    }

    /// Starts the threads once there is something for them to do.
    fn start_workers(&self, settings: &AccessSettings) -> Result<(), AccessError> {
        let has_work = settings.password_file.is_some() || settings.jwt.is_some();
        if has_work && self.workers.get().is_none() {
            let workers = Workers::start("auth", self.threads, self.queue);
            let _ = self.workers.set(workers.map_err(AccessError::Thread)?);
        }
        if let Some(http) = &settings.http
            && self.desk.askers.get().is_none()
        {
            let askers = Workers::start("auth-http", http.threads, http.queue);
            let _ = self.desk.askers.set(askers.map_err(AccessError::Thread)?);
        }
        Ok(())
    }

    fn links(&self) -> Arc<Links> {
        self.links.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Desk {
    /// The decision that a verdict is; a guess that failed counts.
    fn decision(&self, verdict: Verdict, links: &Links, claim: &Claim) -> Decision {
        match verdict {
            // A token may name another user than CONNECT does.
            Verdict::Allow(Login { user: Some(user), .. })
                if self.bans.is_banned(&links.bans, claim.address, Some(&user), Instant::now()) =>
            {
                Decision::Deny(Denial::Banned)
            }
            Verdict::Allow(login) => Decision::AllowAs(login),
            Verdict::Deny { denial, is_guess } => {
                if is_guess {
                    let user = links.guessed_user(claim);
                    self.bans.failed(&links.bans, claim.address, user, Instant::now());
                }
                Decision::Deny(denial)
            }
            Verdict::Pass => Decision::Deny(Denial::NotAuthorized),
        }
    }

    /// Goes by a verdict; if the client was passed on, the server is asked.
    fn conclude(self, verdict: Verdict, links: Arc<Links>, claim: Claim, reply: Reply) {
        if verdict != Verdict::Pass {
            return reply.decide(self.decision(verdict, &links, &claim));
        }
        let Some(askers) = self.askers.get().cloned() else {
            return reply.decide(Decision::Deny(Denial::ServerUnavailable));
        };
        let since = Instant::now();
        askers.run(move |turn| {
            reply.decide(match turn {
                Ok(()) => self.decision(links.ask(&claim, since), &links, &claim),
                Err(denial) => Decision::Deny(denial),
            });
        });
    }
}

impl Authenticator for Access {
    fn authenticate(
        &self,
        client: &Client<'_>,
        password: Option<&[u8]>,
        asking: Asking<'_>,
    ) -> Answer {
        let links = self.links();
        let user = client.certificate.or(client.username);
        if self.desk.bans.is_banned(&links.bans, client.peer.ip(), user, Instant::now()) {
            return Answer::Now(Decision::Deny(Denial::Banned));
        }
        if let Some(user) = client.certificate {
            return Answer::Now(Decision::AllowAs(Login::user(Some(user.into()))));
        }
        let (chain, claim) = (links.chain(client.listener), Claim::of(client, password));
        let desk = self.desk.clone();
        if !links.has_work(chain, client, password) {
            let verdict = links.decide(chain, &claim, SystemTime::now());
            if verdict != Verdict::Pass {
                return Answer::Now(desk.decision(verdict, &links, &claim));
            }
            desk.conclude(verdict, links, claim, asking.reply());
            return Answer::Later;
        }
        let Some(workers) = self.workers.get() else {
            return Answer::Now(Decision::Deny(Denial::ServerUnavailable));
        };
        let reply = asking.reply();
        workers.run(move |turn| match turn {
            Ok(()) => {
                let verdict = links.decide(chain, &claim, SystemTime::now());
                desk.conclude(verdict, links, claim, reply);
            }
            Err(denial) => reply.decide(Decision::Deny(denial)),
        });
        Answer::Later
    }

    fn exchange(&self, client: &Client<'_>, method: &str) -> Option<Box<dyn Exchange>> {
        let links = self.links();
        if method != SCRAM_SHA_256 || !links.speak_scram(links.chain(client.listener)) {
            return None;
        }
        Some(Box::new(ScramExchange::new(links, self.desk.bans.clone(), client.peer.ip())))
    }
}

impl Authorizer for Access {
    fn rights(&self, client: &Client<'_>) -> Option<Arc<Rights>> {
        self.links().acl.rights(client).map(Arc::new)
    }
}
