"""The paths of /proc and /sys that engines hide and freeze: Docker's list, which runtimes and images count on."""

MASKED = (
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
    "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap",
    "/sys/firmware",
)  # fmt: skip
READONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

# Files of /etc that every container has of its own, whatever its image holds.
GENERATED = ("/etc/hostname", "/etc/hosts", "/etc/resolv.conf")
