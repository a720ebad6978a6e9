//! The wire: packets, properties, reason codes, one codec for 3.1, 3.1.1 and 5.0, topic names and filters.
