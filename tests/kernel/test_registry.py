"""Images between Hutch, a real registry and everybody else's tools: what one sends, the other has, byte for byte."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hutch import run as hutch_run
from hutch.engine.images import images
from hutch.engine.launch import launching
from hutch.engine.reports import storage
from hutch.engine.spec.settings import VolumeMount
from hutch.errors import RegistryError, StartError
from hutch.image.store.content import Content, file_name
from tests.archives import directory, member, tar
from tests.conformance.engines import Engine, Room, docker_daemon, docker_fixture, podman_fixture, podman_store, room_fixture  # noqa: F401
from tests.conftest import HUTCH
from tests.registry import OTHER, PASSWORD, PLATFORM, USER, Image, Server, base, big, index, layered, make, many_files, serving, simple, whiteouts

pytestmark = pytest.mark.root
ENGINES_IMAGE = "docker.io/library/engines:latest"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as found:
        yield found


@pytest.fixture(scope="module")
def second() -> Iterator[Server]:
    with serving() as found:
        yield found


@pytest.fixture(scope="module")
def guarded() -> Iterator[Server]:
    with serving(password=True) as found:
        yield found


@pytest.fixture(scope="module")
def secure() -> Iterator[Server]:
    with serving(tls=True) as found:
        yield found


@pytest.fixture(autouse=True)
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A store and a home of the test's own; it is sound at the end."""
    place = Path(tempfile.mkdtemp(prefix="hutch-store-", dir="/var/tmp"))
    place.chmod(0o711)
    (place / "home").mkdir()
    for name, value in {"HUTCH_DATA": "data", "HOME": "home", "XDG_CONFIG_HOME": "home/.config", "XDG_RUNTIME_DIR": "home/run", "DOCKER_CONFIG": "home/.docker"}.items():  # fmt: skip
        monkeypatch.setenv(name, str(place / value))
    for name in ("HUTCH_AUTH_FILE", "REGISTRY_AUTH_FILE"):
        monkeypatch.delenv(name, raising=False)
    yield place / "data"
    found = list(storage.check())
    left = [path.name for path in place.glob("data/ingest/*")]
    shutil.rmtree(place, ignore_errors=True)
    assert not found and not left and not place.exists()


@pytest.fixture
def hutch(hutch_cli):
    """Run the command line; what it printed. It must succeed."""

    def run(*words: str, **options) -> str:
        done = hutch_cli(*words, **options)
        assert done.returncode == 0, f"hutch {' '.join(words)}: {done.returncode}, {done.stdout!r}, {done.stderr!r}"
        return done.stdout

    return run


def settings(store: Path, text: str) -> Path:
    """The user's registries.toml."""
    place = store.parent / "home/.config/hutch"
    place.mkdir(parents=True, exist_ok=True)
    (place / "registries.toml").write_text(text)
    return place


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """One clear line, perhaps with a hint, and exit code 125."""
    assert done.returncode == 125 and "Traceback" not in done.stderr, done.stderr
    lines = done.stderr.splitlines()
    assert lines[0].startswith("hutch: ") and all(line.startswith("hint: ") for line in lines[1:]), done.stderr
    for word in words:
        assert word in done.stderr


def same(image: Image, server: Server, name: str) -> None:
    """The registry has exactly this image."""
    raw, media_type = server.manifest(name)
    assert raw == image.raw and media_type == image.media_type
    for digest, data in image.blobs.items():
        assert server.blob(name.partition(":")[0], digest) == data
    for part in image.parts:
        same(part, server, f"{name.partition(':')[0]}:{part.digest}")


def tool(*words: str, **options) -> str:
    if not shutil.which(words[0]):
        pytest.skip(f"needs {words[0]}")
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60, **options)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
    return done.stdout


# pull


@pytest.mark.parametrize("how", ["gzip", "zstd", ""])
def test_a_pulled_image_runs_whatever_compresses_its_layers(server, hutch, how):
    name = server.put(simple(f"runs-{how}", how=how), f"runs:{how or 'plain'}")
    assert hutch("pull", name).split() == [name, simple(f"runs-{how}", how=how).digest]
    assert hutch("run", "--pull", "never", name, "cat", "/data/first") == "from the image\n"


def test_run_pulls_what_is_missing_and_says_so_on_standard_error(server, hutch_cli):
    name = server.put(simple("missing"), "missing:1")
    first = hutch_cli("run", name, "echo", "hello")
    assert (first.returncode, first.stdout) == (0, "hello\n") and "done" in first.stderr
    assert hutch_cli("run", "-q", name, "echo", "hello").stderr == ""


def test_dockers_own_manifest_is_understood(server, hutch):
    image = simple("schema2", docker=True)
    name = server.put(image, "schema2:1")
    assert image.digest in hutch("pull", name) and hutch("run", name, "echo", "yes") == "yes\n"


def test_pull_by_digest_and_by_both(server, hutch, hutch_cli):
    image = simple("digest")
    server.put(image, "digest:1")
    name = f"{server.host}/digest@{image.digest}"
    assert hutch("pull", "-q", name).strip() == name and hutch("run", "--pull", "never", name, "echo", "1") == "1\n"
    assert hutch("pull", "-q", f"{server.host}/digest:never@{image.digest}")  # the digest says it all
    refused(hutch_cli("pull", f"{server.host}/digest@sha256:{'0' * 64}"), "does not exist")
    assert json.loads(hutch("inspect", name))[0]["RepoDigests"] == [name]


@pytest.mark.parametrize("docker", [False, True])
def test_an_index_gives_this_machines_image_or_the_platforms_that_was_named(server, hutch, hutch_cli, docker):
    mine, other = simple("mine", docker=docker), simple("other", docker=docker, platform=OTHER)
    both = index(other, mine, docker=docker)
    name = server.put(both, f"multi:{docker}")
    assert both.digest in hutch("pull", name)
    assert images.get(name).digest == both.digest and images.get(name).id == mine.config and images.get(name).platform == PLATFORM
    assert hutch("run", name, "echo", "mine") == "mine\n"
    hutch("pull", "--platform", OTHER, name)
    assert images.get(name).id == other.config and images.get(name).platform == OTHER
    refused(hutch_cli("run", "--pull", "never", name, "true"), OTHER, PLATFORM)
    refused(hutch_cli("pull", "--platform", "linux/s390x", name), "linux/s390x", PLATFORM, OTHER)


def test_attestations_in_an_index_are_not_images(server, hutch):
    mine = simple("attested")
    odd = mine.entry(platform={"os": "unknown", "architecture": "unknown"}, annotations={"vnd.docker.reference.type": "attestation-manifest"})
    name = server.put(index(mine, entries=[odd, mine.entry()]), "attested:1")
    hutch("pull", name)
    assert images.get(name).id == mine.config


def test_pulling_twice_fetches_nothing_and_shared_layers_come_once(server, hutch):
    name, cousin = server.put(simple("one"), "twice:1"), server.put(simple("two"), "twice:2")
    hutch("pull", name)
    mark = server.mark()
    hutch("pull", name)
    assert server.fetched(mark) == []
    hutch("pull", cousin)
    assert server.fetched(mark) == [simple("two").config]


def test_a_tag_that_moved_is_pulled_and_the_old_image_is_collected_after(server, hutch, store):
    old, new = make(tar(directory("old")), base()), simple("moved-new")
    name = server.put(old, "moved:latest")
    hutch("pull", name.removesuffix(":latest"))
    server.put(new, "moved:latest")
    assert hutch("run", "--pull", "missing", name, "ls", "/old") == "" and images.get(name).id == old.config
    hutch("run", "-q", "--pull", "always", name, "true")
    assert images.get(name).id == new.config
    hutch("system", "prune")
    assert not Content().has(old.config) and Content().has(new.config)


def test_pull_never_takes_what_is_there_alone(server, hutch_cli, hutch):
    name = server.put(simple("never"), "never:1")
    refused(hutch_cli("run", "--pull", "never", name, "true"), "not in the store")
    hutch("pull", name)
    server.stop()
    try:
        assert hutch("run", "--pull", "never", name, "echo", "1") == hutch("run", name, "echo", "1") == "1\n"
    finally:
        server.start()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("{host}/nobody/knows:1", ["does not exist"]),
        ("{host}/known:unknown", ["{host}/known:unknown", "does not exist"]),
        ("{host}/Known", ["lower case"]),
        ("{host}/known:", ["is no tag"]),
        ("{host}/known@sha256:12", ["is no digest"]),
        ("127.0.0.1:1/known:1", ["127.0.0.1:1"]),
        ("", ["is no name"]),
    ],
)
def test_what_cannot_be_pulled_is_one_clear_line(server, hutch_cli, name, words):
    server.put(simple(), "known:1")
    fill = {"host": server.host}
    refused(hutch_cli("pull", name.format(**fill)), *(word.format(**fill) for word in words))


def test_what_is_no_image_is_said_to_be_none(server, hutch_cli):
    image = simple("chart")
    data = image.manifest
    data["config"]["mediaType"] = "application/vnd.cncf.helm.config.v1+json"
    name = server.put(Image(json.dumps(data).encode(), image.media_type, image.blobs), "chart:1")
    refused(hutch_cli("pull", name), "no container image", "helm")


def test_progress_comes_to_its_end(server):
    image = big("progress", layers=3)
    steps = list(images.pull(server.put(image, "progress:1")))
    assert steps[-1].status == "image" and steps[-1].digest == image.digest
    done = {step.digest: step for step in steps if step.status == "done"}
    assert set(done) == set(image.layers) and all(step.current == step.total == len(image.blobs[digest]) for digest, step in done.items())


def test_120_layers_run(server, hutch):
    name = server.put(layered(120), "deep:1")
    hutch("pull", "-q", name)
    assert hutch("run", "--pull", "never", name, "sh", "-c", "cat /last; ls /l | wc -l; cat /l/77") == "119\n119\n77\n"


def test_many_small_files_arrive(server, hutch):
    name = server.put(many_files(), "many:1")
    assert hutch("run", "-q", name, "sh", "-c", "ls /many | wc -l; cat /many/1999") == "2000\n1999"


def test_whiteouts_take_away_and_give_back(server, hutch):
    name = server.put(whiteouts(), "whiteouts:1")
    assert hutch("run", "-q", name, "sh", "-c", "ls /w /w/d; cat /w/b /gone") == "/w:\nb\nd\n\n/w/d:\nnew\n3a file now"


def test_two_pulls_at_once_fetch_each_layer_once(server, hutch):
    for attempt in range(2):
        image = big(f"at-once-{attempt}", layers=6)
        name = server.put(image, f"at-once:{attempt}")
        mark = server.mark()
        both = [subprocess.Popen([*HUTCH, "pull", name], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
        said = [process.communicate(timeout=60) for process in both]
        assert [process.returncode for process in both] == [0, 0, 0], said
        fetched = [digest for digest in server.fetched(mark) if digest != image.config]
        assert sorted(fetched) == sorted(set(image.layers) & set(fetched)), "a layer was fetched twice"
        assert len(server.fetched(mark)) - len(fetched) <= 3
    assert hutch("run", "--pull", "never", name, "ls", "/noise-5") == "/noise-5\n"


def test_pruning_all_the_time_breaks_no_pull(server, hutch_cli):
    code = "import sys\nfrom hutch.engine.images import images\nwhile True: images.prune()"
    pruners = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        for number in range(4):
            name = server.put(big(f"pruned-{number}", layers=6, size=50_000), f"pruned:{number}")
            done = hutch_cli("pull", name)
            assert done.returncode == 0, done.stderr
            assert hutch_cli("run", "--pull", "never", name, "ls", "/noise-5").stdout == "/noise-5\n"
        assert [pruner.poll() for pruner in pruners] == [None, None], [pruner.stderr.read() for pruner in pruners if pruner.poll() is not None]
    finally:
        for pruner in pruners:
            pruner.kill()
            pruner.communicate()


# who one is


def test_a_password_is_asked_for_and_a_wrong_one_refused(guarded, hutch_cli):
    name = f"{guarded.host}/private:1"
    refused(hutch_cli("pull", name), "hutch login")
    refused(hutch_cli("login", "-u", USER, "-p", "wrong", guarded.host), "refuses", USER)
    assert not (Path(os.environ["XDG_CONFIG_HOME"]) / "hutch/auth.json").exists()
    with pytest.raises(RegistryError, match="refuses"):
        list(images.pull(name, credentials=(USER, "wrong")))


def test_login_is_remembered_by_this_user_alone_and_logout_forgets(guarded, server, hutch, hutch_cli):
    image = simple("private")
    said = hutch_cli("login", "--username", USER, "--password-stdin", guarded.host, input=f"{PASSWORD}\n")
    assert said.returncode == 0 and PASSWORD not in said.stdout + said.stderr
    file = Path(os.environ["XDG_CONFIG_HOME"]) / "hutch/auth.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and PASSWORD not in file.read_text()
    name, elsewhere = f"{guarded.host}/private:1", server.put(image, "elsewhere:1")
    hutch("pull", "-q", elsewhere)
    hutch("push", elsewhere, name)
    hutch("rmi", elsewhere)
    hutch("pull", name)
    assert images.get(name).digest == image.digest
    hutch("logout", guarded.host)
    refused(hutch_cli("pull", name), "hutch login")
    refused(hutch_cli("logout", guarded.host), "remembers no credentials")


def _auths(guarded: Server, password: str = PASSWORD) -> dict:
    import base64

    return {"auths": {guarded.host: {"auth": base64.b64encode(f"{USER}:{password}".encode()).decode()}}}


@pytest.mark.parametrize("where", ["DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "HUTCH_AUTH_FILE"])
def test_everybodys_files_are_read(guarded, hutch_cli, store, monkeypatch, where):
    file = store.parent / "auth/config.json"
    file.parent.mkdir()
    monkeypatch.setenv(where, str(file.parent if where == "DOCKER_CONFIG" else file))
    file.write_text(json.dumps(_auths(guarded)))
    refused(hutch_cli("pull", f"{guarded.host}/not/there:1"), "does not exist")
    file.write_text(json.dumps(_auths(guarded, "wrong")))
    refused(hutch_cli("pull", f"{guarded.host}/not/there:1"), "refuses", USER)
    file.write_text("{")
    refused(hutch_cli("pull", f"{guarded.host}/not/there:1"), str(file), "JSON")


def test_credential_helpers_are_asked(guarded, hutch_cli, store, monkeypatch):
    programs = store.parent / "bin"
    programs.mkdir()
    helper = programs / "docker-credential-tests"
    answer = json.dumps({"ServerURL": guarded.host, "Username": USER, "Secret": PASSWORD})
    helper.write_text(
        f'#!/bin/sh\nread server\n[ "$1 $server" = "get {guarded.host}" ] || {{ echo "credentials not found in native keychain"; exit 1; }}\necho \'{answer}\'\n'
    )
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    docker = store.parent / "home/.docker"
    docker.mkdir()
    for config in ({"credHelpers": {guarded.host: "tests"}}, {"credsStore": "tests"}):
        (docker / "config.json").write_text(json.dumps(config))
        refused(hutch_cli("pull", f"{guarded.host}/not/there:1"), "does not exist")
    (docker / "config.json").write_text(json.dumps({"credHelpers": {guarded.host: "nobody"}}))
    refused(hutch_cli("pull", f"{guarded.host}/not/there:1"), "docker-credential-nobody", "not installed")


# certificates, mirrors


def test_an_unknown_authority_is_refused_until_certs_d_knows_it(secure, hutch_cli, hutch, store):
    name = f"{secure.host}/not/there:1"
    refused(hutch_cli("pull", name), "certificate is not trusted")
    place = settings(store, "") / "certs.d" / secure.host
    place.mkdir(parents=True)
    shutil.copy(secure.ca, place / "ca.crt")
    refused(hutch_cli("pull", name), "does not exist")
    (place / "ca.crt").write_text("nonsense")
    refused(hutch_cli("pull", name), str(place / "ca.crt"))


def test_insecure_takes_any_certificate_for_that_host_alone(secure, hutch_cli, store):
    name = f"{secure.host}/not/there:1"
    settings(store, f'[registry."{secure.host}"]\ninsecure = true\n')
    refused(hutch_cli("pull", name), "does not exist")
    settings(store, '[registry."elsewhere.example.org"]\ninsecure = true\n')
    refused(hutch_cli("pull", name), "certificate is not trusted")


def test_images_travel_over_tls(secure, server, hutch, store):
    image = simple("tls")
    place = settings(store, "") / "certs.d" / secure.host
    place.mkdir(parents=True)
    shutil.copy(secure.ca, place / "ca.crt")
    hutch("pull", "-q", server.put(image, "tls:1"))
    hutch("push", "-q", f"{server.host}/tls:1", f"{secure.host}/tls:1")
    hutch("rmi", f"{server.host}/tls:1")
    assert hutch("run", "-q", f"{secure.host}/tls:1", "echo", "1") == "1\n" and images.get(f"{secure.host}/tls:1").digest == image.digest


def test_a_mirror_is_asked_instead_and_the_name_stays(server, hutch, store):
    image = simple("mirrored")
    server.put(image, "team/mirrored:1")
    settings(store, f'[registry."registry.example.org"]\nmirrors = ["http://{server.host}"]\n')
    hutch("pull", "registry.example.org/team/mirrored:1")
    assert images.get("registry.example.org/team/mirrored:1").digest == image.digest


@pytest.mark.parametrize("down", [True, False])
def test_a_mirror_that_is_down_or_lacks_the_image_costs_nothing_but_time(server, second, hutch, store, down):
    name = server.put(simple("upstream"), "upstream:1")
    settings(store, f'[registry."{server.host}"]\nmirrors = ["http://{"127.0.0.1:1" if down else second.host}"]\n')
    hutch("pull", name)
    assert (len(second.asked()) == 0) == down


def test_what_a_damaged_server_left_is_fetched_again(server, hutch, store):
    """Half of a layer came from a mirror that has it damaged, when something else ended the attempt: the registry's own is whole."""
    first, image = big("first"), big("left")
    hutch("pull", server.put(first, "first:1"))
    name = server.put(image, "left:1")
    for layer in json.loads(image.raw)["layers"][-2:]:
        (store / "ingest" / file_name(layer["digest"])).write_bytes(b"x" * 1000)
    hutch("pull", name)
    assert images.get(name).digest == image.digest


def test_a_mirror_that_lacks_a_blob_or_has_a_damaged_one_is_left_for_the_registry(server, second, hutch, store, hutch_cli):
    image = big("holes")
    name = server.put(image, "holes:1")
    second.put(image, "holes:1")
    *_, lacking, damaged = [layer["digest"] for layer in json.loads(image.raw)["layers"]]
    for digest, content in ((lacking, None), (damaged, b"x" * len(image.blobs[damaged]))):
        place = next(second.storage.glob(f"docker/registry/v2/blobs/sha256/*/{digest[7:]}/data"))
        place.unlink() if content is None else place.write_bytes(content)
    settings(store, f'[registry."{server.host}"]\nmirrors = ["http://{second.host}"]\n')
    mark = server.mark()
    hutch("pull", name)
    assert images.get(name).digest == image.digest and {lacking, damaged} <= set(server.fetched(mark))


@pytest.mark.parametrize(
    "text", ["[registry", "registry = 5", '[registry."x"]\nmirors = []', '[registry."{host}"]\nmirrors = ["ftp://x"]', '[registry."x"]\ninsecure = 5']
)
def test_settings_that_make_no_sense_are_said_to(server, hutch_cli, store, text):
    settings(store, text.replace("{host}", server.host))
    refused(hutch_cli("pull", f"{server.host}/any:1"), "registries.toml")


# push


@pytest.mark.parametrize(
    "image", [simple("sent"), simple("sent", how="zstd"), simple("sent", docker=True), whiteouts()], ids=["gzip", "zstd", "docker", "layers"]
)
def test_what_was_pulled_is_pushed_byte_for_byte(server, second, hutch, image):
    hutch("pull", "-q", server.put(image, "sent:1"))
    assert hutch("push", "-q", f"{server.host}/sent:1", f"{second.host}/got:1").strip() == image.digest
    same(image, second, "got:1")
    mark = second.mark()
    hutch("push", f"{server.host}/sent:1", f"{second.host}/got:2")
    same(image, second, "got:2")
    assert not [entry for entry in second.asked(mark) if entry[0] in ("POST", "PATCH")]


def test_a_tag_is_another_name_to_push_under(server, second, hutch, hutch_cli):
    hutch("pull", "-q", server.put(simple("tagged"), "tagged:1"))
    hutch("tag", f"{server.host}/tagged:1", f"{second.host}/mine/tagged:2")
    hutch("push", f"{second.host}/mine/tagged:2")
    same(simple("tagged"), second, "mine/tagged:2")
    refused(hutch_cli("push", f"{second.host}/nobody:1"), "not in the store")
    refused(hutch_cli("push", f"{server.host}/tagged:1", f"{second.host}/x@{simple('tagged').digest}"), "digest")


def test_another_repository_of_the_same_registry_takes_the_blobs_over(server, hutch):
    image = big("mounted")
    hutch("pull", "-q", server.put(image, "first/place:1"))
    mark, before = server.mark(), server.blobs()
    hutch("push", f"{server.host}/first/place:1", f"{server.host}/second/place:1")
    posts = server.asked(mark, "POST")
    assert len(posts) == len(image.blobs) and all("mount=" in path and status == 201 for _, path, status, _ in posts)
    assert not server.asked(mark, "PATCH") and server.blobs() == before
    same(image, server, "second/place:1")


def test_a_push_is_refused_without_a_password(guarded, server, hutch, hutch_cli):
    hutch("pull", "-q", server.put(simple(), "refused:1"))
    refused(hutch_cli("push", f"{server.host}/refused:1", f"{guarded.host}/refused:1"), "hutch login")


def test_a_blob_of_several_chunks_arrives(server, second, hutch, monkeypatch):
    from hutch.image.registry import client

    monkeypatch.setattr(client, "CHUNK", 100_000)
    image = big("chunks", layers=1)
    hutch("pull", "-q", server.put(image, "chunks:1"))
    mark = second.mark()
    list(images.push(f"{server.host}/chunks:1", f"{second.host}/chunks:1"))
    assert len(second.asked(mark, "PATCH")) > 20
    same(image, second, "chunks:1")


def commit(hutch, name: str, image: str, script: str, *more: str) -> None:
    """An image of what a script changed."""
    hutch("run", "-q", "-d", "--name", "committed", image, "sh", "-c", script)
    try:
        ended(hutch, "committed")
        hutch("commit", *more, "committed", name)
    finally:
        hutch("rm", "-f", "committed")


def ended(hutch, name: str) -> None:
    deadline = time.monotonic() + 10
    while json.loads(hutch("inspect", name))[0]["State"]["Status"] == "running":
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_committed_image_runs_everywhere(server, hutch, docker, podman):
    name = f"{server.host}/committed:1"
    script = "echo new >/new; rm /data/first; rm -r /data/deep; mkdir /data/deep; echo fresh >/data/deep/file; echo 1 >/tmp/x; chmod 600 /tmp/x"
    commit(hutch, name, server.put(simple("base"), "base:1"), script, "-c", 'CMD ["cat", "/new"]', "-m", "a message", "-a", "anna")
    assert hutch("run", "--pull", "never", name) == "new\n"
    assert "a message" in hutch("history", name) and json.loads(hutch("inspect", name))[0]["Author"] == "anna"
    hutch("push", name)
    look = "cat /new; ls /data /data/deep; stat -c %a /tmp/x"
    expected = "new\n/data:\ndeep\n\n/data/deep:\nfile\n600\n"
    assert hutch("run", "--pull", "never", name, "sh", "-c", look) == expected
    podman.ok("pull", "--quiet", "--tls-verify=false", name)
    docker.ok("pull", "--quiet", name)
    for engine in (podman, docker):
        assert engine.ok("run", "--rm", *engine.flags, name) == "new"
        assert engine.ok("run", "--rm", *engine.flags, name, "sh", "-c", look) == expected.strip()


# everybody else's tools


def test_skopeo_and_hutch_have_the_same_image(server, hutch, tmp_path):
    image = whiteouts()
    layout = image.write(tmp_path / "layout")
    name = f"{server.host}/skopeo:1"
    tool("skopeo", "copy", "--insecure-policy", "--preserve-digests", "--dest-tls-verify=false", f"oci:{layout}:latest", f"docker://{name}")
    assert image.digest in hutch("pull", name)
    hutch("push", name, f"{server.host}/again:1")
    said = json.loads(tool("skopeo", "inspect", "--tls-verify=false", f"docker://{server.host}/again:1"))
    assert said["Digest"] == image.digest and said["Layers"] == image.layers


def test_a_multi_platform_index_that_skopeo_copied(server, hutch, tmp_path):
    both = index(simple("mine"), simple("other", platform=OTHER))
    layout = both.write(tmp_path / "layout")
    name = f"{server.host}/skopeo-multi:1"
    tool("skopeo", "copy", "--insecure-policy", "--all", "--preserve-digests", "--dest-tls-verify=false", f"oci:{layout}:latest", f"docker://{name}")
    hutch("pull", name)
    assert images.get(name).digest == both.digest and images.get(name).id == simple("mine").config


def test_an_image_that_umoci_made(server, hutch, tmp_path):
    layout = simple("umoci").write(tmp_path / "layout")
    reference = f"{layout}:latest"
    tool("umoci", "unpack", "--image", reference, str(tmp_path / "bundle"))
    (tmp_path / "bundle/rootfs/added").write_text("by umoci\n")
    (tmp_path / "bundle/rootfs/data/first").unlink()
    tool("umoci", "repack", "--image", reference, str(tmp_path / "bundle"))
    tool("umoci", "config", "--image", reference, "--config.cmd", "cat", "--config.cmd", "/added", "--config.workingdir", "/data")
    name = f"{server.host}/umoci:1"
    tool("skopeo", "copy", "--insecure-policy", "--dest-tls-verify=false", f"oci:{reference}", f"docker://{name}")
    assert hutch("run", "-q", name) == "by umoci\n" and hutch("run", name, "ls") == "deep\n"


@pytest.fixture(params=["docker", "podman"])
def engine(request) -> Engine:
    return request.getfixturevalue(request.param)


def _verify(engine: Engine) -> list[str]:
    return ["--tls-verify=false"] if engine.name == "podman" else []


def test_what_an_engine_pushes_runs_and_goes_back_unchanged(server, second, hutch, engine):
    name = f"{server.host}/from-{engine.name}:1"
    engine.ok("tag", ENGINES_IMAGE, name)
    engine.ok("push", "--quiet", *_verify(engine), name)
    assert hutch("run", "-q", name, "sh", "-c", "id anna | cut -d' ' -f1; ls /bin/plain-file") == "uid=1000(anna)\n/bin/plain-file\n"
    hutch("push", name, f"{second.host}/from-{engine.name}:1")
    assert second.manifest(f"from-{engine.name}:1") == server.manifest(f"from-{engine.name}:1")
    engine.ok("pull", "--quiet", *_verify(engine), f"{second.host}/from-{engine.name}:1")


@pytest.mark.parametrize("kind", ["pulled", "committed"])
def test_a_saved_image_is_loaded_by_an_engine(server, hutch, engine, tmp_path, kind):
    name = f"{server.host}/saved:{kind}-{engine.name}"
    source = server.put(simple("saved"), f"saved:{kind}-{engine.name}")
    hutch("pull", "-q", source)
    if kind == "committed":
        commit(hutch, name, source, "echo changed >/data/first")
    hutch("save", "-o", str(tmp_path / "image.tar"), name)
    assert name in engine.ok("load", "--quiet", "--input", str(tmp_path / "image.tar")) or kind
    said = engine.ok("run", "--rm", *engine.flags, *(["--pull", "never"]), name, "cat", "/data/first")
    assert said == ("changed" if kind == "committed" else "from the image")


def test_skopeo_reads_what_was_saved(server, hutch, tmp_path):
    image = simple("skopeo-saved")
    name = server.put(image, "skopeo-saved:1")
    hutch("pull", "-q", name)
    with open(tmp_path / "image.tar", "wb") as out:
        subprocess.run([*HUTCH, "save", name], stdout=out, check=True)
    said = json.loads(tool("skopeo", "inspect", f"oci-archive:{tmp_path}/image.tar"))
    assert said["Digest"] == image.digest and said["Layers"] == image.layers
    tool("skopeo", "copy", "--insecure-policy", f"oci-archive:{tmp_path}/image.tar", f"oci:{tmp_path}/layout:1")
    assert (tmp_path / "layout/blobs/sha256" / image.digest[7:]).read_bytes() == image.raw
    for archive in ("again", "more"):
        hutch("save", "-o", str(tmp_path / archive), name)
    assert (tmp_path / "again").read_bytes() == (tmp_path / "more").read_bytes() == (tmp_path / "image.tar").read_bytes()


@pytest.mark.parametrize("how", ["file", "pipe", "gzip pipe"])
@pytest.mark.parametrize("kind", ["docker", "podman docker-archive", "podman oci-archive"])
def test_an_archive_of_an_engine_is_loaded(request, hutch, tmp_path, kind, how):
    engine = request.getfixturevalue(kind.split()[0])
    path = tmp_path / "image.tar"
    engine.ok("save", "--output", str(path), *(["--format", kind.split()[1]] if " " in kind else []), ENGINES_IMAGE)
    if how == "file":
        said = hutch("load", "-i", str(path))
    else:
        with open(path, "rb") as file:
            words = ["gzip", "-1", "-c"] if how.startswith("gzip") else ["cat"]
            with subprocess.Popen(words, stdin=file, stdout=subprocess.PIPE) as pipe:
                said = hutch("load", stdin=pipe.stdout)
    assert "engines:latest" in said
    name = said.split()[-1]
    assert hutch("run", "--pull", "never", name, "ls", "/bin/plain-file") == "/bin/plain-file\n"


def test_hutch_loads_what_it_saved_with_all_names(server, hutch, store):
    one, two = server.put(simple("one"), "save:1"), server.put(whiteouts(), "save:2")
    hutch("pull", "-q", one)
    hutch("pull", "-q", two)
    hutch("tag", one, "another:name")
    archive = store.parent / "image.tar"
    hutch("save", "-o", str(archive), one, two, "another:name")
    before = {image.name: (image.id, image.digest) for image in images.every()}
    hutch("rmi", one, two, "another:name")
    assert images.every() == [] and not list(Content().blobs())
    hutch("load", "-q", "-i", str(archive))
    assert {image.name: (image.id, image.digest) for image in images.every()} == before and len(before) == 3
    assert hutch("run", "--pull", "never", two, "cat", "/w/b") == "3"


@pytest.mark.parametrize(
    "data", [b"", b"nonsense" * 1000, gzip.compress(b"x" * 10_000)[:-9], tar(member("hello", content=b"x"))], ids=["nothing", "no tar", "cut", "no image"]
)
def test_what_is_no_archive_is_not_loaded(hutch_cli, store, data):
    path = store.parent / "image.tar"
    path.write_bytes(data)
    refused(hutch_cli("load", "-i", str(path)), f"load {path}")
    with open(path, "rb") as file:
        refused(hutch_cli("load", stdin=file), "load")
    refused(hutch_cli("load", "-i", "/no/where"), "/no/where")


# images of the store


def test_export_and_import_keep_the_files(server, hutch):
    name = server.put(whiteouts(), "export:1")
    hutch("run", "-q", "-d", "--name", "exported", name, "sh", "-c", "echo new >/new; rm /w/b; sleep 60")
    try:
        until(lambda: not hutch_exec(hutch, "exported", "test", "-e", "/w/b"))
        with subprocess.Popen([*HUTCH, "export", "exported"], stdout=subprocess.PIPE) as pipe:
            data = pipe.stdout.read()
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            found = {item.name.lstrip("./").rstrip("/"): item for item in archive}
        assert {"new", "bin/busybox", "w/d/new", "gone"} <= set(found) and "w/b" not in found and not any(".wh." in item for item in found)
        assert (found["data/first"].uid, found["home/anna"].gid, found["tmp"].mode & 0o7777) == (1000, 1000, 0o1777)
    finally:
        hutch("rm", "-f", "exported")
    with open(os.environ["HUTCH_DATA"] + "/../export.tar", "w+b") as file:
        file.write(data)
        file.flush()
        file.seek(0)
        identity = hutch("import", "-c", 'CMD ["cat", "/new"]', "-c", "ENV A=b c=d", "-m", "flat", "-", "flat:1", stdin=file).strip()
    assert images.get("flat:1").id == identity and hutch("run", "flat:1") == "new\n"
    assert "A=b" in hutch("run", "flat:1", "env") and "flat" in hutch("history", "flat:1")


def until(condition, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.03)


def hutch_exec(hutch, name: str, *words: str) -> bool:
    return subprocess.run([*HUTCH, "exec", name, "sh", "-c", " ".join(words).replace("test -e", "[ -e") + " ]"], check=False).returncode == 0


def test_diff_names_what_changed_and_no_directory_for_what_it_holds(server, hutch):
    name = server.put(simple("diff"), "diff:1")
    hutch("run", "-q", "-d", "--name", "differs", name, "sh", "-c", "echo 1 >/added; rm /data/first; echo 2 >/data/deep/second; mkdir -p /etc/x/y")
    try:
        ended(hutch, "differs")
        assert hutch("diff", "differs").splitlines() == ["A /added", "C /data/deep/second", "D /data/first", "A /etc/x", "A /etc/x/y"]
    finally:
        hutch("rm", "-f", "differs")


def test_images_are_listed_filtered_and_formatted(server, hutch, hutch_cli):
    one, two = server.put(simple("one"), "list/one:1"), server.put(simple("two"), "list/two:2")
    hutch("pull", "-q", one)
    hutch("pull", "-q", two)
    hutch("tag", one, "short")
    lines = hutch("images").splitlines()
    assert lines[0].split() == ["REPOSITORY", "TAG", "IMAGE", "ID", "CREATED", "SIZE"] and len(lines) == 4

    def listed(*words: str) -> list[str]:
        return sorted(hutch("images", "--format", "{{.Repository}}:{{.Tag}}", *words).split())

    assert listed() == sorted([one, two, "short:latest"])
    assert listed("short") == ["short:latest"] and listed(f"{server.host}/list/*") == [one, two]
    assert listed("-f", "label=mark=two") == [two] and listed("-f", "label=mark") == listed() and listed("-f", "dangling=true") == []
    assert listed("-f", "reference=*two*", "-f", "label=mark=two") == [two] and listed("-f", f"reference={one}") == [one]
    assert hutch("images", "-q").split() == [images.get(two).short_id, images.get(one).short_id] or len(hutch("images", "-q").split()) == 2
    rows = [json.loads(line) for line in hutch("images", "--format", "json").splitlines()]
    assert {row["ID"] for row in rows} == {images.get(one).short_id, images.get(two).short_id}
    assert simple("two").digest in hutch("images", "--digests") and images.get(two).id in hutch("images", "--no-trunc")
    refused(hutch_cli("images", "-f", "colour=red"), "colour", "reference, label")


def test_an_image_is_found_by_name_digest_and_the_beginning_of_its_id(server, hutch, hutch_cli):
    name = server.put(simple("found"), "found:latest")
    hutch("pull", "-q", name)
    identity = images.get(name).id
    for text in (name, name.removesuffix(":latest"), identity, identity[7:], identity[7:15], f"{server.host}/found@{simple('found').digest}"):
        assert json.loads(hutch("inspect", text))[0]["Id"] == identity
    assert hutch("run", "--pull", "never", identity[7:19], "echo", "1") == "1\n"
    assert hutch_cli("inspect", "--type", "image", "nobody").returncode == 1


def test_rmi_removes_names_then_images_and_not_what_is_used(server, hutch, hutch_cli, store):
    name = server.put(simple("rmi"), "rmi:1")
    hutch("pull", "-q", name)
    identity = images.get(name).id
    hutch("tag", name, "second:1")
    many = hutch_cli("rmi", identity[7:19])
    assert many.returncode == 1 and "2 names" in many.stderr
    assert hutch("rmi", "second:1") == "removed: second:1\n"
    hutch("run", "-d", "--name", "user", name, "sleep", "60")
    try:
        used = hutch_cli("rmi", name)
        assert used.returncode == 1 and "container user uses it" in used.stderr
        hutch("system", "prune", "-a")
        assert images.get(name).id == identity and hutch("exec", "user", "cat", "/data/first") == "from the image\n"
        hutch("rmi", "-f", name)
        assert hutch("exec", "user", "cat", "/data/deep/second") == "deeper\n"
    finally:
        hutch("rm", "-f", "user")
    hutch("system", "prune")
    assert [path.name for path in store.glob("layers/*")] == [] and not list(Content().blobs())
    assert hutch_cli("rmi", name).returncode == 1


def test_a_container_keeps_its_image_when_the_tag_moves_on(server, hutch, tmp_path):
    name = server.put(simple("before"), "keeps:1")
    hutch("run", "-q", "-d", "--name", "keeps", name, "sh", "-c", "echo 1 >/added; sleep 60")
    try:
        until(lambda: "A /added" in hutch("diff", "keeps"))
        other = make(base(), tar(member("added", content=b"of another image"), directory("etc"), member("etc/passwd", content=b"anna:x:7:7::/:/bin/sh\n")))
        server.put(other, "keeps:1")
        hutch("pull", "-q", name)
        hutch("system", "prune")
        assert hutch("diff", "keeps") == "A /added\n"
        assert hutch("exec", "-u", "anna", "keeps", "id", "-u") == "1000\n"
        hutch("commit", "keeps", "kept:1")
        assert len(images.get("kept:1").layers) == 2 and images.get("kept:1").labels == {"mark": "before"}
        hutch("stop", "-t", "0.1", "keeps")
        hutch("cp", "keeps:/etc/passwd", str(tmp_path / "passwd"))
        assert "anna:x:1000" in (tmp_path / "passwd").read_text()
        hutch("rmi", name)
        assert hutch("diff", "keeps") == "A /added\n"
    finally:
        hutch("rm", "-f", "keeps")


def test_history_tells_what_made_each_layer(server, hutch):
    rows = [
        {"created": "2024-01-01T00:00:00Z", "created_by": "ADD base"},
        {"created_by": "ENV A=b", "empty_layer": True},
        {"created_by": "RUN x", "comment": "c"},
    ]
    name = server.put(make(base(), tar(member("x", content=b"1234")), history=rows), "history:1")
    hutch("pull", "-q", name)
    assert hutch("history", "--format", "{{.CreatedBy}}|{{.Comment}}", name).splitlines() == ["RUN x|c", "ENV A=b|", "ADD base|"]
    sizes = [layer.size for layer in images.history(name)]
    assert sizes[1] == 0 < sizes[0] < sizes[2]


def test_df_counts_and_prune_frees(server, hutch):
    hutch("pull", "-q", server.put(big("df"), "df:1"))
    rows = {row["Type"]: row for row in map(json.loads, hutch("system", "df", "--format", "json").splitlines())}
    assert rows["Images"]["TotalCount"] == "1" and rows["Images"]["Size"] == rows["Images"]["Reclaimable"] and rows["Left over"]["Size"] == "0B"
    hutch("system", "prune")
    assert len(images.every()) == 1
    assert "freed: " in hutch("system", "prune", "-a") and images.every() == [] and not list(Content().blobs())


def test_fsck_finds_damage_and_a_pull_makes_it_whole(server, hutch, hutch_cli, store):
    name = server.put(simple("damaged"), "damaged:1")
    hutch("pull", "-q", name)
    blob = store / "content/sha256" / simple("damaged").layers[0][7:]
    with open(blob, "r+b") as file:
        file.seek(1000)
        file.write(b"damage")
    found = hutch_cli("system", "fsck")
    assert found.returncode == 1 and "does not have its digest" in found.stdout
    assert "removed" in hutch_cli("system", "fsck", "--repair").stdout
    hutch("pull", name)
    assert "nothing is wrong" in hutch("system", "fsck")


# what an image says of how to run it


SAYS = {
    "Env": ["PATH=/bin", "GREETING=hello world", "EMPTY="], "Entrypoint": ["/bin/sh", "-c"], "Cmd": ["echo $GREETING; pwd; id -u; id -G"], "User": "anna",
    "WorkingDir": "/made/by/image", "Volumes": {"/data": {}}, "StopSignal": "SIGUSR1", "Labels": {"a": "b"}, "ExposedPorts": {"80/tcp": {}},
}  # fmt: skip


def test_the_configuration_says_how_to_run_it(server, hutch):
    name = server.put(make(base(), config=SAYS), "says:1")
    assert hutch("run", "-q", name).splitlines() == ["hello world", "/made/by/image", "1000", "1000 29"]
    assert hutch("run", name, "echo $EMPTY-$GREETING") == "-hello world\n"
    assert hutch("run", "--entrypoint", "/bin/echo", "-e", "GREETING=x", "-w", "/", "-u", "root", name, "a", "b") == "a b\n"
    assert hutch("run", "-u", "0:29", name, "id -u; id -g") == "0\n29\n"
    assert json.loads(hutch("inspect", name))[0]["Config"]["StopSignal"] == "SIGUSR1"


def test_its_stop_signal_is_what_stop_sends(server, hutch):
    name = server.put(make(base(), config={**SAYS, "Cmd": ["trap 'echo usr1; exit 7' USR1; echo ready; while :; do sleep 0.05; done"]}), "stops:1")
    hutch("run", "-q", "-d", "--name", "stops", name)
    try:
        until(lambda: "ready" in hutch("logs", "stops"))
        begun = time.monotonic()
        hutch("stop", "stops")
        ended(hutch, "stops")
        assert hutch("logs", "stops") == "ready\nusr1\n" and time.monotonic() - begun < 5
    finally:
        hutch("rm", "-f", "stops")


def test_its_volumes_begin_with_what_it_has_there(server, hutch):
    name = server.put(make(base(), config=SAYS), "volumes:1")
    hutch("run", "-q", "-d", "-u", "root", "--name", "anonymous", name, "cat /data/first; echo 1 >/data/deep/new; stat -c %u /data/first; sleep 60")
    try:
        found = [row.split()[1] for row in hutch("volume", "ls").splitlines()[1:]]
        assert len(found) == 1 and len(found[0]) == 64
        until(lambda: hutch("logs", "anonymous") == "from the image\n1000\n")
        assert "/data" not in hutch("diff", "anonymous")
    finally:
        hutch("rm", "-f", "anonymous")
    hutch("system", "prune", "--volumes")
    assert hutch("volume", "ls", "-q") == ""


@pytest.mark.parametrize(
    ("config", "words"),
    [({"User": "nobody-here"}, ["nobody-here"]), ({"Entrypoint": "sh"}, ["Entrypoint"]), ({"Cmd": []}, ["command"]), ({"Env": [5]}, ["Env"])],
)
def test_a_configuration_that_makes_no_sense_is_said_to(server, hutch_cli, config, words):
    name = server.put(make(base(), config=config), "senseless:1")
    done = hutch_cli("run", "-q", name)
    refused(done, *words)


# copies and volumes


@pytest.fixture(params=["running", "stopped"])
def box(request, server, hutch):
    """A container, running or not."""
    name = server.put(simple("copies"), "copies:1")
    hutch("run", "-q", "-d", "--name", "copies", name, *(["sleep", "60"] if request.param == "running" else ["true"]))
    ended(hutch, "copies") if request.param == "stopped" else None
    yield "copies"
    hutch("rm", "-f", "copies")


def test_files_are_copied_both_ways(box, hutch, hutch_cli, tmp_path):
    (tmp_path / "tree/sub").mkdir(parents=True)
    (tmp_path / "tree/sub/file").write_text("deep\n")
    (tmp_path / "tree/link").symlink_to("sub/file")
    (tmp_path / "script").write_text("#!/bin/sh\n")
    (tmp_path / "script").chmod(0o755)
    hutch("cp", str(tmp_path / "script"), f"{box}:/data/")
    hutch("cp", str(tmp_path / "script"), f"{box}:/data/renamed")
    hutch("cp", str(tmp_path / "tree"), f"{box}:/data")
    hutch("cp", f"{tmp_path}/tree/.", f"{box}:/tmp")
    out = tmp_path / "out"
    out.mkdir()
    hutch("cp", f"{box}:/data", str(out))
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*")) == sorted(
        f"data{rest}" for rest in ("", "/deep", "/deep/second", "/first", "/renamed", "/script", "/tree", "/tree/link", "/tree/sub", "/tree/sub/file")
    )
    assert (out / "data/tree/sub/file").read_text() == "deep\n" and os.readlink(out / "data/tree/link") == "sub/file"
    assert (out / "data/renamed").stat().st_mode & 0o777 == 0o755 and (out / "data/first").read_text() == "from the image\n"
    hutch("cp", f"{box}:/tmp/sub/file", str(tmp_path / "single"))
    assert (tmp_path / "single").read_text() == "deep\n"
    with open(tmp_path / "tree.tar", "w+b") as file:
        subprocess.run([*HUTCH, "cp", f"{box}:/data/tree", "-"], stdout=file, check=True)
        file.seek(0)
        assert hutch("cp", "-", f"{box}:/home", stdin=file) == ""
    hutch("cp", f"{box}:/home/tree/sub/file", str(tmp_path / "piped"))
    assert (tmp_path / "piped").read_text() == "deep\n"
    refused(hutch_cli("cp", f"{box}:/no/where", str(out)), "/no/where", "does not exist")
    refused(hutch_cli("cp", "/no/where", f"{box}:/tmp"), "/no/where")
    refused(hutch_cli("cp", str(tmp_path / "script"), f"{box}:/no/where/at/all"), "/no/where/at")
    refused(hutch_cli("cp", "/etc/hostname", "/tmp/x"), "CONTAINER:PATH")


def test_copies_into_one_that_has_ended_wait_for_each_other(server, hutch):
    """Two overlays on one upper directory would spoil it."""
    hutch("run", "-q", "-d", "--name", "crowded", server.put(simple("copies"), "copies:1"), "true")
    ended(hutch, "crowded")
    try:
        copies = [subprocess.Popen([*HUTCH, "cp", "/etc/hostname", f"crowded:/data/{n}"], stderr=subprocess.PIPE) for n in range(6)]
        assert [(copy.communicate()[1], copy.returncode) for copy in copies] == [(b"", 0)] * 6
        rows = hutch("diff", "crowded").split("\n")
        assert {f"A /data/{n}" for n in range(6)} <= set(rows)
    finally:
        hutch("rm", "-f", "crowded")


def test_a_volume_begins_as_the_image_and_outlives_its_containers(server, hutch, hutch_cli):
    name = server.put(simple("volumes"), "volume:1")
    hutch("volume", "create", "--label", "a=b", "kept")
    assert (
        hutch("run", "-q", "-v", "kept:/data", name, "sh", "-c", "cat /data/first; stat -c %u:%g /data/first; echo more >/data/mine")
        == "from the image\n1000:1000\n"
    )
    assert hutch("run", "-v", "kept:/anywhere", name, "cat", "/anywhere/mine", "/anywhere/deep/second") == "more\ndeeper\n"
    readonly = hutch_cli("run", "-v", "kept:/data:ro", name, "sh", "-c", "cat /data/mine; echo no >/data/mine")
    assert readonly.stdout == "more\n" and readonly.returncode != 0 and "Read-only" in readonly.stderr
    deep = "type=volume,source=kept,target=/x,volume-subpath=deep"
    assert hutch("run", "--mount", deep, name, "ls", "/x") == "second\n"
    escape = hutch_cli("run", "--mount", deep.replace("deep", "../../.."), name, "ls", "/x")
    assert escape.returncode == 125 and "Traceback" not in escape.stderr
    nocopy = "type=volume,source=bare,target=/data,volume-nocopy"
    assert hutch("run", "--mount", nocopy, name, "ls", "/data") == ""
    assert json.loads(hutch("volume", "inspect", "kept"))[0]["Labels"] == {"a": "b"}
    assert hutch("volume", "ls", "-q", "-f", "label=a=b").split() == ["kept"] and hutch("volume", "ls", "-q").split() == ["bare", "kept"]


def test_a_volume_that_a_container_uses_stays(server, hutch, hutch_cli):
    name = server.put(simple("volumes"), "volume:1")
    hutch("run", "-q", "-d", "--name", "keeper", "-v", "used:/v", name, "sh", "-c", "echo 1 >/v/file; sleep 60")
    try:
        done = hutch_cli("volume", "rm", "used")
        assert done.returncode == 1 and "container keeper uses it" in done.stderr
        assert hutch("volume", "prune", "-a").startswith("freed: ")
        until(lambda: hutch("run", "-v", "used:/w", name, "ls", "/w") == "file\n")
    finally:
        hutch("rm", "-f", "keeper")
    assert hutch("run", "-v", "used:/v", name, "cat", "/v/file") == "1\n" and hutch("volume", "rm", "used") == "used\n"
    assert hutch_cli("volume", "rm", "used").returncode == 1 and hutch_cli("volume", "rm", "-f", "used").returncode == 0


def test_a_link_in_a_volume_leads_no_subpath_out_of_it(server, hutch, hutch_cli):
    name = server.put(simple("volumes"), "volume:1")
    hutch("run", "-q", "-v", "linked:/v", name, "sh", "-c", "busybox ln -s / /v/out; busybox ln -s /etc /v/etc")
    for link in ("out", "etc"):
        done = hutch_cli("run", "--mount", f"type=volume,source=linked,target=/x,volume-subpath={link}", name, "ls", "/x")
        assert "hostname" not in done.stdout and "var" not in done.stdout and "Traceback" not in done.stderr


def test_a_subpath_that_becomes_a_link_after_it_was_checked_leads_nowhere(server, hutch, monkeypatch):
    """Who has the volume, too, may write in it at any moment: the kernel resolves the path inside it when it is mounted."""
    name = server.put(simple("volumes"), "volume:1")
    hutch("run", "-q", "-v", "raced:/v", name, "mkdir", "-p", "/v/a/b")
    volume = Path(json.loads(hutch("volume", "inspect", "raced"))[0]["Mountpoint"])
    original = launching._launch

    def swapped(*arguments, **options):
        if not (volume / "a/b").is_symlink():
            (volume / "a/b").rmdir()
            (volume / "a/b").symlink_to("/etc")
        return original(*arguments, **options)

    monkeypatch.setattr(launching, "_launch", swapped)
    refused = hutch_run(name, ["ls", "/x"], mounts=[VolumeMount(name="raced", target="/x", subpath="a/b")])
    assert isinstance(refused.error, StartError) and "a/b" in refused.error.message
    (volume / "etc").mkdir()
    (volume / "etc/own").touch()
    (volume / "a/b").unlink()
    (volume / "a/b").mkdir()
    found = hutch_run(name, ["ls", "/x"], mounts=[VolumeMount(name="raced", target="/x", subpath="a/b")])
    assert found.stdout == "own\n"
