#!/usr/bin/env bash
# Draws the top of a report's page into a PNG, as a browser shows it.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: scripts/screenshot.sh [-o FILE] [--size WIDTHxHEIGHT] [--dark] SESSION...

Makes the page that `sparring-loadgen report SESSION...` writes, opens it in headless Chromium and stores what is seen.
The picture in the README is made so. Needs the generator built (release), and chromium.

  -o FILE     where the picture goes; default: bench-results/report.png
  --size      of the window; default: 900x830
  --dark      as a reader sees it who has chosen dark colours

Exit codes: 0 fine, 1 error, 2 usage.
TEXT
}

root=$(dirname -- "$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")")
out=$root/bench-results/report.png size=900x830 colours=() sessions=()
while (($#)); do
    case "$1" in
    -h | --help) usage; exit 0 ;;
    -o) out=${2:?-o needs a file}; shift ;;
    --size) size=${2:?--size needs WIDTHxHEIGHT}; shift ;;
    --dark) colours=(--blink-settings=preferredColorScheme=0) ;;
    -*) usage >&2; exit 2 ;;
    *) sessions+=("$1") ;;
    esac
    shift
done
((${#sessions[@]})) || { usage >&2; exit 2; }

generator=${CARGO_TARGET_DIR:-$root/target}/release/sparring-loadgen
[ -x "$generator" ] || { echo "no $generator: cargo build --release -p sparring-loadgen" >&2; exit 1; }
browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome) || {
    echo "no chromium: apt-get install chromium" >&2
    exit 1
}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$generator" report "${sessions[@]}" -o "$work/report.html" > "$work/said"
"$browser" --headless --no-sandbox --disable-gpu --hide-scrollbars --user-data-dir="$work/profile" \
    --window-size="${size/x/,}" "${colours[@]}" --screenshot="$work/report.png" "file://$work/report.html" 2> "$work/log" ||
    { cat "$work/log" >&2; exit 1; }
cp "$work/report.png" "$out"
echo "$out: $(stat -c %s "$out") bytes"
