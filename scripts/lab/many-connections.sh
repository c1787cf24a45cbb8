#!/usr/bin/env bash
# Opens very many connections from several generators to one server on this machine.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: scripts/lab/many-connections.sh [--connections N] [--shards N] [--workers N] [--open-rate N]
           [--rate N] [--idle SECONDS] [--seconds N] [--json FILE] [--programs DIR]

Starts sparring-server on loopback, and as many generators as there are shards, which share one load
(`run --shard`) and use a source address each of 127.0.0.1 upwards. They open all connections at a
given rate, keep them idle while the server pings each one (heartbeat), send messages through all of
them at a fixed rate, and close them. Merges the documents of the shards (`merge`), and prints

  - the merged table with the percentiles of all messages,
  - memory of server and generators for each connection, and the kernel's memory of its sockets,
  - CPU time of the server while all connections were idle,
  - connections of each worker, and those left at the end, which must be none.

An experiment cannot do this: it has one generator process, and a process may have as many
connections as the limit on open files allows, here the hard limit of `ulimit -Hn`. The server's
limit is one for each worker: its connections are direct descriptors of the worker's ring (uring).

  --connections N  number of connections (default 100000)
  --shards N       generator processes (default 8)
  --workers N      workers of the server (default 8)
  --open-rate N    connections opened a second (default 10000)
  --rate N         messages a second through all of them (default 20000)
  --idle SECONDS   time with all connections idle, at least 10 (default 60)
  --heartbeat TIME time after which the server pings a silent connection (default 20s)
  --seconds N      time with messages (default 30)
  --json FILE      the merged document (default: many-connections.json beside the build)
  --programs DIR   folder of sparring-server and sparring-loadgen (default: builds both)

The machine should be otherwise idle. All processes end with the script.
Exit codes: 0 valid, and all connections closed; 13 the run is INVALID; 1 error, 2 usage; 130, 143,
129 ended by SIGINT, SIGTERM, SIGHUP.
TEXT
}

misuse() {
    printf 'many-connections.sh: %s; see scripts/lab/many-connections.sh --help\n' "$1" >&2
    exit 2
}

fail() {
    printf 'many-connections.sh: %s\n' "$@" >&2
    exit 1
}

# samples NAME: the values of a metric of the server, those of several workers with a space between.
samples() {
    python3 - "${admin}metrics" "$1" <<'PYTHON'
import sys
import urllib.request

url, name = sys.argv[1:]
lines = urllib.request.urlopen(url, timeout=20).read().decode().splitlines()
print(*(line.rsplit(" ", 1)[1] for line in lines if line.startswith(name)))
PYTHON
}

# cpu_ns PID: CPU time of all threads of a process.
cpu_ns() {
    cat "/proc/$1/task/"*/schedstat | awk '{ sum += $1 } END { print sum }'
}

# resident PID...: memory of processes that is no file's, in bytes.
resident() {
    local pid
    for pid; do grep -s RssAnon "/proc/$pid/status" || true; done | awk '{ sum += $2 } END { print sum * 1024 }'
}

# Memory of the kernel's slabs and of its TCP buffers, in bytes.
kernel_memory() {
    awk -v page="$(getconf PAGESIZE)" '/^Slab:/ { sum += $2 * 1024 } /^TCP:/ { sum += $NF * page } END { print sum }' \
        /proc/meminfo /proc/net/sockstat
}

# each WHAT BEFORE AFTER
each() {
    awk -v what="$1" -v before="$2" -v after="$3" -v n="$connections" \
        'BEGIN { printf "%-22s %9.0f bytes for each connection (%.1f MB)\n", what, (after - before) / n, (after - before) / 1e6 }'
}

start_server() {
    # Nothing but the heartbeat is to happen on idle connections. Each shard asks for the time first.
    "$programs/sparring-server" --listen 127.0.0.1:0 --admin 127.0.0.1:0 --engine uring --threads "$workers" \
        --max-connections "$((connections + 4 * shards))" --ping-interval "$heartbeat" --idle-timeout 0 \
        --stats >"$folder/server" 2>&1 </dev/null &
    server=$!
    pids+=("$server")
    for _ in {1..400}; do
        ! grep -q '^listening on ' "$folder/server" || break
        kill -0 "$server" 2>/dev/null || break
        sleep 0.05
    done
    url=$(sed -n 's/^listening on \(ws:[^ ]*\) .*/\1/p' "$folder/server")
    admin=$(sed -n 's|^admin at \(http://[^ ]*/\):.*|\1|p' "$folder/server")
    if [ -z "$url" ] || [ -z "$admin" ]; then
        cat "$folder/server" >&2
        fail "the server does not listen"
    fi
    sed -n '/^listening on /p' "$folder/server"
}

# Starts a generator for each shard; they begin to send at one instant.
start_generators() {
    local shard start=$((SECONDS + opening + idle + 5))
    load_at=$start
    at=$(date -u -d "+$((opening + idle + 5)) seconds" +%Y-%m-%dT%H:%M:%SZ)
    for ((shard = 1; shard <= shards; shard++)); do
        "$programs/sparring-loadgen" run "$url" --shard "$shard/$shards" --start-at "$at" --quiet --tag many-connections \
            -c "$connections" --connect-rate "$open_rate" --connect-timeout 30s --timeout 20s \
            --source-ip "127.0.0.1-127.0.0.$shards" -R "$rate" -w 2s -d "${seconds}s" \
            --engine uring --json "$folder/$shard.json" >"$folder/$shard.log" 2>&1 </dev/null &
        generators+=($!)
        pids+=($!)
    done
    echo "$shards generators open $connections connections, $open_rate a second"
}

# Waits until all connections are open.
wait_for_connections() {
    local end=$((SECONDS + opening + 60)) pid
    until [ "$(samples 'sparring_connections{state="open"}')" = "$connections" ]; do
        for pid in "${generators[@]}"; do
            kill -0 "$pid" 2>/dev/null || { tail -n 3 "$folder"/*.log >&2 && fail "a generator has ended"; }
        done
        [ "$SECONDS" -lt "$end" ] || fail "$(samples 'sparring_connections{state="open"}') of $connections are open after $((opening + 60)) s"
        sleep 0.2
    done
    echo "all open; workers have $(samples 'sparring_worker_connections{') connections"
}

# Measures the server until shortly before the load.
measure_idle() {
    local spent bytes began now span
    sleep 2
    # Reading the metrics costs the server something, so it is not within the measured time.
    bytes=$(samples 'sparring_bytes_total{direction="in"}')
    began=$(date +%s%N) spent=$(cpu_ns "$server")
    span=$((load_at - SECONDS - 3))
    [ "$span" -ge 3 ] || fail "opening took too long: only $span s are left before the load; use a longer --idle"
    sleep "$span"
    spent=$(($(cpu_ns "$server") - spent)) now=$(date +%s%N)
    each "server" "$server_before" "$(resident "$server")"
    each "generators" 0 "$(resident "${generators[@]}")"
    each "kernel, both ends" "$kernel_before" "$(kernel_memory)"
    bytes=$(($(samples 'sparring_bytes_total{direction="in"}') - bytes))
    awk -v spent="$spent" -v span="$((now - began))" -v n="$connections" -v pongs="$bytes" 'BEGIN {
        printf "%-22s %9.2f %% of a processor, %.0f ns for each connection and second, over %.0f s;", "server, idle", 100 * spent / span, spent / n * 1e9 / span, span / 1e9
        printf " heartbeat: %d bytes of pongs\n", pongs
    }'
}

# Waits for the generators and merges what they have. Sets `status`.
finish() {
    local pid code shard documents=()
    for pid in "${generators[@]}"; do
        wait "$pid" && code=0 || code=$?
        [ "$code" = 0 ] || [ "$code" = 13 ] || { tail -n 3 "$folder"/*.log >&2 && fail "a generator ended with $code"; }
    done
    generators=()
    for ((shard = 1; shard <= shards; shard++)); do documents+=("$folder/$shard.json"); done
    "$programs/sparring-loadgen" merge "${documents[@]}" --json "$json" && status=0 || status=$?
    for _ in {1..100}; do
        left=$(samples 'sparring_connections{state="open"}')
        [ "$left" != 0 ] || break
        sleep 0.1
    done
    echo "connections at the end: $left"
    kill "$server" || true
    wait "$server" || true
    [ "$left" = 0 ] || fail "$left connections are still open"
    echo "the merged document: $json"
}

stop() {
    local status=$?
    trap '' INT TERM HUP
    # Those that have ended are no children any more that could be someone else's by now.
    kill "${pids[@]}" 2>/dev/null || true
    wait 2>/dev/null || true
    rm -rf -- "$folder"
    exit "$status"
}

connections=100000 shards=8 workers=8 open_rate=10000 rate=20000 idle=60 heartbeat=20s seconds=30 json="" programs=""
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help) usage && exit ;;
    --connections | --shards | --workers | --open-rate | --rate | --idle | --seconds | --heartbeat | --json | --programs)
        [ $# -gt 1 ] || misuse "$1 needs a value"
        name=${1#--}
        printf -v "${name//-/_}" %s "$2"
        shift
        ;;
    *) misuse "\`$1\` is not a known flag" ;;
    esac
    shift
done
for name in connections shards workers open_rate rate idle seconds; do
    [[ "${!name}" =~ ^[1-9][0-9]{0,7}$ ]] || misuse "\`${!name}\` is not a valid --${name//_/-}: expected a whole number above 0"
done
[ "$shards" -le 250 ] || misuse "--shards $shards is too large: expected at most 250, a source address each"
[ "$idle" -ge 10 ] || misuse "--idle $idle is too short: expected at least 10 seconds"
[ "$connections" -ge "$shards" ] || misuse "--connections $connections is too small: expected one for each shard"
limit=$(ulimit -Hn)
share=$((connections / shards + 200))
[ "$limit" = unlimited ] || [ "$share" -le "$limit" ] ||
    fail "a generator needs $share file descriptors, and \`ulimit -Hn\` is $limit: more --shards"
command -v python3 >/dev/null || fail "needs python3: apt-get install -y python3"

root=$(cd -- "$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
if [ -z "$programs" ]; then
    (cd -- "$root" && cargo build --quiet --locked --release -p sparring-server -p sparring-loadgen)
    programs=$target/release
fi
json=$(realpath -m -- "${json:-$target/many-connections.json}")
opening=$(((connections + open_rate - 1) / open_rate))
folder=$(mktemp -d) pids=() generators=() server="" status=1
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP
start_server
# What the start took and gave back is no cost of a connection.
sleep 2
server_before=$(resident "$server") kernel_before=$(kernel_memory)
start_generators
wait_for_connections
measure_idle
finish
# The status of the script.
(exit "$status")
