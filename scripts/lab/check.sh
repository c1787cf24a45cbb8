#!/usr/bin/env bash
# Checks that the network of two-hosts.sh behaves as a network.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: scripts/lab/check.sh [--programs DIR]

Runs scripts/lab/two-hosts.sh and checks, by the documents of its runs:
  - A delay of 5 ms is 10 ms +- 0.3 in the median round trip, and nothing in the lag, in the
    server's CPU time, in the echoes or in the validity.
  - A loss of 1 % is seen in the longest latency, and leaves the run valid.
  - A link that goes down ends the run with an error, within --timeout.
  - SIGTERM and SIGKILL leave neither a namespace nor a process behind.
Runs on a busy machine may be INVALID, or late. Then a check is repeated, at most four times.

  --programs DIR  folder of sparring-server and sparring-loadgen (default: builds both)

Needs root, iproute2, python3, and network namespaces. Where they are missing, the script says so
and ends with 0, or with 1 where SPARRING_REQUIRE_LAB=1.
Exit codes: 0 fine or skipped, 1 a check failed, 2 usage.
TEXT
}

attempts=5

fail() {
    printf 'check.sh: %s\n' "$@" >&2
    exit 1
}

skip() {
    [ "${SPARRING_REQUIRE_LAB:-0}" != 1 ] || fail "$1" "SPARRING_REQUIRE_LAB=1 does not let that pass"
    echo "skipped: $1"
    exit 0
}

# lab NAME FLAGS...: a run on two hosts, with its document and what it says in files. Sets `status`.
lab() {
    local name=$1
    shift
    timeout 60 ${urgent[@]+"${urgent[@]}"} "$here/two-hosts.sh" --programs "$programs" "$@" >"$folder/$name.json" 2>"$folder/$name.log" && status=0 || status=$?
}

# judge CHECK NAME...: prints what is seen in the documents, and ends with 1 where that is wrong.
judge() {
    python3 -B - "$folder" "$@" <<'PYTHON'
import json
import re
import sys

folder, check, *names = sys.argv[1:]


def read(name):
    """Returns the run of a document, and the server's CPU time for a message in microseconds."""
    with open(f"{folder}/{name}.json", encoding="utf-8") as document:
        run = json.load(document)["runs"][0]
    with open(f"{folder}/{name}.log", encoding="utf-8") as log:
        spent = re.search(r"messages, ([0-9.]+) us each", log.read())
    return run, float(spent[1]) if spent else None


def complaints(run):
    """Returns the reasons why a run is invalid: that of a debug build is not the network's."""
    kinds = run.get("invalid_kinds", [])
    return [why for kind, why in zip(kinds, run.get("invalid_reasons", [])) if kind != "debug-generator"]


def service(run):
    return run["latency_ns"]["uncorrected"]["p50"] / 1e6


def lag(run):
    return run["latency_ns"]["lag"]["p50"] / 1e6


def delay():
    (near, near_cpu), (far, far_cpu) = map(read, names)
    added, late = service(far) - service(near), lag(far) - lag(near)
    yield abs(added - 10) <= 0.3, f"5 ms each way: round trip {service(near):.2f} ms to {service(far):.2f} ms"
    yield abs(late) <= 0.3, f"lag {lag(near):.3f} ms to {lag(far):.3f} ms"
    share = far_cpu / near_cpu
    yield 1 / 1.5 < share < 1.5, f"server {near_cpu:.1f} to {far_cpu:.1f} us CPU per message"
    for run in near, far:
        counts = run["messages"]
        yield counts["echoed"] == counts["planned"], f"{counts['echoed']} of {counts['planned']} messages came back"
        yield not complaints(run), f"valid but for the build: {complaints(run) or 'yes'}"


def loss():
    run, _ = read(names[0])
    longest = run["latency_ns"]["corrected"]["max"] / 1e6
    yield longest > service(run) + 10, f"1 % lost: p50 {service(run):.2f} ms, longest {longest:.0f} ms"
    counts = run["messages"]
    yield counts["echoed"] == counts["planned"], f"{counts['echoed']} of {counts['planned']} messages came back"
    yield not complaints(run), f"valid but for the build: {complaints(run) or 'yes'}"


def down():
    run, _ = read(names[0])
    end, (went_down, timeout) = run.get("ended_early"), map(float, names[1:])
    after = end["after_ns"] / 1e9 if end else 0
    yield end and "stopped answering" in end["cause"], f"link down: {end}"
    # The link went down that long after the start of the program, and the load began a little later.
    yield after <= went_down + timeout + 0.5, f"ended {after:.2f} s after the load began"


results = list({"delay": delay, "loss": loss, "down": down}[check]())
for is_right, what in results:
    print(f"  {'fine ' if is_right else 'WRONG'}  {what}")
sys.exit(not all(is_right for is_right, _ in results))
PYTHON
}

# repeated CHECK COMMAND...: repeats runs and judgement until it is right, within bounds.
repeated() {
    local check=$1 attempt
    for ((attempt = 1; attempt <= attempts; attempt++)); do
        [ "$attempt" = 1 ] || echo "again ($attempt of $attempts):"
        ! "check_$check" || return 0
    done
    tail -n 5 "$folder"/*.log >&2
    fail "$check: wrong in each of $attempts attempts"
}

check_delay() {
    lab near --delay 0ms -- "${load[@]}" --json -
    lab far --delay 5ms -- "${load[@]}" --json -
    judge delay near far
}

check_loss() {
    lab lossy --delay 1ms --loss 1% -- "${load[@]}" --json -
    judge loss lossy
}

check_down() {
    lab down --down-after 1500ms -- -c 4 -R 200 -w 0 -d 1h --timeout 2s --json -
    [ "$status" = 1 ] || { echo "  WRONG  ended with $status, not 1" && return 1; }
    judge down down 1.5 2
}

# gone PID: whether nothing of that script is left.
gone() {
    ! ip netns list 2>/dev/null | grep -q "^sparring-$1-" && ! kill -0 "$1" 2>/dev/null
}

check_signals() {
    local signal pid
    for signal in TERM KILL; do
        "$here/two-hosts.sh" --programs "$programs" --delay 1ms -- -c 2 -d 1h >"$folder/signal.log" 2>&1 &
        pid=$!
        for _ in {1..200}; do
            ! grep -q '^listening on ' "$folder/signal.log" || break
            sleep 0.05
        done
        sleep 0.5
        kill -s "$signal" "$pid"
        wait "$pid" 2>/dev/null && status=0 || status=$?
        for _ in {1..100}; do
            ! gone "$pid" || break
            sleep 0.1
        done
        gone "$pid" || { echo "  WRONG  SIG$signal leaves $(ip netns list | paste -s -d ' ')" && return 1; }
        case $signal:$status in
        TERM:143 | KILL:137) echo "  fine   SIG$signal ends everything, with $status" ;;
        *) echo "  WRONG  SIG$signal ends with $status" && return 1 ;;
        esac
    done
}

programs=""
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help) usage && exit ;;
    --programs)
        [ $# -gt 1 ] || { echo "check.sh: --programs needs a folder; see scripts/lab/check.sh --help" >&2 && exit 2; }
        programs=$2
        shift
        ;;
    *) echo "check.sh: unknown argument: $1; see scripts/lab/check.sh --help" >&2 && exit 2 ;;
    esac
    shift
done

here=$(cd -- "$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")" && pwd)
[ "$(id -u)" = 0 ] || skip "network namespaces need root"
for command in ip tc nsenter setsid python3; do
    command -v "$command" >/dev/null || skip "$command is missing: apt-get install -y iproute2 util-linux python3"
done
ip netns add "sparring-check-$$" 2>/dev/null || skip "no network namespace can be made here"
has_netem=no
tc -netns "sparring-check-$$" qdisc add dev lo root netem delay 1ms 2>/dev/null && has_netem=yes
ip netns delete "sparring-check-$$"
[ "$has_netem" = yes ] || [ -c /dev/net/tun ] || skip "this kernel has no netem, and there is no /dev/net/tun"

if [ -z "$programs" ]; then
    cd -- "$here/../.."
    export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
    cargo build --quiet --locked --profile ci -p sparring-server -p sparring-loadgen
    programs=$CARGO_TARGET_DIR/ci
fi
# Other processes of this machine must not delay what is measured.
urgent=()
! chrt --rr 1 true 2>/dev/null || urgent=(chrt --rr 1)
folder=$(mktemp -d)
trap 'rm -rf -- "$folder"' EXIT
load=(-c 4 -R 400 -w 500ms -d 3s)
for check in delay loss down signals; do
    echo "$check"
    repeated "$check"
done
sed -n '/^link: /p' "$folder/far.log"
