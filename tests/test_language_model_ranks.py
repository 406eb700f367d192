"""Two processes with uneven parts of a batch have, on average, the gradient of one process with all of it."""

from datetime import timedelta
from types import SimpleNamespace

import pytest
import tiny
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from lightning_modules.lm.model import LanguageModelConfig
from lightning_modules.lm.training import LanguageModelTraining
from lightning_modules.optim import OptimConfig

LENGTHS = torch.tensor([12, 3, 7, 1])  # frames; the first process has two thirds of them
SHARES = (slice(0, 2), slice(2, 4))


def gradients(share, **options):
    """Of a training step on these items, and what it logged."""
    torch.manual_seed(0)
    shape = LanguageModelConfig(dim=16, layers=1, heads=2, codebooks=3, entries=8)
    module = LanguageModelTraining(shape, tiny.TEXT, OptimConfig(), condition_dropout=0.0, **options)
    logged = {}
    module.log = lambda name, value, **given: logged.update({name: float(value)})
    module.log_dict = lambda values, **given: logged.update({name: float(value) for name, value in values.items()})
    codes = tiny.codes(4, 12, codebooks=3, entries=8)
    batch = SimpleNamespace(
        codes=codes[share], lengths=LENGTHS[share], captions=["a", "b", "c", "d"][share],
        numbers=torch.arange(4)[share], chroma=torch.zeros(4, 1)[share],
    )  # fmt: skip
    module.training_step(batch, 0).backward()
    return {name: p.grad for name, p in module.named_parameters()}, logged


def _share(rank, folder):
    torch.set_num_threads(1)
    meet, patience = f"file://{folder}/meet", timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=2, timeout=patience)
    torch.save(gradients(SHARES[rank]), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_have_the_gradient_of_one(tmp_path):
    mp.spawn(_share, (str(tmp_path),), nprocs=2)
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    whole, logged = gradients(slice(None))
    for name, gradient in whole.items():
        average = (parts[0][0][name] + parts[1][0][name]) / 2
        torch.testing.assert_close(average, gradient, atol=1e-6, rtol=1e-4, msg=name)
    for part in ("lm", "trained_conditioners"):
        assert max(gradient.abs().max() for name, gradient in whole.items() if name.startswith(part)) > 1e-3, part
    for _, theirs in parts:
        assert theirs == pytest.approx(logged)
    assert logged["train/ce"] == pytest.approx(sum(logged[f"train/ce_{k}"] for k in range(3)) / 3)


def test_padding_is_learnt_only_where_asked_for():
    plain, asked = (gradients(slice(None), train_on_padding=asked)[1] for asked in (False, True))
    assert plain != pytest.approx(asked)
    torch.manual_seed(0)
    # By a loop over items and codes; training leaves out the last codes of delayed codebooks.
    shape = LanguageModelConfig(dim=16, layers=1, heads=2, codebooks=3, entries=8)
    module = LanguageModelTraining(shape, tiny.TEXT, OptimConfig(), condition_dropout=0.0)
    codes, sums, counts = tiny.codes(4, 12, codebooks=3, entries=8), torch.zeros(3), torch.zeros(3)
    for row, length in enumerate(LENGTHS.tolist()):
        given = module.conditioners(["abcd"[row]])
        heard = codes[row : row + 1].clone()
        heard[..., length:] = 8  # past its end an item is empty
        logits, mask = module.lm.logits(heard, given)
        for k in range(3):
            for t in range(length):
                if mask[0, k, t]:
                    sums[k] -= logits[0, k, t].log_softmax(-1)[codes[row, k, t]].detach()
                    counts[k] += 1
    assert [plain[f"train/ce_{k}"] for k in range(3)] == pytest.approx((sums / counts).tolist(), rel=1e-5)
