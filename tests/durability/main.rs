//! The program is killed, and started again on what it left.

#[path = "../common/mod.rs"]
mod common;

mod contents;
mod damaged;
mod expiry;
mod failing;
mod killed;
mod offline;
mod order;
mod paging;
mod process;
mod restart;
mod trace;
mod written;
