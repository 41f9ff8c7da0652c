"""`hutch plan`: a container before it exists."""

from __future__ import annotations

import json

from hutch.cli import request
from hutch.cli.output import exact, tell
from hutch.engine.launch import prepare
from hutch.errors import UsageError
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
        settings = request.settings(values, rest).replace(pull="never")
        made = prepare.plan_of(prepare.prepare(settings, detach=values.get("detach", False)))
        privileged = settings.privileged or settings.seccomp == "unconfined" or not settings.no_new_privileges
    problems = lint(made, privileged=privileged)
    if values.get("json"):
        exact(json.dumps({**made.to_json(), "problems": problems}, indent=1))
    else:
        tell(*made.describe().split("\n"))
    if values.get("lint"):
        for problem in problems:
            tell(f"lint: {problem}")
        if not problems and not values.get("json"):
            tell("lint: nothing to complain about")
        return 1 if problems else 0
    return 0


def bundle_plan(directory: str) -> Plan:
    """The plan of an OCI bundle, as `hutch-oci create` would carry it out. Raises ConfigError with the field that is wrong."""
    from hutch.runtime.verbs.common import Options
    from hutch.runtime.verbs.create import Compilation, load_bundle
    from hutch.runtime.verbs.store import Store

    warnings: list[str] = []
    found = Compilation(Store(), "bundle", load_bundle(directory), Options(), lambda _, text: warnings.append(text), await_start=True)
    return found.plan.replace(warnings=tuple(warnings))
