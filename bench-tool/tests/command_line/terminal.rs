//! The live view on a terminal: one line that is written over, and that fits.

use super::*;

/// What goes before each line, and removes the last one.
const OVER: &str = "\r\x1b[2K";

/// What a run shows on a terminal of so many columns; 0 stands for one that does not say.
fn shown(address: SocketAddr, columns: u32) -> String {
    let port = address.port();
    let pairs = format!("run p2p -p {port} --publishers 1 --warm-up 0 -W 0.7");
    let command = format!("stty cols {columns}; exec {PROGRAM} {pairs} >/dev/null");
    let terminal = ["--quiet", "--return", "--command", &command, "/dev/null"];
    let output = Command::new("script").args(terminal).stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    text
}

#[test]
fn on_a_terminal_one_line_is_written_over() {
    let (_floor, address) = floor();
    for (columns, most) in [(40, 39), (250, 249), (0, 100)] {
        let text = shown(address, columns);
        let (_, text) = text.split_once(OVER).unwrap();
        let lines: Vec<&str> = text.split(OVER).collect();
        let (last, lines) = lines.split_last().unwrap();
        assert_eq!(*last, "", "{text:?}");
        assert!(lines.iter().any(|line| line.contains("  measuring  2/2 conn")), "{lines:?}");
        assert!(lines.iter().all(|line| line.chars().count() <= most), "{lines:?}");
        assert!(!lines.concat().contains('\n'), "{lines:?}");
        // As much is shown as there is room for.
        let longest = lines.iter().map(|line| line.chars().count()).max();
        assert!(longest == Some(most) || longest > Some(60), "{lines:?}");
        let is_whole = lines.iter().all(|line| line.ends_with("  errors 0"));
        assert_eq!(is_whole, columns == 250, "{lines:?}");
    }
}
