#!/usr/bin/env python3
"""Variants of the server against each other, in interleaved rounds: what a setting of an engine costs or saves.

    scripts/tune.py                        # list the groups
    scripts/tune.py floors                 # the epoll and tokio-uring engines against the least servers of their kind
    scripts/tune.py buffers --rounds 12    # the size of the buffer ring
    scripts/tune.py spin queues            # several groups, one after the other
    scripts/tune.py uring --arm 'patched=/elsewhere/sparring-server --engine uring'   # another build against the default

Every run has a fresh server; within a round all arms run once, in turn forwards and backwards. Of each arm: the median of its CPU
time per message; of the ratio to the group's first arm in the same round, the median, and the second-smallest and second-largest
value; medians of the median latency and of the rate. An arm is `NAME=COMMAND`; `--listen`, `--threads 1` and `--cpus` are added to
commands of sparring-server, the address alone to others. Needs a machine with nothing else to do, and two cores.
"""

import argparse
import json
import math
import os
import shlex
import statistics
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TARGET = os.environ.get('CARGO_TARGET_DIR', os.path.join(ROOT, 'target'))
SERVER = os.path.join(TARGET, 'release', 'sparring-server')
LOADGEN = os.path.join(TARGET, 'release', 'sparring-loadgen')
PEERS = os.path.join(TARGET, 'peers', 'release')

# Exit status of a generator whose measurement is invalid, and how often a run is tried: something else may have run meanwhile.
INVALID, ATTEMPTS = 13, 5

CLOSED = {'1 x 1': '-c 1', '64 x 1': '-c 64', '512 x 1': '-c 512', '64 x 16': '-c 64 --pipeline 16'}
LARGE = {'8 x 64 KiB': '-c 8 -s 64KiB --text-kind mixed'}


def uring(flags=''):
    return f'{SERVER} --engine uring {flags}'


def some(*names):
    return {name: (CLOSED | LARGE)[name] for name in names}


# The first arm of a group is what the others are compared with.
GROUPS = {
    'floors': [
        ('epoll', some('64 x 1', '512 x 1', '64 x 16'),
         {'epoll-echo': f'{PEERS}/epoll-echo', 'epoll engine': f'{SERVER} --engine epoll'}),
        ('tokio-uring', some('64 x 1', '512 x 1', '64 x 16'),
         {'tokio-uring-echo': f'{PEERS}/tokio-uring-echo', 'tokio-uring engine': f'{SERVER} --engine tokio-uring'}),
    ],
    'uring': [('uring', some('64 x 1', '512 x 1', '64 x 16'), {'default': uring()})],
    'buffers': [
        ('buffers of the ring', some('64 x 1', '512 x 1', '64 x 16', '8 x 64 KiB'), {'128 x 68 KiB': uring()} | {
            f'{count} x {size} KiB': uring(f'--buffers {count} --buffer-size {size}KiB')
            for count, size in ((64, 68), (256, 68), (128, 128), (32, 128), (256, 16), (256, 4), (1024, 4), (4096, 4))}),
    ],
    'queues': [
        ('entries of the queues', some('64 x 1', '512 x 1'), {'1024 / 4096': uring()} | {
            f'{sq} / {cq}': uring(f'--sq-entries {sq} --cq-entries {cq}')
            for sq, cq in ((64, 256), (256, 1024), (1024, 2048), (4096, 16384), (4096, 32768))}),
    ],
    'completions': [
        ('completions of sends', some('64 x 1', '512 x 1', '64 x 16'), {'auto': uring(), 'all': uring('--send-completions all')}),
    ],
    'spin': [
        (f'spinning, {engine}', some('1 x 1', '64 x 1'), {
            spin: f'{SERVER} --engine {engine} --spin {spin}' for spin in ('0', '50us', 'always')})
        for engine in ('uring', 'epoll')
    ],
}


def processors():
    """One for the server and one for the generator, on different cores where there are two."""
    allowed = sorted(os.sched_getaffinity(0))
    core = lambda c: open(f'/sys/devices/system/cpu/cpu{c}/topology/thread_siblings_list').read().strip()
    others = [c for c in allowed if core(c) != core(allowed[0])] or allowed[1:] or allowed
    return allowed[0], others[0]


def build(peers):
    run = lambda *a, **k: subprocess.run(a, check=True, cwd=ROOT, **k)
    run('cargo', 'build', '--release', '--locked', '--quiet', '-p', 'sparring-server', '-p', 'sparring-loadgen')
    if peers:
        env = dict(os.environ, CARGO_TARGET_DIR=os.path.join(TARGET, 'peers'))
        run('cargo', 'build', '--release', '--locked', '--quiet', '-p', 'epoll-echo', '-p', 'tokio-uring-echo',
            '--manifest-path', 'scripts/peers/Cargo.toml', env=env)


def complete(command, cpu):
    """The command with the address, and what else sparring-server takes."""
    if 'sparring-server' in map(os.path.basename, shlex.split(command)):
        return f'{command} --listen 127.0.0.1:{{port}} --threads 1 --cpus {cpu}'
    return f'{command} 127.0.0.1:{{port}}'


def measure(command, load, seconds, cpus):
    """One run with a server of its own: CPU nanoseconds per message, median latency in nanoseconds, messages per second."""
    for _ in range(ATTEMPTS):
        with tempfile.NamedTemporaryFile(suffix='.json') as result:
            ended = subprocess.run(
                [LOADGEN, 'run', 'ws://127.0.0.1:{port}/', *shlex.split(load), '-d', f'{int(seconds * 1000)}ms', '-w', '300ms',
                 '--cpus', str(cpus[1]), '--quiet', '--spawn', complete(command, cpus[0]), '--spawn-cpus', str(cpus[0]),
                 '--json', result.name], stdout=subprocess.DEVNULL)
            if ended.returncode not in (0, INVALID):
                sys.exit(f'{command}, {load}: the generator ended with {ended.returncode}')
            run = json.load(open(result.name))['runs'][0]
        if run['valid']:
            return run['server']['cpu_ns_per_message'], run['latency_ns']['corrected']['p50'], run['rate_per_s']
        print(f"{command}, {load}: once more: {'; '.join(run['invalid_reasons'])}", file=sys.stderr)
    sys.exit(f'{command}, {load}: no valid run in {ATTEMPTS} attempts')


def rounds(arms, load, args, cpus, what):
    seen = {name: [] for name in arms}
    for n in range(args.rounds):
        for name in list(arms) if n % 2 == 0 else list(arms)[::-1]:
            seen[name].append(measure(arms[name], load, args.seconds, cpus))
        print(f'{what}: round {n + 1} of {args.rounds}', file=sys.stderr)
    return seen


def table(title, load, seen):
    """Rows of a Markdown table; the ratios are those within a round."""
    base = next(iter(seen.values()))
    print(f'\n| {title}, {load} | CPU us/message | ratio | interval | p50 us | messages/s |\n| --- | ---: | ---: | --- | ---: | ---: |')
    for name, values in seen.items():
        # A run with few messages has no median latency.
        cpu, p50, rate = (statistics.median([v for v in column if v is not None] or [math.nan]) for column in zip(*values))
        ratios = sorted(a[0] / b[0] for a, b in zip(values, base))
        low, high = (ratios[1], ratios[-2]) if len(ratios) >= 6 else (ratios[0], ratios[-1])
        print(f'| {name} | {cpu / 1e3:.3f} | {statistics.median(ratios):.3f} | {low:.3f} to {high:.3f} | {p50 / 1e3:.1f} | {rate:,.0f} |')
    sys.stdout.flush()


def arm(text):
    name, separator, command = text.partition('=')
    if not (name and separator and command):
        raise argparse.ArgumentTypeError('NAME=COMMAND is needed')
    return name, command


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('groups', nargs='*', metavar='GROUP', help=f"of {', '.join(GROUPS)}")
    parser.add_argument('--rounds', type=int, default=10, help='default 10')
    parser.add_argument('--seconds', type=float, default=2, help='measured in each run, default 2')
    parser.add_argument('--arm', type=arm, action='append', default=[], help='one more arm in every table, NAME=COMMAND; repeatable')
    parser.add_argument('--load', type=lambda text: text.split(','), help='only these of the loads, as in "64 x 1,512 x 1"')
    parser.add_argument('--skip-build', action='store_true')
    args = parser.parse_args()
    if unknown := [g for g in args.groups if g not in GROUPS]:
        parser.error(f"no such group: {', '.join(unknown)}; there are {', '.join(GROUPS)}")
    if args.rounds < 1 or args.seconds <= 0:
        parser.error('--rounds and --seconds must be positive')
    if not args.groups:
        for name, tables in GROUPS.items():
            for title, loads, arms in tables:
                print(f"{name:12} {title}: {', '.join(arms)}; at {', '.join(loads)}")
        return
    chosen = [(title, {name: load for name, load in loads.items() if not args.load or name in args.load}, arms | dict(args.arm))
              for group in args.groups for title, loads, arms in GROUPS[group]]
    runs = args.rounds * sum(len(loads) * len(arms) for _, loads, arms in chosen)
    if not runs:
        parser.error(f"--load: none of {', '.join(CLOSED | LARGE)} is in these groups")
    if not args.skip_build:
        build('floors' in args.groups)
    cpus = processors()
    print(f'{runs} runs of {args.seconds:g} s, about {runs * (args.seconds + 0.9) / 60:.0f} minutes; '
          f'server on processor {cpus[0]}, generator on {cpus[1]}', flush=True)
    for title, loads, arms in chosen:
        for name, load in loads.items():
            table(title, name, rounds(arms, load, args, cpus, f'{title}, {name}'))


main()
