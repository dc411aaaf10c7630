"""Showing a fleet: one line a machine with its money and its work, as a table that moves, plain lines, or JSON lines.

`fleet_table` is pure: a FleetStatus in, something for rich out, never wider than 80 columns. What the market says
(names of GPUs, messages) is shown without the control characters by which it could steer a terminal. rich is imported
when something is drawn, not before.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TextIO

from provisioning.status import FleetStatus, InstanceLine
from workflows.display import printable, short_time, speed

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

WIDTH = 80
BAR_WIDTH = 24
PLAIN_SILENCE_S = 30.0  # a log without a line for longer looks dead
ALARMS = 3  # the newest; `--json` has all
NOBODY_SAID_USD = 1e6  # a budget that is none: the database is lost, and with it what was said
FRAME_LINES = 10  # of a drawn fleet that are no machines: three of totals, the head, the sum, alarms, lines between

PHASES = {"run": "running", "up": "renting", "drain": "draining", "down": "closing", "alone": "without a controller"}
STYLES = {
    "busy": "green",
    "ready": "cyan",
    "idle": "cyan",
    **dict.fromkeys(("asked", "unknown", "bound", "booting", "silent"), "yellow"),
    **dict.fromkeys(("draining", "closing"), "magenta"),
}
WORDS = {"bound": "rented"}  # said otherwise than the ledger does
OTHER_STYLE = "red"  # preempted, dead, refused, expired: whatever ends a machine


class FleetDisplay(Protocol):
    """Where a fleet is followed. update at every look; close leaves the terminal as it was, and may come twice."""

    def update(self, status: FleetStatus) -> None: ...
    def note(self, sentence: str) -> None: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class _Closing:
    def close(self) -> None:
        """Nothing to leave behind."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def make_display(as_json: bool, is_terminal: bool, out: TextIO | None = None) -> FleetDisplay:
    """The display for a command that follows a fleet; is_terminal says whether `out` (stdout) is one."""
    if as_json:
        return JsonFleet(out)
    return LiveFleet(out) if is_terminal else PlainFleet(out)


class JsonFleet(_Closing):
    """One JSON object a line: `status` with all there is to know, and `note`."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout

    def update(self, status: FleetStatus) -> None:
        self._say({"event": "status", **status.to_json()})

    def note(self, sentence: str) -> None:
        self._say({"event": "note", "message": sentence})

    def _say(self, event: dict[str, Any]) -> None:
        print(json.dumps(event, ensure_ascii=False), file=self._out, flush=True)


class PlainFleet(_Closing):
    """A line whenever machines come, go or change, and every half minute: for a log file."""

    def __init__(self, out: TextIO | None = None, now: Callable[[], float] = time.monotonic) -> None:
        self._out = out or sys.stdout
        self._now = now
        self._said: tuple[object, float] | None = None
        self._alarms: tuple[str, ...] = ()

    def update(self, status: FleetStatus) -> None:
        steady = (status.phase, status.target, status.by_state, status.blind_since_ms is None, status.problem)
        now = self._now()
        if self._said is None or self._said[0] != steady or now - self._said[1] >= PLAIN_SILENCE_S:
            self._said = (steady, now)
            self.note(summary_line(status))
        for alarm in status.alarms:
            if alarm not in self._alarms:
                self.note(f"Warning: {alarm}")
        self._alarms = status.alarms

    def note(self, sentence: str) -> None:
        print(printable(sentence), file=self._out, flush=True)


class LiveFleet(_Closing):
    """The table, drawn over itself."""

    def __init__(self, out: TextIO | None = None, console: "Console | None" = None) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = console or Console(file=out, highlight=False, emoji=False)
        self._live = Live(console=self._console, auto_refresh=False, transient=False, vertical_overflow="crop")
        self._live.start()

    def update(self, status: FleetStatus) -> None:
        rows = max(1, self._console.size.height - FRAME_LINES)
        self._live.update(fleet_table(status, rows), refresh=True)

    def note(self, sentence: str) -> None:
        from rich.text import Text

        self._console.print(Text(printable(sentence)), soft_wrap=True)

    def close(self) -> None:
        self._live.stop()


def print_fleet(status: FleetStatus, out: TextIO | None = None) -> None:
    """The table once, all of it; in a pipe 80 columns wide and without colours."""
    from rich.console import Console

    Console(file=out, highlight=False, emoji=False).print(fleet_table(status))


def fleet_table(status: FleetStatus, rows: int | None = None) -> "RenderableType":
    """A fleet in 80 columns: totals, a line a machine (`rows` of them at most), what a person should know."""
    from rich.console import Group

    parts: list[RenderableType] = [*_totals(status)]
    if status.lines:
        parts += [_machines(status, rows)]
    parts += _warnings(status)
    return Group(*parts)


def summary_line(status: FleetStatus) -> str:
    """`Fleet default: running, 8 of 8 machines (6 busy, 2 booting), $1.24 of $5.00 spent, $2.61 an hour, …`."""
    parts = [_phase(status), _count_machines(status)]
    parts.append(f"{_money(status)} spent")
    if status.lines:
        parts.append(f"${status.usd_per_hour:.2f} an hour")
    parts.append(_work(status))
    return f"Fleet {status.fleet}: {', '.join(parts)}"


def dollars(amount: float) -> str:
    """To the cent from a dollar on, to a tenth of a cent below: a machine costs some cents."""
    return f"{amount:.2f}" if abs(amount) >= 1 else f"{amount:.3f}"


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]], out: TextIO | None = None) -> None:
    """A table in the style of all `fleet` commands; a head that begins with > is of a column of numbers."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False, header_style="bold")
    for head in heads:
        right = head.startswith(">")
        table.add_column(head.lstrip(">"), justify="right" if right else "left", no_wrap=True, overflow="ellipsis")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    Console(file=out, highlight=False, emoji=False).print(table)


def _totals(status: FleetStatus) -> "list[Text]":
    from rich.text import Text

    first = Text.assemble(
        ("Fleet  ", "bright_black"), (status.fleet, "bold"), f"  {_phase(status)}, {_count_machines(status)}"
    )
    share = min(1.0, status.spent_usd / status.max_usd) if _has_budget(status) else 0.0
    full = round(share * BAR_WIDTH)
    money = Text.assemble(
        ("Spent  ", "bright_black"),
        f"{_money(status)} ",
        ("━" * full, "red" if share >= 0.9 else "cyan"),
        ("━" * (BAR_WIDTH - full), "bright_black"),
        f" {_pace(status)}",
    )
    work = Text.assemble(("Work   ", "bright_black"), _work(status))
    for line in (first, money, work):
        line.no_wrap, line.overflow = True, "ellipsis"
        line.truncate(WIDTH, overflow="ellipsis")
    return [first, money, work, Text()]


def _machines(status: FleetStatus, rows: int | None) -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_edge=False, header_style="bold")
    for name, width, right in (
        ("Instance", 9, True),
        ("GPU", 16, False),
        ("State", 10, False),
        ("Age", 7, True),
        ("$/h", 6, True),
        ("Spent", 6, True),
        ("Chunks", 6, True),
        ("RTFx", 5, True),
    ):
        table.add_column(name, width=width, justify="right" if right else "left", no_wrap=True, overflow="ellipsis")
    shown, hidden = _fitting(status.lines, rows)
    for line in shown:
        table.add_row(*_cells(line))
    if hidden:
        table.add_row("…", Text(f"and {len(hidden)} more", "bright_black"))
    table.add_section()
    table.add_row(
        "",
        Text("together", "bright_black"),
        "",
        "",
        dollars(status.usd_per_hour),
        dollars(sum(line.spent_usd for line in status.lines)),
        str(status.chunks_done),
        speed(status.rtfx) if status.rtfx else "",
    )
    return table


def _cells(line: InstanceLine) -> "tuple[Any, ...]":
    from rich.text import Text

    return (
        str(line.instance_id) if line.instance_id is not None else "-",
        Text(printable(line.gpu_name if line.interruptible else f"{line.gpu_name} fixed")),
        Text(WORDS.get(line.state, line.state), STYLES.get(line.state, OTHER_STYLE)),
        short_time(round(line.age_s * 1000)),
        dollars(line.usd_per_hour),
        dollars(line.spent_usd),
        str(line.chunks_done),
        speed(line.rtfx) if line.rtfx else "",
    )


def _warnings(status: FleetStatus) -> "list[Text]":
    from rich.text import Text

    said = [(f"Warning: {alarm}", "yellow") for alarm in status.alarms[-ALARMS:]]
    if status.blind_since_ms is not None:
        since = short_time(max(0, status.at_ms - status.blind_since_ms))
        said.append(
            (f"The market has not told what is rented for {since}: nothing new is rented until it does.", "red")
        )
    if status.problem:
        said.append((status.problem, "red"))
    return [Text(printable(text), style) for text, style in said]


def _fitting(lines: Sequence[InstanceLine], rows: int | None) -> tuple[Sequence[InstanceLine], Sequence[InstanceLine]]:
    if rows is None or len(lines) <= rows:
        return lines, ()
    return lines[: max(0, rows - 1)], lines[max(0, rows - 1) :]


def _phase(status: FleetStatus) -> str:
    return PHASES.get(status.phase, status.phase)


def _count_machines(status: FleetStatus) -> str:
    """`8 machines (6 busy, 2 booting)`, or `6 machines of 8 (…)` where that is not what is wanted."""
    noun = "machine" if status.live == 1 else "machines"
    wanted = "" if status.live == status.target else f" of {status.target}"
    states = ", ".join(f"{count} {WORDS.get(state, state)}" for state, count in sorted(status.by_state.items()))
    return f"{status.live} {noun}{wanted}" + (f" ({states})" if states else "")


def _has_budget(status: FleetStatus) -> bool:
    return 0 < status.max_usd < NOBODY_SAID_USD


def _money(status: FleetStatus) -> str:
    return f"${dollars(status.spent_usd)}" + (f" of ${status.max_usd:.2f}" if _has_budget(status) else "")


def _pace(status: FleetStatus) -> str:
    if status.usd_per_hour < 0.0005:  # less than a tenth of a cent, which is the least that is shown
        return "nothing bills"
    if not _has_budget(status):
        return f"${status.usd_per_hour:.2f}/h"
    left_ms = max(0.0, status.max_usd - status.spent_usd) / status.usd_per_hour * 3_600_000
    return f"lasts {short_time(round(left_ms))} at ${status.usd_per_hour:.2f}/h"


def _work(status: FleetStatus) -> str:
    demand = status.demand
    if not demand.known:
        return "work unknown: the server or the gateway does not answer"
    if not demand.queued_tasks and not demand.held_tasks:
        return "no work waits"
    parts = [f"{short_time(demand.queued_audio_ms)} of audio waits in {demand.queued_tasks} tasks"]
    if demand.held_tasks:
        parts.append(f"{short_time(demand.held_audio_ms)} in work")
    if status.rtfx >= 0.01:
        parts.append(f"{short_time(round((demand.queued_audio_ms + demand.held_audio_ms) / status.rtfx))} left")
    return ", ".join(parts)
