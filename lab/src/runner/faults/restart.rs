//! Nodes that are asked to stop, as for an upgrade, and are started again.

use super::{Strike, Tools, Victim};
use crate::plan::Selector;
use crate::runner::record::EventKind;
use crate::runner::{RunError, causes};

impl Tools {
    /// Asks a node to stop, waits until it has, starts it again, and waits until it serves.
    pub(super) async fn restart(&self, strike: &Strike<'_>, who: Selector) -> Result<(), RunError> {
        let Some(Victim { node, role, before, leads_term }) = self.claim(strike, who).await else {
            return Ok(());
        };
        let name = self.name(node);
        let began_ns = self.conduct.now_ns();
        let text = format!("restart {role}{name}");
        self.note_victim(strike, &text, node, began_ns, leads_term);
        let exit = match self.cluster.stop(node).await {
            Ok(exit) if exit == self.plan.target.clean_exit() => exit,
            // A node that does not end as it should is no receipt that is missing: it is what was looked for.
            Ok(exit) => {
                self.died(node, &exit.to_string());
                return Ok(());
            }
            Err(error) => {
                self.died(node, &causes(&error));
                return Ok(());
            }
        };
        self.conduct.event(EventKind::Fault, strike.label(), format!("{text}: ended by {exit}"));
        let ended = "the process ended as it was asked to, and was gone";
        self.bring_back(strike, node, before, (ended, exit), None).await
    }
}
