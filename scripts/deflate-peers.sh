#!/usr/bin/env bash
# Exchanges compressed messages with other people's WebSocket clients and servers.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: scripts/deflate-peers.sh [--programs FOLDER] [ws|bun]...

  ws, bun            whose clients and servers (default: both)
  --programs FOLDER  folder of a built sparring-server and sparring-loadgen (default: builds them,
                     in the profile ci)

Installs both below target/peers and changes nothing on the system. Sends messages from 0 bytes to
16 MiB, text and binary, to sparring-server with --deflate, and lets sparring-loadgen echo --deflate
return what their servers send. Every message must come back as it was, and compressed.

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
    ws | bun) names+=("$1") ;;
    *)
        progress "unexpected \`$1\`; see scripts/deflate-peers.sh --help"
        exit 2
        ;;
    esac
    shift
done
[ ${#names[@]} -gt 0 ] || names=(ws bun)
if [ -z "$programs" ]; then
    progress "building server and generator"
    cargo build --quiet --locked --profile ci -p sparring-server -p sparring-loadgen
    programs=$build_folder/ci
fi

mapfile -t engines < <("$programs/sparring-server" --version --verbose |
    sed -nE 's/^engine (uring|epoll): available$/\1/p')
failed=0
for name in "${names[@]}"; do
    prepare "$name"
    if [ -n "$missing" ]; then
        echo "skipped: $name: $missing"
        continue
    fi
    # The program of the server's command, node or Bun's own.
    "${command[0]}" scripts/peers/deflate.cjs \
        "$programs"/sparring-{server,loadgen} "${engines[@]}" || failed=1
done
exit "$failed"
