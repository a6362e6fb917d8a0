//! The bounds of what is asked: checked at the front door, and again where a command is applied.

use std::time::Duration;

use super::{BadRequest, Consistency};
use crate::limits::{
    COMMAND_BYTES_MAX, KEY_BYTES_MAX, KEYS_PER_COMMAND_MAX, LEASE_TTL_MS_MAX, LEASE_TTL_MS_MIN,
    MAX_STALENESS_MS_MAX, SCAN_LIMIT_MAX, TRANSACTION_OPERATIONS_MAX, VALUE_BYTES_MAX, VAULT_NAME_BYTES_MAX,
};
use crate::types::{Command, Compare, Key, KeyRange, Operand, Operation, Transaction, Value, VaultName};

/// Refuses a command over its bounds before it costs anything: at the front door, and again where it is applied.
///
/// # Errors
/// The bound that is broken.
pub fn check_command(command: &Command) -> Result<(), BadRequest> {
    match command {
        Command::InVault { vault, command } => {
            check_vault(vault)?;
            match **command {
                Command::InVault { .. } | Command::CreateVault { .. } | Command::DeleteVault { .. } => {
                    Err(BadRequest::NestedVault)
                }
                Command::WithLease { .. } | Command::GrantLease { .. } | Command::RevokeLease { .. } => {
                    Err(BadRequest::NestedLease)
                }
                ref command => check_command(command),
            }
        }
        Command::CreateVault { vault } | Command::DeleteVault { vault } => check_vault(vault),
        Command::GrantLease { ttl_ms } if !(LEASE_TTL_MS_MIN..=LEASE_TTL_MS_MAX).contains(ttl_ms) => {
            Err(BadRequest::LeaseTtl(*ttl_ms))
        }
        Command::GrantLease { .. } | Command::RevokeLease { .. } => Ok(()),
        Command::WithLease { lease: _, command } => match **command {
            Command::WithLease { .. }
            | Command::GrantLease { .. }
            | Command::RevokeLease { .. }
            | Command::CreateVault { .. }
            | Command::DeleteVault { .. } => Err(BadRequest::NestedLease),
            ref command => check_command(command),
        },
        Command::Delete { key } => check_key(key),
        Command::Set { key, value } => check_key(key).and_then(|()| check_value(value)),
        Command::CompareAndSwap { key, expected, value } => {
            check_key(key)?;
            expected.as_ref().map_or(Ok(()), check_value)?;
            check_value(value)
        }
        Command::SetMulti { pairs } => {
            check_key_count(pairs.len())?;
            pairs.iter().try_for_each(|(key, value)| check_key(key).and_then(|()| check_value(value)))?;
            check_size(command)
        }
        Command::DeleteMulti { keys } => {
            check_key_count(keys.len())?;
            keys.iter().try_for_each(check_key)
        }
        Command::Transaction(transaction) => {
            check_transaction(transaction)?;
            check_size(command)
        }
    }
}

fn check_transaction(Transaction { compare, success, failure }: &Transaction) -> Result<(), BadRequest> {
    for (what, count) in [
        ("comparisons", compare.len()),
        ("operations in `success`", success.len()),
        ("operations in `failure`", failure.len()),
    ] {
        if count > TRANSACTION_OPERATIONS_MAX as usize {
            return Err(BadRequest::TransactionLength { what: what.to_owned(), count: count as u64 });
        }
    }
    for Compare { key, operand, .. } in compare {
        check_key(key)?;
        if let Operand::Value(value) = operand {
            check_value(value)?;
        }
    }
    success.iter().chain(failure).try_for_each(|operation| match operation {
        Operation::Put { key, value } => check_key(key).and_then(|()| check_value(value)),
        Operation::Delete { key } | Operation::Get { key } => check_key(key),
        Operation::Range { range, limit } => {
            check_range(range)?;
            check_limit(*limit)
        }
    })
}

/// Refuses a command that is too large for a message.
fn check_size(command: &Command) -> Result<(), BadRequest> {
    let bytes = postcard::serialize_with_flavor(command, postcard::ser_flavors::Size::default())
        .unwrap_or(usize::MAX);
    if bytes > COMMAND_BYTES_MAX as usize { Err(BadRequest::CommandTooLarge(bytes as u64)) } else { Ok(()) }
}

fn check_key_count(count: usize) -> Result<(), BadRequest> {
    let is_allowed = (1..=KEYS_PER_COMMAND_MAX as usize).contains(&count);
    if is_allowed { Ok(()) } else { Err(BadRequest::KeyCount(count as u64)) }
}

/// Refuses a name that is none of a vault.
///
/// # Errors
/// What a name may be.
pub fn check_vault(name: &VaultName) -> Result<(), BadRequest> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    let has_length = (1..=VAULT_NAME_BYTES_MAX as usize).contains(&name.0.len());
    if has_length && name.0.bytes().all(is_allowed) {
        Ok(())
    } else {
        Err(BadRequest::VaultName(name.0.clone()))
    }
}

/// Refuses a range whose bounds are longer than any key.
///
/// # Errors
/// The bound that is broken.
pub fn check_range(range: &KeyRange) -> Result<(), BadRequest> {
    // An empty one is none.
    let bounds = [&range.prefix, &range.start];
    bounds.into_iter().filter(|bound| !bound.0.is_empty()).try_for_each(check_key)?;
    // What comes behind the longest key is longer.
    match range.end.0.len() {
        length if length > KEY_BYTES_MAX as usize + 1 => Err(BadRequest::KeyTooLarge(length as u64)),
        _ => Ok(()),
    }
}

/// Refuses a limit that no page may have.
///
/// # Errors
/// What a limit may be.
pub fn check_limit(limit: u32) -> Result<(), BadRequest> {
    if limit == 0 || limit > SCAN_LIMIT_MAX { Err(BadRequest::ScanLimit(limit)) } else { Ok(()) }
}

/// Refuses a bound on a read's age that is over its own.
///
/// # Errors
/// What it may be.
pub fn check_max_staleness(consistency: Consistency) -> Result<(), BadRequest> {
    match consistency {
        Consistency::Bounded(max) if max > Duration::from_millis(MAX_STALENESS_MS_MAX) => {
            Err(BadRequest::MaxStaleness(u64::try_from(max.as_millis()).unwrap_or(u64::MAX)))
        }
        _ => Ok(()),
    }
}

/// Refuses a key over its bound.
///
/// # Errors
/// The bound that is broken.
pub fn check_key(key: &Key) -> Result<(), BadRequest> {
    match key.0.len() {
        0 => Err(BadRequest::KeyEmpty),
        length if length > KEY_BYTES_MAX as usize => Err(BadRequest::KeyTooLarge(length as u64)),
        _ => Ok(()),
    }
}

fn check_value(value: &Value) -> Result<(), BadRequest> {
    let length = value.0.len();
    if length > VALUE_BYTES_MAX as usize { Err(BadRequest::ValueTooLarge(length as u64)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::LeaseId;

    #[track_caller]
    fn check_bound(command: Command, want: Result<(), &str>) {
        let got = check_command(&command).map_err(|error| error.to_string());
        assert_eq!(got, want.map_err(str::to_owned));
    }

    #[test]
    fn every_bound_of_a_command_is_refused_with_its_text() {
        let key = || Key::from("k");
        let value = |bytes: usize| Value(vec![0; bytes]);
        let set = |key_bytes: usize, value_bytes| Command::Set {
            key: Key(vec![b'k'; key_bytes]),
            value: value(value_bytes),
        };
        check_bound(set(1024, 1 << 20), Ok(()));
        check_bound(set(0, 1), Err("the key is empty, 1 to 1024 bytes are allowed"));
        check_bound(set(1025, 1), Err("the key has 1025 bytes, 1 to 1024 are allowed"));
        let too_large = "the value has 1048577 bytes, 0 to 1048576 are allowed";
        check_bound(set(1, (1 << 20) + 1), Err(too_large));
        let expected = Some(value((1 << 20) + 1));
        check_bound(Command::CompareAndSwap { key: key(), expected, value: value(1) }, Err(too_large));
        let multi = |count, bytes| Command::SetMulti { pairs: vec![(key(), value(bytes)); count] };
        check_bound(multi(100, 1), Ok(()));
        // An earlier system of this shape stopped every node for ever at this one.
        check_bound(multi(101, 1), Err("101 keys at once, 1 to 100 are allowed"));
        check_bound(multi(0, 1), Err("0 keys at once, 1 to 100 are allowed"));
        let text = "the command has 4194326 bytes, at most 4194304 are allowed: send it in parts";
        check_bound(multi(4, 1 << 20), Err(text));
        check_bound(
            Command::DeleteMulti { keys: vec![key(); 101] },
            Err("101 keys at once, 1 to 100 are allowed"),
        );
        let gets = vec![Operation::Get { key: key() }; 129];
        let transaction = Transaction { failure: gets, ..Transaction::default() };
        let text = "the transaction has 129 operations in `failure`, 0 to 128 are allowed";
        check_bound(Command::Transaction(transaction), Err(text));
        let vault = || VaultName("a b".to_owned());
        let text = "the vault's name `a b` is refused: 1 to 64 of A-Z, a-z, 0-9, _ and - are allowed";
        check_bound(Command::CreateVault { vault: vault() }, Err(text));
        let vault = VaultName("a-b_1".to_owned());
        let nested = Command::InVault {
            vault: vault.clone(),
            command: Box::new(Command::DeleteVault { vault: vault.clone() }),
        };
        check_bound(nested, Err("inside a vault there are no vaults"));
        check_bound(Command::InVault { vault: vault.clone(), command: Box::new(set(1, 1)) }, Ok(()));
        let text = "the lease's ttl_ms is 999, 1000 to 2592000000 are allowed";
        check_bound(Command::GrantLease { ttl_ms: 999 }, Err(text));
        check_bound(Command::GrantLease { ttl_ms: 1_000 }, Ok(()));
        let with = |command| Command::WithLease { lease: LeaseId(1), command: Box::new(command) };
        let in_vault = |command| Command::InVault { vault: vault.clone(), command: Box::new(command) };
        check_bound(with(in_vault(set(1, 1))), Ok(()));
        check_bound(with(set(1025, 1)), Err("the key has 1025 bytes, 1 to 1024 are allowed"));
        for nested in
            [with(with(set(1, 1))), in_vault(with(set(1, 1))), with(Command::GrantLease { ttl_ms: 1_000 })]
        {
            check_bound(nested, Err("only commands on keys are done with a lease, and with one of them"));
        }
    }
}
