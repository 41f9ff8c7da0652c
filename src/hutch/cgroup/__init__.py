"""Control groups v1, hybrid and v2, on cgroupfs or by systemd's delegation: limits, numbers, events, freezing, killing."""
