import io
import json
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provisioning.classify import Class
from provisioning.fleet import Demand
from provisioning.fleet_display import (
    ALARMS,
    JsonFleet,
    LiveFleet,
    PlainFleet,
    dollars,
    fleet_table,
    make_display,
    print_fleet,
    summary_line,
)
from provisioning.status import FleetStatus, InstanceLine

STATES = ("asked", "unknown", *(name.lower() for name in get_args(Class)))


def line(number: int = 1, **changes: Any) -> InstanceLine:
    values: dict[str, Any] = {
        "nonce": f"n{number:09d}",
        "instance_id": 27_461_000 + number,
        "gpu_name": "RTX 4090",
        "state": "busy",
        "usd_per_hour": 0.312,
        "spent_usd": 0.0412,
        "chunks_done": 12,
        "rtfx": 84.2,
        "age_s": 475.0,
        "machine_id": 99,
        "interruptible": True,
        "expires_ms": 0,
    }
    return InstanceLine(**values | changes)


def status(*lines: InstanceLine, **changes: Any) -> FleetStatus:
    values: dict[str, Any] = {
        "fleet": "default",
        "at_ms": 10_000_000,
        "phase": "run",
        "target": len(lines),
        "lines": lines,
        "demand": Demand(11_560_000, 193, 720_000, 12),
        "spent_usd": 1.24,
        "max_usd": 5.0,
    }
    return FleetStatus(**values | changes)


def drawn(shown: FleetStatus, rows: int | None = None, width: int = 80) -> list[str]:
    from rich.console import Console

    out = io.StringIO()
    Console(file=out, width=width, highlight=False, emoji=False).print(fleet_table(shown, rows))
    return out.getvalue().splitlines()


def cells(text: str) -> list[str]:
    return text.split()


def test_a_machine_is_one_line_with_its_money_and_its_work() -> None:
    (row,) = [text for text in drawn(status(line())) if "27461001" in text]
    assert cells(row) == ["27461001", "RTX", "4090", "busy", "7:55", "0.312", "0.041", "12", "84"]


def test_what_is_asked_for_has_no_instance_yet_and_what_is_not_interruptible_says_so() -> None:
    text = "\n".join(drawn(status(line(instance_id=None, state="asked", rtfx=None), line(2, interruptible=False))))
    assert "- " in text
    assert "RTX 4090 fixed" in text


def test_the_totals_add_up() -> None:
    shown = status(line(1), line(2, usd_per_hour=0.2, chunks_done=30, rtfx=15.8, state="booting"))
    lines = drawn(shown)
    assert lines[0] == "Fleet  default  running, 2 machines (1 booting, 1 busy)"
    assert lines[1].startswith("Spent  $1.24 of $5.00 ")
    assert lines[1].endswith("lasts 7:20:38 at $0.51/h")
    assert lines[2] == "Work   3:12:40 of audio waits in 193 tasks, 12:00 in work, 2:03 left"
    assert cells(lines[-1]) == ["together", "0.512", "0.082", "42", "100"]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.builds(
            line,
            number=st.integers(1, 99_999_999_999),
            gpu_name=st.text(max_size=60),
            state=st.sampled_from(STATES),
            usd_per_hour=st.floats(0, 128),
            spent_usd=st.floats(0, 9_999),
            chunks_done=st.integers(0, 999_999),
            rtfx=st.none() | st.floats(0, 9_999),
            age_s=st.floats(0, 400_000),
            interruptible=st.booleans(),
        ),
        max_size=12,
    ),
    st.floats(0, 100_000),
    st.integers(0, 10**10),
)
def test_nothing_is_wider_than_80_columns_and_no_machine_takes_two_lines(
    lines: list[InstanceLine], spent: float, queued: int
) -> None:
    from rich.cells import cell_len

    shown = status(*lines, spent_usd=spent, demand=Demand(queued, queued // 60_000, 1, 1))
    text = drawn(shown)
    assert max(cell_len(row) for row in text) <= 80
    assert len(text) == (4 + 2 + len(lines) + 2 if lines else 4)


def test_a_hundred_machines_fit_a_small_terminal() -> None:
    text = drawn(status(*(line(number) for number in range(100))), rows=8)
    assert len([row for row in text if "RTX" in row]) == 7
    assert any("and 93 more" in row for row in text)


def test_names_from_the_market_do_not_steer_the_terminal() -> None:
    nasty = "\x1b[2J[bold]X\n"
    out = io.StringIO()
    print_fleet(status(line(gpu_name=nasty), alarms=(nasty,), problem=nasty), out)
    assert "\x1b" not in out.getvalue()
    assert "[bold]X" in out.getvalue()


def test_warnings_the_newest_only_and_blindness_and_what_ends_the_fleet() -> None:
    text = "\n".join(
        drawn(
            status(
                alarms=tuple(f"alarm {number}" for number in range(9)),
                blind_since_ms=9_700_000,
                problem="No credit is left.",
            ),
            width=120,
        )
    )
    assert text.count("Warning: ") == ALARMS
    assert "alarm 8" in text
    assert "The market has not told what is rented for 5:00" in text
    assert "No credit is left." in text


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"demand": Demand()}, "no work waits"),
        ({"demand": Demand(known=False)}, "work unknown: the server or the gateway does not answer"),
        ({"lines": ()}, "nothing bills"),
        ({"max_usd": 0.0}, "Spent  $1.24 ━"),
        ({"target": 8}, "1 machine of 8 (1 busy)"),
    ],
)
def test_what_is_not_there_is_said_in_words(changes: dict[str, Any], expected: str) -> None:
    assert expected in "\n".join(drawn(status(line(), **changes) if "lines" not in changes else status(**changes)))


def test_the_summary_is_one_line() -> None:
    assert summary_line(status(line(rtfx=122.8), phase="drain")) == (
        "Fleet default: draining, 1 machine (1 busy), $1.24 of $5.00 spent, $0.31 an hour, "
        "3:12:40 of audio waits in 193 tasks, 12:00 in work, 1:40 left"
    )


def test_cents_are_told_to_a_tenth() -> None:
    assert [dollars(value) for value in (0.0, 0.0004, 0.31249, 0.9996, 1, 12.345)] == [
        "0.000", "0.000", "0.312", "1.000", "1.00", "12.35",
    ]  # fmt: skip


def test_plain_lines_come_with_each_change_and_every_half_minute() -> None:
    out, clock = io.StringIO(), [0.0]
    display = PlainFleet(out, lambda: clock[0])
    for second in range(100):
        clock[0] = second
        display.update(status(line(spent_usd=second / 1000), alarms=("Look!",) if second >= 50 else ()))
    clock[0] = 101
    display.update(status(line(state="draining")))
    display.close()
    said = out.getvalue().splitlines()
    assert len([text for text in said if text.startswith("Fleet default: ")]) == 5
    assert said.count("Warning: Look!") == 1


def test_json_lines_hold_all_there_is_to_know() -> None:
    out = io.StringIO()
    with make_display(True, True, out) as display:
        display.update(status(line()))
        display.note("Done.")
    first, second = (json.loads(text) for text in out.getvalue().splitlines())
    assert first["event"] == "status"
    assert first["lines"][0]["instance_id"] == 27_461_001
    assert first["usd_per_hour"] == pytest.approx(0.312)
    assert second == {"event": "note", "message": "Done."}
    assert isinstance(display, JsonFleet)


def test_a_live_table_leaves_its_last_state_and_closes_twice() -> None:
    from rich.console import Console

    out = io.StringIO()
    display = LiveFleet(console=Console(file=out, width=80, height=24, force_terminal=True, highlight=False))
    try:
        display.update(status(*(line(number) for number in range(40))))
        display.note("[bold]Renting.\x1b[31m")
        display.update(status(line(7)))
    finally:
        display.close()
        display.close()
    assert "[bold]Renting." in out.getvalue()
    assert "27461007" in out.getvalue()


def test_the_display_fits_where_it_is_shown() -> None:
    assert isinstance(make_display(False, False, io.StringIO()), PlainFleet)
    live = make_display(False, True, io.StringIO())
    live.close()
    assert isinstance(live, LiveFleet)
