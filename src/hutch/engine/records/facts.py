"""What was found out when a container was made: its facts, which are in its record.

Commands in it, copies, differences and commits read them. Nothing that a user named is looked up a second time: an image may have
another name by then, a profile may be deleted, a directory elsewhere.
"""

from __future__ import annotations

from hutch.engine.spec import configuration
from hutch.engine.spec.settings import Attachment, Bind, ImageSource, Settings, Tmpfs, Ulimit, VolumeMount
from hutch.errors import StateError, UsageError
from hutch.oci import config as oci
from hutch.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from hutch.image.rootfs import Rootfs
    from hutch.runtime.request import Compiled

RECORD_KEY = "facts"


class Facts(Record):
    """A container's, but for its settings.

    `namespaces` are those that it has to itself. `root_uid` and `root_gid` are its root's ids on the host; `uids` and `gids` the lines of
    its user namespace's maps (first inside, first outside, count), none without one; `set_groups`: whether it allows setgroups(2).
    `user` is (uid, gid, further groups...); `env` the variables that were set, without a HOME that follows from the user; `home` is his.
    `seccomp` is "" for no filter, "default" or "compat" for Hutch's own, or a profile in the runtime-spec's JSON. `image` is the path or the
    name of what it was made from, `manifest` its digest where the store has it. `args` is the first process's command.
    """

    namespaces: tuple[str, ...] = ()
    user_namespace: bool = False
    root_uid: int = 0
    root_gid: int = 0
    uids: tuple[tuple[int, int, int], ...] = ()
    gids: tuple[tuple[int, int, int], ...] = ()
    set_groups: bool = True
    cgroup: dict[str, str] = {}
    user: tuple[int, ...] = (0, 0)
    home: str = "/"
    workdir: str = "/"
    env: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    no_new_privileges: bool = True
    seccomp: str | dict[str, Any] = ""
    image: str = ""
    manifest: str = ""
    args: tuple[str, ...] = ()
    idle: bool = False

    @property
    def oci_user(self) -> oci.User:
        """The user, in the specification's terms."""
        uid, gid, *groups = self.user
        return oci.User(uid=uid, gid=gid, additional_gids=tuple(groups))

    def variables(self) -> tuple[str, ...]:
        """All variables of its first process."""
        return self.env if any(item.startswith("HOME=") for item in self.env) else (*self.env, f"HOME={self.home}")

    def mappings(self) -> tuple[tuple[oci.IdMapping, ...], tuple[oci.IdMapping, ...]]:
        """The maps of its user namespace, in the specification's terms."""
        users, groups = (tuple(oci.IdMapping(container_id=i, host_id=o, size=n) for i, o, n in lines) for lines in (self.uids, self.gids))
        return users, groups


def facts_of(s: Settings, config: oci.Config, compiled: Compiled, rootfs: Rootfs, user: oci.User, home: str, idle: bool) -> Facts:
    """The facts of a container that has been compiled."""
    import os

    from hutch.image import resolve

    process = config.process
    assert process is not None
    named = {item.partition("=")[0] for item in (*rootfs.config.env, *s.env)}
    capabilities = process.capabilities
    lines = [tuple((m.container_id, m.host_id, m.size) for m in found) for found in (config.linux.uid_mappings, config.linux.gid_mappings)]
    return Facts(
        namespaces=tuple(n.type for n in configuration.namespaces(s, compiled.user_namespace)),
        user_namespace=compiled.user_namespace,
        root_uid=compiled.root_uid,
        root_gid=compiled.root_gid,
        uids=lines[0],
        gids=lines[1],
        set_groups=not any(getattr(op, "name", "") == "setgroups" for op in compiled.plan.host),
        cgroup=compiled.cgroup_paths,
        user=(user.uid, user.gid, *user.additional_gids),
        home=home,
        workdir=process.cwd,
        env=tuple(item for item in process.env if "HOME" in named or not item.startswith("HOME=")),
        capabilities=capabilities.bounding if capabilities is not None else (),
        no_new_privileges=process.no_new_privileges,
        seccomp=configuration.profile_of(s),
        image=os.path.abspath(s.image) if resolve.is_path(s.image) else s.image,
        manifest=rootfs.manifest,
        args=process.args,
        idle=idle,
    )


def facts_from(data: object) -> Facts:
    """The facts in a record. Raises StateError when there are none that can be read."""

    def whole(value: Any) -> Any:
        return tuple(whole(item) for item in value) if isinstance(value, list) else value

    try:
        return Facts(**{name: value if name in ("cgroup", "seccomp") else whole(value) for name, value in data.items()})  # type: ignore[attr-defined]
    except (TypeError, AttributeError) as error:
        raise StateError(f"the container's record cannot be read: {error}", "it was made by another version of Hutch: start it anew") from None


_ITEMS: dict[str, type[Record]] = {"binds": Bind, "tmpfs": Tmpfs, "ulimits": Ulimit, "volumes": VolumeMount, "images": ImageSource, "attachments": Attachment}


def settings_from(data: dict[str, Any]) -> Settings:
    """The settings in a record's JSON. Raises StateError when they are not ones."""

    def value(name: str, item: Any) -> Any:
        if name in _ITEMS:
            kind = _ITEMS[name]
            return tuple(kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in part.items()}) for part in item)
        if isinstance(item, list):
            return tuple(tuple(part) if isinstance(part, list) else part for part in item)
        return item

    try:
        return Settings(**{name: value(name, item) for name, item in data.items()})
    except (TypeError, AttributeError, UsageError) as error:
        raise StateError(f"the container's record cannot be read: {error}") from None
