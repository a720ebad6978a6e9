//! What is made in a data directory belongs to who has it.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::process::{Gid, Uid, getegid, geteuid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_thread_res_gid,
    set_thread_res_uid,
};

/// Has this thread, and those that it starts, act as the owner of a directory, until it is dropped.
#[derive(Debug)]
pub struct AsOwner {
    /// To go back to.
    root: Option<(Uid, Gid)>,
}

impl AsOwner {
    /// If it is root: a broker that is the owner's could not open what root makes there. Everybody else goes on
    /// as they are, and so does root if the owner cannot be had to get there.
    #[must_use]
    pub fn of(directory: &Path) -> Self {
        let own = (geteuid(), getegid());
        let Ok(found) = directory.metadata() else { return Self { root: None } };
        let owner = (Uid::from_raw(found.uid()), Gid::from_raw(found.gid()));
        if !own.0.is_root() || owner.0.is_root() {
            return Self { root: None };
        }
        let as_owner = Self { root: Some(own) };
        let gets_there = || directory.metadata().is_ok();
        if act_as(owner).is_ok() && (gets_there() || (pass_all().is_ok() && gets_there())) {
            return as_owner;
        }
        // Dropped, the other goes back.
        Self { root: None }
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

/// Has this thread, which was root's, pass directories that are closed to who it is now: behind `/var/lib/private`
/// systemd keeps those of the users that it makes for a service. What it makes is theirs all the same.
fn pass_all() -> io::Result<()> {
    let CapabilitySets { permitted, inheritable, .. } = capabilities(None)?;
    // The second is more than needed, but in a container it may be all there is.
    let passes = [CapabilitySet::DAC_READ_SEARCH, CapabilitySet::DAC_OVERRIDE];
    let effective = passes.into_iter().find(|passes| permitted.contains(*passes));
    let effective = effective.unwrap_or(CapabilitySet::empty());
    Ok(set_capabilities(None, CapabilitySets { effective, permitted, inheritable })?)
}

fn set_user(user: Uid) -> io::Result<()> {
    Ok(set_thread_res_uid(None::<Uid>, user, None::<Uid>)?)
}

fn set_group(group: Gid) -> io::Result<()> {
    Ok(set_thread_res_gid(None::<Gid>, group, None::<Gid>)?)
}
