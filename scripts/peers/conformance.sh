#!/usr/bin/env bash
# Runs the conformance battery against other people's echo servers and ours, and prints one Markdown table.
set -euo pipefail

websockets_version=17.4
ws_version=8.23.0
bun_version=1.4.5

usage() {
    cat <<'TEXT'
usage: scripts/peers/conformance.sh [SERVER]...

  SERVER  sparring, fastwebsockets, tokio-websockets, ws, bun, websockets; default: all of them

Installs what can be had below target/peers (crates, npm packages, a Python environment; nothing on the system is changed),
starts each echo server on a free loopback port, runs scripts/conformance.sh against it, stops it, and prints one Markdown
table: how many of the battery's cases are OK, lax, wrong, broken and skipped. What cannot be had is named as skipped. The
full tables and what the servers say are stored in target/peers/reports.

Needs cargo; npm and node for ws, npm for bun, python3 with venv for websockets. Some minutes; no install takes longer than 5
minutes and no server more than 3.

Exit codes: 0 a table, 1 our server is not all OK or has no build, 2 usage.
TEXT
}

servers=(sparring fastwebsockets tokio-websockets ws bun websockets)

for argument in "$@"; do
    case $argument in
    -h | --help)
        usage
        exit 0
        ;;
    esac
    if [[ " ${servers[*]} " != *" $argument "* ]]; then
        printf 'conformance.sh: no server is called "%s"; see scripts/peers/conformance.sh --help\n' "$argument" >&2
        exit 2
    fi
done
[ $# -eq 0 ] || servers=("$@")

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.."
export PATH="${CARGO_HOME:-${HOME:-/root}/.cargo}/bin:$PATH"
root=$PWD
installed=$root/target/peers
reports=$installed/reports
mkdir -p "$reports"

server_pid=
stop_server() {
    [ -n "$server_pid" ] || return 0
    kill "$server_pid" 2>/dev/null || true
    wait "$server_pid" 2>/dev/null || true
    server_pid=
}
trap stop_server EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

progress() {
    printf 'conformance.sh: %s\n' "$*" >&2
}

# Output of an installation is of interest only when it fails.
quietly() {
    timeout 300 "$@" >"$reports/install.log" 2>&1
}

# prepare_SERVER installs; it sets `version` and `command`, or `missing` to what cannot be had.

prepare_sparring() {
    local build
    build=$(cargo build --locked -p sparring-server --bin sparring-server --message-format json-render-diagnostics) || {
        progress "sparring-server has no build"
        exit 1
    }
    local program
    program=$(sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' <<<"$build" | tail -n 1)
    version=$("$program" --version | sed -n '1s/^[^ ]* \([^ ]*\).*/\1/p')
    command=("$program" --listen 127.0.0.1:0 --engine uring --threads 1 --log off)
}

prepare_member() {
    local crate=$1
    (cd scripts/peers && CARGO_TARGET_DIR=$installed/cargo quietly \
        cargo build --locked --profile judged -p "$crate-echo") || {
        missing="no build"
        return
    }
    version=$(sed -n "/^name = \"$crate\"\$/{n;s/version = \"\(.*\)\"/\1/p;}" scripts/peers/Cargo.lock)
    command=("$installed/cargo/judged/$crate-echo" 127.0.0.1:0)
}

prepare_fastwebsockets() {
    prepare_member fastwebsockets
}

prepare_tokio-websockets() {
    prepare_member tokio-websockets
}

# npm_package NAME VERSION: each in a folder of its own, so that one that cannot be had leaves the other alone.
npm_package() {
    if ! command -v npm >/dev/null; then
        missing="npm is not installed"
        return 1
    fi
    quietly npm install --prefix "$installed/$1" --no-audit --no-fund --no-save "$1@$2" || {
        missing="the npm package cannot be had"
        return 1
    }
}

prepare_ws() {
    if ! command -v node >/dev/null; then
        missing="Node.js is not installed"
        return
    fi
    npm_package ws "$ws_version" || return 0
    version="$ws_version on Node.js $(node --version | tr -d v)"
    command=(env NODE_PATH="$installed/ws/node_modules" node scripts/peers/ws-echo.cjs 127.0.0.1:0)
}

prepare_bun() {
    npm_package bun "$bun_version" || return 0
    local program=$installed/bun/node_modules/.bin/bun
    if ! version=$("$program" --version 2>/dev/null); then
        missing="the npm package holds no program for this machine"
        return
    fi
    command=("$program" scripts/peers/bun-echo.js 127.0.0.1:0)
}

prepare_websockets() {
    local python=$installed/python/bin/python
    [ -x "$python" ] || quietly python3 -m venv "$installed/python" || {
        missing="no python3 with venv"
        return
    }
    quietly "$python" -m pip install "websockets==$websockets_version" || {
        missing="the Python package cannot be had"
        return
    }
    version="$websockets_version on Python $("$python" --version | cut -d ' ' -f 2)"
    command=("$python" scripts/peers/websockets_echo.py 127.0.0.1:0)
}

# start_server NAME: sets `url`.
start_server() {
    local said=$reports/$1.log
    "${command[@]}" >"$said" 2>&1 &
    server_pid=$!
    local tries
    for ((tries = 0; tries < 100; tries++)); do
        url=$(grep -o -m 1 'ws://127\.0\.0\.1:[0-9]*' "$said" || true)
        [ -z "$url" ] || return 0
        kill -0 "$server_pid" 2>/dev/null || break
        sleep 0.1
    done
    stop_server
    return 1
}

row() {
    printf '| %s | %s | %s | %s | %s | %s | %s |\n' "$@"
}

# The words under which a reader knows them.
title() {
    case $1 in
    sparring) echo "sparring-server, uring" ;;
    fastwebsockets | tokio-websockets) echo "$1 (Rust)" ;;
    ws) echo "ws (npm)" ;;
    bun) echo "Bun" ;;
    websockets) echo "websockets (Python)" ;;
    esac
}

not_available() {
    progress "$1: skipped: $2"
    row "$(title "$1")" "skipped: $2" - - - - -
}

judge() {
    local name=$1 version="" missing="" url="" summary
    local command=()
    progress "$name: installing"
    "prepare_$name"
    if [ -n "$missing" ]; then
        not_available "$name" "$missing"
        return
    fi
    if ! start_server "$name"; then
        not_available "$name" "does not start"
        return
    fi
    progress "$name $version: the battery at $url/"
    # Not all OK is a finding here, no error.
    timeout 180 scripts/conformance.sh "$url/" >"$reports/$name.txt" || true
    stop_server
    summary=$(sed -n "s|^$url/: [0-9]* cases: ||p" "$reports/$name.txt" | tr -dc '0-9 \n')
    local counts=()
    read -ra counts <<<"$summary"
    if [ ${#counts[@]} -ne 5 ]; then
        not_available "$name" "the battery did not end in 3 minutes"
        return
    fi
    row "$(title "$name")" "$version" "${counts[@]}"
    if [ "$name" = sparring ] && [ $((counts[1] + counts[2] + counts[3])) -ne 0 ]; then
        ours_fine=no
    fi
}

ours_fine=yes
# So that the first server's time is not the battery's build.
quietly cargo test --locked -p sparring-server --test conformance --no-run || true
row server version OK lax wrong broken skipped
row --- --- ---: ---: ---: ---: ---:
for server in "${servers[@]}"; do
    judge "$server"
done
[ "$ours_fine" = yes ]
