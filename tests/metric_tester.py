"""One tester for every metric, in the manner of torchmetrics' own.

A case says how a metric is made and fed, and what a slow and independent calculation gives; each check is one promise
that all metrics keep.
"""

import copy
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from torchmetrics import Metric, MetricCollection

from datamodules.errors import InputError

Data = Mapping[str, torch.Tensor]
_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class MetricCase:
    """A metric and what is needed to test it; functions are of a module, so that another process finds them.

    Attributes:
        name: of the test.
        make: makes the metric.
        data: what it is fed with; items stand in the first dimension, of which tensors may have unequal numbers.
        feed: updates a metric, or a collection of metrics, with items.
        slow: the value of all items, by another way.
        wrong: updates that must be refused, and a pattern of what is said then.
        empty: a pattern of what is said when there is nothing to compute.
        longer: the same data with more padding, of any values; None where a metric is given no padding.
    """

    name: str
    make: Callable[[], Metric]
    data: Data
    feed: Callable[[Any, Data], None]
    slow: Callable[[Data], float]
    wrong: Sequence[tuple[Callable[[Metric], None], str]]
    empty: str
    longer: Callable[[Data], Data] | None = None


def value(case, *parts):
    metric = case.make()
    for part in parts:
        case.feed(metric, part)
    return float(metric.compute())


def split(data, count):
    """The data in ``count`` parts of about the same size, which may be empty."""
    return [
        {name: items[len(items) * k // count : len(items) * (k + 1) // count] for name, items in data.items()}
        for k in range(count)
    ]


def cast(data, dtype):
    return {name: items.to(dtype) if items.is_floating_point() else items for name, items in data.items()}


def equals_the_slow_way(case):
    before = {name: items.clone() for name, items in case.data.items()}
    metric = case.make()
    case.feed(metric, case.data)
    assert float(metric.compute()) == pytest.approx(case.slow(case.data), rel=1e-8)
    assert metric.compute().dtype == torch.float64
    assert metric.compute().shape == ()
    assert all(torch.equal(before[name], items) for name, items in case.data.items())


def any_split_gives_the_same(case):
    whole = value(case, case.data)
    for count in (2, 3, 7, 50):
        parts = split(case.data, count)
        assert value(case, *parts) == pytest.approx(whole, rel=1e-11)
        assert value(case, *reversed(parts)) == pytest.approx(whole, rel=1e-11)
    # Merged as processes merge.
    metrics = [case.make(), case.make()]
    for metric, part in zip(metrics, split(case.data, 2), strict=True):
        case.feed(metric, part)
    metrics[0].merge_state(metrics[1])
    assert float(metrics[0].compute()) == pytest.approx(whole, rel=1e-11)


def survives_pickling_and_checkpoints(case):
    whole, (first, second) = value(case, case.data), split(case.data, 2)
    for carried in (lambda metric: pickle.loads(pickle.dumps(metric)), copy.deepcopy, lambda metric: metric.clone()):
        begun = case.make()
        case.feed(begun, first)
        metric = carried(begun)
        case.feed(metric, second)
        assert float(metric.compute()) == pytest.approx(whole, rel=1e-11)
    begun.persistent(True)
    state = begun.state_dict()
    assert state
    metric = case.make()
    metric.persistent(True)
    metric.load_state_dict(state)
    case.feed(metric, second)
    assert float(metric.compute()) == pytest.approx(whole, rel=1e-11)


def begins_anew_after_a_reset(case):
    metric = case.make()
    case.feed(metric, split(case.data, 2)[0])
    metric.reset()
    with pytest.raises(InputError, match=case.empty):
        metric.compute()
    case.feed(metric, case.data)
    assert float(metric.compute()) == value(case, case.data)


def sums_in_float64_whatever_it_is_given(case):
    devices = ["cpu", *["cuda"] * torch.cuda.is_available()]
    for dtype in _FLOATS:
        given = cast(case.data, dtype)
        expected = case.slow(cast(given, torch.float64))
        for device in devices:
            metric = case.make().to(device)
            # What a module that holds the metric is cast to does not concern its sums.
            torch.nn.ModuleList([metric]).half()
            case.feed(metric, {name: items.to(device) for name, items in given.items()})
            assert metric.compute().device.type == device
            assert float(metric.to("cpu").compute()) == pytest.approx(expected, rel=1e-8)


def takes_no_gradient(case):
    floats = {name for name, items in case.data.items() if items.is_floating_point()}
    asked = {name: items.clone().requires_grad_(name in floats) for name, items in case.data.items()}
    metric = case.make()
    case.feed(metric, asked)
    assert not metric.compute().requires_grad


def does_not_hear_padding(case):
    assert value(case, case.longer(case.data)) == pytest.approx(value(case, case.data), rel=1e-11)


def fits_into_a_collection(case):
    whole = value(case, case.data)
    collection = MetricCollection({"one": case.make(), "other": case.make()}, prefix="score/")
    for _ in range(2):
        for part in split(case.data, 3):
            case.feed(collection, part)
        found = {name: float(one) for name, one in collection.compute().items()}
        assert found == pytest.approx({"score/one": whole, "score/other": whole}, rel=1e-11)
        collection.reset()


def refuses_and_is_none_the_worse(case):
    with pytest.raises(InputError, match=case.empty):
        case.make().compute()
    metric = case.make()
    case.feed(metric, case.data)
    for update, message in case.wrong:
        with pytest.raises(InputError, match=message):
            update(metric)
    metric._computed = None  # or it would not compute again
    assert float(metric.compute()) == value(case, case.data)


CHECKS = (
    equals_the_slow_way,
    any_split_gives_the_same,
    survives_pickling_and_checkpoints,
    begins_anew_after_a_reset,
    sums_in_float64_whatever_it_is_given,
    takes_no_gradient,
    does_not_hear_padding,
    fits_into_a_collection,
    refuses_and_is_none_the_worse,
)


def _rank(rank, folder, cases):
    meet, patience = f"file://{folder}/meet", timedelta(seconds=120)
    torch.distributed.init_process_group("gloo", init_method=meet, rank=rank, world_size=2, timeout=patience)
    # The first process has two thirds.
    values = [value(case, *split(case.data, 3)[slice(2) if rank == 0 else slice(2, None)]) for case in cases]
    torch.save(values, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def two_processes_give_what_one_gives(cases, folder):
    """All cases at once, for a process takes seconds to start; this one is the other's peer."""
    other = mp.get_context("spawn").Process(target=_rank, args=(1, str(folder), cases))
    other.start()
    _rank(0, str(folder), cases)
    other.join(60)
    assert other.exitcode == 0
    expected = [value(case, case.data) for case in cases]
    for rank in range(2):
        assert torch.load(folder / f"{rank}.pt") == pytest.approx(expected, rel=1e-11)
