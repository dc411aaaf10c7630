"""The transcript while it grows: what has become final, in order, each segment once."""

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
        self._told = 0

    def fresh(self, view: JobView) -> tuple[Segment, ...]:
        """Segments that became final since the last call; at the job's end all that are left."""
        try:
            segments = self._finished() if view.stage == "done" else self._so_far(view)
        except (TransientError, StorageError):
            return ()  # following is a convenience: what storage does not give now comes with the next look
        fresh = segments[self._told :]
        self._told = max(self._told, len(segments))
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
