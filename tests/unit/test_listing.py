"""A list that lacks a whole fleet whose workers speak is not believed, for three minutes."""

from pathlib import Path
from typing import Any

from provisioning.fleet import Intent, WorkerNews
from provisioning.hearing import Heard
from provisioning.ledger import Ledger
from provisioning.listing import CONTRADICTED_MS, Listing

NOW = 1_800_000_000_000
MINE = Intent("n1", "bound", 1, 7, "RTX 3090", NOW, NOW + 3_600_000, 0.2, True, instance_id=5)


class Empty:
    def instances(self) -> tuple[()]:
        return ()


def test_a_voice_is_believed_over_lists_for_three_minutes_only(tmp_path: Path) -> None:
    cloud: Any = Empty()
    said: list[str] = []
    with Ledger(tmp_path / "test.db") as ledger:
        ledger.save(MINE)
        listing = Listing(cloud, ledger, "test", said.append)

        def look(after_ms: int, speaks: bool = True) -> bool:
            now = NOW + after_ms
            news = WorkerNews("n1", NOW, now, None, 0, 0, 0, 0, 0)
            return listing.look(Heard({"n1": news} if speaks else {}, True), now) is not None

        assert not look(0)
        assert not look(CONTRADICTED_MS - 1)
        assert look(CONTRADICTED_MS)
        assert look(CONTRADICTED_MS + 10_000)
        assert look(CONTRADICTED_MS + 20_000, speaks=False)
        assert not look(CONTRADICTED_MS + 30_000), "the next time it has as long again"
        assert any("that is not believed" in text for text in said)
