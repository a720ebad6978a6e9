//! What the program `sluice-bench` shares with tests: see [`torture`]. The rest is the program's own.

pub mod torture;
