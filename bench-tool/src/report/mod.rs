//! What a run found, and how it is told.

mod about;
mod chart;
mod files;
mod outcome;
mod page;
mod problem;
mod record;
mod summary;
mod text;

pub(crate) use files::{Entry, Report, write as write_files};
pub(crate) use outcome::{Headline, Outcome, Work};
pub(crate) use problem::{Problem, Status, status_of};
pub(crate) use summary::{Chosen, Summary, times};
pub(crate) use text::{describe, percentiles, short, table, thousands};
