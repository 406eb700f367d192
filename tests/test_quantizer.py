"""Residual vector quantization, against brute force and hand loops."""

import pytest
import torch

from lightning_modules.codec.quantizer import Codebook, ResidualVectorQuantizer


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
    book.initialise(vectors)
    distance = torch.cdist(centres, book.entries).min(1).values
    assert (distance < 0.1).all()
    assert (vectors - book.lookup(book.nearest(vectors))).norm(dim=1).max() < 0.5
    torch.testing.assert_close(book.total / book.size[:, None], book.entries)


def test_kmeans_is_a_fixed_point_of_lloyds_algorithm():
    vectors = torch.rand(200, 2)
    book = Codebook(5, 2)
    book.initialise(vectors)
    codes = torch.cdist(vectors, book.entries).argmin(1)
    means = torch.stack([vectors[codes == e].mean(0) for e in range(5)])
    torch.testing.assert_close(book.entries, means, atol=1e-3, rtol=0)


def test_moving_averages_equal_a_loop():
    book = book_of(3, 2)
    book.decay = 0.9
    size, total = book.size.clone(), book.total.clone()
    for step in range(5):
        vectors = torch.randn(30, 2, generator=torch.Generator().manual_seed(step))
        codes = torch.arange(30) % 3
        book.update(vectors, codes)
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
        book.update(vectors, codes)
        if book.size[3] > before:
            revived_at = step
            break
    assert revived_at is not None
    torch.testing.assert_close(book.total[3] / book.size[3], book.entries[3])
    assert (torch.cdist(book.entries[3:], vectors) < 1e-4).any()  # it is one of the batch's vectors
    assert book.size[3] > 0.2 * book.size.mean()  # and is not declared dead again at once
    entry = book.entries[3].clone()
    book.update(vectors, codes)
    torch.testing.assert_close(book.entries[3], entry)


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


def test_evaluation_changes_nothing():
    quantizer = quantizer_of().eval()
    before = {name: tensor.clone() for name, tensor in quantizer.state_dict().items()}
    quantizer(torch.randn(2, 4, 50))
    assert all(torch.equal(tensor, before[name]) for name, tensor in quantizer.state_dict().items())
