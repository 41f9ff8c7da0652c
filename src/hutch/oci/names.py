"""The runtime-spec's own words: JSON names that camel case does not give, and what a text of it may be."""

from __future__ import annotations

JSON_NAMES = {
    "container_id": "containerID", "host_id": "hostID", "class_id": "classID", "clos_id": "closID",
    "kernel_tcp": "kernelTCP", "disable_oom_killer": "disableOOMKiller", "block_io": "blockIO",
    "throttle_read_iops_device": "throttleReadIOPSDevice", "throttle_write_iops_device": "throttleWriteIOPSDevice",
    "enable_cmt": "enableCMT", "enable_mbm": "enableMBM", "exec_cpu_affinity": "execCPUAffinity", "class_": "class",
}  # fmt: skip
ACTIONS = (
    "SCMP_ACT_KILL SCMP_ACT_KILL_PROCESS SCMP_ACT_KILL_THREAD SCMP_ACT_TRAP SCMP_ACT_ERRNO SCMP_ACT_TRACE SCMP_ACT_ALLOW SCMP_ACT_LOG SCMP_ACT_NOTIFY"
).split()
NAMESPACE_TYPES = "pid network mount ipc uts user cgroup time".split()
CHOICES: dict[tuple[str, str], list[str]] = {
    ("Namespace", "type"): NAMESPACE_TYPES,
    ("Device", "type"): ["c", "b", "u", "p"],
    ("DeviceRule", "type"): ["a", "c", "b"],
    ("Seccomp", "default_action"): ACTIONS,
    ("SeccompRule", "action"): ACTIONS,
    ("SeccompArgument", "op"): "SCMP_CMP_NE SCMP_CMP_LT SCMP_CMP_LE SCMP_CMP_EQ SCMP_CMP_GE SCMP_CMP_GT SCMP_CMP_MASKED_EQ".split(),
    ("Linux", "rootfs_propagation"): ["", "shared", "slave", "private", "unbindable", "rshared", "rslave", "rprivate", "runbindable"],
    ("Scheduler", "policy"): "SCHED_OTHER SCHED_FIFO SCHED_RR SCHED_BATCH SCHED_ISO SCHED_IDLE SCHED_DEADLINE".split(),
    ("IoPriority", "class_"): ["IOPRIO_CLASS_RT", "IOPRIO_CLASS_BE", "IOPRIO_CLASS_IDLE"],
    ("Personality", "domain"): ["LINUX", "LINUX32"],
}
