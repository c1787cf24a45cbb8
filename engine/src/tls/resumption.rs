//! Sessions that clients resume.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;

/// Most tickets of TLS 1.3 that are kept for one server. Each is for one connection (RFC 8446 C.4).
const MAX_TICKETS: usize = 8192;

/// Sessions with servers, which [`TlsClient::resuming`](super::TlsClient::resuming) resumes. Clones
/// share them.
#[derive(Clone, Default)]
pub struct Sessions(Arc<Mutex<HashMap<ServerName<'static>, ServerSessions>>>);

#[derive(Default)]
struct ServerSessions {
    /// The group that the server chose last.
    group: Option<NamedGroup>,
    /// The last session of TLS 1.2, which is resumed any number of times.
    session: Option<Tls12ClientSessionValue>,
    /// Tickets of TLS 1.3, the newest last.
    tickets: VecDeque<Tls13ClientSessionValue>,
}

impl Sessions {
    /// Returns whether a session with this server could be resumed now.
    #[must_use]
    pub fn has(&self, server: &ServerName<'static>) -> bool {
        let has = |of: &ServerSessions| of.session.is_some() || !of.tickets.is_empty();
        self.lock().get(server).is_some_and(has)
    }

    /// Returns the sessions in the library's form. It gives them back only if it `resumes`.
    pub(super) fn store(&self, resumes: bool) -> Arc<dyn ClientSessionStore> {
        Arc::new(Store { sessions: self.clone(), resumes })
    }

    /// A panic elsewhere leaves the sessions complete.
    fn lock(&self) -> MutexGuard<'_, HashMap<ServerName<'static>, ServerSessions>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Store {
    sessions: Sessions,
    resumes: bool,
}

impl Store {
    fn change(&self, server: ServerName<'static>, change: impl FnOnce(&mut ServerSessions)) {
        change(self.sessions.lock().entry(server).or_default());
    }
}

impl ClientSessionStore for Store {
    fn set_kx_hint(&self, server: ServerName<'static>, group: NamedGroup) {
        self.change(server, |of| of.group = Some(group));
    }

    fn kx_hint(&self, server: &ServerName<'_>) -> Option<NamedGroup> {
        self.sessions.lock().get(&server.to_owned())?.group
    }

    fn set_tls12_session(&self, server: ServerName<'static>, session: Tls12ClientSessionValue) {
        self.change(server, |of| of.session = Some(session));
    }

    fn tls12_session(&self, server: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        if !self.resumes {
            return None;
        }
        self.sessions.lock().get(&server.to_owned())?.session.clone()
    }

    fn remove_tls12_session(&self, server: &ServerName<'static>) {
        self.change(server.clone(), |of| of.session = None);
    }

    fn insert_tls13_ticket(&self, server: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        self.change(server, |of| {
            if of.tickets.len() == MAX_TICKETS {
                of.tickets.pop_front();
            }
            of.tickets.push_back(ticket);
        });
    }

    fn take_tls13_ticket(&self, server: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        if !self.resumes {
            return None;
        }
        self.sessions.lock().get_mut(server)?.tickets.pop_back()
    }
}
