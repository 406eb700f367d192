"""Numbered samples: draws that depend on their key alone, and loaders that resume anywhere."""

from itertools import islice

import numpy as np
import pytest
import scipy.stats
import tiny
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset

from datamodules.loading import NumberedDataModule
from datamodules.sample_order import NumberSampler, SampleOrder, derived_seed, uniform


class Numbers(NumberedDataModule):
    """Sample n is n."""

    class Data(Dataset):
        def __init__(self, split):
            self.split = split

        def __getitem__(self, number):
            return number

    def samples(self, split, seed):
        return self.Data(split)

    @property
    def collate(self):
        return list


def module(batch_size=2, consumed=0, **trainer):
    data = Numbers(batch_size, workers=0, seed=0, valid_items=5)
    data.load_state_dict({"consumed": consumed})
    data.trainer = tiny.trainer(**trainer)
    return data


@given(st.integers(0, 2**40), st.integers(0, 2**40), st.text(max_size=10))
def test_uniform_lies_in_the_unit_interval(seed, number, purpose):
    assert 0 <= uniform(seed, number, purpose) < 1
    assert 0 <= derived_seed(seed, number, purpose) < 2**63


def test_draws_never_change():
    # A change here changes every run of every user: these are fixed for good.
    assert uniform(0, 0, "track") == 0.4147578166519914
    assert uniform(7, 123456789, "position") == 0.8843741607950198
    assert derived_seed(0, "piano") == 323089549563600348


def test_uniform_is_uniform_and_its_purposes_independent():
    a = np.array([uniform(0, n, "a") for n in range(4000)])
    b = np.array([uniform(0, n, "b") for n in range(4000)])
    assert scipy.stats.kstest(a, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.05
    assert abs(np.corrcoef(a[1:], a[:-1])[0, 1]) < 0.05


def test_tracks_are_drawn_in_proportion_to_their_weights():
    weights = [1.0, 0.0, 5.0, 2.5]
    order = SampleOrder(weights, seed=3)
    draws = [order.draw(n) for n in range(6000)]
    counts = np.bincount([draw.track for draw in draws], minlength=4)
    assert counts[1] == 0
    kept = [0, 2, 3]
    assert scipy.stats.chisquare(counts[kept], 6000 * np.array(weights)[kept] / 8.5).pvalue > 1e-3
    assert scipy.stats.kstest([draw.position for draw in draws], "uniform").pvalue > 1e-3
    assert [order.draw(n) for n in reversed(range(6000))] == draws[::-1]
    assert [SampleOrder(weights, seed=4).draw(n) for n in range(20)] != draws[:20]


@pytest.mark.parametrize("weights", [[], [0.0], [1.0, -1.0]])
def test_weights_that_say_nothing_are_refused(weights):
    with pytest.raises(ValueError, match="weights"):
        SampleOrder(weights, seed=0)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_share_out_the_samples(world):
    ranks = [list(islice(NumberSampler(10, rank, world), 4)) for rank in range(world)]
    assert sorted(number for rank in ranks for number in rank) == list(range(10, 10 + 4 * world))


@pytest.mark.parametrize("world", [1, 2, 4])
def test_an_optimiser_step_sees_the_same_samples_on_any_number_of_ranks(world):
    """A global batch of 8: steps of 8 / world samples a rank, in micro-batches of 2."""
    seen = []
    for rank in range(world):
        batches = iter(module(rank=rank, world=world, consumed=16).train_dataloader())
        seen += [n for _ in range(8 // world // 2) for n in next(batches)]
    assert sorted(seen) == list(range(16, 24))


@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_validation_sample_is_seen_once(world):
    seen = []
    for rank in range(world):
        loader = module(rank=rank, world=world).val_dataloader()
        assert loader.dataset.split == "valid"
        seen += [n for batch in loader for n in batch]
    assert sorted(seen) == list(range(5))


def test_state_counts_what_finished_steps_consumed():
    data = module(batch_size=3, consumed=100, step=7, world=2, accumulate=4)
    data.train_dataloader()
    assert data.state_dict() == {"consumed": 100}
    data.trainer.global_step = 9
    assert data.state_dict() == {"consumed": 100 + 2 * 3 * 4 * 2}
    after = module(batch_size=5, **data.state_dict(), step=9)
    assert next(iter(after.train_dataloader())) == list(range(148, 153))


def test_loaders_in_other_processes_start_afresh():
    data = Numbers(2, workers=2, seed=0, valid_items=5)
    data.trainer = tiny.trainer()
    loader = data.train_dataloader()
    assert loader.num_workers == 2
    assert loader.persistent_workers
    assert loader.multiprocessing_context.get_start_method() != "fork"  # forking a threaded process can hang
