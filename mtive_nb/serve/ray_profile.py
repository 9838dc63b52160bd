"""A profile's experts on a Ray cluster, to score many photos (serve/score.py). Needs the extra `scale`.

Apart from serve/cluster.py, which chapters import: what answers new photos must make no chapter stale.
"""

from collections.abc import Sequence

import torch

from mtive_nb.run.graph import Project, find_project
from mtive_nb.serve.answer import Answer, Experts, Profile


class RayProfile(Experts):
    """The experts of a profile on the workers of a Ray cluster, asked and scored as those of one process.

    Uses the connected cluster, or starts one. A worker takes a GPU where the cluster has one for each. The profile's
    outputs must lie where all workers see them; photos are sent. A worker that dies is started again, and its questions are asked again.
    Errors: those of Profile, from the first worker.
    """

    def __init__(self, name: str, *, workers: int, project: Project | None = None) -> None:
        import ray

        if not ray.is_initialized():
            ray.init()
        gpus = int(ray.cluster_resources().get("GPU", 0) >= workers)

        @ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=3, max_task_retries=3)
        class Worker:
            def __init__(self, name: str, project: Project) -> None:
                torch.set_num_threads(1)
                self.profile = Profile(name, project=project)

            def about(self) -> dict:
                return {name: getattr(self.profile, name) for name in ("tasks", "max_px", "own", "longest", "batch")}

            def call(self, method: str, *given: object, **named: object) -> object:
                return getattr(self.profile, method)(*given, **named)

        project = project or find_project()
        self._ray, self._workers = ray, [Worker.remote(name, project) for _ in range(workers)]
        self.name = name
        vars(self).update(ray.get(self._workers[0].about.remote()))

    def close(self) -> None:
        """End the workers; the cluster goes on."""
        for worker in self._workers:
            self._ray.kill(worker)

    def expert_of(self, task: str) -> str:
        if task not in self.tasks:
            raise KeyError(f"no expert {task!r} in service; there are {sorted(self.tasks)}")
        return self._ray.get(self._workers[0].call.remote("expert_of", task))

    def calibrated(self, task: str) -> bool:
        return self._ray.get(self._workers[0].call.remote("calibrated", task))

    def answers(self, records: Sequence[dict], *, max_new_tokens: int | None = None) -> list[Answer]:
        """Answer records, an equal share on each worker; each record's task selects its expert."""
        n = len(self._workers)
        shares = [(worker, records[k::n]) for k, worker in enumerate(self._workers) if records[k::n]]
        asked = [worker.call.remote("answers", share, max_new_tokens=max_new_tokens) for worker, share in shares]
        answers: list[Answer] = [None] * len(records)
        for k, found in enumerate(self._ray.get(asked)):
            answers[k::n] = found
        return answers
