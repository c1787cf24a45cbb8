#!/usr/bin/env python3
"""Servers that do not do what a WebSocket echo server should, each in one way, to try a load generator against.

usage: misbehaving.py FAULT [HOST:PORT]

Prints `listening on ws://HOST:PORT/` once it accepts. `misbehaving.py --list` prints the faults. Standard library alone; a
thread for each connection: slow, but it is not what is measured.
"""

import base64
import hashlib
import os
import socket
import struct
import sys
import threading
import time

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
# Echoes after which a server that goes wrong in mid-run does.
ENOUGH = 200


class Over(Exception):
    """The connection has ended."""


def receive(connection, count):
    """Exactly so many bytes."""
    parts = []
    while count > 0:
        part = connection.recv(min(count, 1 << 20))
        if not part:
            raise Over
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def read_frame(connection):
    """The opcode and payload of a client's frame, and whether it is final."""
    first, second = receive(connection, 2)
    length = second & 0x7F
    if length == 126:
        (length,) = struct.unpack(">H", receive(connection, 2))
    elif length == 127:
        (length,) = struct.unpack(">Q", receive(connection, 8))
    key = receive(connection, 4)
    payload = receive(connection, length)
    whole = int.from_bytes((key * (length // 4 + 1))[:length], "big")
    return first & 0x0F, (int.from_bytes(payload, "big") ^ whole).to_bytes(length, "big"), bool(first & 0x80)


def frame(opcode, payload, first_bits=0x80, mask=None):
    """A frame; `mask` is a key, which a server must not use."""
    bit = 0x80 if mask else 0
    if len(payload) < 126:
        head = struct.pack(">BB", first_bits | opcode, bit | len(payload))
    elif len(payload) < 65536:
        head = struct.pack(">BBH", first_bits | opcode, bit | 126, len(payload))
    else:
        head = struct.pack(">BBQ", first_bits | opcode, bit | 127, len(payload))
    if mask:
        payload = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
        head += mask
    return head + payload


def read_head(connection):
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += receive(connection, 1)
    return head


def accept_key(head):
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"sec-websocket-key":
            return base64.b64encode(hashlib.sha1(value.strip() + GUID).digest())
    raise Over


def switching(head):
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
        + accept_key(head)
        + b"\r\n\r\n"
    )


def refusing(status, more=b""):
    """A server that answers every handshake with `status`."""

    def serve(connection):
        read_head(connection)
        connection.sendall(b"HTTP/1.1 " + status + b"\r\n" + more + b"Content-Length: 0\r\nConnection: close\r\n\r\n")

    return serve


def echoing(answer):
    """A server that shakes hands, and then says `answer(connection, opcode, payload, number)` to every message."""

    def serve(connection):
        connection.sendall(switching(read_head(connection)))
        number, opcode, message = 0, None, b""
        while True:
            frame_opcode, payload, final = read_frame(connection)
            if frame_opcode == CLOSE:
                connection.sendall(frame(CLOSE, payload))
                raise Over
            if frame_opcode == PING:
                connection.sendall(frame(PONG, payload))
                continue
            if frame_opcode == PONG:
                continue
            opcode = frame_opcode or opcode
            message += payload
            if final:
                number += 1
                answer(connection, opcode, message, number)
                message = b""

    return serve


def in_fragments(connection, opcode, payload, _):
    third = len(payload) // 3
    parts = [payload[:third], payload[third : 2 * third], payload[2 * third :]]
    wire = frame(opcode, parts[0], 0) + frame(CONTINUATION, parts[1], 0) + frame(PING, b"between") + frame(CONTINUATION, parts[2])
    connection.sendall(wire)


def byte_by_byte(connection, opcode, payload, _):
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in frame(opcode, payload):
        connection.sendall(bytes([byte]))


def with_pings(connection, opcode, payload, number):
    connection.sendall(frame(PING, b"") + frame(PONG, b"unasked") + frame(opcode, payload) + frame(PING, b"%d" % number))


def then(number_of_echoes, act):
    """Echoes so many messages, then acts."""

    def answer(connection, opcode, payload, number):
        if number > number_of_echoes:
            act(connection)
        connection.sendall(frame(opcode, payload))

    return answer


def close_with(code, reason):
    def act(connection):
        connection.sendall(frame(CLOSE, struct.pack(">H", code) + reason))
        raise Over

    return act


def reset(connection):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raise Over


def hang_up(_):
    raise Over


def stand_still(_):
    time.sleep(3600)


def die(_):
    os._exit(3)


def instead(change):
    """Says something else than the echo to every tenth message."""

    def answer(connection, opcode, payload, number):
        connection.sendall(change(opcode, payload) if number % 10 == 0 else frame(opcode, payload))

    return answer


def flipped(opcode, payload):
    return frame(opcode, payload[:-1] + bytes([payload[-1] ^ 1]))


def lost_and_found():
    """Holds every tenth echo back and sends it after the next one."""
    held = threading.local()

    def answer(connection, opcode, payload, number):
        if number % 10 == 0:
            held.frame = frame(opcode, payload)
            return
        connection.sendall(frame(opcode, payload) + getattr(held, "frame", b""))
        held.frame = b""

    return answer


def answers_slowly(connection):
    for byte in switching(read_head(connection)):
        connection.sendall(bytes([byte]))
        time.sleep(0.002)
    echo_on(connection)


def echo_on(connection):
    while True:
        opcode, payload, _ = read_frame(connection)
        connection.sendall(frame(opcode, payload))


def endless_head(connection):
    read_head(connection)
    connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\n")
    while True:
        connection.sendall(b"X-More: %s\r\n" % (b"x" * 1000))


def wrong_accept(connection):
    head = switching(read_head(connection))
    connection.sendall(head.replace(accept_of(head), b"AAAAAAAAAAAAAAAAAAAAAAAAAAA="))
    time.sleep(1)


def accept_of(answer):
    return answer.split(b"Sec-WebSocket-Accept: ")[1].split(b"\r\n")[0]


def no_answer(connection):
    read_head(connection)
    time.sleep(3600)


def closes_at_once(_):
    raise Over


FAULTS = {
    # Nothing is wrong with these.
    "none": echoing(lambda connection, opcode, payload, _: connection.sendall(frame(opcode, payload))),
    "fragments": echoing(in_fragments),
    "byte-by-byte": echoing(byte_by_byte),
    "pings": echoing(with_pings),
    "slow-handshake": answers_slowly,
    # Handshakes.
    "400": refusing(b"400 Bad Request"),
    "401": refusing(b"401 Unauthorized", b"WWW-Authenticate: Basic\r\n"),
    "404": refusing(b"404 Not Found"),
    "429": refusing(b"429 Too Many Requests", b"Retry-After: 1\r\n"),
    "503": refusing(b"503 Service Unavailable"),
    "redirect": refusing(b"302 Found", b"Location: http://127.0.0.1:9/\r\n"),
    "wrong-accept": wrong_accept,
    "endless-head": endless_head,
    "no-answer": no_answer,
    "hang-up": closes_at_once,
    # In mid-run.
    "close": echoing(then(ENOUGH, close_with(1001, b"going away"))),
    "close-1011": echoing(then(ENOUGH, close_with(1011, b"an error"))),
    "end": echoing(then(ENOUGH, hang_up)),
    "reset": echoing(then(ENOUGH, reset)),
    "stall": echoing(then(ENOUGH, stand_still)),
    "die": echoing(then(ENOUGH, die)),
    # Echoes.
    "corrupt": echoing(instead(flipped)),
    "truncate": echoing(instead(lambda opcode, payload: frame(opcode, payload[:-1]))),
    "lose": echoing(instead(lambda opcode, payload: b"")),
    "duplicate": echoing(instead(lambda opcode, payload: 2 * frame(opcode, payload))),
    "reorder": echoing(lost_and_found()),
    "wrong-opcode": echoing(instead(lambda opcode, payload: frame(TEXT + BINARY - opcode, payload))),
    "unasked": echoing(instead(lambda opcode, payload: frame(opcode, payload) + frame(opcode, b"nobody asked"))),
    # The protocol.
    "masked": echoing(instead(lambda opcode, payload: frame(opcode, payload, mask=b"abcd"))),
    "reserved-bit": echoing(instead(lambda opcode, payload: frame(opcode, payload, 0xC0))),
    "reserved-opcode": echoing(instead(lambda opcode, payload: frame(3, payload))),
    "stray-continuation": echoing(instead(lambda opcode, payload: frame(CONTINUATION, payload))),
    "long-ping": echoing(instead(lambda opcode, payload: frame(PING, bytes(126)))),
    "huge-length": echoing(instead(lambda opcode, payload: struct.pack(">BBQ", 0x80 | opcode, 127, 1 << 62))),
    "garbage": echoing(instead(lambda opcode, payload: b"\xff" * 64)),
}


def attend(serve, connection):
    try:
        serve(connection)
    except (Over, OSError):
        pass
    finally:
        connection.close()


def main():
    if sys.argv[1:] == ["--list"]:
        print("\n".join(FAULTS))
        return
    if len(sys.argv) < 2 or sys.argv[1] not in FAULTS:
        sys.exit(__doc__)
    host, port = (sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1:0").split(":")
    listener = socket.create_server((host, int(port)), backlog=1024)
    print(f"listening on ws://{host}:{listener.getsockname()[1]}/", flush=True)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=attend, args=(FAULTS[sys.argv[1]], connection), daemon=True).start()


if __name__ == "__main__":
    main()
