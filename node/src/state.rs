//! What a command does to the keys. Pure: no clock, no I/O of its own, no randomness, so that every member that
//! applies the same entries holds the same state. Total: bad input is an [`Outcome`], never an error.

use crate::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use crate::plant::Plant;
use crate::types::{Command, Key, Outcome, Record, Revision, Value};

/// The keys that commands work on. An error is a failed store, never a property of the command.
pub trait Records {
    /// Why the store failed.
    type Error;

    /// The record under `key`.
    ///
    /// # Errors
    /// The store cannot be read.
    fn get(&mut self, key: &Key) -> Result<Option<Record>, Self::Error>;

    /// Puts `record` under `key`, in place of what was there.
    ///
    /// # Errors
    /// The store cannot be written.
    fn put(&mut self, key: &Key, record: &Record) -> Result<(), Self::Error>;

    /// Removes `key`.
    ///
    /// # Errors
    /// The store cannot be written.
    fn remove(&mut self, key: &Key) -> Result<(), Self::Error>;
}

/// Applies the command of the entry at `revision`.
///
/// # Errors
/// Those of `records`.
pub fn apply<R: Records>(
    records: &mut R,
    revision: Revision,
    command: &Command,
) -> Result<Outcome, R::Error> {
    if !within_bounds(command) {
        return Ok(Outcome::Refused);
    }
    match command {
        Command::Set { key, value } => {
            let before = records.get(key)?;
            write(records, revision, key, value, before)?;
            Ok(Outcome::Written)
        }
        Command::Delete { key } => {
            let existed = records.get(key)?.is_some();
            if existed {
                records.remove(key)?;
            }
            Ok(Outcome::Deleted { existed })
        }
        Command::CompareAndSwap { key, expected, value } => {
            let before = records.get(key)?;
            let is_expected = before.as_ref().map(|r| &r.value) == expected.as_ref();
            if !is_expected && !Plant::CasIgnoresExpected.is_on() {
                return Ok(Outcome::NotSwapped { actual: before.map(|r| r.value) });
            }
            write(records, revision, key, value, before)?;
            Ok(Outcome::Swapped)
        }
    }
}

/// Whether a command keeps the bounds of keys and values.
pub fn within_bounds(command: &Command) -> bool {
    let (key, values): (&Key, [Option<&Value>; 2]) = match command {
        Command::Set { key, value } => (key, [Some(value), None]),
        Command::Delete { key } => (key, [None, None]),
        Command::CompareAndSwap { key, expected, value } => (key, [Some(value), expected.as_ref()]),
    };
    let key_fits = !key.0.is_empty() && key.0.len() <= KEY_BYTES_MAX as usize;
    key_fits && values.into_iter().flatten().all(|value| value.0.len() <= VALUE_BYTES_MAX as usize)
}

fn write<R: Records>(
    records: &mut R,
    revision: Revision,
    key: &Key,
    value: &Value,
    before: Option<Record>,
) -> Result<(), R::Error> {
    let (create_revision, version) = before.map_or((revision, 0), |r| (r.create_revision, r.version));
    let record =
        Record { value: value.clone(), create_revision, mod_revision: revision, version: version + 1 };
    records.put(key, &record)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    use super::*;

    #[derive(Default)]
    struct Map(BTreeMap<Key, Record>);

    impl Records for Map {
        type Error = Infallible;
        fn get(&mut self, key: &Key) -> Result<Option<Record>, Infallible> {
            Ok(self.0.get(key).cloned())
        }
        fn put(&mut self, key: &Key, record: &Record) -> Result<(), Infallible> {
            self.0.insert(key.clone(), record.clone());
            Ok(())
        }
        fn remove(&mut self, key: &Key) -> Result<(), Infallible> {
            self.0.remove(key);
            Ok(())
        }
    }

    fn set(key: &str, value: &str) -> Command {
        Command::Set { key: key.into(), value: value.into() }
    }

    fn cas(key: &str, expected: Option<&str>, value: &str) -> Command {
        Command::CompareAndSwap { key: key.into(), expected: expected.map(Value::from), value: value.into() }
    }

    #[track_caller]
    fn check(commands: &[Command], want: &[Outcome]) -> Map {
        let mut map = Map::default();
        let outcomes: Vec<_> = (1..)
            .zip(commands)
            .map(|(index, command)| apply(&mut map, Revision(index), command).unwrap())
            .collect();
        assert_eq!(outcomes, want);
        map
    }

    #[test]
    fn record_tells_its_revisions() {
        let map = check(
            &[set("k", "a"), set("k", "b"), set("other", "x")],
            &[Outcome::Written, Outcome::Written, Outcome::Written],
        );
        let record = &map.0[&"k".into()];
        assert_eq!(
            (record.create_revision, record.mod_revision, record.version),
            (Revision(1), Revision(2), 2)
        );
    }

    #[test]
    fn delete_tells_whether_the_key_existed() {
        let delete = Command::Delete { key: "k".into() };
        check(
            &[delete.clone(), set("k", "a"), delete],
            &[Outcome::Deleted { existed: false }, Outcome::Written, Outcome::Deleted { existed: true }],
        );
    }

    #[test]
    fn swap_needs_the_expected_value() {
        let map = check(
            &[cas("k", Some("a"), "b"), cas("k", None, "b"), cas("k", None, "c"), cas("k", Some("b"), "c")],
            &[
                Outcome::NotSwapped { actual: None },
                Outcome::Swapped,
                Outcome::NotSwapped { actual: Some("b".into()) },
                Outcome::Swapped,
            ],
        );
        assert_eq!(map.0[&"k".into()].value, "c".into());
    }

    #[test]
    fn bounds_are_refused_and_change_nothing() {
        let long = Command::Set { key: Key(vec![b'k'; 1025]), value: "v".into() };
        let large = Command::Set { key: "k".into(), value: Value(vec![0; 1024 * 1024 + 1]) };
        let map =
            check(&[set("", "v"), long, large], &[Outcome::Refused, Outcome::Refused, Outcome::Refused]);
        assert!(map.0.is_empty());
    }
}
