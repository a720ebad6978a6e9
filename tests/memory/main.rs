//! What the broker takes from the allocator: a test binary of its own, because the allocator that
//! counts serves all of it.

mod allocations;
mod client;
mod counting;
mod large_messages;
