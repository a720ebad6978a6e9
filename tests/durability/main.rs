//! The program is killed, and started again on what it left.

#[path = "../common/mod.rs"]
mod common;

mod clients;
mod contents;
mod damaged;
mod expiry;
mod failing;
mod fields;
mod first_start;
mod full;
mod killed;
mod log;
mod offline;
mod order;
mod paging;
mod process;
mod read_only;
mod restart;
mod room;
mod told;
mod trace;
mod written;
