"""The embedded judge: padding, files, learning."""

import os

import pytest
import torch
import yaml
from evaluation_clips import random_judge, sine

from datamodules.batches import AudioBatch
from datamodules.errors import InputError
from evaluation.judges import Judge, resolve_judge
from evaluation.judges.embedded import EmbeddedJudge, JudgeConfig, load_judge
from evaluation.judges.labels import build_labels, label_targets
from evaluation.judges.training import JudgeTraining, faded_cosine
from lightning_modules.codec.folder import load_codec
from lightning_modules.codec.passing import CodecPass


@pytest.fixture
def judge(tmp_path):
    return load_judge(random_judge(tmp_path / "judge"))


def test_it_keeps_the_contract(judge):
    assert isinstance(judge, Judge)
    wav, lengths = torch.randn(3, 1, 60_000), torch.tensor([60_000, 30_000, 2_000])
    heard = judge.embed_audio(wav, lengths)
    windows = [1 + max(0, (n - judge.config.window_samples) // judge.config.hop_samples) for n in lengths.tolist()]
    assert heard.embeddings.shape == (3, max(windows), 16)
    assert heard.mask.sum(1).tolist() == windows
    assert heard.logits.shape == (3, 3)
    assert heard.clips().shape == (3, 16)
    assert [len(clip) for clip in heard.windows()] == windows
    assert judge.embed_text(["slow strings", ""]).shape == (2, 16)


def test_padding_and_neighbours_never_count(judge):
    generator = torch.Generator().manual_seed(0)
    clips = [torch.randn(length, generator=generator) for length in (70_000, 33_333, 5_000)]
    lengths = torch.tensor([len(clip) for clip in clips])
    for padding in (0.0, 9.0):
        batch = torch.full((3, 1, 80_000), padding)
        for row, clip in zip(batch, clips, strict=True):
            row[0, : len(clip)] = clip
        together = judge.embed_audio(batch, lengths)
        for row, clip in enumerate(clips):
            alone = judge.embed_audio(clip[None, None], lengths[row : row + 1])
            torch.testing.assert_close(together.windows()[row], alone.windows()[0], atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(together.logits[row], alone.logits[0], atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(together.clips()[row], alone.clips()[0], atol=1e-5, rtol=1e-4)


def test_text_is_read_word_by_word(judge):
    one, same, other = judge.embed_text(["Slow strings, and a flute", "slow strings and a flute", "fast drums"])
    torch.testing.assert_close(one, same)
    assert float(one @ other) < 0.999
    assert judge.embed_text(["", "!?"]).isfinite().all()


def test_it_survives_its_folder(tmp_path):
    judge = EmbeddedJudge(JudgeConfig(labels=("family:a", "drums"), channels=(8, 16), dim=16, buckets=64)).eval()
    judge.save(tmp_path / "a")
    again = load_judge(tmp_path / "a")
    assert again.checksum == judge.checksum
    assert again.config == judge.config
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["config.yaml", "model.safetensors"]
    wav, lengths = torch.randn(1, 1, 40_000), torch.tensor([40_000])
    assert torch.equal(again.embed_audio(wav, lengths).embeddings, judge.embed_audio(wav, lengths).embeddings)
    assert torch.equal(again.embed_text(["a b"]), judge.embed_text(["a b"]))
    again.save(tmp_path / "b")
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()


def test_wrong_folders_are_refused(tmp_path):
    folder = random_judge(tmp_path / "judge")
    weights = folder / "model.safetensors"
    config = yaml.safe_load((folder / "config.yaml").read_text())
    for content, complaint in (
        ({**config, "dim": 24}, "not the weights"),
        ({**config, "surprise": 1}, "surprise"),
        ({**config, "format": "else"}, "format"),
        ([1, 2], "format"),
    ):
        (folder / "config.yaml").write_text(yaml.safe_dump(content))
        with pytest.raises(InputError, match=complaint):
            load_judge(folder)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    weights.write_bytes(os.urandom(100))
    with pytest.raises(InputError, match="not the weights"):
        load_judge(folder)
    weights.unlink()
    with pytest.raises(InputError, match=r"no model\.safetensors"):
        load_judge(folder)
    with pytest.raises(InputError, match=r"no config\.yaml"):
        resolve_judge(tmp_path / "nowhere")


def test_misshapen_audio_is_refused(judge):
    with pytest.raises(InputError, match="mono"):
        judge.embed_audio(torch.randn(1, 2, 9000), torch.tensor([9000]))
    with pytest.raises(InputError, match="too short"):
        judge.embed_audio(torch.randn(1, 1, 9000), torch.tensor([10]))


def test_labels_from_facts():
    labels = build_labels(["flute", "piano"], ["Bach"])
    assert labels == (
        "family:flute", "family:piano", "drums", "tempo:slow", "tempo:medium", "tempo:fast", "collection:Bach",
    )  # fmt: skip
    facts = [{"families": ["piano", "drums"], "drums": True, "bpm": 130.0, "collection": "Bach"}, {"bpm": 60}, {}]
    targets, known = label_targets(labels, facts)
    assert targets.int().tolist() == [[0, 1, 1, 0, 0, 1, 1], [0, 0, 0, 1, 0, 0, 0], [0] * 7]
    assert known.int().tolist() == [[1] * 7, [0, 0, 0, 1, 1, 1, 0], [0] * 7]
    with pytest.raises(InputError, match="family:kazoo"):
        label_targets(labels, [{"families": ["kazoo"]}])


def synthetic_batch(size, generator):
    """Low and high tones, steady or beaten; the caption and the facts say which."""
    audio, captions, facts = torch.zeros(size, 1, 16_000), [], []
    for row in range(size):
        high, beaten = (int(torch.randint(2, (), generator=generator)) for _ in range(2))
        wav = sine(45 + 36 * high + float(torch.rand((), generator=generator)), 1.0)
        if beaten:
            wav = wav * (torch.arange(16_000) % 2000 < 400)
        audio[row] = wav + 0.01 * torch.randn(wav.shape, generator=generator)
        captions.append(f"{'high' if high else 'low'} {'beaten' if beaten else 'steady'}")
        facts.append({"families": ["flute" if high else "bass"], "drums": bool(beaten)})
    numbers = torch.arange(size)
    return AudioBatch(audio, torch.full((size,), 16_000), captions, numbers, [f"track {n}" for n in numbers], facts)


class Batches(torch.utils.data.Dataset):
    def __init__(self, count, seed):
        generator = torch.Generator().manual_seed(seed)
        self.batches = [synthetic_batch(16, generator) for _ in range(count)]

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


def test_training_learns_and_exports(tmp_path):
    from lightning import Trainer, seed_everything

    seed_everything(0)
    module = JudgeTraining(
        crop_rate=16_000,
        families=["bass", "flute"],
        collections=[],
        channels=[8, 16, 16, 32],
        dim=32,
        warmup_steps=3,
    )
    losses = []
    module.on_train_batch_end = lambda outputs, batch, index: losses.append(float(outputs["loss"]))
    trainer = Trainer(
        max_steps=30,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    loaders = [torch.utils.data.DataLoader(Batches(count, seed), batch_size=None) for count, seed in ((30, 0), (2, 1))]
    trainer.fit(module, *loaders)
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    logged = trainer.callback_metrics
    assert float(logged["valid/family_f1"]) > 0.8
    assert float(logged["valid/drums_accuracy"]) > 0.8
    assert float(logged["valid/recall_at_1"]) > 0.6
    module.export(tmp_path / "judge")
    assert load_judge(tmp_path / "judge").checksum == module.judge.checksum


def test_training_may_begin_with_a_judge(tmp_path):
    shape = {"families": ["bass", "flute"], "collections": [], "channels": [8], "dim": 8}
    first = JudgeTraining(**shape)
    first.export(tmp_path / "judge")
    second = JudgeTraining(**shape, start_from=str(tmp_path / "judge"))
    for one, other in zip(first.judge.state_dict().values(), second.judge.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert all(parameter.requires_grad for parameter in second.judge.parameters())
    with pytest.raises(InputError, match="shape that are to be trained"):
        JudgeTraining(**(shape | {"dim": 16}), start_from=str(tmp_path / "judge"))


class Halving(torch.nn.Module):
    """Stands for a codec, and remembers what passed."""

    def __init__(self):
        super().__init__()
        self.passed = []

    def forward(self, wav):
        self.passed.append(wav.clone())
        return 0.5 * wav


def test_a_share_of_the_clips_passes_through_the_codec_and_the_judge_is_told_which():
    coder = Halving()
    module = JudgeTraining(
        crop_rate=16_000, families=["bass", "flute"], collections=[], channels=[8], dim=8, coder=coder, coded=0.4
    )
    assert not [name for name, _ in module.named_parameters() if "coder" in name]
    batch = synthetic_batch(64, torch.Generator().manual_seed(0))
    before = batch.audio.clone()
    coded = module._code(batch)
    assert 10 < int(coded.sum()) < 40
    torch.testing.assert_close(batch.audio[coded], 0.5 * before[coded])
    assert torch.equal(batch.audio[~coded], before[~coded])
    assert torch.equal(coder.passed[0], before[coded])
    again = synthetic_batch(64, torch.Generator().manual_seed(0))
    assert torch.equal(module._code(again), coded)
    with pytest.raises(InputError, match="coder"):
        JudgeTraining(coded=0.5)


def test_clips_that_are_mixed_have_the_labels_of_both():
    module = JudgeTraining(
        crop_rate=16_000, families=["bass", "flute"], collections=["A"], channels=[8], dim=8, mixed=0.5
    )
    batch, before = (synthetic_batch(64, torch.Generator().manual_seed(0)) for _ in range(2))
    for row in range(0, 64, 3):  # tracks that do not say whether there are drums
        batch.facts[row] = {name: value for name, value in batch.facts[row].items() if name != "drums"}
    targets, known = module._targets(batch)
    own, asked = targets.clone(), known.clone()
    mixed = module._mix(batch, targets, known)
    assert 20 < int(mixed.sum()) < 44
    for row in range(64):
        other = (row - 1) % 64
        if not mixed[row]:
            assert torch.equal(batch.audio[row], before.audio[row])
            assert torch.equal(targets[row], own[row])
            assert torch.equal(known[row], asked[row])
            continue
        added = batch.audio[row] - before.audio[row]
        gain = float((added * before.audio[other]).sum() / before.audio[other].square().sum())
        assert 0.5 <= gain <= 1
        torch.testing.assert_close(added, gain * before.audio[other], atol=1e-4, rtol=1e-4)
        for place, label in enumerate(module.judge.labels):
            told = label.startswith(("family", "drums", "instrument"))
            assert bool(known[row, place]) == (told and bool(asked[row, place] & asked[other, place]))
            if told:
                assert bool(targets[row, place]) == bool(own[row, place] or own[other, place])
    # Nobody describes a mixture: captions are compared among the other clips.
    heard = module._listen(module._wave(batch), batch)
    _, cosines = module._contrastive(heard, batch, ~mixed)
    assert len(cosines) == int((~mixed).sum())
    assert torch.isfinite(module._contrastive(heard, batch, ~mixed)[0])
    everyone = JudgeTraining(crop_rate=16_000, families=["bass", "flute"], channels=[8], dim=8, mixed=1.0)
    assert int((~everyone._mix(batch, *everyone._targets(batch))).sum()) == 1


def test_cosines_are_to_fall_with_wear():
    wear = torch.tensor([[0.0, 0.0, 0.0], [0.2, 0.0, 0.0], [0.2, 0.0, 0.3], [1.0, 1.0, 1.0]])
    torch.testing.assert_close(faded_cosine(wear), torch.tensor([0.8, 0.72, 0.6, 0.4]))


def test_a_codec_pass_is_encoding_and_decoding():
    codec = load_codec("embedded")
    wav = 0.1 * torch.randn(2, 1, 5000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(CodecPass("embedded")(wav), codec.decode(codec.encode(wav))[..., :5000])


def test_training_without_an_end_is_refused():
    from lightning import Trainer

    module = JudgeTraining(families=["bass", "flute"], collections=[], channels=[8], dim=8)
    module.trainer = Trainer(max_steps=-1, logger=False, accelerator="cpu", enable_checkpointing=False)
    with pytest.raises(InputError, match="max_steps"):
        module.configure_optimizers()
