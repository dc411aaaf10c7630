"""What a stranger's machine hands in: the real stages' work passes, everything else is refused in one sentence."""

import hashlib
import io
import json
import tracemalloc
import zipfile
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provisioning import gateway_results as results
from provisioning import gateway_windows
from provisioning.gateway_leases import Lease, owner_of
from provisioning.gateway_probes import MemoryStorage
from provisioning.gateway_results import Accepted, BrokenContract, check, check_object, decode_json, plain
from provisioning.gateway_windows import GE2E, BadWindows, read_windows
from tests.support.objects import KEYS, START_MS, Recorded, Scribe, fill, lease, put_speakers
from tests.support.stages import make_context
from workers.diarizers import Windows, ge2e
from workers.diarizers.packing import pack
from workers.lanes import run_task
from workers.messages import ChunkResult, JobPlan, Message, SpeakerPlan, TaskFailure
from workers.storage import Storage
from workers.tasks import PolledTask

LIMIT = settings(deadline=None)


@pytest.fixture
def storage() -> Storage:
    return MemoryStorage({})


def a_grid(*_: object) -> Any:
    """A diarizer with ge2e's own grid and shape, and no model."""

    class Hears:
        spec = GE2E

        def hear(self, audio: Any, windows: range, wanted: Callable[[], None]) -> Windows:
            embedding = np.full((len(windows), 1, GE2E.dimension), np.nan, np.float32)
            embedding[::2] = 0.5
            return Windows(
                "0123456789abcdef", np.array(windows, np.int32), np.zeros((len(windows), 0, 1), np.bool_), embedding
            )

    return Hears()


def work(storage: Storage, mine: Lease) -> tuple[Recorded, Message]:
    """What an honest worker makes of a lease: the objects it wrote, and the output it hands in."""
    seen = Recorded(storage)
    around = make_context(open_storage=lambda address: seen, recognizer=lambda options: Scribe(), diarizer=a_grid)
    task = PolledTask("t", "w", mine.kind, mine.reference, {"storage": "x", **mine.data}, 1, 0, 10)
    return seen, run_task(task, around)


def handed_in(storage: Storage, mine: Lease, plan: JobPlan) -> dict[str, Any]:
    """As over a gateway: the object judged and stored as judged, the output as JSON."""
    seen, output = work(storage, mine)
    for key in seen.writes:
        accepted = check_object(mine, key, storage.get_bytes(key), plan, storage.get_bytes)
        storage.put_bytes(key, accepted.data)
        mine.written[key] = accepted.sha256
    told: dict[str, Any] = json.loads(output.model_dump_json())
    return told


# ---- honest work ----


@pytest.mark.parametrize(("kind", "index"), [("transcribe_chunk", 1), ("detect_language", None), ("diarize_chunk", 1)])
def test_what_the_stages_make_is_accepted(storage: Storage, kind: str, index: int | None) -> None:
    plan, speakers = fill(storage, language="es" if kind != "detect_language" else "auto"), put_speakers(storage)
    mine = lease(kind, index, speakers=speakers.key)

    output = handed_in(storage, mine, plan)
    verdict = check(mine, "COMPLETED", output, storage.get_bytes)

    assert verdict.ok, verdict.reason
    assert verdict.status == "COMPLETED"
    assert {name: value for name, value in verdict.output.items() if name != "worker"} == {
        name: value for name, value in output.items() if name != "worker"
    }
    again = lease(kind, index, nonce="another001", speakers=speakers.key)  # finds it done
    _, found = work(storage, again)
    verdict = check(again, "COMPLETED", json.loads(found.model_dump_json()), storage.get_bytes)
    assert verdict.ok, verdict.reason
    assert verdict.output.get("reused", True) is True


def test_a_machine_is_called_what_the_gateway_calls_it(storage: Storage) -> None:
    plan = fill(storage, language="es")
    mine = lease()
    output = handed_in(storage, mine, plan)
    stored = ChunkResult.model_validate_json(storage.get_bytes(KEYS.result(1)))
    assert (
        stored.worker == owner_of("nonce00001") == check(mine, "COMPLETED", output, storage.get_bytes).output["worker"]
    )


def test_a_chunk_past_the_end_of_the_media_has_a_result_without_text(storage: Storage) -> None:
    plan = fill(storage, language="es")
    record = {"index": 3, "core": {"start_ms": 9, "end_ms": 9}, "audio": {"start_ms": 9, "end_ms": 9}}
    storage.put_bytes(KEYS.chunk(3), json.dumps(record).encode())
    mine = lease(index=3)
    assert check(mine, "COMPLETED", handed_in(storage, mine, plan), storage.get_bytes).ok


def test_the_diarizers_grid_is_its_own() -> None:
    real = ge2e.Ge2e().spec
    assert (real.window, real.step, real.frames, real.local_speakers, real.dimension) == (
        GE2E.window,
        GE2E.step,
        GE2E.frames,
        GE2E.local_speakers,
        GE2E.dimension,
    )


# ---- results of chunks that are none ----


@cache
def done_job() -> dict[str, bytes]:
    """The objects of a job whose chunk 1 is done."""
    storage = MemoryStorage({})
    fill(storage, language="es")
    work(storage, lease())
    return {key: storage.get_bytes(key) for key in storage.keys("")}


def good(storage: Storage) -> dict[str, Any]:
    for key, data in done_job().items():
        storage.put_bytes(key, data)
    result: dict[str, Any] = json.loads(storage.get_bytes(KEYS.result(1)))
    return result


def refusal(storage: Storage, data: bytes, mine: Lease | None = None, key: str = KEYS.result(1)) -> str:
    plan = JobPlan.model_validate_json(storage.get_bytes(KEYS.plan))
    with pytest.raises(BrokenContract) as caught:
        check_object(mine or lease(), key, data, plan, storage.get_bytes)
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith(".")
    assert len(text) < 400
    return text


def moved(result: dict[str, Any], segment: int, **changes: Any) -> None:
    result["segments"][segment].update(changes)


FIRST, LAST = START_MS + 30_000, START_MS + 60_000  # of chunk 1's audio
CHANGES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "index": (lambda r: r.update(index=2), "another chunk"),
    "cut": (lambda r: r["chunk"]["core"].update(end_ms=LAST + 1), "another chunk"),
    "hash": (lambda r: r["chunk"].update(audio_sha256="0" * 64), "another chunk"),
    "language": (lambda r: r.update(language="xx"), "no language 'xx'"),
    "before the chunk": (lambda r: moved(r, 0, start_ms=FIRST - 1, words=[]), "outside the chunk's audio"),
    "after the chunk": (lambda r: moved(r, -1, end_ms=LAST + 1, words=[]), "outside the chunk's audio"),
    "far away": (lambda r: moved(r, -1, end_ms=10**18, words=[]), "outside the chunk's audio"),
    "not in order": (lambda r: r["segments"].reverse(), "before the one before it has ended"),
    "backwards": (lambda r: moved(r, 0, end_ms=FIRST - 5, start_ms=FIRST, words=[]), "A segment is from"),
    "word outside": (lambda r: r["segments"][0]["words"][0].update(end_ms=FIRST + 1_001), "outside its segment"),
    "probability": (lambda r: r["segments"][0]["words"][0].update(probability=1.1), "probability"),
    "no text": (lambda r: moved(r, 0, text="  "), "has no text"),
    "escape": (lambda r: moved(r, 0, text="\x1b[31mred"), "control characters"),
    "too much text": (lambda r: moved(r, 0, text="a" * 20_000), "characters in 30 s"),
    "too many words": (
        lambda r: moved(
            r, 0, words=[{"start_ms": FIRST, "end_ms": FIRST, "text": "abcdefgh", "probability": 1}] * 2000
        ),
        "characters in 30 s",
    ),
    "speaker": (lambda r: moved(r, 0, speaker="Ann"), "A speaker is named"),
    "word's speaker": (lambda r: r["segments"][0]["words"][0].update(speaker_confidence=1), "A speaker is named"),
    "new field": (lambda r: moved(r, 0, evil=1), "evil"),
    "passes": (lambda r: r.update(decodes=r["decodes"][:1] * 9), "9 passes"),
    "score": (lambda r: r["decodes"][0].update(score=1e300), "numbers that are none"),
    "suspicion": (lambda r: r["decodes"][0].update(suspicions=["x" * 1000]), "no sentence"),
    "settings": (lambda r: r["decodes"][0]["settings"].update({str(i): i for i in range(99)}), "more settings"),
    "seconds": (lambda r: r["seconds"].update(fetch=-1), "seconds"),
    "seconds' name": (lambda r: r["seconds"].update({"a" * 99: 1}), "seconds"),
    "segments missing": (lambda r: r.pop("segments"), "segments"),
    "segments no list": (lambda r: r.update(segments={"a": 1}), "segments"),
    "times no numbers": (lambda r: moved(r, 0, start_ms="soon"), "start_ms"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_result_that_is_not_of_the_contract(storage: Storage, name: str) -> None:
    result = good(storage)
    change, says = CHANGES[name]
    change(result)
    assert says in refusal(storage, json.dumps(result).encode())


BOMBS: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"<html>",
    "not UTF-8": b'{"index": "\xff\xfe"}',
    "deep": b"[" * 100_000,
    "deep and whole": b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
    "long number": b'{"index": ' + b"9" * 100_000 + b"}",
    "huge exponent": b'{"index": 1e999999}',
    "not a number": b'{"index": NaN}',
    "infinite": b'{"index": -Infinity}',
    "half a character": b'{"index": 1, "language": "\\ud800"}',
    "a list": b"[]",
    "null": b"null",
    "a number": b"7",
    "twice": b'{"index": 1}{"index": 1}',
    "a zip": b"PK\x03\x04" + bytes(100),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bytes_that_are_no_result(storage: Storage, name: str) -> None:
    fill(storage, language="es")
    refusal(storage, BOMBS[name])


def test_a_result_that_is_too_large_is_not_even_read(storage: Storage) -> None:
    fill(storage)
    assert "bytes where" in refusal(storage, b" " * (results.most_bytes("transcribe_chunk", 30_000) + 1))


def test_a_lone_surrogate_in_a_text_is_refused(storage: Storage) -> None:
    result = good(storage)
    moved(result, 0, text="half \ud83d of it")
    refusal(storage, json.dumps(result).encode())


def test_other_peoples_fields_are_not_stored(storage: Storage) -> None:
    result = good(storage)
    plan = JobPlan.model_validate_json(storage.get_bytes(KEYS.plan))
    result["extra"] = "<script>"
    accepted = check_object(lease(), KEYS.result(1), json.dumps(result).encode(), plan, storage.get_bytes)
    assert isinstance(accepted, Accepted)
    assert b"script" not in accepted.data
    assert accepted.sha256 == hashlib.sha256(accepted.data).hexdigest()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
PLACES = (
    ("index",), ("chunk",), ("chunk", "core"), ("language",), ("segments",), ("segments", 0),
    ("segments", 0, "start_ms"), ("segments", 0, "words"), ("segments", 3, "words", 0), ("segments", 3, "text"),
    ("decodes",), ("decodes", 0), ("decodes", 0, "settings"), ("decodes", 0, "score"),
    ("worker",), ("attempts",), ("seconds",), ("seconds", "fetch"),
)  # fmt: skip


@LIMIT
@given(place=st.sampled_from(PLACES), value=JSON)
def test_whatever_is_put_anywhere_is_accepted_as_sound_or_refused(place: Any, value: Any) -> None:
    """Nothing but BrokenContract is raised, and what is accepted keeps every promise of the contract."""
    storage = MemoryStorage({})
    result = good(storage)
    spot = result
    for step in place[:-1]:
        spot = spot[step]
    spot[place[-1]] = value
    plan = JobPlan.model_validate_json(storage.get_bytes(KEYS.plan))
    try:
        accepted = check_object(lease(), KEYS.result(1), json.dumps(result).encode(), plan, storage.get_bytes)
    except BrokenContract:
        return
    sound = ChunkResult.model_validate_json(accepted.data)
    assert sound.worker == owner_of("nonce00001")
    assert sound.index == 1
    reached = FIRST
    for segment in sound.segments:
        assert reached <= segment.start_ms <= segment.end_ms <= LAST
        assert all(segment.start_ms <= word.start_ms <= word.end_ms <= segment.end_ms for word in segment.words)
        reached = segment.end_ms


# ---- votes ----


@pytest.mark.parametrize(
    ("vote", "says"),
    [
        ({"language": "en", "votes": {"en": 1.2, "es": 0.7}}, None),
        ({"language": None, "votes": {}}, None),
        ({"language": "", "votes": {}}, None),
        ({"language": "es", "votes": {"en": 1.2, "es": 0.7}}, "most votes"),
        ({"language": "en", "votes": {}}, "most votes"),
        ({"language": None, "votes": {"en": 1.0}}, "most votes"),
        ({"language": "xx", "votes": {"xx": 1.0}}, "languages that there are not"),
        ({"language": "en", "votes": {"en": 2.5}}, "no probability"),
        ({"language": "en", "votes": {"en": 1.5, "es": 1.4}}, "more votes than samples"),
        ({"language": "en", "votes": {"en": -0.1}}, "no probability"),
        ({"language": "en", "votes": {"en": 1.0, **{str(i): 0 for i in range(999)}}}, "languages"),
        ({"language": "en", "votes": ["en"]}, "votes"),
    ],
)
def test_votes(storage: Storage, vote: dict[str, Any], says: str | None) -> None:
    plan = fill(storage)
    mine = lease("detect_language", None)
    if says is None:
        check_object(mine, KEYS.language, json.dumps(vote).encode(), plan, storage.get_bytes)
    else:
        assert says in refusal(storage, json.dumps(vote).encode(), mine, KEYS.language)


# ---- windows ----

PLAN = SpeakerPlan(diarizer="ge2e", chunk_seconds=30, chunk_count=3)


def windows(numbers: range = range(75, 150), value: float = 0.5, **changes: Any) -> Windows:
    parts = {
        "spec_hash": "0123456789abcdef",
        "index": np.array(numbers, np.int32),
        "activity": np.zeros((len(numbers), 0, 1), np.bool_),
        "embedding": np.full((len(numbers), 1, 256), value, np.float32),
        **changes,
    }
    return Windows(**parts)


def test_windows_come_back_as_they_were_packed() -> None:
    packed = windows()
    found = read_windows(pack(packed), 1, PLAN)
    assert found.spec_hash == packed.spec_hash
    for name in ("index", "activity", "embedding"):
        np.testing.assert_array_equal(getattr(found, name), getattr(packed, name))
        assert getattr(found, name).dtype == getattr(packed, name).dtype


def test_windows_of_another_model_come_back_too() -> None:
    generator = np.random.default_rng(0)
    packed = windows(
        range(30, 60),
        activity=generator.random((30, 589, 3)) > 0.5,
        embedding=generator.standard_normal((30, 3, 256)).astype(np.float32),
    )
    plan = SpeakerPlan(diarizer="pyannote", chunk_seconds=30, chunk_count=3)
    np.testing.assert_array_equal(read_windows(pack(packed), 1, plan).activity, packed.activity)


def mixed() -> np.ndarray:
    numbers = np.full((75, 1, 256), 0.5, np.float32)
    numbers[3, 0, 7] = np.nan
    return numbers


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (windows(range(74, 149)), "another part"),
        (windows(range(76, 150)), "another part"),
        (windows(range(75, 151)), "another part"),
        (windows(range(75)), "another part"),
        (windows(range(-75, 0)), "another part"),
        (windows(range(149, 74, -1)), "in order"),
        (windows(range(75, 150), np.inf), "no model gives"),
        (windows(range(75, 150), -np.inf), "no model gives"),
        (windows(range(75, 150), 1e30), "no model gives"),
        (windows(embedding=mixed()), "some of its numbers"),
        (windows(embedding=np.zeros((75, 1, 255), np.float32)), "shape"),
        (windows(embedding=np.zeros((75, 2, 256), np.float32)), "fit"),
        (windows(embedding=np.zeros((74, 1, 256), np.float32)), "fit"),
        (windows(embedding=np.zeros((75, 1, 256), np.float64)), "of its kind"),
        (windows(index=np.arange(75, 150, dtype=np.int64)), "of its kind"),
        (windows(activity=np.zeros((75, 5, 1), np.bool_)), "shape"),
        (windows(spec_hash="../../evil"), "by which diarizer"),
    ],
)
def test_windows_that_are_none_of_this_part(bad: Windows, says: str) -> None:
    with pytest.raises(BadWindows, match=says):
        read_windows(pack(bad), 1, PLAN)


@pytest.mark.parametrize(
    ("numbers", "fine"), [(range(30, 60), True), (range(5, 95), False), (range(10**6, 10**6 + 30), False)]
)
def test_of_an_unknown_grid_so_much_is_known(numbers: range, fine: bool) -> None:
    plan = SpeakerPlan(diarizer="onnx", model="x", chunk_seconds=30, chunk_count=3)
    if fine:
        read_windows(pack(windows(numbers)), 1, plan)
    else:
        with pytest.raises(BadWindows):
            read_windows(pack(windows(numbers)), 1, plan)


def npz(**arrays: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in arrays.items():
            packed.writestr(name, data)
    return file.getvalue()


def members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        return {name: file.read(name) for name in file.namelist()}


def header(descr: str, shape: str) -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def pickled() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([{"a": print}], dtype=object), allow_pickle=True)
    return file.getvalue()


@cache
def bad_files() -> dict[str, bytes]:
    whole = members(pack(windows()))
    return {
        "nothing": b"",
        "no zip": b"PK\x03\x04" + bytes(500),
        "cut off": pack(windows())[:-100],
        "damaged": pack(windows()).replace(b"embedding", b"embeddinG"),
        "an array too many": npz(**whole, more=b"x"),
        "an array too few": npz(**{name: data for name, data in whole.items() if name != "spec.npy"}),
        "a path": npz(**{("../spec.npy" if name == "spec.npy" else name): data for name, data in whole.items()}),
        "a pickle": npz(**{**whole, "embedding.npy": pickled()}),
        "code in a header": npz(**{**whole, "index.npy": header("__import__('os').abort()", "(75,)") + bytes(300)}),
        "a terabyte claimed": npz(**{**whole, "embedding.npy": header("'<f4'", "(1000000000000, 1, 256)")}),
        "a negative length": npz(**{**whole, "index.npy": header("'<i4'", "(-75,)") + bytes(300)}),
        "a deep header": npz(**{**whole, "index.npy": header("'<i4'", "(" * 5000)}),
        "a bomb": npz(**{**whole, "embedding.npy": bytes(16 << 20)}),
        "a count claimed": npz(**{**whole, "shape.npy": header("'<i8'", "(3,)") + np.array([2**62, 8, 8]).tobytes()}),
        "a count below zero": npz(**{**whole, "shape.npy": header("'<i8'", "(3,)") + np.array([75, -1, 1]).tobytes()}),
    }


@pytest.mark.parametrize("name", bad_files())
def test_files_that_are_no_windows(name: str) -> None:
    with pytest.raises(BadWindows):
        read_windows(bad_files()[name], 1, PLAN)


def test_a_bomb_that_understates_itself_is_not_unpacked() -> None:
    """64 MB in 64 KB, whose entries say that they are a few bytes: they are compared before and bound what is read."""
    whole = members(pack(windows()))
    packed = bytearray(npz(**{**whole, "embedding.npy": bytes(64 << 20)}))
    for beginning, name_at, size_at in ((b"PK\x03\x04", 30, 22), (b"PK\x01\x02", 46, 24)):
        at = packed.find(beginning)
        while packed[at + name_at : at + name_at + 13] != b"embedding.npy":
            at = packed.find(beginning, at + 1)
        packed[at + size_at : at + size_at + 4] = (200).to_bytes(4, "little")
    assert len(packed) < 200_000
    tracemalloc.start()
    try:
        with pytest.raises(BadWindows):
            read_windows(bytes(packed), 1, PLAN)
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()


def test_a_directory_without_end_is_not_read() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        for number in range(200):
            packed.writestr(f"{number}.npy", b"")
    with pytest.raises(BadWindows, match="five arrays"):
        read_windows(file.getvalue(), 1, PLAN)


@pytest.mark.parametrize(
    ("index", "numbers", "fine"),
    [
        (1, range(75, 150), True),
        (1, range(75, 149), False),
        (1, range(75, 75), False),
        (2, range(150, 222), True),
        (2, range(150, 225), False),
        (2, range(150, 5_000), False),
        (2, range(150, 200), False),
    ],
)
def test_where_the_recording_ends_its_windows_do(index: int, numbers: range, fine: bool) -> None:
    """90 s have 1 + ceil((90 - 1.615) / 0.4) = 222 windows, the last one filled up."""
    if fine:
        read_windows(pack(windows(numbers)), index, PLAN, 90_000)
    else:
        with pytest.raises(BadWindows):
            read_windows(pack(windows(numbers)), index, PLAN, 90_000)


@settings(deadline=None)
@given(data=st.data())
def test_windows_with_a_byte_changed_are_sound_or_refused(data: st.DataObject) -> None:
    whole = bytearray(pack(windows()))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = read_windows(bytes(whole), 1, PLAN)
    except BadWindows:
        return
    np.testing.assert_array_equal(found.index, np.arange(75, 75 + len(found.index)))
    assert found.embedding.shape == (len(found.index), 1, 256)


def test_windows_are_named_by_what_is_in_them(storage: Storage) -> None:
    fill(storage)
    speakers = put_speakers(storage)
    mine = lease("diarize_chunk", 1, speakers=speakers.key)
    data = pack(windows())
    right = KEYS.windows(speakers.voices, 1, hashlib.sha256(data).hexdigest())
    check_object(mine, right, data, JobPlan.model_validate_json(storage.get_bytes(KEYS.plan)), storage.get_bytes)
    assert "name says" in refusal(storage, data, mine, KEYS.windows(speakers.voices, 1, "0" * 64))
    assert "bytes" in refusal(storage, bytes(gateway_windows.UNPACKED_BASE + (64 << 20)), mine, right)


# ---- outputs ----


def output_of(storage: Storage) -> tuple[Lease, dict[str, Any]]:
    good(storage)
    mine = lease()
    mine.written[KEYS.result(1)] = ""
    seen, output = work(storage, mine)
    assert not seen.writes
    told: dict[str, Any] = json.loads(output.model_dump_json())
    assert check(mine, "COMPLETED", told, storage.get_bytes).ok
    return mine, told


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"index": 0}, "index"),
        ({"key": KEYS.result(0)}, "key"),
        ({"key": "jobs/other/results/00001.json"}, "key"),
        ({"audio_ms": 1}, "audio_ms"),
        ({"words": 10**9}, "words"),
        ({"suspicious": False}, "suspicious"),  # a word a second, over and over, is
        ({"seconds": {"fetch": float("inf")}}, "seconds"),
        ({"seconds": {"x y": 1}}, "seconds"),
        ({"seconds": "soon"}, "seconds"),
        ({"index": "one"}, "index"),
        ({"key": None}, "key"),
    ],
)
def test_an_output_that_says_what_is_not_so(storage: Storage, change: dict[str, Any], says: str) -> None:
    mine, output = output_of(storage)
    verdict = check(mine, "COMPLETED", {**output, **change}, storage.get_bytes)
    assert not verdict.ok
    assert says in verdict.reason
    assert verdict.output == {}


@pytest.mark.parametrize("kind", ["transcribe_chunk", "detect_language", "diarize_chunk"])
def test_done_without_anything_stored(storage: Storage, kind: str) -> None:
    fill(storage)
    speakers = put_speakers(storage)
    mine = lease(kind, 1, speakers=speakers.key)
    outputs: dict[str, dict[str, Any]] = {
        "transcribe_chunk": {
            "index": 1, "key": KEYS.result(1), "worker": "x", "attempts": 1, "audio_ms": 1, "words": 0, "seconds": {},
        },
        "detect_language": {"language": "en", "votes": {"en": 1}, "seconds": 1},
        "diarize_chunk": {
            "index": 1, "key": KEYS.windows(speakers.voices, 1, "0" * 64), "sha256": "0" * 64, "spec": "0" * 16,
            "windows": 0, "worker": "x", "attempts": 1, "seconds": {},
        },
    }  # fmt: skip
    verdict = check(mine, "COMPLETED", outputs[kind], storage.get_bytes)
    assert verdict.reason == "Done is claimed, and nothing was stored."


def test_windows_of_another_part_are_not_handed_in(storage: Storage) -> None:
    plan = fill(storage)
    speakers = put_speakers(storage)
    output = handed_in(storage, lease("diarize_chunk", 0, speakers=speakers.key), plan)
    mine = lease("diarize_chunk", 1, speakers=speakers.key)
    assert "not this task's" in check(mine, "COMPLETED", {**output, "index": 1}, storage.get_bytes).reason
    key = output["key"].replace("00000-", "00001-")
    storage.put_bytes(key, storage.get_bytes(output["key"]))
    verdict = check(mine, "COMPLETED", {**output, "key": key, "index": 1}, storage.get_bytes)
    assert "another part" in verdict.reason


@pytest.mark.parametrize("output", [None, [], "done", 7, {}, {"index": 1}])
def test_outputs_that_are_none(storage: Storage, output: Any) -> None:
    mine, _ = output_of(storage)
    assert not check(mine, "COMPLETED", output, storage.get_bytes).ok


@pytest.mark.parametrize("status", ["FAILED", "FAILED_WITH_TERMINAL_ERROR"])
def test_no_machine_ends_a_task_for_good(storage: Storage, status: str) -> None:
    failure = TaskFailure(error="ModelError", reason="There is no model.")
    verdict = check(lease(), status, failure.model_dump(), storage.get_bytes)
    assert (verdict.ok, verdict.status, verdict.output) == (True, "FAILED", failure.model_dump())


@pytest.mark.parametrize(
    "output", [None, {}, {"error": "<b>", "reason": 7}, {"error": "A" * 99, "reason": "\x1b[2J" + "x\n" * 9999}, "no"]
)
def test_a_failure_is_told_in_one_plain_line(storage: Storage, output: Any) -> None:
    told = check(lease(), "FAILED", output, storage.get_bytes).output
    assert told["error"] == "EngineError"
    assert 0 < len(told["reason"]) <= results.MOST_REASON
    assert told["reason"].isprintable()


@pytest.mark.parametrize("status", ["", "TIMED_OUT", "SKIPPED", "COMPLETED_WITH_ERRORS", None, 7])
def test_other_states_are_not_a_workers_to_give(storage: Storage, status: Any) -> None:
    assert not check(lease(), status, {}, storage.get_bytes).ok


def test_an_extension_carries_nothing_along(storage: Storage) -> None:
    assert check(lease(), "IN_PROGRESS", {"evil": "x" * 9999}, storage.get_bytes).output == {}
    assert check(lease(), "IN_PROGRESS", {"waiting": True, "evil": 1}, storage.get_bytes).output == {"waiting": True}


def test_other_kinds_are_nobodys(storage: Storage) -> None:
    assert "kind" in check(lease("plan_media", None), "COMPLETED", {}, storage.get_bytes).reason


@LIMIT
@given(output=JSON)
def test_whatever_is_handed_in_nothing_is_raised(output: Any) -> None:
    storage = MemoryStorage(dict(done_job()))
    for kind in ("transcribe_chunk", "detect_language", "diarize_chunk"):
        assert not check(lease(kind, 1, speakers="x"), "COMPLETED", output, storage.get_bytes).ok


# ---- words ----


@pytest.mark.parametrize("name", BOMBS)
def test_updates_are_decoded_with_the_same_care(name: str) -> None:
    if name in ("a list", "null", "a number"):
        decode_json(BOMBS[name])
    elif name != "long number":
        with pytest.raises(BrokenContract):
            decode_json(BOMBS[name])
    with pytest.raises(BrokenContract, match="bytes"):
        decode_json(b" " * 70_000)


@given(st.text(), st.integers(1, 50))
def test_plain_text_is_one_printable_line(text: str, most: int) -> None:
    shown = plain(text, most)
    assert len(shown) <= most
    assert "\n" not in shown
    assert all(character.isprintable() for character in shown)
