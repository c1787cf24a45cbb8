# shellcheck shell=bash
# Sourced by run-server-test.sh and run-client-test.sh: what both do before the suite runs.

# prepare_reports OUTDIR: sets `out`. The folder must be absent, empty, or made by these scripts.
# Removes the files of an earlier run.
prepare_reports() {
    mkdir -p "$1" && out=$(cd "$1" && pwd) || exit 3
    if [ -n "$(ls -A "$out")" ] && [ ! -e "$out/spec.json" ]; then
        echo "$out is not empty and not made by this script" >&2
        exit 3
    fi
    rm -f "$out"/*.html "$out"/*.json "$out"/wstest.log
}

# Words as JSON strings, with commas between them.
quoted() {
    local word separator=""
    for word in "$@"; do
        word=${word//\\/\\\\}
        printf '%s"%s"' "$separator" "${word//\"/\\\"}"
        separator=", "
    done
}

# case_list CASES: set names and patterns, parted by commas or blanks, as the items of a JSON list.
# A pattern with `*` is matched from the start only: 12.*.1 takes 12.1.1 and also 12.1.10 to 12.1.18.
#   all   all 517 cases
#   core  sections 1-7 and 10 (247 cases): all but limits, performance and compression
#   fast  core, section 9 (limits), and 6 of the 18 sizes of each compression subsection (12.x and
#         13.x: 16, 64, 256, 1024, 4096 bytes, and 8192 in fragments of 256): 373 cases
case_list() {
    local words word patterns=()
    read -ra words <<<"${1//,/ }"
    for word in "${words[@]}"; do
        case $word in
        all) patterns+=("*") ;;
        core | fast) patterns+=({1,2,3,4,5,6,7,10}".*") ;;&
        fast) patterns+=("9.*" {12.{1,2,3,4,5},13.{1,2,3,4,5,6,7}}.{1,2,3,4,5,11}) ;;
        core) ;;
        *) patterns+=("$word") ;;
        esac
    done
    quoted "${patterns[@]}"
}

# write_spec TARGET CASES EXCLUDE: the suite's specification. TARGET is one or more JSON members.
write_spec() {
    printf '{"outdir": %s, "cases": [%s], "exclude-cases": [%s], "exclude-agent-cases": {}, %s}\n' \
        "$(quoted "$out")" "$(case_list "$2")" "$(case_list "$3")" "$1" >"$out/spec.json"
}

# How long ago `began` was, a time of `date +%s.%N`.
seconds_since() {
    awk -v began="$1" -v now="$(date +%s.%N)" 'BEGIN { printf "%.1f s", now - began }'
}
