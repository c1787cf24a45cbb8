#!/usr/bin/env python3
"""Proof that the comparing method works: how often its verdicts are false, and how small a slowdown it finds on this machine.

    scripts/proof.py --noise               # this machine's noise (`aa`) first, 3 minutes; then record and judge, 20 minutes
    scripts/proof.py                       # go on recording where it stopped, then judge
    scripts/proof.py --only-judge          # what the recording says, again
    scripts/proof.py --live                # eight live duels, 7 minutes: four of identical servers, four against a slowed one;
                                           # they are stored in the folder, beside the recording
    scripts/proof.py --shares              # at which share of the capacity latencies are steady and valid, 2 minutes
    scripts/proof.py --pairs 4 --block 8   # a trial: four pairs of each kind, a minute

Three kinds of pairs are recorded, in turn, two pairs at a time, by `sparring-loadgen duel`, so that every run is made as those
of a duel are: a fresh server, a run under saturation and one at a fixed rate, ABBA, runs that something else disturbed made
again. `same` is a server against itself, `slow-half` and `slow-twice` are against the same server slowed by half and by twice
the threshold of server CPU per message: it burns that share of the CPU per message that was measured first, corrected once for
what it saves because its turns become longer. 80 pairs of each kind are 320 runs of A and 160 of slowed servers.

Each two pairs are one line of the recording, a session as stored, written when they are complete. Ctrl-C or a crash loses at
most the two under way: the same command goes on where it stopped. `sparring-loadgen proof` then judges. Exit status: 0 the
goals are reached, 1 an error, 2 usage, 10 a goal is missed, 130 interrupted.
"""

import argparse
import glob
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TARGET = os.environ.get('CARGO_TARGET_DIR', os.path.join(ROOT, 'target'))

# Of the threshold of server CPU per message, which is 2 % unless the machine's noise raises it.
KINDS = {'same': 0.0, 'slow-half': 0.5, 'slow-twice': 2.0}
DEFAULT_THRESHOLD = 0.02
# Of the capacity, for --shares.
SHARES = (0.4, 0.5, 0.6, 0.7, 0.8)
SHARES_ROUNDS = 4
# Pairs recorded at a time: ABBA.
PAIRS_AT_A_TIME = 2
CALIBRATION_PAIRS = 10
REGRESSED, INVALID, INTERRUPTED = 11, 13, 130


def programs(args):
    """Server and generator, built unless they are given."""
    names = ('sparring-server', 'sparring-loadgen')
    if not args.bin:
        packages = [word for name in names for word in ('-p', name)]
        subprocess.run(['cargo', 'build', '--release', '--locked', '--quiet', *packages], cwd=ROOT, check=True)
    found = [os.path.join(os.path.abspath(args.bin or os.path.join(TARGET, 'release')), name) for name in names]
    for program in found:
        if not os.access(program, os.X_OK):
            sys.exit(f'{program} is not there: build it, or leave --bin out')
    return found


class Duels:
    """Sessions of pairs, all under one load."""

    def __init__(self, args):
        self.args = args
        self.server, self.loadgen = programs(args)

    def command(self, burn=0.0):
        slower = f' --burn-per-message {burn:.2f}ns' if burn else ''
        return f"'{self.server}' --listen 127.0.0.1:{{port}} --threads 1 --engine {self.args.engine} --stats{slower}"

    def load(self, rate=None):
        at = ['-R', f'{rate:.0f}'] if rate else []
        return ['--scenario', self.args.scenario, '-d', self.args.duration, '-w', self.args.warmup, *at]

    def session(self, burn, pairs, *flags, rate=None):
        """The document of a duel against a server that burns so much, which is not stored."""
        with tempfile.NamedTemporaryFile(suffix='.json') as out:
            ended = subprocess.run([self.loadgen, 'duel', self.command(), self.command(burn), '--pairs', str(pairs), '--quiet',
                                    '--no-store', '--json', out.name, *self.load(rate), *flags], stdout=subprocess.DEVNULL)
            if ended.returncode not in (0, INVALID, REGRESSED):
                # What went wrong is on standard error already.
                sys.exit(ended.returncode if ended.returncode in (1, 2, INTERRUPTED) else 1)
            return json.load(open(out.name))


def whole(path, text):
    """A file is there in whole or not at all."""
    with open(path + '.partial', 'w') as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.rename(path + '.partial', path)


# ---- what is known beforehand

def calibrated(duels, folder):
    """What the recording was begun with; measured on the first call. It must stay, or the pairs would not belong together."""
    path = os.path.join(folder, 'calibration.json')
    asked = {key: getattr(duels.args, key) for key in ('scenario', 'duration', 'warmup', 'engine', 'threshold')}
    if os.path.exists(path):
        known = json.load(open(path))
        changed = [key for key, value in asked.items() if known[key] != value]
        if changed:
            sys.exit(f"{path}: recorded with another {', '.join(changed)}; --folder takes another one")
        return known
    known = asked | calibrate(duels)
    whole(path, json.dumps(known, indent=1) + '\n')
    return known


def calibrate(duels):
    """CPU per message under saturation, the rate at which latencies are measured, and how much dearer burning really makes."""
    document = duels.session(0.0, PAIRS_AT_A_TIME)
    saturated, fixed = document['scenarios'][:2]
    runs = [run for run in document['runs'] if run['scenario'] == saturated['name']]
    cpu = statistics.median(run['server']['cpu_ns_per_message'] for run in runs)
    share = duels.args.threshold * KINDS['slow-twice']
    document = duels.session(cpu * share, CALIBRATION_PAIRS, '--saturation-only')
    found = next(one for one in document['verdict']['judgements'] if one['metric'] == 'server_cpu')
    really, (low, high) = found['ratio'] - 1, found['interval'] or (0, 2)
    # Only what is certain is corrected, and within bounds: noise must not make nonsense of it.
    certain = really > 0 and not low <= 1 + share <= high
    correction = min(max(share / really, 0.5), 2.0) if certain else 1.0
    rate = fixed['parameters']['rate_per_s']
    print(f'calibrated: {cpu:.0f} ns of server CPU per message; burning {share:.1%} of it makes a server dearer by {really:.1%}'
          f'{f" (corrected by {correction:.2f})" if certain else ""}; '
          f'latencies at {rate:.0f} messages a second', flush=True)
    return {'cpu_ns_per_message': cpu, 'correction': correction, 'rate_per_s': rate}


def burn(known, kind):
    """What a server burns for each message, nanoseconds."""
    return known['cpu_ns_per_message'] * known['correction'] * known['threshold'] * KINDS[kind]


def results(args, folder):
    """Where this machine's noise is stored and looked for."""
    return args.results or os.path.join(folder, 'results')


def noise(duels, folder):
    """Records the machine's noise under this load."""
    known = calibrated(duels, folder)
    ended = subprocess.run(
        [duels.loadgen, 'aa', duels.command(), '--pairs', str(duels.args.noise_pairs), '--duel-pairs', str(duels.args.block[0]),
         *duels.load(known['rate_per_s']), '--results', results(duels.args, folder), '--tag', 'noise'])
    if ended.returncode:
        sys.exit(ended.returncode)


# ---- recording and judging

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


def record(duels, folder, path):
    known = calibrated(duels, folder)
    counts = recorded(path)
    wanted = duels.args.pairs
    todo = sum(max(0, wanted - made) for made in counts.values())
    print(f"recorded so far: {', '.join(f'{made} {kind}' for kind, made in counts.items())}; {todo} pairs to go", flush=True)
    began, made = time.monotonic(), 0
    with open(path, 'a') as file:
        while min(counts.values()) < wanted:
            # The kind that is behind, the first of them where several are: they take turns.
            kind = min(counts, key=counts.get)
            document = duels.session(burn(known, kind), PAIRS_AT_A_TIME, '--tag', kind, rate=known['rate_per_s'])
            file.write(json.dumps(light(document), separators=(',', ':')) + '\n')
            file.flush()
            os.fsync(file.fileno())
            pairs = 1 + max(run['pair'] for run in document['runs'])
            counts[kind] += pairs
            made += pairs
            left = (time.monotonic() - began) / made * max(0, todo - made)
            again = sum(len(run.get('repeated', [])) for run in document['runs'])
            invalid = sum(not run['valid'] for run in document['runs'])
            marks = ''.join(f', {count} {word}' for count, word in ((again, 'repeated'), (invalid, 'INVALID')) if count)
            print(f'{made} of {todo} pairs ({kind}{marks}), {left / 60:.0f} min left', flush=True)


def judge(duels, folder, path):
    """Has the recording judged as duels of each size; the worst exit status."""
    worst = 0
    for block in duels.args.block:
        out = os.path.join(folder, f'verdicts-{block}')
        flags = ['--pairs', str(block), '--draws', str(duels.args.draws), '--results', results(duels.args, folder)]
        print(f'\n=== duels of {block} pairs', flush=True)
        ended = subprocess.run([duels.loadgen, 'proof', path, *flags, '--json', f'{out}.json'], stdout=subprocess.PIPE, text=True)
        print(ended.stdout, end='', flush=True)
        if ended.stdout:
            whole(f'{out}.txt', ended.stdout)
        worst = max(worst, ended.returncode)
    return worst


# ---- other measurements

def live(duels, folder):
    """Duels as anybody makes them, whose answer is known: nothing of identical servers has changed, slowed ones have regressed."""
    known = calibrated(duels, folder)
    stored = os.path.join(folder, 'live')
    for path in glob.glob(os.path.join(results(duels.args, folder), '*', '*-noise.json')):
        machine = os.path.join(stored, os.path.basename(os.path.dirname(path)))
        os.makedirs(machine, exist_ok=True)
        shutil.copy(path, machine)
    right = 0
    for number in range(duels.args.duels):
        kind = ('same', 'slow-twice')[number % 2]
        began = time.monotonic()
        ended = subprocess.run(
            [duels.loadgen, 'duel', duels.command(), duels.command(burn(known, kind)), '--pairs', str(duels.args.block[0]),
             '--quiet', '--results', stored, '--tag', f'live-{kind}', *duels.load()],
            stdout=subprocess.PIPE, text=True)
        if ended.returncode not in (0, REGRESSED, INVALID):
            print(ended.stdout, end='')
            sys.exit(ended.returncode)
        lines = ended.stdout.splitlines()
        changed = [line for line in lines if line.endswith(('regressed', 'improved'))]
        found = any('server-cpu' in line for line in changed if line.endswith('regressed'))
        if KINDS[kind]:
            said = 'right' if found else 'MISSED'
        else:
            said = 'FALSE' if changed else 'right'
        if ended.returncode == INVALID:
            said = 'INVALID'
        right += said == 'right'
        headline = next((line for line in lines if line.startswith('B against A')), 'no verdict')
        print(f'{number + 1}: {kind:<10} {said:<7}  exit {ended.returncode:>2}  {headline}  '
              f'({time.monotonic() - began:.0f} s)', flush=True)
    print(f'{right} of {duels.args.duels} live duels said what is the case')
    return 0 if right == duels.args.duels else 10


def shares(duels, folder):
    """Latencies at several shares of the capacity: how many runs are valid, and how much identical servers differ."""
    # Half of the capacity is the rate that a duel takes.
    capacity = 2 * calibrated(duels, folder)['rate_per_s']
    seen = {share: [] for share in SHARES}
    for _ in range(SHARES_ROUNDS):
        for share in SHARES:
            document = duels.session(0.0, 1, rate=capacity * share)
            fixed = document['scenarios'][1]['name']
            seen[share] += [run for run in document['runs'] if run['scenario'] == fixed]
    print('share  messages/s     valid    p50 us  spread     p99 us  spread  lag p99 us')
    for share, runs in seen.items():
        valid = [run for run in runs if run['valid']]
        asked = (('corrected', 'p50'), ('corrected', 'p99'), ('lag', 'p99'))
        (p50, s50), (p99, s99), (lag, _) = [spread([run['latency_ns'][of].get(which) for run in valid]) for of, which in asked]
        print(f'{share:5.2f} {capacity * share:11.0f} {len(valid):4} of {len(runs)} {p50:9.1f} {s50:5.1f} % {p99:10.1f} {s99:5.1f} % {lag:11.1f}')
    return 0


def spread(values):
    """The median in microseconds, and the standard deviation in percent of it."""
    values = [value / 1e3 for value in values if value]
    if len(values) < 2:
        return float('nan'), float('nan')
    return statistics.median(values), 100 * statistics.stdev(values) / statistics.median(values)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('--folder', help='where the recording is [default: proof beside the build]')
    add('--pairs', type=int, default=80, help='pairs of each kind (default 80: 320 runs of A, 160 of slowed servers)')
    add('--block', type=int, nargs='+', default=[10, 20], metavar='N', help='pairs of a duel; the recording is judged as each (default 10 20)')
    add('--draws', type=int, default=1000, help='duels to draw from the recording (default 1000)')
    add('--scenario', default='echo', help='a load of scripts/bench.sh (default echo)')
    add('--duration', default='600ms', help='measured in each run (default 600ms, as scripts/ab.sh)')
    add('--warmup', default='300ms', help='before it (default 300ms)')
    add('--engine', default='uring', help='of the servers (default uring)')
    add('--threshold', type=float, default=DEFAULT_THRESHOLD,
        help='of server CPU per message, half and twice of which slowed servers burn (default 0.02)')
    add('--noise', action='store_true', help="record this machine's noise first, for the thresholds")
    add('--noise-pairs', type=int, default=30, help='pairs to record for it (default 30)')
    add('--results', help="where this machine's noise is stored and looked for [default: results in the folder]")
    add('--only-judge', action='store_true', help='record nothing')
    add('--live', action='store_true', help='live duels instead of a recording')
    add('--duels', type=int, default=8, help='how many live duels (default 8)')
    add('--shares', action='store_true', help='latencies at several shares of the capacity instead of a recording')
    add('--bin', help='folder with sparring-server and sparring-loadgen [default: they are built]')
    args = parser.parse_args()
    if args.pairs < 1 or min(args.block) < 8:
        parser.error('--pairs is at least 1, --block at least 8: fewer pairs decide nothing')
    return args


def main():
    args = arguments()
    folder = os.path.abspath(args.folder or os.path.join(TARGET, 'proof'))
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, 'pairs.jsonl')
    duels = Duels(args)
    if args.noise:
        noise(duels, folder)
    if args.live:
        return live(duels, folder)
    if args.shares:
        return shares(duels, folder)
    if not args.only_judge:
        record(duels, folder, path)
    return judge(duels, folder, path)


try:
    sys.exit(main())
except KeyboardInterrupt:
    sys.exit(INTERRUPTED)
except subprocess.CalledProcessError as error:
    sys.exit(f'{error.cmd[0]} failed')
