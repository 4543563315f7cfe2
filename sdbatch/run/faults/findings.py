"""Warnings about workers' devices and libraries: failed checks, and workers that differ. No Ray."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from typing import Any

from sdbatch.run.faults.same_device import other_device

__all__ = ["Findings", "made_with"]

# Parts of a worker's description that affect the last bits of pictures; the manifest keeps them.
DEVICE = ("device_name", "compute_capability", "cuda", "cudnn")
OTHER_BITS = "their pictures can differ in their last bits"
LIBRARIES_ONLY = ("python", "device_name", "compute_capability")
NETWORKS = ("text encoder", "denoiser", "VAE", "CUDA graphs")
NAMES = {"device_name": "device", "compute_capability": "capability"}


def made_with(worker: Mapping[str, Any]) -> dict[str, Any]:
    """The device and the libraries of a worker, as the manifest keeps them."""
    device = {name: worker[name] for name in DEVICE if worker.get(name) is not None}
    return {"device": device, "versions": dict(worker.get("versions", {}))}


class Findings:
    """Collects the descriptions of a run's workers.

    Args:
        started_with: the device and libraries that OUT was started with, as returned by `made_with`; empty if
            unknown, or if OUT is new.
    """

    def __init__(self, started_with: Mapping[str, Any]) -> None:
        self._started_with = started_with
        self._workers: list[Mapping[str, Any]] = []
        self._said: set[str] = set()

    def add(self, worker: Mapping[str, Any]) -> list[str]:
        """Add the description of a worker. Returns new findings, one line for each kind."""
        if worker in self._workers:
            return []
        self._workers.append(worker)
        new = {kind: text for kind, text in self._by_kind() if kind not in self._said}
        self._said |= new.keys()
        return list(new.values())

    @property
    def lines(self) -> list[str]:
        """All findings, one line for each kind."""
        return list(dict(self._by_kind()).values())

    @property
    def workers(self) -> list[Mapping[str, Any]]:
        """The distinct descriptions of workers."""
        return list(self._workers)

    def refused(self, worker: Mapping[str, Any]) -> str | None:
        """Why a worker's device is not of the kind that OUT was started on, or that the first worker has."""
        first = self._started_with.get("device") or (self._workers[0] if self._workers else None)
        return other_device(first, worker) if first else None

    def _by_kind(self) -> Iterator[tuple[str, str]]:
        for worker in self._workers:
            yield from _failed_checks(worker)
        kinds = self._workers[:1]
        for worker in self._workers:
            if all(other_device(kind, worker) for kind in kinds):
                kinds.append(worker)
        if len(kinds) > 1:
            yield "devices", f"the workers are on {_listed(kinds)}; {OTHER_BITS} (--same-device refuses that)"
        for worker in self._workers[1:]:
            if changed := _changed(made_with(self._workers[0]), made_with(worker), LIBRARIES_ONLY):
                yield "libraries", f"the workers' libraries differ ({changed}); {OTHER_BITS}"
        for worker in self._workers:
            if changed := _changed(self._started_with, made_with(worker)):
                yield (
                    "started with",
                    f"device or libraries changed since OUT was started ({changed}); "
                    "old and new pictures can differ in their last bits",
                )


def _failed_checks(worker: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    device = worker.get("device_name")
    if error := worker.get("compile_error"):
        yield f"compile {device}", f"torch.compile fails on {device} ({error}); the model runs slower without it"
    on_gpu = worker.get("compile") in ("on", "blocks") and worker.get("device") != "cpu"
    if on_gpu and (error := worker.get("cuda_graph_error")):
        yield f"graphs {device}", f"no CUDA graphs on {device} ({error}); the model runs slower without them"
    checks = worker.get("checks", {})
    for network in NETWORKS:
        if failed := [name for name, same in checks.items() if same is False and name.startswith(network)]:
            where = "with CUDA graphs than without" if network == "CUDA graphs" else "beside other rows"
            again = "a picture made again can differ in its last bits"
            yield f"{network} {device}", f"{device} computes different bits {where} ({', '.join(failed)}); {again}"


def _changed(before: Mapping[str, Any], now: Mapping[str, Any], but: Container[str] = ("python",)) -> str:
    """The differences between two descriptions, except the names in `but` and those that only one of them has."""
    old, new = ({**side.get("device", {}), **side.get("versions", {})} for side in (before, now))
    different = [name for name in old if name in new and name not in but and old[name] != new[name]]
    return ", ".join(f"{NAMES.get(name, name)} {old[name]} → {new[name]}" for name in different)


def _listed(workers: list[Mapping[str, Any]]) -> str:
    names = [f"{worker.get('device_name')} ({worker.get('compute_capability')})" for worker in workers]
    return f"{', '.join(names[:-1])} and {names[-1]}"
