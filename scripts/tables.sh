#!/usr/bin/env bash
# Writes the tables of the documents anew, each from its stored session.
set -euo pipefail

usage() {
    cat <<'END'
usage: scripts/tables.sh [--programs DIR] [FILE]...

A table of a document stands between two markers:

    <!-- show: bench-results/MACHINE/SESSION.json FLAGS -->
    <!-- /show -->

Replaces what is between them by the output of `sparring-loadgen show SESSION FLAGS`: Markdown where
the flags say so, otherwise a block of text of 100 columns. `cargo test` fails where a table differs
from its session.

  --programs DIR  folder of the generator (default: builds it)
  FILE            documents (default: all of the project that have such markers)

Exit status: 0 fine; 1 an error; 2 wrong usage.
END
}

root=$(cd -- "$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")/.." && pwd)
programs="" files=()
while [ $# -gt 0 ]; do
    case $1 in
        --programs) programs=$(realpath -- "${2:?--programs needs a folder}") && shift 2 ;;
        -h | --help) usage && exit ;;
        -*) echo "tables.sh: \`$1\` is not a known flag" >&2 && usage >&2 && exit 2 ;;
        *) files+=("$(realpath -- "$1")") && shift ;;
    esac
done
cd -- "$root"
if [ -z "$programs" ]; then
    cargo build --quiet --locked -p sparring-loadgen
    programs=${CARGO_TARGET_DIR:-$root/target}/debug
fi
[ ${#files[@]} -gt 0 ] || mapfile -t files < <(grep -l '^<!-- show: ' -- *.md */*.md */*/*.md)

trap 'rm -f -- "${files[@]/%/.partial}"' EXIT
for file in "${files[@]}"; do
    inside=""
    while IFS= read -r line || [ -n "$line" ]; do
        case $line in
        '<!-- show: '*' -->')
            read -r -a words <<<"${line:11:${#line}-15}"
            printf '%s\n' "$line"
            fence='```'
            [[ " ${words[*]} " != *' --markdown '* ]] || fence=""
            [ -z "$fence" ] || printf '%stext\n' "$fence"
            COLUMNS=100 "$programs/sparring-loadgen" show "${words[@]}"
            [ -z "$fence" ] || printf '%s\n' "$fence"
            inside=yes
            ;;
        '<!-- /show -->')
            inside=""
            printf '%s\n' "$line"
            ;;
        *) [ -n "$inside" ] || printf '%s\n' "$line" ;;
        esac
    done <"$file" >"$file.partial"
    [ -z "$inside" ] || { echo "tables.sh: $file: a table has no end" >&2 && exit 1; }
    mv -- "$file.partial" "$file"
done
