"""Steps as CUDA graphs: on a GPU a step of few rows takes less time than the launching of its kernels one by one."""

from collections.abc import Callable

import torch

BUCKET = 256  # places; one graph serves as many steps


class Replayed:
    """A step that is recorded for each bucket of widths and replayed after that.

    The step reads and writes the same tensors every time; what differs between steps lies in them, on the device.

    Args:
        step: does one step whose attention reads so many places.
        places: the most there are.
        bucket: so many steps share a graph.
    """

    def __init__(self, step: Callable[[int], object], places: int, bucket: int = BUCKET) -> None:
        self.step, self.places, self.bucket = step, places, bucket
        self.graphs: dict[int, torch.cuda.CUDAGraph | None] = {}
        self.pool = torch.cuda.graph_pool_handle()

    def __call__(self, width: int) -> None:
        """Does one step that has so many places to read."""
        width = min(-(-width // self.bucket) * self.bucket, self.places)
        if width not in self.graphs:
            self.graphs[width] = None
            self.step(width)  # the first as it is: libraries make themselves ready, which cannot be recorded
            return
        graph = self.graphs[width]
        if graph is None:
            self.graphs[width] = graph = torch.cuda.CUDAGraph()
            # Other threads, such as those that load data beside a training run, may go on meanwhile.
            with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
                self.step(width)
        graph.replay()
