//! The server's own work for a message, without sockets, to count its instructions.
//!
//! `valgrind --tool=callgrind target/release/examples/hot_path READS FRAMES PAYLOAD` echoes READS
//! reads of FRAMES masked binary frames each. Run it twice with different READS. The difference of
//! the instruction counts, divided by the difference of the message counts, is the cost of a
//! message without start-up. It includes the copy of each read into the receive buffer, which the
//! kernel would make.

use engine::{ConnId, Handler, Nanos, Origin, Record};
use server::WebSocketEcho;
use server::config::EchoSettings;

const REQUEST: &[u8] =
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

fn main() {
    let mut numbers = std::env::args().skip(1).map(|a| a.parse::<usize>());
    let (Some(Ok(reads)), Some(Ok(frames)), Some(Ok(payload))) =
        (numbers.next(), numbers.next(), numbers.next())
    else {
        eprintln!("usage: hot_path READS FRAMES PAYLOAD (of at most 125 bytes)");
        std::process::exit(2);
    };
    let arrived = frame(payload).repeat(frames);
    let id = ConnId { slot: 0, generation: 0 };
    let (mut echo, mut record) = (WebSocketEcho::new(EchoSettings::default()), Record::new());
    let from = Origin::Accepted { listener: 0, peer: None };
    let mut conn = echo.opened(id, from, &mut record.begin(Nanos(0), 0, 0));
    discard_output(&mut record);
    let mut request = REQUEST.to_vec();
    echo.received(id, &mut conn, &mut request, &mut record.begin(Nanos(0), 0, REQUEST.len()));
    discard_output(&mut record);
    let mut buffer = vec![0; arrived.len()];
    let mut left = 0;
    for turn in 0..reads {
        buffer.copy_from_slice(&arrived);
        let mut out = record.begin(Nanos(turn as u64), 0, buffer.len());
        echo.received(id, &mut conn, &mut buffer, &mut out);
        left += out.unsent();
        discard_output(&mut record);
    }
    println!("{} messages, {left} bytes", echo.echo_counters().messages);
}

/// Does the engine's work between calls.
fn discard_output(record: &mut Record) {
    record.take_segments().for_each(drop);
    record.take_commands();
    record.clear_arena();
}

/// Returns a masked binary frame.
fn frame(payload: usize) -> Vec<u8> {
    assert!(payload <= 125, "short frames only");
    let mut frame = vec![0x82, 0x80 | payload as u8, 0x12, 0x34, 0x56, 0x78];
    frame.extend((0..payload).map(|i| i as u8));
    frame
}
