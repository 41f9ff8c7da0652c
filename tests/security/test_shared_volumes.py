"""Volumes that several containers share, while one of them lays links in them and exchanges names."""

from __future__ import annotations

import uuid

import pytest

import hutch
from tests.security import test_host_side_links as links
from tests.security.test_host_side_links import shell, strangers

pytestmark = pytest.mark.root
outside, share = links.outside, links.share


@pytest.mark.parametrize("how", ["laid", "exchanged"])
def test_a_volumes_subpath(share, outside, hutch_cli, how):
    """A subpath of a volume that another container has made a link, before or meanwhile, is never the
    host's directory.
    """
    volume = f"shared-{uuid.uuid4().hex[:8]}"
    words = [
        "run",
        "--mount",
        f"type=volume,source={volume},target=/mnt,volume-subpath=sub",
        "host",
        "ls",
        "/mnt",
    ]
    try:
        with hutch.Container("host", mounts=[f"{volume}:/mnt", f"{share}:/share"]) as box:
            shell(box, f"ln -s {outside} /mnt/link; mkdir /mnt/sub; touch /mnt/sub/own")
            if how == "laid":
                shell(box, "mv /mnt/sub /mnt/old; mv /mnt/link /mnt/sub")
            swapper = box.start(["/share/restless", "-", "", "/mnt/sub", "/mnt/link"]) if how == "exchanged" else None
            seen = {hutch_cli(*words).stdout for _ in range(12 if swapper else 1)}
            if swapper:
                swapper.close()
        assert seen <= {"own\n", ""}
    finally:
        hutch_cli("volume", "rm", "-f", volume)


def test_copying_up_into_a_volume_while_its_files_are_exchanged(share, outside, hutch_cli, busybox_root):
    """A new volume begins with the image's files, while a container that has it, too, lays links under
    their names.
    """
    volume = f"filled-{uuid.uuid4().hex[:8]}"
    (busybox_root / "srv/a").mkdir(parents=True)
    (busybox_root / "srv/a/pwned").write_text("pwned")
    lay = f"while :; do ln -s {outside} /mnt/a; rm -f /mnt/a; done"
    try:
        with hutch.Container("host", mounts=[f"{volume}:/mnt", f"{share}:/share"]) as box:
            process = box.start(["sh", "-c", lay])
            for _ in range(4):
                hutch_cli("run", "-v", f"{volume}:/srv", str(busybox_root), "true")
            process.close()
        assert strangers(outside) == []
    finally:
        hutch_cli("volume", "rm", "-f", volume)
