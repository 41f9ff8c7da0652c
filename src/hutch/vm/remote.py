"""The plan of a command in a machine that runs."""

from __future__ import annotations

from hutch.executor.launcher import FIRST_EXTRA
from hutch.kernel.features import Features
from hutch.oci.config import CapabilitySets, Process, Seccomp, User
from hutch.plan import ops
from hutch.plan.ops import slot
from hutch.plan.plan import Plan
from hutch.record import Record
from hutch.runtime import process as steps
from hutch.runtime.builder import O_DIRECTORY, O_PATH
from hutch.runtime.compile import PIDFD
from hutch.runtime.enter import EnterRequest, compile_enter
from hutch.runtime.profile import default_profile
from hutch.vm.compile import GUEST_CGROUP, GUEST_NAMESPACES, confined, terminal_of
from hutch.vm.features import guest_features

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hutch.vm.compile import Parts

RELAY = slot("relay")
NOBODY = 65534


class RemoteRequest(Record):
    """A command in a machine's container. `child_cgroup` as in `EnterRequest`."""

    user_namespace: bool
    child_cgroup: str = ""


def compile_remote(process: Process, seccomp: Seccomp | None, request: RemoteRequest, parts: Parts, features: Features) -> Plan:
    """A process outside that stands for the command, and the plan that the guest carries out. The executor is handed a connection
    to the machine's door as its first extra descriptor. Raises ConfigError."""
    place = f"/sys/fs/cgroup{GUEST_CGROUP}"
    own = ("user",) if request.user_namespace else ()
    enter = EnterRequest(namespaces=(*GUEST_NAMESPACES, *own), cgroup_paths={"": place}, target_fd=FIRST_EXTRA, child_cgroup=request.child_cgroup)
    guest = compile_enter(process, seccomp, enter, guest_features(parts.kernel, features.machine, parts.machine.cpus))
    origin, size = "exec", process.console_size
    host: list[ops.Operation] = [
        ops.Inherit(into=RELAY, number=FIRST_EXTRA, origin=origin),
        ops.Clone(flags=0, into=PIDFD, origin=origin),
        ops.Wait(barrier=9, release=True),
    ]
    container: list[ops.Operation] = [ops.Protect(origin=origin)]
    if process.terminal:
        devices = slot("dev")
        host.insert(0, ops.Export(value=steps.MASTER, origin="process.terminal"))
        container += [
            ops.NewSession(origin="process.terminal"),
            ops.Open(path="/dev", flags=O_PATH | O_DIRECTORY, into=devices, origin="process.terminal"),
            ops.Terminal(
                devpts=devices, master=steps.MASTER, peer=steps.PEER, rows=size.height if size else 0, columns=size.width if size else 0,
                origin="process.terminal",
            ),
        ]  # fmt: skip
    container += [ops.CloseDescriptors(keep=(RELAY,), origin=origin), ops.Signal(barrier=9)]
    if not process.terminal:
        container.append(ops.NewSession(origin=origin))
    # it passes bytes on, and believes the guest nothing; what it may do is still no more than that
    # who is not root has no capability to give up, may not lower the set that bounds them, and can be nobody else
    stand_in = Process(cwd="/", capabilities=CapabilitySets(), user=User(uid=NOBODY, gid=NOBODY))
    given_up = steps.privileges(stand_in, set_groups=True) if features.privileged else []
    container += confined(given_up, default_profile(()), features)
    group = f"{place}/{request.child_cgroup}" if request.child_cgroup else ""
    container.append(ops.Remote(relay=RELAY, guest=guest, terminal=terminal_of(guest), group=group, origin=origin))
    return Plan(host=tuple(host), container=tuple(container))
