"""What a compilation takes beside the configuration, and what it gives."""

from __future__ import annotations

from hutch.plan.plan import Plan
from hutch.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hutch.image.rootfs import ImageMount, Rootfs
    from hutch.plan.ops import HoldShared, Publish, ReturnDevice


class Request(Record):
    """One container to be compiled.

    `rootfs` None: the configuration's ``root.path`` is used as it is, as an OCI runtime must. `upper` is a host directory
    for what the container writes; "" keeps it in memory (`upper_size` bytes at most; 0: half of the machine's memory); with `reopen` it is one that another
    container has left, and stays. `held` are further directories that nobody may remove meanwhile, each with the file that its users
    lock; those of `own` go with the container, or when it never starts. `inherited` are lower directories above the image's, the topmost first, each in a
    detached mount whose descriptor the owner hands over, numbered from `first_extra`.
    `images` are other images' files in it. `beneath` names bind mounts' sources that others write in: (directory, source)
    pairs, each source resolved inside its directory when it is mounted. `networks` is what the container holds of networks that
    its owner connects it to, `user_network`: inside of a user and a network namespace of the user's own, in which these networks are,
    and whose descriptors the owner hands over behind the inherited directories'. `publish` is what is passed on to it, `lent` the interfaces that it
    gives back. `idle`: no program, PID 1 only holds the namespaces.
    `init`: PID 1 reaps, the program is its child. `state` is the container's directory of record, removed at the end unless it
    is detached and `remove` is false; "" leaves none. `record` is the text of its file of record, `name` a path that is linked to it. `accounting`: a cgroup
    where no limit asks for one, so that its numbers can be read. `files`: hand the owner the descriptors that reading,
    writing and `diff` need. `systemd_scope`: the path of the systemd scope that takes a cgroup's place.

    `oci`: as an OCI runtime's callers expect it, beyond what the specification says: every v1 controller is joined, the
    working directory is made, HOME is looked up, the standard streams become the user's. `await_start`: the plan ends where
    the container waits for its start, and its executor leaves it there. `preserve` descriptors that the owner hands to the
    executor, numbered from `first_extra` there, become the container's 3 and on. `joins`: the owner connects its network, which holds nothing
    for it: in a machine.
    """

    id: str
    rootfs: Rootfs | None = None
    bundle: str = "/"
    state: str = ""
    record: str = ""
    name: str = ""
    upper: str = ""
    upper_size: int = 0
    reopen: bool = False
    held: tuple[tuple[str, str], ...] = ()
    own: tuple[tuple[str, str], ...] = ()
    inherited: tuple[str, ...] = ()
    images: tuple[ImageMount, ...] = ()
    beneath: tuple[tuple[str, str], ...] = ()
    networks: tuple[HoldShared, ...] = ()
    user_network: bool = False
    publish: Publish | None = None
    lent: tuple[ReturnDevice, ...] = ()
    idle: bool = False
    init: bool = False
    detach: bool = False
    remove: bool = True
    log: str = ""
    log_limit: int = 16 << 20
    hosts: str = ""
    resolv_conf: str | None = None
    make_workdir: bool = False
    accounting: bool = True
    files: bool = True
    systemd_scope: str = ""
    oci: bool = False
    await_start: bool = False
    preserve: int = 0
    first_extra: int = 5
    pivot: bool = True
    keyring: bool = True
    joins: bool = False


class Compiled(Record):
    """A plan, and what its owner needs to know of it: the cgroup's directories, and whether ids are mapped."""

    plan: Plan
    cgroup_paths: dict[str, str] = {}
    root_uid: int = 0
    root_gid: int = 0
    user_namespace: bool = False
