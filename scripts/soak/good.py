#!/usr/bin/env python3
"""The good load of the soak: an open loop that checks every echo.

usage: good.py ws|wss PORT SECONDS

Prints JSON: echoes, and p99 in nanoseconds. Exit status 1 after a fault. A latency runs from just
before the send of a message to the arrival of its echo at the socket, which the kernel stamps. So
it has nothing of what this program waits for its own processor, which it shares with the hostile
clients.
"""
import array
import gc
import json
import socket
import ssl
import struct
import sys
import time

from hostile import BINARY, REQUEST, any_certificate, frame

RATE, CONNECTIONS, SIZE, WARM_UP, PATIENCE = 4000, 32, 1024, 1, 2
# From the kernel's headers; the name of the option is also that of its control message.
SO_TIMESTAMPNS = 35
MESSAGE = frame(BINARY, bytes(SIZE))
ECHO = struct.pack('>BBH', 0x80 | BINARY, 126, SIZE) + bytes(SIZE)


class Connection:
    """A connection whose messages are in flight until somebody looks for their echoes."""

    def __init__(self, scheme, port):
        self.socket = socket.create_connection(('127.0.0.1', port), PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self.tls, self.bytes, self.sent = None, b'', []
        if scheme == 'wss':
            self.arrived, self.leaves = ssl.MemoryBIO(), ssl.MemoryBIO()
            self.tls = any_certificate().wrap_bio(self.arrived, self.leaves)
            while self.attempt(self.tls.do_handshake) is False:
                self.receive()
        self.write(REQUEST)
        while not self.bytes.endswith(b'\r\n\r\n'):
            self.receive()
        self.bytes = b''
        self.socket.setblocking(False)

    def attempt(self, step, *arguments):
        """Takes a step of TLS. Its outcome is false where the step needs more input."""
        try:
            return step(*arguments)
        except ssl.SSLWantReadError:
            return False
        finally:
            if self.leaves.pending:
                self.socket.sendall(self.leaves.read())

    def write(self, data):
        self.attempt(self.tls.write, data) if self.tls else self.socket.sendall(data)

    def receive(self):
        """Receives once; returns the time of arrival."""
        data, notes, _, _ = self.socket.recvmsg(1 << 16, 64)
        if not data:
            raise ConnectionError('the server closed the connection')
        if self.tls:
            self.arrived.write(data)
            data = b''
            while part := self.attempt(self.tls.read, 1 << 16):
                data += part
        self.bytes += data
        stamps = [struct.unpack('qq', note[2]) for note in notes if note[1] == SO_TIMESTAMPNS]
        return stamps[0][0] * 10 ** 9 + stamps[0][1] if stamps else None

    def send(self):
        self.sent.append(time.clock_gettime_ns(time.CLOCK_REALTIME))
        self.write(MESSAGE)

    def collect(self):
        """Yields the latencies of the echoes that have arrived."""
        while self.sent:
            try:
                at = self.receive()
            except BlockingIOError:
                return
            while len(self.bytes) >= len(ECHO):
                if not self.bytes.startswith(ECHO):
                    raise ValueError(f'a wrong echo: {self.bytes[:20]!r}')
                self.bytes = self.bytes[len(ECHO):]
                yield at - self.sent.pop(0)


def run(scheme, port, count):
    """Sends `count` messages, and yields the latencies of their echoes."""
    connections = [Connection(scheme, port) for _ in range(CONNECTIONS)]
    start = time.monotonic() + 0.01
    for number in range(count):
        time.sleep(max(0, start + number / RATE - time.monotonic()))
        connection = connections[number % CONNECTIONS]
        yield from connection.collect()
        connection.send()
    end = time.monotonic() + PATIENCE
    while waiting := [connection for connection in connections if connection.sent]:
        if time.monotonic() > end:
            raise TimeoutError(f'{len(waiting)} connections wait for an echo')
        yield from waiting[0].collect()


def main():
    # Between a clock reading and its send there must be no pause: to collect garbage, or for fresh
    # memory, which takes milliseconds in a virtual machine.
    gc.disable()
    latencies = array.array('q', bytes(8 * int(RATE * (WARM_UP + float(sys.argv[3])))))
    try:
        for place, latency in enumerate(run(sys.argv[1], int(sys.argv[2]), len(latencies))):
            latencies[place] = latency
    except (OSError, ValueError) as error:
        sys.exit(f'{type(error).__name__}: {error}')
    judged = sorted(latencies[int(RATE * WARM_UP):])
    print(json.dumps({'echoes': len(latencies), 'p99': judged[len(judged) * 99 // 100]}))


main()
