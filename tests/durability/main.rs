//! The program is killed, and started again on what it left.

#[path = "../common/mod.rs"]
mod common;

mod failing;
mod history;
mod killed;
mod offline;
mod process;
mod restart;
