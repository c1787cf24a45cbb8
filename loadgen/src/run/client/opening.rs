//! From the first connect to the open connection.

use std::net::SocketAddr;

use engine::{CloseMode, Connect, Nanos, Output, Worker};

use super::super::shared::Report;
use super::{CONNECTING_AT_ONCE, Client, Doing, Stage};
use crate::opening::Opening;

impl Client {
    pub(super) fn connect_more(&mut self, w: &mut Worker<'_, Self>) {
        if self.doing != Doing::Connecting || self.begun == self.links.len() {
            return;
        }
        let now = w.clock();
        while self.begun < self.links.len() && self.opening < CONNECTING_AT_ONCE {
            let link = self.begun;
            self.begun += 1;
            self.opening += 1;
            self.links[link].stage = Stage::Connecting(now);
            self.connect(w, link as u32, 0);
        }
    }

    /// Tries the address that is `attempt` places behind the one that worked last.
    pub(super) fn connect(&mut self, w: &mut Worker<'_, Self>, link: u32, attempt: u32) {
        let tag = u64::from(attempt) << 32 | u64::from(link);
        let to = self.address(attempt);
        w.connect(Connect { to, from: None, tag, timeout: self.shared.connect_timeout });
    }

    pub(super) fn address(&self, attempt: u32) -> SocketAddr {
        let addresses = &self.shared.addresses;
        addresses[(self.address + attempt as usize) % addresses.len()]
    }

    pub(super) fn request(&mut self, began: Nanos, out: &mut Output<'_>) -> Stage {
        let (nonce, shared) = (self.outgoing.nonce(), &self.shared);
        let opening = Opening::begin(&shared.host, &shared.target, nonce, shared.connect_timeout, out);
        Stage::Handshaking { began, opening: Box::new(opening) }
    }

    pub(super) fn now_open(&mut self, link: u32, began: Nanos) {
        self.links[link as usize].stage = Stage::Open;
        self.tally.connected(began, self.now);
        self.opening -= 1;
        self.open += 1;
        if self.open == self.links.len() && self.doing == Doing::Connecting {
            self.doing = Doing::Waiting;
            self.report(Report::Connected);
        }
    }

    pub(super) fn handshake_failed(&mut self, link: u32, detail: String, out: &mut Output<'_>) {
        self.links[link as usize].stage = Stage::Closing;
        self.opening -= 1;
        self.tally.errors.handshake += 1;
        self.doing = Doing::Waiting;
        self.report(Report::HandshakeFailed(detail));
        out.close(CloseMode::Abort);
    }

    /// Reads on in the response; returns how many of `bytes` belong to it once it is whole and right.
    pub(super) fn read_response(&mut self, link: u32, bytes: &[u8], out: &mut Output<'_>) -> Option<usize> {
        let Stage::Handshaking { began, opening } = &mut self.links[link as usize].stage else { return None };
        let began = *began;
        match opening.read(bytes) {
            Ok(None) => None,
            Ok(Some(used)) => {
                out.set_deadline(None);
                self.now_open(link, began);
                Some(used)
            }
            Err(error) => {
                self.handshake_failed(link, error.to_string(), out);
                None
            }
        }
    }
}
