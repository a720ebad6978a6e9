//! A data directory that no broker runs on: looked at, written out as text, filled from it, or moved to
//! another engine.

mod check;
mod copy;
mod dump;
mod entry;
mod line;
mod owner;
mod when;

pub use check::{Findings, check};
pub use copy::copy;
pub use dump::{DumpError, Dumped, RestoreError, dump, restore};
pub use owner::AsOwner;
