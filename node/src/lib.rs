//! Aspen.
