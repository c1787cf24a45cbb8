#!/usr/bin/env bash
# Runs the conformance battery against other people's echo servers and ours, and prints one Markdown table.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: scripts/peers/conformance.sh [SERVER]...

  SERVER  sparring, sparring-epoll, fastwebsockets, tungstenite, tungstenite-b, tungstenite-4k, tokio-websockets, sockudo,
          sockudo-b, wtx, ws, bun, websockets-py; default: all of them

Installs what can be had below target/peers (crates, npm packages, a Python environment; nothing on the system is changed),
starts each echo server on a free loopback port, runs `sparring-loadgen conformance` against it, stops it, and prints one Markdown
table: how many of the battery's cases are OK, lax, wrong, broken and skipped. What cannot be had is named as skipped. The
full tables and what the servers say are stored in target/peers/reports; what was judged before is not judged again.

Needs cargo; npm and node for ws, npm for bun, python3 with venv for websockets-py. Some minutes; no install takes longer than
10 minutes and no server more than 3.

Exit codes: 0 a table, 1 our server is not all OK or has no build, 2 usage.
TEXT
}

case ${1-} in
-h | --help)
    usage
    exit 0
    ;;
esac

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.."
# shellcheck source=scripts/peers/servers.sh
. scripts/peers/servers.sh

servers=("$@")
[ $# -gt 0 ] || servers=("${every_server[@]}")
for name in "${servers[@]}"; do
    if [[ " ${every_server[*]} " != *" $name "* ]]; then
        printf 'conformance.sh: no server is called "%s"; see scripts/peers/conformance.sh --help\n' "$name" >&2
        exit 2
    fi
done

row() {
    printf '| %s | %s | %s | %s | %s | %s | %s |\n' "$@"
}

# The words under which a reader knows them.
title() {
    case $1 in
    sparring) echo "sparring-server, uring" ;;
    sparring-epoll) echo "sparring-server, epoll" ;;
    tungstenite) echo "tokio-tungstenite (Rust)" ;;
    tungstenite-b) echo "tokio-tungstenite, batched" ;;
    tungstenite-4k) echo "tokio-tungstenite, batched, reads of 4 KiB" ;;
    sockudo) echo "sockudo-ws (Rust)" ;;
    sockudo-b) echo "sockudo-ws, batched" ;;
    fastwebsockets | tokio-websockets | wtx) echo "$1 (Rust)" ;;
    ws) echo "ws (npm)" ;;
    bun) echo "Bun" ;;
    websockets-py) echo "websockets (Python)" ;;
    esac
}

ours_fine=yes
scripts/bench.sh build >&2
row server version OK lax wrong broken skipped
row --- --- ---: ---: ---: ---: ---:
for name in "${servers[@]}"; do
    counts=()
    prepare "$name"
    [ -n "$missing" ] || judge "$name"
    [ ${#counts[@]} -eq 5 ] || missing=${missing:-no verdict}
    if [ -n "$missing" ]; then
        progress "$name: skipped: $missing"
        row "$(title "$name")" "skipped: ${missing%%:*}" - - - - -
        continue
    fi
    row "$(title "$name")" "$version" "${counts[@]}"
    if [[ "$name" = sparring* ]] && [ $((counts[1] + counts[2] + counts[3])) -ne 0 ]; then
        ours_fine=no
    fi
done
[ "$ours_fine" = yes ]
