//! What every pass pays before its first batch.

fn main() {}
