//! Loads, measures and compares MQTT brokers.
fn main() {}
