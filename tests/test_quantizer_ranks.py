"""Two processes with parts of the batches train the codebooks that one process with whole batches trains."""

from datetime import timedelta
from functools import wraps

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from lightning_modules import ranks
from lightning_modules.codec.quantizer import ResidualVectorQuantizer

STEPS = 50
FREE, BEGIN = 2, 6  # 12 vectors a step; 48 are wanted
MOVED = 20  # the latents are elsewhere from this step on, and what they used before dies
SHARES = {"halves": (2, 2), "uneven": (3, 1)}  # items of each process


def latents_of(step):
    """[4, 4, 3]."""
    latents = torch.randn(4, 4, 3, generator=torch.Generator().manual_seed(step))
    return latents * 0.5 + (4.0 if step >= MOVED else 0.0)


def train(share=slice(None)):
    """What happened at each step, in a process that has this part of the items."""
    quantizer = ResidualVectorQuantizer(3, 24, 4).train()
    quantizer.follow(decay=0.8, free_steps=FREE, seed=5)
    steps = []
    for step in range(1, STEPS + 1):
        with CountedMessages() as messages:
            output = quantizer(latents_of(step)[share])
        steps.append(
            {
                "codes": output.codes,
                "counts": quantizer.counts,
                "buffers": {name: tensor.clone() for name, tensor in quantizer.state_dict().items()},
                "state": quantizer.training_state(),
                "messages": messages.count,
            }
        )
    quantizer.eval()(latents_of(0)[share])
    return steps, quantizer.counts


class CountedMessages:
    """Counts collective calls within it."""

    def __enter__(self):
        self.count, self.kept = 0, {name: getattr(dist, name) for name in ("all_reduce", "all_gather", "broadcast")}
        for name, function in self.kept.items():
            setattr(dist, name, self.counting(function))
        return self

    def counting(self, function):
        @wraps(function)
        def call(*args, **kwargs):
            self.count += 1
            return function(*args, **kwargs)

        return call

    def __exit__(self, *failure):
        for name, function in self.kept.items():
            setattr(dist, name, function)


def _share(rank, folder):
    torch.set_num_threads(1)
    meet, patience = f"file://{folder}/meet", timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=2, timeout=patience)
    torch.manual_seed(rank)  # the processes' own randomness differs, and must not matter
    made = {}
    for name, items in SHARES.items():
        made[name] = train(slice(0, items[0]) if rank == 0 else slice(items[0], None))
    rows = torch.arange(3.0)[: 3 - 2 * rank, None] + 10 * rank
    made["gathered"] = ranks.gather(rows)
    made["place"] = torch.stack(ranks.place(len(rows), rows.device))
    torch.save(made, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def revivals(steps):
    """(step, codebook, entry) of every entry that nothing chose and whose size grew nevertheless."""
    found = []
    for number, (before, after) in enumerate(zip(steps[BEGIN:], steps[BEGIN + 1 :], strict=False), BEGIN + 2):
        for k in range(3):
            size = f"codebooks.{k}.size"
            grown = (after["buffers"][size] > before["buffers"][size]) & (after["counts"][k] == 0)
            found += [(number, k, e) for e in grown.nonzero()[:, 0].tolist()]
    return found


def test_two_processes_train_the_codebooks_of_one(tmp_path):
    other = mp.get_context("spawn").Process(target=_share, args=(1, str(tmp_path)))
    other.start()
    _share(0, str(tmp_path))  # this process is the other one's peer: one cold start instead of two
    other.join(60)
    assert other.exitcode == 0
    both = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    whole, whole_counts = train()
    for name in SHARES:
        (first, first_counts), (second, second_counts) = (made[name] for made in both)
        for step, (alone, one, two) in enumerate(zip(whole, first, second, strict=True), 1):
            assert_same(alone, one, two, step)
        assert torch.equal(first_counts + second_counts, whole_counts)  # in evaluation each counts its own
    assert_revived(whole)
    for rank, made in enumerate(both):
        assert made["gathered"].flatten().tolist() == [0, 1, 2, 10]
        assert made["place"].tolist() == [3 * rank, 4]


def assert_same(alone, one, two, step):
    """One step of one process, and of each of the two."""
    assert torch.equal(torch.cat([one["codes"], two["codes"]]), alone["codes"])
    for key in ("counts", "buffers", "state"):
        assert_equal(one[key], two[key])
    assert torch.equal(one["counts"], alone["counts"])
    assert alone["buffers"]["initialised"] == (step >= BEGIN)
    for name, tensor in alone["buffers"].items():
        torch.testing.assert_close(one["buffers"][name], tensor, atol=1e-5, rtol=1e-5)
    # What one of the processes saves, one process could go on from.
    assert_equal(one["state"], alone["state"])
    assert len(alone["state"]["gathered"]) == (12 * (step - FREE) if FREE < step < BEGIN else 0)
    if step > BEGIN:
        assert alone["messages"] == 0
        assert one["messages"] == two["messages"] == 2  # how many vectors each has, and all that entries received


def assert_equal(ours, theirs):
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert_equal(ours[key], theirs[key])
    else:
        assert torch.equal(torch.as_tensor(ours), torch.as_tensor(theirs))


def assert_revived(whole):
    """Entries died, and became vectors of the batch, of either process's part."""
    found = revivals(whole)
    assert {k for _, k, _ in found} == {0, 1, 2}
    parts = set()
    for step, k, entry in found:
        if k == 0:  # its vectors are the latents themselves
            vectors = latents_of(step).transpose(1, 2).flatten(0, 1)
            distance = (vectors - whole[step - 1]["buffers"]["codebooks.0.entries"][entry]).norm(dim=1)
            assert distance.min() < 1e-5
            parts.add(int(distance.argmin()) // 6)
    assert parts == {0, 1}
