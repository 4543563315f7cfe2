"""Judges the rows of a table one by one: whether the model can make a row, and how much work it is."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import NamedTuple

from sdbatch.diffusion import Request, validate
from sdbatch.diffusion.adapters.control_rows import mode_refusal
from sdbatch.diffusion.calls import lane_calls, needs_coefficients, net_calls
from sdbatch.diffusion.families import family_named
from sdbatch.diffusion.samplers.catalogue import resolve
from sdbatch.errors import SamplerError
from sdbatch.fields import FrozenMapping
from sdbatch.plan.picture_sizes import known_size, watermark_refusal
from sdbatch.plan.planning import Plan
from sdbatch.prompts import PromptRow
from sdbatch.prompts.picture_cells import picture_names, unread
from sdbatch.settings import RunSettings

__all__ = ["Judgement", "RowJudge", "without_loras"]

MAX_KEPT = 1000  # judgements, to bound memory
# Settings whose column may mean something else; single ones come before the pair.
BLAMABLE = (("steps",), ("guidance_scale",), ("sampler",), ("height",), ("width",), ("height", "width"))
# Time limit for compiling samplers; one takes hundredths of a second, LMS with 500 steps ten.
COMPILE_SECONDS = 30.0


class Judgement(NamedTuple):
    """Whether a row can be made, and its work.

    Attributes:
        reason: why it can't be made, or None.
        blamed: the settings without whose columns it could be made; empty if there are none.
        calls, net_calls: calls of the model, and of its networks, times lanes.
        size: height and width; None if they follow from a picture that has not been read.
    """

    reason: str | None
    blamed: tuple[str, ...] = ()
    calls: int = 0
    net_calls: int = 0
    size: tuple[int, int] | None = None


class RowJudge:
    """Judges the rows of one plan. No model is loaded.

    Attributes:
        untried: (sampler, steps) that were not compiled within the time limit; at most `MAX_KEPT`.
    """

    def __init__(self, plan: Plan, settings: RunSettings) -> None:
        self.untried: set[tuple[str, int]] = set()
        self._info = plan.model
        self._family = family_named(plan.model.family)
        self._watermark = settings.watermark
        self._modes = {network.name: network.modes for network in plan.networks if network.setting == "controlnet"}
        self._pictures = picture_names(plan.columns.fields)
        self._own = {
            group: {name: getattr(settings, name) for name in group}
            for group in BLAMABLE
            if all(name in plan.columns.settings for name in group)
        }
        self._named = {f"{plan.columns.settings[name]} is ": name for group in self._own for name in group}
        self._known: dict[Request, Judgement] = {}
        self._culprits: dict[Request, tuple[str, ...]] = {}
        self._seconds = 0.0

    def judge(self, row: PromptRow) -> Judgement:
        request = row.requests[0]
        if error := row.error or self._family.refused_texts(request):
            return Judgement(error, self._unread(error))
        settings = self._without_own_values(request)
        judged = self._judge(settings)
        return judged if judged.reason is None else judged._replace(blamed=self._culprit(settings))

    def _without_own_values(self, request: Request) -> Request:
        """The request without what differs from row to row and has been checked already, so that few differ."""
        negative_prompt = "any" if request.negative_prompt else ""  # some families have guidance only with one
        texts = {name: "any" for name in self._family.texts if request.extra.get(name)}
        settings = replace(request, prompt="any", negative_prompt=negative_prompt, seed=0)
        settings = without_loras(unread(settings, self._pictures))  # the plan has checked the LoRAs themselves
        return replace(settings, extra={**settings.extra, **texts}) if texts else settings

    def _judge(self, request: Request) -> Judgement:
        if request not in self._known:
            if len(self._known) >= MAX_KEPT:
                self._known.clear()
            self._known[request] = self._judged(request)
        return self._known[request]

    def _judged(self, request: Request) -> Judgement:
        if reason := self._refusal(request):
            return Judgement(reason)
        started = time.monotonic()
        compiled = self._seconds < COMPILE_SECONDS
        if not compiled and needs_coefficients(request, self._info) and len(self.untried) < MAX_KEPT:
            self.untried.add((resolve(request.sampler), int(request.steps)))
        try:
            calls = lane_calls(request, self._info, compiled=compiled)
        except SamplerError as error:
            return Judgement(str(error))
        finally:
            self._seconds += time.monotonic() - started
        nets = net_calls(request, self._info)
        return Judgement(None, calls=calls, net_calls=nets, size=known_size(request, self._info))

    def _refusal(self, request: Request) -> str | None:
        """Why the request cannot become a picture of this run."""
        return (
            validate(request, self._info)
            or mode_refusal(request, self._modes)
            or watermark_refusal(request, self._info, self._watermark)
        )

    def _unread(self, reason: str) -> tuple[str, ...]:
        """The setting whose column the reason names."""
        return next(((setting,) for column, setting in self._named.items() if reason.startswith(column)), ())

    def _culprit(self, request: Request) -> tuple[str, ...]:
        """The smallest group of the table's settings without which a request could be made."""
        if request not in self._culprits:
            if len(self._culprits) >= MAX_KEPT:
                self._culprits.clear()
            good = (group for group, own in self._own.items() if self._refusal(replace(request, **own)) is None)
            self._culprits[request] = next(good, ())
        return self._culprits[request]


def without_loras(request: Request) -> Request:
    """The request without its LoRAs."""
    if "lora" not in request.extra:
        return request
    extra = FrozenMapping({name: value for name, value in request.extra.items() if name != "lora"})
    return replace(request, extra=extra)
