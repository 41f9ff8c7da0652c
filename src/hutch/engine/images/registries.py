"""Who we are to registries."""

from __future__ import annotations

from hutch.image import reference as references
from hutch.image.registry import client, connection, credentials, settings


def login(host: str, user: str, password: str) -> str:
    """Remember credentials, once the registry has taken them; the file that has them. Raises RegistryError, UsageError."""
    known = references.parse(f"{host}/x").host if host != references.DOCKER_HUB else host
    given = credentials.Credentials(user=user, password=password)
    with client.Registry(connection.Access(settings.own(known), known, given), "") as registry:
        registry.ping()
    return credentials.store(known, user, password)


def logout(host: str) -> bool:
    """Forget credentials; whether there were any."""
    return credentials.forget(host)
