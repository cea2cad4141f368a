"""Which system calls a sandboxed process may not make: those that reach beyond namespaces and limits."""

from __future__ import annotations

import platform
import struct
from collections.abc import Mapping, Sequence
from functools import cache

_FORBIDDEN: Mapping[str, Sequence[int]] = {
    # ptrace, process_vm_*; add_key, request_key, keyctl; bpf, perf_event_open, userfaultfd; io_uring_*; memfd_*;
    # shmget, semget, msgget; mount, umount2, pivot_root, chroot, the new mount calls; unshare, setns;
    # modules, kexec; file handles
    "x86_64": (
        *(101, 310, 311, 248, 249, 250, 321, 298, 323, 425, 426, 427, 319, 447, 29, 64, 68, 165, 166, 155, 161),
        *(428, 429, 430, 431, 432, 433, 442, 272, 308, 175, 313, 176, 246, 320, 303, 304),
    ),
    "aarch64": (
        *(117, 270, 271, 217, 218, 219, 280, 241, 282, 425, 426, 427, 279, 447, 194, 190, 186, 40, 39, 41, 51),
        *(428, 429, 430, 431, 432, 433, 442, 97, 268, 105, 273, 106, 104, 294, 264, 265),
    ),
}
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_SOCKET = {"x86_64": 41, "aarch64": 198}
_FAMILIES = (1, 2, 10, 16)
"""Of sockets: Unix, IPv4, IPv6 and netlink, which namespaces contain. Others lead out: AF_VSOCK to a VM's host."""


@cache
def program() -> bytes:
    """A BPF program that answers the forbidden calls with EPERM and ends a process of another architecture.

    Raises:
        ValueError: the calls of this machine's processor are not known.
    """
    machine = platform.machine()
    if machine not in _FORBIDDEN:
        raise ValueError(f"no filter of system calls for {machine}; known: {', '.join(_FORBIDDEN)}")
    load, equal, at_least, answer = 0x20, 0x15, 0x35, 0x06
    permitted, refused, killed = 0x7FFF0000, 0x00050001, 0x80000000
    numbers = _FORBIDDEN[machine]
    family = 7 + len(numbers)  # where the check of a socket's family begins
    refusal = family + 1 + len(_FAMILIES)
    lines = [(load, 0, 0, 4), (equal, 1, 0, _ARCHITECTURES[machine]), (answer, 0, 0, killed), (load, 0, 0, 0)]

    def jump(test: int, value: int, target: int) -> None:
        lines.append((test, target - len(lines) - 1, 0, value))

    jump(at_least, 0x40000000, refusal)  # the x32 calls of x86-64 carry bit 30
    jump(equal, _SOCKET[machine], family)
    for number in numbers:
        jump(equal, number, refusal)
    lines += [(answer, 0, 0, permitted), (load, 0, 0, 16)]
    for known in _FAMILIES:
        jump(equal, known, refusal + 1)
    lines += [(answer, 0, 0, refused), (answer, 0, 0, permitted)]
    return b"".join(struct.pack("=HBBI", *line) for line in lines)
