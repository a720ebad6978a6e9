//! The live view on a terminal: one line that is written over, and that fits.

use std::io::Write;

use super::*;

/// What goes before each line, and removes the last one.
const OVER: &str = "\r\x1b[2K";

/// Whole lines of a run.
fn lines(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.split(OVER).skip(1).collect();
    lines.pop();
    lines
}

/// What a run shows on a terminal of so many columns, until a line has these words, and until Ctrl-C ends it. 0
/// stands for a terminal that does not say.
fn shown(address: SocketAddr, columns: u32, words: &str) -> (String, String) {
    let port = address.port();
    let pairs = format!("run p2p -p {port} --publishers 1 --warm-up 0 -W 60");
    let command = format!("stty cols {columns}; exec {PROGRAM} {pairs} >/dev/null");
    let mut terminal = Command::new("script")
        .args(["--quiet", "--return", "--command", &command, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = terminal.stdout.take().unwrap();
    let mut text = String::new();
    while !lines(&text).last().is_some_and(|line| line.contains(words)) {
        let mut bytes = [0; 4096];
        let count = output.read(&mut bytes).unwrap();
        assert!(count > 0, "{text:?}");
        text += &String::from_utf8_lossy(&bytes[..count]);
    }
    terminal.stdin.as_mut().unwrap().write_all(b"\x03").unwrap();
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert_eq!(terminal.wait().unwrap().code(), Some(INTERRUPTED), "{text:?} {rest:?}");
    (text, rest)
}

#[test]
fn on_a_terminal_one_line_is_written_over() {
    let (_floor, address) = floor();
    for (columns, most, words) in
        [(40, 39, "  measuring  2/2 connected  sent"), (250, 249, "  p50 "), (0, 100, "  p50 ")]
    {
        let (text, rest) = shown(address, columns, words);
        assert!(rest.ends_with(OVER), "{rest:?}");
        let lines = lines(&text);
        assert!(lines.iter().all(|line| line.chars().count() <= most), "{lines:?}");
        assert!(!lines.concat().contains('\n'), "{lines:?}");
        // As much is shown as there is room for.
        let last = lines.last().unwrap();
        assert!(last.chars().count() == most || columns == 250, "{lines:?}");
        assert_eq!(last.ends_with("  errors 0"), columns == 250, "{lines:?}");
    }
}
