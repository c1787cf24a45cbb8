#!/usr/bin/env bash
# Tries the action end to end: npm ws in two versions, as a fork's maintainer would have it in CI.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: scripts/ci/try.sh [--equal N] [--slow PERCENT] [--base VERSION] [--head VERSION] [--flags 'FLAGS OF ci'] [--loadgen FILE]

Installs ws below target/ci, and runs the steps of scripts/ci/action.yml as a shell would. Prints the minutes, the lines of
configuration of scripts/ci/github.yml, and the Markdown of the summary.

  --base VERSION   of ws (default 8.17.0)
  --head VERSION   of ws (default 8.18.0)
  --equal N        runs the action N times with the base's version on both sides, and counts the red ones: none may be
  --slow PERCENT   runs the action with the base's version on both sides, of which the head burns so much more CPU time for
                   each message; it must be red and name server-cpu
  --flags FLAGS    in place of the action's own
  --loadgen FILE   the generator (default: target/release/sparring-loadgen, which is built)

Exit codes: 0 all is as it should be, or skipped (no npm); 1 something is not, or an error; 2 usage.
TEXT
}

fail() {
    printf 'try.sh: %s\n' "$@" >&2
    exit 1
}

usage_error() {
    printf 'try.sh: %s; see scripts/ci/try.sh --help\n' "$1" >&2
    exit 2
}

base=8.17.0 head=8.18.0 equal="" slow="" flags="" loadgen=""
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help) usage && exit 0 ;;
    --base | --head | --equal | --slow | --flags | --loadgen)
        [ $# -ge 2 ] || usage_error "$1 needs a value"
        case $1 in
        --base) base=$2 ;;
        --head) head=$2 ;;
        --equal) equal=$2 ;;
        --slow) slow=$2 ;;
        --flags) flags=$2 ;;
        --loadgen) loadgen=$(realpath -m -- "$2") ;;
        esac
        shift
        ;;
    *) usage_error "unknown argument: $1" ;;
    esac
    shift
done
[[ "$equal" =~ ^[0-9]*$ ]] || usage_error "--equal $equal is not valid: expected a number of runs"
[[ "$slow" =~ ^[0-9.]*$ ]] || usage_error "--slow $slow is not valid: expected a percentage, as in 5"

root=$(cd -- "$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")/../.." && pwd)
cd -- "$root"
build_folder=${CARGO_TARGET_DIR:-target}
work=$(realpath -m -- "$build_folder/ci")
for program in node npm python3; do
    command -v "$program" >/dev/null || { echo "skipped: $program is not installed" && exit 0; }
done
if [ -z "$loadgen" ]; then
    cargo build --release --locked -p sparring-loadgen >&2
    loadgen=$(realpath -- "$build_folder/release/sparring-loadgen")
fi
mkdir -p -- "$work"
if ! python3 -c 'import yaml' 2>/dev/null; then
    export PYTHONPATH=$work/python${PYTHONPATH:+:$PYTHONPATH}
    python3 -c 'import yaml' 2>/dev/null || python3 -m pip install --quiet --target "$work/python" pyyaml 2>/dev/null ||
        { echo "skipped: no PyYAML, which reads action.yml" && exit 0; }
fi

# checkout FOLDER VERSION: a folder as a checkout of a fork would be.
checkout() {
    local folder=$work/$1
    rm -rf -- "$folder"
    mkdir -p -- "$folder"
    npm install --prefix "$folder" --no-audit --no-fund --silent "ws@$2" >/dev/null 2>&1 || {
        echo "skipped: npm install ws@$2 failed"
        exit 0
    }
    cp -- scripts/peers/ws-echo.cjs "$folder/server.cjs"
}

# slow_down FOLDER PERCENT: has a server burn so much of what a message costs it, as a short run measures that.
slow_down() {
    local cost burn
    cost=$("$loadgen" run 'ws://127.0.0.1:{port}/' -d 3s -w 1s -q --json - \
        --spawn "node '$work/$1/server.cjs' 127.0.0.1:{port}" 2>/dev/null |
        python3 -c 'import json, sys; print(json.load(sys.stdin)["runs"][0]["server"]["cpu_ns_per_message"])') || true
    [ -n "$cost" ] || fail "no run tells what a message costs the server"
    burn=$(python3 -c 'import sys; print(round(float(sys.argv[1]) * float(sys.argv[2]) / 100))' "$cost" "$2")
    sed -i "s|(data, isBinary) => |(data, isBinary) => { burn(); |; s|{ binary: isBinary }));|{ binary: isBinary }); });|" \
        "$work/$1/server.cjs"
    cat >>"$work/$1/server.cjs" <<JS

function burn() {
  const end = process.hrtime.bigint() + ${burn}n;
  while (process.hrtime.bigint() < end);
}
JS
    echo "a message costs the server ${cost%.*} ns; the head burns $burn ns more for each"
}

# The steps of the action as a script: inputs, their defaults, and the variables of a runner. Other actions (cache) are left out.
steps() {
    python3 - scripts/ci/action.yml "$@" <<'PYTHON'
import re, shlex, sys, yaml

action = yaml.safe_load(open(sys.argv[1]))
inputs = {name: str(one.get("default", "")) for name, one in action["inputs"].items()}
for given in sys.argv[2:]:
    name, value = given.split("=", 1)
    assert name in inputs, f"the action has no input {name}"
    inputs[name] = value
missing = [name for name, one in action["inputs"].items() if one.get("required") and not inputs[name]]
assert not missing, f"inputs are missing: {missing}"


def fill(text):
    filled = re.sub(r"\$\{\{ *inputs\.([\w-]+) *\}\}", lambda found: inputs[found[1]], str(text))
    assert "${{" not in filled, f"unknown expression: {filled}"
    return filled


for step in action["runs"]["steps"]:
    if "uses" in step:
        continue
    assert step["shell"] == "bash", step
    words = [f"{name}={shlex.quote(fill(value))}" for name, value in step.get("env", {}).items()]
    print("env", *words, "bash --noprofile --norc -e -o pipefail -c", shlex.quote(fill(step["run"])))
PYTHON
}

# act NAME: the action on this machine. Sets verdict, the exit code.
act() {
    local script inputs=(base-dir="$work/base" head-dir="$work/head" loadgen="$loadgen" markdown="$work/$1.md" json="$work/$1.json")
    inputs+=(base='node server.cjs 127.0.0.1:{port}' head='node server.cjs 127.0.0.1:{port}')
    [ -z "$flags" ] || inputs+=(flags="$flags")
    script=$(steps "${inputs[@]}")
    : >"$work/$1.summary.md"
    local began=$SECONDS
    verdict=0
    # There is no bench-results, so that nothing is stored there.
    (cd -- "$work" && GITHUB_ACTIONS=true GITHUB_ACTION_PATH=$root/scripts/ci GITHUB_STEP_SUMMARY=$work/$1.summary.md \
        exec bash -e -o pipefail -c "$script") >"$work/$1.out" 2>"$work/$1.err" || verdict=$?
    seconds=$((SECONDS - began))
    case $verdict in
    0 | 11) ;;
    *) cat -- "$work/$1.out" "$work/$1.err" >&2 && fail "$1: exit code $verdict" ;;
    esac
    grep '^::' "$work/$1.out" || fail "$1: no annotations"
    [ -s "$work/$1.summary.md" ] || fail "$1: nothing in the summary"
    "$loadgen" export "$work/$1.json" --format junit -o "$work/$1.xml"
}

checkout base "$base"
if [ -n "$equal" ]; then
    checkout head "$base"
    red=0
    for ((run = 1; run <= equal; run++)); do
        act "equal-$run"
        [ "$verdict" = 0 ] || red=$((red + 1))
        echo "run $run of $equal, ws $base against itself: exit code $verdict after $seconds s"
    done
    echo "$red of $equal red"
    [ "$red" = 0 ] || fail "equal versions are red"
elif [ -n "$slow" ]; then
    checkout head "$base"
    slow_down head "$slow"
    act slow
    cat -- "$work/slow.summary.md"
    echo "ws $base against itself, slowed by $slow %: exit code $verdict after $seconds s"
    [ "$verdict" = 11 ] || fail "a slowdown of $slow % is not red"
    grep -q '^::error title=.*server-cpu' "$work/slow.out" || fail "server-cpu is not named"
else
    checkout head "$head"
    act versions
    cat -- "$work/versions.summary.md"
    lines=$(sed -n '/uses: OWNER/,/flags:/p' scripts/ci/github.yml | wc -l)
    echo "ws $head against $base: exit code $verdict after $((seconds / 60)) min $((seconds % 60)) s; $lines lines of configuration"
fi
