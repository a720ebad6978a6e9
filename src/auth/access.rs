//! The chain of those who decide about a client.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Instant, SystemTime};

use crate::hooks::{
    Answer, Asking, Authenticator, Authorizer, Client, Decision, Denial, Exchange, Login, Rights,
};

use super::acl::{AclFileError, AclSettings};
use super::ban::{BanSettings, Bans};
use super::chain::{Claim, Links, Verdict};
use super::enhanced::ScramExchange;
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
    /// Threads that hash passwords and check signatures; not changed by a reload.
    pub threads: usize,
    /// Clients that wait for one of them. One more is refused with Server unavailable (0x88); not changed
    /// by a reload.
    pub queue: usize,
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
    /// The ACL file is no use.
    #[error(transparent)]
    AclFile(#[from] AclFileError),
    /// No threads.
    #[error("cannot start a thread for authentication: {0}")]
    Thread(#[source] io::Error),
}

/// The rules in force, and those who apply them.
#[derive(Debug)]
pub struct Access {
    links: RwLock<Arc<Links>>,
    bans: Arc<Bans>,
    workers: OnceLock<Workers>,
    threads: usize,
    queue: usize,
}

impl Access {
    /// Puts rules in force.
    ///
    /// # Errors
    /// A file is wrong, or there are no threads.
    pub fn new(settings: &AccessSettings) -> Result<Self, AccessError> {
        let access = Self {
            links: RwLock::new(Arc::new(Links::load(settings)?)),
            bans: Arc::default(),
            workers: OnceLock::new(),
            threads: settings.threads,
            queue: settings.queue,
        };
        access.start_workers(settings)?;
        Ok(access)
    }

    /// Reads the files of these settings, and does nothing with them.
    ///
    /// # Errors
    /// A file is wrong.
    pub fn check(settings: &AccessSettings) -> Result<(), AccessError> {
        Links::load(settings).map(drop)
    }

    /// Puts new rules in force, all of them or none. Failures so far, and bans for them, stay.
    ///
    /// # Errors
    /// As [`Access::new`]; the old rules stay in force then.
    pub fn reload(&self, settings: &AccessSettings) -> Result<(), AccessError> {
        let links = Arc::new(Links::load(settings)?);
        self.start_workers(settings)?;
        *self.links.write().unwrap_or_else(PoisonError::into_inner) = links;
        Ok(())
    }

    /// Starts the threads once there is something for them to do.
    fn start_workers(&self, settings: &AccessSettings) -> Result<(), AccessError> {
        let has_work = settings.password_file.is_some() || settings.jwt.is_some();
        if has_work && self.workers.get().is_none() {
            let workers = Workers::start(self.threads, self.queue).map_err(AccessError::Thread)?;
            let _ = self.workers.set(workers);
        }
        Ok(())
    }

    fn links(&self) -> Arc<Links> {
        self.links.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Has a worker decide.
    fn decide_later(&self, links: Arc<Links>, claim: Claim, asking: Asking<'_>) -> Answer {
        let Some(workers) = self.workers.get() else { return deny(Denial::ServerUnavailable) };
        let (reply, bans) = (asking.reply(), self.bans.clone());
        // If too many wait, the reply goes with the job, and says that the broker is busy.
        let _ = workers.run(move || {
            let verdict = links.decide(&claim, SystemTime::now());
            reply.decide(conclude(verdict, &links, &bans, &claim));
        });
        Answer::Later
    }
}

/// The decision that a verdict is; a guess that failed counts.
fn conclude(verdict: Verdict, links: &Links, bans: &Bans, claim: &Claim) -> Decision {
    match verdict {
        Verdict::Allow(login) => Decision::AllowAs(login),
        Verdict::Deny { denial, is_guess } => {
            if is_guess {
                bans.failed(&links.bans, claim.address, links.guessed_user(claim), Instant::now());
            }
            Decision::Deny(denial)
        }
        Verdict::Pass => Decision::Deny(Denial::NotAuthorized),
    }
}

fn deny(denial: Denial) -> Answer {
    Answer::Now(Decision::Deny(denial))
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
        if self.bans.is_banned(&links.bans, client.peer.ip(), user, Instant::now()) {
            return deny(Denial::Banned);
        }
        if let Some(user) = client.certificate {
            return Answer::Now(Decision::AllowAs(Login::user(Some(user.into()))));
        }
        let claim = Claim::of(client, password);
        if links.has_work(client, password) {
            return self.decide_later(links, claim, asking);
        }
        let verdict = links.decide(&claim, SystemTime::now());
        Answer::Now(conclude(verdict, &links, &self.bans, &claim))
    }

    fn exchange(&self, client: &Client<'_>, method: &str) -> Option<Box<dyn Exchange>> {
        let links = self.links();
        if method != SCRAM_SHA_256 || !links.speak_scram() {
            return None;
        }
        Some(Box::new(ScramExchange::new(links, self.bans.clone(), client.peer.ip())))
    }
}

impl Authorizer for Access {
    fn rights(&self, client: &Client<'_>) -> Option<Arc<Rights>> {
        self.links().acl.rights(client).map(Arc::new)
    }
}
