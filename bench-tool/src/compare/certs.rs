//! The certificates of a comparison: all brokers that it starts show the same.

use std::fs;
use std::path::{Path, PathBuf};

use sluice::config::certs::Certs;

use super::plan::Comparison;
use super::target;

/// A directory with a CA, a server for this machine and a client, each a .pem and a .key; dropping it removes it.
pub(super) struct Certificates {
    directory: PathBuf,
}

impl Certificates {
    /// Made if any of the targets asks for them.
    pub(super) fn make(comparison: &Comparison) -> Result<Self, crate::Error> {
        if !comparison.targets.iter().any(|target| target.mentions("{certs}")) {
            return Ok(Self { directory: PathBuf::new() });
        }
        let made = Self { directory: target::fresh_directory(None)? };
        let (out, client) = (made.directory.clone(), "client".to_owned());
        Certs { out, host: Vec::new(), client }.run()?;
        Ok(made)
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) fn ca(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        if !self.directory.as_os_str().is_empty() {
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}
