"""Simulated devices against what can be worked out by hand, and against bounds that no schedule passes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.workers import ratios
from benchmarks.workers_devices import Setup, Task, chunks, makespan
from benchmarks.workers_engine import Setting, settings_on_cores, settings_on_gpus

FOUR = (Task(1.0, 4.0),) * 4


@pytest.mark.parametrize(
    ("setup", "seconds"),
    [
        (Setup(1, 1, overlapped=False), 20.0),  # 4 × (1 + 4)
        (Setup(1, 1), 17.0),  # 1, then the device never waits
        (Setup(2, 2), 9.0),  # each 1 + 4 + 4
        (Setup(2, 1), 17.0),  # the device is full with one: fair shares make it no faster
        (Setup(2, 1, filled=0.5), 9.0),  # one alone uses half of it, so two are like two devices
        (Setup(4, 4, cores=1), 8.0),  # four prepare at a quarter of the speed, then compute
        (Setup(4, 4, together=True), 8.0),
        (Setup(4, 2, overlapped=False), 9.0),  # 1 + 4 × 2 shared by two
        (Setup(8, 8), 5.0),  # more workers than chunks
    ],
)
def test_a_small_case_takes_what_it_must(setup: Setup, seconds: float) -> None:
    assert makespan(setup, FOUR) == pytest.approx(seconds)


def test_no_chunks_take_no_time() -> None:
    assert makespan(Setup(3, 1), ()) == 0


seconds = st.floats(min_value=0.01, max_value=10)
setups = st.builds(
    Setup,
    workers=st.integers(1, 6),
    devices=st.integers(1, 3),
    overlapped=st.booleans(),
    together=st.booleans(),
    filled=st.floats(min_value=0.2, max_value=1.0),
    cores=st.integers(1, 8),
)


@given(setups, st.lists(st.builds(Task, seconds, seconds), min_size=1, max_size=12))
def test_no_schedule_beats_its_devices_its_cores_or_its_longest_chunk(setup: Setup, tasks: list[Task]) -> None:
    took = makespan(setup, tasks)
    host, device = sum(task.host for task in tasks), sum(task.device for task in tasks)
    assert took <= host + device * max(1.0, setup.filled * setup.workers) + 1e-6, "no worse than one after the other"
    assert took >= device * setup.filled / min(setup.devices, setup.workers) - 1e-6
    assert took >= device / setup.workers - 1e-6
    assert took >= host / (1 if setup.together else min(setup.cores, setup.workers)) - 1e-6
    assert took >= max(task.host + task.device for task in tasks) - 1e-6


def test_equal_seeds_give_equal_chunks() -> None:
    assert chunks(5, 1.0, 2.0, 0.2, seed=3) == chunks(5, 1.0, 2.0, 0.2, seed=3)
    assert chunks(5, 1.0, 2.0, 0.2, seed=3) != chunks(5, 1.0, 2.0, 0.2, seed=4)
    assert chunks(2, 1.0, 2.0, 0.0, seed=3) == (Task(1.0, 2.0),) * 2


@pytest.mark.parametrize("cores", [2, 4, 16, 64])
def test_the_same_cores_are_divided_in_pairs_that_can_be_compared(cores: int) -> None:
    settings = settings_on_cores(cores, quick=False)
    assert settings[0] == Setting(1, 1, 1)
    assert {Setting(1, 1, cores), Setting(1, cores, 1), Setting(cores, 1, 1)} <= set(settings)
    assert len({setting.name for setting in settings}) == len(settings)
    whole = [one for one in settings if one.processes * one.workers * one.threads == cores]
    assert all(Setting(one.workers, one.processes, one.threads) in whole for one in whole)


def test_gpus_are_divided_too() -> None:
    assert all(setting.devices == (0,) for setting in settings_on_gpus(1))
    assert Setting(6, 1, 4, (0, 1, 2)) in settings_on_gpus(3)


def test_ratios_are_taken_within_a_repetition() -> None:
    """The second repetition ran on a machine half as fast: no ratio sees it."""
    told = [
        {"part": "engine", "setting": name, "number": number, "rtfx": rtfx}
        for number, name, rtfx in ((0, "two", 30.0), (0, "one", 20.0), (1, "one", 10.0), (1, "two", 15.0))
    ]
    assert ratios(told, "engine", "one") == {"one": [1.0, 1.0], "two": [1.5, 1.5]}
    assert list(ratios(told, "engine", "one")) == ["one", "two"]
