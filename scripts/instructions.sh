#!/usr/bin/env bash
# Counts the instructions that a message costs the server's own code, and stores them with the commit.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: scripts/instructions.sh [--history] [--results DIR] [--tag NAME]

Builds sparring-loadgen and the example hot_path of sparring-server (release), runs the latter under callgrind at two
lengths, and stores the difference for each message under bench-results: alone in its read, and 16 to a read. It takes
seconds once everything is built, and needs no quiet machine: the count is exact. Without valgrind it says so and ends
with 0, having stored nothing.

  --history       then show what was counted of every commit of this branch, as table and plot
  --results DIR   where to store; default: bench-results
  --tag NAME      a name for the session

Exit codes: 0 fine or skipped, 1 error, 2 usage.
TEXT
}

root=$(dirname -- "$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")")
cd "$root"
results=bench-results history=no tag=()
while (($#)); do
    case "$1" in
    -h | --help) usage; exit 0 ;;
    --history) history=yes ;;
    --results) results=${2:?--results needs a folder}; shift ;;
    --tag) tag=(--tag "${2:?--tag needs a name}"); shift ;;
    *) usage >&2; exit 2 ;;
    esac
    shift
done

if ! command -v valgrind > /dev/null; then
    echo "skipped: valgrind is not installed (apt-get install valgrind): no instructions were counted" >&2
    exit 0
fi
cargo build --release --locked --quiet -p sparring-loadgen
cargo build --release --locked --quiet -p sparring-server --example hot_path
target=${CARGO_TARGET_DIR:-target}/release
"$target/sparring-loadgen" count "$target/examples/hot_path" --results "$results" "${tag[@]}"
if [ "$history" = yes ]; then
    for scenario in hot-path-1 hot-path-16; do
        echo
        "$target/sparring-loadgen" history "$scenario" instructions --results "$results"
    done
fi
