#!/usr/bin/env bash
# Exchanges compressed messages with other people's WebSocket clients and servers.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: scripts/deflate-peers.sh [--programs FOLDER] [ws|bun|websockets-py]...

  ws, bun            whose clients and servers (default: all)
  websockets-py      whose server
  --programs FOLDER  folder of a built sparring-server and sparring-loadgen (default: builds them,
                     in the profile ci)

Installs them below target/peers and changes nothing on the system. Sends messages from 0 bytes to
16 MiB, text and binary, to sparring-server with --deflate, and lets sparring-loadgen echo --deflate
return what their servers send. To the server of Python's websockets sparring-loadgen sends them.
Every message must come back as it was, and compressed.

Prints one line for each pair of settings, with what the handshake agreed on. Takes about a minute.
Exit codes: 0 all is as it should be or is named as skipped, 1 something is not, 2 usage.
TEXT
}

from=$PWD
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/peers/servers.sh
. scripts/peers/servers.sh

programs="" names=()
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help) usage && exit ;;
    --programs)
        programs=$(cd -- "$from" && realpath -- "${2:?--programs needs a folder}")
        shift
        ;;
    ws | bun | websockets-py) names+=("$1") ;;
    *)
        progress "unexpected \`$1\`; see scripts/deflate-peers.sh --help"
        exit 2
        ;;
    esac
    shift
done
[ ${#names[@]} -gt 0 ] || names=(ws bun websockets-py)
if [ -z "$programs" ]; then
    progress "building server and generator"
    cargo build --quiet --locked --profile ci -p sparring-server -p sparring-loadgen
    programs=$build_folder/ci
fi

# drive URL FLAG...: sends compressed messages, and checks what comes back.
drive() {
    local said=$reports/deflate.log
    "$programs/sparring-loadgen" run "$@" --allow-invalid --threads 1 >"$said" 2>&1 &&
        grep -q '^  echoes  *all as they were sent' "$said" && grep -q '^  errors  *none$' "$said" &&
        sed -nE "s/^  deflate  *(.*), [0-9.]+:1 there.*/${*:2}: \1/p" "$said" | grep . && return
    echo "wrong: ${*:2}: $said" && failed=1
}

# Random bytes grow by 6 % when they are compressed, and that server bounds frames by 16 MiB, too.
# drive_python: messages of all sizes, and fragments, to the server that `prepare` has made.
drive_python() {
    local deflate text shape
    command+=(deflate)
    start_server websockets-py || { echo "wrong: the server does not start" && failed=1 && return; }
    for deflate in on takeover; do
        for text in "--text-kind json" "--text-kind mixed" ""; do
            for shape in "--size 0:1,1:1,125:1,126:1,1000:1,65535:1,65536:1,1048576:1 -n 300" "--size 3000 --fragments 3 -n 300" \
                "--size 15000000 -c 1 -n 2"; do
                # shellcheck disable=SC2086
                drive "$url" --deflate "$deflate" $text $shape
            done
        done
    done
    stop_server
}

mapfile -t engines < <("$programs/sparring-server" --version --verbose |
    sed -nE 's/^engine (uring|epoll): available$/\1/p')
failed=0
for name in "${names[@]}"; do
    prepare "$name"
    if [ -n "$missing" ]; then
        echo "skipped: $name: $missing"
        continue
    fi
    if [ "$name" = websockets-py ]; then
        drive_python
        continue
    fi
    # The program of the server's command, node or Bun's own.
    "${command[0]}" scripts/peers/deflate.cjs \
        "$programs"/sparring-{server,loadgen} "${engines[@]}" || failed=1
done
exit "$failed"
