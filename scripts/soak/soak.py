#!/usr/bin/env python3
"""The soak itself, for scripts/soak.sh. usage: soak.py PROGRAMS SECONDS SCHEMES ENGINES"""
import http.client
import json
import os
import re
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter

# Short, so that what stalls is met by them within the soak. Its own pages of memory, so that they can be counted.
LIMITS = [
    '--handshake-timeout', '2s', '--message-timeout', '3s', '--write-timeout', '5s', '--ping-interval', '5s',
    '--max-fragments', '10000', '--max-connections', '2000', '--max-connections-per-ip', '400', '--message-rate', '2000',
]
# The good load: an open loop, so that it asks for the same with hostile clients and without.
RATE, CONNECTIONS = 4000, 16
# Seconds of a part of a round: the good load alone, or beside the hostile clients.
PART = 5
# Shares of the hostile clients. A flood opens about 2,000 connections a second, which take a fifth of the worker's time in
# pieces of 0.1 ms. Steady attacks are about 130 a second, of every kind.
FLOOD, STEADY = 1, 16
# The good load's p99 beside steady attacks, over that without: the median of the rounds. A message that has to wait for one
# piece of a flood is late by half of the p99 of an idle server, so beside a flood the p99 is printed and not judged.
P99_RATIO = 1.25
# A victim from another address: from its connect to its echo, in seconds, at the median and at p99.
VICTIM, VICTIM_MEDIAN, VICTIM_P99 = '127.0.0.5', 0.1, 0.5
# What a worker may keep for use again: 16 MiB for messages, 4 MiB of output, 4 MiB of receive buffers.
MEMORY_KEPT = 24 << 20
# The longest that /healthz may take beside silent clients of the admin listener, in seconds.
HEALTH_LIMIT = 1
# Connections of the crowd that must have been refused each second of attack: fewer would be no attack.
REFUSED_PER_SECOND = 50
# A line of the log has a cut text of a client and the words around it.
LOG_LINE = 600
REFUSED = 'sparring_refusals_total{rule="too-many-from-address"}'
KINDS = [
    'churn', 'greet', 'reset', 'stall', 'slow_reader', 'pings', 'fragments', 'rubbish', 'handshakes', 'endless', 'debtor',
    'overdrawn', 'lengths', 'escapes', 'silent',
]
REQUEST = (
    b'GET /soak HTTP/1.1\r\nHost: soak\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n'
    b'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n'
)
# The server has a processor of its own. Hostile clients run at idle priority, but a kernel that does not preempt itself
# finishes their system calls first: on the server's processor that wait (112 ms of 3 s) would count as the server's.
SERVER_CPU, *OTHER_CPUS = sorted(os.sched_getaffinity(0))
HERE = os.path.dirname(os.path.abspath(__file__))


class Server:
    """A server with one worker, and what /proc and its metrics say of it."""

    def __init__(self, programs, engine, limits=None, scheme='ws'):
        self.scheme = scheme
        # The admin's line, which is on standard error, and nothing else.
        command = [f'{programs}/sparring-server', '--listen', f'{scheme}://127.0.0.1:0', '--admin', '127.0.0.1:0', '--threads', '1']
        if scheme == 'wss':
            command.append('--tls-self-signed')
        if OTHER_CPUS:
            command += ['--cpus', str(SERVER_CPU)]
        environment = {**os.environ, 'MIMALLOC_ALLOW_THP': '0'}
        self.log = tempfile.TemporaryFile()
        os.sched_setaffinity(0, {SERVER_CPU, *OTHER_CPUS})
        self.process = subprocess.Popen(
            [*command, '--engine', engine, *(limits or LIMITS)], stdout=subprocess.PIPE, stderr=self.log, text=True, env=environment,
        )
        # For this process and all that it starts from here on.
        os.sched_setaffinity(0, OTHER_CPUS or {SERVER_CPU})
        # The line comes last, when the admin listener has said its own.
        found = re.search(rf'listening on {scheme}://[^ ]*:(\d+)/', self.process.stdout.readline())
        if not found:
            sys.exit(f'soak: the server does not start: {self.log_lines()}')
        self.port = int(found[1])
        self.admin = int(re.search(r'admin at http://[^ ]*:(\d+)/', '\n'.join(self.log_lines()))[1])

    def log_lines(self):
        """What it has written to standard error. Bytes that are no UTF-8 show as what no line may have."""
        text = os.pread(self.log.fileno(), os.fstat(self.log.fileno()).st_size, 0).decode(errors='replace')
        return text.split('\n')[:-1]

    def metric(self, name, default=None):
        """`default` stands for a counter that is not there before it has counted."""
        with urllib.request.urlopen(f'http://127.0.0.1:{self.admin}/metrics', timeout=5) as answer:
            for line in answer.read().decode().splitlines():
                if line.startswith(name + ' '):
                    return int(line.rsplit(' ', 1)[1])
        if default is None:
            raise KeyError(name)
        return default

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
        """Of a process; connections of the uring engine are not among them, but in the metrics. The least of a second: the
        connection of the last look at the metrics may still be there."""
        least = sys.maxsize
        for _ in range(10):
            least = min(least, len(os.listdir(f'/proc/{self.process.pid}/fd')))
            time.sleep(0.1)
        return least

    def is_empty(self):
        """Waits until the last connection has gone."""
        end = time.monotonic() + 20
        while time.monotonic() < end:
            if self.metric('sparring_connections{state="open"}') == 0:
                return True
            time.sleep(0.1)
        return False

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


class Checks:
    """Prints each, remembers whether one failed."""

    def __init__(self):
        self.failed = False

    def check(self, what, holds, seen):
        print(f'  {"ok    " if holds else "FAILED"} {what}: {seen}', flush=True)
        self.failed |= not holds


class Victim(threading.Thread):
    """A client from another address, and one of the admin listener: measures how long each has to wait."""

    def __init__(self, server):
        super().__init__(daemon=True)
        self.server, self.waits, self.health, self.failures, self.is_over = server, [], [], [], threading.Event()
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if server.scheme == 'wss' else None
        if self.tls:
            self.tls.check_hostname, self.tls.verify_mode = False, ssl.CERT_NONE

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
        with socket.create_connection(('127.0.0.1', self.server.port), 20, source_address=(VICTIM, 0)) as stream:
            if self.tls:
                stream = self.tls.wrap_socket(stream)
            stream.sendall(REQUEST + b'\x81\x82\0\0\0\0hi')
            answer = b''
            while not answer.endswith(b'\x81\x02hi'):
                part = stream.recv(4096)
                if not part:
                    raise ConnectionError(answer[:60])
                answer += part
            stream.close()

    def end(self):
        self.is_over.set()
        self.join()


def good_load(programs, server, seconds):
    """Starts it; its result is read by `result_of`."""
    file = tempfile.NamedTemporaryFile(suffix='.json', delete=False)
    file.close()
    # A late generator makes the run invalid, which is no fault of the server: its echoes are counted all the same.
    command = [
        f'{programs}/sparring-loadgen', 'run', f'{server.scheme}://127.0.0.1:{server.port}/', '-c', str(CONNECTIONS), '-s', '1KiB',
        '-R', str(RATE), '-w', '500ms', '-d', f'{seconds}s', '--quiet', '--allow-invalid', '--json', file.name,
    ]
    if server.scheme == 'wss':
        command.append('--insecure')
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    return process, file.name


def result_of(load):
    process, file = load
    errors = process.communicate()[1]
    with open(file, encoding='utf-8') as stored:
        text = stored.read()
    os.unlink(file)
    run = json.loads(text)['runs'][0] if text else None
    return process.returncode, errors.strip(), run


def p99(run):
    """From a message's send to its echo: what the generator is late with is not the server's."""
    latency = run['latency_ns'] if run else {}
    # A closed loop has one latency.
    return latency.get('uncorrected', latency.get('corrected', {})).get('p99')


def hostile(server, seconds, share):
    command = [sys.executable, f'{HERE}/hostile.py', server.scheme, '127.0.0.1']
    command += map(str, [server.port, server.admin, seconds, share])
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def in_ms(nanoseconds):
    return 'too few echoes to say' if nanoseconds is None else f'{nanoseconds / 1e6:.2f} ms'


class Rounds:
    """The good load alone, beside steady attacks and beside a flood; what both sides saw."""

    def __init__(self, programs, server):
        self.programs, self.server = programs, server
        self.echoes, self.errors, self.ratios, self.counts = 0, [], [], Counter()
        self.p99s = {None: [], STEADY: [], FLOOD: []}

    def load(self):
        status, errors, run = result_of(good_load(self.programs, self.server, PART))
        if status:
            self.errors.append(f'exit status {status}: {errors}')
        self.echoes += run['received'] if run else 0
        return p99(run)

    def part(self, share):
        if share is None:
            return self.load()
        others = hostile(self.server, PART + 1, share)
        found = self.load()
        self.counts.update(json.loads(others.communicate()[0] or '{}'))
        # Nobody of them is left when the next part begins.
        self.server.is_empty()
        return found

    def play(self, number):
        found = {share: self.part(share) for share in ((None, STEADY) if number % 2 else (STEADY, None))}
        found[FLOOD] = self.part(FLOOD)
        if all(found.values()):
            for share, value in found.items():
                self.p99s[share].append(value)
            self.ratios.append(found[STEADY] / found[None])


def quantile(values, part):
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]


def soak(programs, engine, scheme, seconds, checks):
    print(f'{engine}, {scheme}:', flush=True)
    server = Server(programs, engine, scheme=scheme)
    kinds = KINDS + ['tls_handshakes'] * (scheme == 'wss')
    try:
        fresh = server.memory()
        # So that what is kept for use again is there before the first round.
        Rounds(programs, server).part(FLOOD)
        checks.check('empty before', server.is_empty(), '0 connections')
        descriptors = server.descriptors()
        refused = server.metric(REFUSED, 0)
        rounds, victim = Rounds(programs, server), Victim(server)
        victim.start()
        for number in range(max(3, seconds // PART)):
            rounds.play(number)
        victim.end()
        checks.check('the good load', not rounds.errors, f'{rounds.echoes} echoes {"; ".join(rounds.errors)}')
        ratio = statistics.median(rounds.ratios) if rounds.ratios else float('inf')
        alone, steady, flood = [in_ms(statistics.median(found) if found else None) for found in rounds.p99s.values()]
        checks.check(
            'its p99', ratio <= P99_RATIO,
            f'{steady}, alone {alone}: {ratio:.3f} (median of {len(rounds.ratios)} rounds, at most {P99_RATIO}); beside a flood {flood}',
        )
        waits = victim.waits or [float('inf')]
        middle, late = quantile(waits, 0.5), quantile(waits, 0.99)
        checks.check(
            'a victim', middle <= VICTIM_MEDIAN and late <= VICTIM_P99 and not victim.failures,
            f'{len(victim.waits)} served, median {middle * 1000:.1f} ms, p99 {late * 1000:.1f} ms {victim.failures[:3] or ""}',
        )
        slowest = max(victim.health, default=float('inf'))
        checks.check('health', slowest <= HEALTH_LIMIT, f'answered within {slowest * 1000:.0f} ms')
        counts = rounds.counts
        idle = [kind for kind in kinds if counts.get(kind, 0) + counts.get(kind + ' reset', 0) == 0]
        checks.check('the hostile ones', not idle, ', '.join(f'{n} {kind}' for kind, n in sorted(counts.items())))
        checks.check('they got what they should', counts.get('surprise', 0) == 0, f'{counts.get("surprise", 0)} surprises')
        now = server.metric(REFUSED, 0)
        wanted = REFUSED_PER_SECOND * PART * max(3, seconds // PART)
        checks.check('the crowd of one address', now - refused >= wanted, f'{now - refused} connections refused, at least {wanted}')
        checks.check('empty after', server.is_empty(), '0 connections')
        now = server.memory_within(fresh + MEMORY_KEPT)
        checks.check('memory', now <= fresh + MEMORY_KEPT, f'RssAnon {now >> 10} KiB, at the start {fresh >> 10} KiB')
        left = server.descriptors()
        checks.check('descriptors', left <= descriptors, f'{left}, before {descriptors}')
        backlog = server.metric('sparring_backlog_bytes') + server.metric('sparring_paused_readers')
        checks.check('backlog', backlog == 0, f'{backlog} bytes and paused readers')
    finally:
        status = server.end()
    lines = server.log_lines()
    spoilt = [line for line in lines if not line.isprintable() or len(line) > LOG_LINE]
    checks.check('the log', not spoilt, f'{len(lines)} lines {spoilt[:1] or ""}')
    checks.check('the end', status == 0, f'exit status {status}')


def available(programs):
    facts = subprocess.run([f'{programs}/sparring-server', '--version', '--verbose'], capture_output=True, text=True, check=True)
    for name, state in re.findall(r'^engine ([a-z-]+): (.*)$', facts.stdout, re.MULTILINE):
        if state == 'available':
            yield name
        else:
            print(f'skipped: engine {name}: {state}')


def main():
    programs, seconds, schemes, engines = sys.argv[1], int(sys.argv[2]), sys.argv[3].split(','), sys.argv[4]
    checks = Checks()
    if not OTHER_CPUS:
        print('NOTE: one processor for all: the p99 of the good load is also that of waiting for it')
    for engine in engines.split(',') if engines else available(programs):
        for scheme in schemes:
            soak(programs, engine, scheme, seconds, checks)
    sys.exit(checks.failed)


if __name__ == '__main__':
    main()
