#!/usr/bin/env bash
# Sets well-known WebSocket servers beside ours: installs them, tries that they echo right, measures all in interleaved rounds.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: scripts/peers.sh [--quick] [--rounds N] [--scenario NAME]... [--server NAME=COMMAND]... [--only NAME,...]
                        [--no-battery] [--tag NAME] [--results DIR] [--resume FILE]
       scripts/peers.sh --prepare          install, build and judge by the battery; measure nothing
       scripts/peers.sh --publish [FILE]   put the table of a stored session (the newest) into bench-results/figures.md

Builds ours; installs and builds the others from crates.io, npm and PyPI below target/peers, where nothing on the system is
changed; runs the conformance battery against each (up to 3 minutes each; what was judged before is not judged again); then
starts each server freshly on one core, checks that it echoes right up to 16 MiB, and measures all of them in rounds whose
order rotates, by one generator on another core. Prints a table for each scenario and one over all, and stores the session.
What cannot be had, does not echo right or is not measured validly is named in the tables.

6 rounds take about 15 minutes, the fewest that bound an interval; the program says how long before it starts.

  --quick                2 short rounds, some 4 minutes: does everything work?
  --rounds N             how often each server runs each scenario
  --scenario NAME        only this one (repeatable): echo, pipeline, text, large, echo-512x1, rate-20k, idle-4000
  --server NAME=COMMAND  another server beside them (repeatable); {port} in the command is where its port goes
  --only NAME,...        only these: sparring, sparring-epoll, fastwebsockets, tungstenite, tungstenite-b, tungstenite-4k,
                         tokio-websockets, tokio-plain, sockudo, sockudo-b, wtx, ws, bun, websockets-py, picows, gorilla,
                         coder, or one of --server; the first is the measure
  --no-battery           without the counts of the battery
  --tag NAME             a name for the session
  --results DIR          where to store; default: bench-results
  --resume FILE          resume an interrupted session of the same flags

Works from any directory and needs no root: a Rust toolchain and a C compiler; Node.js with npm, and python3 with venv, for
what is written for them. Run it on an otherwise idle machine, after --prepare.

Exit codes: 0 fine; 1 error, a server that fails in every attempt or does not echo right (the others are measured and
stored); 2 usage; 13 a scenario has no valid run; 130, 143, 129 ended by SIGINT (Ctrl-C), SIGTERM, SIGHUP.
TEXT
}

usage_error() {
    printf 'peers.sh: %s; see scripts/peers.sh --help\n' "$1" >&2
    exit 2
}

prepare_only=no
with_battery=yes
results=""
only=""
scenarios=""
extra=()
pace=(--rounds 6 --warmup 400ms --duration 900ms)
rounds=()
passed_on=()
publish=no
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help)
        usage
        exit 0
        ;;
    --quick) pace=(--rounds 2 --warmup 200ms --duration 500ms) ;;
    --prepare) prepare_only=yes ;;
    --no-battery) with_battery=no ;;
    --publish)
        publish=last
        if [ $# -ge 2 ] && [[ "$2" != -* ]]; then
            publish=$(realpath -m -- "$2")
            shift
        fi
        ;;
    --rounds | --scenario | --server | --only | --tag | --results | --resume)
        [ $# -ge 2 ] || usage_error "$1 needs a value"
        case $1 in
        --rounds) rounds=(--rounds "$2") ;;
        --scenario) scenarios+=${scenarios:+,}$2 ;;
        --server) extra+=("$2") ;;
        --only) only+=${only:+,}$2 ;;
        --tag) passed_on+=(--tag "$2") ;;
        --resume) passed_on+=(--resume "$(realpath -m -- "$2")") ;;
        --results) results=$(realpath -m -- "$2") ;;
        esac
        shift
        ;;
    *) usage_error "unknown argument: $1" ;;
    esac
    shift
done

root=$(cd -- "$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")/.." && pwd)
cd -- "$root"
# shellcheck source=scripts/peers/servers.sh
. scripts/peers/servers.sh
results=${results:-bench-results}
generator=$build_folder/release/sparring-loadgen

# Writes the table of a stored session between its markers.
write_table() {
    local file document=bench-results/figures.md session=(last --tag peers)
    [ "$1" = last ] || session=("$1")
    file=$("$generator" show "${session[@]}" --results "$results" | head -n 1)
    file=${file#"$root/"}
    sed -i "s|^<!-- show: .* --summary --markdown -->\$|<!-- show: $file --summary --markdown -->|" "$document"
    scripts/tables.sh --programs "$(dirname -- "$generator")" "$document"
    progress "$document has the table of $file"
}

for server in "${extra[@]}"; do
    add_server "$server" || usage_error "--server $server: NAME=COMMAND is needed, with {port} in the command, a name of 1 to 16 \
letters, digits, dots, hyphens or underscores, and no other server of that name"
done
servers=("${every_server[@]}")
if [ -n "$only" ]; then
    IFS=, read -ra servers <<<"$only"
    for name in "${servers[@]}"; do
        [[ " ${every_server[*]} " == *" $name "* ]] || usage_error "--only: no server is called $name"
    done
fi

scripts/bench.sh build >&2
if [ "$publish" != no ]; then
    write_table "$publish"
    exit 0
fi

arms=()
for name in "${servers[@]}"; do
    counts=()
    prepare "$name"
    if [ -n "$missing" ]; then
        progress "$name is left out: $missing"
        # What follows the colon is for whoever sits here; the reason is for whoever reads the result.
        arms+=(--absent "$name=${missing%%:*}")
        continue
    fi
    arms+=(--arm "$name=$(printf '%q ' "${command[@]}")")
    [ -z "$version" ] || arms+=(--version-of "$name=$version")
    if [ "$with_battery" = yes ]; then
        judge "$name"
        [ ${#counts[@]} -ne 5 ] || arms+=(--conformance "$name=$(IFS=,; echo "${counts[*]}")")
    fi
done
if [ "$prepare_only" = yes ]; then
    progress "ready to measure: scripts/peers.sh"
    exit 0
fi
[ ${#rounds[@]} -eq 0 ] || pace[1]=${rounds[1]}
exec "$generator" experiment peers --results "$results" "${pace[@]}" ${scenarios:+--scenarios "$scenarios"} "${arms[@]}" "${passed_on[@]}"
