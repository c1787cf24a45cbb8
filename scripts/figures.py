#!/usr/bin/env python3
"""Measures the figures that ARCHITECTURE.md promises, in interleaved rounds, and prints each with its promise.

usage: scripts/figures.py [--rounds N] [--seconds S] [--skip-build] [--only all|tls]

--only tls measures what TLS costs and nothing else: wss beside ws.

Every round runs all measurements once, forwards and backwards in turn, each against a freshly started server, so that what
the machine does meanwhile falls on all of them alike. A figure is the median over the rounds with the interval of its
second-smallest to second-largest value, which holds the true median with 97.9 % for 10 rounds. Ratios are taken within a
round. Needs python3; strace and valgrind are used where they are installed, and said to be missing where not.
"""
import argparse, json, os, re, shutil, signal, statistics, subprocess, sys, tempfile, time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TARGET = os.environ.get('CARGO_TARGET_DIR', os.path.join(ROOT, 'target'))
SERVER = os.path.join(TARGET, 'release', 'sparring-server')
LOADGEN = os.path.join(TARGET, 'release', 'sparring-loadgen')
HOT_PATH = os.path.join(TARGET, 'release', 'examples', 'hot_path')
BARE = os.path.join(TARGET, 'peers', 'release', 'bare-load')


def build():
    run = lambda *a, **k: subprocess.run(a, check=True, cwd=ROOT, **k)
    run('cargo', 'build', '--release', '--locked', '--quiet', '-p', 'sparring-server', '-p', 'sparring-loadgen')
    run('cargo', 'build', '--release', '--locked', '--quiet', '-p', 'sparring-server', '--example', 'hot_path')
    env = dict(os.environ, CARGO_TARGET_DIR=os.path.join(TARGET, 'peers'))
    run('cargo', 'build', '--release', '--locked', '--quiet', '--manifest-path', 'scripts/peers/Cargo.toml', env=env)


def processors():
    """One for the server and one for the generator, on different cores where there are two."""
    allowed = sorted(os.sched_getaffinity(0))
    core = lambda c: open(f'/sys/devices/system/cpu/cpu{c}/topology/thread_siblings_list').read().strip()
    others = [c for c in allowed if core(c) != core(allowed[0])] or allowed[1:] or allowed
    return allowed[0], others[0]


class Server:
    """A sparring-server on a processor of its own."""

    def __init__(self, cpu, *flags, wrapper=(), scheme='ws'):
        self.out = tempfile.TemporaryFile('w+')
        command = [*wrapper, SERVER, '--listen', f'{scheme}://127.0.0.1:0', '--threads', '1', '--cpus', str(cpu), '--stats', *flags]
        # Huge pages would come in steps of 2 MiB and say nothing about a connection.
        environment = dict(os.environ, MIMALLOC_ALLOW_THP='0')
        self.process = subprocess.Popen(command, stdout=self.out, stderr=subprocess.PIPE, text=True, env=environment)
        for _ in range(500):
            self.out.seek(0)
            found = re.search(r'listening on \w+://([0-9.:]+)', self.out.read())
            if found:
                self.address = found.group(1)
                return
            if self.process.poll() is not None:
                sys.exit(f'the server ended: {self.process.stderr.read()}')
            time.sleep(0.02)
        sys.exit('the server does not listen')

    def stop(self, pid=None):
        os.kill(pid or self.process.pid, signal.SIGTERM)
        self.process.wait(20)
        self.out.seek(0)
        return json.loads([line for line in self.out if line.startswith('{')][-1])


def measure(name, scheme, pipeline, size, seconds, cpus, *flags):
    """One run of sparring-loadgen with a server of its own; the stored run."""
    flags = flags if '-c' in flags else ('-c', '64', *flags)
    protocol = {'ws': [], 'wss': ['--tls-self-signed'], 'tcp': ['--protocol', 'tcp']}[scheme]
    flags = (*flags, '--insecure') if scheme == 'wss' else flags
    server = [SERVER, '--listen', scheme + '://127.0.0.1:{port}', '--threads', '1', '--cpus', str(cpus[0]), '--engine', 'uring', '--stats', *protocol]
    with tempfile.NamedTemporaryFile(suffix='.json') as result:
        subprocess.run([LOADGEN, 'run', scheme + '://127.0.0.1:{port}/', '--pipeline', str(pipeline), '-s', str(size),
                        '-d', f'{seconds}s', '-w', '1s', '--engine', 'uring', '--cpus', str(cpus[1]), '--quiet', '--allow-invalid', *flags,
                        '--spawn', ' '.join(server), '--spawn-cpus', str(cpus[0]), '--json', result.name],
                       check=True, stdout=subprocess.DEVNULL)
        run = json.load(open(result.name))['runs'][0]
    if not run['valid']:
        print(f"{name}: INVALID: {'; '.join(run['invalid_reasons'])}", file=sys.stderr)
    return run


def bare(pipeline, seconds, cpus):
    """CPU nanoseconds per message of the bare epoll loop."""
    server = Server(cpus[0], '--engine', 'uring')
    text = subprocess.run([BARE, server.address, '64', str(pipeline), '32', str(seconds), str(cpus[1])],
                          check=True, capture_output=True, text=True).stdout
    server.stop()
    return json.loads(text)['cpu_ns_per_message']


def interval(values):
    ordered = sorted(values)
    low, high = (ordered[1], ordered[-2]) if len(ordered) >= 6 else (ordered[0], ordered[-1])
    return statistics.median(ordered), low, high


def show(what, values, unit, promise, scale=1.0):
    middle, low, high = interval([v * scale for v in values])
    print(f'{what:58} {middle:8.3f} ({low:.3f} to {high:.3f}) {unit:6} promised: {promise}', flush=True)


def ratios(what, over, under, promise):
    show(what, [a / b for a, b in zip(over, under)], 'times', promise)


def interleaved(jobs, count):
    """What each job yields, in `count` rounds."""
    seen = {name: [] for name in jobs}
    for n in range(count):
        for name in list(jobs) if n % 2 == 0 else list(jobs)[::-1]:
            seen[name].append(jobs[name]())
        print(f'round {n + 1} of {count}', file=sys.stderr)
    return seen


def tls(count, seconds, cpus):
    """What TLS costs the server: the same load over wss and ws, and the memory of a connection that does nothing."""
    large = ('-c', '8', '--text')
    jobs = {(scheme, load): lambda scheme=scheme, shape=shape: measure(' '.join((scheme, load)), scheme, *shape[:2], seconds, cpus, *shape[2:])
            for load, shape in {'echo': (1, 32), 'pipeline': (16, 32), 'large': (1, 65536, *large), 'connect': (1, 32, '--scenario', 'connect')}.items()
            for scheme in ('ws', 'wss')}
    seen = interleaved(jobs, count)
    cost = lambda scheme, load: [run['server']['cpu_ns_per_message'] for run in seen[scheme, load]]
    for load, what, promise in (('echo', '64 x 1 of 32 bytes', 'at most 1.6'), ('pipeline', '64 x 16 of 32 bytes', 'reported'),
                                ('large', '8 x 1 of 64 KiB of text', 'at most 2.5')):
        ratios(f'server CPU per message, wss / ws, {what}', cost('wss', load), cost('ws', load), promise)
        for scheme in ('ws', 'wss'):
            show(f'server CPU per message, {scheme}, {what}', cost(scheme, load), 'us', 'reported', 1e-3)
    for scheme in ('ws', 'wss'):
        show(f'server CPU for a connection that asks once, {scheme}', cost(scheme, 'connect'), 'us', 'reported', 1e-3)
    show('TLS handshake, connections that ask once, p50', [run['latency_ns']['tls_handshake']['p50'] for run in seen['wss', 'connect']], 'us', 'reported', 1e-3)
    idle_tls(cpus)


def idle_tls(cpus):
    """Anonymous memory of the server for each idle connection: the slope between 500 and 5,000."""
    for scheme, promise in (('ws', 'at most 256'), ('wss', 'at most 12,288')):
        at = {}
        for connections in (500, 5000):
            server = Server(cpus[0], '--engine', 'uring', '--ping-interval', '0', *(['--tls-self-signed'] if scheme == 'wss' else []), scheme=scheme)
            process = subprocess.Popen([LOADGEN, 'run', f'{scheme}://{server.address}/', '-c', '1', '--idle', str(connections), '-d', '60s', '-w', '0', '-R', '10',
                                        '--engine', 'uring', '--cpus', str(cpus[1]), '--quiet', *(['--insecure'] if scheme == 'wss' else [])],
                                       stderr=subprocess.DEVNULL)
            at[connections] = settled(server.process.pid)
            process.send_signal(signal.SIGINT)
            process.wait(20)
            accepted = server.stop()['accepted']
            if accepted <= connections:
                sys.exit(f'only {accepted} of {connections} connections were open in time')
        print(f'server memory per idle connection, {scheme}: {(at[5000] - at[500]) / 4500:.0f} bytes; promised: {promise}')


def settled(pid):
    """Anonymous memory of a process, bytes, once it has not changed for two seconds; all of its connections are open then."""
    seen = []
    while len(seen) < 5 or len(set(seen[-5:])) > 1:
        time.sleep(0.5)
        seen.append(int(re.search(r'RssAnon:\s+(\d+)', open(f'/proc/{pid}/status').read()).group(1)) * 1024)
    return seen[-1]


def rounds(count, seconds, cpus):
    jobs = {
        'echo': lambda: measure('echo', 'ws', 1, 32, seconds, cpus),
        'tcp': lambda: measure('tcp', 'tcp', 1, 38, seconds, cpus),
        'pipeline': lambda: measure('pipeline', 'ws', 16, 32, seconds, cpus),
        'tcp-pipeline': lambda: measure('tcp-pipeline', 'tcp', 16, 38, seconds, cpus),
        'tcp-unchecked': lambda: measure('tcp-unchecked', 'tcp', 1, 38, seconds, cpus, '--no-verify'),
        'tcp-pipeline-unchecked': lambda: measure('tcp-pipeline-unchecked', 'tcp', 16, 38, seconds, cpus, '--no-verify'),
        'rate-spin': lambda: measure('rate-spin', 'ws', 1, 32, seconds, cpus, '-R', '80k', '--wait', 'spin'),
        'rate-sleep': lambda: measure('rate-sleep', 'ws', 1, 32, seconds, cpus, '-R', '80k', '--wait', 'sleep'),
        'slow-sleep': lambda: measure('slow-sleep', 'ws', 1, 32, seconds, cpus, '-R', '5k', '--wait', 'sleep'),
        'bare': lambda: bare(1, seconds, cpus),
        'bare-pipeline': lambda: bare(16, seconds, cpus),
    }
    return interleaved(jobs, count)


def report_rounds(seen):
    server = lambda name, key='cpu_ns_per_message': [r['server'][key] for r in seen[name]]
    client = lambda name: [r['client']['cpu_ns_per_message'] for r in seen[name]]
    show('server user time per message, 64 x 1', server('echo', 'user_ns_per_message'), 'us', 'at most 0.25', 1e-3)
    show('server user time per message, 64 x 16', server('pipeline', 'user_ns_per_message'), 'us', 'at most 0.03', 1e-3)
    show('server CPU per message, echo', server('echo'), 'us', 'reported', 1e-3)
    show('server CPU per message, pipeline', server('pipeline'), 'us', 'reported', 1e-3)
    ratios('server CPU, echo / tcp', server('echo'), server('tcp'), 'expected within 1.03')
    ratios('server CPU, pipeline / tcp-pipeline', server('pipeline'), server('tcp-pipeline'), 'expected within 1.10')
    counters = [r['server']['counters'] for r in seen['echo']]
    show('server enters per message, 64 x 1', [c['enters'] / c['messages'] for c in counters], '', 'at most 0.1')
    ratios('generator CPU / server CPU, 64 x 1', client('echo'), server('echo'), 'at most 1')
    ratios('generator CPU / server CPU, 64 x 16', client('pipeline'), server('pipeline'), 'at most 1')
    ratios('generator CPU / bare epoll loop, 64 x 1', client('echo'), seen['bare'], 'at most 1')
    ratios('generator CPU / bare epoll loop, 64 x 16', client('pipeline'), seen['bare-pipeline'], 'at most 1')
    ratios('generator CPU, echo / tcp unchecked, 64 x 1', client('echo'), client('tcp-unchecked'), 'at most 1.10')
    ratios('generator CPU, pipeline / tcp unchecked, 64 x 16', client('pipeline'), client('tcp-pipeline-unchecked'), 'at most 1.10')
    lag = lambda name: [r['latency_ns']['lag']['p99'] for r in seen[name]]
    show('lag p99 at 80,000/s on 64 connections, spinning', lag('rate-spin'), 'us', 'below 50', 1e-3)
    show('lag p99 at 80,000/s on 64 connections, sleeping', lag('rate-sleep'), 'us', 'below the timer error + 50', 1e-3)
    show('lag p50 at 5,000/s, sleeping: the timer error', [r['latency_ns']['lag']['p50'] for r in seen['slow-sleep']], 'us', 'reported', 1e-3)
    show('generator utilisation, echo', [r['client']['cpu_utilisation'][0] * 100 for r in seen['echo']], '%', 'stored with every run')


def opening(cpus):
    """15,000 connections opened and handshaken at 10,000 a second."""
    run = measure('opening', 'ws', 1, 32, 1, cpus, '-c', '15000', '--connect-rate', '10k', '-R', '1k')
    latency = run['latency_ns']['connect']
    print(f"15,000 connections at 10,000/s: open after {run['phases']['connect'] / 1e9:.3f} s (promised: about 1.5), "
          f"{latency['count']} samples, p50 {latency.get('p50', 0) / 1e3:.0f} us, p99 {latency.get('p99', 0) / 1e3:.0f} us, errors {sum(run.get('errors', {}).values())}")


def memory(cpus):
    """Anonymous memory of the generator for each connection at depth 1: the slope between 1,000 and 10,000."""
    def anonymous(connections):
        server = Server(cpus[0], '--engine', 'uring')
        # Huge pages would come in steps of 2 MiB and say nothing about a connection.
        process = subprocess.Popen([LOADGEN, 'run', f'ws://{server.address}/', '-c', str(connections), '-d', '30s', '-w', '0', '-R', '20k',
                                    '--engine', 'uring', '--cpus', str(cpus[1]), '--quiet'],
                                   env=dict(os.environ, MIMALLOC_ALLOW_THP='0'), stderr=subprocess.DEVNULL)
        time.sleep(4)
        status = open(f'/proc/{process.pid}/status').read()
        process.send_signal(signal.SIGINT)
        process.wait(20)
        server.stop()
        return int(re.search(r'RssAnon:\s+(\d+)', status).group(1)) * 1024

    few, many = anonymous(1000), anonymous(10000)
    print(f'generator memory per connection at depth 1: {(many - few) / 9000:.0f} bytes; promised: at most 1,024')


def system_calls(cpus):
    """Calls other than io_uring_enter, per message, under load."""
    if not shutil.which('strace'):
        print('system calls: not measured, strace is not installed')
        return
    with tempfile.NamedTemporaryFile('r') as log:
        server = Server(cpus[0], '--engine', 'uring', wrapper=('strace', '-f', '-o', log.name))
        child = int(open(f'/proc/{server.process.pid}/task/{server.process.pid}/children').read().split()[0])
        subprocess.run([BARE, server.address, '64', '1', '32', '2', str(cpus[1])], check=True, stdout=subprocess.DEVNULL)
        before = sum(1 for _ in log)
        messages = server.stop(child)['messages']
        log.seek(0)
        calls = [re.match(r'\d+ +(\w+)\(', line) for line in log]
        names = [c.group(1) for c in calls[:before] if c]
    first = names.index('io_uring_enter')
    other = [n for n in names[first:] if n != 'io_uring_enter']
    print(f'system calls from the first enter to the last message: {len(names) - first - len(other)} io_uring_enter and {len(other)} others '
          f'({", ".join(sorted(set(other))) or "none"}) for {messages} messages; promised: no call per message but the enter')


def instructions():
    """Instructions per message of the server's own code."""
    if not shutil.which('valgrind'):
        print('instructions: not counted, valgrind is not installed')
        return
    with tempfile.TemporaryDirectory() as folder:
        said = subprocess.run([LOADGEN, 'count', HOT_PATH, '--results', folder], check=True, capture_output=True, text=True).stdout
    for line in said.splitlines():
        if ' instructions for a message' in line:
            print(f"{' '.join(line.split())} (the read's copy included; engine and kernel not)")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=10)
    parser.add_argument('--seconds', type=int, default=3)
    parser.add_argument('--only', choices=('all', 'tls'), default='all')
    parser.add_argument('--skip-build', action='store_true')
    args = parser.parse_args()
    if not args.skip_build:
        build()
    cpus = processors()
    print(f'{args.rounds} interleaved rounds of {args.seconds} s; server on processor {cpus[0]}, generator on {cpus[1]}')
    tls(args.rounds, args.seconds, cpus)
    if args.only == 'tls':
        return
    report_rounds(rounds(args.rounds, args.seconds, cpus))
    opening(cpus)
    memory(cpus)
    system_calls(cpus)
    instructions()


main()
