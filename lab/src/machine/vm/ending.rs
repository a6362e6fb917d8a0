//! How a node ended, by what its machine said of it: a hypervisor itself ends well whatever the guest does.

use aspen_init::report::{NodeExit, Reason};

use super::console::Said;
use crate::program::Exit;

/// The end of a node of which nobody knows the details.
pub(super) const UNCLEAR: Exit = Exit::Code(-1);

/// How the node ended unasked, though the machine started it again, or itself.
pub(super) fn unasked(said: &Said) -> Option<Exit> {
    match &said.node_exit {
        Some(NodeExit { node_exit, .. }) => Some(parse(node_exit).unwrap_or(UNCLEAR)),
        None => said.has_rebooted.then_some(UNCLEAR),
    }
}

/// How the node of a machine that is off ended; nothing when the machine did not say, or when it says that a node ended well
/// that nobody had asked to.
pub(super) fn of_machine(said: &Said) -> Option<Exit> {
    if let Some(exit) = unasked(said) {
        return Some(exit);
    }
    let last = said.exit.as_ref()?;
    let exit = parse(last.node_exit.as_deref()?)?;
    (exit != Exit::Code(0) || last.reason == Reason::PowerButton).then_some(exit)
}

/// The end of a node as the appliance writes it: `code 0`, `signal 9`.
fn parse(text: &str) -> Option<Exit> {
    let (kind, number) = text.split_once(' ')?;
    let number = number.parse().ok()?;
    match kind {
        "code" => Some(Exit::Code(number)),
        "signal" => Some(Exit::Signal(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use aspen_init::report;

    use super::*;

    #[track_caller]
    fn check(restarted: Option<&str>, last: Option<(Reason, Option<&str>)>, want: Option<Exit>) {
        let node_exit = restarted.map(|text| NodeExit { node_exit: text.to_owned(), restarts: 0 });
        let exit = last.map(|(reason, text)| report::Exit {
            reason,
            node_exit: text.map(str::to_owned),
            uptime_ms: 1,
        });
        assert_eq!(of_machine(&Said { ready: None, exit, node_exit, has_rebooted: false }), want);
    }

    #[test]
    fn node_ends_well_only_where_it_was_asked_to() {
        check(None, Some((Reason::PowerButton, Some("code 0"))), Some(Exit::Code(0)));
        check(None, Some((Reason::Node, Some("code 0"))), None);
        check(None, Some((Reason::PowerButton, Some("signal 6"))), Some(Exit::Signal(6)));
        check(None, Some((Reason::Disk, None)), None);
        check(None, Some((Reason::PowerButton, Some("well"))), None);
        check(None, None, None);
    }

    #[test]
    fn end_that_nobody_asked_for_is_not_made_good_by_a_later_one() {
        let well = Some((Reason::PowerButton, Some("code 0")));
        check(Some("code 101"), well, Some(Exit::Code(101)));
        check(Some("signal 11"), well, Some(Exit::Signal(11)));
        check(Some("gone"), well, Some(UNCLEAR));
        check(Some("code 0"), well, Some(Exit::Code(0)));
    }

    #[test]
    fn machine_that_has_started_again_has_not_ended_well() {
        let exit =
            report::Exit { reason: Reason::PowerButton, node_exit: Some("code 0".to_owned()), uptime_ms: 1 };
        let said = Said { exit: Some(exit), has_rebooted: true, ..Said::default() };
        assert_eq!(of_machine(&said), Some(UNCLEAR));
    }
}
