#!/usr/bin/env python3
"""Proof that the comparing method works: how often its verdicts are false, and how small a slowdown it finds on this machine.

    scripts/proof.py                       # record (or go on recording), then judge: about 25 minutes
    scripts/proof.py --noise               # the same, with this machine's noise (`aa`) recorded first, about 3 minutes
    scripts/proof.py --only-judge          # what the recording says, again
    scripts/proof.py --live                # eight live duels: four of identical servers, four against a slowed one
    scripts/proof.py --pairs 2             # a trial: two pairs of each kind

Three kinds of pairs are recorded, in turn, two pairs at a time, by `sparring-loadgen duel`, so that every run is made as those
of a duel are: a fresh server, a run under saturation and one at a fixed rate, ABBA, runs that something else disturbed made
again. `same` is a server against itself, `slow-half` and `slow-twice` are against the same server slowed by half and by twice
the threshold of server CPU per message (--burn-per-message, of the CPU per message that was measured first). With 50 pairs of
each kind that are 200 runs of A and 100 of slowed servers.

Each two pairs are one line of the recording, a session as stored, written when they are complete. Ctrl-C or a crash loses at
most the two under way: the same command goes on where it stopped. `sparring-loadgen proof` then judges. Exit status: 0 the
goals are reached, 1 an error, 2 usage, 10 a goal is missed, 130 interrupted.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TARGET = os.environ.get('CARGO_TARGET_DIR', os.path.join(ROOT, 'target'))

# Of the threshold of server CPU per message: 2 %, unless the machine's noise raises it.
DEFAULT_THRESHOLD = 0.02
KINDS = {'same': 0.0, 'slow-half': 0.5, 'slow-twice': 2.0}
# Pairs recorded at a time: ABBA.
PAIRS_AT_A_TIME = 2
CALIBRATION_RUNS = 8
REGRESSED, INVALID = 11, 13


def programs(args):
    """Server and generator, built unless they are given."""
    if args.bin:
        return [os.path.join(os.path.abspath(args.bin), name) for name in ('sparring-server', 'sparring-loadgen')]
    subprocess.run(['cargo', 'build', '--release', '--locked', '--quiet', '-p', 'sparring-server', '-p', 'sparring-loadgen'],
                   cwd=ROOT, check=True)
    return [os.path.join(TARGET, 'release', name) for name in ('sparring-server', 'sparring-loadgen')]


class Duels:
    """Sessions of pairs, all under one load."""

    def __init__(self, args):
        self.args = args
        self.server, self.loadgen = programs(args)
        for program in (self.server, self.loadgen):
            if not os.access(program, os.X_OK):
                sys.exit(f'{program} is not there: build it, or leave --bin out')

    def command(self, burn=0.0):
        slower = f' --burn-per-message {burn:.2f}ns' if burn else ''
        return f"'{self.server}' --listen 127.0.0.1:{{port}} --threads 1 --engine {self.args.engine} --stats{slower}"

    def load(self, rate):
        at = ['-R', f'{rate:.0f}'] if rate else []
        return ['--scenario', self.args.scenario, '-d', self.args.duration, '-w', self.args.warmup, *at]

    def session(self, commands, pairs, *flags, rate=None, fine=(0, INVALID, REGRESSED)):
        """Runs a duel without storing it; its document and its exit status."""
        with tempfile.NamedTemporaryFile(suffix='.json') as out:
            ended = subprocess.run([self.loadgen, 'duel', *commands, '--pairs', str(pairs), '--quiet', '--no-store',
                                    '--json', out.name, *self.load(rate), *flags], stdout=subprocess.DEVNULL)
            if ended.returncode not in fine:
                # What went wrong is on standard error already.
                sys.exit(ended.returncode if ended.returncode in (1, 2, 130) else 1)
            return json.load(open(out.name)), ended.returncode

    def calibrate(self):
        """Of the server as it is: CPU nanoseconds per message under saturation, and the rate its latencies are measured at."""
        document, _ = self.session([self.command()] * 2, CALIBRATION_RUNS // 2)
        saturated, fixed = document['scenarios'][:2]
        runs = [run for run in document['runs'] if run['scenario'] == saturated['name']]
        return statistics.median(run['server']['cpu_ns_per_message'] for run in runs), fixed['parameters']['rate_per_s']


def facts(folder, duels):
    """What the recording was begun with; made on the first call. It must stay, or the pairs would not belong together."""
    path = os.path.join(folder, 'proof.json')
    asked = {key: getattr(duels.args, key) for key in ('scenario', 'duration', 'warmup', 'engine', 'threshold')}
    if os.path.exists(path):
        known = json.load(open(path))
        changed = [key for key, value in asked.items() if known[key] != value]
        if changed:
            sys.exit(f"{path}: recorded with another {', '.join(changed)}; --folder takes another one")
        return known
    cpu, rate = duels.calibrate()
    known = asked | {'cpu_ns_per_message': cpu, 'rate_per_s': rate}
    whole(path, json.dumps(known, indent=1) + '\n')
    print(f'calibrated: {cpu:.0f} ns of server CPU per message, latencies at {rate:.0f} messages a second')
    return known


def whole(path, text):
    """A file is there in whole or not at all."""
    with open(path + '.partial', 'w') as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.rename(path + '.partial', path)


def recorded(path):
    """Pairs by kind. What a crash has left of a last line is cut off."""
    counts = dict.fromkeys(KINDS, 0)
    if not os.path.exists(path):
        return counts
    data = open(path, 'rb').read()
    kept = data[:data.rfind(b'\n') + 1]
    if len(kept) < len(data):
        os.truncate(path, len(kept))
        print('the last line of the recording was cut short and is made again')
    for line in kept.splitlines():
        document = json.loads(line)
        counts[document['session']['tag']] += 1 + max(run['pair'] for run in document['runs'])
    return counts


def light(document):
    """Without histograms and series: hundreds of sessions are kept, and judging does not look at them."""
    document['verdict'] = None
    for run in document['runs']:
        run['series'] = []
        for latency in run['latency_ns'].values():
            if latency:
                latency['hdr'] = None
    return document


def record(duels, folder):
    known = facts(folder, duels)
    path = os.path.join(folder, 'pairs.jsonl')
    counts = recorded(path)
    wanted = duels.args.pairs
    todo = sum(max(0, wanted - made) for made in counts.values())
    print(f"recorded so far: {', '.join(f'{made} {kind}' for kind, made in counts.items())}; {todo} pairs to go")
    began, made = time.monotonic(), 0
    with open(path, 'a') as file:
        while min(counts.values()) < wanted:
            # The kind that is behind; the first of them where several are, so that they take turns.
            kind = min(counts, key=counts.get)
            burn = known['cpu_ns_per_message'] * known['threshold'] * KINDS[kind]
            pairs = min(PAIRS_AT_A_TIME, wanted - counts[kind])
            document, _ = duels.session([duels.command(), duels.command(burn)], pairs, '--tag', kind, rate=known['rate_per_s'])
            if document['session']['interrupted']:
                sys.exit(130)
            file.write(json.dumps(light(document), separators=(',', ':')) + '\n')
            file.flush()
            os.fsync(file.fileno())
            counts[kind] += pairs
            made += pairs
            left = (time.monotonic() - began) / made * (todo - made)
            again = sum(len(run.get('repeated', [])) for run in document['runs'])
            invalid = sum(not run['valid'] for run in document['runs'])
            marks = ''.join(f', {count} {word}' for count, word in ((again, 'repeated'), (invalid, 'INVALID')) if count)
            print(f'{made} of {todo} pairs ({kind}{marks}), {left / 60:.0f} min left', flush=True)
    return path


def noise(duels, folder):
    """Records the machine's noise where `judge` looks for it; --store keeps it among the results of the project too."""
    known = facts(folder, duels)
    flags = ['--pairs', str(duels.args.noise_pairs), '--duel-pairs', str(duels.args.block), *duels.load(known['rate_per_s'])]
    ended = subprocess.run([duels.loadgen, 'aa', duels.command(), *flags, '--results', results(duels.args, folder), '--tag', 'noise'])
    if ended.returncode:
        sys.exit(ended.returncode)


def results(args, folder):
    """Where noise and live duels are stored."""
    return args.results or os.path.join(folder, 'results')


def judge(duels, folder, path):
    out = os.path.join(folder, 'verdicts.json')
    flags = ['--pairs', str(duels.args.block), '--draws', str(duels.args.draws), '--results', results(duels.args, folder)]
    ended = subprocess.run([duels.loadgen, 'proof', path, *flags, '--json', out], stdout=subprocess.PIPE, text=True)
    sys.stdout.write(ended.stdout)
    if ended.stdout:
        whole(os.path.join(folder, 'verdicts.txt'), ended.stdout)
    return ended.returncode


def live(duels, folder):
    """Duels as anybody makes them, whose answer is known: identical servers must not regress, slowed ones must."""
    known = facts(folder, duels)
    burn = known['cpu_ns_per_message'] * known['threshold'] * KINDS['slow-twice']
    wrong = 0
    for number in range(duels.args.duels):
        slowed = number % 2 == 1
        kind = 'slow-twice' if slowed else 'same'
        began = time.monotonic()
        ended = subprocess.run(
            [duels.loadgen, 'duel', duels.command(), duels.command(burn if slowed else 0.0), '--pairs', str(duels.args.block),
             '--quiet', '--results', results(duels.args, folder), '--tag', f'live-{kind}', *duels.load(None)],
            stdout=subprocess.PIPE, text=True)
        if ended.returncode not in (0, REGRESSED, INVALID):
            sys.stdout.write(ended.stdout)
            sys.exit(ended.returncode)
        regressed = [line for line in ended.stdout.splitlines() if 'server-cpu' in line and line.endswith('regressed')]
        right = bool(regressed) if slowed else ended.returncode == 0
        wrong += not right
        headline = next((line for line in ended.stdout.splitlines() if line.startswith('B against A')), 'no verdict')
        print(f'{number + 1}: {kind:<10} {"as it should" if right else "WRONG":<12} exit {ended.returncode:>2}  {headline}  '
              f'({time.monotonic() - began:.0f} s)', flush=True)
    print(f'{duels.args.duels - wrong} of {duels.args.duels} live duels said what is the case')
    return 10 if wrong else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('--folder', help='where the recording is [default: proof beside the build]')
    add('--pairs', type=int, default=50, help='pairs of each kind (default 50: 200 runs of A, 100 of slowed servers)')
    add('--block', type=int, default=10, help='pairs of a duel (default 10)')
    add('--draws', type=int, default=1000, help='duels to draw from the recording (default 1000)')
    add('--scenario', default='echo', help='a load of scripts/bench.sh (default echo)')
    add('--duration', default='1s', help='measured in each run (default 1s)')
    add('--warmup', default='500ms', help='before it (default 500ms)')
    add('--engine', default='uring', help='of the servers (default uring)')
    add('--threshold', type=float, default=DEFAULT_THRESHOLD, help='of server CPU per message, half and twice of which slowed servers burn (default 0.02)')
    add('--noise', action='store_true', help="record this machine's noise first, for the thresholds")
    add('--noise-pairs', type=int, default=20, help='pairs to record for it (default 20)')
    add('--results', help='where noise and live duels are stored [default: results in the folder]')
    add('--only-judge', action='store_true', help='record nothing')
    add('--live', action='store_true', help='live duels instead of a recording')
    add('--duels', type=int, default=8, help='how many live duels (default 8)')
    add('--bin', help='folder with sparring-server and sparring-loadgen [default: they are built]')
    args = parser.parse_args()
    if args.pairs < 1 or args.block < 8:
        parser.error('--pairs is at least 1, --block at least 8: fewer pairs decide nothing')
    folder = os.path.abspath(args.folder or os.path.join(TARGET, 'proof'))
    os.makedirs(folder, exist_ok=True)
    duels = Duels(args)
    if args.noise:
        noise(duels, folder)
    if args.live:
        return live(duels, folder)
    path = os.path.join(folder, 'pairs.jsonl')
    if not args.only_judge:
        path = record(duels, folder)
    return judge(duels, folder, path)


try:
    sys.exit(main())
except KeyboardInterrupt:
    sys.exit(130)
except subprocess.CalledProcessError as error:
    sys.exit(f'{error.cmd[0]} failed')
