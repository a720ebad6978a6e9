//! Brokers by the commands that start them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Pid;
use serde::Deserialize;
use sluice::mqtt::Version;

use super::Broker;
use super::link::{Link, Persona, Session};

/// Bytes of a broker's output that are shown when it does not start.
const SAID_BYTES: usize = 300;

/// The file that says which brokers there are.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Targets {
    /// At least one.
    #[serde(rename = "target")]
    pub targets: Vec<Target>,
}

/// How a broker is started. In each text, words in braces stand for something: see the README.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// What it is called.
    pub name: String,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Environment variables.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Written before the first start, by name.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// Seconds until it lets clients in, at most.
    #[serde(default = "ready_within")]
    pub ready_within: f64,
}

const fn ready_within() -> f64 {
    20.0
}

/// A target that runs, in a directory of its own; both end with this.
#[derive(Debug)]
pub struct Process {
    command: Vec<String>,
    env: Vec<(String, String)>,
    ready_within: Duration,
    address: SocketAddr,
    directory: PathBuf,
    child: Option<Child>,
    watch: Watch,
}

/// Is told of each process that is started, and of each that has ended (`false`).
pub type Watch = fn(Pid, bool);

impl Process {
    /// Starts a target, and waits until it lets a client in. `here` is where the file of targets is.
    ///
    /// # Errors
    /// It cannot be started, or lets nobody in. Not installed: [`io::ErrorKind::NotFound`].
    pub fn start(target: &Target, here: &Path, watch: Watch) -> io::Result<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let name = format!("sluice-torture-{}-{port}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir(&directory)?;
        let fill = placeholders(here, &directory, port)?;
        let mut process = Self {
            command: target.command.iter().map(|word| fill(word)).collect(),
            env: target.env.iter().map(|(name, text)| (name.clone(), fill(text))).collect(),
            ready_within: Duration::from_secs_f64(target.ready_within),
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            directory,
            child: None,
            watch,
        };
        for (name, text) in &target.files {
            fs::write(process.directory.join(name), fill(text))?;
        }
        process.spawn()?;
        Ok(process)
    }

    fn spawn(&mut self) -> io::Result<()> {
        let Some((program, arguments)) = self.command.split_first() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "an empty command"));
        };
        let path = std::env::var_os("PATH").unwrap_or_default();
        // Debian puts servers where a user's PATH may not look.
        let path = [path.as_os_str(), "/usr/sbin".as_ref()].join(":".as_ref());
        let output = File::options().create(true).append(true).open(self.output())?;
        let mut command = Command::new(program);
        // Ctrl-C is for this tool, which goes on for a while.
        command.args(arguments).stdin(Stdio::null()).process_group(0);
        command.env("PATH", path).envs(self.env.iter().map(|(name, text)| (name, text)));
        command.stdout(output.try_clone()?).stderr(output);
        let child = command
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("{program}: {error}")))?;
        (self.watch)(Pid::from_child(&child), true);
        self.child = Some(child);
        self.wait_until_ready()
    }

    fn wait_until_ready(&mut self) -> io::Result<()> {
        let until = Instant::now() + self.ready_within;
        let probe = Persona { name: "torture-probe".to_owned(), version: Version::V311 };
        loop {
            let Err(error) = Link::try_open(self.address, &probe, Session::Clean) else {
                return Ok(());
            };
            let child = self.child.as_mut().ok_or(io::ErrorKind::NotFound)?;
            let failed = match child.try_wait()? {
                Some(status) => format!("it ended with {status}"),
                None if Instant::now() > until => format!("it lets nobody in: {error}"),
                None => {
                    std::thread::sleep(Duration::from_millis(5));
                    continue;
                }
            };
            return Err(io::Error::other(format!("{failed}; it said: {}", self.said())));
        }
    }

    fn output(&self) -> PathBuf {
        self.directory.join("output")
    }

    /// The end of what it said, on one line.
    #[must_use]
    pub fn said(&self) -> String {
        let output = fs::read(self.output()).unwrap_or_default();
        let end = output.get(output.len().saturating_sub(SAID_BYTES)..).unwrap_or_default();
        match String::from_utf8_lossy(end).trim() {
            "" => "nothing".to_owned(),
            said => said.replace('\n', " | "),
        }
    }

    fn kill(&mut self) -> io::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
            (self.watch)(Pid::from_child(&child), false);
        }
        Ok(())
    }
}

impl Broker for Process {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn restart(&mut self) -> io::Result<()> {
        self.kill()?;
        self.spawn()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Fills in what the words in braces stand for.
fn placeholders(
    here: &Path,
    directory: &Path,
    port: u16,
) -> io::Result<impl Fn(&str) -> String + use<>> {
    let this = std::env::current_exe()?;
    let beside = this.parent().unwrap_or(Path::new(".")).display().to_string();
    let values = [
        ("{port}", port.to_string()),
        ("{beside}", beside),
        ("{here}", here.display().to_string()),
        ("{files}", directory.display().to_string()),
    ];
    Ok(move |text: &str| {
        let filled = |text: String, (name, value): &(&str, String)| text.replace(name, value);
        values.iter().fold(text.to_owned(), filled)
    })
}
