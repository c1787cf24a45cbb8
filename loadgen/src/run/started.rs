//! The programs that are started for a run: the server, and the proxy before it.

use std::net::SocketAddr;

use super::plan::Plan;
use super::target::Target;
use crate::target::spawn::{Announced, Role, Server, SpawnError};
use crate::target::url::{Port, Url};

/// The programs of a run. Both end when it is dropped, the proxy first.
#[derive(Debug, Default)]
pub(super) struct Started {
    pub(super) proxy: Option<Server>,
    pub(super) server: Option<Server>,
}

/// Facts that the programs printed about themselves.
#[derive(Debug, Default)]
pub(super) struct Said {
    pub(super) proxy: Option<Announced>,
    pub(super) server: Option<Announced>,
}

impl Started {
    /// Starts the server and then the proxy, and waits until each accepts. `addresses` are those
    /// that the generator connects to. Behind a proxy the server has another port, which is free.
    pub(super) fn start(
        plan: &Plan,
        addresses: &mut [SocketAddr],
        wait: &mut dyn FnMut() -> bool,
    ) -> Result<Self, SpawnError> {
        let Target { url, spawn, via, start_timeout, .. } = &plan.target;
        let Some(spawn) = spawn else { return Ok(Self::default()) };
        let timeout = *start_timeout;
        let Some(via) = via else {
            let server = Server::start(Role::Server, spawn, url, addresses, timeout, wait)?;
            return Ok(Self { server: Some(server), proxy: None });
        };
        let (mut behind, own) = (addresses.to_vec(), Url { port: Port::Chosen, ..url.clone() });
        let role = Role::ServerBehind;
        let server = Server::start(role, spawn, &own, &mut behind, timeout, wait)?;
        let via = via.before(&own.with_port(behind[0].port()).host_field());
        let proxy = Server::start(Role::Proxy, &via, url, addresses, timeout, wait)?;
        Ok(Self { server: Some(server), proxy: Some(proxy) })
    }

    /// Ends both. Returns what each printed about itself.
    pub(super) fn end(self) -> Said {
        Said { proxy: self.proxy.map(Server::end), server: self.server.map(Server::end) }
    }
}
