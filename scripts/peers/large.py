#!/usr/bin/env python3
"""What large text costs a server: CPU per message of 64 KiB of mixed scripts, beside the echo servers of other libraries.

usage: scripts/peers/large.py [--rounds N] [--seconds S] [--arm NAME=COMMAND]... [--skip-build]

`raw TCP` is the limit: our epoll engine echoing as many bytes without a WebSocket. Every round runs all servers once, in another order each time, each freshly started on a processor of its own, under the load
of the scenario `large` (8 connections, one message outstanding on each). The figure is the median over the rounds with its
second-smallest and second-largest value; ratios are taken within a round. --arm adds a server, such as an older build:
--arm 'before=/path/to/sparring-server --listen 127.0.0.1:{port} --threads 1'.
"""
import argparse, json, os, statistics, subprocess, sys, tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TARGET = os.environ.get('CARGO_TARGET_DIR', os.path.join(ROOT, 'target'))
PEERS = os.path.join(TARGET, 'peers')
OTHERS = ['fastwebsockets', 'tokio-websockets', 'sockudo-ws']


def build():
    command = ['cargo', 'build', '--release', '--locked', '--quiet']
    subprocess.run([*command, '-p', 'sparring-server', '-p', 'sparring-loadgen'], check=True, cwd=ROOT)
    packages = [argument for name in OTHERS for argument in ('-p', f'{name}-echo')]
    subprocess.run([*command, '--manifest-path', os.path.join(ROOT, 'scripts/peers/Cargo.toml'), *packages],
                   check=True, env=dict(os.environ, CARGO_TARGET_DIR=PEERS))


def cpu_per_message(command, seconds, cpus):
    """Nanoseconds of the server's CPU, user and system, for one message."""
    scheme = 'tcp' if '--protocol tcp' in command else 'ws'
    kind = ['--text-kind', 'mixed'] if scheme == 'ws' else []
    with tempfile.NamedTemporaryFile(suffix='.json') as result:
        subprocess.run([os.path.join(TARGET, 'release', 'sparring-loadgen'), 'run', scheme + '://127.0.0.1:{port}',
                        '-c', '8', '-s', '64KiB', *kind, '-d', f'{seconds}s', '-w', '500ms', '--cpus', str(cpus[1]),
                        '--quiet', '--allow-invalid', '--spawn', command, '--spawn-cpus', str(cpus[0]), '--json', result.name],
                       check=True, stdout=subprocess.DEVNULL)
        run = json.load(open(result.name))['runs'][0]
    # With a fast server the generator is the limit; what a message costs the server is measured all the same.
    if any(not reason.startswith('the generator was the limit') for reason in run.get('invalid_reasons', [])):
        print(f"not valid: {command}: {run['invalid_reasons']}", file=sys.stderr)
        return None
    return run['server']['cpu_ns_per_message']


def summary(values, digits):
    """Median with the second-smallest and second-largest value, where there are enough."""
    ordered = sorted(values)
    low, high = (ordered[1], ordered[-2]) if len(ordered) > 3 else (ordered[0], ordered[-1])
    return f'{statistics.median(ordered):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})'


def main():
    parser = argparse.ArgumentParser(usage=__doc__.split('\n\n')[1].removeprefix('usage: '), description=__doc__.split('\n\n')[0])
    parser.add_argument('--rounds', type=int, default=10)
    parser.add_argument('--seconds', type=float, default=2)
    parser.add_argument('--arm', action='append', default=[], metavar='NAME=COMMAND')
    parser.add_argument('--skip-build', action='store_true', help='take the programs that are there')
    args = parser.parse_args()
    if args.rounds < 1 or any('=' not in arm for arm in args.arm):
        parser.error('--rounds is at least 1, and --arm is NAME=COMMAND')
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        sys.exit('needs two processors: one for the server, one for the generator')
    if not args.skip_build:
        build()
    ours = os.path.join(TARGET, 'release', 'sparring-server')
    ours += ' --listen 127.0.0.1:{port} --threads 1'
    arms = {'raw TCP': f'{ours} --engine epoll --protocol tcp', 'sparring-server': ours,
            'sparring-server, epoll': f'{ours} --engine epoll'}
    arms |= {name: os.path.join(PEERS, 'release', f'{name}-echo') + ' 127.0.0.1:{port}' for name in OTHERS}
    arms |= dict(arm.split('=', 1) for arm in args.arm)

    rounds = []
    for number in range(args.rounds):
        names = list(arms)
        turned = names[number % len(names):] + names[:number % len(names)]
        rounds.append({name: cpu_per_message(arms[name], args.seconds, cpus) for name in turned})
        print(f'round {number + 1} of {args.rounds}', file=sys.stderr)
    rounds = [measured for measured in rounds if None not in measured.values()]
    if not rounds:
        sys.exit('no round was valid')
    best = min(OTHERS, key=lambda name: statistics.median(measured[name] for measured in rounds))
    print(f'| server | CPU per message, us | of {best} |')
    print('|---|---:|---:|')
    for name in arms:
        costs = [measured[name] / 1000 for measured in rounds]
        ratios = [measured[name] / measured[best] for measured in rounds]
        print(f'| {name} | {summary(costs, 1)} | {summary(ratios, 3)} |')


if __name__ == '__main__':
    main()
