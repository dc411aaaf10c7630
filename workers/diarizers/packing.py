"""Windows as bytes and back: what travels from a diarizing worker to the one that clusters."""

import io
import zipfile
import zlib
from collections.abc import Sequence

import numpy as np

from workers.diarizers import Windows
from workers.errors import StorageUnavailable


def pack(windows: Windows) -> bytes:
    """A compressed .npz without pickles; equal windows give equal bytes."""
    file = io.BytesIO()
    np.savez_compressed(
        file,
        spec=np.frombuffer(windows.spec_hash.encode(), np.uint8),
        index=windows.index,
        activity=np.packbits(windows.activity),
        shape=np.array(windows.activity.shape, np.int64),
        embedding=windows.embedding,
    )
    return file.getvalue()


def unpack(data: bytes) -> Windows:
    """Raises StorageUnavailable where the bytes are not what `pack` made."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            shape = tuple(int(length) for length in file["shape"])
            bits = np.unpackbits(file["activity"], count=int(np.prod(shape)))
            return Windows(
                spec_hash=file["spec"].tobytes().decode(),
                index=file["index"],
                activity=bits.reshape(shape).astype(np.bool_),
                embedding=file["embedding"],
            )
    # RuntimeError is what zipfile says of flags and versions that only damage can have set
    except (ValueError, KeyError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise StorageUnavailable(f"Storage gave the windows of a chunk damaged: {error}") from error


def joined(parts: Sequence[Windows]) -> Windows:
    """All windows in the order of the grid, each once, whatever the order and number of parts.

    Parts must be of one spec; of a window that came twice the first is kept, as they are equal.
    """
    index = np.concatenate([part.index for part in parts])
    _, first = np.unique(index, return_index=True)
    return Windows(
        spec_hash=parts[0].spec_hash,
        index=index[first],
        activity=np.concatenate([part.activity for part in parts])[first],
        embedding=np.concatenate([part.embedding for part in parts])[first],
    )
