# shellcheck shell=bash disable=SC2034
# Sourced by scripts that set servers beside each other (they use what is set here): how each of them is had, started, and
# judged by the conformance battery.
#
# Expects `set -euo pipefail` and the repository's root as the current folder.

ws_version=8.23.0
bufferutil_version=4.1.0
bun_version=1.4.5
websockets_version=17.4
picows_version=2.3.1
uvloop_version=0.23.0

build_folder=${CARGO_TARGET_DIR:-$PWD/target}
installed=$build_folder/peers
reports=$installed/reports
mkdir -p "$reports"
export PATH="${CARGO_HOME:-${HOME:-/root}/.cargo}/bin:$PATH"

# The first is what the others are set against.
every_server=(sparring sparring-epoll fastwebsockets tungstenite tungstenite-b tungstenite-4k tokio-websockets tokio-plain
    sockudo sockudo-b wtx ws bun websockets-py picows gorilla coder)
# Added with add_server: name -> command.
declare -A added_servers=()

# Nothing that anybody waits for takes longer.
install_seconds=600
battery_seconds=180

progress() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
}

# Output of an installation is of interest only when it fails.
quietly() {
    timeout "$install_seconds" "$@" >"$reports/install.log" 2>&1
}

# add_server NAME=COMMAND: somebody's own, {port} in the command where the port goes.
add_server() {
    [[ "$1" =~ ^[A-Za-z0-9._-]{1,16}=.*\{port\} ]] || return 1
    [[ " ${every_server[*]} " != *" ${1%%=*} "* ]] || return 1
    every_server+=("${1%%=*}")
    added_servers[${1%%=*}]=${1#*=}
}

# prepare NAME: installs or builds the server. Sets `command` (an array, {port} in it where the port goes) and `version`, or
# `missing` to what is not there and how it is had.
prepare() {
    version="" missing="" command=()
    case $1 in
    sparring) prepare_sparring uring ;;
    sparring-epoll) prepare_sparring epoll ;;
    fastwebsockets | tokio-websockets | wtx) prepare_crate "$1" "$1-echo" ;;
    tungstenite) prepare_crate tokio-tungstenite tokio-tungstenite-echo ;;
    tungstenite-b) prepare_crate tokio-tungstenite tokio-tungstenite-echo batched ;;
    tungstenite-4k) prepare_crate tokio-tungstenite tokio-tungstenite-echo batched-4k ;;
    tokio-plain) prepare_crate tokio tokio-plain-echo ;;
    sockudo) prepare_crate sockudo-ws sockudo-ws-echo ;;
    sockudo-b) prepare_crate sockudo-ws sockudo-ws-echo batched ;;
    ws) prepare_ws ;;
    bun) prepare_bun ;;
    websockets-py) prepare_python websockets_echo.py "$websockets_version" "websockets==$websockets_version" ;;
    picows) prepare_python picows_echo.py "$picows_version" "picows==$picows_version" "uvloop==$uvloop_version" ;;
    gorilla) prepare_go gorilla golang-github-gorilla-websocket-dev ;;
    coder) prepare_go coder golang-nhooyr-websocket-dev ;;
    # Its words, as a shell would split them and nothing else.
    *) mapfile -t command < <(xargs printf '%s\n' <<<"${added_servers[$1]}") ;;
    esac
}

prepare_sparring() {
    local program=$build_folder/release/sparring-server
    [ -x "$program" ] || {
        missing="no build: scripts/bench.sh build"
        return
    }
    version=$("$program" --version | sed -n '1s/^[^ ]* \([^ ]*\).*/\1/p')
    # Everything that matters named; nothing but the load is to happen on the connections.
    command=("$program" --listen "127.0.0.1:{port}" --threads 1 --engine "$1" --max-message 16MiB --stats --log off
        --ping-interval 0 --idle-timeout 0)
}

crates_are_built=no

# All echo servers at once, as fast as their authors know: for this processor, in one unit, and the least servers for
# experiments. Where that fails, what can be built.
build_crates() {
    [ "$crates_are_built" = no ] || return 0
    crates_are_built=yes
    local crates=(fastwebsockets-echo tokio-tungstenite-echo tokio-websockets-echo tokio-plain-echo sockudo-ws-echo wtx-echo
        epoll-echo tokio-uring-echo)
    local crate
    progress "building other people's servers in Rust (the first time this takes some minutes)"
    build_crate "${crates[@]}" && return
    for crate in "${crates[@]}"; do
        build_crate "$crate" || progress "$crate has no build: $reports/install.log"
    done
}

build_crate() {
    RUSTFLAGS="-C target-cpu=native" quietly cargo build --release --locked --manifest-path scripts/peers/Cargo.toml \
        --target-dir "$installed/cargo" "${@/#/--package=}"
}

# prepare_crate LIBRARY PROGRAM [ARGUMENT]
prepare_crate() {
    build_crates
    local program=$installed/cargo/release/$2
    [ -x "$program" ] || {
        missing="no build: cargo build --release --manifest-path scripts/peers/Cargo.toml -p $2"
        return
    }
    version=$(sed -n "/^name = \"$1\"\$/{n;s/version = \"\(.*\)\"/\1/p;}" scripts/peers/Cargo.lock | tail -n 1)
    command=("$program" "127.0.0.1:{port}" "${@:3}")
}

# npm_install FOLDER PACKAGE...: each server in a folder of its own, so that one that cannot be had leaves the other alone.
npm_install() {
    local folder=$1
    shift
    if ! command -v npm >/dev/null; then
        missing="npm is not installed: sudo apt-get install -y nodejs npm"
        return 1
    fi
    quietly npm install --prefix "$installed/$folder" --no-audit --no-fund --no-save "$@" || {
        missing="the npm package cannot be had: npm install $*"
        return 1
    }
}

prepare_ws() {
    if ! command -v node >/dev/null; then
        missing="Node.js is not installed: sudo apt-get install -y nodejs npm"
        return
    fi
    npm_install ws "ws@$ws_version" "bufferutil@$bufferutil_version" || return 0
    version="$ws_version (Node.js $(node --version | tr -d v))"
    # Not by env(1) in the command, which is stored: that is no place for folders of whoever measures.
    export NODE_PATH=$installed/ws/node_modules
    command=(node "$PWD/scripts/peers/ws-echo.cjs" "127.0.0.1:{port}")
}

prepare_bun() {
    npm_install bun "bun@$bun_version" || return 0
    local program=$installed/bun/node_modules/.bin/bun
    if ! version=$("$program" --version 2>/dev/null); then
        missing="the npm package holds no program for this machine: https://bun.sh"
        return
    fi
    command=("$program" "$PWD/scripts/peers/bun-echo.js" "127.0.0.1:{port}")
}

# prepare_python PROGRAM VERSION PACKAGE...
prepare_python() {
    local python=$installed/python/bin/python
    [ -x "$python" ] || quietly python3 -m venv "$installed/python" || {
        missing="no python3 with venv: sudo apt-get install -y python3-venv"
        return
    }
    quietly "$python" -m pip install "${@:3}" || {
        missing="the Python package cannot be had: pip install ${*:3}"
        return
    }
    version="$2 (Python $("$python" --version | cut -d ' ' -f 2))"
    command=("$python" "$PWD/scripts/peers/$1" "127.0.0.1:{port}")
}

# prepare_go NAME DEBIAN_PACKAGE: built with Debian's compiler from Debian's package of the library.
prepare_go() {
    local program=$installed/$1-echo
    if ! command -v go >/dev/null || ! version=$(dpkg-query -W -f '${Version}' "$2" 2>/dev/null); then
        missing="no Go compiler or library: sudo apt-get install -y golang-go $2"
        return
    fi
    GO111MODULE=off GOPATH=/usr/share/gocode quietly go build -o "$program" "scripts/peers/go/$1.go" || {
        missing="no build: $reports/install.log"
        return
    }
    version="${version%-*} ($(go version | cut -d ' ' -f 3))"
    command=("$program" "127.0.0.1:{port}")
}

server_pid=""
stop_server() {
    [ -n "$server_pid" ] || return 0
    kill "$server_pid" 2>/dev/null || true
    wait "$server_pid" 2>/dev/null || true
    server_pid=""
}
trap stop_server EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# start_server NAME: starts `command` on a free port of loopback, sets `url`.
start_server() {
    local said=$reports/$1.log port tries
    port=$(free_port)
    "${command[@]//\{port\}/$port}" >"$said" 2>&1 &
    server_pid=$!
    for ((tries = 0; tries < 100; tries++)); do
        sleep 0.1
        kill -0 "$server_pid" 2>/dev/null || break
        if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            url=ws://127.0.0.1:$port
            return 0
        fi
    done
    stop_server
    return 1
}

# Nobody answers there a moment before the server is started.
free_port() {
    local port
    for ((;;)); do
        port=$((20000 + RANDOM % 10000))
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
    done
    echo "$port"
}

# judge NAME: runs the battery against the server that `prepare` has made; sets `counts` (OK LAX WRONG BROKEN SKIPPED), to
# nothing where that fails. What was judged before, by the same battery, is not judged again.
judge() {
    local name=$1 key word judged=$reports/$1.counts
    counts=()
    key=$({
        printf '%s\n' "$version" "${command[@]}"
        cat loadgen/src/conformance/*.rs
        for word in "${command[@]}"; do
            [ ! -f "$word" ] || cat "$word"
        done
    } | sha256sum | cut -c 1-16)
    if [ -f "$judged" ] && [ "$(cut -d ' ' -f 1 "$judged")" = "$key" ]; then
        read -r _ counts[{0..4}] <"$judged"
        return 0
    fi
    if ! start_server "$name"; then
        progress "$name does not start: $reports/$name.log"
        return 0
    fi
    progress "$name $version: the battery"
    # Not all OK is a finding here, no error.
    COLUMNS=200 timeout "$battery_seconds" "$build_folder/release/sparring-loadgen" conformance "$url/" \
        >"$reports/$name.txt" || true
    stop_server
    read -ra counts <<<"$(sed -n "s|^$url/: [0-9]* cases: ||p" "$reports/$name.txt" | tr -dc '0-9 \n')"
    if [ ${#counts[@]} -ne 5 ]; then
        counts=()
        progress "$name: the battery did not end in $battery_seconds s: $reports/$name.txt"
        return 0
    fi
    echo "$key ${counts[*]}" >"$judged"
}
