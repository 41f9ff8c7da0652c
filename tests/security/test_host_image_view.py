"""The image `host` as a system to work in: what everybody may read, to be changed, never written back."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.security.attack import untouched
from tests.security.test_host_image import BASES, KINDS, containers, top, write

__all__ = ["containers", "top"]
pytestmark = pytest.mark.root
STRANGER = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"]
# What a container has of its own, or never sees.
OWN = ("etc/machine-id", "etc/fstab", "etc/crypttab", "etc/hosts", "etc/resolv.conf")
OWN += ("etc/hostname", "etc/mtab")
# Every file that can be read, by its size and, for small ones, its checksum; every directory and link.
LIST = r"""
find /etc /usr -xdev \( -name __pycache__ -o -name 'hutch-test*' \) -prune \
    -o -type f -readable -printf 'f %s %p\n' -o -type l -printf 'l %l %p\n' \
    -o -type d -readable -executable -printf 'd %p\n' 2>/dev/null
find /etc -xdev -name 'hutch-test*' -prune -o -type f -readable -print0 2>/dev/null | xargs -0 cksum
true
"""


def lines(text: str) -> set[str]:
    return {line for line in text.splitlines() if not any(f"/{name}" in line for name in OWN)}


@pytest.mark.parametrize("kind", KINDS)
def test_what_everybody_may_read(containers, kind):
    """Every file, directory and link of /etc and /usr that a stranger can read, and its content."""
    words = [*STRANGER, "sh", "-c", LIST]
    listed = lines(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    missing = listed - lines(containers.run(kind, LIST))
    still = lines(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    assert len(listed) > 1000
    assert sorted(missing & still) == []  # the host may have changed meanwhile


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("base", BASES)
def test_the_next_container_sees_the_change(containers, top, base, kind):
    """A file is made, changed, closed, opened, replaced, removed: the next container sees it so."""
    place = top(base)
    path = f"{place}/file"
    read = f"cat {path} 2>/dev/null || echo none"
    answers = [containers.run(kind, read)]
    for content, mode in (("one", 0o644), ("two", 0o644), ("six", 0o600), ("ten", 0o644)):
        write(path, f"{content}\n", mode)
        answers.append(containers.run(kind, read))
    write(f"{place}/.new", "new\n", 0o644)
    os.rename(f"{place}/.new", path)
    answers.append(containers.run(kind, read))
    os.unlink(path)
    answers.append(containers.run(kind, read))
    assert answers == ["none\n", "one\n", "two\n", "none\n", "ten\n", "new\n", "none\n"]


WORK = """
set -e
echo 'extra:x:4321:4321::/home/extra:/bin/sh' >>/etc/passwd
tail -1 /etc/passwd
printf '#!/bin/sh\necho ran\n' >/usr/bin/hutch-test-program
chmod 4755 /usr/bin/hutch-test-program
hutch-test-program
mv /etc/alternatives /etc/hutch-test-moved
ls /etc/hutch-test-moved | wc -l
test ! -e /etc/alternatives
mv /usr/share/doc /usr/share/hutch-test-moved
rm -r /usr/share/hutch-test-moved
mkdir /usr/share/doc
chown 12:34 /etc/profile /usr/bin/env
stat -c %u:%g /etc/profile /usr/bin/env
chmod 0600 /etc/profile
touch -d 2001-01-01 /etc/profile
ln /etc/profile /etc/hutch-test-link
echo mine >/etc/shadow
cat /etc/shadow
mkdir -p /etc/ssl/private
echo key >/etc/ssl/private/key
cat /etc/ssl/private/key
rm -f /etc/shadow /etc/gshadow
useradd -m hutch-test-inside
id -un hutch-test-inside
su hutch-test-inside -c 'cat /etc/os-release >/dev/null; id -un'
sed -i s/root/ROOT/ /etc/group
head -1 /etc/group
rm /etc/group
test ! -e /etc/group
"""


@pytest.mark.parametrize("kind", ["mapped", "unmapped"])
def test_everything_can_be_changed(containers, kind):
    """Users are added, files edited, given away, removed, directories moved: in the container alone."""
    files = ("/etc/passwd", "/etc/group", "/etc/shadow", "/etc/profile", "/usr/bin/env")
    seen = ("/etc", "/etc/alternatives", "/usr/bin", "/usr/share", *files)
    links = len(os.listdir("/etc/alternatives"))
    with untouched(*filter(os.path.exists, seen)):
        said = containers.run(kind, WORK).split()
    passwd = "extra:x:4321:4321::/home/extra:/bin/sh"
    user = "hutch-test-inside"
    assert said == [passwd, "ran", str(links), "12:34", "12:34", "mine", "key", user, user, "ROOT:x:0:"]
    assert not Path("/etc/hutch-test-moved").exists() and not Path("/usr/bin/hutch-test-program").exists()


def test_an_ordinary_users_changes(containers):
    """What an ordinary user's container can change of it: the top of /etc and of /usr."""
    script = "rm /etc/hostname; echo own >/etc/hostname; mkdir /usr/new; echo new >/usr/new/x"
    script += "; cat /etc/hostname /usr/new/x"
    with untouched("/etc", "/usr"):
        assert containers.run("rootless", script) == "own\nnew\n"
