#!/usr/bin/env bash
# An example for any CI system that runs a shell (Jenkins, Buildkite, Woodpecker): compares the server of a branch, here one of
# Python, with that of main. The exit code is the verdict; sparring.md is for people and sparring.xml for the list of tests.
set -euo pipefail

base=${BASE:-origin/main}
git worktree add --force --detach target/base "$base"
for folder in . target/base; do
    python3 -m venv "$folder/venv"
    "$folder/venv/bin/pip" install --quiet --requirement "$folder/requirements.txt"
done
verdict=0
sparring-loadgen ci --base-dir target/base --head-dir . --base 'venv/bin/python server.py {port}' \
    --head 'venv/bin/python server.py {port}' --confirm --rounds 10 -d 1s -w 300ms \
    --markdown sparring.md --json sparring.json || verdict=$?
[ ! -s sparring.json ] || sparring-loadgen export sparring.json --format junit -o sparring.xml
exit "$verdict"
