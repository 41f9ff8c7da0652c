"""`hutch plan`: a container before it exists."""

from __future__ import annotations

import json

from hutch.cli import request
from hutch.engine import prepare
from hutch.errors import ConfigError, HutchError, UsageError
from hutch.plan.lint import lint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from hutch.plan.plan import Plan


def plan(values: dict[str, Any], rest: list[str]) -> int:
    """Print the plan; with --lint, exit with 1 when a rule is broken."""
    if "bundle" in values:
        if rest:
            raise UsageError(f"plan: unexpected argument {rest[0]!r} beside --bundle")
        made = bundle_plan(values["bundle"])
        privileged = False
    else:
        settings = request.settings(values, rest)
        made = prepare.plan_of(prepare.prepare(settings, detach=values.get("detach", False)))
        privileged = settings.privileged or settings.seccomp == "unconfined" or not settings.no_new_privileges
    problems = lint(made, privileged=privileged)
    if values.get("json"):
        print(json.dumps({**made.to_json(), "problems": problems}, indent=1))
    else:
        print(made.describe())
    if values.get("lint"):
        for problem in problems:
            print(f"lint: {problem}")
        if not problems and not values.get("json"):
            print("lint: nothing to complain about")
        return 1 if problems else 0
    return 0


def bundle_plan(directory: str) -> Plan:
    """The plan of an OCI bundle. Raises ConfigError with the field that is wrong."""
    import os

    from hutch.kernel.features import features
    from hutch.oci.decode import decode_config
    from hutch.runtime.compile import compile_container
    from hutch.runtime.request import Request

    path = f"{directory}/config.json"
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
    except OSError as error:
        raise HutchError(f"{path}: {error.strerror}", "a bundle is a directory with a config.json") from None
    except ValueError as error:
        raise ConfigError("", f"{path} is not JSON: {error}") from None
    return compile_container(decode_config(data), Request(id="bundle", bundle=os.path.abspath(directory)), features()).plan
