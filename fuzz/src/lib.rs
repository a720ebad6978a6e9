//! What the fuzz targets do with their input. They panic when something is wrong.
//!
//! `cargo +nightly fuzz run TARGET fuzz/corpus/TARGET fuzz/seeds/TARGET -- -len_control=0`, where
//! there are seeds; a finding runs again by `cargo +nightly fuzz run TARGET FILE`.

pub mod connection;
pub mod decode;
mod input;
mod naive;
pub mod proxy;
pub mod retained;
pub mod scram;
pub mod topic_match;
pub mod websocket;
pub mod wheel;
