"""The paper's tables in the small: rows compose, a grid is planned, runs and goes on, and verdicts are right."""

import json
import math

import numpy as np
import pytest
import tiny
import yaml
from foreign_models import t5_config, tokenizer
from scipy.stats import t as student
from test_clap import extractor, folder, model  # noqa: F401  fixtures

from datamodules.errors import InputError
from evaluation.published import published_tables
from experiments import __main__ as door
from experiments.ablations import rows as table
from experiments.ablations.grid import Settings, cell_of, cells, seeds_of
from experiments.ablations.page import DISCUSSION
from experiments.ablations.results import AGREES, DIFFERS, UNDECIDED, Figure, over_seeds, verdict
from experiments.ablations.rows import BASE, STUDIES, Pair, Row, Study, chosen
from experiments.ablations.running import LEAST_STEPS, Cost, plan, seconds_of
from experiments.compose import CONFIGS, layer_path, merged
from lightning_modules.codec.folder import save_codec

ALL = [(study, row) for study in STUDIES.values() for row in study.rows]
# Each recipe once: rows that share one are the same training.
RECIPES = {cell_of(study, row, 0, Settings()).training.key: (study, row) for study, row in reversed(ALL)}.values()


# ---- rows ------------------------------------------------------------------------------------------------------------
def test_every_file_is_a_rows_and_every_row_has_its_own():
    files = {path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.glob("ablation/*/*.yaml")}
    assert files == {study.layers(row)[-1] for study, row in ALL}
    for name in files:
        question, what, command = layer_path(name).read_text().splitlines()[:3]
        assert "MusicGen" in question, name
        assert what.startswith("# "), name
        assert f"make ablations STUDIES={name.split('/')[1]}" in command, name


def test_pairs_and_figures_are_of_rows_and_measures_that_there_are():
    for study in STUDIES.values():
        names = [row.name for row in study.rows]
        assert len(set(names)) == len(names)
        for pair in study.pairs:
            assert {pair.better, pair.worse} <= set(names)
            assert pair.measure in study.measures
        assert all((row.tier in (1, 2)) == (not row.missing) for row in study.rows)


def test_the_papers_figures_are_those_that_reports_show():
    published = {table.title: table.rows for table in published_tables()}
    for study, title in (("patterns", "comparison of patterns"), ("sizes", "comparison of sizes")):
        (rows,) = (rows for found, rows in published.items() if title in found)
        shown = [[row["values"].get(key) for key in ("fad", "kld", "clap", "perplexity")] for row in rows]
        ours = [[row.paper.get(key) for key in ("fad", "kld", "clap", "ppl")] for row in chosen([study])[0].rows]
        assert sorted(shown, key=str) == sorted(ours, key=str)


def test_the_papers_own_figures_agree_with_what_is_expected():
    """Where both rows of a pair have the paper's figure by that measure, it has to say the same."""
    compared = 0
    for study in STUDIES.values():
        by_name = {row.name: row.paper for row in study.rows}
        for pair in study.pairs:
            one, other = by_name[pair.better].get(pair.measure), by_name[pair.worse].get(pair.measure)
            if one is not None and other is not None and not pair.alike:
                compared += 1
                assert verdict(pair, Figure(one, one, one), Figure(other, other, other)) == AGREES, pair
    assert compared >= 12


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    """A tiny T5 with random weights, in the place of T5 and FLAN-T5."""
    import torch
    from transformers import T5EncoderModel

    place = tmp_path_factory.mktemp("t5")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        T5EncoderModel(t5_config()).save_pretrained(place)
    tokenizer().save_pretrained(place)
    return place


@pytest.mark.parametrize(("study", "row"), RECIPES, ids=[f"{study.name}-{row.name}" for study, row in RECIPES])
def test_every_row_trains_a_step(tmp_path, study, row, t5, folder):  # noqa: F811
    layers = study.layers(row)
    wanted = merged(list(layers))["model"]["init_args"]
    codebooks, melody, text = wanted["lm"]["codebooks"], wanted["melody"], wanted["text"]
    save_codec(tmp_path / "codec", made := tiny.codec(codebooks=codebooks, entries=8))
    store = tiny.write_store(tmp_path / "tokens", codebooks=codebooks, entries=8, frame_rate=100.0)
    index = json.loads((store / "index.json").read_text()) | {"codec": made.checksum}
    index["chroma"]["stems"] = melody["stems"] if melody else ""
    (store / "index.json").write_text(json.dumps(index))
    words = [word for name in layers for word in ("-c", name)]
    if text["name"] != "bytes":
        words += ["--model.init_args.text.name", str(folder if text.get("kind") == "clap" else t5)]
    if melody:
        words += ["--model.init_args.melody.spread", "2"]  # chroma at half the rate of these codes
    words += ["--model.init_args.lm.entries", "8", "--data.init_args.seconds", "0.2", "--trainer.max_steps", "1"]
    words += ["--data.init_args.store", str(store), "--model.init_args.codec", str(tmp_path / "codec")]
    words += ["--run", str(tmp_path / "run"), "--logger", "csv", "--trainer.val_check_interval", "1"]
    door.run("fit", words)
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["model"]["init_args"]
    assert config["lm"]["pattern"] == wanted["lm"]["pattern"]
    assert config["optim"]["algorithm"] == wanted["optim"]["algorithm"]
    record = json.loads((tmp_path / "run" / "model" / "training.json").read_text())
    assert record["steps"] == 1
    assert all(math.isfinite(value) for value in record["curve"][-1][1:])


# ---- which cells -----------------------------------------------------------------------------------------------------
def test_rows_of_one_recipe_share_their_trainings():
    def key(study, row):
        rows = {one.name: one for one in STUDIES[study].rows}
        return cell_of(STUDIES[study], rows[row], 0, Settings()).training.key

    shared = {
        key(*one)
        for one in (
            ("patterns", "delay"), ("sizes", "nano"), ("melody", "text"), ("text", "bytes"), ("augmentation", "none"),
            ("optimiser", "adamw"), ("guidance", "scale_6"), ("condition_dropout", "share_0_1"),
            ("memorisation", "train"),
        )
    }  # fmt: skip
    assert len(shared) == 1
    assert len({key("patterns", row.name) for row in STUDIES["patterns"].rows}) == len(STUDIES["patterns"].rows)


def test_tiers_and_seeds():
    first, second, third, never = (Row("a", "a", tier) for tier in (1, 2, 3, 0))
    assert [len(seeds_of(row, 3, 1)) for row in (first, second, third, never)] == [3, 0, 0, 0]
    assert [len(seeds_of(row, 3, 2)) for row in (first, second, third, never)] == [3, 1, 0, 0]
    assert [len(seeds_of(row, 3, 3)) for row in (first, second, third, never)] == [3, 1, 1, 0]
    made = cells(chosen(["guidance"]), 3, 2, Settings())
    assert len({cell.training.key for cell in made}) == 1
    assert [cell.guidance for cell in made] == [1, 3, 6]
    # Seed by seed: what an interrupted grid has is balanced.
    assert [cell.training.seed for cell in cells(chosen(["sizes"]), 2, 1, Settings())] == [0, 0, 0, 1, 1, 1]
    with pytest.raises(InputError, match="no study 'colours'"):
        chosen(["colours"])


# ---- the plan --------------------------------------------------------------------------------------------------------
def test_a_plan_spends_equal_flops_within_the_budget():
    made = cells(chosen(["sizes"]), 3, 1, Settings())
    keys = list(dict.fromkeys(cell.training.key for cell in made))
    costs = {
        (key, "guidance-3"): Cost(flops, step, 1.0, 2.0)
        for key, flops, step in zip(keys, (1e9, 3e9, 9e9), (0.1, 0.2, 0.5), strict=True)
    }
    planned = plan(made, costs, budget=2000.0, spent=200.0)
    done = [planned.steps[key] * costs[key, "guidance-3"].flops for key in keys]
    assert max(done) - min(done) <= 9e9  # no more than one step of the dearest
    real = sum(planned.steps[cell.training.key] * costs[cell.training.key, cell.name].step + 3.0 for cell in made)
    assert planned.seconds == pytest.approx(real)
    assert 0.85 * 1800 < real <= 0.9 * 1800
    least = 3 * LEAST_STEPS * (9 * 0.1 + 3 * 0.2 + 0.5) + 27.0  # steps of each are as many times those of the dearest
    bound = 200 + least / 0.9
    assert min(plan(made, costs, bound + 1, 200.0).steps.values()) == LEAST_STEPS
    with pytest.raises(InputError, match=f"too small for one row: .* {bound:.0f} s; give more --budget"):
        plan(made, costs, bound - 1, 200.0)


def test_a_budget_is_a_time():
    assert [seconds_of(text) for text in ("2h", "1h30m", "45m", "90s", "0.5h")] == [7200, 5400, 2700, 90, 1800]
    for wrong in ("", "2", "h", "2 h", "-1h", "2d", "0s", "1.2.3h"):
        with pytest.raises(InputError, match="is no time"):
            seconds_of(wrong)


# ---- figures and verdicts --------------------------------------------------------------------------------------------
def test_an_interval_over_seeds_and_clips():
    figures = [Figure(1.0, 0.9, 1.3), Figure(1.2, 1.0, 1.5), Figure(1.7, 1.6, 2.0)]
    values = np.array([1.0, 1.2, 1.7])
    t = student.ppf(0.975, 2) * values.std(ddof=1) / np.sqrt(3)
    found = over_seeds(figures)
    assert found.value == pytest.approx(1.3)
    assert found.low == pytest.approx(1.3 - np.sqrt(t**2 + np.mean([0.1, 0.2, 0.1]) ** 2))
    assert found.high == pytest.approx(1.3 + np.sqrt(t**2 + np.mean([0.3, 0.3, 0.3]) ** 2))
    assert over_seeds(figures[:1]) == pytest.approx(figures[0])
    assert over_seeds([Figure(2.0)]) == Figure(2.0)


def test_the_interval_covers_what_seeds_and_clips_vary_by():
    """Made-up studies: a truth, an error of the clips that all seeds share, and one of each seed."""
    noise = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        clips = noise.normal(0, 0.5)
        values = 3.0 + clips + noise.normal(0, 0.3, 3)
        found = over_seeds([Figure(v, v - 1.96 * 0.5, v + 1.96 * 0.5) for v in values])
        hits += found.low <= 3.0 <= found.high
    assert 0.94 < hits / 2000 < 1


def test_verdicts_against_a_brute_force():
    """By points: two intervals overlap if some point of a fine lattice is in both."""
    noise = np.random.default_rng(1)
    lattice = np.arange(0, 301)
    seen = set()
    for number in range(3000):
        one, other = (Figure(*sorted(noise.integers(0, 300, 3))) for _ in range(2))
        one, other = (Figure(float(b), float(a), float(c)) for a, b, c in (one, other))
        measure, alike = ("fad", "clap")[number % 2], number % 5 == 0
        inside = [(lattice >= figure.low) & (lattice <= figure.high) for figure in (one, other)]
        if (inside[0] & inside[1]).any():
            wanted = UNDECIDED
        elif alike:
            wanted = DIFFERS
        else:
            good = one.value < other.value if measure == "fad" else one.value > other.value
            wanted = AGREES if good else DIFFERS
        found = verdict(Pair("a", "b", measure, alike), one, other)
        assert found == wanted, (one, other, measure, alike)
        seen.add((found, alike))
    assert len(seen) == 5
    assert verdict(Pair("a", "b", "fad"), None, Figure(1.0, 1.0, 1.0)) == UNDECIDED
    assert verdict(Pair("a", "b", "fad"), Figure(0.0), Figure(1.0, 1.0, 1.0)) == UNDECIDED


# ---- a grid of tiny models, for real ---------------------------------------------------------------------------------
RATE = 16_000
TINY = """
model: {init_args: {lm: {dim: 16, layers: 1, heads: 2, entries: 16}, text: {dim: 16, layers: 1, heads: 2}}}
data: {init_args: {seconds: 2.0, batch_size: 2, valid_items: 2}}
"""
BROKEN = "model: {init_args: {optim: {lr: 1.0e+30, warmup_steps: 0}}}"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Corpus, codec and layers of the tiny grid."""
    place = tmp_path_factory.mktemp("grid")
    tracks = [(f"{split}{row}", split, 5.0, "a flute") for split in ("train", "valid", "test") for row in range(4)]
    tiny.write_manifest(place / "corpus", tracks, RATE)
    manifest = place / "corpus" / "manifest.jsonl"
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    for row, line in enumerate(lines):
        line |= {"instruments": ["flute"], "families": ["woodwinds"], "drums": row % 2 == 0, "bpm": 60 + row}
        line |= {"caption_facts": ["instruments"]}
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    save_codec(place / "codec", tiny.codec(sample_rate=RATE, ratios=(8, 5, 4)))
    for name, text in (("tiny", TINY), ("broken", BROKEN)):
        (place / f"{name}.yaml").write_text(text)
    return place


@pytest.fixture
def study(place, monkeypatch):
    rows = (
        Row("delay", "delay", 1, file="ablation/patterns/delay", paper={"fad": 0.96}),
        Row("parallel", "parallel", 1, file="ablation/patterns/parallel"),
        Row("broken", "broken", 2, file=str(place / "broken.yaml")),
        Row("absent", "absent", 3, "wants something"),
    )
    pairs = (Pair("delay", "parallel", "ce"), Pair("delay", "broken", "ce"), Pair("absent", "delay", "fad"))
    monkeypatch.setattr(table, "STUDIES", {"toy": Study("toy", "Toys?", "table 0", rows, pairs)})
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def command(place, out, budget="10m", **more):
    asked = {"out": out, "docs": out / "docs", "corpus": place / "corpus", "codec": place / "codec", "seeds": 2, **more}
    words = [word for name, value in asked.items() for word in (f"--{name}", str(value))]
    return [*words, "--clips", "4", "--budget", budget, "--layers", f"[{place / 'tiny.yaml'}]"]


def test_a_grid_is_interrupted_goes_on_and_reports_what_diverged(place, study, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.ablations.running.plan", short_plan)
    ran, whole = [], door.run

    def run(name, arguments):
        if len(ran) == stop:
            raise KeyboardInterrupt
        ran.append(" ".join([name, *arguments]))
        whole(name, arguments)

    monkeypatch.setattr(door, "run", run)
    stop = 16
    asked = command(place, tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        whole("ablations", asked)
    stop = -1
    whole("ablations", asked)
    assert len(set(ran)) == len(ran)  # what was done is not done again
    fits = [one for one in ran if one.startswith("fit ")]
    assert len(fits) == 3 + 2 * 2  # rehearsals, and two seeds of the two rows that live
    page = (tmp_path / "out" / "docs" / "toy.md").read_text()
    lines = {line.split("|")[1].strip(): line for line in page.splitlines() if line.startswith("|")}
    assert "| 2 seeds | 12 |" in lines["delay"]
    assert "| 0.96 |" in lines["delay"]
    assert "| 1 diverged |" in lines["broken"]
    assert "not run: wants something" in lines["absent"]
    assert lines["delay better than broken"].endswith("| undecided |")
    assert lines["absent better than delay"].endswith("| undecided |")
    assert (tmp_path / "out" / "docs" / "toy.png").read_bytes().startswith(b"\x89PNG")
    # The figures are those of the commands' own files.
    (grid,) = (tmp_path / "out").glob("*/plan.json")
    key = json.loads(grid.read_text())["steps"]
    assert sorted(key.values()) == [12, 12]
    values = [np.mean([row["value"] for row in read["cross_entropy"]]) for read in perplexities(grid.parent, fits)]
    assert f"| {np.mean(values):.3f} (" in lines["delay"]
    # Nothing is done again, and what people wrote stays.
    written = page.replace("Not written yet.", "Toys differ.").replace("What is written below this heading", "It")
    (tmp_path / "out" / "docs" / "toy.md").write_text(written)
    ran.clear()
    whole("ablations", asked)
    assert ran == []
    assert "Toys differ." in (tmp_path / "out" / "docs" / "toy.md").read_text().partition(DISCUSSION)[2]


def short_plan(cells, costs, budget, spent):
    """Twelve steps each, whatever this machine is busy with."""
    made = plan(cells, costs, 1e6, spent)
    return type(made)(made.flops, dict.fromkeys(made.steps, 12), made.seconds, spent)


def perplexities(grid, fits):
    """Of the delay row's two seeds."""
    places = [one.partition("--run ")[2].split()[0] for one in fits if "patterns/delay" in one and "steps 12" in one]
    assert len(places) == 2
    return [json.loads((grid / place / "perplexity.json").read_text()) for place in places]


def test_parts_of_one_cell_are_rows_of_their_own(place, monkeypatch, tmp_path):
    """What is learnt by heart, of training tracks and held-out ones; melodies followed, and by chance."""
    monkeypatch.setattr("experiments.ablations.running.plan", short_plan)
    delay = "ablation/patterns/delay"
    heard = (Row("own", "own", file=delay), Row("chance", "chance", part="chance", file=delay))
    (tmp_path / "same.yaml").write_text(layer_path(delay).read_text() + "# of the same recipe\n")
    same, fits, whole = str(tmp_path / "same.yaml"), [], door.run
    monkeypatch.setattr(
        door, "run", lambda name, words: (fits.append(words) if name == "fit" else None, whole(name, words))
    )
    sides = (Row("train", "train", file=same), Row("test", "test", part="test", file=delay))
    toys = (
        Study("heard", "Toys?", "table 0", heard, (Pair("own", "chance", "melody"),), ("melody", "ce")),
        Study("sides", "Toys?", "table 0", sides, (Pair("train", "test", "exact", alike=True),), table.MEMORY),
    )
    monkeypatch.setattr(table, "STUDIES", {toy.name: toy for toy in toys})
    door.run("ablations", command(place, tmp_path / "out"))
    (run,) = (tmp_path / "out").glob("*/trainings/*-s0-12")
    assert len(fits) == 2  # a rehearsal and one training for all four rows
    # What the commands measured of such a model is all nothing: other figures in its place.
    scores = {"own": (0.7, 0.6, 0.8), "chance": (0.1, 0.05, 0.2), "train": (0.4, 0.3, 0.5), "test": (0.2, 0.1, 0.25)}
    bounded = {name: dict(zip(("value", "low", "high"), score, strict=True)) for name, score in scores.items()}
    for file, section, places in (
        ("guidance-3-prompts.json", "melody", {"followed": "own", "chance": "chance"}),
        ("memory.json", "exact", {"train": "train", "test": "test"}),
    ):
        found = json.loads((run / file).read_text())
        for place_there, name in places.items():
            (found.get("sides") or found)[place_there][section] |= bounded[name]
        (run / file).write_text(json.dumps(found))
    door.run("ablations", command(place, tmp_path / "out"))
    lines = [
        line
        for name in ("heard", "sides")
        for line in (tmp_path / "out" / "docs" / f"{name}.md").read_text().splitlines()
    ]
    for row, (value, low, high) in scores.items():
        (line,) = (line for line in lines if line.startswith(f"| {row} |"))
        assert line.split(" | ")[1] == f"{value:.3f} ({low:.3f} to {high:.3f})"
    (chance,) = (line for line in lines if line.startswith("| chance |"))
    assert chance.split(" | ")[2] == "\N{EN DASH}"  # its model's cross-entropy is no part of chance
    verdicts = [line.rpartition(" | ")[2] for line in lines if " than " in line or " like " in line]
    assert verdicts == ["agrees |", "**differs** |"]


def test_a_budget_too_small_is_refused(place, study, tmp_path):
    with pytest.raises(InputError, match="too small for one row"):
        door.run("ablations", command(place, tmp_path / "out", "1s"))
    for wrong in ({"seeds": 0}, {"tier": 4}, {"studies": "[nothing]"}, {"codec": tmp_path}):
        with pytest.raises(InputError):
            door.run("ablations", command(place, tmp_path / "out", **wrong))


def test_rows_are_compared_at_one_length(place, monkeypatch, tmp_path):
    (tmp_path / "long.yaml").write_text("data: {init_args: {seconds: 3.0}}")
    rows = (Row("a", "a", file="ablation/patterns/delay"), Row("b", "b", file=str(tmp_path / "long.yaml")))
    monkeypatch.setattr(table, "STUDIES", {"toy": Study("toy", "Toys?", "table 0", rows, ())})
    with pytest.raises(InputError, match=r"not at 2\.0, 3\.0 s"):
        door.run("ablations", command(place, tmp_path / "out"))


def test_the_base_is_named_first():
    assert STUDIES["sizes"].layers(STUDIES["sizes"].rows[0], ("x",)) == (*BASE, "x", "ablation/sizes/nano")
