#!/usr/bin/env bash
# Counts the server's system calls under load, by name: io_uring_enter, and nothing else for a message.
set -euo pipefail

usage() {
    cat <<'END'
usage: scripts/system-calls.sh [--programs DIR]

Traces the server (strace) while the generator keeps 64 connections busy for two seconds. Prints the
system calls between the first io_uring_enter and the last message, by name.

  --programs DIR  folder of the two binaries (default: builds them)

Exit status: 0 no call but io_uring_enter came more than once in 1,000 messages; 1 another did, or an
error; 2 wrong usage.
END
}

programs=""
while [ $# -gt 0 ]; do
    case $1 in
        --programs) programs=${2:?--programs needs a folder} && shift 2 ;;
        -h | --help) usage && exit ;;
        *) echo "system-calls.sh: \`$1\` is not a known flag" >&2 && usage >&2 && exit 2 ;;
    esac
done
command -v strace >/dev/null || {
    echo "system-calls.sh needs strace: sudo apt-get install -y strace" >&2
    exit 1
}
root=$(cd -- "$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")/.." && pwd)
if [ -z "$programs" ]; then
    (cd -- "$root" && cargo build --release --locked -p sparring-server -p sparring-loadgen)
    programs=${CARGO_TARGET_DIR:-$root/target}/release
fi

folder=$(mktemp -d)
trap 'rm -rf -- "$folder"' EXIT
server="strace -f -o $folder/calls $programs/sparring-server --listen 127.0.0.1:{port} --threads 1 --engine uring --stats"
# A traced server is slow, so that the run may be invalid: its calls are counted all the same.
"$programs/sparring-loadgen" run 'ws://127.0.0.1:{port}/' -d 2s -w 0 --quiet --allow-invalid --spawn "$server" \
    --json "$folder/run.json" >/dev/null
messages=$(grep -o '"received":[0-9]*' "$folder/run.json" | head -n 1 | tr -dc 0-9)

awk -v messages="$messages" '
    { name = $2; sub(/\(.*/, "", name) }
    name == "io_uring_enter" { is_started = 1; count[name]++; last = NR; for (n in since) count[n] += since[n]; delete since; next }
    is_started && name ~ /^[a-z_0-9]+$/ { since[name]++ }
    END {
        for (n in count) {
            printf "%10d %s\n", count[n], n
            if (n != "io_uring_enter" && count[n] * 1000 > messages) many = 1
        }
        printf "%10d messages\n", messages
        exit many
    }' "$folder/calls"
