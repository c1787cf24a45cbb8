#!/usr/bin/env python3
"""What 5,000 connections that stall in mid-frame cost the others: the p99 of a good load with them and without, in turn.

usage: stalled.py PROGRAMS [ENGINE [ROUNDS]]

PROGRAMS is the folder with both binaries, such as target/release. Expects a machine with nothing else to do.
"""
import socket
import statistics
import sys

import soak

CONNECTIONS = 5000
SECONDS = 4
PROMISE = 1.25


def stalled(port):
    """Connections with half a frame each. From several addresses, as one has not ports enough for all rounds."""
    streams = []
    for n in range(CONNECTIONS):
        stream = socket.create_connection(('127.0.0.1', port), 10, source_address=(f'127.0.0.{2 + n % 8}', 0))
        stream.sendall(soak.REQUEST)
        streams.append(stream)
    for stream in streams:
        answer = b''
        while not answer.endswith(b'\r\n\r\n'):
            answer += stream.recv(4096)
        # A text of 100 bytes, masked with zeros, of which 50 come.
        stream.sendall(b'\x81\xe4\0\0\0\0' + b'a' * 50)
    return streams


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    programs, engine = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else 'uring'
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 6
    limits = ['--message-timeout', '0', '--ping-interval', '0', '--log', 'off']
    server = soak.Server(programs, engine, limits)
    ratios = []
    for number in range(rounds):
        found = {}
        # The order changes from round to round, so that a drift of the machine favours neither.
        for beside in (False, True) if number % 2 else (True, False):
            streams = stalled(server.port) if beside else []
            status, errors, run = soak.result_of(soak.good_load(programs, server, SECONDS))
            for stream in streams:
                stream.close()
            if status or not server.is_empty():
                sys.exit(f'the load failed ({status}): {errors}')
            found[beside] = soak.p99(run)
        if None in found.values():
            print('a round with too few echoes for a p99', flush=True)
            continue
        ratios.append(found[True] / found[False])
        print(f'p99 {soak.in_ms(found[False])}, beside {CONNECTIONS} stalled {soak.in_ms(found[True])}: {ratios[-1]:.3f}', flush=True)
    server.end()
    if not ratios:
        sys.exit('no round is of use')
    median = statistics.median(ratios)
    print(f'{engine}: median {median:.3f} ({min(ratios):.3f} to {max(ratios):.3f}), promised at most {PROMISE}')
    sys.exit(median > PROMISE)


if __name__ == '__main__':
    main()
