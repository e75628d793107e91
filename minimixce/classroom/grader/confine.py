"""What a process that runs a student's code gives up before it does: rights, files, resources.

Linux only, by three system calls and prctl through ctypes; elsewhere `confine` sets the limits that
there are. This file imports nothing of the package. It is one of the files that the sandbox holds.
"""

import ctypes
import errno
import os
import platform
import struct
import sys

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_NO_NEW_PRIVS, _SET_DUMPABLE, _SET_PDEATHSIG, _SET_SECCOMP = 38, 4, 1, 22


def protect() -> None:
    """Keep processes of the same user from reading or changing this one's memory."""
    if sys.platform == "linux":
        _libc().prctl(_SET_DUMPABLE, 0, 0, 0, 0)


def confine(limits: dict) -> None:
    """Give up, in this process and all that it might start, what a student's code does not need.

    limits: "tier", the isolation's name; "uid" to become, or None; "seconds" of computing;
    "memory" in bytes; "readable", the paths that the tier "user" leaves readable, and the folders
    that it only lets be listed. Raises OSError where the system refuses what the tier asks for.
    """
    if resource is not None:
        _limit_resources(limits)
    if sys.platform != "linux":
        return
    libc = _libc()
    libc.prctl(_SET_PDEATHSIG, 9, 0, 0, 0)
    if limits["tier"] == "none":
        return
    if limits.get("uid") is not None:
        os.setgroups([])
        os.setresgid(limits["uid"], limits["uid"], limits["uid"])
        os.setresuid(limits["uid"], limits["uid"], limits["uid"])
        libc.prctl(_SET_PDEATHSIG, 9, 0, 0, 0)  # a change of user clears it
    protect()
    _must(libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    if limits["tier"] == "user":
        _landlock(libc, *limits["readable"])
    _seccomp(libc)


def _libc():
    return ctypes.CDLL(None, use_errno=True)


def _must(result, what):
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def _limit_resources(limits):
    seconds = limits["seconds"]
    wanted = {
        "RLIMIT_CPU": (seconds, seconds + 1),
        "RLIMIT_AS": (limits["memory"],) * 2,
        "RLIMIT_FSIZE": (1 << 20,) * 2,
        "RLIMIT_NOFILE": (64, 64),
        "RLIMIT_CORE": (0, 0),
    }
    if limits["tier"] != "none":
        wanted["RLIMIT_NPROC"] = (0, 0)  # binds once the user is not root
    for name, pair in wanted.items():
        kind = getattr(resource, name, None)
        if kind is None or (name == "RLIMIT_AS" and sys.platform == "darwin"):
            continue
        _, most = resource.getrlimit(kind)
        if most != resource.RLIM_INFINITY:
            pair = tuple(min(value, most) for value in pair)
        resource.setrlimit(kind, pair)


# ---- Landlock: which files may be read -----------------------------------------------------------

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # the same on all architectures
_EXECUTE, _READ_FILE, _READ_DIR = 1, 4, 8
_ALL_FILE_RIGHTS = (13, 14, 15, 15, 16)  # how many there are, by the kernel's version of Landlock


def _landlock(libc, readable, listable):
    """Refuse all files but those under the paths in `readable`, which may be read, and listing all
    folders but those and the ones under `listable`.
    """
    version = libc.syscall(_CREATE, None, ctypes.c_size_t(0), 1)
    _must(version, "Landlock")
    handled = (1 << _ALL_FILE_RIGHTS[min(version, len(_ALL_FILE_RIGHTS)) - 1]) - 1
    attributes = struct.pack("=Q", handled)
    ruleset = libc.syscall(_CREATE, attributes, ctypes.c_size_t(len(attributes)), 0)
    _must(ruleset, "Landlock")
    for path in (*readable, *listable):
        try:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        rights = _READ_DIR if os.path.isdir(path) else 0
        rights |= _READ_FILE | _EXECUTE if path in readable else 0
        rule = struct.pack("=Qi", rights, place)
        _must(libc.syscall(_ADD, ruleset, 1, rule, 0), "Landlock")
        os.close(place)
    _must(libc.syscall(_RESTRICT, ruleset, 0), "Landlock")
    os.close(ruleset)


# ---- seccomp: which system calls are refused -----------------------------------------------------

# x86_64, aarch64; None where an architecture has no such call
_REFUSED = {
    "fork": (57, None),
    "vfork": (58, None),
    "clone": (56, 220),
    "execve": (59, 221),
    "execveat": (322, 281),
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "connect": (42, 203),
    "bind": (49, 200),
    "accept": (43, 202),
    "accept4": (288, 242),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "memfd_create": (319, 279),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "setsid": (112, 157),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    "setrlimit": (160, 164),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
    "sched_setaffinity": (203, 122),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "prlimit64": (302, 261),  # which lowers the limits of other processes, too
    "kcmp": (312, 272),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "shmat": (30, 196),
    "semop": (65, 193),
    "msgsnd": (69, 189),
    "inotify_init1": (294, 26),
    "fanotify_init": (300, 262),
}
# calls refused with some second arguments: those that have the kernel send a signal, by which a
# program could end the process that watches over it, where that has the same user
_REFUSED_SECOND = {
    "fcntl": ((72, 25), (8, 10, 15)),  # F_SETOWN, F_SETSIG, F_SETOWN_EX
    "ioctl": ((16, 29), (0x8901, 0x8902)),  # FIOSETOWN, SIOCSPGRP
}
_CLONE3 = 435
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050000, 0x80000000


def _seccomp(libc):
    """Refuse the system calls in _REFUSED, as "not permitted"; clone3 as unknown, so that the C
    library tries clone. Another architecture's calls end the process.
    """
    column, architecture = _ARCHITECTURES.get(platform.machine(), (None, None))
    if column is None:
        raise OSError(errno.ENOSYS, f"no list of system calls for {platform.machine()}")
    numbers = sorted(pair[column] for pair in _REFUSED.values() if pair[column] is not None)
    load, equal, at_least, done = 0x20, 0x15, 0x35, 0x06
    lines = [(load, 0, 0, 4), (equal, 1, 0, architecture), (done, 0, 0, _KILL), (load, 0, 0, 0)]
    if column == 0:  # the x32 calls, which have this bit
        lines += [(at_least, 0, 1, 0x40000000), (done, 0, 0, _KILL)]
    lines += [(equal, 0, 1, _CLONE3), (done, 0, 0, _REFUSE | errno.ENOSYS)]
    for number in numbers:
        lines += [(equal, 0, 1, number), (done, 0, 0, _REFUSE | errno.EPERM)]
    for pair, values in _REFUSED_SECOND.values():
        lines.append((equal, 0, 2 * len(values) + 2, pair[column]))
        lines.append((load, 0, 0, 24))  # the lower half of the second argument
        for value in values:
            lines += [(equal, 0, 1, value), (done, 0, 0, _REFUSE | errno.EPERM)]
        lines.append((load, 0, 0, 0))
    lines.append((done, 0, 0, _ALLOW))
    code = b"".join(struct.pack("=HBBI", *line) for line in lines)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxP", len(lines), ctypes.addressof(buffer))
    _must(libc.prctl(_SET_SECCOMP, 2, program, 0, 0), "seccomp")
