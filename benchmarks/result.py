"""What every benchmark leaves behind: one frozen record, written whole, read by the report and checked by CI."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from workers.errors import OptionError, StorageError


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Target(_Frozen):
    """What was aimed at and what came out. reached None: this run did not measure it, and `found` says why."""

    name: str
    wanted: str
    found: str
    reached: bool | None


class Table(_Frozen):
    """Rows of cells under columns; a cell None was not measured."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | int | float | None, ...], ...]


class Result(_Frozen):
    """One run of one benchmark.

    began: UTC, ISO 8601; machine: what the figures depend on besides the code (cores, load before and after,
    versions of packages); options: as given; repetitions: every single measurement, in the order in which they were
    taken; figures: what the picture is drawn from; shows: sentences that the figures bear out; caveats: what they
    do not tell. No figure of a quick run is worth anything.
    """

    benchmark: str
    quick: bool
    began: str
    seconds: float
    machine: dict[str, Any]
    options: dict[str, Any]
    repetitions: tuple[dict[str, Any], ...] = Field(min_length=1)
    tables: tuple[Table, ...] = Field(min_length=1)
    figures: dict[str, Any]
    targets: tuple[Target, ...] = ()
    shows: tuple[str, ...] = Field(min_length=1)
    caveats: tuple[str, ...] = Field(min_length=1)


def write(result: Result, path: Path) -> None:
    """Whole or not at all. Raises StorageError."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(result.model_dump_json(indent=1) + "\n", encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise StorageError(
            f"The result cannot be written to {path} ({error.strerror}): choose another --out."
        ) from error


def read(path: Path) -> Result:
    """Raises OptionError where the file is no whole result."""
    try:
        return Result.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise OptionError(f"{path} is no result of a benchmark: run that benchmark again.") from error


def read_all(folder: Path) -> dict[str, Result]:
    """The results in `folder` by benchmark. Raises OptionError where there is none, or one that is not whole."""
    found = {result.benchmark: result for path in sorted(folder.glob("*.json")) if (result := read(path))}
    if not found:
        raise OptionError(f"There are no results in {folder}: run `whisperfleet bench scaling`, say, or name --out.")
    return found
