"""Where the peers differ from the specification or from Hutch: (runtime, test) and the reason.

A test named here is run all the same; when it fails, the table says ``differs``, and when the reason begins with
``unsupported:`` it says ``unsupported``. A newer version of the peer that passes is shown as passing.
The peers of this table are runc 1.1.5 and crun 1.8.1, those of Debian 12.
"""

from __future__ import annotations

ASYNCHRONOUS = "startContainer hooks run after start has returned: their failure is not start's"
NO_POLICY = "unsupported: linux.memoryPolicy is newer; it is passed over"
NO_DEVICES = "unsupported: linux.netDevices is newer; it is passed over"
NO_SCHEDULER = "unsupported: process.scheduler is newer; it is passed over"
NO_PRIORITY = "unsupported: process.ioPriority is newer; it is passed over"
NO_AFFINITY = "unsupported: process.execCPUAffinity is newer; it is passed over"
NO_OFFSETS = "unsupported: no time namespaces"
ATIME = "a recursive option of the access times clears one bit of the field alone, which the kernel refuses"

_OF_RUNC: dict[str, list[str]] = {
    "the version of the specification is not looked at": ["config.wrong_versions"],
    "unsupported: domainname is newer; it is passed over": ["config.domainname"],
    "unsupported: personality is newer; it is passed over": ["config.personality", "config.unknown_personality"],
    NO_POLICY: ["config.memory_policy", "config.invalid_memory_policy", "features.memory_policy"],
    NO_DEVICES: ["namespaces.net_devices", "namespaces.wrong_net_devices"],
    NO_SCHEDULER: ["process.scheduler", "process.wrong_scheduler", "exec.scheduling_of_exec"],
    NO_PRIORITY: ["process.io_priority", "process.wrong_io_priority"],
    NO_AFFINITY: ["exec.affinity", "exec.affinity_of_the_configuration", "exec.wrong_affinity"],
    NO_OFFSETS: ["namespaces.time_namespace", "namespaces.time_offsets", "namespaces.wrong_time_offsets[no namespace]"],
    "unsupported: cpu.burst, cpu.idle are newer; they are passed over": [
        "cgroups.resources[cpu quota period burst cfs_burst_us 20000]", "cgroups.resources[cpu idle idle 1]"],
    "memory.kernelTCP is passed over": ["cgroups.resources[memory kernelTCP kmem.tcp.limit_in_bytes 16777216]"],
    "a weight that the kernel has no file for is passed over": ["cgroups.missing_controllers[blockIO weight]"],
    "a device that is there already is left, whatever it is": ["devices.device_over_another_file"],
    "a default device that is listed is made anew, and then may not be opened": ["devices.device_that_is_there"],
    "process.umask and oomScoreAdj of exec are passed over": ["exec.umask_of_exec", "exec.oom_score_of_exec"],
    "unsupported: features of this version do not speak of it": ["features.enabled[intelRdt]", "features.idmap", "features.newest"],
    "the option `defaults` is given to the file system": ["features.mount_options", "mounts.required_options[defaults]"],
    "poststart hooks run as a part of create": ["hooks.order", "hooks.hooks_of_run", "hooks.failing_poststart", "hooks.status_on_stdin[poststart-running]"],
    "the hooks after a failing poststop hook are not called": ["hooks.failing_poststop"],
    ASYNCHRONOUS: ["hooks.failing_start_container", "hooks.missing_program[startContainer]"],
    "unsupported: id-mapped mounts are newer; the mapping is passed over": [
        "mounts.idmap", "mounts.idmap_of_nothing", "mounts.idmap_of_the_container", "mounts.idmap_without_a_user_namespace"],
    "a tmpfs gets the mode of the directory below it, whatever its own options": ["mounts.mode_of_a_tmpfs"],
    ATIME: ["mounts.recursive_options[times]"],
    "the root is made a slave again after rootfsPropagation": [
        "mounts.rootfs_propagation[shared-shared:]", "mounts.rootfs_propagation[rshared-shared:]"],
    "rootfsPropagation is set before the root is bound, which an unbindable one cannot be": ["mounts.rootfs_propagation[unbindable-unbindable]"],
    "a user namespace that is joined wants mappings too": ["namespaces.joined_user"],
    "a capability that cannot be granted is a failure": ["process.ungrantable_capability[CAP_SYS_RESOURCE]"],
    "of duplicate rlimits the last counts": ["process.wrong_rlimits[RLIMIT_NOFILE,RLIMIT_NOFILE]"],
    "kill --all needs a cgroup": ["rootless.kill_all"],
    "additional groups are refused to an ordinary user, mapped or not": ["rootless.subordinate_user"],
    "an errno where the action has none is passed over": ["seccomp.errno_where_there_is_none"],
    "unsupported: seccomp flags are refused": [
        "seccomp.flags[LOG]", "seccomp.flags[SPEC_ALLOW]", "seccomp.flags[TSYNC]", "seccomp.flags[LOG,SPEC_ALLOW]", "seccomp.flag_of_the_listener"],
    "a rule without names is passed over": ["seccomp.wrong_values[no names]"],
}  # fmt: skip

_OF_CRUN: dict[str, list[str]] = {
    "unsupported: no command `features`": ["features"],
    "unsupported: no command `events`": ["cgroups.events"],
    "unsupported: no option --keep": ["commands.run_keep"],
    "unsupported: no option --ignore-paused": ["exec.ignore_paused"],
    "unsupported: versions after 1.0 are refused": ["config.versions[1.2.1]", "config.versions[1.3.0]"],
    NO_POLICY: ["config.memory_policy", "config.invalid_memory_policy"],
    NO_DEVICES: ["namespaces.net_devices", "namespaces.wrong_net_devices"],
    NO_SCHEDULER: ["process.scheduler", "process.wrong_scheduler", "exec.scheduling_of_exec"],
    NO_PRIORITY: ["process.io_priority", "process.wrong_io_priority"],
    NO_AFFINITY: ["exec.affinity", "exec.affinity_of_the_configuration", "exec.wrong_affinity"],
    NO_OFFSETS: ["namespaces.time_namespace", "namespaces.time_offsets", "namespaces.wrong_time_offsets[no namespace]"],
    "unsupported: cpu.burst is newer; it is passed over": ["cgroups.resources[cpu quota period burst cfs_burst_us 20000]"],
    "-1 is written as a number without a sign": ["cgroups.resources[cpu quota cfs_quota_us -1]", "cgroups.resources[pids limit max max]"],
    "rdma is passed over": ["cgroups.missing_controllers[rdma]"],
    "the cgroup stays after a failed create": ["cgroups.refused_values"],
    "resume of a container that runs is no error": ["cgroups.wrong_pause[resume]"],
    "the first column of list is NAME, and there is no OWNER": ["commands.list"],
    "an unknown capability is passed over in silence": ["commands.warning_in_the_log", "process.ungrantable_capability[CAP_NOVEL]"],
    "a capability that cannot be granted is a failure": ["process.ungrantable_capability[CAP_SYS_RESOURCE]"],
    "intelRdt is passed over where there is none": ["config.intel_rdt"],
    "a wrong value is passed over": [
        "config.invalid_values[process args true cwd relative]", "config.invalid_values[process args true]", "config.invalid_values[linux rootfsPropagation nonsense]",
        "devices.unknown_type", "seccomp.wrong_values[flags]"],
    "mountLabel is passed over where there is no SELinux": ["config.labels_without_a_module[mountLabel]"],
    "a denial that the kernel's list cannot say is passed over: the device can be opened": ["devices.denial_after_allowance"],
    "a device that is there already is left, whatever it is": ["devices.device_over_another_file"],
    "unsupported: no option --additional-gids": ["exec.additional_groups"],
    "exec --cap replaces the capabilities instead of adding to them": ["exec.capabilities"],
    "exec without options is root's, in /": ["exec.defaults"],
    "exec --env replaces the environment instead of adding to it": [
        "exec.options[--env A=b c --env D=e-echo $A $D $OWN-b c e 1]", "exec.options[-e A=1 -e D=2-echo $A $D-1 2]", "exec.options[--env OWN=2-echo $OWN-2]"],
    "oomScoreAdj of exec is passed over": ["exec.oom_score_of_exec"],
    "a failing poststart hook is passed over": ["hooks.failing_poststart"],
    ASYNCHRONOUS: ["hooks.failing_start_container", "hooks.missing_program[startContainer]", "hooks.order"],
    "poststop hooks are not called after a failed create": ["hooks.poststop_after_a_failed_create"],
    "the state of startContainer hooks has / as its bundle": ["hooks.state_on_stdin[startContainer]"],
    "hooks of create see the status created, and startContainer's `starting`": [
        "hooks.status_on_stdin[prestart-creating]", "hooks.status_on_stdin[createRuntime-creating]", "hooks.status_on_stdin[createContainer-creating]",
        "hooks.status_on_stdin[startContainer-created]"],
    "an id may have blanks and line ends": ["lifecycle.invalid_id['a b']", "lifecycle.invalid_id['a\\\\nb']"],
    "an unknown signal is sent as 0": ["lifecycle.unknown_signal[SIGNOTHING]"],
    "of a bind mount, an option does not take back an earlier one": ["mounts.bind_options[taken back]"],
    "nosymfollow is lost": ["mounts.bind_options[nosymfollow]", "mounts.recursive_options[links]"],
    ATIME: ["mounts.bind_options[recursive times]", "mounts.recursive_options[times]"],
    "LISTEN_FDS is not set": ["process.listening_descriptors[LISTEN_FDS-1]"],
    "ridmap is passed over": ["mounts.idmap_of_the_container[ridmap]"],
    "the propagation of a mount other than slave and private is lost": [
        "mounts.propagation[shared]", "mounts.propagation[unbindable]", "mounts.required_options[propagation]"],
    "the options `loud` and `iversion` are given to the file system": ["mounts.required_options[filesystem's]", "mounts.required_options[iversion]"],
    "of duplicate namespaces the last counts": ["namespaces.duplicates"],
    "HOME is empty for a user that passwd does not name": ["process.home[4321-env3-/]"],
    "of duplicate rlimits the last counts": ["process.wrong_rlimits[RLIMIT_NOFILE,RLIMIT_NOFILE]"],
    "kill --all without a cgroup reaches nobody, and says nothing": ["rootless.kill_all"],
    "a limit that an ordinary user cannot set is passed over": ["rootless.limits"],
    "an ordinary user gets a user namespace that the configuration does not name": ["rootless.no_user_namespace"],
    "the state in the container process state has no bundle": ["seccomp.listener"],
    "listenerPath is opened though nothing needs it": ["seccomp.listener_that_is_not_used"],
    "listenerMetadata and SCMP_ACT_NOTIFY without a listenerPath are passed over": ["seccomp.wrong_listener[metadata alone]", "seccomp.wrong_listener[no path]"],
    "a rule without names is passed over": ["seccomp.wrong_values[no names]"],
}  # fmt: skip

DIFFERENCES = {(runtime, test): reason for runtime, table in (("runc", _OF_RUNC), ("crun", _OF_CRUN)) for reason, tests in table.items() for test in tests}


def reason_for(runtime: str, module: str, name: str) -> str | None:
    """The reason of a difference: of one test with its parameters, of a whole function, or of a whole module."""
    names = (f"{module}.{name}", f"{module}.{name.split('[')[0]}", module)
    return next((reason for one in names if (reason := DIFFERENCES.get((runtime, one)))), None)
