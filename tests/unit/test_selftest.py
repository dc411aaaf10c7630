"""What a machine's self-test says of it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers import selftest, settings
from workers.errors import EngineError, OptionError

KNOWN = "The queen opened our golden ticket."
words = st.lists(st.sampled_from(["the", "queen", "opened", "ticket", "a"]), min_size=1, max_size=20).map(" ".join)


def test_the_known_words_are_all_heard_whatever_the_case() -> None:
    assert selftest.share_heard(KNOWN, "the QUEEN opened our golden ticket") == 1.0
    assert selftest.share_heard(KNOWN, "the queen opened golden ticket") == pytest.approx(5 / 6)
    assert selftest.share_heard(KNOWN, "") == 0.0
    assert selftest.share_heard("", "") == 0.0


@given(words, words)
def test_the_share_is_one_and_the_words_are_the_same(known: str, heard: str) -> None:
    share = selftest.share_heard(known, heard)
    assert 0.0 <= share <= 1.0
    assert (share == 1.0) is (known.split() == heard.split())


def test_a_machine_that_babbles_does_not_pass() -> None:
    """Every known word is in it, in order, and as many others."""
    assert selftest.share_heard(KNOWN, "the a queen a opened a our a golden a ticket a") < selftest.WORDS_RIGHT


def smi(monkeypatch: pytest.MonkeyPatch, folder: Path, text: str) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


@pytest.mark.parametrize(
    ("script", "facts"),
    [
        ("echo 'NVIDIA GeForce RTX 4090, 24564, 570.86.15'",
         {"gpu": "NVIDIA GeForce RTX 4090", "gpu_memory_mb": 24564, "driver": "570.86.15"}),
        ("echo 'A100, [N/A], 1'; echo 'A100, 5, 1'", {"gpu": "A100", "gpu_memory_mb": None, "driver": "1"}),
        ("echo 'NVIDIA-SMI has failed'; exit 9", {}),
        ("true", {}),
    ],
)  # fmt: skip
def test_what_the_driver_tells(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, facts: dict[str, Any]
) -> None:
    smi(monkeypatch, tmp_path, script)
    assert selftest.gpu_facts() == facts


def test_a_machine_that_should_have_a_gpu_and_has_none_is_not_fit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    smi(monkeypatch, tmp_path, "exit 9")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    report = selftest.run("demo", needs_gpu=True)
    assert not report.ok
    assert "CTranslate2 can use none" in report.reason
    assert json.loads(report.encode())["ok"] is False


@pytest.mark.parametrize("broken", [EngineError("the model fails"), RuntimeError("CUDA error"), OSError("no lib")])
def test_whatever_breaks_is_the_result(monkeypatch: pytest.MonkeyPatch, broken: Exception) -> None:
    def fail(*_: object) -> None:
        raise broken

    monkeypatch.setattr(selftest, "_try_out", fail)
    report = selftest.run("demo", needs_gpu=False)
    assert not report.ok
    assert str(broken) in report.reason


def test_a_machine_that_computes_wrongly_is_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "_try_out", lambda *_: {"words_right": 0.5, "rtfx": 900.0})
    assert "heard 50% of the known words" in selftest.run("demo", needs_gpu=False).reason


# ---- what it is told ----


def test_a_rented_machine_reads_what_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "WHISPERFLEET_GATEWAY": "https://gate.example/", "CONDUCTOR_AUTH_KEY": "nonce",
        "CONDUCTOR_AUTH_SECRET": "s3cret", "WHISPERFLEET_TASKS": "transcribe_chunk", "WHISPERFLEET_TTL_S": "60.5",
        "CONTAINER_ID": "12", "CONTAINER_API_KEY": "ending-key",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    rented, container = settings.rented_settings(), settings.container()
    assert (rented.gateway, rented.ttl_s, rented.idle_s, rented.needs_gpu) == ("https://gate.example", 60.5, 900, False)
    assert container == settings.Container("12", "ending-key", "https://console.vast.ai")
    assert "s3cret" not in repr(rented)
    assert "ending-key" not in repr(container)
    below = settings.rented_worker_environment(rented.gateway)
    assert "ending-key" not in below.values()
    assert below["WHISPERFLEET_SERVER"] == "https://gate.example/api"
    monkeypatch.setenv("WHISPERFLEET_IDLE_S", "soon")
    with pytest.raises(OptionError, match="WHISPERFLEET_IDLE_S is 'soon'"):
        settings.rented_settings()
    monkeypatch.delenv("WHISPERFLEET_TASKS")
    with pytest.raises(OptionError, match="WHISPERFLEET_TASKS is not set"):
        settings.rented_settings()


@pytest.mark.parametrize(("number", "key"), [("", "k"), ("5", ""), ("../5", "k")])
def test_what_is_no_rented_machine_has_nothing_to_end(monkeypatch: pytest.MonkeyPatch, number: str, key: str) -> None:
    monkeypatch.setenv("CONTAINER_ID", number)
    monkeypatch.setenv("CONTAINER_API_KEY", key)
    assert settings.container() is None


def test_a_program_whose_parent_is_not_the_one_it_is_tethered_to_does_not_start() -> None:
    """Its parent has died before it could be tethered."""
    command = [sys.executable, "-m", "workers.tether", "1", sys.executable, "-c", "print(5)"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
