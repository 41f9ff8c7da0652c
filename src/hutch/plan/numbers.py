"""The numbers by which Python and the executor understand each other. This is the only place that has them: the build writes
executor/numbers.h from it.
"""

from __future__ import annotations

# operations of a plan, by the names of `hutch.plan.ops` in capitals
OPERATIONS = {
    "WAIT": 1, "SIGNAL": 2, "OPEN_TREE": 3, "OPEN": 4, "JOIN": 5, "RLIMIT": 6, "PIPE": 7,
    "MAKE_FILESYSTEM": 8, "MAKE_DIRECTORY": 9, "MAKE_SYMLINK": 10, "MAKE_FILE": 11, "MAKE_NODE": 12,
    "SET_XATTR": 13, "OPEN_AT": 14, "AFFINITY": 15, "SOCKET_PAIR": 16, "LISTEN": 17, "PROTECT": 18,
    "HOST_DIRECTORY": 20, "HOST_WRITE": 21, "HOST_RECORD": 22, "CLONE": 23, "PROC_WRITE": 24,
    "MAP_HELPER": 25, "OPEN_NAMESPACE": 26, "DEVICE_PROGRAM": 27, "READ_AT_EXIT": 28, "KILL_AT_EXIT": 29,
    "WRITE_PID": 30, "CALL_OWNER": 31, "INHERIT": 32, "EXPORT": 33, "LOG": 34, "EXIT_FILE": 35,
    "TAKE_DESCRIPTOR": 36, "MAKE_USER_NAMESPACE": 37, "HOST_WRITE_PID": 38, "HOLD_LAYER": 39,
    "SET_IDS": 40, "PROPAGATION": 41, "ATTACH": 42, "SET_ATTRIBUTES": 43, "PIVOT": 44, "MASK": 45,
    "READ_ONLY": 46, "HOSTNAME": 47, "DOMAINNAME": 48, "WRITE_AT": 49, "LOOPBACK": 50, "UNSHARE": 51,
    "ENTER_CGROUP": 52, "KEYRING": 53, "NEW_SESSION": 54, "TERMINAL": 55, "STDIO": 56,
    "CLOSE_DESCRIPTORS": 57, "CAPABILITIES": 58, "NO_NEW_PRIVILEGES": 59, "SECCOMP": 60, "UMASK": 61,
    "CHANGE_DIRECTORY": 62, "PERSONALITY": 63, "SCHEDULER": 64, "IO_PRIORITY": 65, "FIND_PROGRAM": 67,
    "EXECUTE": 68, "INIT": 69, "PARENT_DEATH": 70, "COPY_UP": 72, "AWAIT_START": 73, "RUN_HOOK": 74,
    "RESPAWN": 75, "HOME": 76, "OWN_STDIO": 77, "CHANGE_ROOT": 78, "MEMORY_POLICY": 79, "NETLINK": 80,
    "BESIDE": 81, "TAP": 82, "DETACH": 83, "MACHINE": 84, "REMOTE": 85, "MEMORY": 86, "CLONE_INSIDE": 87,
    "CONTROLLING_TERMINAL": 88, "HOLD_SHARED": 100, "PUBLISH": 101, "RETURN_DEVICE": 102,
    "ENTER_USER_NETWORK": 103, "WATCH": 104, "TAKE_OVER": 105, "CHECK_ROOM": 106, "RESERVE": 107,
}  # fmt: skip

# messages from an executor to its owner
MESSAGES = {"READY": 1, "FAILED": 2, "EXITED": 3, "DATA": 4, "CALL": 5}
# and from the owner to its executor
ORDERS = {"SEND_SIGNAL": 1, "KILL_TREE": 2, "ANSWER": 4}

# frames between a machine's two sides: from the host to the guest below 32, the other way above
FRAMES = {
    "SETUP": 1, "PLAN": 2, "START": 3, "INPUT": 4, "CREDIT": 5, "TO_EXECUTOR": 6, "RESIZE": 7,
    "HANG_UP": 8, "READ_FILE": 9, "NETWORK": 10, "SHUT_DOWN": 11, "QUIESCE": 12, "RESUME": 13, "HELLO": 32,
    "OUTPUT": 33, "ERRORS": 34, "INPUT_CREDIT": 35, "FROM_EXECUTOR": 36, "ENDED": 37, "FILE_CONTENT": 38,
    "GUEST_FAILED": 39, "QUIET": 40,
}  # fmt: skip

# of a command's START frame
START = {"START_TERMINAL": 1, "START_ENTER": 2, "START_RESUMED": 4}
# of a whole plan: how it begins ("HOPL"), and what kind it is
HEAD = {"PLAN_MAGIC": 0x4C504F48, "PLAN_VERSION": 1}
FLAGS = {"FLAG_DETACH": 1, "FLAG_LEAVE": 2}
# how much there may be: slots of a plan; bytes of a message's text, and of a frame
LIMITS = {"MAX_SLOTS": 1024, "DETAIL": 512, "FRAME_MOST": 16384}


def header() -> str:
    """The tables in C."""
    tables = (OPERATIONS, MESSAGES, ORDERS, FRAMES, START, HEAD, FLAGS, LIMITS)
    lines = ["/* Written by the build from hutch/plan/numbers.py. */", "#ifndef HUTCH_NUMBERS_H", "#define HUTCH_NUMBERS_H"]
    for numbers in tables:
        lines += ["enum {", *(f"    {name} = {number}," for name, number in numbers.items()), "};"]
    return "\n".join((*lines, "#endif", ""))
