//! The servers that connections are made to, in turn, and TLS with them.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use engine::tls::{Sessions, TlsSettings};

use super::error::RunError;
use super::plan::Plan;
use crate::load::Transport;
use crate::target::opening::HandshakeRequest;
use crate::target::url::Url;

/// A server: its addresses, and the request for it.
#[derive(Debug)]
pub(crate) struct Destination {
    pub(crate) url: Url,
    pub(crate) request: HandshakeRequest,
    /// Its addresses, in the order in which they are tried.
    pub(crate) addresses: Vec<SocketAddr>,
    /// For each of them, true if a connection was made to it.
    in_use: Vec<AtomicBool>,
}

impl Destination {
    /// Returns the server at `url` of `plan`, reached at `addresses`.
    pub(super) fn new(plan: &Plan, url: &Url, addresses: Vec<SocketAddr>) -> Self {
        let url = url.with_port(addresses[0].port());
        Self {
            in_use: addresses.iter().map(|_| AtomicBool::new(false)).collect(),
            addresses,
            request: plan.target.request(&url, &plan.load),
            url,
        }
    }

    pub(super) fn use_address(&self, index: usize) {
        // Most of the time the flag is set already, and the cache line stays shared.
        if !self.in_use[index].load(Ordering::Relaxed) {
            self.in_use[index].store(true, Ordering::Relaxed);
        }
    }

    /// Returns the addresses that connections were made to.
    pub(super) fn addresses_in_use(&self) -> impl Iterator<Item = String> + '_ {
        let is_used = |index: usize| self.in_use[index].load(Ordering::Relaxed);
        let used = self.addresses.iter().enumerate().filter(move |(index, _)| is_used(*index));
        used.map(|(_, address)| address.to_string())
    }
}

/// TLS with all servers.
#[derive(Debug)]
pub(crate) struct Secured {
    /// The settings of each server. Where sessions are resumed each has two: for whole handshakes,
    /// and for those that resume a session.
    pub(crate) settings: TlsSettings,
    sessions: Sessions,
    resume_percent: u8,
}

impl Secured {
    /// Returns TLS with the servers of a plan; `None` for a plan without.
    pub(super) fn of(plan: &Plan) -> Result<Option<Self>, RunError> {
        let (target, load) = (&plan.target, &plan.load);
        if target.url.transport != Transport::Wss {
            return Ok(None);
        }
        let (sessions, resume_percent) = (Sessions::default(), load.tls_resume_percent);
        let mut connects = Vec::new();
        for url in target.urls() {
            let (name, certificate) = (target.server_name(url), target.certificate.as_ref());
            let client = target.trust.client(name, certificate, load.tls_versions());
            let client = client.map_err(RunError::Setup)?;
            if resume_percent > 0 {
                connects.extend(client.resuming(&sessions));
            } else {
                connects.push(client);
            }
        }
        let settings = TlsSettings { connects, ..TlsSettings::default() };
        Ok(Some(Self { settings, sessions, resume_percent }))
    }

    /// Returns true if handshake number `number` of a worker is to resume a session. Any sequence
    /// of them has the share that was asked for, to one.
    pub(super) fn is_to_resume(&self, number: u64) -> bool {
        let before = |number: u64| number * u64::from(self.resume_percent) / 100;
        before(number + 1) > before(number)
    }

    /// Returns the index of the settings of a handshake with the server of this index.
    pub(super) fn client(&self, destination: usize, resumes: bool) -> usize {
        if self.resume_percent > 0 { 2 * destination + usize::from(resumes) } else { destination }
    }

    /// Returns true if a session with the server of this index can be resumed now.
    pub(super) fn has_session(&self, destination: usize) -> bool {
        let client = &self.settings.connects[self.client(destination, true)];
        self.sessions.has(&client.server)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_sequence_of_handshakes_has_the_share_of_resumed_ones() {
        for resume_percent in [0, 1, 33, 50, 90, 100] {
            let secured = Secured {
                settings: TlsSettings::default(),
                sessions: Sessions::default(),
                resume_percent,
            };
            let resumed = (0..1000).filter(|&number| secured.is_to_resume(number)).count();
            assert_eq!(resumed, 10 * usize::from(resume_percent));
            assert_eq!(secured.is_to_resume(0), resume_percent == 100, "the first is a whole one");
        }
    }
}
