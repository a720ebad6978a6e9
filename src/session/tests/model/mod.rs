//! Random interleavings against a model of the other side, over a network that loses what is
//! under way when a connection ends.

mod receiving;
mod sending;
