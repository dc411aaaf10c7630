"""The transcript while it grows: what has become final, in order, each word once.

Texts are final long before speakers are known, and the finished transcript divides segments where the
speaker changes: so not segments are counted but what is written in them.
"""

from collections.abc import Sequence

from workers.errors import StorageError, TransientError
from workers.messages import ChunkResult, JobKeys
from workers.stitching import final_prefix
from workers.storage import Storage
from workers.transcript import Segment, Transcript
from workflows.progress import JobView


class Follower:
    """Reads the results of finished chunks from storage as far as they are contiguous."""

    def __init__(self, storage: Storage, job: str) -> None:
        self._storage = storage
        self._keys = JobKeys(job)
        self._results: dict[int, ChunkResult] = {}
        self._told = 0  # letters

    def fresh(self, view: JobView) -> tuple[Segment, ...]:
        """Segments that became final since the last call; at the job's end all that are left."""
        try:
            segments = self._finished() if view.stage == "done" else self._so_far(view)
        except (TransientError, StorageError):
            return ()  # following is a convenience: what storage does not give now comes with the next look
        fresh, self._told = untold(segments, self._told)
        return fresh

    def _so_far(self, view: JobView) -> tuple[Segment, ...]:
        """Up to the first chunk that is not done; past a lost one only the finished transcript knows more."""
        done = {task.chunk for task in view.tasks if task.chunk is not None and task.done}
        for index in sorted(done - self._results.keys()):
            data = self._storage.get_bytes(self._keys.result(index))
            self._results[index] = ChunkResult.model_validate_json(data)
        return final_prefix(self._results)

    def _finished(self) -> tuple[Segment, ...]:
        data = self._storage.get_bytes(self._keys.transcript("json"))
        return Transcript.model_validate_json(data).segments


def untold(segments: Sequence[Segment], told: int) -> tuple[tuple[Segment, ...], int]:
    """The segments behind the first `told` letters, and how many letters are told with them.

    Letters, because words are not always there to be counted: the finished transcript of a job without word
    timestamps has none, where chunks that overlap were heard with them. Whether a segment is behind them is
    asked of its middle: in the rare text that is no chain of its words, dividing it moves a few letters.
    """
    fresh = []
    reached = 0
    for segment in segments:
        length = len("".join(segment.text.split()))
        if reached + length / 2 > told:
            fresh.append(segment)
        reached += length
    return tuple(fresh), max(told, reached)
