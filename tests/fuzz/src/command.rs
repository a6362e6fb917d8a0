//! Commands as they stand in a log, applied one after the other.

use aspen_node::api::check_command;
use aspen_node::state::apply;
use aspen_node::storage::memory::MemoryStore;
use aspen_node::types::{Command, EncodedCommand, Outcome, Revision};

/// What a node ends with: a hash over every outcome, and the keys.
type End = (blake3::Hash, MemoryStore);

fn start() -> End {
    (blake3::hash(b""), MemoryStore::default())
}

/// Applies the commands of an input twice. The second time the keys are written down and read again on the way, as by a snapshot.
pub fn run(input: &[u8]) -> bool {
    let (commands, is_whole) = commands(input);
    let all = || (1..).map(Revision).zip(&commands);
    let first = go_on(start(), all());
    let half = commands.len() / 2;
    let (outcomes, store) = go_on(start(), all().take(half));
    let store = postcard::to_stdvec(&store).expect("keys encode");
    let store = postcard::from_bytes(&store).expect("what was encoded decodes");
    assert_eq!(go_on((outcomes, store), all().skip(half)), first, "the second run ends differently");
    is_whole && !commands.is_empty()
}

/// The commands of an input, each with its length before it, up to what is none; and whether those are all.
fn commands(mut input: &[u8]) -> (Vec<Command>, bool) {
    let mut commands = Vec::new();
    while let Ok((encoded, rest)) = postcard::take_from_bytes::<EncodedCommand>(input) {
        let Ok(command) = encoded.decode() else { break };
        assert_eq!(EncodedCommand::from(&command).decode().as_ref(), Ok(&command));
        commands.push(command);
        input = rest;
    }
    (commands, input.is_empty())
}

/// Applies commands to what was left by others.
fn go_on<'a>((mut hash, mut store): End, commands: impl Iterator<Item = (Revision, &'a Command)>) -> End {
    for (revision, command) in commands {
        let is_allowed = check_command(command).is_ok();
        let before = (!is_allowed).then(|| store.clone());
        let Ok(outcome) = apply(&mut store, revision, command);
        assert_eq!(outcome == Outcome::Refused, !is_allowed, "{command}");
        assert!(
            before.is_none_or(|before| before == store),
            "a refused command has changed something: {command}"
        );
        if let Some(certain) = EncodedCommand::from(command).certain_outcome().filter(|_| is_allowed) {
            assert_eq!(outcome, certain, "{command}");
        }
        let outcome = postcard::to_stdvec(&outcome).expect("outcomes encode");
        hash = blake3::hash(&[hash.as_bytes(), outcome.as_slice()].concat());
    }
    (hash, store)
}
