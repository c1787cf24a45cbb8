#!/usr/bin/env bash
# Sets the server's engines side by side in interleaved runs, stores the session and prints its table.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: scripts/engines.sh [--rounds N] [--scenarios A,B] [--arm NAME=COMMAND]... [--duration TIME] [--warmup TIME]
                          [--congestion NAME] [--tag NAME] [--results DIR] [--resume FILE]

Builds server and generator, then runs every scenario on every engine, one right after the other, in rounds whose order
rotates: 10 rounds take about 10 minutes, --rounds 2 a short trial. One generator drives all engines. Prints server CPU,
rate, latencies and enters per message, each engine's ratio to uring with its interval, and how the promised figures
fare. Ctrl-C stores what was measured until then.

  --arm NAME=COMMAND   another WebSocket echo server beside them; {port} in the command is where its port goes
  --results DIR        where to store; default: bench-results
  --resume FILE        resume an interrupted session of the same flags

Works from any directory and needs no root. Run it on an otherwise idle machine: `sparring-loadgen doctor` says what
would invalidate it. A run that failed, is invalid or was disturbed is repeated; an engine that fails in every attempt is
left out of the scenario and named, and the others go on. Exit codes as bench.sh.
TEXT
}

case "${1:-}" in
-h | --help)
    usage
    exit 0
    ;;
esac
# It builds and checks what is needed, and is the same but for the experiment.
exec "$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")/bench.sh" engines "$@"
