"""JSON's types to records and back, with errors that name the field: ``linux.resources.memory.limit: expected an integer,
got "10m"``.

Written here, and not with a validation library, because a runtime decodes before every start: the libraries that were
measured cost three times the interpreter's own start to import.
"""

from __future__ import annotations

from hutch.errors import ConfigError
from hutch.oci import config as types, names
from hutch.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar

    R = TypeVar("R", bound=Record)

RANGES = {"U16": (0, 2**16 - 1), "U32": (0, 2**32 - 1), "U64": (0, 2**64 - 1), "I32": (-(2**31), 2**31 - 1), "I64": (-(2**63), 2**63 - 1)}


def json_name(field: str) -> str:
    """``additional_gids`` is ``additionalGids`` in JSON."""
    if field in names.JSON_NAMES:
        return names.JSON_NAMES[field]
    first, *rest = field.split("_")
    return first + "".join(word.capitalize() for word in rest)


def decode_config(data: object) -> types.Config:
    """A whole configuration, checked field by field and across fields.

    Raises ConfigError, with the field's path, for a wrong type, an integer out of range, an unknown choice, a missing
    required field, or a combination that the specification forbids.
    """
    config = decode(types.Config, data)
    check(config)
    return config


def decode(kind: type[R], data: object, path: str = "") -> R:
    """A record of `kind` from JSON's types."""
    if not isinstance(data, dict):
        raise ConfigError(path, f"expected an object, got {_shown(data)}")
    values: dict[str, Any] = {}
    for field in kind._fields:
        name = json_name(field)
        where = f"{path}.{name}" if path else name
        if name not in data or (data[name] is None and field in kind._defaults):
            if field not in kind._defaults:
                raise ConfigError(where, "is required and missing")
            continue
        value = _value(_annotation(kind, field), data[name], where)
        allowed = names.CHOICES.get((kind.__name__, field))
        if allowed is not None and value is not None and value not in allowed:
            raise ConfigError(where, f"expected one of {', '.join(a for a in allowed if a)}, got {_shown(value)}")
        values[field] = value
    return kind(**values)


def encode(record: Record) -> dict[str, object]:
    """A record as JSON's types: absent fields left out."""
    out: dict[str, object] = {}
    for field in record._fields:
        value = getattr(record, field)
        if value is None or (field in record._defaults and value == record._defaults[field]):
            continue
        out[json_name(field)] = _plain(value)
    return out


def _plain(value: object) -> object:
    if isinstance(value, Record):
        return encode(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _annotation(kind: type[Record], field: str) -> str:
    for base in kind.__mro__:
        found = base.__dict__.get("__annotations__", {}).get(field)
        if found is not None:
            return str(found)
    raise KeyError(field)


def _value(annotation: str, data: object, path: str) -> Any:
    annotation = annotation.removesuffix(" | None")
    if annotation in RANGES:
        if isinstance(data, bool) or not isinstance(data, int):
            raise ConfigError(path, f"expected an integer, got {_shown(data)}")
        low, high = RANGES[annotation]
        if not low <= data <= high:
            raise ConfigError(path, f"expected an integer from {low} to {high}, got {data}")
        return data
    if annotation == "str":
        if not isinstance(data, str):
            raise ConfigError(path, f"expected a string, got {_shown(data)}")
        if "\0" in data:
            raise ConfigError(path, "a string may not contain a NUL")
        try:
            data.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise ConfigError(path, "a string contains half a surrogate pair, which has no bytes") from None
        return data
    if annotation == "bool":
        if not isinstance(data, bool):
            raise ConfigError(path, f"expected true or false, got {_shown(data)}")
        return data
    if annotation.startswith("tuple["):
        if not isinstance(data, list | tuple):
            raise ConfigError(path, f"expected an array, got {_shown(data)}")
        inner = annotation[len("tuple[") : -len(", ...]")]
        return tuple(_value(inner, item, f"{path}[{i}]") for i, item in enumerate(data))
    if annotation.startswith("dict[str, "):
        if not isinstance(data, dict):
            raise ConfigError(path, f"expected an object, got {_shown(data)}")
        inner = annotation[len("dict[str, ") : -1]
        return {_value("str", key, f"{path}: a key"): _value(inner, item, f"{path}.{key}") for key, item in data.items()}
    return decode(getattr(types, annotation), data, path)


def _shown(value: object) -> str:
    if isinstance(value, str):
        text = value if len(value) <= 60 else value[:59] + "…"
        return f'"{text}"'
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "an object"
    return "an array" if isinstance(value, list | tuple) else str(value)


def _check_version(text: str) -> None:
    """Semantic versioning 2.0.0; the runtime takes every 1.x (config.md, "Specification version")."""
    core, dash, extra = text.partition("+")[0].partition("-")
    numbers = core.split(".")
    if len(numbers) != 3 or not all(n.isascii() and n.isdigit() and (n == "0" or n[0] != "0") for n in numbers) or (dash and not extra):
        raise ConfigError("ociVersion", f"expected a version such as 1.3.0, got {_shown(text)}")
    if numbers[0] != "1":
        raise ConfigError("ociVersion", f"version {text} is not one of 1.x")


def _check_hooks(hooks: types.Hooks | None) -> None:
    for kind in hooks._fields if hooks is not None else ():
        for i, hook in enumerate(getattr(hooks, kind)):
            where = f"hooks.{json_name(kind)}[{i}]"
            if not hook.path.startswith("/"):
                raise ConfigError(f"{where}.path", f"expected an absolute path, got {_shown(hook.path)}")
            if hook.timeout is not None and hook.timeout <= 0:
                raise ConfigError(f"{where}.timeout", f"expected seconds above 0, got {hook.timeout}")


def _check_devices(devices: dict[str, types.NetDevice]) -> None:
    for host, device in devices.items():
        for name in (host, device.name):
            if name is not None and (not name or len(name) > 15 or name in (".", "..") or set(name) & set("/: \t\n\0")):
                raise ConfigError(f"linux.netDevices.{host}", f"{_shown(name)} is no name of an interface")


def check(config: types.Config) -> None:
    """What the specification asks across fields (config.md, config-linux.md). Raises ConfigError."""
    _check_version(config.oci_version)
    _check_hooks(config.hooks)
    linux = config.linux
    seen: set[str] = set()
    for i, namespace in enumerate(linux.namespaces):
        if namespace.type in seen:
            raise ConfigError(f"linux.namespaces[{i}].type", f"a second {namespace.type} namespace")
        seen.add(namespace.type)
        if namespace.path and not namespace.path.startswith("/"):
            raise ConfigError(f"linux.namespaces[{i}].path", f"expected an absolute path, got {_shown(namespace.path)}")
    for i, mount in enumerate(config.mounts):
        if not mount.destination:
            raise ConfigError(f"mounts[{i}].destination", "is empty")
        if bool(mount.uid_mappings) != bool(mount.gid_mappings):
            raise ConfigError(f"mounts[{i}].uidMappings", "uidMappings and gidMappings are given together or not at all")
    _check_devices(linux.net_devices)
    for key in config.annotations:
        if not key:
            raise ConfigError("annotations", "a key is empty")
    if (linux.uid_mappings or linux.gid_mappings) and "user" not in seen:
        raise ConfigError("linux.uidMappings", "mappings without a user namespace in linux.namespaces")
    if config.hostname and "uts" not in seen:
        raise ConfigError("hostname", "a host name without a uts namespace would change the host's")
    if config.domainname and "uts" not in seen:
        raise ConfigError("domainname", "a domain name without a uts namespace would change the host's")
    if linux.time_offsets and "time" not in seen:
        raise ConfigError("linux.timeOffsets", "offsets without a time namespace in linux.namespaces")
    for clock in linux.time_offsets:
        if clock not in ("monotonic", "boottime"):
            raise ConfigError(f"linux.timeOffsets.{clock}", "expected monotonic or boottime")
    process = config.process
    if process is not None:
        if not process.cwd.startswith("/"):
            raise ConfigError("process.cwd", f"expected an absolute path, got {_shown(process.cwd)}")
        for i, limit in enumerate(process.rlimits):
            if limit.soft > limit.hard:
                raise ConfigError(f"process.rlimits[{i}]", f"soft limit {limit.soft} is above the hard limit {limit.hard}")
            if limit.type in [other.type for other in process.rlimits[:i]]:
                raise ConfigError(f"process.rlimits[{i}].type", f"a second {limit.type}")
    for i, rule in enumerate(linux.resources.devices if linux.resources else ()):
        if rule.access and set(rule.access) - set("rwm"):
            raise ConfigError(f"linux.resources.devices[{i}].access", f"is composed of r, w and m, got {_shown(rule.access)}")
    for i, device in enumerate(linux.devices):
        if not device.path.startswith("/"):
            raise ConfigError(f"linux.devices[{i}].path", f"expected an absolute path, got {_shown(device.path)}")
        if device.type != "p" and (device.major is None or device.minor is None):
            raise ConfigError(f"linux.devices[{i}]", "major and minor are required for a device node")
