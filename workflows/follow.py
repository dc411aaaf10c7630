"""The transcript while it grows: what has become final, in order, each segment once."""

from workers.errors import WhisperfleetError
from workers.messages import ChunkResult, JobKeys, JobPlan
from workers.stitching import final_prefix
from workers.storage import Storage
from workers.transcript import Segment
from workflows.progress import JobView


class Follower:
    """Reads the results of finished chunks from storage as far as they are contiguous."""

    def __init__(self, storage: Storage, job: str) -> None:
        self._storage = storage
        self._keys = JobKeys(job)
        self._plan: JobPlan | None = None
        self._results: dict[int, ChunkResult] = {}
        self._lost: set[int] = set()
        self._told_ms = -1

    def fresh(self, view: JobView) -> list[Segment]:
        """Segments that became final since the last call."""
        try:
            self._read(view)
        except WhisperfleetError:
            return []  # following is a convenience: what storage does not give now comes with the next look
        if self._plan is None:
            return []
        segments = final_prefix(self._results, self._plan.chunk_count, frozenset(self._lost))
        fresh = [segment for segment in segments if segment.start_ms > self._told_ms]
        if fresh:
            self._told_ms = fresh[-1].start_ms
        return fresh

    def _read(self, view: JobView) -> None:
        if self._plan is None:
            self._plan = JobPlan.model_validate_json(self._storage.get_bytes(self._keys.plan))
        for task in view.tasks:
            if task.chunk is None or task.chunk in self._results:
                continue
            if task.done:
                data = self._storage.get_bytes(self._keys.result(task.chunk))
                self._results[task.chunk] = ChunkResult.model_validate_json(data)
            elif task.status == "COMPLETED_WITH_ERRORS":
                self._lost.add(task.chunk)
