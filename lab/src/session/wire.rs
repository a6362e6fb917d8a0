//! What an inner process is told, the plan, and what it tells: every event into events.jsonl, and messages of one line of
//! JSON each to the outer.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard};

use serde::Serialize;

use crate::plan::{self, Plan};
use crate::runner::record::Event;

/// Where the events go, in the run directory.
pub(crate) const EVENTS: &str = "events.jsonl";

/// Reads the plan that the outer has left.
pub(crate) fn read_plan(directory: &Path) -> io::Result<Plan> {
    let text = std::fs::read_to_string(directory.join(plan::FILE))?;
    Ok(serde_json::from_str(&text)?)
}

/// Both ways out. Either may fail: without the outer nobody listens, and this process is about to end; a full disk is
/// noticed where a report is written, and is no reason to end what somebody works with.
#[derive(Debug)]
pub(crate) struct Wire {
    events: Mutex<BufWriter<File>>,
    pipe: Mutex<File>,
}

impl Wire {
    /// Makes events.jsonl in a run directory that has none.
    pub(crate) fn create(directory: &Path, pipe: File) -> io::Result<Self> {
        let events = File::create_new(directory.join(EVENTS))?;
        Ok(Self { events: Mutex::new(BufWriter::new(events)), pipe: Mutex::new(pipe) })
    }

    /// Writes an event down.
    pub(crate) fn keep(&self, event: &Event) {
        let mut events = lock(&self.events);
        let _ = serde_json::to_writer(&mut *events, event).map_err(io::Error::from);
        let _ = events.write_all(b"\n").and_then(|()| events.flush());
    }

    /// Tells the outer.
    pub(crate) fn send(&self, message: &impl Serialize) {
        let Ok(mut line) = serde_json::to_vec(message) else { return };
        line.push(b'\n');
        let _ = lock(&self.pipe).write_all(&line);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nothing panics while it holds this lock")
}
