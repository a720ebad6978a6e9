//! Values that are text of some form.

use std::path::{Path, PathBuf};

use crate::auth::{NETWORK_FORM, Network, check_user};
use crate::mqtt::Limits;
use crate::mqtt::topic::Filter;

use super::{Given, Kind, Wrong};

/// The beginning of a topic name: no wildcards, no control characters; may be empty.
pub(in crate::config) struct TopicPrefix;

impl Kind<String> for TopicPrefix {
    fn take(&self, given: Given<'_>) -> Result<String, Wrong> {
        let text = given.text().ok_or("is not text")?;
        if text.len() > 1024 {
            return Err("is too long".to_owned());
        }
        if text.contains(['+', '#']) || text.contains(char::is_control) {
            return Err("cannot begin a topic".to_owned());
        }
        Ok(text.to_owned())
    }

    fn allowed(&self) -> String {
        "up to 1024 bytes without +, # and control characters".to_owned()
    }

    fn show(&self, value: &String) -> String {
        format!("{value:?}")
    }
}

/// The path of a directory, from where the process was started if it is not absolute.
pub(in crate::config) struct Directory;

impl Kind<PathBuf> for Directory {
    fn take(&self, given: Given<'_>) -> Result<PathBuf, Wrong> {
        let text = given.text().ok_or("is not text")?;
        if text.is_empty() || text.contains('\0') {
            return Err("is not a path".to_owned());
        }
        Ok(text.into())
    }

    fn allowed(&self) -> String {
        "the path of a directory".to_owned()
    }

    fn show(&self, value: &PathBuf) -> String {
        format!("{value:?}")
    }
}

/// The path of a file; "" is none.
pub(in crate::config) struct File;

impl Kind<Option<PathBuf>> for File {
    fn take(&self, given: Given<'_>) -> Result<Option<PathBuf>, Wrong> {
        let text = given.text().ok_or("is not text")?;
        if text.contains('\0') {
            return Err("is not a path".to_owned());
        }
        Ok((!text.is_empty()).then(|| text.into()))
    }

    fn allowed(&self) -> String {
        "the path of a file, or \"\" for none".to_owned()
    }

    fn show(&self, value: &Option<PathBuf>) -> String {
        format!("{:?}", value.as_deref().unwrap_or(Path::new("")))
    }
}

/// An address or a range of addresses.
pub(in crate::config) struct AddressRange;

impl Kind<Network> for AddressRange {
    fn take(&self, given: Given<'_>) -> Result<Network, Wrong> {
        let text = given.text().ok_or("is not text")?;
        text.parse().map_err(str::to_owned)
    }

    fn allowed(&self) -> String {
        NETWORK_FORM.to_owned()
    }

    fn show(&self, value: &Network) -> String {
        format!("\"{value}\"")
    }
}

/// A user name as a password file has it.
pub(in crate::config) struct UserName;

impl Kind<String> for UserName {
    fn take(&self, given: Given<'_>) -> Result<String, Wrong> {
        let text = given.text().ok_or("is not text")?;
        check_user(text)?;
        Ok(text.to_owned())
    }

    fn allowed(&self) -> String {
        "a user name without : and control characters".to_owned()
    }

    fn show(&self, value: &String) -> String {
        format!("{value:?}")
    }
}

/// A topic filter; `%` may stand in it.
pub(in crate::config) struct TopicFilter;

impl Kind<String> for TopicFilter {
    fn take(&self, given: Given<'_>) -> Result<String, Wrong> {
        let text = given.text().ok_or("is not text")?;
        match Filter::parse(text, &Limits::default()) {
            Ok(Filter { share: None, .. }) => Ok(text.to_owned()),
            Ok(_) => Err("is a shared subscription".to_owned()),
            Err(_) => Err("is not a topic filter".to_owned()),
        }
    }

    fn allowed(&self) -> String {
        "a topic filter, like \"a/b\", \"a/+/c\", \"a/#\" or \"users/%u/#\"".to_owned()
    }

    fn show(&self, value: &String) -> String {
        format!("{value:?}")
    }
}

/// Text of some length.
pub(in crate::config) struct Name;

impl Kind<String> for Name {
    fn take(&self, given: Given<'_>) -> Result<String, Wrong> {
        let text = given.text().ok_or("is not text")?;
        if text.is_empty() || text.len() > usize::from(u16::MAX) {
            return Err("is empty or too long".to_owned());
        }
        Ok(text.to_owned())
    }

    fn allowed(&self) -> String {
        "1 to 65535 bytes of text".to_owned()
    }

    fn show(&self, value: &String) -> String {
        format!("{value:?}")
    }
}

/// Where something is asked over HTTP.
pub(in crate::config) struct Url;

impl Kind<String> for Url {
    fn take(&self, given: Given<'_>) -> Result<String, Wrong> {
        let text = given.text().ok_or("is not text")?;
        let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
        match rest.filter(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_graphic())) {
            Some(_) => Ok(text.to_owned()),
            None => Err("is not a URL".to_owned()),
        }
    }

    fn allowed(&self) -> String {
        "a URL, like \"http://127.0.0.1:8080/mqtt\" or \"https://auth.example.org/\"".to_owned()
    }

    fn show(&self, value: &String) -> String {
        format!("{value:?}")
    }
}

/// What a header of HTTP may be. Not shown: it may be a secret.
pub(in crate::config) struct HeaderValue;

impl Kind<String> for HeaderValue {
    fn take(&self, given: Given<'_>) -> Result<String, Wrong> {
        let text = given.text().ok_or("is not text")?;
        if text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
            Ok(text.to_owned())
        } else {
            Err("has a character in it that no header may have".to_owned())
        }
    }

    fn allowed(&self) -> String {
        "ASCII text".to_owned()
    }

    fn show(&self, _: &String) -> String {
        "\"…\"".to_owned()
    }

    fn is_secret(&self) -> bool {
        true
    }
}

/// The path of a URL, without a query.
pub(in crate::config) struct UrlPath;

impl Kind<String> for UrlPath {
    fn take(&self, given: Given<'_>) -> Result<String, Wrong> {
        let text = given.text().ok_or("is not text")?;
        if !text.starts_with('/') || text.len() > 256 {
            return Err("does not begin with / or is too long".to_owned());
        }
        if text.bytes().any(|byte| !byte.is_ascii_graphic() || b"?#".contains(&byte)) {
            return Err("has something in it that a path cannot have".to_owned());
        }
        Ok(text.to_owned())
    }

    fn allowed(&self) -> String {
        "a path like \"/mqtt\", without spaces, ? and #".to_owned()
    }

    fn show(&self, value: &String) -> String {
        format!("{value:?}")
    }
}

/// Where a page comes from, as browsers write it.
pub(in crate::config) struct WebOrigin;

impl Kind<String> for WebOrigin {
    fn take(&self, given: Given<'_>) -> Result<String, Wrong> {
        let text = given.text().ok_or("is not text")?;
        let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        if host.is_none_or(|host| host.is_empty() || host.contains(['/', ' '])) {
            return Err("is no origin".to_owned());
        }
        Ok(text.to_owned())
    }

    fn allowed(&self) -> String {
        "an origin like \"https://example.org\" or \"http://localhost:8000\"".to_owned()
    }

    fn show(&self, value: &String) -> String {
        format!("{value:?}")
    }
}
