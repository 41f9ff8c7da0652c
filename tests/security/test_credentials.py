"""Credentials go to their registry and the realm that it names: not to mirrors, redirects, or their own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hutch.engine.images import images
from hutch.errors import HutchError
from tests.kernel.test_hostile_registry import Handler
from tests.registry import PASSWORD, USER, Image, authority, base, make, simple
from tests.security.parties import BASIC, IDENTITY, Answer, Either, Party, told

pytestmark = pytest.mark.root


@pytest.fixture
def parties() -> Iterator[tuple[Party, Party, Party]]:
    """A registry; who it is made to lead to; and who that one names."""
    found = Party(), Party(), Party()
    yield found
    for party in found:
        party.close()


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home and a store of the test's own."""
    place = Path(tempfile.mkdtemp(prefix="hutch-store-", dir="/var/tmp"))
    place.chmod(0o711)
    for name, value in {
        "HUTCH_DATA": "data",
        "HOME": "",
        "XDG_CONFIG_HOME": ".config",
        "XDG_RUNTIME_DIR": "run",
        "DOCKER_CONFIG": ".docker",
    }.items():
        monkeypatch.setenv(name, str(place / value))
    for name in ("HUTCH_AUTH_FILE", "REGISTRY_AUTH_FILE"):
        monkeypatch.delenv(name, raising=False)
    for name in (".config/hutch", ".docker", "bin"):
        (place / name).mkdir(parents=True)
    monkeypatch.setenv("PATH", f"{place}/bin:{os.environ['PATH']}")
    yield place
    shutil.rmtree(place)


def helper(home: Path, server: str) -> Path:
    """A credential helper that knows one server; the file of what it was asked."""
    asked = home / "asked"
    answer = json.dumps({"ServerURL": server, "Username": USER, "Secret": PASSWORD})
    program = home / "bin/docker-credential-tests"
    program.write_text(
        f"#!/bin/sh\nread server\necho $server >>{asked}\n"
        f"[ $server = {server} ] || {{ echo credentials not found in native keychain; exit 1; }}\n"
        f"echo '{answer}'\n"
    )
    program.chmod(0o755)
    asked.touch()
    return asked


def remember(home: Path, way: str, server: str) -> dict[str, object]:
    """Have credentials for one server in one of the ways; what a pull is given."""
    config = home / ".docker/config.json"
    if way == "file":
        config.write_text(json.dumps({"auths": {server: {"auth": BASIC}}}))
    elif way == "identity token":
        config.write_text(json.dumps({"auths": {server: {"identitytoken": IDENTITY}}}))
    elif way == "helper":
        helper(home, server)
        config.write_text(json.dumps({"credHelpers": {server: "tests"}}))
    elif way == "helper for all":
        helper(home, server)
        config.write_text(json.dumps({"credsStore": "tests"}))
    return {"credentials": (USER, PASSWORD)} if way == "given" else {}


def mirrored(home: Path, server: str, *mirrors: str) -> None:
    """The user's registries.toml."""
    quoted = ", ".join(f'"{mirror}"' for mirror in mirrors)
    (home / ".config/hutch/registries.toml").write_text(f'[registry."{server}"]\nmirrors = [{quoted}]\n')


WAYS = ["file", "identity token", "helper", "helper for all", "given"]
ways = pytest.mark.parametrize("way", WAYS)


def private() -> Image:
    return simple("private")


def to(other: Party, status: int = 307) -> Answer:
    return lambda handler: handler.send(status, Location=f"http://{other.host}{handler.path}")


def challenges(third: Party) -> list[str]:
    """What whoever is not the registry may answer 401 with."""
    realm = f'Bearer realm="{third.gives_tokens("any")}",service="s",scope="repository:x:pull"'
    return [realm, 'Basic realm="x"', f'{realm}, Basic realm="x"', f'Basic realm="x", {realm}']


# redirects


@ways
@pytest.mark.parametrize("path", ["manifests/", "blobs/"])
def test_a_redirect_leads_no_password_to_the_realm_of_its_target(parties, home, way, path):
    """The registry redirects to B; B wants credentials, and names C as the place for tokens."""
    registry, second, third = parties
    name = registry.put(private())
    options = remember(home, way, registry.host)
    registry.lies[f"/v2/x/{path}"] = to(second)
    for challenge in challenges(third):
        second.wants(challenge)
        with contextlib.suppress(HutchError):
            images.pull(name, **options).result()
    assert second.heard
    assert not told(second, third)


@ways
def test_a_redirect_behind_the_password_leads_none_on(parties, home, way):
    """The same once the registry itself has asked for the password, and got it."""
    registry, second, third = parties
    token = registry.gives_tokens()
    name = registry.put(private())
    options = remember(home, way, registry.host)
    registry.wants(f'Bearer realm="{token}",service="s"')
    registry.lies["/v2/x/blobs/"] = to(second)  # behind the guard, which comes first
    for challenge in challenges(third):
        second.wants(challenge)
        with contextlib.suppress(HutchError):
            images.pull(name, **options).result()
    assert registry.secrets and second.heard
    assert not told(second, third)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_every_kind_of_redirect(parties, home, status):
    """Through two hosts: neither learns the password, nor does the realm that the last one names."""
    registry, second, third = parties
    name = registry.put(private())
    remember(home, "file", registry.host)
    registry.lies["/v2/x/manifests/"] = to(second, status)
    second.lies["/v2/"] = to(third, status)
    third.wants(f'Bearer realm="{second.gives_tokens("any")}"')
    with contextlib.suppress(HutchError):
        images.pull(name).result()
    assert third.heard and not told(second, third)


def test_login_gives_no_password_to_the_realm_of_a_redirects_target(parties, home, hutch_cli):
    """What is typed at `hutch login` goes to that registry."""
    registry, second, third = parties
    registry.lies["/v2/"] = to(second)
    for challenge in challenges(third):
        second.wants(challenge)
        hutch_cli("login", "-u", USER, "--password-stdin", registry.host, input=f"{PASSWORD}\n")
    assert second.heard and not told(second, third)


@pytest.mark.parametrize("way", ["file", "identity token"])
def test_a_token_service_that_redirects_takes_no_password_along(parties, home, way):
    """The realm that the registry named redirects to another host: what it was sent stays with it."""
    registry, second, third = parties
    name = registry.put(private())
    remember(home, way, registry.host)
    registry.wants(f'Bearer realm="http://{second.host}/token"')
    third.gives_tokens("any")
    for status in (302, 307, 308):
        second.lies["/token"] = to(third, status)
        with contextlib.suppress(HutchError):
            images.pull(name).result()
    assert second.secrets and not told(third)


def test_a_token_service_names_no_other(parties, home):
    """A realm that wants credentials itself, and names another host for them."""
    registry, second, third = parties
    name = registry.put(private())
    remember(home, "file", registry.host)
    registry.wants(f'Bearer realm="http://{second.host}/token"')
    second.wants(f'Bearer realm="{third.gives_tokens("any")}"', path="/token", takes=())
    with contextlib.suppress(HutchError):
        images.pull(name).result()
    assert second.secrets and not told(third)


# mirrors


@ways
def test_a_mirror_gets_none_of_the_registrys_credentials(parties, home, way):
    """A mirror wants a password, or names a place for tokens; the image comes from the registry then."""
    registry, mirror, third = parties
    name = registry.put(private())
    options = remember(home, way, registry.host)
    mirrored(home, registry.host, f"http://{mirror.host}")
    registry.wants(f'Bearer realm="{registry.gives_tokens()}"')
    for challenge in challenges(third):
        mirror.heard.clear()
        mirror.wants(challenge)
        found = images.pull(name, **options).result()
        assert mirror.heard and not told(mirror, third)
        assert found.id == private().config and registry.secrets


def test_a_mirror_that_asks_as_the_registry_does_gets_nothing(parties, home):
    """Nor does the registry's own realm get any on a mirror's word: its token would go to the mirror."""
    registry, mirror, _ = parties
    name = registry.put(private())
    remember(home, "file", registry.host)
    mirrored(home, registry.host, f"http://{mirror.host}")
    mirror.wants(f'Bearer realm="{registry.gives_tokens("any")}"')
    with contextlib.suppress(HutchError):
        images.pull(name).result()
    assert mirror.heard and not told(registry, mirror)


def test_a_mirrors_redirect_leads_no_password_away(parties, home):
    """A mirror that redirects to a host that wants a password."""
    registry, mirror, third = parties
    name = registry.put(private())
    remember(home, "file", registry.host)
    mirrored(home, registry.host, f"http://{mirror.host}")
    mirror.lies["/v2/"] = to(third)
    third.wants(f'Bearer realm="{third.gives_tokens("any")}", Basic realm="x"')
    assert images.pull(name).result().id == private().config
    assert third.heard and not told(mirror, third)


@pytest.mark.parametrize("way", ["file", "helper for all"])
def test_a_mirrors_own_credentials_are_its_own(parties, home, way):
    """Credentials that are stored for the mirror go to it or to nobody."""
    registry, mirror, third = parties
    name = registry.put(private())
    mirror.put(private())
    remember(home, way, mirror.host)
    mirrored(home, registry.host, f"http://{mirror.host}")
    mirror.wants('Basic realm="x"')
    registry.wants(challenges(third)[2])
    with contextlib.suppress(HutchError):
        images.pull(name).result()
    assert mirror.heard and not told(registry, third)


# credential helpers


@pytest.mark.parametrize("way", ["helper", "helper for all"])
def test_a_helper_is_asked_for_the_registry_alone(parties, home, way):
    """What a redirect or a mirror names is no reason to open the keychain for another server."""
    registry, second, third = parties
    name = registry.put(private())
    remember(home, way, registry.host)
    mirrored(home, registry.host, f"http://{second.host}")
    second.wants(challenges(third)[0])
    registry.lies["/v2/x/blobs/"] = to(second)
    with contextlib.suppress(HutchError):
        images.pull(name).result()
    # a mirror may have credentials of its own
    assert set((home / "asked").read_text().split()) <= {registry.host, second.host}
    assert not told(second, third)


# pushes


def pushes(parties, home, way: str, lies: dict[str, Answer]) -> Party:
    """Push an image to a registry whose answers to an upload are these; the registry."""
    registry, second, third = parties
    source = Party()
    try:
        images.pull(source.put(make(base(), config={"Labels": {"mark": "pushed"}}))).result()
    finally:
        source.close()
    options = remember(home, way, registry.host)
    registry.wants(f'Bearer realm="{registry.gives_tokens()}"')
    for path, answer in lies.items():
        registry.lies[path] = answer  # behind the guard, which comes first
    for challenge in challenges(third):
        second.wants(challenge)
        with contextlib.suppress(HutchError):
            list(images.push(f"{source.host}/x:1", f"{registry.host}/x:2", **options))
    return registry


@ways
def test_a_push_that_is_redirected_gives_nothing_away(parties, home, way):
    """Whether a blob is there is asked with HEAD, which is redirected to B; B names C."""
    _, second, third = parties
    registry = pushes(parties, home, way, {"/v2/x/blobs/": to(second), "/v2/x/manifests/": to(second)})
    assert registry.secrets and second.heard and not told(second, third)


@ways
@pytest.mark.parametrize("step", ["POST", "PATCH"])
def test_an_upload_that_goes_on_elsewhere_takes_nothing_along(parties, home, way, step):
    """The registry sends the upload's next step to B by its Location; B wants credentials, and names C."""
    _, second, third = parties

    def place(handler: Handler) -> object:
        if handler.command == "HEAD":
            return handler.send(404)
        elsewhere = f"http://{second.host}" if handler.command == step else ""
        return handler.send(202, Location=f"{elsewhere}/v2/x/blobs/uploads/1", Range="0-0")

    registry = pushes(parties, home, way, {"/v2/x/blobs/": place})
    assert registry.secrets and second.heard and not told(second, third)


# the wire


@pytest.fixture
def secure(home: Path) -> Iterator[Either]:
    ca, certificate, key = authority(home)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    found = Either(context)
    known = home / ".config/hutch/certs.d" / found.host
    known.mkdir(parents=True)
    shutil.copy(ca, known / "ca.crt")
    yield found
    found.close()


@pytest.mark.parametrize("begun", ["to be given up", "to be gone on with"])
def test_a_registry_over_tls_is_never_sent_its_password_without(secure, home, begun):
    """An upload's Location is its own address with http://: no credentials go there in the clear."""
    remember(home, "file", secure.host)
    name = secure.put(private())
    secure.wants('Basic realm="x"')
    images.pull(name).result()

    def upload(handler: Handler) -> object:
        if handler.command == "HEAD" or (begun != "to be given up" and "mount=" in handler.path):
            return handler.send(404)
        return handler.send(202, Location=f"http://{secure.host}/v2/z/blobs/uploads/1", Range="0-0")

    secure.lies["/v2/z/blobs/"] = upload
    with contextlib.suppress(HutchError):
        list(images.push(name, f"{secure.host}/z:1"))
    assert secure.secrets and not secure.overheard


# where credentials do go


@ways
@pytest.mark.parametrize("scheme", ["basic", "bearer", "bearer elsewhere"])
def test_the_registry_and_the_realm_that_it_names_get_them(parties, home, way, scheme):
    """The other side: the registry asks itself, or names a token service on its host or another."""
    registry, second, _ = parties
    if scheme == "basic" and way == "identity token":
        pytest.skip("an identity token is for token services")
    name = registry.put(private())
    options = remember(home, way, registry.host)
    service = second if scheme == "bearer elsewhere" else registry
    realm = service.gives_tokens() if scheme != "basic" else ""
    registry.wants(f'Bearer realm="{realm}",service="s"' if realm else 'Basic realm="x"')
    assert images.pull(name, **options).result().id == private().config
    assert service.secrets


def test_a_redirect_to_storage_is_followed(parties, home):
    """The other side: blobs come from another host, which is asked without credentials."""
    registry, storage, _ = parties
    name = registry.put(private())
    storage.put(private())
    remember(home, "file", registry.host)
    registry.wants('Basic realm="x"')
    registry.lies["/v2/x/blobs/"] = to(storage)
    assert images.pull(name).result().id == private().config
    assert storage.heard and not told(storage)
