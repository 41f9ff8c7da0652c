"""Images: ``hutch.images.pull("debian:12")`` and the other nouns and verbs.

>>> for step in hutch.images.pull("debian:12"):  # doctest: +SKIP
...     print(step.digest[:19], step.status, step.current, step.total)
"""

from hutch.engine.images.images import (
    Image as Image,
    Layer as Layer,
    Pull as Pull,
    every as list,
    get as get,
    history as history,
    import_ as import_,
    load as load,
    prune as prune,
    pull as pull,
    push as push,
    referrers as referrers,
    remove as remove,
    save as save,
    settle as settle,
    tag as tag,
)
from hutch.image.registry.pull import Progress as Progress

__all__ = (
    "Image", "Layer", "Progress", "Pull", "get", "history", "import_", "list", "load", "prune", "pull", "push", "referrers", "remove", "save",
    "settle", "tag",
)  # fmt: skip
