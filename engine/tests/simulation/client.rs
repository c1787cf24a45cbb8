//! A client that makes all connections of a seed, a bounded number at a time, and compares every
//! byte with what it sent.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use engine::sim::Random;
use engine::{Cause, CloseMode, ConnId, Connect, Handler, Nanos, Origin, Output, Worker};

use crate::STOP;
use crate::plan::{End, byte};
use crate::server::owned;
use crate::story::{Stories, source};

pub(crate) struct Client {
    stories: Stories,
    random: Random,
    to: SocketAddr,
    parallel: usize,
    /// Connections begun so far.
    begun: usize,
    /// Connections that have failed or closed.
    pub(crate) over: usize,
}

impl Client {
    pub(crate) fn new(stories: Stories, random: Random, to: SocketAddr, parallel: usize) -> Self {
        Self { stories, random, to, parallel, begun: 0, over: 0 }
    }

    /// Writes as much as the window allows, and closes where the plan says so.
    fn write(&mut self, tag: u16, out: &mut Output<'_>) {
        let story = &mut self.stories.borrow_mut()[usize::from(tag)];
        let (plan, side) = (story.plan, &mut story.client);
        let most = plan.total.min(side.received + plan.window);
        // A turn's writes are bounded, so that reads come between.
        for _ in 0..50 {
            let len = plan.write.min(most.saturating_sub(side.sent));
            if len == 0 {
                break;
            }
            let bytes = (side.sent..side.sent + len).map(|at| byte(tag, at));
            if self.random.chance(500) {
                let buffer = owned(out, bytes);
                out.give(buffer);
            } else {
                out.reserve(len).iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
                out.commit(len);
            }
            side.sent += len;
        }
        let mode = match plan.client {
            End::After(n, CloseMode::Flush) if side.sent >= n => CloseMode::Flush,
            End::After(n, CloseMode::Abort) if side.received >= n => CloseMode::Abort,
            End::Last if side.received == plan.total && !plan.waits => CloseMode::Flush,
            _ => return,
        };
        side.closing = Some(mode);
        out.close(mode);
    }

    fn begin_more(&mut self, w: &mut Worker<'_, Self>) {
        let connections = self.stories.borrow().len();
        while self.begun < connections && self.begun - self.over < self.parallel {
            let tag = self.begun as u16;
            self.begun += 1;
            let timeout = Duration::from_secs(20);
            w.connect(Connect {
                to: self.to,
                from: Some(source(tag)),
                tag: u64::from(tag),
                timeout,
            });
        }
    }

    fn closing(&self, tag: u16) -> Option<CloseMode> {
        self.stories.borrow()[usize::from(tag)].client.closing
    }
}

impl Handler for Client {
    /// Number of the connection.
    type Conn = u16;

    fn start(&mut self, w: &mut Worker<'_, Self>) {
        self.begin_more(w);
    }

    fn opened(&mut self, id: ConnId, from: Origin, out: &mut Output<'_>) -> u16 {
        let Origin::Connected { tag } = from else { panic!("{from:?}") };
        let tag = tag as u16;
        self.stories.borrow_mut()[usize::from(tag)].client.open(id);
        self.write(tag, out);
        tag
    }

    fn connect_failed(&mut self, _: &mut Worker<'_, Self>, tag: u64, error: io::Error) {
        let story = &mut self.stories.borrow_mut()[tag as usize];
        assert!(story.connect_failed.replace(error).is_none(), "failed twice");
        self.over += 1;
    }

    fn received(&mut self, _: ConnId, tag: &mut u16, bytes: &mut [u8], out: &mut Output<'_>) {
        let pauses = {
            let story = &mut self.stories.borrow_mut()[usize::from(*tag)];
            story.client.take_in(*tag, bytes);
            assert!(story.client.received <= story.client.sent, "more came back than was sent");
            story.plan.pauses
        };
        self.write(*tag, out);
        if self.closing(*tag).is_none() && self.random.chance(pauses) {
            out.pause();
            let at = Nanos(out.now().0 + self.random.below(30_000_000) as u64);
            out.set_deadline(Some(at));
        }
    }

    fn eof(&mut self, _: ConnId, tag: &mut u16, out: &mut Output<'_>) {
        let side = &mut self.stories.borrow_mut()[usize::from(*tag)].client;
        assert!(
            side.closing.is_none() && !std::mem::replace(&mut side.eof, true),
            "a FIN after the end"
        );
        side.closing = Some(CloseMode::Flush);
        out.close(CloseMode::Flush);
    }

    fn drained(&mut self, _: ConnId, tag: &mut u16, out: &mut Output<'_>) {
        assert_eq!(self.closing(*tag), None, "drained after the close");
        self.write(*tag, out);
    }

    fn deadline(&mut self, _: ConnId, tag: &mut u16, out: &mut Output<'_>) {
        assert_eq!(self.closing(*tag), None, "a deadline after the close");
        out.resume();
    }

    fn closed(&mut self, id: ConnId, tag: u16, cause: Cause) {
        self.stories.borrow_mut()[usize::from(tag)].client.end(id, cause);
        self.over += 1;
    }

    fn alarm(&mut self, _: &mut Worker<'_, Self>) {}

    fn woken(&mut self, w: &mut Worker<'_, Self>, bits: u64) {
        assert_eq!(bits, STOP, "only the test wakes a worker");
        w.stop();
    }

    fn turn_end(&mut self, w: &mut Worker<'_, Self>) {
        self.begin_more(w);
    }
}
