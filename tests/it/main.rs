//! The end-to-end tests: real binaries, real namespaces, real verdicts.
