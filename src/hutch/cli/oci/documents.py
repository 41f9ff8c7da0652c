"""spec and features."""

from __future__ import annotations

import os

from hutch import jsontext
from hutch.cli.oci.main import Context
from hutch.cli.output import exact
from hutch.errors import UsageError
from hutch.runtime.verbs import documents as verbs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def features_command(_: Context, __: dict[str, Any], ___: list[str]) -> int:
    """`hutch-oci features`."""
    exact(jsontext.dumps(verbs.features(), indent=2))
    return 0


def spec_command(_: Context, values: dict[str, Any], __: list[str]) -> int:
    """`hutch-oci spec`: writes config.json, and never over one that exists."""
    from hutch.kernel.features import features

    path = os.path.join(values.get("bundle", "."), "config.json")
    rootless = bool(values.get("rootless"))
    data = verbs.spec(rootless=rootless, uid=os.geteuid(), gid=os.getegid(), v2=features().cgroups.mode == "v2")
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(jsontext.dumps(data, indent=2) + "\n")
    except FileExistsError:
        raise UsageError(f"spec: {path} exists already", "remove it first, or name another bundle with --bundle") from None
    except OSError as error:
        raise UsageError(f"spec: {path}: {error.strerror}") from None
    return 0
