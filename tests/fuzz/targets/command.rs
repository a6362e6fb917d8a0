#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    aspen_fuzz::command::run(input);
});
