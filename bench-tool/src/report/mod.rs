//! What a run found, and how it is told.

mod outcome;
mod text;

pub(crate) use outcome::{Headline, Outcome, Work};
pub(crate) use text::{percentiles, print_outcome, table};
