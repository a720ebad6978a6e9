//! Black-box conformance tests: a broker in this process, real sockets, and a client of the
//! tests' own. Each test names the normative statement it proves; numbers are version 5's where
//! nothing else is said.

#[path = "../common/mod.rs"]
mod common;

mod acl;
mod authentication;
mod certificates;
mod connect;
mod drops;
mod ending;
mod enhanced;
mod everywhere;
mod expiry;
mod flow_control;
mod http;
mod keep_alive;
mod limits;
mod listeners;
mod malformed;
mod ordering;
mod overflow;
mod pressure;
mod properties_v5;
mod qos;
mod rates;
mod retained;
mod retry;
mod rig;
mod sessions;
mod shared;
mod shared_choice;
mod shutdown;
mod step_by_step;
mod subscriptions;
mod sys_topics;
mod tables;
mod tls;
mod tls_reload;
mod tokens;
mod transports;
mod websocket;
mod will;
