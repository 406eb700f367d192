"""Residual vector quantization, against brute force and hand loops."""

import pytest
import torch

from datamodules.sample_order import derived_seed
from lightning_modules.codec.quantizer import Codebook, ResidualVectorQuantizer, spread_positions


@pytest.fixture(autouse=True)
def fixed_draws():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def book_of(entries, dim=4):
    book = Codebook(entries, dim)
    book.entries.copy_(torch.randn(entries, dim))
    book.size.fill_(1)
    book.total.copy_(book.entries)
    return book


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def quantizer_of(codebooks=3, entries=8, dim=4):
    quantizer = ResidualVectorQuantizer(codebooks, entries, dim)
    for k, book in enumerate(quantizer.codebooks):
        book.entries.copy_(torch.randn(entries, dim) / 2**k)
        book.size.fill_(1)
        book.total.copy_(book.entries)
    quantizer.initialised.fill_(True)
    return quantizer


def test_nearest_equals_brute_force(monkeypatch):
    book, vectors = book_of(16), torch.randn(300, 4)
    wanted = torch.cdist(vectors.double(), book.entries.double()).argmin(1)
    assert torch.equal(book.nearest(vectors), wanted)
    monkeypatch.setattr("lightning_modules.codec.quantizer._CHUNK", 7)
    assert torch.equal(book.nearest(vectors), wanted)


def test_encode_and_decode_equal_a_loop():
    quantizer = quantizer_of()
    latents = torch.randn(2, 4, 5)
    codes, decoded = quantizer.encode(latents), None
    wanted = torch.zeros(2, 4, 5)
    for b in range(2):
        for t in range(5):
            residual = latents[b, :, t]
            for k, book in enumerate(quantizer.codebooks):
                choice = (book.entries - residual).square().sum(1).argmin()
                assert codes[b, k, t] == choice
                wanted[b, :, t] += book.entries[choice]
                residual = residual - book.entries[choice]
    decoded = quantizer.decode(codes)
    torch.testing.assert_close(decoded, wanted)


def test_training_pass_equals_encode_and_commits():
    quantizer = quantizer_of().eval()
    latents = torch.randn(2, 4, 5, requires_grad=True)
    output = quantizer(latents)
    assert torch.equal(output.codes, quantizer.encode(latents))
    torch.testing.assert_close(output.latents, quantizer.decode(output.codes))
    residual, losses = latents.detach(), []
    for k in range(3):
        residual = residual - quantizer.codebooks[k].lookup(output.codes[:, k]).transpose(1, 2)
        losses.append(residual.square().mean())
    torch.testing.assert_close(output.commitment, torch.stack(losses).mean())
    # Straight through: the gradient of the quantized latents is the latents' own.
    weights = torch.randn(2, 4, 5)
    (gradient,) = torch.autograd.grad((output.latents * weights).sum(), latents, retain_graph=True)
    torch.testing.assert_close(gradient, weights)
    # The commitment pulls the latents towards every codebook's choice: d/dx of the mean of |x - q_1..k|^2.
    (pull,) = torch.autograd.grad(output.commitment, latents)
    sums = torch.stack([quantizer.codebooks[k].lookup(output.codes[:, k]).transpose(1, 2) for k in range(3)]).cumsum(0)
    torch.testing.assert_close(pull, (2 * (latents - sums) / latents.numel()).mean(0).detach())


def test_kmeans_finds_clusters():
    centres = torch.eye(6) * 20
    vectors = (centres[:, None] + 0.05 * torch.randn(6, 40, 6)).flatten(0, 1)
    book = Codebook(24, 6)  # k-means may leave a cluster without a start; with four starts each it will not
    book.initialise(vectors, draws())
    distance = torch.cdist(centres, book.entries).min(1).values
    assert (distance < 0.1).all()
    assert (vectors - book.lookup(book.nearest(vectors))).norm(dim=1).max() < 0.5
    torch.testing.assert_close(book.total / book.size[:, None], book.entries)


def test_kmeans_is_a_fixed_point_of_lloyds_algorithm():
    vectors = torch.rand(200, 2)
    book = Codebook(5, 2)
    book.initialise(vectors, draws())
    codes = torch.cdist(vectors, book.entries).argmin(1)
    means = torch.stack([vectors[codes == e].mean(0) for e in range(5)])
    torch.testing.assert_close(book.entries, means, atol=1e-3, rtol=0)


def test_moving_averages_equal_a_loop():
    book = book_of(3, 2)
    book.decay = 0.9
    size, total = book.size.clone(), book.total.clone()
    for step in range(5):
        vectors = torch.randn(30, 2, generator=draws(step))
        codes = torch.arange(30) % 3
        book.update(*book.assigned(vectors, codes), vectors[:3])
        for e in range(3):
            mine = vectors[codes == e]
            size[e] = 0.9 * size[e] + 0.1 * len(mine)
            total[e] = 0.9 * total[e] + 0.1 * mine.sum(0)
    torch.testing.assert_close(book.size, size)
    torch.testing.assert_close(book.total, total)
    torch.testing.assert_close(book.entries, total / size[:, None])


def test_dead_entries_come_back_with_fresh_statistics():
    book = book_of(4, 2)
    vectors = torch.randn(40, 2) + 5
    codes = torch.arange(40) % 3  # entry 3 receives nothing
    revived_at = None
    for step in range(1000):
        before = book.size[3].item()
        book.update(*book.assigned(vectors, codes), vectors[:4])
        if book.size[3] > before:
            revived_at = step
            break
    assert revived_at is not None
    torch.testing.assert_close(book.total[3] / book.size[3], book.entries[3])
    torch.testing.assert_close(book.entries[3], vectors[3])
    assert book.size[3] > 0.2 * book.size.mean()  # and is not declared dead again at once
    entry = book.entries[3].clone()
    book.update(*book.assigned(vectors, codes), vectors[:4])
    torch.testing.assert_close(book.entries[3], entry)


def test_spread_positions_are_a_fair_draw():
    for count, total in ((8, 8), (8, 9), (8, 1000), (2048, 3200)):
        places = spread_positions(count, torch.tensor(total), draws())
        assert len(places.unique()) == count
        assert 0 <= places.min() <= places.max() < total
    few = spread_positions(8, torch.tensor(3), draws())
    assert few.bincount().tolist() in ([3, 3, 2], [3, 2, 3], [2, 3, 3])
    # Every position as often as every other, for every entry: 8 of 20 positions, 4000 times.
    many = torch.stack([spread_positions(8, torch.tensor(20), draws(seed)) for seed in range(4000)])
    for places in (many, many[:, 0], many[:, 7]):
        expected = places.numel() / 20
        assert (places.flatten().bincount(minlength=20) - expected).abs().max() < 5 * expected**0.5


def slow_step(books, latents, seed, step):
    """A training step as one would write it down: one codebook after another, each moved at once; entry by entry."""
    residual = latents.transpose(1, 2).reshape(-1, latents.shape[1])
    everything, revived = [], 0
    for k, book in enumerate(books):
        codes = (residual @ book["entries"].T - book["entries"].square().sum(1) / 2).argmax(1)
        everything.append(codes)
        left = residual - book["entries"][codes]
        size, total = torch.zeros_like(book["size"]), torch.zeros_like(book["total"])
        for vector, code in zip(residual, codes, strict=True):
            size[code] += 1
            total[code] += vector
        book["size"] = torch.lerp(book["size"], size, 1 - book["decay"])
        book["total"] = torch.lerp(book["total"], total, 1 - book["decay"])
        generator = draws(derived_seed(seed, step, k, "revival"))
        order = torch.randperm(len(size), generator=generator).tolist()
        offset = torch.randint(2**20, (), generator=generator).item() / 2**20
        mean = book["size"].mean()
        for e in range(len(size)):
            if book["size"][e] < mean / 4:
                book["size"][e] = mean
                book["total"][e] = residual[int((order[e] + offset) * len(residual) / len(size))] * mean
                revived += 1
        book["entries"] = book["total"] / book["size"][:, None]
        residual = left
    return torch.stack(everything).view(len(books), len(latents), -1).transpose(0, 1), revived


def test_training_steps_equal_a_loop_bit_for_bit():
    quantizer = quantizer_of().train()
    quantizer.follow(decay=0.8, free_steps=0, seed=7)
    books = [{**{n: t.clone() for n, t in book.named_buffers()}, "decay": 0.8} for book in quantizer.codebooks]
    revivals = 0
    for step in range(1, 41):
        # Half-way the latents move elsewhere: what they used before dies.
        latents = torch.randn(4, 4, 5) * 0.3 + (3.0 if step > 20 else 0.0)
        codes, revived = slow_step(books, latents, 7, step)
        assert torch.equal(quantizer(latents).codes, codes)
        revivals += revived
        for slow, book in zip(books, quantizer.codebooks, strict=True):
            assert all(torch.equal(tensor, slow[name]) for name, tensor in book.named_buffers())
    assert revivals > 10


@pytest.mark.parametrize("training", [True, False])
def test_counts_say_how_often_each_entry_was_chosen(training):
    quantizer = quantizer_of().train(training)
    codes = quantizer(torch.randn(2, 4, 50)).codes
    wanted = torch.stack([codes[:, k].flatten().bincount(minlength=8) for k in range(3)])
    assert torch.equal(quantizer.counts, wanted)
    assert quantizer.counts.dtype == torch.int64
    quantizer.initialised.fill_(False)
    quantizer.train()(torch.randn(1, 4, 5))  # too few to begin with: they pass unquantized
    assert quantizer.counts.shape == (3, 8)
    assert not quantizer.counts.any()


def test_small_batches_are_gathered_before_the_codebooks_begin():
    quantizer = ResidualVectorQuantizer(2, 16, 4).train()
    for _ in range(3):  # 9 vectors each; 32 are wanted
        output = quantizer(torch.randn(1, 4, 9, requires_grad=True))
        assert not quantizer.initialised
        assert output.commitment == 0
    latents = torch.randn(1, 4, 9)
    assert torch.equal(quantizer(latents).latents, latents) is False
    assert quantizer.initialised
    for book in quantizer.codebooks:
        assert len(book.entries.unique(dim=0)) > 8


def test_free_steps_pass_unquantized_and_are_not_gathered():
    quantizer = ResidualVectorQuantizer(1, 4, 2).train()
    quantizer.follow(decay=0.5, free_steps=2)
    assert quantizer.codebooks[0].decay == 0.5
    for _ in range(2):
        latents = torch.full((1, 2, 50), 100.0)
        assert torch.equal(quantizer(latents).latents, latents)
    quantizer(torch.randn(1, 2, 50))
    assert quantizer.initialised
    assert quantizer.codebooks[0].entries.abs().max() < 10


def latents_of(step):
    """Ten vectors a step, which move elsewhere at step 20."""
    return torch.randn(2, 4, 5, generator=draws(step)) * 0.5 + (4.0 if step > 20 else 0.0)


def fresh_quantizer(seed=3):
    quantizer = ResidualVectorQuantizer(3, 8, 4).train()
    quantizer.follow(decay=0.8, free_steps=3, seed=seed)
    return quantizer


def trained(quantizer, first, last):
    """Codes of each step, and all buffers after the last."""
    codes = [quantizer(latents_of(step)).codes for step in range(first, last + 1)]
    return codes, {name: tensor.clone() for name, tensor in quantizer.state_dict().items()}


# Free, just before the gathering, in the middle of it, just begun, before and after entries died.
@pytest.mark.parametrize("interrupted_after", [1, 3, 4, 5, 20, 33])
def test_a_resumed_training_repeats_the_uninterrupted_one(tmp_path, interrupted_after):
    codes, state = trained(fresh_quantizer(), 1, 45)
    torch.manual_seed(1)
    first = fresh_quantizer()
    begun = trained(first, 1, interrupted_after)[0]
    assert first.initialised == (interrupted_after > 4)
    assert len(first.training_state()["gathered"]) == (10 if interrupted_after == 4 else 0)
    torch.save({"weights": first.state_dict(), "training": first.training_state()}, tmp_path / "checkpoint")
    trained(first, interrupted_after + 1, 45)  # what is saved does not change any more

    saved = torch.load(tmp_path / "checkpoint", weights_only=True)
    torch.manual_seed(2)
    second = fresh_quantizer()
    second.load_state_dict(saved["weights"])
    second.load_training_state(saved["training"])
    again = second.training_state()
    assert again.keys() == saved["training"].keys()
    assert all(torch.equal(torch.as_tensor(again[name]), torch.as_tensor(saved["training"][name])) for name in again)
    rest, resumed = trained(second, interrupted_after + 1, 45)
    assert all(torch.equal(one, other) for one, other in zip(codes, begun + rest, strict=True))
    assert all(torch.equal(tensor, state[name]) for name, tensor in resumed.items())


def test_draws_depend_on_the_seed_and_on_nothing_else():
    before = torch.get_rng_state()
    one, other, another = (trained(fresh_quantizer(seed), 1, 45)[1] for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    assert not torch.equal(one["codebooks.0.entries"], another["codebooks.0.entries"])


def test_nothing_of_the_training_is_exported():
    quantizer = fresh_quantizer()
    trained(quantizer, 1, 10)
    books = [f"codebooks.{k}.{name}" for k in range(3) for name in ("entries", "size", "total")]
    assert set(quantizer.state_dict()) == {"initialised", *books}
    assert len(dict(quantizer.named_buffers())) == 10  # no more that a meta device would leave without values


def test_evaluation_changes_nothing():
    quantizer = quantizer_of().eval()
    before = {name: tensor.clone() for name, tensor in quantizer.state_dict().items()}
    quantizer(torch.randn(2, 4, 50))
    assert all(torch.equal(tensor, before[name]) for name, tensor in quantizer.state_dict().items())
