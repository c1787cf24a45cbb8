#!/usr/bin/env bash
# Runs a load from four generators on a Slurm cluster of one machine, and merges their documents.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: scripts/cluster/slurm.sh [--programs DIR]

Sets up a Slurm cluster of this machine alone, with munge, on loopback and in a temporary folder.
Starts sparring-server, submits scripts/cluster/slurm.sbatch, in which srun starts four generators,
and prints the table of the merged document. It must be valid and have all four shards. A debug
build is never valid: with one, the build must be the only reason. A run that is INVALID is
repeated, at most four times.

All processes end with the script. A running Slurm or munge of the system is left alone.

  --programs DIR  folder of sparring-server and sparring-loadgen (default: builds both)

Takes Slurm from the system where munged, slurmctld, slurmd and srun are there. Otherwise it unpacks
Debian's packages beside the build and installs nothing. Needs root. Where it cannot run, the script
says so and ends with 0, or with 1 where SPARRING_REQUIRE_SLURM=1.
Exit codes: 0 fine or skipped, 1 error, 2 usage; 130, 143, 129 ended by SIGINT, SIGTERM, SIGHUP.
TEXT
}

# The number of generators, and the most runs until one is valid.
shards=4 attempts=5

fail() {
    printf 'slurm.sh: %s\n' "$@" >&2
    exit 1
}

skip() {
    [ "${SPARRING_REQUIRE_SLURM:-0}" != 1 ] || fail "$1" "SPARRING_REQUIRE_SLURM=1 does not let that pass"
    echo "skipped: $1"
    exit 0
}

# Unpacks Debian's packages below $tools, once.
unpack() {
    local log=$tools.log package
    [ -e "$tools/complete" ] && return
    if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
        skip "Slurm is missing, and no apt-get has its packages: munge, slurmctld, slurmd"
    fi
    echo "unpacking Debian's munge, slurmctld and slurmd ..."
    rm -rf -- "$tools"
    mkdir -p "$tools/packages/partial"
    download "$log" || { timeout 120 apt-get -q update >>"$log" 2>&1 && download "$log"; } || {
        tail -n 5 "$log" >&2
        skip "apt-get cannot get munge, slurmctld and slurmd; the end of $log is above"
    }
    for package in "$tools"/packages/*.deb; do
        dpkg-deb -x "$package" "$tools/root"
    done
    touch "$tools/complete"
}

# Downloads the packages with everything that they need and the system does not have.
download() {
    timeout 120 apt-get -q install -y --download-only --no-install-recommends \
        -o Dir::Cache::archives="$tools/packages" munge slurmctld slurmd >"$1" 2>&1
}

# Sets `munged`, `slurmctld`, `slurmd` to their commands.
find_slurm() {
    local libraries
    munged=(munged) slurmctld=(slurmctld) slurmd=(slurmd) plugins=""
    PATH=$PATH:/usr/sbin
    if command -v munged slurmctld slurmd srun sbatch >/dev/null; then
        return
    fi
    unpack
    libraries=$(dirname "$(find "$tools/root/usr/lib" -name 'libmunge.so.*' -print -quit)")
    # Debian's and Ubuntu's binaries have a suffix.
    munged=("$tools/root/usr/sbin/munged")
    slurmctld=("$tools/root/usr/sbin/slurmctld-wlm")
    slurmd=("$tools/root/usr/sbin/slurmd-wlm" -d "$tools/root/usr/sbin/slurmstepd-wlm")
    plugins=PluginDir=$libraries/slurm-wlm
    PATH=$tools/root/usr/bin:$PATH
    export LD_LIBRARY_PATH=$libraries:$libraries/slurm-wlm${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
}

# A port of loopback that nothing listens on, below those that the kernel gives to connections.
free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 10000))
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
    done
    echo "$port"
}

# The release of Slurm, such as 22.05.8.
version() {
    srun --version | cut -d ' ' -f 2
}

# Needs no accounting. The node says that it has a processor for each shard.
write_configuration() {
    local host address cgroups listen=""
    host=$(uname -n)
    host=${host%%.*}
    address=$(getent ahostsv4 "$host" | sed -n '1s/ .*//p' || true)
    [ -n "$address" ] || skip "the name of this machine, $host, does not resolve to an address"
    # Only on this address, mostly 127.0.0.1. Where it is 127.0.1.1, as Debian has it, srun would hear no answer there.
    if [[ "$address" != 127.* || "$address" = 127.0.0.1 ]]; then
        listen=CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
    fi
    mkdir "$folder/munge" "$folder/state" "$folder/spool" "$folder/job"
    # munged wants a path to its socket that all users may enter.
    chmod 755 "$folder" "$folder/munge"
    (umask 077 && head -c 128 /dev/urandom >"$folder/munge/key")
    cat >"$SLURM_CONF" <<CONF
ClusterName=sparring
SlurmctldHost=$host($address)
SlurmctldPort=$(free_port)
SlurmdPort=$(free_port)
$listen
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
NodeName=$host NodeAddr=$address CPUs=$shards State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=2 State=UP
$plugins
CONF
    # No control groups: by default slurmd asks systemd for them. Releases before 23.02 have no `disabled`; with v1 they
    # use none here.
    cgroups=disabled
    case $(version) in
    1?.* | 2[0-2].*) cgroups=cgroup/v1 ;;
    esac
    echo "CgroupPlugin=$cgroups" >"$folder/cgroup.conf"
}

# daemon NAME COMMAND...
daemon() {
    "${@:2}" >"$folder/$1.log" 2>&1 </dev/null &
}

# wait_for SECONDS COMMAND...: until the command succeeds; shows the ends of the logs where it does not in that time.
wait_for() {
    local deadline=$((SECONDS + $1))
    until "${@:2}" 2>/dev/null; do
        [ "$SECONDS" -lt "$deadline" ] || { tail -n 5 "$folder"/*.log >&2 && return 1; }
        sleep 0.1
    done
}

node_is_idle() {
    [ "$(timeout 5 sinfo --noheader --format=%T)" = idle ]
}

start_cluster() {
    daemon munged "${munged[@]}" --foreground --socket="$folder/munge/socket" --key-file="$folder/munge/key" \
        --pid-file="$folder/munge/pid" --seed-file="$folder/munge/seed" --log-file="$folder/munge/log"
    wait_for 20 test -S "$folder/munge/socket" || skip "munged does not start here: no socket after 20 s; its log is above"
    daemon slurmctld "${slurmctld[@]}" -D
    daemon slurmd "${slurmd[@]}" -D
    wait_for 20 node_is_idle || skip "Slurm does not start here: no idle node after 20 s; its logs are above"
    echo "Slurm $(version): one node with $shards processors"
}

# Sets `url` once the server accepts.
start_server() {
    daemon server "$programs/sparring-server" --listen 127.0.0.1:0
    wait_for 20 grep -q '^listening on ' "$folder/server.log" || fail "the server does not listen after 20 s"
    url=$(sed -n 's/^listening on \(ws:[^ ]*\) .*/\1/p' "$folder/server.log")
    sed -n '/^listening on /p' "$folder/server.log"
}

# job_is_over ID: sets `job` to what Slurm says about it.
job_is_over() {
    job=$(timeout 5 scontrol --oneliner show job "$1") || return 1
    [[ ! "$job" =~ \ JobState=(PENDING|CONFIGURING|RUNNING|COMPLETING)\  ]]
}

# Runs the job once, and prints its log. Sets `status` to how it ended.
run_job() {
    local id
    rm -rf -- "$folder/job"
    mkdir "$folder/job"
    id=$(timeout 20 sbatch --parsable --ntasks="$shards" --time=1 --chdir="$folder/job" --output="$folder/job/log" \
        "$root/scripts/cluster/slurm.sbatch" "$url" -c 16 -d 1s -w 300ms)
    # Not `sbatch --wait`, which looks seconds later.
    wait_for 100 job_is_over "$id" || fail "the job is not over after 100 s"
    cat "$folder/job/log"
    [[ "$job" =~ \ JobState=(COMPLETED|FAILED)\ .*\ ExitCode=([0-9]+):0\  ]] || fail "the job did not run to its end:" "$job"
    status=${BASH_REMATCH[2]}
}

# The processes of this cluster, the job's too: their environment has its configuration.
processes() {
    grep -lzFx "SLURM_CONF=$SLURM_CONF" /proc/[0-9]*/environ 2>/dev/null | cut -d / -f 3
}

# Ends these processes, within some seconds, and removes the folder.
sweep() {
    local signal pid pids
    # What runs from here on is not found by `processes`.
    export -n SLURM_CONF
    for signal in TERM KILL; do
        for _ in {1..20}; do
            pids=$(processes || true)
            [ -n "$pids" ] || break 2
            for pid in $pids; do
                kill -s "$signal" "$pid" 2>/dev/null || true
            done
            sleep 0.1
        done
    done
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
    kill "$guard" 2>/dev/null || true
    sweep
    exit "$status"
}

programs=""
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help) usage && exit ;;
    --programs)
        [ $# -gt 1 ] || { echo "slurm.sh: --programs needs a folder; see scripts/cluster/slurm.sh --help" >&2 && exit 2; }
        programs=$(realpath -m -- "$2")
        shift
        ;;
    *) echo "slurm.sh: unknown argument: $1; see scripts/cluster/slurm.sh --help" >&2 && exit 2 ;;
    esac
    shift
done

root=$(cd -- "$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")/../.." && pwd)
cd -- "$root"
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target}
tools=$(realpath -m -- "$CARGO_TARGET_DIR/slurm")
[ "$(id -u)" = 0 ] || skip "a Slurm cluster of one machine needs root"
find_slurm
if [ -z "$programs" ]; then
    echo "building ..."
    cargo build --quiet --locked --profile ci -p sparring-server -p sparring-loadgen
    programs=$(realpath -- "$CARGO_TARGET_DIR/ci")
fi

folder=$(mktemp -d)
SLURM_CONF=$folder/slurm.conf
guard >/dev/null 2>&1 &
guard=$!
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP
export SLURM_CONF PATH=$programs:$PATH
write_configuration
start_cluster
start_server

for ((attempt = 1; ; attempt++)); do
    printf '\nrun %d: srun with %d tasks\n' "$attempt" "$shards"
    run_job
    documents=("$folder"/job/sparring-*/whole.json)
    whole=${documents[0]}
    [ "$status" != 0 ] || break
    [ "$status" = 13 ] || fail "the job ended with $status"
    if grep -qF '"invalid_kinds":["debug-generator"]' "$whole"; then
        echo "The debug build is the only reason for INVALID."
        break
    fi
    [ "$attempt" -lt "$attempts" ] || fail "every run was INVALID"
done
counted=$(grep -o '"counted":true' "$whole" | wc -l)
[ "$counted" = "$shards" ] || fail "the document has $counted shards, not $shards"
mkdir -p "$tools"
cp -- "$whole" "$tools/whole.json"
printf '\nthe merged document has all %d shards: %s\n' "$shards" "$tools/whole.json"
