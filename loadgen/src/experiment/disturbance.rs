//! Rule for disturbed runs, which is fixed before anything is measured.
//!
//! The rule looks at the CPU time of other processes and the hypervisor, and never at the speed of a run. It
//! is the same for all arms, so that repeating favours none.

use crate::result::Run;
use crate::run::Plan;

/// A thread of the server or of the generator may wait for its processor for this share of the window.
pub(crate) const MOST_WAITED: f64 = 0.02;
/// The hypervisor may take this share of the window from a processor. It is counted in ticks of 10 ms.
pub(crate) const MOST_STOLEN: f64 = 0.05;

/// Whether waiting tells of others: server and generator each have processors of their own.
pub(super) fn is_told(plan: &Plan) -> bool {
    let server = plan.target.spawn.as_ref().map_or(&[][..], |spawn| &spawn.cpus);
    !plan.placement.cpus.is_empty()
        && !server.is_empty()
        && server.iter().all(|cpu| !plan.placement.cpus.contains(cpu))
}

/// What disturbed a run, in words; `None` where nothing did, or nothing is known.
pub(super) fn of(run: &Run) -> Option<String> {
    let found = run.disturbance?;
    let waits = [("server", found.server_waited.unwrap_or(0.0)), ("generator", found.generator_waited)];
    let (who, waited) = waits.into_iter().max_by(|(_, a), (_, b)| a.total_cmp(b))?;
    let percent = |share: f64| share * 100.0;
    if waited > MOST_WAITED {
        Some(format!("the {who} waited {:.1} % of the window for its processor", percent(waited)))
    } else if found.stolen > MOST_STOLEN {
        Some(format!("the hypervisor took {:.0} % of the window", percent(found.stolen)))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::{Disturbance, example};

    fn said(server: Option<f64>, generator: f64, stolen: f64) -> Option<String> {
        let disturbance = Some(Disturbance { server_waited: server, generator_waited: generator, stolen });
        of(&Run { disturbance, ..example::run("echo", 1000) })
    }

    #[test]
    fn what_others_took_is_named() {
        assert_eq!(said(Some(0.02), 0.02, 0.05), None);
        assert!(said(Some(0.031), 0.0, 0.0).is_some_and(|why| why.contains("the server waited 3.1 %")));
        assert!(said(Some(0.03), 0.2, 0.0).is_some_and(|why| why.contains("the generator waited 20.0 %")));
        assert!(said(None, 0.0, 0.06).is_some_and(|why| why.contains("hypervisor took 6 %")));
        assert_eq!(of(&Run { disturbance: None, ..example::run("echo", 1000) }), None);
    }
}
