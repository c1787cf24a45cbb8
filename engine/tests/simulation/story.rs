//! Events of each connection, as both ends report them, and a check that they are consistent.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use engine::sim::Simulation;
use engine::{Cause, CloseMode, ConnId, Origin};

use crate::plan::{End, Plan, Setting, byte};

/// One end of a connection.
#[derive(Debug, Default)]
pub(crate) struct Side {
    pub(crate) id: Option<ConnId>,
    /// Bytes given to the engine.
    pub(crate) sent: usize,
    pub(crate) received: usize,
    /// True if the peer's FIN was seen.
    pub(crate) eof: bool,
    /// Way in which this end has closed, if it has.
    pub(crate) closing: Option<CloseMode>,
    pub(crate) cause: Option<Cause>,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Story {
    pub(crate) tag: u16,
    pub(crate) plan: Plan,
    pub(crate) client: Side,
    pub(crate) server: Side,
    pub(crate) connect_failed: Option<std::io::Error>,
}

/// All connections, shared by both handlers and the test.
pub(crate) type Stories = Rc<RefCell<Vec<Story>>>;

pub(crate) fn stories(plans: &[Plan]) -> Stories {
    let story = |(tag, &plan): (usize, &Plan)| Story {
        tag: tag as u16,
        plan,
        client: Side::default(),
        server: Side::default(),
        connect_failed: None,
    };
    Rc::new(RefCell::new(plans.iter().enumerate().map(story).collect()))
}

impl Side {
    /// Checks the next bytes of the stream.
    pub(crate) fn take_in(&mut self, tag: u16, bytes: &[u8]) {
        assert!(!bytes.is_empty(), "received without bytes");
        assert!(!self.eof && self.closing.is_none(), "bytes after the end");
        for (n, &b) in bytes.iter().enumerate() {
            let at = self.received + n;
            assert_eq!(b, byte(tag, at), "byte {at} of connection {tag} is another one");
        }
        self.received += bytes.len();
    }

    pub(crate) fn open(&mut self, id: ConnId) {
        assert!(self.id.replace(id).is_none(), "opened twice");
    }

    /// Records the end of the connection.
    pub(crate) fn end(&mut self, id: ConnId, cause: Cause) {
        assert_eq!(self.id, Some(id), "the end of another connection");
        assert!(self.cause.replace(cause).is_none(), "closed twice");
    }
}

/// Returns the source address that identifies a connection.
pub(crate) fn source(tag: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 1000 + tag))
}

/// Checks that a listener with peer addresses switched on reports those of the clients.
pub(crate) fn check_origin(from: Origin, peer_addresses: bool, connections: usize) {
    let Origin::Accepted { listener: 0, peer } = from else { panic!("{from:?}") };
    match peer {
        Some(peer) => {
            assert!((1000..1000 + connections).contains(&usize::from(peer.port())), "{peer}");
        }
        None => assert!(!peer_addresses, "no address"),
    }
}

impl Story {
    /// Returns whether the connection is open at one end at least.
    pub(crate) fn is_open(&self) -> bool {
        [&self.client, &self.server].iter().any(|side| side.id.is_some() && side.cause.is_none())
    }

    /// Checks both ends' records after the end of a run.
    pub(crate) fn check(&self, sim: &Simulation, setting: &Setting) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("connection {}: {what}: {self:?}", self.tag));
        if self.connect_failed.is_some() {
            let allowed = !setting.gentle || setting.client.max_connects < setting.parallel;
            return if allowed && self.client.id.is_none() {
                Ok(())
            } else {
                wrong("the connect failed")
            };
        }
        let stopped = setting.stop_after.is_some();
        if !stopped && self.client.id.is_none() {
            return wrong("neither opened nor failed");
        }
        for side in [&self.client, &self.server] {
            if side.id.is_some() != side.cause.is_some() {
                return wrong("opened and closed do not pair");
            }
        }
        let reset = sim.was_reset(source(self.tag));
        for (side, other) in [(&self.client, &self.server), (&self.server, &self.client)] {
            let failed = reset || stopped || matches!(other.cause, Some(Cause::WriteStalled));
            match &side.cause {
                Some(Cause::Reset) if !reset => return wrong("a reset without an abort"),
                Some(Cause::WriteStalled) if setting.gentle => return wrong("stalled"),
                Some(Cause::Io(_)) => return wrong("an error that no fault explains"),
                Some(Cause::Shutdown) if !stopped => return wrong("shut down"),
                _ => {}
            }
            // A FIN without an abort means that all was sent before it: it must have arrived.
            if side.eof && side.closing != Some(CloseMode::Abort) && !failed {
                match other.closing {
                    Some(CloseMode::Flush | CloseMode::Finish) if side.received != other.sent => {
                        return wrong("the tail is missing");
                    }
                    None => return wrong("a FIN that was not sent"),
                    _ => {}
                }
            }
        }
        let waits_for_all = match self.plan.server {
            End::Last => true,
            End::After(_, mode) => mode == CloseMode::Finish,
        };
        let all_wanted = self.plan.client == End::Last && waits_for_all;
        if setting.gentle && all_wanted && self.client.received != self.plan.total {
            return wrong("not everything came back");
        }
        Ok(())
    }
}
