//! What a listener is told: where it listens, and who may use it.

use std::path::PathBuf;

use super::{Given, Kind, Wrong};
use crate::config::schema::Bind;

/// An IP address and a port, or the path of a socket.
pub(in crate::config) struct Address;

/// What the path of a socket begins with.
const UNIX: &str = "unix:";

/// The longest path of a socket that systems take, in bytes.
const MAX_SOCKET_PATH: usize = 107;

impl Kind<Bind> for Address {
    fn take(&self, given: Given<'_>) -> Result<Bind, Wrong> {
        let text = given.text().ok_or("is not text")?;
        if let Some(path) = text.strip_prefix(UNIX) {
            if path.is_empty() || path.len() > MAX_SOCKET_PATH || path.contains('\0') {
                return Err(format!("is not a path of 1 to {MAX_SOCKET_PATH} bytes"));
            }
            return Ok(Bind::Unix(PathBuf::from(path)));
        }
        text.parse().map(Bind::Ip).map_err(|_| "is not an IP address and a port".to_owned())
    }

    fn allowed(&self) -> String {
        "an IP address and a port, like \"127.0.0.1:1883\", \"0.0.0.0:1883\" or \"[::]:1883\", or \
         \"unix:PATH\""
            .to_owned()
    }

    fn show(&self, value: &Bind) -> String {
        format!("{:?}", value.to_string())
    }
}

/// The permissions of a file, in octal.
pub(in crate::config) struct Permissions;

impl Kind<u32> for Permissions {
    fn take(&self, given: Given<'_>) -> Result<u32, Wrong> {
        let text = given.text().ok_or("is not text")?;
        let is_octal = text.len() == 4 && text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
        u32::from_str_radix(text, 8)
            .ok()
            .filter(|mode| is_octal && *mode <= 0o777)
            .ok_or_else(|| "is not four octal digits".to_owned())
    }

    fn allowed(&self) -> String {
        "permissions from \"0000\" to \"0777\", like \"0660\"".to_owned()
    }

    fn show(&self, value: &u32) -> String {
        format!("\"{value:04o}\"")
    }
}
