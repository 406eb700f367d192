"""What a judge's card says, and the views it was trained on."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from datamodules.errors import InputError
from datamodules.manifest import Track, read_manifest
from evaluation.judges.contract import AudioEmbeddings
from evaluation.judges.labels import build_labels, label_targets
from evaluation.judges.views import WEAR, worn_views
from experiments.judges.accuracy import judge_accuracy
from experiments.judges.card import card_lines, out_of_order
from experiments.judges.distances import distances
from experiments.recipes import judge_card_stages

RATE = 1000
PLAYERS = ("flute", "piano", "cello")


# ---- views -----------------------------------------------------------------------------------------------------------
@pytest.fixture
def clips():
    return 0.2 * torch.randn(24, 16_000, generator=torch.Generator().manual_seed(0))


def test_a_view_depends_on_its_number_alone(clips):
    numbers = torch.arange(24)
    together, wear = worn_views(clips, numbers, sample_rate=16_000, share=0.7, seed=3)
    for row in (0, 7, 23):
        alone, worn = worn_views(clips[row : row + 1], numbers[row : row + 1], sample_rate=16_000, share=0.7, seed=3)
        torch.testing.assert_close(alone[0], together[row])
        torch.testing.assert_close(worn[0], wear[row])
    assert not torch.equal(worn_views(clips, numbers, sample_rate=16_000, share=0.7, seed=4)[0], together)
    assert together.isfinite().all()
    assert ((wear >= 0) & (wear <= 1)).all()


def test_without_views_only_the_gain_changes(clips):
    views, wear = worn_views(clips, torch.arange(24), sample_rate=16_000, share=0.0)
    gains = views / clips
    assert wear.abs().max() == 0
    assert (gains - gains[:, :1]).abs().max() < 1e-4
    decibels = 20 * gains[:, 0].log10()
    assert -9.01 < decibels.min() < -3 < 3 < decibels.max() < 9.01


def test_wear_is_heard_as_told(clips):
    numbers = torch.arange(400)
    many = clips[:1].expand(400, -1)
    views, wear = worn_views(many, numbers, sample_rate=16_000, share=1.0)
    spectra = torch.fft.rfft(views).abs() ** 2
    treble = spectra[:, 7000:].sum(1) / spectra[:, 300:900].sum(1)
    dull, quiet = wear[:, WEAR.index("low-pass")], wear[:, WEAR.index("noise")] == 0
    assert treble[(dull > 0.5) & quiet].max() < 1e-3 < treble[dull == 0].median()
    for kind in range(len(WEAR)):
        assert 0.3 < (wear[:, kind] > 0).double().mean() < 0.5
    clean = views[(wear == 0).all(1)]
    assert len(clean) > 20


# ---- accuracy --------------------------------------------------------------------------------------------------------
class Knowing:
    """A judge that reads facts out of the clips, in which they are written as levels, and gets a share wrong."""

    name, checksum, sample_rate, window, hop, shortest = "knowing", "0" * 64, RATE, 1.0, 1.0, 1
    labels = build_labels(PLAYERS, ("A", "B"), PLAYERS)

    def __init__(self, facts, mistaken=()):
        self.facts, self.mistaken = facts, mistaken

    def embed_audio(self, wav, lengths):
        embeddings, logits = [], []
        for clip in wav[:, 0]:
            row = round(float(clip[0]) * 1000)
            fact = self.facts[(row + 7) % len(self.facts)] if row in self.mistaken else self.facts[row]
            logits.append(20 * label_targets(self.labels, [fact])[0][0] - 10)
            embeddings.append(self._space(fact) + 1e-3 * torch.randn(4, 16))
        mask = torch.ones(len(wav), 4, dtype=torch.bool)
        return AudioEmbeddings(torch.stack(embeddings), torch.stack(logits)[:, None].expand(-1, 4, -1), mask)

    def embed_text(self, captions):
        return torch.stack([self._space(json.loads(caption)) for caption in captions])

    def _space(self, fact):
        generator = torch.Generator().manual_seed(hash((*fact["instruments"], fact["bpm"])) % 2**31)
        return torch.nn.functional.normalize(torch.randn(16, generator=generator), dim=0)


def write_scores(folder, count=64):
    folder.mkdir()
    kinds = list(product(PLAYERS, (60, 100, 150), (True, False)))
    facts = []
    for row in range(count):
        player, bpm, drums = kinds[row % len(kinds)]
        facts.append(
            {"instruments": [player], "families": [player], "drums": drums, "bpm": bpm + row % 7,
             "collection": "AB"[row % 2], "caption_facts": ["bpm", "instruments"], "track": f"track {row}"}
        )  # fmt: skip
        soundfile.write(folder / f"{row}.wav", np.full(RATE, row / 1000), RATE, subtype="FLOAT")
    lines = [
        {
            "id": str(row),
            "path": f"{row}.wav",
            "duration": 1.0,
            "sample_rate": RATE,
            "caption": json.dumps(fact),
            **fact,
        }
        for row, fact in enumerate(facts)
    ]
    (folder / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return facts


def test_a_judge_that_knows_all_is_as_good_as_the_oracle(tmp_path):
    facts = write_scores(tmp_path / "scores")
    found = judge_accuracy(Knowing(facts), read_manifest(tmp_path / "scores"))
    assert found["n"] == found["tracks"] == 64
    assert {score["value"] for score in found["f1"].values()} == {1.0}
    assert {score["value"] for score in found["accuracy"].values()} == {1.0}
    # by hand: clips that share player and tempo cannot be told apart, and a caption states no more
    fits = [[all(a[key] == b[key] for key in ("instruments", "bpm")) for b in facts] for a in facts]
    assert 0.5 < found["oracle"]["value"] < 1
    assert found["oracle"]["value"] > np.mean([1 / sum(row) for row in fits])  # fewer of them among 32 than among 64
    assert found["recall"]["value"] == pytest.approx(found["oracle"]["value"], abs=0.06)


def test_mistakes_count(tmp_path):
    facts = write_scores(tmp_path / "scores")
    found = judge_accuracy(Knowing(facts, mistaken=range(0, 64, 4)), read_manifest(tmp_path / "scores"))
    said = [facts[(row + 7) % 64] if row % 4 == 0 else facts[row] for row in range(64)]
    right = np.array([a["families"] == b["families"] for a, b in zip(facts, said, strict=True)])
    assert found["f1"]["family"]["value"] == pytest.approx(right.mean())  # one label a clip: F1 is the share
    assert found["f1"]["family"]["low"] < right.mean() < found["f1"]["family"]["high"]
    drums = np.array([a["drums"] == b["drums"] for a, b in zip(facts, said, strict=True)])
    assert found["accuracy"]["drums"]["value"] == pytest.approx(drums.mean())
    assert found["recall"]["value"] < found["oracle"]["value"] - 0.1


def test_clips_without_facts_or_too_few_are_refused(tmp_path):
    facts = write_scores(tmp_path / "few", 20)
    with pytest.raises(InputError, match="needs as many tracks, not 20"):
        judge_accuracy(Knowing(facts), read_manifest(tmp_path / "few"))
    manifest = tmp_path / "few" / "manifest.jsonl"
    manifest.write_text(manifest.read_text().replace("caption_facts", "other"))
    with pytest.raises(InputError, match="does not say what plays"):
        judge_accuracy(Knowing(facts), read_manifest(tmp_path / "few"))


# ---- the card --------------------------------------------------------------------------------------------------------
def row(**values):
    return {
        "metrics": {key: {"value": value} for key, value in values.items()},
        "n": 3,
        "protocol": {"seconds": {"longest": 10.0}},
    }


def test_what_moves_the_wrong_way_is_named():
    rising = [row(fad=n, kld=n, clap=-n, chroma=-n) for n in range(4)]
    assert out_of_order("noise", rising) == []
    rising[2]["metrics"]["clap"]["value"] = 0.5
    assert out_of_order("noise", rising) == ["CLAP"]
    rising[3]["metrics"]["kld"]["value"] = 2  # no further than the row before
    assert out_of_order("noise", rising) == ["KL", "CLAP"]
    assert out_of_order("transpose", rising) == []


def test_the_card_is_made_of_the_stages_results(tmp_path):
    stages = judge_card_stages("embedded", "")
    fad = {"halves": 0.1, "collections": {}, "halves_at_infinity": -0.01}
    fad["collections_at_infinity"] = {"a - b": 0.3, "a - c": 0.1, "b - c": 0.2}
    accuracy = {"f1": {"family": {"value": 0.91, "low": 0.9, "high": 0.92}}, "fad": fad}
    for number, stage in enumerate(stages):
        if stage.name.startswith("accuracy"):
            (tmp_path / stage.result).write_text(json.dumps({**accuracy, "n": 5, "tracks": 4}))
        elif stage.name.startswith("evaluate"):
            (tmp_path / stage.result).write_text(json.dumps(row(fad=number, kld=number, clap=-number, chroma=0.5)))
    lines = card_lines(tmp_path, stages)
    assert lines[0] == "|  | as they are | through the codec |"
    assert "| instrument families, F1 | 0.910 (0.900 to 0.920) | 0.910 (0.900 to 0.920) |" in lines
    assert "| FAD without end of tracks, two collections: the median | 0.200 (b - c) | 0.200 (b - c) |" in lines
    assert sum(line.startswith("| noise") for line in lines) == 4
    assert any(line.endswith("| FAD, KL, CLAP: yes; Chroma: no |") for line in lines)
    assert all("OUT/" in stage.command for stage in stages)


def test_without_end_of_tracks_halves_are_one_and_collections_as_far_apart_as_they_are():
    """Windows in two Gaussian clouds, whose distance is known, and another collection of the first."""
    generator = torch.Generator().manual_seed(0)
    away = {"near": 0.0, "same": 0.0, "far": 2.0, "few": 9.0}
    counts = {"near": 120, "same": 90, "far": 60, "few": 19}
    names = [name for name, count in counts.items() for _ in range(count)]
    owners = [f"{name}{number}" for number, name in enumerate(names)]
    tracks = [Track(one, Path(), 1.0, 1, "", "", {"collection": name}) for one, name in zip(owners, names, strict=True)]
    windows = [torch.randn(2, 12, generator=generator) + torch.tensor([away[name]] + 11 * [0.0]) for name in names]
    found = distances(windows, tracks, owners)
    assert set(found.collections) == {"far - near", "far - same", "near - same"}
    assert abs(found.halves_at_infinity) < found.halves / 4
    for pair, wanted in {"far - near": 4.0, "far - same": 4.0, "near - same": 0.0}.items():
        assert abs(found.collections_at_infinity[pair] - wanted) < 0.5
        assert found.collections[pair] > wanted
    assert found.collections["near - same"] - max(0, found.collections_at_infinity["near - same"]) > 0.02
