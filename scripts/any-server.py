#!/usr/bin/env python3
"""Tries the load generator against other people's servers in all payload sizes, and against servers that misbehave.

Right servers must be measured without a fault. Wrong ones must be met with a count or an error that says what is wrong: never
with a panic, never with a hang. Prints one line for each trial, and ends with 1 where one went otherwise.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / "scripts" / "peers"
INSTALLED = ROOT / "target" / "peers"
# No trial may take longer: it is a hang.
HANG_S = 60
INSTALL_S = 300

# Around every change of the frame header, and of buffers.
SIZES = ["0", "1", "125", "126", "127", "1000", "4096", "65535", "65536", "1MiB", "16MiB"]
SHORT = ["-w", "50ms", "--settle", "0", "-c", "4"]
# A window, a longer one for large messages, and one in which a slow server on a busy machine echoes the largest.
WINDOW, LONG_WINDOW, LONGEST_WINDOW = "500ms", "2s", "10s"
LARGEST = SIZES[-1]

# What is known of a trial: exit codes and a part of what is said. 13 is an invalid measurement, 1 an error or a wrong echo.
FINE = ({0}, r"")
EXPECTED = {
    "none": FINE,
    "fragments": FINE,
    "byte-by-byte": FINE,
    "pings": FINE,
    "slow-handshake": FINE,
    "400": ({1}, r"handshake .*400"),
    "401": ({1}, r"handshake .*401"),
    "404": ({1}, r"handshake .*404"),
    "429": ({1}, r"handshake .*429"),
    "503": ({1}, r"handshake .*503"),
    "redirect": ({1}, r"handshake .*302"),
    "wrong-accept": ({1}, r"handshake .*Accept"),
    "endless-head": ({1}, r"handshake .*longer than"),
    "no-answer": ({1}, r"handshake .*no answer within 1s"),
    "hang-up": ({1}, r"handshake .*(without answering|reset)"),
    "close": ({1}, r"closed all 4 connections.*1001.*going away"),
    "close-1011": ({1}, r"closed all 4 connections.*1011.*an error"),
    "end": ({1}, r"closed all 4 connections"),
    "reset": ({1}, r"closed all 4 connections"),
    "stall": ({1}, r"stopped answering"),
    "die": ({1}, r"(closed all 4 connections|the server ended)"),
    "corrupt": ({1}, r"corrupted"),
    "truncate": ({1}, r"corrupted"),
    "lose": ({1}, r"(lost|stopped answering)"),
    "duplicate": ({1}, r"duplicated"),
    "reorder": ({1}, r"reordered"),
    "wrong-opcode": ({1}, r"wrong opcode"),
    "unasked": ({1}, r"nobody asked for"),
    "masked": ({1}, r"broke the protocol.*masked"),
    "reserved-bit": ({1}, r"broke the protocol.*RSV|broke the protocol.*reserved"),
    "reserved-opcode": ({1}, r"broke the protocol.*opcode"),
    "stray-continuation": ({1}, r"broke the protocol.*continu"),
    "long-ping": ({1}, r"broke the protocol.*control"),
    "huge-length": ({1}, r"(broke the protocol|corrupted|stopped answering|too (big|long|large)|lost)"),
    "garbage": ({1}, r"broke the protocol"),
}
# Deeper pipelines for what concerns the order of echoes, and for what a lost echo must not block.
DEEP = {"lose", "duplicate", "reorder"}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("servers", nargs="*", metavar="SERVER", help="ws, bun, websockets, tungstenite, misbehaving [all]")
    parser.add_argument("--generator", type=Path, help="a built sparring-loadgen [default: builds one, profile ci]")
    parser.add_argument("--engine", default="auto", help="the generator's engine [auto]")
    return parser.parse_args()


def progress(text):
    print(f"any-server.py: {text}", file=sys.stderr)


def built(generator):
    if generator:
        return str(generator.resolve())
    progress("building the generator")
    command = ["cargo", "build", "--locked", "--profile", "ci", "-p", "sparring-loadgen", "--message-format", "json"]
    output = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
    programs = (json.loads(line).get("executable") for line in output.splitlines())
    return [program for program in programs if program and program.endswith("sparring-loadgen")][-1]


def version_of(name):
    """The version that the other scripts take: one place to raise it."""
    text = (PEERS / "servers.sh").read_text()
    return re.search(rf"^{name}_version=(.*)$", text, re.MULTILINE)[1]


def install(*command, cwd=ROOT, env=None):
    done = subprocess.run(command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=INSTALL_S)
    return done.returncode == 0


def npm(name):
    return shutil.which("npm") and install(
        "npm", "install", "--prefix", str(INSTALLED / name), "--no-audit", "--no-fund", "--no-save", f"{name}@{version_of(name)}"
    )


def ws():
    if not shutil.which("node") or not npm("ws"):
        return None
    return ["env", f"NODE_PATH={INSTALLED}/ws/node_modules", "node", str(PEERS / "ws-echo.cjs")]


def bun():
    program = INSTALLED / "bun" / "node_modules" / ".bin" / "bun"
    if not npm("bun") or not install(str(program), "--version"):
        return None
    return [str(program), str(PEERS / "bun-echo.js")]


def websockets():
    python = INSTALLED / "python" / "bin" / "python"
    if not python.exists() and not install("python3", "-m", "venv", str(INSTALLED / "python")):
        return None
    if not install(str(python), "-m", "pip", "install", f"websockets=={version_of('websockets')}"):
        return None
    return [str(python), str(PEERS / "websockets_echo.py")]


def tungstenite():
    target = {**os.environ, "CARGO_TARGET_DIR": str(INSTALLED / "cargo")}
    crate = "tokio-tungstenite-echo"
    if not install("cargo", "build", "--locked", "--profile", "judged", "-p", crate, cwd=PEERS, env=target):
        return None
    return [str(INSTALLED / "cargo" / "judged" / crate)]


RIGHT = {"ws": ws, "bun": bun, "websockets": websockets, "tungstenite": tungstenite}


class Server:
    """Started on a free port; ended with its `with`."""

    def __init__(self, command):
        self.process = subprocess.Popen([*command, "127.0.0.1:0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def __enter__(self):
        line = self.process.stdout.readline()
        found = re.search(r"ws://127\.0\.0\.1:\d+/", line)
        if not found:
            self.__exit__()
            raise RuntimeError(f"the server does not start: {line!r}")
        return found[0]

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


class Trials:
    def __init__(self, generator, engine):
        self.generator, self.engine = generator, engine
        self.made, self.failed = 0, 0

    def run(self, name, url, flags, expected):
        """One run of the generator; says what came of it."""
        self.made += 1
        codes, pattern = expected
        command = [self.generator, "run", url, "--engine", self.engine, *SHORT, *flags]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            said, _ = process.communicate(timeout=HANG_S)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            said, _ = process.communicate()
            return self.tell(name, flags, f"HANGS after {HANG_S} s", said, False)
        code, flat = process.returncode, " ".join(said.split())
        # A debug build says of everything that it is invalid.
        if code == 13 and said.count("INVALID") == said.count("debug build") > 0:
            code = 0
        panicked = "panicked" in said or code in (101, -signal.SIGABRT)
        fine = not panicked and code in codes and re.search(pattern, flat) is not None
        verdict = "PANICS" if panicked else f"exit {code}"
        return self.tell(name, flags, verdict, self.gist(code, said, flat), fine)

    @staticmethod
    def gist(code, said, flat):
        if code == 0:
            return next((line.strip() for line in said.splitlines() if "msg/s" in line), "")
        invalid = re.findall(r"INVALID: (?!the generator is a debug build)[^\n]*", said)
        wanted = re.search(r"sparring-loadgen: .*|echoes .*?(?= errors)", flat)
        return "; ".join([wanted[0] if wanted else flat, *invalid])

    def tell(self, name, flags, verdict, said, fine):
        self.failed += not fine
        print(f"{'ok  ' if fine else 'FAIL'} {name:<19} {verdict:<8} {' '.join(flags)}\n         {said[:200]}", flush=True)


def try_right(trials, name, command):
    """All sizes as binary and as text, alone and in a pipeline."""
    with Server(command) as url:
        for size in SIZES:
            for kind in ["--binary", "--text"]:
                window = LONGEST_WINDOW if size == LARGEST else LONG_WINDOW if size.endswith("MiB") else WINDOW
                trials.run(name, url, ["-d", window, "-s", size, kind], FINE)
        for kind in ["--binary", "--text"]:
            trials.run(name, url, ["-d", WINDOW, "-s", "100", kind, "--pipeline", "64"], FINE)


def try_wrong(trials):
    listed = subprocess.run([sys.executable, PEERS / "misbehaving.py", "--list"], stdout=subprocess.PIPE, text=True, check=True)
    faults = listed.stdout.split()
    unknown = set(faults) ^ set(EXPECTED)
    if unknown:
        sys.exit(f"any-server.py: faults without an expectation, or the other way round: {unknown}")
    for fault in faults:
        # Wrong ones get time to do what they are for.
        flags = ["-d", WINDOW if EXPECTED[fault] is FINE else "3s", "--timeout", "1s", "--connect-timeout", "1s"]
        if fault in DEEP:
            flags += ["--pipeline", "8"]
        with Server([sys.executable, str(PEERS / "misbehaving.py"), fault]) as url:
            trials.run(fault, url, flags, EXPECTED[fault])


def main():
    wanted = arguments()
    every = [*RIGHT, "misbehaving"]
    for name in wanted.servers:
        if name not in every:
            progress(f"no server is called {name}: {', '.join(every)}")
            return 2
    trials = Trials(built(wanted.generator), wanted.engine)
    for name in wanted.servers or every:
        if name == "misbehaving":
            try_wrong(trials)
            continue
        progress(f"{name}: installing")
        command = RIGHT[name]()
        if command is None:
            print(f"skipped: {name}: it cannot be had here")
            continue
        try_right(trials, name, command)
    print(f"{trials.made} trials, {trials.failed} went otherwise than they should")
    return int(trials.failed > 0)


if __name__ == "__main__":
    sys.exit(main())
