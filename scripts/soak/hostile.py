#!/usr/bin/env python3
"""Clients that a server has to live with.

usage: hostile.py ws|wss HOST PORT ADMIN-PORT SECONDS SHARE

SHARE divides their number and multiplies the rest between two of them: 1 is a flood.

Prints one line of JSON: how often each kind did what it does. A connection that the server ends is
what most of them want; one that it should not have ended is counted as a surprise.
"""
import asyncio
import contextlib
import json
import logging
import os
import random
import socket
import ssl
import struct
import sys
import time
from collections import Counter

REQUEST = (
    b'GET /soak HTTP/1.1\r\nHost: soak\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n'
    b'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n'
)
TEXT, BINARY, CLOSE, PING = 1, 2, 8, 9
# Nobody waits longer than this for anything: it is beyond every time limit of the server.
PATIENCE = 15

done = Counter()


def surprise(what, seen):
    """What the server should not have done."""
    done['surprise'] += 1
    if done['surprise'] <= 10:
        print(f'surprise: {what}: {seen!r}'[:200], file=sys.stderr)


def frame(opcode, payload, fin=True):
    """A frame masked with zeros: the payload is as it stands."""
    first = opcode | (0x80 if fin else 0)
    size = len(payload)
    if size < 126:
        head = bytes([first, 0x80 | size])
    elif size < 65536:
        head = struct.pack('>BBH', first, 0xFE, size)
    else:
        head = struct.pack('>BBQ', first, 0xFF, size)
    return head + bytes(4) + payload


def any_certificate():
    """A client's side of TLS that accepts any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def is_close(code, length=None):
    """A check of what a connection ends with: a Close with this code, and with this length."""
    def check(answer):
        right = answer[:1] == b'\x88' and answer[2:4] == struct.pack('>H', code)
        return right and length in (None, answer[1])
    return check


class Peer:
    """A connection."""

    def __init__(self, address, tls, source=None):
        self.address, self.tls, self.source = address, tls, source

    async def __aenter__(self):
        name = 'localhost' if self.tls else None
        self.reader, self.writer = await asyncio.wait_for(asyncio.open_connection(
            *self.address, ssl=self.tls, server_hostname=name, local_addr=self.source), PATIENCE)
        return self

    async def __aexit__(self, *_):
        self.writer.transport.abort()

    async def open(self):
        self.writer.write(REQUEST)
        head = await asyncio.wait_for(self.reader.readuntil(b'\r\n\r\n'), PATIENCE)
        if not head.startswith(b'HTTP/1.1 101 '):
            raise ConnectionError(head.split(b'\r\n')[0].decode())

    def send(self, *frames):
        self.writer.write(b''.join(frames))

    def set_option(self, option, value):
        plug = self.writer.get_extra_info('socket')
        if plug is None:
            raise ConnectionResetError('gone before its end')
        plug.setsockopt(socket.SOL_SOCKET, option, value)

    def reset_at_end(self):
        self.set_option(socket.SO_LINGER, struct.pack('ii', 1, 0))

    async def read(self, count):
        return await asyncio.wait_for(self.reader.readexactly(count), PATIENCE)

    async def until_the_end(self, what, is_right):
        """Waits for the end of the connection. Checks what the server still says before."""
        answer = await asyncio.wait_for(self.reader.read(-1), PATIENCE)
        if not is_right(answer):
            surprise(what, answer)


async def churn(peer):
    peer.send(frame(TEXT, b'gone before the echo'))


async def greet(peer):
    peer.send(frame(TEXT, b'hello'), frame(CLOSE, b'\x03\xe8'))
    await peer.until_the_end('greet', lambda answer: answer == b'\x81\x05hello\x88\x02\x03\xe8')


async def reset(peer):
    cut = frame(TEXT, b'cut')[:random.randrange(1, 9)]
    peer.send(frame(BINARY, bytes(random.randrange(20000))), cut)
    peer.reset_at_end()


async def stall(peer):
    """Begins a request, a header, a payload or a message, and never goes on. The server ends it."""
    part = random.randrange(4)
    if part == 0:
        peer.send(REQUEST[:random.randrange(1, len(REQUEST) - 1)])
        # Where TLS took all of the handshake's time, no request had begun.
        await peer.until_the_end('stall in a request', lambda answer: (
            answer.startswith(b'HTTP/1.1 408 ') or not answer and peer.tls))
        return
    await peer.open()
    whole = frame(BINARY, bytes(300))
    peer.send((whole[:1], whole[:100], frame(TEXT, b'begun', fin=False))[part - 1])
    # A ping may come before.
    await peer.until_the_end(f'stall {part}', lambda answer: (
        is_close(1008, 0x11)(answer.removeprefix(b'\x89\x00'))))


async def slow_reader(peer):
    """Sends and does not read, until nothing more goes; then it goes on after all, or goes away."""
    peer.set_option(socket.SO_RCVBUF, 4096)
    await peer.open()
    peer.reader._transport.pause_reading()
    message = frame(BINARY, bytes(65536))
    sent = 0
    with contextlib.suppress(asyncio.TimeoutError):
        while sent < 200:
            peer.send(message)
            await asyncio.wait_for(peer.writer.drain(), 1)
            sent += 1
    if random.random() < 0.5:
        peer.reset_at_end()
        return
    peer.reader._transport.resume_reading()
    for _ in range(sent):
        echo = await peer.read(10 + 65536)
        if echo[:2] != b'\x82\x7f' or any(echo[10:]):
            surprise('slow_reader', echo[:10])
            return


async def pings(peer):
    flood = frame(PING, b'ping') * 200
    pong = b'\x8a\x04ping'
    for _ in range(20):
        peer.send(flood)
        answer = await peer.read(len(pong) * 200)
        if answer != pong * 200:
            surprise('pings', answer)
        await asyncio.sleep(0.01)


async def debtor(peer):
    """Takes more than its rate at once, and is gone while the server does not read from it."""
    peer.send(frame(PING, b'') * 5000)
    await peer.read(2)
    if random.random() < 0.5:
        peer.reset_at_end()
    else:
        peer.writer.write_eof() if peer.writer.can_write_eof() else peer.writer.close()


async def overdrawn(peer):
    """Takes so much more than its rate that waiting is no answer."""
    peer.send(frame(PING, b'') * 100000)
    close = b'\x88\x0f' + struct.pack('>H', 1008)
    await peer.until_the_end('overdrawn', lambda answer: close in answer)


async def lengths(peer):
    """Lengths beyond what 32 bits and the limit hold."""
    length = random.choice((1 << 32, (1 << 32) + 5, (1 << 40) + 1))
    peer.send(b'\x82\xff' + struct.pack('>Q', length) + bytes(64))
    await peer.until_the_end('lengths', is_close(1009))


async def escapes(peer):
    """Text for a terminal, where a log would show it."""
    text = b'\x1b]0;title\x07\x1b[31m' + b'z' * random.choice((1, 3000))
    peer.send(random.choice((
        REQUEST[:-2] + b'Origin: http://' + text + b'\r\n\r\n',
        REQUEST.replace(b'/soak', b'/' + text), REQUEST.replace(b'websocket', text),
        REQUEST.replace(b': 13', b': ' + text),
    )))
    await peer.until_the_end('escapes', lambda answer: (
        answer.startswith(b'HTTP/1.1 4') and b'\x1b' not in answer))


async def fragments(peer):
    peer.send(frame(BINARY, b'', fin=False), frame(0, b'x', fin=False) * 12000)
    await peer.until_the_end('fragments', is_close(1008))


async def rubbish(peer):
    peer.send(random.choice((
        b'\x81\x01?', b'\xf1\x80\0\0\0\0', b'\x83\x80\0\0\0\0', frame(TEXT, b'\xff'),
        b'\x82\xff' + b'\xff' * 8,
    )))
    await peer.until_the_end('rubbish', lambda answer: answer[:1] == b'\x88')


async def handshakes(peer):
    request = random.choice((
        b'POST / HTTP/1.1\r\nHost: h\r\n\r\n', b'GET / HTTP/1.1\r\n\r\n',
        b'\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03', REQUEST.replace(b': 13', b': 12'),
        b'GET /' + b'a' * 20000, REQUEST[:-2] + b'X: ' + b'a' * 20000 + b'\r\n\r\n',
    ))
    peer.send(request)
    await peer.until_the_end(f'handshakes {request[:40]!r}', lambda answer: (
        answer.startswith(b'HTTP/1.1 4') or not answer and peer.tls))


async def tls_handshakes(peer):
    """Not TLS, or a beginning of it that never goes on: an answer or an alert, or the end."""
    peer.send(random.choice((
        b'GET / HTTP/1.1\r\n', b'\x16\x03\x01\x02\x00\x01', b'\x16\x03\x01\x00\x05' + bytes(5),
        b'\x80\x2e\x01',
    )))
    await peer.until_the_end('tls_handshakes', lambda answer: answer[:1] in (b'', b'\x15', b'H'))


async def endless(peer):
    """A message that never ends, beside unread pongs: its time is up all the same."""
    peer.reader._transport.pause_reading()
    peer.send(frame(BINARY, b'endless', fin=False))
    flood = frame(PING, b'p' * 125) * 100
    began = looked = time.monotonic()
    while time.monotonic() < began + PATIENCE:
        if peer.writer.transport.is_closing():
            return
        peer.send(flood)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(peer.writer.drain(), 0.5)
        # A server that has said Close discards what comes until the end of its patience, so that
        # nothing blocks: only reading tells of the end.
        if time.monotonic() > looked + 0.5:
            peer.reader._transport.resume_reading()
            await asyncio.sleep(0.05)
            peer.reader._transport.pause_reading()
            peer.reader._buffer.clear()
            looked = time.monotonic()
    surprise("endless", "the connection is still open")


async def silent(peer):
    """Says nothing: refused where its address has too many connections, and given up otherwise."""
    await peer.until_the_end('silent', lambda answer: True)


async def crowd(peer):
    """One of more from an address than the server admits: it stays, or is refused."""
    try:
        await peer.open()
    except ConnectionError as error:
        if ' 503 ' not in str(error):
            raise
    else:
        await asyncio.sleep(END - time.monotonic())


# Those who are refused come once a second. In place of TLS, which costs them most, they are silent.
CROWD_ADMITTED, CROWD_REFUSED, CROWD_FROM = 400, 130, ('127.0.0.9', 0)
# The time at which all end.
END = time.monotonic() + float(sys.argv[5]) if __name__ == '__main__' else None
# Each with how many of it are at work at once, and the rest between two of them, in seconds.
KINDS = {
    churn: (4, 0.01), greet: (4, 0.01), reset: (4, 0.01), stall: (200, 0.1), slow_reader: (6, 0.2),
    pings: (4, 0.05), fragments: (1, 1), rubbish: (4, 0.01), handshakes: (4, 0.01),
    endless: (2, 0.2), debtor: (4, 2), overdrawn: (1, 2), lengths: (4, 0.05), escapes: (4, 0.05),
}
# Kinds that make the opening handshake themselves, or none. The others begin after it.
OWN_HANDSHAKE = {stall, slow_reader, escapes, handshakes, tls_handshakes, silent, crowd}


async def keep_at_it(kind, rest, address, tls, source=None):
    # They do not begin all at once.
    await asyncio.sleep(min(rest, 1) * random.random())
    while time.monotonic() < END:
        try:
            async with Peer(address, tls, source) as peer:
                if kind not in OWN_HANDSHAKE:
                    await peer.open()
                await kind(peer)
            done[kind.__name__] += 1
        except (ConnectionResetError, BrokenPipeError, asyncio.IncompleteReadError, ssl.SSLError):
            # The end may come as a reset, where not all that was sent had been read.
            done[kind.__name__ + ' reset'] += 1
        except (ConnectionError, OSError, asyncio.TimeoutError) as error:
            surprise(kind.__name__, error)
        await asyncio.sleep(min(rest * random.uniform(0.5, 1.5), max(0, END - time.monotonic())))


async def main():
    # They take what the others leave of the processors: the good load waits for the server alone.
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    address, admin = (sys.argv[2], int(sys.argv[3])), (sys.argv[2], int(sys.argv[4]))
    tls, share = any_certificate() if sys.argv[1] == 'wss' else None, int(sys.argv[6])
    # TLS costs these clients far more than the server: fewer of them, less often.
    share *= 4 if tls else 1
    at_work = []
    for kind, (number, rest) in KINDS.items():
        at_work += [(kind, share * rest, address, tls)] * max(1, number // share)
    at_work += [(tls_handshakes, 0.05, address, None)] * 4 if tls else []
    crowd_kind = silent if tls else crowd
    at_work += [(crowd_kind, 1, address, None, CROWD_FROM)] * (CROWD_ADMITTED + CROWD_REFUSED)
    at_work += [(silent, 0.1, admin, None)] * 8
    await asyncio.gather(*(keep_at_it(*client) for client in at_work))
    print(json.dumps(done))


if __name__ == '__main__':
    logging.disable()  # asyncio warns of every write to a closed connection.
    asyncio.run(main())
