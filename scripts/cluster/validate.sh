#!/usr/bin/env bash
# Validates kubernetes.yaml against the published schemas of Kubernetes, without a cluster.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: scripts/cluster/validate.sh [FILE]

Validates FILE (default: scripts/cluster/kubernetes.yaml) against the schemas of the oldest release
of Kubernetes that the manifests work with and of the newest known one. Unknown fields are errors.
The number of shards must be the same in completions, parallelism and SPARRING_SHARDS.

The validator is kubernetes-validate of PyPI, with the schemas in it. The script installs it beside
the build, once. Where pip cannot get it, the script says so and ends with 0, or with 1 where
SPARRING_REQUIRE_KUBERNETES_VALIDATE=1.
Exit codes: 0 valid or skipped, 1 not valid or an error, 2 usage.
TEXT
}

# The validator has the schemas up to the release of its own number.
validator=1.37.0
# backoffLimitPerIndex is in every cluster since this release.
oldest=1.29

fail() {
    printf 'validate.sh: %s\n' "$@" >&2
    exit 1
}

skip() {
    [ "${SPARRING_REQUIRE_KUBERNETES_VALIDATE:-0}" != 1 ] ||
        fail "$1" "SPARRING_REQUIRE_KUBERNETES_VALIDATE=1 does not let that pass"
    echo "skipped: $1"
    exit 0
}

# Installs the validator once for each version.
set_up() {
    local log=$environment.log
    [ -e "$environment/complete" ] && return
    command -v python3 >/dev/null || skip "kubernetes-validate needs python3, which is not here"
    mkdir -p "$(dirname "$environment")"
    rm -rf -- "$environment"
    if ! { python3 -m venv "$environment" && timeout 120 "$environment/bin/pip" install --disable-pip-version-check \
        "kubernetes-validate==$validator" && touch "$environment/complete"; } >"$log" 2>&1; then
        tail -n 5 "$log" >&2
        skip "pip cannot get kubernetes-validate $validator; the end of $log is above"
    fi
}

# validate RELEASE FILE
validate() {
    timeout 60 "$environment/bin/kubernetes-validate" --quiet --strict --kubernetes-version "$1" "$2"
}

case ${1:-} in
-h | --help) usage && exit ;;
-*) echo "validate.sh: unknown flag: $1; see scripts/cluster/validate.sh --help" >&2 && exit 2 ;;
esac
[ $# -le 1 ] || { echo "validate.sh: one FILE; see scripts/cluster/validate.sh --help" >&2 && exit 2; }

here=$(cd -- "$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")" && pwd)
file=$(realpath -m -- "${1:-$here/kubernetes.yaml}")
environment=$(realpath -m -- "${CARGO_TARGET_DIR:-$here/../../target}/kubernetes-validate-$validator")
[ -r "$file" ] || fail "$file cannot be read"

shards=$(sed -n -e 's/^ *completions: *//p' -e 's/^ *parallelism: *//p' \
    -e 's/.*name: SPARRING_SHARDS, value: "\(.*\)".*/\1/p' "$file" | paste -sd ' ')
read -r completions parallelism number <<<"$shards"
if [ "$completions" != "$parallelism" ] || [ "$completions" != "$number" ]; then
    fail "completions, parallelism and SPARRING_SHARDS are \`$shards\`: expected one number three times"
fi

set_up
for release in "$oldest" "${validator%.*}"; do
    validate "$release" "$file" || fail "$file is not valid in Kubernetes $release"
    # A validator that lets everything pass shows nothing.
    ! validate "$release" <(sed 's/^  completionMode:/  completionKind:/' "$file") >/dev/null 2>&1 ||
        fail "the validator lets an unknown field of the Job pass"
    echo "valid in Kubernetes $release: $file"
done
