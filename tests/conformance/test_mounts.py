"""The mounts of config.md, and what config-linux.md does to paths."""

from __future__ import annotations

import os

import pytest

from tests.conformance.runtime import MAPPING, config, label, mapped, shell

pytestmark = pytest.mark.root
clause = pytest.mark.clause


class Mount:
    def __init__(self, line: str):
        left, right = line.split(" - ")
        words = left.split()
        self.id, self.parent = words[:2]
        self.root, self.point, self.options, self.optional = words[3], words[4], set(words[5].split(",")), words[6:]
        self.kind, self.source, supers = right.split()
        self.supers = set(supers.split(","))


def mounts(lines: list[str]) -> dict[str, Mount]:
    """The uppermost mount of each point."""
    return {m.point: m for m in map(Mount, lines) if m.point}


def bind(source, destination="/data", *options: str) -> dict:
    return {"destination": destination, "type": "bind", "source": str(source), "options": [*(options or ("bind",))]}


def tmpfs(destination, *options: str) -> dict:
    return {"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": list(options)}


def table(box, *extra: dict, **rest) -> dict[str, Mount]:
    return mounts(box(config("cat", "/proc/self/mountinfo", mounts=extra, **rest)).run().lines())


@pytest.fixture
def source(place):
    directory = place / "source"
    directory.mkdir()
    (directory / "file").write_text("content\n")
    return directory


@clause("config.md", "Mounts", "MUST mount entries in the listed order")
def test_order(box, source):
    extra = [tmpfs("/data"), bind(source, "/data/deep"), bind(source), tmpfs("/data", "size=4k")]
    found = {m.id: m for m in map(Mount, box(config("cat", "/proc/self/mountinfo", mounts=extra)).run().lines())}
    top = next(m for m in found.values() if m.point == "/data" and not any(other.parent == m.id for other in found.values()))
    middle = found[top.parent]
    bottom = found[middle.parent]
    assert "size=4k" in top.supers and middle.kind != "tmpfs" and (bottom.kind, bottom.point) == ("tmpfs", "/data")
    assert next(m for m in found.values() if m.point == "/data/deep").parent == bottom.id


# the options of a bind mount; what is there then; what is not
BINDS = {
    "plain": [("bind", "rw", "ro"), ("rbind", "rw", "ro"), ("bind ro", "ro", "rw"), ("rbind ro", "ro", "rw"), ("bind nosuid nodev noexec", "nosuid nodev noexec", ""),
              ("bind noatime", "noatime", "relatime"), ("bind nodiratime", "nodiratime", "")],
    "taken back": [("bind ro rw", "rw", "ro"), ("bind noexec exec", "", "noexec"), ("bind nosuid suid nodev dev", "", "nosuid nodev")],
    "nosymfollow": [("bind nosymfollow", "nosymfollow", "")],
    "recursive": [("rbind rro", "ro", "rw"), ("rbind rnosuid rnodev rnoexec", "nosuid nodev noexec", "")],
    "recursive times": [("rbind rnoatime", "noatime", "relatime")],
}  # fmt: skip


@clause("config.md", "Linux mount options", "the options of a bind mount")
@pytest.mark.parametrize("group", BINDS)
def test_bind_options(box, source, group):
    found = table(box, *[bind(source, f"/m/{n}", *options.split()) for n, (options, _, _) in enumerate(BINDS[group])])
    for n, (options, there, absent) in enumerate(BINDS[group]):
        seen = found[f"/m/{n}"].options
        assert set(there.split()) <= seen and not set(absent.split()) & seen, (options, seen)


REQUIRED = {
    "flags": "atime dev diratime exec noatime nodev nodiratime noexec nosuid relatime ro rw strictatime suid norelatime nostrictatime",
    "filesystem's": "async dirsync lazytime nolazytime loud silent sync noiversion",
    "defaults": "defaults",
    "iversion": "iversion",
    "propagation": "private shared slave unbindable rprivate rshared rslave runbindable",
}
SHOWN = ("noatime", "nodev", "nodiratime", "noexec", "nosuid", "relatime", "ro", "rw", "dirsync", "lazytime", "sync")
RECURSIVE = {
    "rights": "rdev rexec rnodev rnoexec rnosuid rsuid rro rrw",
    "times": "ratime rdiratime rnoatime rnodiratime rnorelatime rnostrictatime rrelatime rstrictatime",
    "links": "rnosymfollow rsymfollow",
}


def shows(mount: Mount, name: str) -> bool:
    """Whether an option is seen in mountinfo, if it is one that is seen there."""
    if name == "strictatime":
        return not mount.options & {"relatime", "noatime"}
    if name in ("shared", "unbindable"):
        return any(word.startswith(name) for word in mount.optional)
    return name not in SHOWN or name in mount.options | mount.supers


@clause("config.md", "Linux mount options", "all that MUST be implemented are")
@pytest.mark.parametrize("group", REQUIRED)
def test_required_options(box, group):
    names = REQUIRED[group].split()
    found = table(box, *[tmpfs(f"/m/{name}", name) for name in names])
    assert [name for name in names if not shows(found[f"/m/{name}"], name)] == []


@clause("config.md", "Linux mount options", "remount changes what is there")
def test_remount(box):
    found = table(box, tmpfs("/data", "nosuid"), tmpfs("/data", "remount", "ro", "nosuid"))["/data"]
    assert {"ro", "nosuid"} <= found.options


@clause("config.md", "Linux mount options", "the recursive ones that SHOULD be implemented are")
@pytest.mark.parametrize("group", RECURSIVE)
def test_recursive_options(box, source, group):
    names = RECURSIVE[group].split()
    found = table(box, *[bind(source, f"/m/{name}", "rbind", name) for name in names])
    seen = ("nodev", "noexec", "nosuid", "noatime", "nodiratime", "nosymfollow", "ro")
    assert [name for name in names if name[1:] in seen and name[1:] not in found[f"/m/{name}"].options] == []


@clause("config.md", "Linux mount options", "a recursive option reaches the mounts below; ro is of the uppermost alone")
@pytest.mark.parametrize(("option", "top", "below"), [("ro", "ro", "rw"), ("rro", "ro", "ro"), ("rnosuid", "nosuid", "nosuid"), ("nosuid", "nosuid", "")])
def test_recursive_reach(box, source, option, top, below):
    (source / "sub").mkdir()
    container = box(config("cat", "/proc/self/mountinfo", mounts=[bind(source, "/data", "rbind", option)]))
    prefix = ["unshare", "-m", "sh", "-c", f'mount -t tmpfs t {source}/sub; exec "$@"', "sh"]
    found = mounts(container.run(prefix=prefix).lines())
    assert top in found["/data"].options
    assert below in found["/data/sub"].options if below else "nosuid" not in found["/data/sub"].options


@clause("config.md", "Linux mount options", "bind leaves the mounts below out, rbind takes them")
@pytest.mark.parametrize(("kind", "there"), [("bind", False), ("rbind", True)])
def test_bind_or_rbind(box, source, kind, there):
    (source / "sub").mkdir()
    prefix = ["unshare", "-m", "sh", "-c", f'mount -t tmpfs t {source}/sub; exec "$@"', "sh"]
    found = mounts(box(config("cat", "/proc/self/mountinfo", mounts=[bind(source, "/data", kind)])).run(prefix=prefix).lines())
    assert ("/data/sub" in found) == there


@clause("config.md", "Linux mount options", "propagation")
@pytest.mark.parametrize(("mark", "names"), [("shared", "shared rshared"), ("unbindable", "unbindable runbindable"), ("", "slave rslave private rprivate")],
                         ids=["shared", "unbindable", "slave and private"])  # fmt: skip
def test_propagation(box, source, mark, names):
    found = table(box, *[bind(source, f"/m/{name}", "rbind", name) for name in names.split()])
    for name in names.split():
        words = found[f"/m/{name}"].optional
        assert any(word.startswith(mark) for word in words) if mark else not any(word.startswith(("shared", "unbindable")) for word in words), name


@clause("config.md", "Linux mount options", "unknown options are the filesystem's own")
def test_tmpfs_options(box):
    lines = (
        box(shell("cat /proc/self/mountinfo; stat -c '%a %u' /data", mounts=[tmpfs("/data", "size=64k", "mode=1750", "uid=7", "nosuid", "noexec")]))
        .run()
        .lines()
    )
    found = mounts(lines[:-1])["/data"]
    assert lines[-1] == "1750 7" and "size=64k" in found.supers and {"nosuid", "noexec"} <= found.options


@clause("config.md", "Linux mount options", "the mode of a tmpfs is the option's, whatever was there before")
def test_mode_of_a_tmpfs(box):
    assert box(config("stat", "-c", "%a", "/tmp", mounts=[tmpfs("/tmp", "mode=711")])).run().lines() == ["711"]


@clause("config.md", "Linux mount options", "an option that the filesystem does not know is an error")
def test_unknown_option(box):
    container = box(config("true", mounts=[tmpfs("/data", "novel=1")]))
    container.create().failed()


@clause("config.md", "Linux mount options", "tmpcopyup copies the contents up to a tmpfs")
def test_tmpcopyup(box):
    container = box(shell("cat /etc/passwd | head -n1; echo x > /etc/new; stat -c %T -f /etc", mounts=[tmpfs("/etc", "tmpcopyup")]))
    assert container.run().lines() == ["root:x:0:0:root:/root:/bin/sh", "tmpfs"]
    assert not (container.rootfs / "etc/new").exists()


@clause("config-linux.md", "Default Filesystems", "proc, sysfs, devpts, tmpfs, and mqueue")
def test_kinds(box):
    extra = [{"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
             {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue"}, tmpfs("/dev/shm", "mode=1777", "size=65536k")]  # fmt: skip
    found = table(box, *extra)
    kinds = {point: found[point].kind for point in ("/proc", "/sys", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue")}
    assert kinds == {"/proc": "proc", "/sys": "sysfs", "/dev": "tmpfs", "/dev/pts": "devpts", "/dev/shm": "tmpfs", "/dev/mqueue": "mqueue"}
    assert "ro" in found["/sys"].options and "size=65536k" in found["/dev/shm"].supers


@clause("config-linux.md", "Control groups", "a mount of type cgroup shows the container's own cgroups")
@pytest.mark.parametrize("options", [["ro"], ["ro", "nosuid", "noexec", "nodev", "relatime"], []], ids=",".join)
def test_cgroup_mount(box, options):
    extra = [
        {"destination": "/sys", "type": "sysfs", "source": "sysfs"},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": options},
    ]
    container = box(shell("cat /sys/fs/cgroup/pids/cgroup.procs; echo; cat /proc/self/mountinfo", mounts=extra))
    head, _, rest = container.run().ok().out.partition("\n\n")
    assert "1" in head.split()
    found = mounts(rest.splitlines())["/sys/fs/cgroup/pids"]
    assert found.kind == "cgroup" and ("ro" in found.options) == ("ro" in options)


@clause("config.md", "Mounts", "the source of a bind mount is relative to the bundle")
def test_relative_source(box):
    container = box(config("cat", "/data/file", mounts=[bind("sub/dir")]))
    (container.bundle / "sub/dir").mkdir(parents=True)
    (container.bundle / "sub/dir/file").write_text("relative\n")
    assert container.run().lines() == ["relative"]


@clause("config.md", "Mounts", "a relative destination MUST be interpreted as relative to /")
def test_relative_destination(box, source):
    assert box(config("cat", "/data/file", process={"cwd": "/tmp"}, mounts=[bind(source, "data")])).run().lines() == ["content"]


@clause("config.md", "Mounts", "a destination that is missing is made, of the source's kind")
def test_missing_destinations(box, source):
    extra = [bind(source, "/new/directory"), bind(source / "file", "/new/other/file"), tmpfs("/new/tmp")]
    container = box(shell("cat /new/directory/file /new/other/file; stat -c %F /new/other/file /new/tmp", mounts=extra))
    assert container.run().lines() == ["content", "content", "regular file", "directory"]


@clause("config.md", "Mounts", "a mount is a bind mount if it has bind or rbind in the options, whatever its type")
@pytest.mark.parametrize("kind", [None, "none", "bind", "tmpfs"], ids=label)
def test_bind_is_of_the_options(box, source, kind):
    mount = bind(source)
    mount.pop("type")
    assert box(config("cat", "/data/file", mounts=[mount | ({"type": kind} if kind else {})])).run().lines() == ["content"]


@clause("config.md", "Mounts", "what cannot be mounted is an error")
@pytest.mark.parametrize(
    "mount", [bind("/nowhere/at/all"), {"destination": "/data", "type": "novelfs", "source": "x"}, tmpfs("/bin/busybox/x")], ids=["source", "type", "place"]
)
def test_impossible_mounts(box, mount):
    container = box(config("true", mounts=[mount]))
    container.create().failed()
    assert container.status == ""


@clause("config.md", "Mounts", "a read-only bind of a file")
def test_file_bind(box, source):
    lines = box(shell("cat /etc/passwd; echo x >> /etc/passwd || echo refused", mounts=[bind(source / "file", "/etc/passwd", "bind", "ro")])).run().lines()
    assert lines == ["content", "refused"]


@clause("config.md", "Mounts", "a destination stays in the root, whatever links are on its way")
@pytest.mark.parametrize("there", [True, False], ids=["to something", "to nothing"])
@pytest.mark.parametrize("kind", ["absolute", "dots", "link to a link"])
def test_links_in_the_destination(box, source, place, kind, there):
    outside = place / "outside"
    outside.mkdir()
    container = box(config("cat", "/link/point/file", mounts=[bind(source, "/link/point")]))
    target = {"absolute": str(outside), "dots": "../" * 20 + str(outside)[1:], "link to a link": "/other"}[kind]
    (container.rootfs / "link").symlink_to(target)
    (container.rootfs / "other").symlink_to(str(outside))
    inside = container.rootfs / str(outside)[1:]
    if there:
        inside.mkdir(parents=True)
    result = container.run()
    assert os.listdir(outside) == [], "made outside of the root"
    if there:
        assert result.lines() == ["content"] and (inside / "point").is_dir()


@clause("config.md", "POSIX-platform Mounts", "idmap with mappings of the mount's own")
def test_idmap(box, source):
    os.chown(source / "file", 0, 0)
    mount = bind(source, "/data", "bind", "idmap") | {"uidMappings": MAPPING, "gidMappings": MAPPING}
    lines = box(mapped("stat -c %u:%g /data/file; touch /data/new", mounts=[mount])).run().lines()
    assert lines == ["0:0"] and (source / "new").stat().st_uid == 0


@clause("config.md", "POSIX-platform Mounts", "idmap without mappings takes those of the container's user namespace")
@pytest.mark.parametrize("option", ["idmap", "ridmap"])
def test_idmap_of_the_container(box, source, option):
    os.chown(source / "file", 0, 0)
    assert box(mapped("stat -c %u:%g /data/file", mounts=[bind(source, "/data", "rbind", option)])).run().lines() == ["0:0"]


@clause("config.md", "POSIX-platform Mounts", "a mapping needs no user namespace")
def test_idmap_without_a_user_namespace(box, source):
    other = [{"containerID": 0, "hostID": 1000, "size": 10}]
    mount = bind(source, "/data", "bind", "idmap") | {"uidMappings": other, "gidMappings": other}
    os.chown(source / "file", 0, 0)
    assert box(config("stat", "-c", "%u", "/data/file", mounts=[mount])).run().lines() == ["1000"]


@clause("config.md", "Linux mount options", "idmap without any mappings: an error MUST be returned")
def test_idmap_of_nothing(box, source):
    box(config("true", mounts=[bind(source, "/data", "bind", "idmap")])).create().failed()


@clause("config-linux.md", "User namespace mappings", "the runtime SHOULD NOT modify the ownership of filesystems")
def test_ownership_is_left(box, source):
    os.chown(source / "file", 4, 5)
    box(mapped("true", mounts=[bind(source)])).run().ok()
    assert ((source / "file").stat().st_uid, (source / "file").stat().st_gid) == (4, 5)


@clause("config-linux.md", "Rootfs Mount Propagation", "shared, slave, private, unbindable")
@pytest.mark.parametrize(("kind", "mark"), [("shared", "shared:"), ("rshared", "shared:"), ("slave", ""), ("private", ""), ("unbindable", "unbindable")])
def test_rootfs_propagation(box, kind, mark):
    found = table(box, linux={"rootfsPropagation": kind})["/"]
    assert any(w.startswith(mark) for w in found.optional) if mark else not any(w.startswith(("shared", "unbindable")) for w in found.optional)


@clause("config-linux.md", "Masked Paths", "cannot be read; one that is missing is nothing")
def test_masked_paths(box):
    script = "cat /etc/secret; ls /hidden; cat /proc/kcore | head -c1 | wc -c; echo x > /etc/secret"
    container = box(shell(script, linux={"maskedPaths": ["/etc/secret", "/hidden", "/proc/kcore", "/missing"]}))
    (container.rootfs / "etc/secret").write_text("secret\n")
    (container.rootfs / "hidden").mkdir()
    (container.rootfs / "hidden/thing").write_text("secret\n")
    assert "secret" not in (result := container.run()).out and "thing" not in result.out
    assert (container.rootfs / "etc/secret").read_text() == "secret\n"


@clause("config-linux.md", "Readonly Paths", "set as readonly; one that is missing is nothing")
def test_readonly_paths(box):
    script = "touch /frozen/x || echo no; echo 1 > /proc/sys/kernel/msgmax || echo no; echo x > /etc/passwd || echo no; cat /frozen/file; touch /tmp/free && echo yes"
    container = box(shell(script, linux={"readonlyPaths": ["/frozen", "/proc/sys", "/etc/passwd", "/missing"]}))
    (container.rootfs / "frozen").mkdir()
    (container.rootfs / "frozen/file").write_text("read\n")
    assert container.run().lines() == ["no", "no", "no", "read", "yes"]
