//! What the fuzz targets do with their input. They panic when something is wrong.
//!
//! `cargo +nightly fuzz run TARGET fuzz/corpus/TARGET fuzz/seeds/TARGET`, or, for a finding,
//! `cargo +nightly fuzz run TARGET FILE`.

pub mod connection;
pub mod decode;
mod input;
mod naive;
pub mod retained;
pub mod topic_match;
pub mod wheel;
