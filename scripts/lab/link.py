#!/usr/bin/env python3
"""A network link in user space: two TUN devices, each in a network namespace of its own.

Forwards packets between them with a delay, a seeded loss and a rate, as `tc netem` does on a veth
pair. scripts/lab/two-hosts.sh uses it where the kernel has no netem. Prints a line on standard
output once both ends are up, and ends when its parent does.
"""

import argparse
import collections
import contextlib
import ctypes
import fcntl
import gc
import os
import random
import re
import select
import signal
import struct
import subprocess
import sys
import time

# linux/if_tun.h and linux/prctl.h.
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
PR_SET_PDEATHSIG, PR_SET_TIMERSLACK = 1, 29
# Packets that a direction holds, as `limit` of netem; those beyond it are lost.
LIMIT = 10_000
# Packets that are read from one end before the other end has its turn.
BATCH = 64
# More than the MTU of a device.
LARGEST = 2048

UNITS_NS = {"us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}
UNITS_BIT = {"": 1, "k": 1_000, "m": 1_000_000, "g": 1_000_000_000}


def delay(text):
    """Reads a time such as 5ms, in nanoseconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(us|ms|s)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"`{text}` is not a valid delay: expected 5ms or 250us")
    return round(float(match[1]) * UNITS_NS[match[2]])


def loss(text):
    """Reads a share such as 1%."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)%", text)
    if not match or float(match[1]) > 100:
        raise argparse.ArgumentTypeError(f"`{text}` is not a valid loss: expected 0% to 100%")
    return float(match[1]) / 100


def rate(text):
    """Reads a rate such as 100mbit, in bits a second."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmg]?)bit", text)
    if not match or float(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"`{text}` is not a valid rate: expected 100mbit")
    return float(match[1]) * UNITS_BIT[match[2]]


class Direction:
    """The packets on their way from one end to the other."""

    def __init__(self, source, sink, arguments, number):
        self.source, self.sink = source, sink
        self.delay, self.loss = arguments.delay, arguments.loss
        self.bit_ns = 1e9 / arguments.rate if arguments.rate else 0
        self.random = random.Random(f"{arguments.seed}/{number}")
        self.waiting = collections.deque()
        # The time at which the last packet has left the sender.
        self.free = 0

    def receive(self):
        """Takes what has arrived at the source."""
        for _ in range(BATCH):
            try:
                packet = os.read(self.source, LARGEST)
            except OSError:  # Nothing is there, or the device is down.
                return
            if self.random.random() < self.loss or len(self.waiting) >= LIMIT:
                continue
            now = time.monotonic_ns()
            self.free = max(now, self.free) + round(8 * len(packet) * self.bit_ns)
            self.waiting.append((self.free + self.delay, packet))

    def deliver(self):
        """Hands over what is due. Returns the time at which the next packet is, if there is one."""
        while self.waiting:
            due, packet = self.waiting[0]
            if due > time.monotonic_ns():
                return due
            self.waiting.popleft()
            with contextlib.suppress(OSError):  # A device that is down takes nothing.
                os.write(self.sink, packet)
        return None


def open_end(number, namespace, address):
    """Makes a TUN device and moves it into the namespace. Its descriptor stays here."""
    end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    # The kernel replaces %d.
    asked = struct.pack("16sH22x", b"sparring%d", IFF_TUN | IFF_NO_PI)
    name = fcntl.ioctl(end, TUNSETIFF, asked)[:16].rstrip(b"\0").decode()
    subprocess.run(["ip", "link", "set", name, "netns", namespace], check=True)
    there = ["ip", "-netns", namespace]
    for words in (
        # Only what both programs send is to pass: no packets of IPv6 that look for routers.
        ["link", "set", name, "name", f"link{number}", "addrgenmode", "none", "txqueuelen", str(LIMIT)],
        ["address", "add", f"{address}/24", "dev", f"link{number}"],
        ["link", "set", f"link{number}", "up"],
    ):
        subprocess.run([*there, *words], check=True)
    return end


def be_exact():
    """Wakes up on time, and ends with the parent."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # Other processes of this machine must not delay packets. Some containers do not permit it.
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    gc.disable()


def forward(directions):
    """Carries packets until the process is ended."""
    ends = {direction.source: direction for direction in directions}
    while True:
        due = [at for direction in directions if (at := direction.deliver()) is not None]
        timeout = max(0, min(due) - time.monotonic_ns()) / 1e9 if due else None
        for end in select.select(list(ends), [], [], timeout)[0]:
            ends[end].receive()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--delay", type=delay, default=0, metavar="5ms", help="of each direction")
    parser.add_argument("--loss", type=loss, default=0, metavar="1%", help="of each direction")
    parser.add_argument("--rate", type=rate, default=None, metavar="100mbit")
    parser.add_argument("--seed", type=int, default=1, help="of the losses")
    parser.add_argument("ends", nargs=4, metavar="NAMESPACE ADDRESS")
    arguments = parser.parse_args()
    be_exact()
    pairs = [arguments.ends[:2], arguments.ends[2:]]
    one, other = (open_end(number, *pair) for number, pair in enumerate(pairs, 1))
    print("up", flush=True)
    forward([Direction(one, other, arguments, 1), Direction(other, one, arguments, 2)])


if __name__ == "__main__":
    try:
        main()
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"link.py: cannot make the link: {error}")
