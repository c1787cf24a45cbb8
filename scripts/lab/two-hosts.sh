#!/usr/bin/env bash
# Runs server and generator in two network namespaces with a link between them: delay, loss, rate.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: scripts/lab/two-hosts.sh [--delay TIME] [--loss SHARE] [--rate RATE] [--seed N]
           [--down-after TIME] [--programs DIR] [-- ARGUMENTS]

Makes two network namespaces with a link between them, starts sparring-server in one, and runs
`sparring-loadgen run URL ARGUMENTS` in the other. Prints the output of the run on standard output,
and on standard error what carries the packets and the CPU time of the server. Without ARGUMENTS
they are `-c 8 -R 500 -d 5s`.

  --delay TIME       delay of each direction, such as 5ms or 250us: a round trip has it twice
  --loss SHARE       share of the packets of each direction that are lost, such as 1%
  --rate RATE        rate of each direction, such as 100mbit
  --seed N           seed of the losses (default 1)
  --down-after TIME  the link of the server goes down this long after the generator has started
  --programs DIR     folder of sparring-server and sparring-loadgen (default: builds both)

Without delay, loss and rate the link is a veth pair alone. Otherwise it is a veth pair with `tc
netem` where the kernel has it, and else scripts/lab/link.py, which forwards packets between two TUN
devices and needs python3 and /dev/net/tun. The tag of the result names the link, unless ARGUMENTS
have a --tag.

Needs root, and iproute2. Namespaces and processes end with the script.
Exit codes: those of `sparring-loadgen run`, and 1 where the link cannot be made; 2 usage.
TEXT
}

misuse() {
    printf 'two-hosts.sh: %s; see scripts/lab/two-hosts.sh --help\n' "$1" >&2
    exit 2
}

fail() {
    printf 'two-hosts.sh: %s\n' "$@" >&2
    exit 1
}

say() {
    printf '%s\n' "$*" >&2
}

# check FLAG VALUE PATTERN EXPECTED
check() {
    [[ "$2" =~ ^$3$ ]] || misuse "\`$2\` is not a valid $1: expected $4"
}

# ip_in HOST WORDS...: of iproute2, in the namespace of a host.
ip_in() {
    ip -netns "$lab-$1" "${@:2}"
}

# on HOST COMMAND...: becomes a command in the namespace of a host, with the signals of a new shell.
on() {
    exec env --default-signal=INT,QUIT nsenter --net="/run/netns/$lab-$1" -- "${@:2}"
}

# Makes the veth pair of both namespaces.
connect() {
    ip link add link1 netns "$lab-server" type veth peer name link2 netns "$lab-generator"
    ip_in server address add "$server_address/24" dev link1
    ip_in generator address add "$generator_address/24" dev link2
    ip_in server link set link1 up
    ip_in generator link set link2 up
}

# netem HOST DEVICE: impairs what leaves the host.
netem() {
    local words=(limit 10000)
    [ -z "$delay" ] || words+=(delay "$delay")
    [ -z "$loss" ] || words+=(loss "$loss")
    [ -z "$rate" ] || words+=(rate "$rate")
    # Kernels and releases of iproute2 before 2023 have no seed.
    tc -netns "$lab-$1" qdisc replace dev "$2" root netem "${words[@]}" seed "$seed" 2>/dev/null ||
        tc -netns "$lab-$1" qdisc replace dev "$2" root netem "${words[@]}" 2>/dev/null
}

# Forwards packets in user space.
forward() {
    local words=(--seed "$seed")
    [ -z "$delay" ] || words+=(--delay "$delay")
    [ -z "$loss" ] || words+=(--loss "$loss")
    [ -z "$rate" ] || words+=(--rate "$rate")
    command -v python3 >/dev/null || fail "this kernel has no netem, and link.py needs python3"
    [ -c /dev/net/tun ] || fail "this kernel has no netem, and link.py needs /dev/net/tun"
    exec {up}< <(exec python3 -B "$here/link.py" "${words[@]}" "$lab-server" "$server_address" \
        "$lab-generator" "$generator_address")
    link=$!
    read -r -t 20 -u "$up" _ || fail "link.py does not make its devices"
}

# Makes the link. Sets `kind`.
make_link() {
    local words
    words=${delay:+ delay $delay}${loss:+ loss $loss}${rate:+ rate $rate}
    for host in server generator; do
        ip netns add "$lab-$host"
        ip_in "$host" link set lo up
    done
    if [ -z "$words" ]; then
        kind=veth
        connect
        say "link: a veth pair"
        return
    fi
    connect
    if netem server link1 && netem generator link2; then
        kind=netem
        say "link: a veth pair with netem, each way$words"
        return
    fi
    ip_in server link delete link1
    kind=tun
    forward
    say "link: scripts/lab/link.py (this kernel has no netem), each way$words, seed $seed"
}

start_server() {
    (on server "$programs/sparring-server" --listen "$server_address:9001" --stats) >"$folder/server" 2>&1 </dev/null &
    server=$!
    for _ in {1..200}; do
        ! grep '^listening on ' "$folder/server" >&2 || return 0
        kill -0 "$server" 2>/dev/null || break
        sleep 0.05
    done
    cat "$folder/server" >&2
    fail "the server does not listen after 10 s"
}

# Runs the generator to its end, in a group of its own: a Ctrl-C reaches it once, through this script.
# Sets `status`.
run_generator() {
    local tag=()
    [[ " $* " == *" --tag"[=\ ]* ]] || tag=(--tag "$(tr -cd 'A-Za-z0-9.-' <<<"$kind${delay:+-delay-$delay}${loss:+-loss-$loss}${rate:+-$rate}")")
    (on generator setsid "$programs/sparring-loadgen" run "ws://$server_address:9001/" "${tag[@]}" "$@") &
    generator=$!
    if [ -n "$down_after" ]; then
        (sleep "$down_after" && ip_in server link set link1 down && say "link: down") &
        downer=$!
    fi
    while :; do
        wait "$generator" && status=0 || status=$?
        # A signal of this script ends `wait`, and not the generator.
        kill -0 "$generator" 2>/dev/null || break
    done
}

# Says what the server has spent, its start included.
report_cost() {
    local spent messages
    spent=$(cat "/proc/$server/task/"*/schedstat 2>/dev/null | awk '{ sum += $1 } END { print sum + 0 }')
    kill "$server" 2>/dev/null || return 0
    wait "$server" || true
    messages=$(sed -n 's/^{.*"messages": *\([0-9]*\).*/\1/p' "$folder/server")
    awk -v ns="$spent" -v messages="${messages:-0}" 'BEGIN {
        printf "server: %.1f ms of CPU time, start and connections included", ns / 1e6
        if (messages > 0) printf "; %d messages, %.2f us each", messages, ns / 1e3 / messages
        print ""
    }' >&2
}

# The processes in both namespaces, and that of the link.
processes() {
    { ip netns pids "$lab-generator" && ip netns pids "$lab-server"; } 2>/dev/null || true
    [ -z "$link" ] || echo "$link"
}

# Ends what is left, and removes both namespaces and the folder.
sweep() {
    local signal pid
    for signal in TERM KILL; do
        for _ in {1..20}; do
            pids=$(processes)
            for pid in $pids; do kill -s "$signal" "$pid" 2>/dev/null || pids=${pids/$pid/}; done
            [ -n "${pids//[[:space:]]/}" ] || break 2
            sleep 0.1
        done
    done
    ip netns delete "$lab-server" 2>/dev/null || true
    ip netns delete "$lab-generator" 2>/dev/null || true
    rm -rf -- "$folder"
}

# Does the same where this script is killed by a signal that it cannot handle.
guard() {
    while kill -0 $$; do sleep 1; done
    sweep
}

stop() {
    local status=$?
    trap '' INT TERM HUP
    kill "$guard" ${downer:+"$downer"} 2>/dev/null || true
    sweep
    exit "$status"
}

# interrupted SIGNAL CODE: passes a signal on to the generator, which ends with what it has.
interrupted() {
    [ -n "$generator" ] || exit "$2"
    kill -s "$1" "$generator" 2>/dev/null || true
}

delay="" loss="" rate="" seed=1 down_after="" programs=""
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help) usage && exit ;;
    --) shift && break ;;
    --delay | --loss | --rate | --seed | --down-after | --programs)
        [ $# -gt 1 ] || misuse "$1 needs a value"
        name=${1#--}
        printf -v "${name//-/_}" %s "$2"
        shift
        ;;
    *) misuse "\`$1\` is not a known flag; arguments of the generator follow --" ;;
    esac
    shift
done
number='[0-9]+(\.[0-9]+)?'
[ -z "$delay" ] || check --delay "$delay" "${number}(us|ms|s)" "a time, as in 5ms"
[ -z "$loss" ] || check --loss "$loss" "(100|[0-9]{1,2}(\.[0-9]+)?)%" "a share, as in 1%"
[ -z "$rate" ] || check --rate "$rate" "${number}[kmg]?bit" "a rate, as in 100mbit"
check --seed "$seed" '[0-9]{1,9}' "a whole number"
[ -z "$down_after" ] || check --down-after "$down_after" "${number}(ms|s)" "a time, as in 2s"
case $down_after in *ms) down_after=$(awk "BEGIN { print ${down_after%ms} / 1000 }") ;; esac
[ $# -gt 0 ] || set -- -c 8 -R 500 -d 5s

[ "$(id -u)" = 0 ] || fail "needs root, for network namespaces: sudo scripts/lab/two-hosts.sh ..."
for command in ip tc nsenter setsid; do
    command -v "$command" >/dev/null || fail "needs $command: apt-get install -y iproute2 util-linux"
done
here=$(cd -- "$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")" && pwd)
if [ -z "$programs" ]; then
    (cd -- "$here/../.." && cargo build --quiet --locked --release -p sparring-server -p sparring-loadgen)
    programs=${CARGO_TARGET_DIR:-$here/../../target}/release
fi
programs=$(realpath -- "$programs")

# Addresses of documentation (RFC 5737), which nothing else has.
server_address=192.0.2.1 generator_address=192.0.2.2
lab=sparring-$$-$RANDOM
link="" generator="" server="" downer="" status=1
folder=$(mktemp -d)
guard >/dev/null 2>&1 &
guard=$!
trap stop EXIT
trap 'interrupted INT 130' INT
trap 'interrupted TERM 143' TERM
trap 'interrupted HUP 129' HUP
make_link
start_server
run_generator "$@"
report_cost
# The status of the script.
(exit "$status")
