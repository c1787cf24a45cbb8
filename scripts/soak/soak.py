#!/usr/bin/env python3
"""The soak itself, for scripts/soak.sh.

usage: soak.py PROGRAMS SECONDS SCHEMES ENGINES hostile|stalled"""
import http.client
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter, defaultdict

import hostile

# Short, so that what stalls is met by them within the soak.
LIMITS = [
    '--handshake-timeout', '2s', '--message-timeout', '3s', '--write-timeout', '5s',
    '--ping-interval', '5s', '--max-fragments', '10000', '--max-connections', '2000',
    '--max-connections-per-ip', '400', '--message-rate', '2000',
]
# Those of a server whose clients may stall for as long as they like.
PATIENT = ['--message-timeout', '0', '--ping-interval', '0', '--log', 'off']
# Connections that stall in mid-frame, and the fewest rounds that say what they cost.
STALLED, STALLED_ROUNDS = 5000, 6
# Seconds of a part of a round: the good load alone, or beside the hostile clients.
PART = 5
# Shares of the hostile clients. A flood opens about 2,000 connections a second, which take a fifth
# of the worker's time in pieces of 0.1 ms. Steady attacks are about 30 a second, of every kind,
# and 130 refused connections.
FLOOD, STEADY = 1, 16
# Rounds that have a flood. The others are for the p99 beside steady attacks.
FLOODS = 3
# The good load's p99 beside steady attacks, over that without: the median of the rounds. A message
# that waits for one piece of a flood is late by half of the p99 of an idle server, so beside a
# flood the p99 is printed and not judged.
P99_RATIO = 1.25
# A victim from another address: from its connect to its echo, in seconds, at the median and at p99.
VICTIM, VICTIM_MEDIAN, VICTIM_P99 = '127.0.0.5', 0.1, 0.5
# What a worker may keep for use again: 24 MiB of buffers, and as much again for the allocator, as
# in server/tests/memory.rs.
MEMORY_KEPT = 48 << 20
# The longest that /healthz may take beside silent clients of the admin listener, in seconds.
HEALTH_LIMIT = 1
# Connections of the crowd that must be refused each second of attack: fewer would be no attack.
REFUSED_PER_SECOND = 50
# A line of the log has a cut text of a client and the words around it.
LOG_LINE = 600
OPEN = 'sparring_connections{state="open"}'
REFUSED = 'sparring_refusals_total{rule="too-many-from-address"}'
# The server has a processor of its own. Hostile clients run at idle priority, but a kernel that
# does not preempt itself finishes their system calls first: on the server's processor that wait
# (112 ms of 3 s) would count as the server's.
SERVER_CPU, *OTHER_CPUS = sorted(os.sched_getaffinity(0))
# Names of the checks that failed.
failed = []


class Server:
    """A server with one worker, and what /proc and its metrics say of it."""

    def __init__(self, programs, engine, scheme, limits):
        self.scheme, self.tls = scheme, hostile.any_certificate() if scheme == 'wss' else None
        command = [
            f'{programs}/sparring-server', '--listen', f'{scheme}://127.0.0.1:0', '--admin',
            '127.0.0.1:0', '--threads', '1', '--engine', engine, *limits,
        ]
        if scheme == 'wss':
            command.append('--tls-self-signed')
        if OTHER_CPUS:
            command += ['--cpus', str(SERVER_CPU)]
        # Its own pages of memory, so that they can be counted.
        environment = {**os.environ, 'MIMALLOC_ALLOW_THP': '0'}
        self.log = tempfile.TemporaryFile()
        os.sched_setaffinity(0, {SERVER_CPU, *OTHER_CPUS})
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=self.log, text=True, env=environment)
        # For this process and all that it starts from here on.
        os.sched_setaffinity(0, OTHER_CPUS or {SERVER_CPU})
        # The line comes last, when the admin listener has said its own.
        found = re.search(rf'listening on {scheme}://[^ ]*:(\d+)/', self.process.stdout.readline())
        if not found:
            sys.exit(f'soak: the server does not start: {self.log_lines()}')
        admin = re.search(r'admin at http://[^ ]*:(\d+)/', '\n'.join(self.log_lines()))
        self.port, self.admin = int(found[1]), int(admin[1])

    def log_lines(self):
        """What it has written to standard error. Bytes that are not UTF-8 become unprintable."""
        text = os.pread(self.log.fileno(), os.fstat(self.log.fileno()).st_size, 0)
        return text.decode(errors='replace').split('\n')[:-1]

    def metric(self, name, default=None):
        """`default` stands for a counter that is not there before it has counted."""
        with urllib.request.urlopen(f'http://127.0.0.1:{self.admin}/metrics', timeout=5) as answer:
            metrics = dict(line.rsplit(' ', 1) for line in answer.read().decode().splitlines())
        return int(metrics[name] if default is None else metrics.get(name, default))

    def health(self):
        """How long an answer takes, in seconds."""
        began = time.monotonic()
        urllib.request.urlopen(f'http://127.0.0.1:{self.admin}/healthz', timeout=20).close()
        return time.monotonic() - began

    def memory(self):
        with open(f'/proc/{self.process.pid}/status', encoding='ascii') as status:
            return 1024 * int(re.search(r'RssAnon:\s+(\d+)', status.read())[1])

    def memory_within(self, limit):
        """Its memory, after a while for the allocator to give back what is free."""
        end = time.monotonic() + 10
        while self.memory() > limit and time.monotonic() < end:
            time.sleep(0.2)
        return self.memory()

    def descriptors(self):
        """Of a process; connections of the uring engine are not among them, but in the metrics. The
        least of a second: the connection of the last look at the metrics may still be there."""
        least = sys.maxsize
        for _ in range(10):
            least = min(least, len(os.listdir(f'/proc/{self.process.pid}/fd')))
            time.sleep(0.1)
        return least

    def is_empty(self):
        """Waits until the last connection has gone."""
        end = time.monotonic() + 20
        while (count := self.metric(OPEN)) and time.monotonic() < end:
            time.sleep(0.1)
        return count == 0

    def end(self):
        self.process.terminate()
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def check(what, holds, seen):
    """Prints a check, and remembers it where it failed."""
    print(f'  {"ok    " if holds else "FAILED"} {what}: {seen}', flush=True)
    if not holds:
        failed.append(what)


class Victim(threading.Thread):
    """A client from another address, and one of the admin listener: how long each has to wait."""

    def __init__(self, server):
        super().__init__(daemon=True)
        self.server, self.is_over = server, threading.Event()
        self.waits, self.health, self.failures = [], [], []

    def run(self):
        while not self.is_over.wait(0.05):
            try:
                began = time.monotonic()
                self.echo()
                self.waits.append(time.monotonic() - began)
                self.health.append(self.server.health())
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))

    def echo(self):
        with connected(self.server, VICTIM) as stream:
            exchange(stream, hostile.REQUEST + b'\x81\x82\0\0\0\0hi', b'\x81\x02hi')

    def end(self):
        self.is_over.set()
        self.join()


def connected(server, source):
    stream = socket.create_connection(('127.0.0.1', server.port), 20, source_address=(source, 0))
    return server.tls.wrap_socket(stream) if server.tls else stream


def exchange(stream, request, end):
    """Sends a request and reads its answer up to this end."""
    stream.sendall(request)
    answer = b''
    while not answer.endswith(end):
        part = stream.recv(4096)
        if not part:
            raise ConnectionError(answer[:60])
        answer += part


def script(name, *words):
    """The command that runs a script of this folder."""
    return [sys.executable, os.path.join(os.path.dirname(__file__), name), *map(str, words)]


def half_message(server, number):
    """A connection that stalls in mid-frame. One address has not ports enough for all rounds."""
    stream = connected(server, f'127.0.0.{2 + number % 8}')
    exchange(stream, hostile.REQUEST, b'\r\n\r\n')
    # A text of 100 bytes, masked with zeros, of which 50 come.
    stream.sendall(b'\x81\xe4\0\0\0\0' + b'a' * 50)
    return stream


class Rounds:
    """The good load alone and beside others; what both sides saw."""

    def __init__(self, server):
        self.server = server
        self.echoes, self.errors, self.ratios, self.counts = 0, [], [], Counter()
        self.p99s = defaultdict(list)

    def load(self):
        """Plays the good load; returns its p99."""
        command = script('good.py', self.server.scheme, self.server.port, PART)
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            self.errors.append(done.stderr.strip())
            return None
        found = json.loads(done.stdout)
        self.echoes += found['echoes']
        return found['p99']

    def part(self, share):
        """Plays the good load beside others, none of whom is left when the next part begins."""
        server, stalled, clients = self.server, [], None
        if share == STALLED:
            stalled = [half_message(server, number) for number in range(STALLED)]
        elif share:
            words = server.scheme, '127.0.0.1', server.port, server.admin, PART + 2, share
            command = script('hostile.py', *words)
            clients = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        p99 = self.load()
        for stream in stalled:
            stream.close()
        if clients:
            self.counts.update(json.loads(clients.communicate()[0] or '{}'))
        server.is_empty()
        return p99

    def play(self, number, judged, *more):
        """The order changes from round to round, so that a drift of the machine favours neither."""
        order = (None, judged) if number % 2 else (judged, None)
        found = {share: self.part(share) for share in (*order, *more)}
        if all(found.values()):
            for share, value in found.items():
                self.p99s[share].append(value)
            self.ratios.append(found[judged] / found[None])

    def p99(self, share):
        if not self.p99s[share]:
            return 'too few echoes to say'
        return f'{statistics.median(self.p99s[share]) / 1e6:.2f} ms'

    def judge(self, judged, more=''):
        check('the good load', not self.errors, f'{self.echoes} echoes {"; ".join(self.errors)}')
        ratio = statistics.median(self.ratios) if self.ratios else float('inf')
        check(
            'its p99', ratio <= P99_RATIO,
            f'{self.p99(judged)}, alone {self.p99(None)}: {ratio:.3f} '
            f'(median of {len(self.ratios)} rounds, at most {P99_RATIO}){more}')


def quantile(values, part):
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]


def soak(server, seconds):
    kinds = [kind.__name__ for kind in (*hostile.KINDS, hostile.silent)]
    kinds.append('tls_handshakes' if server.scheme == 'wss' else 'crowd')
    fresh = server.memory()
    # So that what is kept for use again is there before the first round.
    Rounds(server).part(FLOOD)
    check('empty before', server.is_empty(), '0 connections')
    descriptors = server.descriptors()
    refused = server.metric(REFUSED, 0)
    rounds, victim = Rounds(server), Victim(server)
    victim.start()
    count = max(3, seconds // PART)
    for number in range(count):
        rounds.play(number, STEADY, *[FLOOD] * (number < FLOODS))
    victim.end()
    rounds.judge(STEADY, f'; beside a flood {rounds.p99(FLOOD)}')
    waits = victim.waits or [float('inf')]
    middle, late = quantile(waits, 0.5), quantile(waits, 0.99)
    check(
        'a victim', middle <= VICTIM_MEDIAN and late <= VICTIM_P99 and not victim.failures,
        f'{len(victim.waits)} served, median {middle * 1000:.1f} ms, p99 {late * 1000:.1f} ms '
        f'{victim.failures[:3] or ""}')
    slowest = max(victim.health, default=float('inf'))
    check('health', slowest <= HEALTH_LIMIT, f'answered within {slowest * 1000:.0f} ms')
    counts = rounds.counts
    idle = [kind for kind in kinds if counts[kind] + counts[kind + ' reset'] == 0]
    done = ', '.join(f'{n} {kind}' for kind, n in sorted(counts.items()))
    check('the hostile ones', not idle, done)
    surprises = counts['surprise']
    check('they got what they should', surprises == 0, f'{surprises} surprises')
    refused = server.metric(REFUSED, 0) - refused
    wanted = REFUSED_PER_SECOND * PART * count
    seen = f'{refused} connections refused, at least {wanted}'
    check('the crowd of one address', refused >= wanted, seen)
    check('empty after', server.is_empty(), '0 connections')
    now = server.memory_within(fresh + MEMORY_KEPT)
    seen = f'RssAnon {now >> 10} KiB, at the start {fresh >> 10} KiB'
    check('memory', now <= fresh + MEMORY_KEPT, seen)
    left = server.descriptors()
    check('descriptors', left <= descriptors, f'{left}, before {descriptors}')
    backlog = server.metric('sparring_backlog_bytes') + server.metric('sparring_paused_readers')
    check('backlog', backlog == 0, f'{backlog} bytes and paused readers')


def beside_stalled(server, seconds):
    rounds = Rounds(server)
    for number in range(max(STALLED_ROUNDS, seconds // PART)):
        rounds.play(number, STALLED)
    rounds.judge(STALLED)
    check('empty after', server.is_empty(), '0 connections')


def main():
    programs, seconds, schemes, engines, clients = sys.argv[1:]
    play, limits = (beside_stalled, PATIENT) if clients == 'stalled' else (soak, LIMITS)
    if not OTHER_CPUS:
        print('NOTE: one processor for all: the good load also waits for that')
    for engine in engines.split(','):
        for scheme in schemes.split(','):
            print(f'{engine}, {scheme}:', flush=True)
            server = Server(programs, engine, scheme, limits)
            try:
                play(server, int(seconds))
            finally:
                status = server.end()
            lines = server.log_lines()
            faulty = [line for line in lines if not line.isprintable() or len(line) > LOG_LINE]
            check('the log', not faulty, f'{len(lines)} lines {faulty[:1] or ""}')
            check('the end', status == 0, f'exit status {status}')
    sys.exit(bool(failed))


main()
