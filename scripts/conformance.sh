#!/usr/bin/env bash
# Runs the conformance battery against any WebSocket echo server and prints a table.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: scripts/conformance.sh URL

  URL   a WebSocket echo server: ws://HOST:PORT/PATH, or wss://, whatever certificate it shows

Sends some 350 usual, unusual and hostile inputs, each with a bystander connection that must go on echoing, and prints for
each: id, what is sent, what is expected, what is seen, the verdict, and the section of the RFC. A last line counts.

  OK        as the RFC asks
  lax       tolerated, dropped without a status or a close code, or refused with another status than the most exact one
  wrong     another answer than the right one
  broken    the server ended, or the bystander was hurt
  skipped   needs limits that only flags of sparring-server set

A server that does not answer has 3 seconds for each case. The cases that flood send 64 MiB. Point it only at servers
that are yours.

Exit codes: 0 all OK, 1 not all OK or no build, 2 usage or nothing answers.
TEXT
}

case ${1-} in
-h | --help)
    usage
    exit 0
    ;;
ws://?* | wss://?*) ;;
*)
    printf 'conformance.sh: a URL is needed, as in ws://127.0.0.1:9001/; see scripts/conformance.sh --help\n' >&2
    exit 2
    ;;
esac
if [ $# -ne 1 ]; then
    printf 'conformance.sh: one URL and nothing else; see scripts/conformance.sh --help\n' >&2
    exit 2
fi

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
export PATH="${CARGO_HOME:-${HOME:-/root}/.cargo}/bin:$PATH"

echo "building the battery (about two minutes the first time) ..." >&2
build=$(cargo test --locked -p sparring-server --test conformance --no-run 2>&1) || {
    printf '%s\n' "$build" >&2
    exit 1
}
program=$(sed -n 's/^ *Executable .*(\(.*\))$/\1/p' <<<"$build")

# The test's own process prints the table and ends with the exit code; the test runner's line above it is not part of it.
SPARRING_CONFORMANCE_URL=$1 "$program" --exact any_server --nocapture | sed '/^$/{N;/\nrunning 1 test$/d;}'
