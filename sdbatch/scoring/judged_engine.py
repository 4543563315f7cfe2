"""An engine that scores its pictures, and tries again until they meet a condition."""

from __future__ import annotations

import math
import numbers
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from PIL import Image, ImageFilter

from sdbatch.diffusion.request import GeneratedImage, Request
from sdbatch.errors import in_one_line
from sdbatch.fields import FrozenMapping
from sdbatch.scoring.attempts import ON_NSFW, KeepPolicy, attempt_seed
from sdbatch.scoring.registry import Declaration
from sdbatch.scoring.scorer import Score, Scorer

if TYPE_CHECKING:
    from sdbatch.diffusion import Engine

__all__ = ["REJECTED", "CarriedRequest", "JudgedEngine", "blurred", "scored", "with_carried"]

# Prefix of the counters of rejected pictures; the unmet condition follows.
REJECTED = "rejected "

# Ratio of the longer side to the blur's radius.
BLUR_SHARE = 16


@dataclass(frozen=True, slots=True)
class CarriedRequest(Request):
    """A request with the values of carried columns that the condition names."""

    carried: Mapping[str, Any] = FrozenMapping()


@dataclass(eq=False)
class _Row:
    """A submitted request. `best` is the best picture so far, kept during further attempts."""

    index: int
    request: Request
    attempt: int = 1
    best: GeneratedImage | None = None


class JudgedEngine:
    """Has the interface of `sdbatch.diffusion.Engine`; returns an image once its row's last attempt is decided.

    Attempts share lanes with all other rows. A decision depends only on the row: not on the pictures that are scored
    together with its own, and not on timing.

    Args:
        engine: makes the pictures; only this object may use it.
        scorers: the scorers with their declarations.
        policy: the condition and the number of attempts.
        on_nsfw: "keep", "drop" or "blur": what to do with a picture that the score `nsfw` flags.
    """

    def __init__(
        self,
        engine: Engine,
        scorers: Sequence[tuple[Declaration, Scorer]],
        policy: KeepPolicy,
        on_nsfw: str = ON_NSFW[0],
    ) -> None:
        self._engine = engine
        self._scorers = list(scorers)
        # Once, because a description hashes weights, and every shard requests it.
        self._described = {declaration.name: dict(scorer.describe()) for declaration, scorer in scorers}
        self._policy = policy
        self._on_nsfw = on_nsfw
        self._batch = max((scorer.batch for _, scorer in scorers), default=1)
        self._submitted = 0
        self._rows: dict[int, _Row] = {}
        self._unscored: list[tuple[_Row, GeneratedImage]] = []
        self._counts: Counter[str] = Counter()

    @property
    def room(self) -> int:
        """The number of further requests worth submitting now."""
        return max(0, self._engine.room - len(self._unscored))

    @property
    def idle(self) -> bool:
        return self._engine.idle and not self._unscored

    @property
    def counters(self) -> dict[str, float]:
        """The engine's counters, further `attempts`, `exhausted` rows, and pictures `rejected` by condition."""
        return {**self._engine.counters, "attempts": 0, "exhausted": 0, **self._counts}

    def describe(self) -> dict[str, Any]:
        return {**self._engine.describe(), "scorers": self._described}

    def submit(self, request: Request) -> int:
        """Submit a request; returns its index."""
        row = _Row(self._submitted, request)
        self._submitted += 1
        self._rows[self._engine.submit(request)] = row
        return row.index

    def step(self) -> list[GeneratedImage]:
        """Run one pass; returns the images that are finished and decided, often none."""
        decided = []
        for image in self._engine.step():
            row = self._rows.pop(image.index)
            if image.pixels is None:
                decided.append(self._ended(row, image.error))
            else:
                self._unscored.append((row, image))
        if len(self._unscored) >= self._batch or self._engine.idle:
            waiting, self._unscored = self._unscored, []
            for start in range(0, len(waiting), self._batch):
                decided += self._judge(waiting[start : start + self._batch])
        return decided

    def close(self) -> None:
        self._engine.close()

    def _judge(self, waiting: list[tuple[_Row, GeneratedImage]]) -> list[GeneratedImage]:
        """Score pictures; returns the images of decided rows, and submits the other rows again."""
        images = [image for _, image in waiting]
        found: list[dict[str, Score]] = [{} for _ in images]
        errors: list[str | None] = [None] * len(images)
        for declaration, scorer in self._scorers:
            for i, (scores, error) in enumerate(scored(declaration, scorer, images, self._make_room)):
                found[i] |= scores
                errors[i] = errors[i] or error
        decided = []
        for (row, image), scores, error in zip(waiting, found, errors, strict=True):
            if error is not None:
                decided.append(self._ended(row, error))
            elif (end := self._decided(row, replace(image, scores=scores, attempt=row.attempt))) is not None:
                decided.append(end)
        return decided

    def _make_room(self, error: BaseException) -> bool:
        """After a scorer's error: whether it lacked memory, and the engine has released some of the device's."""
        from sdbatch.diffusion.device.memory import forget, is_out_of_memory  # imports torch, which a driver lacks

        if not is_out_of_memory(error):
            return False
        forget(error)
        return self._engine.make_room()

    def _decided(self, row: _Row, image: GeneratedImage) -> GeneratedImage | None:
        """The row's image if this attempt is the last one; otherwise None, and the row is submitted again."""
        policy = self._policy
        if policy.keep is None:
            return self._final(row, image, None)
        height, width = cast(np.ndarray, image.pixels).shape[:2]
        request = row.request
        own = {attribute.name: getattr(image.request, attribute.name) for attribute in fields(image.request)}
        carried = request.carried if isinstance(request, CarriedRequest) else {}
        values = {**carried, **own, "height": height, "width": width, **image.scores}
        if policy.keep.holds(values):
            return self._final(row, image, True)
        self._counts.update(f"{REJECTED}{condition}" for condition in policy.keep.unfulfilled(values))
        if row.best is None or policy.is_better(image.scores, row.best.scores):
            row.best = image
        if row.attempt == policy.attempts:
            return self._ended(row, None)
        row.attempt += 1
        self._counts["attempts"] += 1
        request = replace(row.request, seed=attempt_seed(int(row.request.seed), row.attempt))
        self._rows[self._engine.submit(request)] = row
        return None

    def _ended(self, row: _Row, error: str | None) -> GeneratedImage:
        """The image of an exhausted row: the best attempt or a failure."""
        best = row.best
        if best is None:
            return GeneratedImage(row.request, row.index, None, error=error, attempt=row.attempt)
        self._counts["exhausted"] += 1
        if self._policy.on_exhausted == "fail":
            reason = f"no picture in {row.attempt} attempts was kept (--keep {self._policy.condition!r})"
            return self._final(row, replace(best, pixels=None, error=error or reason), False)
        return self._final(row, best, False)

    def _final(self, row: _Row, image: GeneratedImage, accepted: bool | None) -> GeneratedImage:
        """The image to return, with the row's own index."""
        # If the first attempt is returned, its request is the submitted object itself.
        request = row.request if image.attempt == 1 else image.request
        image = replace(image, index=row.index, request=request, accepted=accepted)
        if image.pixels is None or not image.scores.get("nsfw") or self._on_nsfw == "keep":
            return image
        if self._on_nsfw == "drop":
            return replace(image, pixels=None, error="flagged by the safety checker (--on-nsfw drop)")
        return replace(image, pixels=blurred(image.pixels))


def with_carried(request: Request, values: Mapping[str, Any]) -> CarriedRequest:
    """The request with values of carried columns."""
    settings = {attribute.name: getattr(request, attribute.name) for attribute in fields(Request)}
    return CarriedRequest(**settings, carried=FrozenMapping(values))


def blurred(pixels: np.ndarray) -> np.ndarray:
    """A picture, uint8 (H, W, 3), blurred beyond recognition."""
    radius = max(pixels.shape[:2]) / BLUR_SHARE
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius)))


def scored(
    declaration: Declaration,
    scorer: Scorer,
    images: Sequence[GeneratedImage],
    make_room: Callable[[BaseException], bool] = lambda error: False,
) -> list[tuple[Mapping[str, Score], str | None]]:
    """Scores of pictures, or the reasons for missing ones. A picture that a scorer fails on affects no other.

    Args:
        make_room: called with a scorer's error; returns whether another try may succeed.
    """
    try:
        return [(_checked(declaration, scores), None) for scores in _called(scorer, images)]
    except BaseException as exc:  # scorers may be user code, which may even exit
        if isinstance(exc, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            raise
        if make_room(exc):
            batches = [images]
        elif len(images) > 1:
            batches = [[image] for image in images]
        else:
            return [({}, f"scorer {declaration.name}: {in_one_line(exc)}")]
    return [outcome for batch in batches for outcome in scored(declaration, scorer, batch, make_room)]


def _called(scorer: Scorer, images: Sequence[GeneratedImage]) -> list[Mapping[str, Any]]:
    found = []
    for start in range(0, len(images), scorer.batch):
        some = images[start : start + scorer.batch]
        scores = scorer.score([cast(np.ndarray, image.pixels) for image in some], [image.request for image in some])
        if len(scores) != len(some):
            raise ValueError(f"it returned {len(scores)} results for {len(some)} pictures")
        found += scores
    return found


def _checked(declaration: Declaration, scores: Mapping[str, Any]) -> dict[str, Score]:
    """The scores, converted to the declared kinds. Raises `ValueError` or `TypeError`."""
    if not isinstance(scores, Mapping) or set(scores) != set(declaration.columns):
        names = sorted(scores) if isinstance(scores, Mapping) else repr(scores)[:60]
        raise ValueError(f"it returned {names}; expected {sorted(declaration.columns)}")
    return {
        name: None if scores[name] is None else CHECKS[kind](name, scores[name])
        for name, kind in declaration.columns.items()
    }


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} is {value!r:.60}; expected a number")
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value}")
    return float(value)


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} is {value!r:.60}; expected True or False")
    return bool(value)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} is {value!r:.60}; expected text")
    value.encode()  # surrogates, which no file can store
    return value


CHECKS: Mapping[str, Callable[[str, Any], Score]] = {"number": _number, "flag": _flag, "text": _text}
