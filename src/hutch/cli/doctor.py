"""`hutch doctor`."""

from __future__ import annotations

from hutch.cli.output import exact, tell
from hutch.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def doctor(values: dict[str, Any], rest: list[str]) -> int:
    """Print every finding; 1 when no container can be run."""
    if rest:
        raise UsageError(f"doctor: unexpected argument {rest[0]!r}")
    from hutch.engine.reports.doctor import examine

    findings = examine()
    if values.get("json"):
        import json

        exact(json.dumps([finding.as_dict() for finding in findings], indent=1))
    else:
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            tell(f"{'yes' if finding.ok else 'no ':<4} {finding.name:<{width}}  {finding.detail}".rstrip())
            if not finding.ok:
                if finding.instead:
                    tell(f"     {'':<{width}}  instead: {finding.instead}")
                if finding.enable:
                    tell(f"     {'':<{width}}  to have it: {finding.enable}")
    return 0 if findings[-1].ok else 1
