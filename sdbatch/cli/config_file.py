"""Configuration files: the command line's options, by name, as YAML."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from sdbatch.errors import UsageError
from sdbatch.storage.store import Store

__all__ = ["ConfigValue", "read_config"]

MAX_DEPTH = 20  # no option needs more than a mapping of mappings, and the parser recurses
MAX_BYTES = 1 << 18  # the parser takes some ten seconds for a megabyte of brackets
LONE_SURROGATE = re.compile("[\ud800-\udfff]")
TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True, slots=True)
class ConfigValue:
    """The value of one option, as written; the option's parser decides its type, not YAML.

    Attributes:
        place: the file and the line, for messages.
        kind: YAML's type: str, int, float, bool, null, … of a scalar; map or seq.
        text: the scalar; empty for the others.
        items: content of a mapping, in Python's own types; empty for the others.
        sequence: the scalars of a list as text; empty for the others.
    """

    place: str
    kind: str
    text: str
    items: Mapping[str, Any]
    sequence: tuple[str, ...] = ()


def read_config(path: str) -> dict[str, ConfigValue]:
    """Read the options in a YAML file, local or at a URL; names get underscores.

    Values stay text, so that the command line's own parser reads them: `1:4` is not a number in base sixty,
    and `on` is not a Boolean.

    Raises:
        UsageError: the file does not hold a mapping of options, or holds an option twice.
        StorageError: it cannot be read.
    """
    data = Store(path).read("", max_bytes=MAX_BYTES)
    try:
        text = data.decode("utf-8-sig")
        _refuse_unsupported(text, path)
        root = yaml.compose(text, yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise UsageError(f"--config {path} is not YAML: {' '.join(str(exc).split())}") from exc
    if not isinstance(root, yaml.MappingNode):
        raise UsageError(f"--config {path}: expected a mapping of options, such as `steps: 30`")
    return {name.replace("-", "_"): value for name, value in _entries(root, path).items()}


def _refuse_unsupported(text: str, path: str) -> None:
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if reason := _unsupported(event, depth):
            raise UsageError(f"{_place(path, event)}: {reason}")


def _unsupported(event: yaml.Event, depth: int) -> str | None:
    if isinstance(event, yaml.AliasEvent):  # its expansion can be huge, or contain itself
        return f"aliases (*{event.anchor}) are not supported"
    if depth > MAX_DEPTH:
        return "nested too deeply for options"
    if getattr(event, "tag", None) is not None:
        return f"tags ({event.tag}) are not supported"
    if isinstance(event, yaml.ScalarEvent) and LONE_SURROGATE.search(event.value):
        return "holds half of a surrogate pair, which is no character"
    return None


def _entries(node: yaml.MappingNode, path: str) -> dict[str, ConfigValue]:
    found: dict[str, ConfigValue] = {}
    names: dict[str, str] = {}
    for key, value in node.value:
        place = _place(path, key)
        if not _is_text(key):
            raise UsageError(f"{place}: expected the name of an option, not {_described(key)}")
        option = key.value.replace("-", "_")
        if option in names:
            raise UsageError(f"{place}: {key.value!r} is set twice")
        names[option] = key.value
        found[key.value] = _value(value, place, key.value)
    return found


def _value(node: yaml.Node, place: str, name: str) -> ConfigValue:
    kind = node.tag.removeprefix(TAG)
    if isinstance(node, yaml.ScalarNode):
        return ConfigValue(place, kind, node.value, {})
    if not isinstance(node, yaml.MappingNode):
        if not all(isinstance(item, yaml.ScalarNode) for item in node.value):
            raise UsageError(f"{place}: {name} is a list with nested values; expected plain values")
        return ConfigValue(place, kind, "", {}, tuple(item.value for item in node.value))
    try:
        items = yaml.constructor.SafeConstructor().construct_document(node)
    except (yaml.YAMLError, ValueError, OverflowError) as exc:
        raise UsageError(f"{place}: {name} cannot be read: {' '.join(str(exc).split())}") from exc
    keys = [key.value for key, _ in node.value if _is_text(key)]
    if len(set(keys)) < len(node.value):
        raise UsageError(f"{place}: {name} must be a mapping of names; each name may occur once")
    return ConfigValue(place, kind, "", items)


def _place(path: str, where: Any) -> str:
    return f"--config {path}, line {where.start_mark.line + 1}"


def _is_text(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == f"{TAG}str"


def _described(node: Any) -> str:
    if isinstance(node, yaml.ScalarNode):
        return repr(node.value[:60])
    return "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"
