//! Tests that the simulated kernel reports violations.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use crate::config::UringConfig;
use crate::sim::ring::{SimulatedBuffers, SimulatedRing};
use crate::sim::world::World;
use crate::sim::{Faults, Random};
use crate::token::{OpKind, Token};
use crate::uring::ring::{BufferRing, Completion, Op, Ring, SendMode, Wait};

/// A faultless world with a ring, its buffers, and a socket in slot 0 whose peer no ring owns.
fn ring() -> (Rc<RefCell<World>>, SimulatedRing, SimulatedBuffers) {
    let world = Rc::new(RefCell::new(World::new(Random::new(1), Faults::default())));
    let config = UringConfig {
        sq_entries: 8,
        cq_entries: 8,
        buffers: 2,
        buffer_size: 64,
        ..UringConfig::default()
    };
    let (mut ring, mut buffers) = SimulatedRing::new(&world, &config, 0);
    let addr = SocketAddr::from(([127, 0, 0, 1], 80));
    ring.socket(0, addr, None).expect("a socket");
    (0..2).for_each(|id| buffers.offer(id));
    buffers.publish();
    let mut w = world.borrow_mut();
    let other = w.new_socket(None, None);
    (w.sockets[0].peer, w.sockets[other].peer) = (Some(other), Some(0));
    drop(w);
    (world, ring, buffers)
}

fn push(ring: &mut SimulatedRing, kind: OpKind, op: Op) {
    // SAFETY: all that these tests point at is static.
    unsafe { ring.push(Token::new(kind, 0, 0), op) }.expect("room");
}

fn send(bytes: &'static [u8]) -> Op {
    Op::Send { slot: 0, bytes: bytes.as_ptr(), len: bytes.len() as u32, mode: SendMode::Prompt }
}

/// Violation after all queued entries have been consumed.
fn told(world: &Rc<RefCell<World>>, ring: &mut SimulatedRing) -> String {
    ring.enter(Wait::No).expect("no fault");
    world.borrow_mut().violation.take().unwrap_or_default()
}

/// Lets the peer send, and collects the completion of its bytes.
fn receive(world: &Rc<RefCell<World>>, ring: &mut SimulatedRing, bytes: &[u8]) -> Completion {
    world.borrow_mut().sockets[0].incoming.extend(bytes);
    push(ring, OpKind::Receive, Op::Receive { slot: 0, once: false });
    assert_eq!(told(world, ring), "");
    ring.completion().expect("bytes")
}

#[test]
fn bytes_come_in_buffers_and_go_back() {
    let (world, mut ring, mut buffers) = ring();
    let c = receive(&world, &mut ring, b"hello");
    let id = c.buffer.expect("a buffer");
    assert_eq!((c.result, c.more), (5, true));
    assert_eq!(buffers.bytes(id, 5), b"hello");
    buffers.give_back(id);
    assert_eq!(told(&world, &mut ring), "");
    buffers.give_back(id);
    assert!(told(&world, &mut ring).contains("given back twice"));
    let _ = buffers.bytes(id, 5);
    assert!(told(&world, &mut ring).contains("used after it was given back"));
}

#[test]
fn a_buffer_stays_while_a_send_out_of_it_is_queued_or_untold() {
    for consumed in [false, true] {
        let (world, mut ring, mut buffers) = ring();
        let id = receive(&world, &mut ring, b"hello").buffer.expect("a buffer");
        let bytes = buffers.bytes(id, 5).as_ptr();
        push(&mut ring, OpKind::Send, Op::Send { slot: 0, bytes, len: 5, mode: SendMode::Prompt });
        if consumed {
            assert_eq!(told(&world, &mut ring), "");
        }
        buffers.give_back(id);
        let told = world.borrow_mut().violation.take().unwrap_or_default();
        assert!(told.contains("before the send Send 0.0 out of it ended"), "{told}");
    }
}

#[test]
fn one_send_at_a_time() {
    let (world, mut ring, _buffers) = ring();
    push(&mut ring, OpKind::Send, send(b"one"));
    push(&mut ring, OpKind::Send, send(b"two"));
    assert!(told(&world, &mut ring).contains("two sends in flight"));
}

#[test]
fn a_descriptor_is_closed_once_and_when_nothing_uses_it() {
    let (world, mut ring, _buffers) = ring();
    push(&mut ring, OpKind::Receive, Op::Receive { slot: 0, once: false });
    push(&mut ring, OpKind::Close, Op::Close { slot: 0 });
    assert!(told(&world, &mut ring).contains("closed while Receive 0.0 was under way"));
    push(&mut ring, OpKind::Send, send(b"late"));
    assert!(told(&world, &mut ring).contains("Send 0.0 on slot 0, which is closed"));
    push(&mut ring, OpKind::Close, Op::Close { slot: 0 });
    assert!(told(&world, &mut ring).contains("closed twice"));
}

#[test]
fn a_full_completion_queue_overflows_in_order_and_ends_multishot() {
    let (world, mut ring, _buffers) = ring();
    for _ in 0..8 {
        push(&mut ring, OpKind::Cancel, Op::Cancel { target: Token::new(OpKind::Backlog, 9, 9) });
    }
    assert_eq!(told(&world, &mut ring), "");
    world.borrow_mut().sockets[0].incoming.extend(b"x");
    push(&mut ring, OpKind::Receive, Op::Receive { slot: 0, once: false });
    assert_eq!(told(&world, &mut ring), "");
    assert!(ring.overflowed());
    let queued: Vec<_> = std::iter::from_fn(|| ring.completion()).collect();
    assert_eq!(queued.len(), 8);
    assert_eq!(told(&world, &mut ring), "");
    let last = ring.completion().expect("moved up");
    assert_eq!((last.token.kind(), last.result, last.more), (Some(OpKind::Receive), 1, false));
}
