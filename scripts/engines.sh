#!/usr/bin/env bash
# Sets the server's engines side by side in interleaved runs, stores the session and prints its table.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: scripts/engines.sh [--rounds N] [--scenarios A,B] [--arm NAME=COMMAND]... [--duration TIME] [--warmup TIME]
                          [--congestion NAME] [--tag NAME] [--results DIR]

Builds server and generator, then runs every scenario on every engine, one right after the other, in rounds whose order
rotates: 10 rounds take about 12 minutes, --rounds 2 a short trial. One generator drives all engines. Prints server CPU,
rate, latencies and enters per message, each engine's ratio to uring with its interval, and how the promised figures
fare. Ctrl-C stores what was measured until then.

  --arm NAME=COMMAND   another WebSocket echo server beside them; {port} in the command is where its port goes
  --results DIR        where to store; default: bench-results

Works from any directory and needs no root. Run it on an otherwise idle machine: `sparring-loadgen doctor` says what
would spoil it. Exit codes: 0 fine, 1 error, 2 usage, 13 a scenario has no valid run, 130 interrupted.
TEXT
}

usage_error() {
    printf 'engines.sh: %s; see scripts/engines.sh --help\n' "$1" >&2
    exit 2
}

results=""
passed_on=()
while [ $# -gt 0 ]; do
    case "$1" in
    -h | --help)
        usage
        exit 0
        ;;
    --rounds | --scenarios | --arm | --duration | --warmup | --congestion | --tag | --results)
        [ $# -ge 2 ] || usage_error "$1 needs a value"
        if [ "$1" = --results ]; then results=$(realpath -m -- "$2"); else passed_on+=("$1" "$2"); fi
        shift
        ;;
    *)
        usage_error "unknown argument: $1"
        ;;
    esac
    shift
done

root=$(cd -- "$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")/.." && pwd)
cd -- "$root"
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target}
export PATH="${CARGO_HOME:-${HOME:-/root}/.cargo}/bin:$PATH"
command -v cargo >/dev/null || {
    echo "engines.sh: there is no Rust toolchain: see https://rustup.rs" >&2
    exit 1
}
quiet=(--quiet)
[ -t 2 ] && quiet=()
echo "building (release; the first time this takes some minutes) ..."
cargo build "${quiet[@]}" --locked --release -p sparring-server -p sparring-loadgen

# Nothing where this is no git checkout. Results do not make a checkout dirty; without optional locks, because a refreshed
# index would make cargo build again.
checkout=()
if commit=$(git rev-parse HEAD 2>/dev/null); then
    checkout=(--commit "$commit")
    changes=$(git --no-optional-locks status --porcelain -- ':/' ':(exclude,top)bench-results')
    [ -z "$changes" ] || checkout+=(--dirty)
fi

programs=$CARGO_TARGET_DIR/release
exec "$programs/sparring-loadgen" suite engines --server "$programs/sparring-server" \
    --results "${results:-bench-results}" "${checkout[@]}" "${passed_on[@]}"
