"""The windows of a diarizer from a stranger's machine: read without trusting a byte of them. Pure.

The file is a zip of numpy arrays. numpy would allocate what an array's header claims and unpack what a member holds,
however much that is, before anyone can look; so the sizes are compared here first, and no header is evaluated.
"""

import io
import math
import re
import struct
import zipfile
import zlib

import numpy as np
from numpy.typing import NDArray

from workers.diarizers import DiarizerSpec, Windows
from workers.diarizers.grid import count_windows, owned
from workers.messages import SpeakerPlan
from workers.spans import SAMPLES_PER_MS

GE2E = DiarizerSpec("ge2e", 1, "", window=25_840, step=6_400, frames=0, local_speakers=1, dimension=256)
"""Its grid and shape; a test holds them to the diarizer's own, whose import would bring more than numbers here."""

SLOWEST, FASTEST = 0.1, 20  # windows that begin in a second of audio: pyannote's 1, ge2e's 2.5

UNPACKED_BASE, UNPACKED_A_SECOND = 256 << 10, 32 << 10
"""Bytes of all arrays, unpacked. ge2e has 2.6 KB a second of audio, pyannote 3.3 KB: three voices every second."""

MOST_FRAMES, MOST_VOICES, MOST_DIMENSION = 20_000, 32, 4_096
LARGEST = 1e6  # magnitude of an embedding's number; those of the models here stay under 100
_ARRAYS = {"spec": "|u1", "index": "<i4", "activity": "|u1", "shape": "<i8", "embedding": "<f4"}
# what zipfile and zlib are known to raise of bytes that were damaged, on purpose or not
_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, RuntimeError, ValueError, LookupError)
_ENTRY = b"PK\x01\x02"  # how each entry of a zip's directory begins
_HEADER = re.compile(rb"\{'descr': '([<|][a-z]\d)', 'fortran_order': False, 'shape': \(([0-9, ]{0,60})\), \} *\n")


class BadWindows(ValueError):
    """The bytes are no windows of this part of the recording; the text says why in a sentence."""


def read_windows(data: bytes, index: int, plan: SpeakerPlan, duration_ms: int | None = None) -> Windows:
    """The windows that part `index` of the plan owns.

    duration_ms: of the recording that was cut, where that is known already.
    Raises BadWindows where these are not they: damaged, too large, of another part, or with numbers that are none.
    """
    windows = _assembled(_arrays(data, UNPACKED_BASE + UNPACKED_A_SECOND * plan.chunk_seconds))
    _check_numbers(windows)
    _check_owned(windows, index, plan, duration_ms)
    return windows


def _arrays(data: bytes, most: int) -> dict[str, NDArray[np.generic]]:
    if data.count(_ENTRY) > 2 * len(_ARRAYS):  # by chance a number looks like one, and zipfile would list them all
        raise BadWindows("The windows are not the five arrays that they should be.")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            members = file.infolist()
            names = sorted(member.filename for member in members)
            if names != sorted(f"{name}.npy" for name in _ARRAYS):
                raise BadWindows("The windows are not the five arrays that they should be.")
            if sum(member.file_size for member in members) > most:
                raise BadWindows("The windows unpack to more than so much audio can have.")
            if any(member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members):
                raise BadWindows("The windows are packed in a way that numpy does not.")
            return {name: _array(_unpacked(file, f"{name}.npy"), wanted) for name, wanted in _ARRAYS.items()}
    except BadWindows:
        raise
    except _DAMAGE as error:
        raise BadWindows(f"The windows are damaged ({type(error).__name__}).") from None


def _unpacked(file: zipfile.ZipFile, name: str) -> bytes:
    """A member, of which no more is unpacked than it says it has: `ZipFile.read` would unpack all, and cut it then."""
    size = file.getinfo(name).file_size
    with file.open(name) as member:
        data = member.read(size + 1)
    if len(data) != size:
        raise BadWindows("An array of the windows is not as long as it says.")
    return data


def _array(data: bytes, wanted: str) -> NDArray[np.generic]:
    """One .npy, version 1.0, whose header is exactly as numpy writes it."""
    length = int.from_bytes(data[8:10], "little")
    header, body = data[10 : 10 + length], data[10 + length :]
    match = _HEADER.fullmatch(header)
    if data[:8] != b"\x93NUMPY\x01\x00" or match is None or match.group(1).decode() != wanted:
        raise BadWindows("An array of the windows is not of its kind.")
    shape = tuple(int(part) for part in match.group(2).replace(b" ", b"").split(b",") if part)
    dtype = np.dtype(wanted)
    if math.prod(shape) * dtype.itemsize != len(body):
        raise BadWindows("An array of the windows is not as long as it says.")
    return np.frombuffer(body, dtype).reshape(shape)


def _assembled(arrays: dict[str, NDArray[np.generic]]) -> Windows:
    spec, index, activity, shape, embedding = (arrays[name] for name in _ARRAYS)
    text = spec.tobytes()
    if not re.fullmatch(rb"[0-9a-f]{16}", text):
        raise BadWindows("The windows do not say by which diarizer they were heard.")
    lengths = [int(length) for length in np.asarray(shape, np.int64).reshape(-1)]
    if shape.ndim != 1 or index.ndim != 1 or activity.ndim != 1 or embedding.ndim != 3 or len(lengths) != 3:
        raise BadWindows("The arrays of the windows have other dimensions than they should.")
    count, frames, voices = lengths
    bounded = 0 <= frames <= MOST_FRAMES and 0 <= voices <= MOST_VOICES and embedding.shape[2] <= MOST_DIMENSION
    if not bounded or count != len(index) or embedding.shape[:2] != (count, voices):
        raise BadWindows("The arrays of the windows do not fit one another.")
    bits = count * frames * voices
    if len(activity) != -(-bits // 8):
        raise BadWindows("The arrays of the windows do not fit one another.")
    heard = np.unpackbits(np.asarray(activity, np.uint8), count=bits).reshape(count, frames, voices).astype(np.bool_)
    return Windows(text.decode(), np.asarray(index, np.int32), heard, np.asarray(embedding, np.float32))


def _check_numbers(windows: Windows) -> None:
    """A voice has all its numbers, or NaN for each where nothing could be embedded."""
    absent = np.isnan(windows.embedding)
    if np.any(absent.any(axis=2) != absent.all(axis=2)):
        raise BadWindows("A voice has some of its numbers and not the others.")
    if np.any(np.abs(np.where(absent, 0, windows.embedding)) > LARGEST):  # infinite ones too
        raise BadWindows("A voice has numbers that no model gives.")


def _check_owned(windows: Windows, index: int, plan: SpeakerPlan, duration_ms: int | None) -> None:
    """Windows of the part in order, each once, and none of another's.

    The grid of ge2e is known: they are all that begin there, as far as the recording goes. Of another model's only so
    much is: its windows are as many as it makes steps in `chunk_seconds`, give or take one, or fewer where the
    recording ends; and no step is beyond SLOWEST and FASTEST.
    """
    count = len(windows.index)
    first = int(windows.index[0]) if count else 0
    if np.any(windows.index != np.arange(first, first + count, dtype=np.int64)):
        raise BadWindows("The windows are not in order, or some are missing.")
    if plan.diarizer == "ge2e":
        if (*windows.embedding.shape[1:], windows.activity.shape[1]) != (1, GE2E.dimension, 0):
            raise BadWindows("The windows are not of the shape that ge2e's have.")
        start, stop = owned(index, plan.chunk_count, plan.chunk_seconds, GE2E)
        there = None if duration_ms is None else count_windows(duration_ms * SAMPLES_PER_MS, GE2E)
        if there is not None:
            stop = max(start, there if stop is None else min(stop, there))
            if count != stop - start:
                raise BadWindows("There are other windows than that part of the recording has.")
        fits = first == start and (stop is None or first + count <= stop)
    else:
        before = index * plan.chunk_seconds
        fits = before * SLOWEST <= first <= before * FASTEST
        fits = fits and (index + 1 == plan.chunk_count or index * (count - 1) <= first)
    if count and not fits:
        raise BadWindows("There are windows that another part of the recording owns.")
