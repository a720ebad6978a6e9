//! Listeners that differ in who comes in.

use crate::authentication::{ALICE, BAD_USER_NAME_OR_PASSWORD, Passwords};
use crate::common::fixture::broker_with_listener;
use crate::common::{Broker, Client, Connect, V5, code};

/// How CONNECT to one of its listeners ends.
fn answer(broker: &Broker, listener: usize, connect: &Connect) -> u8 {
    Client::connect(broker.address_of(listener), connect).1.code
}

#[test]
fn each_listener_has_links_of_its_own() {
    let passwords = Passwords::new(&[ALICE]);
    let more = |links: &str| format!("[[listener]]\nbind = \"127.0.0.1:0\"\n{links}\n");
    let (file, none) = ("authentication = [\"password_file\"]", "authentication = []");
    let others = |second: &str| [more(second), more(none), more("")].concat();
    let toml = |second: &str| passwords.toml(&others(second));
    let anonymous = "authentication = [\"anonymous\"]";
    let broker = broker_with_listener(2, anonymous, &toml(file));
    let alice = Connect::new(V5, "a").user("alice", "wonderland");
    let wrong = Connect::new(V5, "a").user("alice", "x");
    let nobody = Connect::new(V5, "n");
    let answers = |listener| [&alice, &wrong, &nobody].map(|one| answer(&broker, listener, one));
    let by_file = [code::SUCCESS, BAD_USER_NAME_OR_PASSWORD, code::NOT_AUTHORIZED];
    assert_eq!(answers(0), [code::SUCCESS; 3], "whatever they say");
    assert_eq!(answers(1), by_file);
    let refused = [BAD_USER_NAME_OR_PASSWORD, BAD_USER_NAME_OR_PASSWORD, code::NOT_AUTHORIZED];
    assert_eq!(answers(2), refused, "without links nobody");
    assert_eq!(answers(3), by_file, "all that [auth] has");
    // On SIGHUP.
    let both = "authentication = [\"anonymous\", \"password_file\"]";
    broker.reload_with_listener(none, &toml(both)).unwrap();
    assert_eq!(answers(0), refused);
    assert_eq!(answers(1), [code::SUCCESS, BAD_USER_NAME_OR_PASSWORD, code::SUCCESS]);
}

/// A new configuration is for the listeners that there are, too, whether or not it has them.
#[test]
fn a_listener_that_is_to_go_is_not_left_open() {
    let passwords = Passwords::new(&[ALICE]);
    let listener = "[[listener]]\nbind = \"0.0.0.0:0\"\n";
    let broker = crate::common::broker(&passwords.toml(listener));
    let error = broker.reload("").unwrap_err();
    assert!(error.contains("can be reached by other machines"), "{error}");
    assert_eq!(answer(&broker, 1, &Connect::new(V5, "n")), code::NOT_AUTHORIZED);
}
