"""A setting is declared once, as a `Field`.

Everything else follows from it: the table's column and its other names, parsing and validation, the `--option`, the
request's attribute, the metadata column, the entry in the image's parameters, what the manifest keeps and a
resume compares, and the tables of the docs.

Fields of all rows are declared beside the attributes of `sdbatch.diffusion.request.Request`, those of a run beside
the attributes in `sdbatch/settings/`, those of one family or one task in its own file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Protocol, TypeVar, get_args, get_origin, get_type_hints

from sdbatch.bounds import Number, Whole
from sdbatch.errors import UsageError
from sdbatch.kinds import Choice, Flag, Picture, Several, Text
from sdbatch.option_kinds import Names, Options, Pair, Sizes, Words
from sdbatch.weighted_files import WeightedFiles

__all__ = ["UNRECORDED", "Declares", "Field", "FrozenMapping", "Kind", "declared_in", "merged", "with_plain_signature"]


class _Unrecorded:
    """A sentinel that is equal only to itself, in any process."""

    def __repr__(self) -> str:
        return "UNRECORDED"

    def __reduce__(self) -> str:
        return "UNRECORDED"


T = TypeVar("T")
Kind = (
    Text | Choice | Flag | Picture | Several | WeightedFiles | Whole | Number | Pair | Sizes | Names | Words | Options
)
"""What the values of a field may be."""
UNRECORDED: Final = _Unrecorded()


class FrozenMapping(Mapping[str, Any], Hashable):
    """An immutable mapping; hashable and picklable."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, Any] | Iterable[tuple[str, Any]] = ()) -> None:
        self._items = dict(items)

    def __getitem__(self, name: str) -> Any:
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(frozenset(self._items))  # values need not be hashable

    def __repr__(self) -> str:
        return repr(self._items)

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenMapping, (self._items,)


@dataclass(frozen=True, kw_only=True)
class Field:
    """One setting.

    Attributes:
        kind: the type and range of its values.
        name: of the attribute, the column and, with hyphens, the option. For a field beside an attribute, name and
            default are the attribute's.
        default: the value if neither the user nor the family sets one; None if there is none.
        of_family: other defaults, by the name of the family.
        fallback: what an omitted value means, where it may not be filled in: the metadata then has none, and an OUT
            that is continued has its own.
        help: the option's help text.
        group: the option's heading in `--help`.
        metavar: the name of the option's value in `--help`.
        aliases: other names of its column. As in the name itself, case, blanks, hyphens and underscores are ignored.
        exact_aliases: names that take precedence, if spelt exactly, over a column that only matches.
        last_aliases: names that are used only if no other column has the setting.
        resembling: names that people use for it but that may mean something else; they cause a warning only.
        cell: the kind of a cell, if cells may hold more than the option.
        check: returns why a value of the right kind cannot be used, or None.
        canonical: maps an alias of a value to its own name.
        null: the meaning of a null cell, if it is not the run's value.
        per_row: whether a row may have its own value.
        changes_picture: whether it can change a picture or its file. If so, OUT keeps it, and a resume compares it.
        kept_in: the part of the manifest that keeps it.
        only_if_used: whether its metadata column exists only in outputs whose table or options name it.
        beside: another setting that this one depends on: a row without that one has none of this.
        before: the value in every OUT from before the field existed. Without one, such an OUT cannot be continued.
        parameter: its name among the parameters in an image file; None to leave it out.
        shown: formats its value there.
        types, null_text, short, notes: texts for the docs: of its column (types, meaning of null, short description)
            and of its metadata column, if they do not follow from the rest.
    """

    kind: Kind
    name: str = ""
    default: Any = None
    of_family: Mapping[str, Any] = FrozenMapping()
    fallback: Any = None
    help: str = ""
    group: str = ""
    metavar: str | None = None
    aliases: tuple[str, ...] = ()
    exact_aliases: tuple[str, ...] = ()
    last_aliases: tuple[str, ...] = ()
    resembling: tuple[str, ...] = ()
    cell: Kind | None = None
    check: Callable[[Any], str | None] | None = None
    canonical: Callable[[Any], Any] | None = None
    null: Any = UNRECORDED
    per_row: bool = True
    changes_picture: bool = True
    kept_in: str = "settings"
    only_if_used: bool = False
    beside: str = ""
    before: Any = UNRECORDED
    parameter: str | None = None
    shown: Callable[[Any], object] | None = None
    types: str = ""
    null_text: str = ""
    short: str = ""
    notes: str = ""

    @property
    def option(self) -> str:
        """Its name on the command line."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def names(self) -> tuple[str, ...]:
        """The column names of this setting, without `last_aliases`."""
        return (self.name, *self.exact_aliases, *self.aliases)

    @property
    def effective_default(self) -> Any:
        """The value that an omitted one stands for, whether or not it is filled in."""
        return self.fallback if self.default is None else self.default

    def default_of(self, family: str) -> Any:
        """The default for models of that family."""
        return self.of_family.get(family, self.default)

    @property
    def recorded_as(self) -> str:
        """Its column in the metadata. There `image` is the output, so the input is `input_image`."""
        return f"input_{self.name}" if isinstance(self.kind, Picture) else self.name

    def checked(self, value: Any) -> Any:
        """The option's `value`, converted to its type. Raises `UsageError`."""
        value = self.kind.check(self.option, value)
        if self.check is not None and (reason := self.check(value)):
            raise UsageError(f"{self.option} {value!r}: {reason}")
        return value

    def canonical_of(self, value: Any) -> Any:
        """The canonical name of `value`."""
        return value if self.canonical is None or value is None else self.canonical(value)


class Declares(Protocol):
    """What a family or a task declares about its rows, without importing torch.

    Attributes:
        name: of the family, or the value of `--task`.
        fields: settings that only its rows have; they are in `Request.extra`.
        defaults: values, by field, that override those of the fields.
        uses: names of the common row fields that it supports, besides prompt, seed, sampler, steps and size; None
            for all of them.
    """

    @property
    def name(self) -> str: ...
    @property
    def fields(self) -> Sequence[Field]: ...
    @property
    def defaults(self) -> Mapping[str, Any]: ...
    @property
    def uses(self) -> Collection[str] | None: ...


def declared_in(cls: type) -> tuple[Field, ...]:
    """The fields beside the attributes of a dataclass, as `Annotated[type, Field(...)]`, in order."""
    hints = get_type_hints(cls, include_extras=True)
    found = []
    for attribute in dataclasses.fields(cls):
        hint = hints[attribute.name]
        declared = [item for item in get_args(hint) if isinstance(item, Field)] if _is_annotated(hint) else []
        found += [dataclasses.replace(field, name=attribute.name, default=_default(attribute)) for field in declared]
    return tuple(found)


def with_plain_signature(cls: type[T]) -> type[T]:
    """Show the types of a class's attributes in its signature, without the fields beside them."""
    cls.__init__.__annotations__ = get_type_hints(cls) | {"return": None}
    return cls


def merged(declarations: Iterable[Declares]) -> tuple[Field, ...]:
    """The own fields of all `declarations`, each once.

    Raises:
        ValueError: two of them declare different fields of one name.
    """
    found: dict[str, Field] = {}
    for declaration in declarations:
        for field in declaration.fields:
            if found.setdefault(field.name, field) != field:
                raise ValueError(f"{declaration.name}: another field {field.name!r} is already declared")
    return tuple(found.values())


def _is_annotated(hint: Any) -> bool:
    return get_origin(hint) is Annotated


def _default(attribute: dataclasses.Field[Any]) -> Any:
    if attribute.default is not dataclasses.MISSING:
        return attribute.default
    if attribute.default_factory is not dataclasses.MISSING:
        return attribute.default_factory()
    return None
