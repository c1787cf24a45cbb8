#!/usr/bin/env bash
# Runs the load generator against other people's echo servers, in all payload sizes.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: scripts/any-server.sh [--generator FILE] [--engine NAME] [SERVER]...

  SERVER            a server of scripts/peers.sh (default: ws bun websockets-py tungstenite)
  --generator FILE  a built sparring-loadgen (default: builds one, in the profile ci)
  --engine NAME     the generator's engine (default: auto)

Installs what can be had below target/peers and changes nothing on the system. Starts each server on a
free loopback port and measures it for a moment in payload sizes from 0 bytes to 16 MiB, as binary and
as text, and in a pipeline. Every run must be valid and without a fault. A panic, or a run that does
not end in 60 seconds, fails. A server that cannot be had is named as skipped.

Prints one line for each run. Takes about a minute and a half for each server.
Exit codes: 0 all runs were as they should be, 1 one was not, or an error, 2 usage.
TEXT
}

usage_error() {
    printf 'any-server.sh: %s; see scripts/any-server.sh --help\n' "$1" >&2
    exit 2
}

from=$PWD
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/peers/servers.sh
. scripts/peers/servers.sh

generator="" engine=auto servers=()
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help) usage && exit ;;
    --generator) generator=$(cd -- "$from" && realpath -- "${2:?--generator needs a file}") && shift ;;
    --engine) engine=${2:?--engine needs a name} && shift ;;
    *)
        [[ " ${every_server[*]} " = *" $1 "* ]] || usage_error "no server is called \`$1\`: expected one of ${every_server[*]}"
        servers+=("$1")
        ;;
    esac
    shift
done
[ ${#servers[@]} -gt 0 ] || servers=(ws bun websockets-py tungstenite)
if [ -z "$generator" ]; then
    progress "building the generator"
    cargo build --quiet --locked --profile ci -p sparring-loadgen
    generator=$build_folder/ci/sparring-loadgen
fi

runs=0 failed=0

# try NAME FLAGS...: a run against `url`, which must be valid and without a fault. A run whose only
# disturbance is that the generator did not get its processor is repeated, at most twice.
try() {
    local name=$1 said status attempt verdict=ok
    shift
    for attempt in 1 2 3; do
        status=0
        said=$(timeout --signal KILL 60 "$generator" run "$url/" --engine "$engine" -c 4 -w 50ms --settle 0 "$@" 2>&1) ||
            status=$?
        [ "$status" = 13 ] || break
        # A debug build says of everything that it is invalid.
        said=$(grep -v 'INVALID: .* debug build' <<<"$said")
        [[ "$said" == *INVALID:* ]] || { status=0 && break; }
        ! grep 'INVALID:' <<<"$said" | grep -qv 'INVALID: the generator did not run' || break
    done
    runs=$((runs + 1))
    if [ "$status" = 0 ]; then
        said=$(grep 'msg/s' <<<"$said")
    else
        verdict=FAIL failed=$((failed + 1))
    fi
    printf '%-4s %s, exit %d, attempt %d: %s\n%s\n' "$verdict" "$name" "$status" "$attempt" "$*" "$said"
}

# Sizes around every change of the frame header, and of buffers. The times are those in which a slow
# server on a busy machine echoes some messages.
for name in "${servers[@]}"; do
    progress "$name: installing"
    prepare "$name"
    [ -n "$missing" ] || start_server "$name" || missing="it does not start: $reports/$name.log"
    if [ -n "$missing" ]; then
        echo "skipped: $name: $missing"
        continue
    fi
    for kind in --binary --text; do
        for size in 0 1 125 126 127 1000 4096 65535 65536; do
            try "$name" -d 500ms -s "$size" "$kind"
        done
        try "$name" -d 2s -s 1MiB "$kind"
        try "$name" -d 10s -s 16MiB "$kind"
        try "$name" -d 500ms -s 100 "$kind" --pipeline 64
    done
    stop_server
done
echo "$runs runs, $failed were not as they should be"
[ "$failed" = 0 ]
