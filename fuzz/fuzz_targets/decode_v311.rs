#![no_main]

use sluice::mqtt::Version;

libfuzzer_sys::fuzz_target!(|data: &[u8]| sluice_fuzz::decode::run(Version::V311, data));
