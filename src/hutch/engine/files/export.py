"""Trees of a container's files as tar archives."""

from __future__ import annotations

from hutch.errors import HutchError
from hutch.image.layers import changes, mapped
from hutch.kernel.features import features

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from hutch.engine.records.facts import Facts

    Owners: TypeAlias = tuple[tuple[int, int, int], ...]


def owners_of(facts: Facts) -> tuple[Owners, Owners]:
    """The owners of a container's files on disk, for users and for groups, as lines of (first on disk, first in the container, count);
    none where they are the same, or where the caller is not root and a helper in its user namespace sees them mapped."""
    if not facts.user_namespace or not features().privileged:
        return (), ()
    users, groups = (tuple((outside, inside, count) for inside, outside, count in lines) for lines in (facts.uids, facts.gids))
    return users, groups


def write_tree(root: int, name: str, scope: changes.Scope, out: Callable[[bytes], object]) -> None:
    """Write the tree below a directory's descriptor, of the container `name`, as a tar. Raises HutchError."""
    if not features().privileged:
        mapped.write_tree(root, scope, out, features(), f"container {name}")
        return
    try:
        changes.write(root, scope, out)
    except OSError as error:
        raise HutchError(f"container {name}: {error.filename or ''}: {error.strerror}") from None
