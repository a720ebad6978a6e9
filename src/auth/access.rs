//! The chain of those who decide about a client.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Instant;

use crate::hooks::{Answer, Asking, Authenticator, Authorizer, Client, Decision, Denial, Rights};

use super::acl::{Acl, AclFileError, AclSettings};
use super::ban::{BanSettings, Bans};
use super::password_file::{PasswordFile, PasswordFileError};
use super::workers::Workers;

/// Who may come in.
#[derive(Clone, Debug, PartialEq)]
pub struct AccessSettings {
    /// Whether clients without a User Name come in. Without a password file, all come in, as nobody in
    /// particular.
    pub anonymous: bool,
    /// The password file.
    pub password_file: Option<PathBuf>,
    /// Threads that hash passwords; not changed by a reload.
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

/// The rules: what a reload replaces as a whole.
#[derive(Debug)]
struct Links {
    anonymous: bool,
    passwords: Option<PasswordFile>,
    bans: BanSettings,
    acl: Acl,
}

impl Links {
    fn load(settings: &AccessSettings) -> Result<Self, AccessError> {
        let passwords = settings.password_file.as_deref().map(PasswordFile::load).transpose()?;
        let acl = Acl::load(&settings.acl)?;
        Ok(Self { anonymous: settings.anonymous, passwords, bans: settings.bans.clone(), acl })
    }
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
        if settings.password_file.is_some() && self.workers.get().is_none() {
            let workers = Workers::start(self.threads, self.queue).map_err(AccessError::Thread)?;
            let _ = self.workers.set(workers);
        }
        Ok(())
    }

    fn links(&self) -> Arc<Links> {
        self.links.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn check_password(&self, links: Arc<Links>, claim: Claim, asking: Asking<'_>) -> Answer {
        let Some(workers) = self.workers.get() else { return deny(Denial::ServerUnavailable) };
        let (reply, bans) = (asking.reply(), self.bans.clone());
        // If too many wait, the reply goes with the job, and says that the broker is busy.
        let _ = workers.run(move || {
            let is_right = links
                .passwords
                .as_ref()
                .is_some_and(|passwords| passwords.verify(&claim.user, &claim.password));
            if is_right {
                reply.decide(Decision::Allow);
            } else {
                bans.failed(&links.bans, claim.address, Some(&claim.user), Instant::now());
                reply.decide(Decision::Deny(Denial::BadUserNameOrPassword));
            }
        });
        Answer::Later
    }
}

/// Who a client says it is.
struct Claim {
    user: Box<str>,
    password: Box<[u8]>,
    address: IpAddr,
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
        let (address, now) = (client.peer.ip(), Instant::now());
        let user = client.certificate.or(client.username);
        if self.bans.is_banned(&links.bans, address, user, now) {
            return deny(Denial::Banned);
        }
        if let Some(user) = client.certificate {
            return Answer::Now(Decision::AllowAs(Some(user.into())));
        }
        let denial = match (client.username, password) {
            _ if links.passwords.is_none() => {
                // Nobody checks who the client says it is.
                return Answer::Now(Decision::AllowAs(None));
            }
            (Some(user), Some(password)) => {
                let claim = Claim { user: user.into(), password: password.into(), address };
                return self.check_password(links, claim, asking);
            }
            (None, _) if links.anonymous => return Answer::Now(Decision::AllowAs(None)),
            (None, _) => Denial::NotAuthorized,
            (Some(_), None) => Denial::BadUserNameOrPassword,
        };
        self.bans.failed(&links.bans, address, client.username, now);
        deny(denial)
    }
}

impl Authorizer for Access {
    fn rights(&self, client: &Client<'_>) -> Option<Arc<Rights>> {
        self.links().acl.rights(client).map(Arc::new)
    }
}
