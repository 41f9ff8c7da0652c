"""Text that others chose, on the user's terminal: an image's configuration, the names of a container's
files, a registry's words.

No letter of it may be one that a terminal obeys, in any command's output for people; JSON says it exactly.
"""

from __future__ import annotations

import ast
import io
import json
import os
import pty
import re
import select
import subprocess
import tarfile
import threading
import unicodedata
import uuid
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.archives import ARCHITECTURE, busybox, layout, member, sha256, tar
from tests.conftest import HUTCH, REPO

pytestmark = pytest.mark.root
# clears the screen, sets the title, rings, goes back over what was written, colours by one byte (C1), and
# begins a line of its own
HOSTILE = "\x1b[2J\x1b]0;pwned\x07\r\x08\x7f\x9b31mFORGED\nFORGED"


def shown(*words: str) -> str:
    """What a command writes on a terminal, where it is for people: both of its streams."""
    master, slave = pty.openpty()
    process = subprocess.Popen([*HUTCH, *words], stdin=subprocess.DEVNULL, stdout=slave, stderr=slave)
    os.close(slave)
    text = b""
    while select.select([master], [], [], 30)[0]:
        try:
            text += os.read(master, 65536)
        except OSError:  # nobody has the other end any more
            break
    os.close(master)
    try:
        process.wait(10)
    finally:
        process.kill()
        process.wait()
    return text.decode(errors="surrogateescape").replace("\r\n", "\n")


def obeyed(text: str) -> list[str]:
    """The letters of a text that a terminal obeys, and lines that begin with what a stranger wrote."""
    found = [letter for letter in text if letter not in "\n\t" and (unicodedata.category(letter) in ("Cc", "Cs"))]
    return found + [line for line in text.split("\n") if line.startswith("FORGED")]


def harmless(*words: str) -> str:
    text = shown(*words)
    assert not obeyed(text), repr(text)
    assert "Traceback" not in text, text
    return text


CONFIG = {
    "Cmd": ["/bin/sh", "-c", f"sleep 1000; {HOSTILE}"],
    "Env": [f"A={HOSTILE}", "PATH=/bin"],
    "Labels": {f"key{HOSTILE}": HOSTILE},
    "Volumes": {f"/v{HOSTILE}": {}},
    "ExposedPorts": {f"80{HOSTILE}/tcp": {}},
    "Healthcheck": {"Test": ["CMD", f"/none{HOSTILE}"]},
    "Author": HOSTILE,
}
BAD = {
    "entrypoint": {"Entrypoint": [f"/bin/none{HOSTILE}"]},
    "program": {"Cmd": [f"none{HOSTILE}"]},
    "user": {"User": f"nobody{HOSTILE}"},
    "group": {"User": f"0:none{HOSTILE}"},
    "directory": {"WorkingDir": f"/etc/passwd{HOSTILE}/x", "Cmd": ["true"]},
    "relative": {"WorkingDir": f"x{HOSTILE}", "Cmd": ["true"]},
    "file": {"WorkingDir": "/bin/busybox", "Cmd": [f"true{HOSTILE}"]},
    "signal": {"StopSignal": f"NONE{HOSTILE}", "Cmd": ["true"]},
    "environment": {"Env": [f"={HOSTILE}", HOSTILE], "Cmd": ["true"]},
    "volumes": {"Volumes": {f"relative{HOSTILE}": {}, "/proc": {}}, "Cmd": ["true"]},
    "ports": {"ExposedPorts": {f"x{HOSTILE}": {}}, "Cmd": ["true"]},
    "shell": {"Shell": HOSTILE, "Cmd": HOSTILE},
    "health": {"Healthcheck": {"Test": HOSTILE}, "Cmd": ["true"]},
}


@pytest.fixture
def loaded(hutch_cli, tmp_path):
    """An image in the store: `loaded(config, layers…)` gives its name, "" if it was refused."""
    names = []

    def load(config: dict | None = None, *layers: bytes, **changes) -> str:
        name = f"hostile-{uuid.uuid4().hex[:8]}:1"
        place = layout(tmp_path / name, *(layers or (tar(*busybox()),)), image=config or {}, **changes)
        index = json.loads((place / "index.json").read_text())
        index["manifests"][0]["annotations"] = {"org.opencontainers.image.ref.name": name}
        (place / "index.json").write_text(json.dumps(index))
        text = shown("load", "-i", str(place))
        assert not obeyed(text), repr(text)
        names.append(name)
        return name if text.startswith("loaded") else ""

    yield load
    hutch_cli("rmi", "-f", *names)


@pytest.fixture
def web(hutch_cli, loaded):
    """A detached container of a hostile image, with hostile files."""
    name = f"web-{uuid.uuid4().hex[:8]}"
    started = hutch_cli(
        "run",
        "-d",
        "--name",
        name,
        "--upper",
        "disk",
        "-l",
        f"label={HOSTILE}",
        "-e",
        f"B={HOSTILE}",
        loaded(CONFIG),
    )
    assert started.returncode == 0, started.stderr
    assert hutch_cli("exec", name, "/bin/busybox", "mkdir", "-p", "/srv/d").returncode == 0
    for path in (f"/srv/{HOSTILE}", f"/srv/d/{HOSTILE}"):
        assert hutch_cli("exec", name, "/bin/busybox", "touch", path).returncode == 0
    yield name
    hutch_cli("rm", "-f", name)
    hutch_cli("volume", "prune")


OUTPUTS = ["ps", "ps -a --no-trunc", "diff {}", "inspect {}", "inspect --kernel {}", "port {}", "stats {}", "healthcheck {}", "ps --json", "volume ls",
           "system df", "exec {} none", "kill -s CONT {}", "rm {}"]  # fmt: skip


def test_what_commands_say_of_a_container(web):
    """Every command that tells of a container whose image, environment, labels and files are hostile."""
    found = [words for words in OUTPUTS if obeyed(shown(*words.format(web).split()))]
    assert not found, "these commands pass a stranger's letters on"


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("command", ["run", "plan"])
def test_errors_of_a_hostile_image(hutch_cli, loaded, kind, command):
    """What cannot be run, is refused or warned of."""
    name = f"bad-{uuid.uuid4().hex[:8]}"
    try:
        if image := loaded(BAD[kind]):
            harmless(*command.split(), *(["--name", name] if command != "plan" else []), image)
        harmless("ps", "-a", "--no-trunc")
        harmless("stop", "-t", "0", name)
    finally:
        hutch_cli("rm", "-f", name)
        hutch_cli("volume", "prune")


def test_what_commands_say_of_an_image(loaded):
    """`images`, `history`, `inspect`, `plan` and `save` of an image whose maker is hostile."""
    layer = tar(*busybox())
    history = [{"created": HOSTILE, "created_by": HOSTILE, "comment": HOSTILE, "author": HOSTILE}]
    config = {"architecture": ARCHITECTURE, "os": "linux", "config": CONFIG, "created": HOSTILE, "author": HOSTILE, "history": history,
              "rootfs": {"type": "layers", "diff_ids": [sha256(layer)]}}  # fmt: skip
    name = loaded({}, layer, config_json=config)
    assert name
    for words in (
        "images",
        "images --digests --no-trunc",
        "history --no-trunc {}",
        "inspect {}",
        "plan {}",
        "plan --lint {}",
        "rmi none",
        "save {}",
    ):
        harmless(*words.format(name).split())


@pytest.mark.parametrize("what", ["tag", "media", "layer", "whiteout", "link", "digest", "architecture"])
def test_errors_of_a_hostile_archive(tmp_path, what):
    """`load`, `import` and `run` of archives whose names and members are hostile."""
    layers = {
        "layer": [member(f"../{HOSTILE}")],
        "whiteout": [member(f"a/.wh.{HOSTILE}/b")],
        "link": [member(f"a{HOSTILE}", tarfile.LNKTYPE, f"none{HOSTILE}")],
    }
    place = layout(
        tmp_path / "layout",
        tar(*busybox(), *layers.get(what, [])),
        **({"diff_id": f"sha256:{HOSTILE}"} if what == "digest" else {}),
    )
    index = json.loads((place / "index.json").read_text())
    row = index["manifests"][0]
    row["annotations"] = {
        "org.opencontainers.image.ref.name": HOSTILE if what == "tag" else "x:1",
        "io.containerd.image.name": HOSTILE if what == "tag" else "x:1",
    }
    if what == "media":
        row["mediaType"] = HOSTILE
    if what == "architecture":
        row["platform"] = {"architecture": HOSTILE, "os": HOSTILE}
    (place / "index.json").write_text(json.dumps(index))
    harmless("load", "-i", str(place))
    harmless("run", str(place), "true")
    with tarfile.open(tmp_path / "root.tar", "w") as archive:
        for info, content in layers.get(what, [member(HOSTILE)]):
            archive.addfile(info, io.BytesIO(content))
    harmless("import", str(tmp_path / "root.tar"))
    shown("rmi", "-f", "x:1")


@pytest.mark.parametrize("names", ["hostile", "not-utf-8"])
def test_errors_of_cp_and_names_of_files(hutch_cli, web, tmp_path, names):
    """Names of a container's files in `diff`, and in the errors of `cp`, `commit` and `export`."""
    name = HOSTILE.encode() if names == "hostile" else b"\xff\xfe\x80name"
    path = os.fsencode(tmp_path) + b"/" + name
    os.mkdir(path)
    open(path + b"/file", "wb").close()
    assert hutch_cli("cp", os.fsdecode(path), f"{web}:/srv/d/new").returncode == 0
    script = 'cd /srv; /bin/busybox mkdir -p "$1/deep"; echo x >"$1/deep/.wh.$1"; /bin/busybox mknod "$1/pipe" p'
    subprocess.run(
        [*map(os.fsencode, [*HUTCH, "exec", web, "sh", "-c", script, "sh"]), name],
        check=False,
        capture_output=True,
    )
    assert "name" in harmless("diff", web) or names == "hostile"
    target = tmp_path / "target"
    (target / os.fsdecode(name)).parent.mkdir(parents=True)
    (target / os.fsdecode(name)).write_text("in the way of a directory")
    for words in ([f"{web}:/srv/.", str(target)], [f"{web}:/srv/{os.fsdecode(name)}/none", str(target)], [f"{web}:/srv/{os.fsdecode(name)}/pipe", str(target)],
                  [f"{tmp_path}/target/.", f"{web}:/srv"]):  # fmt: skip
        text = shown("cp", *words)
        typed = any(os.fsdecode(name) in word for word in words)  # the user's own words are said back to him, not obeyed
        assert not obeyed(text) and "Traceback" not in text, (typed, repr(text))
    harmless("commit", web, "x:2")
    shown("rmi", "-f", "x:2")


def test_a_containers_name_and_hostname(hutch_cli):
    """A name that is no name is refused, without being obeyed."""
    for flag in ("--name", "--hostname", "--network", "--volume", "--env-file", "-m", "--user"):
        harmless("run", flag, f"x{HOSTILE}", "host", "true")
    for words in (
        ["kill", HOSTILE],
        ["run", HOSTILE],
        [HOSTILE],
        ["pull", HOSTILE],
        ["volume", "rm", HOSTILE],
        ["run", f"--{HOSTILE}"],
        ["inspect", HOSTILE],
    ):
        harmless(*words)


class Hostile(BaseHTTPRequestHandler):
    """A registry whose every answer is hostile text: an error's message, a challenge, a manifest."""

    mode = ""

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        text = json.dumps({"errors": [{"code": HOSTILE, "message": HOSTILE, "detail": HOSTILE}]}).encode()
        headers, status = {}, 404
        if self.mode == "plain":
            text, status = HOSTILE.encode(), 500
        elif self.mode == "challenge":
            status, headers = (
                401,
                {"WWW-Authenticate": f'Bearer realm="http://127.0.0.1:1/{HOSTILE.replace(chr(10), "").replace(chr(13), "")}",service="\x1b[2J"'},
            )
        elif self.mode == "scheme":
            status, headers = 401, {"WWW-Authenticate": "\x1b[2J\x9b31m realm=x"}
        elif self.mode == "redirect":
            status, headers = 307, {"Location": "gopher://\x1b[2J\x9b31m/"}
        elif self.mode in ("manifest", "config"):
            kind = "\x1b[2J" if self.mode == "manifest" else "application/vnd.oci.image.manifest.v1+json"
            status, headers = 200, {"Content-Type": kind}
            text = json.dumps(
                {
                    "schemaVersion": 2,
                    "mediaType": HOSTILE,
                    "config": {"digest": HOSTILE, "size": HOSTILE},
                    "layers": HOSTILE,
                }
            ).encode()
        elif self.mode == "reason":
            self.wfile.write(b"HTTP/1.1 500 \x1b[2J\x9b31m\r\nContent-Length: 0\r\n\r\n")
            return
        elif self.mode == "status":
            self.wfile.write(b"\x1b[2J\x9b31m\r\n\r\n")
            return
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(text))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text)

    do_HEAD = do_POST = do_PUT = do_GET


@pytest.mark.parametrize("mode", ["json", "plain", "challenge", "scheme", "redirect", "manifest", "config", "reason", "status"])
@pytest.mark.parametrize("command", ["pull", "run", "push"])
def test_a_registrys_words(loaded, hutch_cli, mode, command):
    """What a registry answers to `pull`, to the pull of `run`, and to `push`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Mode", (Hostile,), {"mode": mode}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    name = f"127.0.0.1:{server.server_port}/x:1"
    try:
        words = [command, name]
        if command == "push":
            words = ["push", loaded(), name]
        text = shown(*words)
    finally:
        server.shutdown()
        server.server_close()
    text = re.sub(r"\x1b\[\d*[AK]|\r", "", text)  # the progress' own
    assert not obeyed(text) and "Traceback" not in text, repr(text)


def test_json_is_exact(hutch_cli, web, loaded):
    """What programs read is what the strangers wrote, letter by letter."""
    image = loaded(CONFIG)
    (found,) = json.loads(hutch_cli("inspect", image).stdout)
    config = found["Config"]
    assert (config["Cmd"], config["Env"], config["Labels"]) == (
        CONFIG["Cmd"],
        CONFIG["Env"],
        CONFIG["Labels"],
    )
    assert json.loads(hutch_cli("inspect", "--format", "{{json .Config.Labels}}", image).stdout) == CONFIG["Labels"]
    rows = [json.loads(line) for line in hutch_cli("ps", "--json").stdout.splitlines()]
    (row,) = [row for row in rows if row["name"] == web]
    assert row["command"] == CONFIG["Cmd"]


ALLOWED = 1


@pytest.mark.parametrize("package", ["cli", "cli/oci"])
def test_one_module_writes_to_the_terminal(package):
    """`print`, `sys.stdout.write`, `sys.stderr.write`, `input` and os.write to 1 or 2 stand in one
    module of a command line; what is no text
    for people (archives, logs, a container's own stream) goes by `sys.stdout.buffer` or a descriptor that is not a number.
    """
    found = defaultdict(list)
    for path in sorted(Path(REPO, "src/hutch", package).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            call = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            written = call == "os.write" and ast.unparse(node.args[0]) in ("1", "2") and not ast.unparse(node.args[1]).startswith("view")
            if (
                call
                in (
                    "print",
                    "input",
                    "sys.stdout.write",
                    "sys.stderr.write",
                    "sys.stdout.writelines",
                    "sys.stderr.writelines",
                )
                or written
            ):
                found[path.name].append(node.lineno)
    assert len(found) <= ALLOWED, dict(found)
