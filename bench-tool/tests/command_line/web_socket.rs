//! WebSocket, over TCP and TLS, against the broker.

use super::tls::{broker, certificates, path};
use super::*;

/// A listener of WebSocket beside TLS.
const WEB_SOCKET: &str = "[listener.websocket]\npath = \"/mqtt\"";

#[test]
fn messages_pass_over_both() {
    let directory = certificates();
    let ca = path(&directory, "ca.pem");
    let (_plain, ws) = broker(&directory, None, WEB_SOCKET);
    let (_secure, wss) = broker(&directory, Some("server"), WEB_SOCKET);
    let (over_tcp, over_tls) = (["--ws"], ["--ws-path", "/mqtt", "--cafile", &ca]);
    for (address, how) in [(ws, &over_tcp[..]), (wss, &over_tls[..])] {
        // The larger one takes more than a frame. Masking is slow where it is not optimised.
        for size in ["64", "70000"] {
            let pairs = ["run", "p2p", "--publishers", "2", "-q", "2", "-F", "1", "-s", size];
            let (status, output, errors) = pass_at(address, &[&pairs[..], how].concat());
            assert_eq!(status, Some(0), "{how:?}: {output}{errors}");
            assert!(output.contains("0 lost, 0 duplicates, 0 reordered"), "{output}");
            assert!(!output.contains("delivered             0 in"), "{output}");
        }
    }
}

#[test]
fn what_comes_by_tcp_leaves_by_web_socket() {
    let directory = certificates();
    let (broker, ws) =
        broker(&directory, None, &format!("{WEB_SOCKET}\n[[listener]]\nbind = \"127.0.0.1:0\""));
    let mut sub = start_at(ws, &["sub", "--ws", "-t", "text", "-L", "3"]);
    sub.wait_for("1/1 connected");
    let publish = ["pub", "-t", "text", "-m", "hello", "-I", "0", "-L", "3"];
    let (status, output, errors) = run_at(broker.addresses()[1], &publish);
    assert_eq!(status, Some(0), "{output}{errors}");
    let (status, output, errors) = sub.end();
    assert_eq!(status, Some(0), "{output}{errors}");
    assert!(output.contains("delivered             3 in"), "{output}");
}

#[test]
fn a_handshake_that_is_refused_is_one_line() {
    let directory = certificates();
    let (_broker, ws) = broker(&directory, None, WEB_SOCKET);
    let other = ["--ws-path", "/other"];
    tls::assert_refused(ws, &other, "WebSocket: the server answers with status 404");
    let (_floor, plain) = floor();
    tls::assert_refused(
        plain,
        &["--ws"],
        "closed by the broker in the middle of the handshake (does that port speak WebSocket, and without TLS (--tls)?)",
    );
}
