//! Words in braces, and what they stand for: ports, directories, programs.

use std::io;
use std::path::Path;

use super::plan::Comparison;
use crate::engine::Carrier;

/// All of them, without their braces.
pub(super) const NAMES: [&str; 9] =
    ["port", "tls_port", "ws_port", "wss_port", "certs", "files", "here", "self", "beside"];

/// What they stand for, in the same order.
pub(super) struct Places {
    values: [String; NAMES.len()],
}

/// The ports of one start of a target.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ports {
    pub(super) tcp: u16,
    pub(super) tls: u16,
    pub(super) ws: u16,
    pub(super) wss: u16,
}

impl Ports {
    pub(super) fn of(self, carrier: Carrier) -> u16 {
        match carrier {
            Carrier::Tcp => self.tcp,
            Carrier::Tls => self.tls,
            Carrier::Ws => self.ws,
            Carrier::Wss => self.wss,
        }
    }
}

impl Carrier {
    /// What stands for the port that a target is to listen on.
    pub(super) fn port_place(self) -> &'static str {
        match self {
            Self::Tcp => "port",
            Self::Tls => "tls_port",
            Self::Ws => "ws_port",
            Self::Wss => "wss_port",
        }
    }
}

impl Places {
    /// `files` is the directory of one start, `certs` that of the comparison's certificates.
    pub(super) fn new(
        comparison: &Comparison,
        certs: &Path,
        files: &Path,
        ports: Ports,
    ) -> io::Result<Self> {
        let this = std::env::current_exe()?;
        let beside = this.parent().unwrap_or(Path::new("."));
        let show = |path: &Path| path.display().to_string();
        Ok(Self {
            values: [
                ports.tcp.to_string(),
                ports.tls.to_string(),
                ports.ws.to_string(),
                ports.wss.to_string(),
                show(certs),
                show(files),
                show(&comparison.directory),
                show(&this),
                show(beside),
            ],
        })
    }

    pub(super) fn fill(&self, text: &str) -> String {
        NAMES.iter().zip(&self.values).fold(text.to_owned(), |text, (name, value)| {
            text.replace(&format!("{{{name}}}"), value)
        })
    }
}

/// The first word in braces that stands for nothing, with its braces.
pub(super) fn unknown(text: &str) -> Option<&str> {
    let words = text.match_indices('{').filter_map(|(start, _)| {
        let rest = &text[start + 1..];
        let word = &rest[..rest.find('}')?];
        let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
        let is_word = !word.is_empty() && word.chars().all(is_name);
        is_word.then_some((start, word))
    });
    let mut unknown = words.filter(|(_, word)| !NAMES.contains(word));
    unknown.next().map(|(start, word)| &text[start..start + word.len() + 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_in_braces_are_words() {
        assert_eq!(unknown("{port} {self}/{files} {} { x } {a: 1} ${HOME} {"), None);
        assert_eq!(unknown("{port}{prot}"), Some("{prot}"));
        assert_eq!(unknown("{{prot}}"), Some("{prot}"));
    }
}
