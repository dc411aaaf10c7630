"""What the controller remembers comes back whole, one controller owns a fleet, and a lost file is only lost history."""

import multiprocessing
import os
import signal
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from provisioning import budget
from provisioning.fleet import Intent, Strike
from provisioning.ledger import OWNER_TTL_MS, FleetTaken, Ledger, Sample, Wish, database
from workers.errors import StorageError

NOW = 1_800_000_000_000
INTENT = Intent("abc", "asked", 5, 7, "RTX 3090", NOW, NOW + 3_600_000, 0.25, is_bid=True, slot=2)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return database(tmp_path, "test")


def test_intents_come_back_as_they_were(file: Path) -> None:
    other = replace(
        INTENT, nonce="def", state="unknown", instance_id=9, reason="why", lists_without=1, last_missed_ms=4
    )
    with Ledger(file) as ledger:
        ledger.save(INTENT)
        ledger.save(other)
        ledger.save(replace(INTENT, state="bound", instance_id=8))
    with Ledger(file) as again:
        assert again.intents() == (replace(INTENT, state="bound", instance_id=8), other)
        assert isinstance(again.intents()[0].is_bid, bool)


def test_money_comes_back_as_it_was(file: Path) -> None:
    meter = budget.advance(budget.Meter(), [INTENT], (), NOW + 60_000, "test")
    sample = Sample(NOW, 1, 0.25, 0.1)
    with Ledger(file) as ledger:
        assert ledger.meter() == budget.Meter()
        ledger.charge(meter, sample)
    with Ledger(file) as again:
        assert again.meter() == meter
        assert again.samples() == (sample,)
        assert again.samples(NOW + 1) == ()


def test_strikes_end_by_themselves(file: Path) -> None:
    with Ledger(file) as ledger:
        ledger.strike(Strike(7, NOW + 1_000, "silent"))
        assert ledger.strikes(NOW) == (Strike(7, NOW + 1_000, "silent"),)
        assert ledger.strikes(NOW + 1_000) == ()


def test_speeds_follow_the_newest_measures(file: Path) -> None:
    with Ledger(file) as ledger:
        for rtfx in (100.0, 50.0, 50.0, 50.0, 50.0):
            ledger.measured("RTX 3090", rtfx, guess=40.0)
        for seconds in range(60):
            ledger.booted(float(seconds))
        speeds = ledger.speeds()
    assert 50 < speeds.rtfx["RTX 3090"] < 65
    assert speeds.boot_s == tuple(float(seconds) for seconds in range(10, 60))


def test_one_lie_about_a_speed_moves_it_a_little(file: Path) -> None:
    with Ledger(file) as ledger:
        ledger.measured("RTX 3090", 9_999.0, guess=40.0)
        assert ledger.speeds().rtfx["RTX 3090"] == 120.0
        ledger.measured("RTX 3090", 9_999.0, guess=40.0)
        assert ledger.speeds().rtfx["RTX 3090"] == pytest.approx(156.0)
        ledger.measured("RTX 3090", 0.001, guess=40.0)
        assert ledger.speeds().rtfx["RTX 3090"] == pytest.approx(132.6)


def test_wishes_and_notes(file: Path) -> None:
    with Ledger(file) as ledger, Ledger(file) as other:
        assert ledger.wished() == Wish()
        other.wish(Wish("drain", max_instances=3))
        assert ledger.wished() == Wish("drain", max_instances=3)
        assert ledger.noted("nothing") is None


def test_history_is_forgotten_after_a_week_and_money_is_not(file: Path) -> None:
    with Ledger(file) as ledger:
        ledger.save(replace(INTENT, state="closed"))
        ledger.save(replace(INTENT, nonce="open"))
        ledger.charge(budget.advance(budget.Meter(), [INTENT], None, NOW, "test"), Sample(NOW, 1, 0.1, 0.1))
        ledger.forget_history(NOW + 8 * 24 * 3_600_000)
        assert [intent.nonce for intent in ledger.intents()] == ["open"]
        assert ledger.meter().lines


def test_one_controller_owns_a_fleet(file: Path) -> None:
    with Ledger(file) as ledger, Ledger(file) as second:
        ledger.take_ownership(NOW)
        with pytest.raises(FleetTaken, match="Fleet 'test' already has a controller"):
            second.take_ownership(NOW)
        ledger.give_up_ownership()
        second.take_ownership(NOW)


def test_the_owner_on_another_machine_counts_until_it_is_silent(file: Path) -> None:
    with Ledger(file) as ledger:
        ledger.take_ownership(NOW)
        ledger.give_up_ownership()
    with sqlite3.connect(file) as db:
        db.execute("INSERT INTO owner VALUES ('process 1', 'elsewhere', ?, ?)", (NOW, NOW))
    db.close()
    with Ledger(file) as ledger:
        with pytest.raises(FleetTaken, match="process 1 on elsewhere"):
            ledger.take_ownership(NOW + OWNER_TTL_MS - 1)
        ledger.take_ownership(NOW + OWNER_TTL_MS)


def _die_as_owner(file: Path) -> None:
    Ledger(file).take_ownership(NOW)
    os.kill(os.getpid(), signal.SIGKILL)  # no exit handler, no destructor


def test_the_owner_that_was_killed_on_this_machine_counts_no_more(file: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_die_as_owner, args=(file,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    with Ledger(file) as ledger:
        ledger.take_ownership(NOW)


@pytest.mark.parametrize("content", [b"this is no database, and was never one" * 99, b""])
def test_a_damaged_file_is_put_aside(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    with Ledger(file) as ledger:
        ledger.save(INTENT)
        assert ledger.intents() == (INTENT,)
        assert (ledger.notice is not None) == bool(content)
    assert len(list(file.parent.glob("*.damaged"))) == bool(content)


def test_a_file_of_another_version_is_put_aside(file: Path) -> None:
    with Ledger(file) as ledger:
        ledger.save(INTENT)
    with sqlite3.connect(file) as db:
        db.execute("UPDATE about SET version = 99")
    db.close()
    with Ledger(file) as ledger:
        assert ledger.intents() == ()
        assert ledger.notice is not None
        assert "version 99" in ledger.notice


def test_a_gpu_has_a_speed_for_each_model(file: Path) -> None:
    with Ledger(file) as ledger:
        ledger.measured("RTX 3090", 850.0, guess=850.0, model="tiny")
        ledger.measured("RTX 3090", 70.0, guess=70.0, model="large-v3")
        assert ledger.speeds("tiny").rtfx == {"RTX 3090": 850.0}
        assert ledger.speeds("large-v3").rtfx == {"RTX 3090": 70.0}


def test_a_full_disk_is_said_to_be_one_and_costs_nothing_but_what_was_to_be_written(file: Path) -> None:
    with Ledger(file) as ledger:
        ledger.note("kept", 1)
        ledger._db.execute("PRAGMA max_page_count = 1").fetchall()
        with pytest.raises(StorageError, match=r"cannot be written: database or disk is full\.$"):
            ledger.note("much", "." * 100_000)
        ledger._db.execute("PRAGMA max_page_count = 100000").fetchall()
        ledger.note("later", 2)
        assert [ledger.noted(name) for name in ("kept", "much", "later")] == [1, None, 2]


def test_a_file_deleted_under_a_living_controller_costs_it_nothing(file: Path) -> None:
    with Ledger(file) as ledger:
        ledger.save(INTENT)
        for left in file.parent.glob("test.db*"):
            left.unlink()
        ledger.save(replace(INTENT, nonce="def"))
        assert len(ledger.intents()) == 2
    with Ledger(file) as ledger:
        assert ledger.intents() == ()


def test_a_place_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "fleet").write_text("a file where the folder would be")
    with pytest.raises(StorageError, match=r"The fleet's database .* cannot be opened"):
        Ledger(database(tmp_path, "test"))
