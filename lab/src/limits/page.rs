//! Bounds of report.html: what is drawn of a run of any length, so that the page stays below [`PAGE_BYTES_MAX`].

use std::time::Duration;

/// Largest page, in bytes: what every browser shows at once, and every CI system keeps. The bounds below are chosen for
/// it; a test builds the page of an hour in which everything goes wrong.
pub const PAGE_BYTES_MAX: usize = 3 << 19;

/// Most columns of a plot: fewer than its pixels, so that each can be seen.
pub const PAGE_BUCKETS_MAX: usize = 600;

/// Shortest time of one column: at the slowest loads that scenarios have, a few operations.
pub const PAGE_BUCKET_MIN: Duration = Duration::from_millis(500);

/// About how many spans all lanes of the timeline have together, at 250 bytes each; shorter ones are drawn as one.
pub const PAGE_SPANS_MAX: f64 = 1_000.0;

/// Most faults that are drawn as bands behind one drawing.
pub const PAGE_BANDS_MAX: usize = 100;

/// Most marks of one kind in one lane of the timeline.
pub const PAGE_MARKS_MAX: usize = 32;

/// Most faults that are told with their receipts, and again as many without.
pub const PAGE_CARDS_MAX: usize = 60;

/// Most faults that have a map of their own.
pub const PAGE_MAPS_MAX: usize = 12;

/// Most links that are drawn in one map with the same effect: those of 15 nodes.
pub const PAGE_LINKS_MAX: usize = 210;

/// Most conflicts of a check that are drawn; of the others only the sentence is told.
pub const PAGE_CONFLICTS_MAX: usize = 4;

/// Most operations of a conflict that are drawn: more do not fit a screen.
pub const PAGE_LANES_MAX: usize = 24;

/// Most arrows in the drawing of a conflict: more are a tangle.
pub const PAGE_ARROWS_MAX: usize = 24;

/// Most lines of one list of findings.
pub const PAGE_LISTED_MAX: usize = 32;

/// Most events that are told; events.jsonl has them all.
pub const PAGE_EVENTS_MAX: usize = 500;

/// Longest sentence of a check, a fault or a proof, in characters.
pub const PAGE_SENTENCE_CHARS_MAX: usize = 1_200;

/// Longest label inside a drawing, in characters: half its width or a little more.
pub const PAGE_LABEL_CHARS_MAX: usize = 90;

/// Longest name beside a drawing, in characters.
pub const PAGE_NAME_CHARS_MAX: usize = 14;

/// Longest end of a console that is told, in characters: fifty lines or so.
pub const PAGE_TAIL_CHARS_MAX: usize = 6_000;
