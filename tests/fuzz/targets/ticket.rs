#![no_main]

use std::alloc::System;

use cap::Cap;

/// Bytes that any input may cost: those that serde sets aside for a list before it has seen its first item, and lists in lists.
const BYTES_BASE: usize = 4 * 1024 * 1024;
/// Bytes of memory that each byte of an input may cost besides.
const BYTES_EACH: usize = 128;

#[global_allocator]
static MEMORY: Cap<System> = Cap::new(System, usize::MAX);

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    // What goes beyond ends the program.
    let limit = MEMORY.allocated() + BYTES_BASE + BYTES_EACH * input.len();
    MEMORY.set_limit(limit).expect("no input is so long");
    aspen_fuzz::ticket::run(input);
    MEMORY.set_limit(usize::MAX).expect("it was so before");
});
