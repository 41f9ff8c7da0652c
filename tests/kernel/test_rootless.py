"""The same as an ordinary user."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.root  # to become that user


def test_the_first_container(as_user):
    r = as_user("-m", "hutch.cli", "run", "--rm", "host", "sh", "-c", "echo $$; id -u; hostname; ls /home")
    pid, uid, name = r.stdout.split()
    assert (pid, uid, len(name), r.returncode, r.stderr) == ("1", "0", 12, 0, "")


def test_subordinate_ids_and_a_single_one(as_user, ordinary_user):
    r = as_user("-m", "hutch.cli", "run", "host", "cat", "/proc/self/uid_map")
    lines = [line.split() for line in r.stdout.splitlines()]
    assert lines[0] == ["0", str(ordinary_user.pw_uid), "1"] and lines[1][0] == "1" and int(lines[1][2]) >= 65536
    r = as_user("-m", "hutch.cli", "run", "--userns", "single", "host", "cat", "/proc/self/uid_map")
    assert r.stdout.split() == ["0", str(ordinary_user.pw_uid), "1"]
    r = as_user("-m", "hutch.cli", "run", "-u", "1000:1000", "host", "id", "-u")
    assert r.stdout == "1000\n"
    r = as_user("-m", "hutch.cli", "run", "--userns", "single", "-u", "1000", "host", "id", "-u")
    assert r.returncode == 125 and "this user namespace has id 0, and not 1000" in r.stderr


def test_copy_on_write_and_the_api(as_user):
    code = """
import hutch
with hutch.Container("host") as box:
    box.write("/srv/x", "y")
    assert box.read("/srv/x") == "y"
    box.run(["sh", "-c", "rm /etc/hostname; echo z > /usr/new"], check=True)
    print(*(f"{c.kind} {c.path}" for c in box.diff()), sep="\\n")
    print(box.run(["sleep", "100"], timeout=0.3).outcome)
    print(box.run(["sh", "-c", "cat /etc/shadow; touch /dev/x; mknod /tmp/n c 1 3"]).stderr)
"""
    r = as_user("-c", code)
    assert r.returncode == 0, r.stderr
    assert r.stdout.startswith("deleted /etc/hostname\nadded /srv/x\nadded /usr/new\ntimeout\n")
    assert "Operation not permitted" in r.stdout or "mknod" in r.stdout


def test_bind_mounts_are_the_users(as_user, ordinary_user, tmp_path_factory):
    import os
    import tempfile

    shared = tempfile.mkdtemp(dir="/var/tmp")
    os.chown(shared, ordinary_user.pw_uid, ordinary_user.pw_gid)
    try:
        r = as_user("-m", "hutch.cli", "run", "-v", f"{shared}:/data", "host", "sh", "-c", "echo mine > /data/file; stat -c %u /data/file")
        assert r.stdout == "0\n", r.stderr
        assert os.stat(f"{shared}/file").st_uid == ordinary_user.pw_uid
        r = as_user("-m", "hutch.cli", "run", "-v", "/root:/data", "host", "ls", "/data")
        assert r.returncode != 0
    finally:
        import shutil

        shutil.rmtree(shared)


def test_disk_upper_with_files_of_other_users(as_user):
    r = as_user("-m", "hutch.cli", "run", "--upper", "disk", "host", "sh", "-c", "mkdir -m 700 /srv/d; touch /srv/d/f; chown -R 5:5 /srv/d; stat -c %u /srv/d")
    assert (r.stdout, r.stderr) == ("5\n", "")
    code = "import os; from hutch.image.store import directories; print(os.listdir(directories.uppers()))"
    assert as_user("-c", code).stdout == "[]\n"


def test_what_the_kernel_refuses_is_said(as_user):
    r = as_user("-m", "hutch.cli", "run", "-m", "64m", "host", "true")
    assert r.returncode == 125 and "this user may not set limits" in r.stderr and "hint:" in r.stderr
    r = as_user("-m", "hutch.cli", "run", "--userns", "host", "host", "true")
    assert r.returncode == 125 and "without root a container needs a user namespace" in r.stderr
    doctor = as_user("-m", "hutch.cli", "doctor")
    assert doctor.returncode == 0 and "no   limits for this user" in doctor.stdout and "yes  user namespaces" in doctor.stdout


def test_archives_and_directories(as_user, busybox_root, tmp_path_factory):
    import os
    import subprocess
    import tempfile

    place = tempfile.mkdtemp(dir="/var/tmp")
    os.chmod(place, 0o755)
    try:
        subprocess.run(["tar", "-C", str(busybox_root), "-czf", f"{place}/root.tar.gz", "."], check=True)
        r = as_user("-m", "hutch.cli", "run", f"{place}/root.tar.gz", "sh", "-c", "id -u; touch /x; ls /x")
        assert r.stdout == "0\n/x\n", r.stderr
        r = as_user("-m", "hutch.cli", "run", str(busybox_root), "cat", "/etc/passwd")
        assert r.stdout.startswith("root:x:0:0"), r.stderr
    finally:
        import shutil

        shutil.rmtree(place)


def test_network_of_the_host(as_user):
    import os

    r = as_user("-m", "hutch.cli", "run", "--network", "host", "host", "readlink", "/proc/self/ns/net")
    assert r.stdout.strip() == os.readlink("/proc/self/ns/net"), r.stderr


def test_detached(as_user):
    made = as_user("-m", "hutch.cli", "run", "-d", "--name", "mine", "host", "sleep", "100")
    assert made.returncode == 0, made.stderr
    r = as_user("-m", "hutch.cli", "exec", "mine", "sh", "-c", "id -u; hostname")
    assert r.stdout == f"0\n{made.stdout}", r.stderr
    assert as_user("-m", "hutch.cli", "rm", "-f", "mine").returncode == 0
