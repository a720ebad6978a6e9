//! A mount namespace, in which a directory is another file system. Who is not root gets one of its own users
//! with it, where the system allows that.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// It lasts as long as the process that made it.
pub(crate) struct Room {
    keeper: Child,
    is_root: bool,
}

impl Room {
    /// With a disk of its own in place of a directory.
    pub(crate) fn with_disk(directory: &Path, bytes: u64) -> Self {
        let mount = "mount -t tmpfs -o size=\"$2\" tmpfs \"$1\"";
        Self::new(mount, directory, &bytes.to_string())
    }

    /// In which nothing can be written to a directory.
    pub(crate) fn read_only(directory: &Path) -> Self {
        let mount = "mount --bind \"$1\" \"$1\" && mount -o remount,bind,ro \"$1\"";
        Self::new(mount, directory, "")
    }

    fn new(mount: &str, directory: &Path, argument: &str) -> Self {
        let is_root = rustix::process::geteuid().is_root();
        let mut command = Command::new("unshare");
        if !is_root {
            command.arg("--map-root-user");
        }
        command.args(["--mount", "sh", "-c", &format!("{mount} && echo made && exec cat"), "sh"]);
        command.arg(directory).arg(argument);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut keeper = command.spawn().expect("util-linux is there");
        let mut said = String::new();
        let mut output = BufReader::new(keeper.stdout.take().expect("a pipe"));
        output.read_line(&mut said).expect("it can be read");
        if said != "made\n" {
            let mut error = String::new();
            let _ = keeper.stderr.take().expect("a pipe").read_to_string(&mut error);
            panic!("this test has to mount something, as root or where users may do so: {error}");
        }
        Self { keeper, is_root }
    }

    /// A path in it, as it is seen from here.
    pub(crate) fn seen(&self, path: &Path) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.keeper.id()));
        root.join(path.strip_prefix("/").expect("a whole path"))
    }

    /// The command, to be run in it.
    pub(crate) fn enter(&self, command: &Command) -> Command {
        let mut entered = Command::new("nsenter");
        entered.args(["--target", &self.keeper.id().to_string(), "--mount"]);
        if !self.is_root {
            entered.args(["--user", "--preserve-credentials"]);
        }
        entered.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => entered.env(name, value),
                None => entered.env_remove(name),
            };
        }
        entered
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // It ends with its input.
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}
