#!/usr/bin/env python3
"""Runs a command under a container engine's seccomp profile, without a container.

usage: under_seccomp.py PROFILE.json COMMAND [ARGUMENT]...

Needs libseccomp.so.2, which Debian always has. Knows what seccomp.json beside it uses: a default
action that is an error and lists of names that are allowed.
"""
import ctypes
import json
import os
import sys

ALLOW = 0x7FFF0000
ERRNO = 0x00050000

if len(sys.argv) < 3:
    sys.exit(__doc__.split('\n\n')[1])
with open(sys.argv[1], encoding='utf-8') as file:
    profile = json.load(file)
if profile['defaultAction'] != 'SCMP_ACT_ERRNO':
    sys.exit(f'{sys.argv[1]}: the default action is not SCMP_ACT_ERRNO')
library = ctypes.CDLL('libseccomp.so.2', use_errno=True)
library.seccomp_init.restype = ctypes.c_void_p
default = ctypes.c_uint32(ERRNO | profile['defaultErrnoRet'])
context = ctypes.c_void_p(library.seccomp_init(default))
for rule in profile['syscalls']:
    if rule['action'] != 'SCMP_ACT_ALLOW' or rule.get('args'):
        sys.exit(f'{sys.argv[1]}: not understood: {rule}')
    for name in rule['names']:
        number = library.seccomp_syscall_resolve_name(name.encode())
        # Calls of other architectures, and those younger than the library, have none here.
        if number >= 0:
            library.seccomp_rule_add(context, ctypes.c_uint32(ALLOW), number, ctypes.c_uint(0))
error = library.seccomp_load(context)
if error:
    sys.exit(f'seccomp_load: {os.strerror(-error)}')
os.execvp(sys.argv[2], sys.argv[2:])
