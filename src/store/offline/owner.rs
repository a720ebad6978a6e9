//! What is made in a data directory belongs to who has it.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::process::{Gid, Uid, getegid, geteuid};
use rustix::thread::{set_thread_res_gid, set_thread_res_uid};

/// Has this thread, and those that it starts, act as the owner of a directory, until it is dropped.
#[derive(Debug)]
pub struct AsOwner {
    /// To go back to.
    root: Option<(Uid, Gid)>,
}

impl AsOwner {
    /// If it is root: a broker that is the owner's could not open what root makes there. Everybody else goes on
    /// as they are, and so does root if the owner cannot get there.
    #[must_use]
    pub fn of(directory: &Path) -> Self {
        let own = (geteuid(), getegid());
        let Ok(found) = directory.metadata() else { return Self { root: None } };
        let owner = (Uid::from_raw(found.uid()), Gid::from_raw(found.gid()));
        if !own.0.is_root() || owner.0.is_root() {
            return Self { root: None };
        }
        let as_owner = Self { root: Some(own) };
        match act_as(owner).and_then(|()| directory.metadata()) {
            Ok(_) => as_owner,
            // Dropped, the other goes back.
            Err(_) => Self { root: None },
        }
    }
}

impl Drop for AsOwner {
    fn drop(&mut self) {
        if let Some((user, group)) = self.root {
            // Who was root may be again.
            let _ = set_user(user).and_then(|()| set_group(group));
        }
    }
}

fn act_as((user, group): (Uid, Gid)) -> io::Result<()> {
    set_group(group)?;
    set_user(user)
}

fn set_user(user: Uid) -> io::Result<()> {
    Ok(set_thread_res_uid(None::<Uid>, user, None::<Uid>)?)
}

fn set_group(group: Gid) -> io::Result<()> {
    Ok(set_thread_res_gid(None::<Gid>, group, None::<Gid>)?)
}
