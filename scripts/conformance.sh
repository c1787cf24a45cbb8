#!/usr/bin/env bash
# Builds the generator and runs its conformance battery against any WebSocket echo server.
set -euo pipefail

case ${1-} in
"" | -h | --help)
    cat <<'TEXT'
usage: scripts/conformance.sh URL [FLAGS OF sparring-loadgen conformance]

Builds sparring-loadgen and runs `sparring-loadgen conformance URL`: some 350 usual, unusual and hostile inputs, each with
what is expected and what is seen. `sparring-loadgen conformance --help` has the flags, the verdicts and the exit codes.
TEXT
    [ $# -gt 0 ] || exit 2
    exit 0
    ;;
esac

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
export PATH="${CARGO_HOME:-${HOME:-/root}/.cargo}/bin:$PATH"
target=${CARGO_TARGET_DIR:-$root/target}
echo "building the generator (some minutes the first time) ..." >&2
(cd -- "$root" && cargo build --quiet --locked --release -p sparring-loadgen)
exec "$target/release/sparring-loadgen" conformance "$@"
