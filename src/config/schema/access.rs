//! Who comes in, and what they may do.

use std::path::PathBuf;
use std::time::Duration;

use crate::auth::{JwtAlgorithm, Network};

use super::V3Publisher;

/// Who comes in (`[auth]`). Without `anonymous`, `password_file`, `[auth.jwt]` and `[auth.http]` everybody
/// does, and the broker must not listen beyond this machine. A listener may have some of these only.
#[derive(Clone, Debug, PartialEq)]
pub struct Auth {
    /// Whether clients without a User Name come in (default false). Without anything else here
    /// everybody does, whatever they say; the user name they give counts for nothing.
    pub anonymous: bool,
    /// The file with the users and the hashes of their passwords (default none): `user:hash` a line,
    /// made by `sluice passwd` or `mosquitto_passwd`. Who is not in it is refused with Bad User Name or
    /// Password (0x86, in 3.x return code 4). Read again on SIGHUP.
    pub password_file: Option<PathBuf>,
    /// Tokens (default none).
    pub jwt: Option<Jwt>,
    /// A server that is asked (default none).
    pub http: Option<HttpAuth>,
    /// Threads that check passwords and tokens; 0 (the default) is one for every two cores.
    pub threads: u8,
    /// Clients that wait for their password or token to be checked. One more is refused with Server unavailable
    /// (0x88, in 3.x return code 3). Default 1,024.
    pub queue: u32,
    /// Who is banned.
    pub ban: Ban,
}

impl Auth {
    /// Whether somebody chose who comes in.
    #[must_use]
    pub fn decides(&self) -> bool {
        use AuthLink::{Anonymous, Http, Jwt, PasswordFile};
        [Anonymous, PasswordFile, Jwt, Http].into_iter().any(|link| self.has(link))
    }

    /// Whether there is such a link.
    #[must_use]
    pub fn has(&self, link: AuthLink) -> bool {
        match link {
            AuthLink::Anonymous => self.anonymous,
            AuthLink::PasswordFile => self.password_file.is_some(),
            AuthLink::Jwt => self.jwt.is_some(),
            AuthLink::Http => self.http.is_some(),
        }
    }
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            anonymous: false,
            password_file: None,
            jwt: None,
            http: None,
            threads: 0,
            queue: 1024,
            ban: Ban::default(),
        }
    }
}

/// What a listener may take of `[auth]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthLink {
    /// Clients without a User Name come in; if this is all, everybody does.
    Anonymous,
    /// The password file.
    PasswordFile,
    /// Tokens.
    Jwt,
    /// The server that is asked.
    Http,
}

/// A server that is asked over HTTP who a client is (`[auth.http]`): about those that have no token, and that the
/// password file does not know. It gets a POST with the JSON object `clientid`, `username`, `password`,
/// `peerhost`, and answers 200 with `{"result": "allow"}`, `"deny"` or `"ignore"` (which it is not for it to
/// say), or 204 (allow), or 4xx (deny, but for 408 and 429). Beside `allow` may stand `is_superuser` (true: it may do everything), `acl` as
/// in a token, and `expire_at` in seconds since 1970, when the client is disconnected. All of this but
/// `threads` and `queue` is read again on SIGHUP.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpAuth {
    /// Where it is asked. Required; with `https://` it needs a `ca_file`.
    pub url: String,
    /// The CA of its certificate, or several, in PEM.
    pub ca_file: Option<PathBuf>,
    /// What it is sent in the header Authorization (default nothing).
    pub authorization: Option<String>,
    /// How long an answer may take (default 5 s), and how long a client may wait until it is asked about;
    /// longer, and there is none.
    pub timeout: Duration,
    /// How many clients it is asked about at a time, each on a thread (default 8).
    pub threads: u8,
    /// Clients that wait for one of them. One more is refused with Server unavailable (0x88, in 3.x return
    /// code 3). Default 1,024.
    pub queue: u32,
    /// How long an answer counts for those who say the same (default 30 s); 0: it is asked each time.
    pub cache_time: Duration,
    /// Answers that are remembered (default 10,000). Beyond it the oldest are forgotten.
    pub cache_entries: u32,
    /// What becomes of a client when it gives none (default deny: with Server unavailable, and
    /// nobody is banned for it).
    pub without_answer: WithoutAnswer,
}

impl Default for HttpAuth {
    fn default() -> Self {
        Self {
            url: String::new(),
            ca_file: None,
            authorization: None,
            timeout: Duration::from_secs(5),
            threads: 8,
            queue: 1024,
            cache_time: Duration::from_secs(30),
            cache_entries: 10_000,
            without_answer: WithoutAnswer::Deny,
        }
    }
}

/// What becomes of clients when the server that is asked gives no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WithoutAnswer {
    /// They are refused.
    Deny,
    /// They are let in, as who they say they are.
    Allow,
}

/// JSON Web Tokens in place of passwords (`[auth.jwt]`). A password that is no token is for the password
/// file. Who has one that is not good is refused: with Bad User Name or Password (0x86) for its signature,
/// with Not authorized (0x87, in 3.x return code 5) for what it says. All of this is read again on SIGHUP.
#[derive(Clone, Debug, PartialEq)]
pub struct Jwt {
    /// Where a client has its token (default the Password).
    pub token: TokenPlace,
    /// What the key in `key_file` is for (default RS256).
    pub algorithm: JwtAlgorithm,
    /// The file of a key (default none): a public one in PEM, or the secret of HS256 as it is.
    pub key_file: Option<PathBuf>,
    /// The file of a JWK Set (default none). A token names the key in it by `kid`.
    pub jwks_file: Option<PathBuf>,
    /// The claim that is the client's user name (default `sub`); a token has to have it. `None`: none is,
    /// and the client is nobody in particular.
    pub user_claim: Option<String>,
    /// Whether that has to be the User Name in CONNECT (default false: what that says counts for nothing).
    pub must_be_user_name: bool,
    /// How far the clocks of those who make tokens may differ from this one (default 30 s): a token counts
    /// so much before its `nbf` and after its `exp`.
    pub leeway: Duration,
    /// Whether a token has to have `exp` (default true). When it is over the client is disconnected with
    /// Maximum connect time (0xA0).
    pub must_expire: bool,
    /// What the claim `iss` has to be (default anything).
    pub issuer: Option<String>,
    /// What the claim `aud` has to be, or contain (default anything).
    pub audience: Option<String>,
    /// The claim that says what the client may do (default `acl`), like
    /// `{"publish": ["a/%u/#"], "subscribe": ["b/+"], "all": []}`. It may do that alone then, and `[acl]`
    /// counts for nothing; without the claim `[acl]` counts. `None`: none says so.
    pub acl_claim: Option<String>,
}

impl Default for Jwt {
    fn default() -> Self {
        Self {
            token: TokenPlace::Password,
            algorithm: JwtAlgorithm::Rs256,
            key_file: None,
            jwks_file: None,
            user_claim: Some("sub".to_owned()),
            must_be_user_name: false,
            leeway: Duration::from_secs(30),
            must_expire: true,
            issuer: None,
            audience: None,
            acl_claim: Some("acl".to_owned()),
        }
    }
}

/// Where in CONNECT a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenPlace {
    /// In the Password.
    Password,
    /// In the User Name.
    UserName,
}

/// Who is banned (`[auth.ban]`): refused with Banned (0x8A, in 3.x return code 5), whatever the password.
#[derive(Clone, Debug, PartialEq)]
pub struct Ban {
    /// Failures to log in from one address within `within` that ban it (default 20); of IPv6 the first 64
    /// bits count. `None`: never.
    pub failures_by_address: Option<u32>,
    /// Failures to log in as one user within `within` that ban the user (default 10). `None`: never.
    pub failures_by_user: Option<u32>,
    /// The time in which failures add up (default 1 min).
    pub within: Duration,
    /// How long a ban for failures lasts (default 5 min).
    pub duration: Duration,
    /// Addresses and networks that are banned always (default none, at most 1,024).
    pub addresses: Vec<Network>,
    /// Users that are banned always (default none, at most 1,024).
    pub users: Vec<String>,
    /// Addresses and networks that are never banned for failures, nor the users that come from there
    /// (default none, at most 1,024). Put there, a ban is lifted.
    pub exempt: Vec<Network>,
    /// Users that are never banned for failures, though the addresses they come from may be (default none,
    /// at most 1,024). Put there, a ban is lifted.
    pub exempt_users: Vec<String>,
}

impl Default for Ban {
    fn default() -> Self {
        Self {
            failures_by_address: Some(20),
            failures_by_user: Some(10),
            within: Duration::from_secs(60),
            duration: Duration::from_secs(5 * 60),
            addresses: Vec::new(),
            users: Vec::new(),
            exempt: Vec::new(),
            exempt_users: Vec::new(),
        }
    }
}

/// What those who come in may do (`[acl]`). Without rules and without a file they may do everything. Read
/// again on SIGHUP, but for `v3_publisher`: clients lose the subscriptions they may have no longer.
#[derive(Clone, Debug, PartialEq)]
pub struct Acl {
    /// Whether what no rule speaks of is allowed. Has to be stated when there are rules.
    pub default: AclDefault,
    /// A file in the form of Mosquitto's `acl_file`, in place of rules (default none). What it does not
    /// allow is denied.
    pub mosquitto_file: Option<PathBuf>,
    /// What becomes of a 3.x client's QoS 1 or 2 message on a topic where it may not publish, since it
    /// cannot be told (default acknowledge): a v5 client gets Not authorized (0x87). The message goes
    /// nowhere in either case.
    pub v3_publisher: V3Publisher,
    /// Groups of users, for the rules (`[[acl.group]]`).
    pub groups: Vec<AclGroup>,
    /// The rules (`[[acl.rule]]`): the first that speaks of a client and a topic decides.
    pub rules: Vec<AclRule>,
}

impl Default for Acl {
    fn default() -> Self {
        Self {
            default: AclDefault::Unstated,
            mosquitto_file: None,
            v3_publisher: V3Publisher::Acknowledge,
            groups: Vec::new(),
            rules: Vec::new(),
        }
    }
}

/// Whether what no rule speaks of is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AclDefault {
    /// Nobody said; there must be no rules.
    Unstated,
    /// It is.
    Allow,
    /// It is not.
    Deny,
}

/// A group of users.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AclGroup {
    /// What rules call it. Required.
    pub name: String,
    /// Its members. Required.
    pub users: Vec<String>,
}

/// A rule. It speaks of a client if that is among all of those it names (users and groups count as one),
/// and of everybody if it names none.
#[derive(Clone, Debug, PartialEq)]
pub struct AclRule {
    /// What it says. Required.
    pub effect: AclEffect,
    /// What it speaks of (default all).
    pub action: AclAction,
    /// Topic filters; `%u` stands for the user name, `%c` for the client identifier. Required.
    pub topics: Vec<String>,
    /// Users.
    pub users: Vec<String>,
    /// Groups of users.
    pub groups: Vec<String>,
    /// Client identifiers.
    pub clients: Vec<String>,
    /// Addresses and networks.
    pub addresses: Vec<Network>,
    /// The names in client certificates: of each that which `certificate_user` takes, and if it takes none,
    /// the Common Name.
    pub certificates: Vec<String>,
    /// The highest QoS it allows (default 2): above it a message is another rule's, and a subscription is
    /// granted less.
    pub max_qos: u8,
    /// Whether it allows retained messages (default true); otherwise they are another rule's.
    pub retain: bool,
}

impl Default for AclRule {
    fn default() -> Self {
        Self {
            effect: AclEffect::Deny,
            action: AclAction::All,
            topics: Vec::new(),
            users: Vec::new(),
            groups: Vec::new(),
            clients: Vec::new(),
            addresses: Vec::new(),
            certificates: Vec::new(),
            max_qos: 2,
            retain: true,
        }
    }
}

/// What a rule says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AclEffect {
    /// It is allowed.
    Allow,
    /// It is not.
    Deny,
}

/// What a rule speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AclAction {
    /// Publishing, wills included.
    Publish,
    /// Subscribing, and receiving.
    Subscribe,
    /// Both.
    All,
}
