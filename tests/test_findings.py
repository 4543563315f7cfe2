"""Workers' descriptions reported in one line each."""

from __future__ import annotations

import pytest

from sdbatch.run.faults.findings import Findings, made_with

H100 = {"device": "cuda", "device_name": "NVIDIA H100", "compute_capability": "9.0", "compile": "on"}
H100 |= {"cudnn": "91002", "versions": {"torch": "2.13.0", "python": "3.11.4"}, "checks": {"denoiser at 512x512": True}}
L4 = H100 | {"device_name": "NVIDIA L4", "compute_capability": "8.9"}


def test_equal_workers_that_continue_as_started_are_no_finding():
    findings = Findings(made_with(H100))
    for worker in (H100, dict(H100), H100 | {"lanes": 32, "versions": H100["versions"] | {"python": "3.11.9"}}):
        assert findings.add(worker) == []
    assert findings.lines == [] and len(findings.workers) == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"compile_error": "no compiler"}, ("torch.compile", "NVIDIA H100", "no compiler", "slower")),
        ({"cuda_graph_error": "other bits than without"}, ("CUDA graphs", "other bits than without", "slower")),
        ({"checks": {"text encoder": False}}, ("text encoder", "beside other rows", "last bits")),
        ({"checks": {"VAE at 512x512": None, "VAE at 768x512": False}}, ("VAE at 768x512", "last bits")),
        ({"checks": {"CUDA graphs at 64x64": False}}, ("CUDA graphs at 64x64", "than without")),
    ],
)
def test_a_failed_check_is_a_line_once(change, words):
    findings = Findings({})
    (line,) = findings.add(H100 | change)
    assert all(word in line for word in words) and "\n" not in line
    assert findings.add(H100 | change) == findings.add(H100 | change | {"lanes": 8}) == []
    assert findings.lines == [line]


def test_what_a_device_cannot_have_and_was_not_to_do_is_no_finding():
    on_cpu = {"device": "cpu", "compile": "on", "cuda_graph_error": "no CUDA device"}
    uncompiled = {"device": "cuda", "compile": "off", "cuda_graph_error": "compile is off"}
    for worker in (on_cpu, uncompiled, {"checks": {"denoiser at 512x512": None}}, {}):
        assert Findings({}).add(worker) == []


def test_a_check_that_fails_at_further_sizes_is_told_once_and_listed_in_the_end():
    findings = Findings({})
    assert findings.add(H100) == []
    checks = {"denoiser at 64x64": False}
    assert len(findings.add(H100 | {"checks": checks})) == 1
    assert findings.add(H100 | {"checks": checks | {"denoiser at 96x64": False}}) == []
    assert "denoiser at 64x64, denoiser at 96x64" in findings.lines[0]


def test_a_fleet_of_several_kinds_is_one_line():
    findings = Findings({})
    findings.add(H100)
    (line,) = findings.add(L4)
    assert "NVIDIA H100 (9.0) and NVIDIA L4 (8.9)" in line and "--same-device" in line
    assert findings.add(L4 | {"device_name": "NVIDIA A10"}) == []
    assert "NVIDIA L4 (8.9) and NVIDIA A10 (8.9)" in findings.lines[0]
    (line,) = findings.add(H100 | {"versions": {"torch": "2.12.0"}})
    assert "torch 2.13.0 → 2.12.0" in line


def test_a_resume_with_another_device_or_library_is_one_line():
    findings = Findings(made_with(H100))
    (line,) = findings.add(L4 | {"versions": {"torch": "2.14.0"}, "cudnn": "92000"})
    for changed in ("device NVIDIA H100 → NVIDIA L4", "cudnn 91002 → 92000", "torch 2.13.0 → 2.14.0"):
        assert changed in line
    assert findings.add(L4 | {"versions": {"torch": "2.15.0"}}) != []  # the fleet differs, too
    assert len(findings.lines) == 2
    # What an earlier sdbatch did not record is not compared.
    assert Findings({"device": {}, "versions": {"torch": "2.13.0"}}).add(L4) == []


def test_a_device_is_refused_by_the_one_that_out_was_started_on():
    findings = Findings(made_with(H100))
    assert findings.refused(H100) is None and "NVIDIA H100 and NVIDIA L4" in findings.refused(L4)
    findings = Findings({})
    assert findings.refused(L4) is None
    findings.add(L4)
    assert "NVIDIA L4 and NVIDIA H100" in findings.refused(H100)
