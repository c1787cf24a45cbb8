#!/usr/bin/env python3
"""The soak itself, for scripts/soak.sh. usage: soak.py PROGRAMS SECONDS SCHEMES ENGINES"""
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

# Short, so that what stalls is met by them within the soak. Its own pages of memory, so that they can be counted.
LIMITS = [
    '--handshake-timeout', '2s', '--message-timeout', '3s', '--write-timeout', '5s', '--ping-interval', '5s',
    '--max-fragments', '10000', '--max-connections', '2000', '--max-connections-per-ip', '400', '--log', 'off',
]
# A worker keeps up to 16 MiB of buffers for use again; a warm-up as long as the soak has taken most of that.
MEMORY_SLACK = 8 << 20
# The good load's p99 beside the hostile clients, which share its processors: it must not wait for any of them.
P99_LIMIT_NS = 100_000_000
# The longest that /healthz may take beside silent clients of the admin listener, in seconds.
HEALTH_LIMIT = 1
REFUSED = 'sparring_refusals_total{rule="too-many-from-address"}'
KINDS = ['churn', 'greet', 'reset', 'stall', 'slow_reader', 'pings', 'fragments', 'rubbish', 'handshakes', 'endless', 'silent']
REQUEST = (
    b'GET /soak HTTP/1.1\r\nHost: soak\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n'
    b'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n'
)
HERE = os.path.dirname(os.path.abspath(__file__))


class Server:
    """A server with one worker, and what /proc and its metrics say of it."""

    def __init__(self, programs, engine, limits=None, scheme='ws'):
        self.scheme = scheme
        # The admin's line, which is on standard error, and nothing else.
        command = [f'{programs}/sparring-server', '--listen', f'{scheme}://127.0.0.1:0', '--admin', '127.0.0.1:0', '--threads', '1']
        if scheme == 'wss':
            command.append('--tls-self-signed')
        environment = {**os.environ, 'MIMALLOC_ALLOW_THP': '0'}
        self.process = subprocess.Popen(
            [*command, '--engine', engine, *(limits or LIMITS)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=environment,
        )
        self.port = self.port_in(self.process.stdout, rf'listening on {scheme}://[^ ]*:(\d+)/')
        self.admin = self.port_in(self.process.stderr, r'admin at http://[^ ]*:(\d+)/')

    @staticmethod
    def port_in(stream, pattern):
        for line in stream:
            if found := re.search(pattern, line):
                return int(found[1])
        sys.exit('soak: the server does not start')

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


def good_load(programs, server, seconds):
    """Starts it; its result is read by `result_of`."""
    file = tempfile.NamedTemporaryFile(suffix='.json', delete=False)
    file.close()
    command = [
        f'{programs}/sparring-loadgen', 'run', f'{server.scheme}://127.0.0.1:{server.port}/', '-c', '16', '-s', '1KiB',
        '-w', '500ms', '-d', f'{seconds}s', '--quiet', '--json', file.name,
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
    return run['latency_ns']['uncorrected']['p99'] if run else None


def hostile(server, seconds):
    command = [sys.executable, f'{HERE}/hostile.py', server.scheme, '127.0.0.1', str(server.port), str(server.admin), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def slowest_health(server, seconds):
    """The slowest answer of looks over so many seconds."""
    end, slowest = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        slowest = max(slowest, server.health())
        time.sleep(0.2)
    return slowest


def in_ms(nanoseconds):
    return 'too few echoes to say' if nanoseconds is None else f'{nanoseconds / 1e6:.2f} ms'


def soak(programs, engine, scheme, seconds, checks):
    print(f'{engine}, {scheme}:', flush=True)
    server = Server(programs, engine, scheme=scheme)
    kinds = KINDS + ['tls_handshakes'] * (scheme == 'wss')
    try:
        # So that what is kept for use again is there before it is measured.
        warm_up = good_load(programs, server, seconds), hostile(server, seconds)
        result_of(warm_up[0])
        warm_up[1].communicate()
        alone = p99(result_of(good_load(programs, server, max(3, seconds // 5)))[2])
        checks.check('empty before', server.is_empty(), '0 connections')
        memory, descriptors = server.memory(), server.descriptors()
        refused = server.metric(REFUSED, 0)
        load, others = good_load(programs, server, seconds), hostile(server, seconds)
        slowest = slowest_health(server, seconds)
        status, errors, run = result_of(load)
        counts = json.loads(others.communicate()[0] or '{}')
        checks.check('the good load', status == 0, f'exit status {status}, {run and run["received"]} echoes {errors}')
        beside = p99(run)
        checks.check(
            'its p99', beside is not None and beside <= P99_LIMIT_NS,
            f'{in_ms(beside)}, alone {in_ms(alone)}',
        )
        idle = [kind for kind in kinds if counts.get(kind, 0) + counts.get(kind + ' reset', 0) == 0]
        checks.check('the hostile ones', not idle, ', '.join(f'{n} {kind}' for kind, n in sorted(counts.items())))
        checks.check('they got what they should', counts.get('surprise', 0) == 0, f'{counts.get("surprise", 0)} surprises')
        now = server.metric(REFUSED, 0)
        checks.check('the crowd of one address', now > refused, f'{now - refused} connections refused')
        checks.check('health', slowest <= HEALTH_LIMIT, f'answered within {slowest * 1000:.0f} ms')
        checks.check('empty after', server.is_empty(), '0 connections')
        now = server.memory_within(memory + MEMORY_SLACK)
        checks.check('memory', now <= memory + MEMORY_SLACK, f'RssAnon {now >> 10} KiB, before {memory >> 10} KiB')
        left = server.descriptors()
        checks.check('descriptors', left <= descriptors, f'{left}, before {descriptors}')
        backlog = server.metric('sparring_backlog_bytes') + server.metric('sparring_paused_readers')
        checks.check('backlog', backlog == 0, f'{backlog} bytes and paused readers')
    finally:
        status = server.end()
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
    for engine in engines.split(',') if engines else available(programs):
        for scheme in schemes:
            soak(programs, engine, scheme, seconds, checks)
    sys.exit(checks.failed)


if __name__ == '__main__':
    main()
