//! The store: what every engine has to do, and what is made of the turns of shards.

mod acts;
mod acts_model;
mod contract;
mod directory;
mod engines;
mod logged;
mod offline;
mod pages;
mod recovery;
mod together;
mod turns;
mod writer;
