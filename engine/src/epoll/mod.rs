//! The engine on epoll(7): readiness turned into what the handler expects of completions.
//!
//! Connections are registered once, edge-triggered, for both directions. For one message in and one out that makes three
//! system calls: epoll_wait, recv, send, the first shared by all connections of the turn. A turn:
//!
//! 1. wait; read the clock once;
//! 2. report what ended since the last turn, then the events: connects that have ended, writable sockets with bytes held back;
//! 3. receive from every readable connection, a bounded number of times, all into one buffer. An echo leaves directly after the
//!    call of `received`, because the buffer is used again;
//! 4. accept; timers; the alarm; the inbox; `turn_end`;
//! 5. flush: everything else that was written leaves, one send for each connection.
//!
//! What the kernel does not take goes to the connection's backlog, and from there out when the socket is writable again.
//! A connection that ends is taken out at the start of the next turn, so that `closed` never comes from within a call.

mod backlog;
mod connection;
mod core;
mod outbox;
mod poller;

use std::time::Duration;

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;

use self::core::{Core, INBOX, LISTENER, key, span_until};
use self::poller::Poller;
use crate::config::Spin;
use crate::connection::ConnId;
use crate::time::Nanos;
use crate::{Config, Counters, EngineError, Handler, Inbox};

/// Bytes of the receive buffer at least: a smaller one would spend a call on every few bytes.
const MIN_RECEIVE_BUFFER: usize = 512;

/// See [`crate::run`].
pub(crate) fn run<H: Handler>(
    config: &Config,
    inbox: Inbox,
    handler: &mut H,
) -> Result<Counters, EngineError> {
    let poller = Poller::new().map_err(setup_error)?;
    poller.add(inbox.event(), key(INBOX, 0), EventFlags::IN).map_err(setup_error)?;
    let core = Core::new(config, poller).map_err(setup_error)?;
    let buffer = vec![0; config.receive_buffer.max(MIN_RECEIVE_BUFFER)].into_boxed_slice();
    Engine { core, inbox, buffer, woken: false }.run(handler)
}

fn setup_error(source: std::io::Error) -> EngineError {
    if source.raw_os_error() == Some(Errno::MFILE.raw_os_error()) {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
        return EngineError::Descriptors {
            wanted: limit.saturating_add(16),
            what: "an epoll instance",
            limit,
        };
    }
    EngineError::System { what: "setting up epoll", source }
}

struct Engine<'a, H: Handler> {
    core: Core<'a, H>,
    inbox: Inbox,
    /// What is received, whatever connection it comes from, lies here for the length of one call.
    buffer: Box<[u8]>,
    woken: bool,
}

impl<H: Handler> Engine<'_, H> {
    fn run(mut self, handler: &mut H) -> Result<Counters, EngineError> {
        handler.start(&mut self.core);
        let system = EngineError::system("waiting on epoll");
        self.core.arrange_doors().map_err(&system)?;
        self.core.flush();
        while !self.core.stopping {
            let ready = self.wait().map_err(&system)?;
            self.turn(handler, ready).map_err(&system)?;
        }
        self.core.shut_down(handler);
        Ok(self.core.counters)
    }

    fn turn(&mut self, handler: &mut H, ready: usize) -> std::io::Result<()> {
        let core = &mut self.core;
        core.now = Nanos::monotonic();
        core.counters.turns += 1;
        core.report_gone(handler);
        for (tag, error) in core.take_failed() {
            handler.connect_failed(core, tag, error);
        }
        self.take_events(handler, ready);
        let core = &mut self.core;
        core.read_all(handler, &mut self.buffer);
        core.accept_all(handler)?;
        core.expire(handler);
        if core.alarm <= core.now {
            core.alarm = Nanos::NEVER;
            handler.alarm(core);
        }
        if std::mem::take(&mut self.woken) {
            let bits = self.inbox.take();
            if bits != 0 {
                handler.woken(core, bits);
            }
        }
        handler.turn_end(core);
        core.flush();
        core.arrange_doors()
    }

    fn take_events(&mut self, handler: &mut H, ready: usize) {
        self.core.counters.completions += ready as u64;
        for index in 0..ready {
            let (key, flags) = self.core.poller.event(index);
            let (slot, generation) = (key as u32, (key >> 32) as u32);
            match slot {
                INBOX => self.woken = true,
                LISTENER => self.core.knock(generation),
                _ => self.core.ready(handler, ConnId { slot, generation }, flags),
            }
        }
    }

    /// Waits for the next event or timer, spinning first where that was asked for; returns the number of events.
    fn wait(&mut self) -> std::io::Result<usize> {
        if self.core.has_work() {
            return self.poll(Some(Duration::ZERO));
        }
        let until = self.core.next_timer();
        let block = match self.core.config.spin {
            Spin::Off => return self.block(until),
            Spin::For(span) => (Nanos::monotonic() + span).min(until),
            Spin::Always => until,
        };
        loop {
            let ready = self.poll(Some(Duration::ZERO))?;
            if ready > 0 {
                return Ok(ready);
            }
            if Nanos::monotonic() >= block {
                break;
            }
        }
        if block == until { Ok(0) } else { self.block(until) }
    }

    fn block(&mut self, until: Nanos) -> std::io::Result<usize> {
        let timeout = if until == Nanos::NEVER { None } else { span_until(until, Nanos::monotonic()) };
        self.poll(timeout)
    }

    fn poll(&mut self, timeout: Option<Duration>) -> std::io::Result<usize> {
        self.core.counters.enters += 1;
        self.core.poller.wait(timeout)
    }
}
