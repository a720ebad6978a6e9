//! What a run found, and how it is told.

mod chart;
mod files;
mod outcome;
mod problem;
mod text;

pub(crate) use files::{Entry, write as write_files};
pub(crate) use outcome::{Headline, Outcome, Work};
pub(crate) use problem::{Problem, Status, status_of};
pub(crate) use text::{describe, percentiles, short, table, thousands};
