//! The system calls of a broker, as `strace` writes them down.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::Path;
use std::process::Command;

/// What a broker did, as far as it is of interest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// Bytes from a socket.
    Received(Vec<u8>),
    /// Bytes to a socket.
    Sent(Vec<u8>),
    /// Bytes to a file, from a place on if that was said; of many bytes those that are traced.
    Wrote(String, Option<u64>, Vec<u8>),
    /// A file is on disk.
    Synced(String),
}

const CALLS: &str = "trace=read,readv,recvfrom,recvmsg,write,writev,sendto,sendmsg,pwrite64,pwritev,\
     fsync,fdatasync";

/// Has what a command starts traced into a file, so many bytes of what a call reads or writes; the process
/// itself is not the tracer's child.
pub(crate) fn traced(command: &Command, to: &Path, bytes: usize) -> Command {
    let mut strace = Command::new("strace");
    strace
        .args(["-D", "-f", "-y", "-xx", "-q", "-s", &bytes.to_string()])
        .args(["-e", CALLS])
        .arg("-o")
        .arg(to)
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => strace.env(name, value),
            None => strace.env_remove(name),
        };
    }
    strace
}

/// Whether every process of a trace has ended.
pub(crate) fn has_ended(path: &Path) -> bool {
    let text = fs::read_to_string(path).unwrap_or_default();
    let pids = |lines: &mut dyn Iterator<Item = &str>| -> BTreeSet<String> {
        lines.filter_map(|line| Some(line.split_once(' ')?.0.to_owned())).collect()
    };
    let ended = pids(&mut text.lines().filter(|line| line.contains("+++ ")));
    !ended.is_empty() && ended == pids(&mut text.lines())
}

/// The calls of a trace: what gives something counts when it ends, what takes something out of the
/// process when it begins.
pub(crate) fn calls(path: &Path) -> Vec<Call> {
    let text = fs::read_to_string(path).expect("a trace");
    let mut begun: HashMap<&str, &str> = HashMap::new();
    let mut calls = Vec::new();
    for line in text.lines() {
        let (pid, rest) = line.split_once(' ').expect("a process and a call");
        let rest = rest.trim_start();
        if let Some(call) = rest.strip_suffix(" <unfinished ...>") {
            begun.insert(pid, call);
            // It may be seen outside before it returns.
            calls.extend(call_of(call, None).filter(|call| matches!(call, Call::Sent(_))));
        } else if let Some((_, end)) = rest.split_once(" resumed>") {
            let Some(start) = begun.remove(pid) else { continue };
            let whole = format!("{start}{end}");
            let call =
                whole.rsplit_once(" = ").and_then(|(call, result)| call_of(call, Some(result)));
            calls.extend(call.filter(|call| !matches!(call, Call::Sent(_))));
        } else if let Some((call, result)) = rest.rsplit_once(" = ") {
            calls.extend(call_of(call, Some(result)));
        }
    }
    calls
}

/// `result` is what it returned, if it has.
fn call_of(call: &str, result: Option<&str>) -> Option<Call> {
    let (name, rest) = call.split_once('(')?;
    // As in `5</path>`, or `7<socket:[1234]>`; with -xx the path is in hexadecimal, too.
    let (_, rest) = rest.split_once('<')?;
    let (place, rest) = rest.split_once('>')?;
    let place = text(place);
    let is_socket = place.starts_with("socket:") || place.starts_with("TCP");
    if result.is_some_and(|result| result.starts_with('-')) {
        return None;
    }
    match name {
        "read" | "readv" | "recvfrom" | "recvmsg" if is_socket => Some(Call::Received(bytes(rest))),
        "write" | "writev" | "sendto" | "sendmsg" if is_socket => Some(Call::Sent(bytes(rest))),
        "write" | "writev" => Some(Call::Wrote(place, None, bytes(rest))),
        "pwrite64" | "pwritev" => Some(Call::Wrote(place, last_number(rest), bytes(rest))),
        "fsync" | "fdatasync" => Some(Call::Synced(place)),
        _ => None,
    }
}

/// The last argument.
fn last_number(arguments: &str) -> Option<u64> {
    arguments.trim_end().trim_end_matches(')').rsplit_once(", ")?.1.parse().ok()
}

/// All that stands in quotes, one after the other: `"\x40\x02"`.
fn bytes(arguments: &str) -> Vec<u8> {
    arguments.split('"').skip(1).step_by(2).flat_map(unescaped).collect()
}

fn text(place: &str) -> String {
    String::from_utf8_lossy(&unescaped(place)).into_owned()
}

fn unescaped(text: &str) -> Vec<u8> {
    if !text.starts_with("\\x") {
        return text.as_bytes().to_vec();
    }
    let digits = text.split("\\x").skip(1);
    digits.filter_map(|hex| u8::from_str_radix(hex.get(..2)?, 16).ok()).collect()
}

#[test]
fn calls_are_read_as_strace_writes_them() {
    let directory = tempfile::TempDir::new().expect("a directory");
    let path = directory.path().join("trace");
    let lines = r#"12 recvfrom(9<socket:[1]>, "\x30\x01", 4096, 0, NULL, NULL) = 2
12 write(5<\x2f\x61>, "\x62" <unfinished ...>
13 fdatasync(6</b> <unfinished ...>
12 <... write resumed>, 1) = 1
14 writev(9<socket:[1]>, [{iov_base="\x40\x02", iov_len=2}, {iov_base="\x00", iov_len=1}], 2 <unfinished ...>
13 <... fdatasync resumed>) = 0
14 <... writev resumed>) = 3
12 fsync(6</b>) = -1 EIO (Input/output error)
12 recvfrom(9<socket:[1]>, 0x7f00, 4096, 0, NULL, NULL) = -1 EAGAIN (Resource temporarily unavailable)
12 pwrite64(5</c.log>, "\x62\x63"..., 4096, 8192) = 4096
12 +++ killed by SIGKILL +++
"#;
    fs::write(&path, lines).expect("written");
    let wanted = [
        Call::Received(vec![0x30, 1]),
        Call::Wrote("/a".to_owned(), None, b"b".to_vec()),
        Call::Sent(vec![0x40, 2, 0]),
        Call::Synced("/b".to_owned()),
        Call::Wrote("/c.log".to_owned(), Some(8192), b"bc".to_vec()),
    ];
    assert_eq!(calls(&path), wanted);
}
