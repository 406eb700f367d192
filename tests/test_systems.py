"""Systems behind one contract: plain folders matched by name, transformers' MusicGen, what each costs."""

import json

import foreign_models
import pytest
import soundfile
import tiny
import torch

from datamodules.errors import InputError
from datamodules.manifest import read_manifest
from evaluation.costs import pareto_front
from evaluation.pairing import read_system
from evaluation.published import CERTAINTIES, published_tables
from experiments.commands.compare_sizes import system_clips
from experiments.jobs import Options
from experiments.prompts import Prompt
from experiments.systems.cost import cost_record
from experiments.systems.folder import PlainFolder, match_files
from experiments.systems.huggingface import HuggingFaceMusicGen
from experiments.systems.naming import find_system, find_systems
from lightning_modules.checkpoints import load_model

PROMPTS = [
    Prompt("a-1", "calm piano", 0.5, 0),
    Prompt("a-2", "Loud, fast drums!", 0.5, 0),
    Prompt("a-3", "a slow waltz", 0.5, 0),
]


def audio(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        soundfile.write(folder / name, tiny.sine(0.5 + index / 10, 8000).ravel(), 8000)
    return folder


def out(tmp_path, name="out"):
    (tmp_path / name).mkdir()
    return tmp_path / name


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
    return foreign_models.save(foreign_models.musicgen(), tmp_path_factory.mktemp("peer") / "tiny")


# ---- plain folders ---------------------------------------------------------------------------------------------------
def test_a_folder_is_matched_by_id_and_by_caption_and_counts_what_is_not(tmp_path):
    folder = audio(tmp_path / "riffusion", "a-1.wav", "loud_fast_drums.flac", "somebody-else.wav")
    (folder / "a slow waltz.wav").write_bytes(b"no audio")
    made = PlainFolder("Riffusion", str(folder)).clips(PROMPTS, out(tmp_path), Options(), "cpu")
    assert (made.asked, made.made) == (3, 2)
    assert made.unmatched == ("somebody-else",)
    assert made.unreadable == ("a slow waltz.wav",)
    tracks = {track.id: track for track in read_manifest(tmp_path / "out")}
    assert {name: track.caption for name, track in tracks.items()} == {
        "a-1": "calm piano",
        "a-2": "Loud, fast drums!",
    }
    assert tracks["a-2"].path.read_bytes() == (folder / "loud_fast_drums.flac").read_bytes()
    said = read_system(tmp_path / "out")
    assert said["name"] == "Riffusion"
    assert said["clips"] == {
        "asked": 3,
        "made": 2,
        "unmatched": ["somebody-else"],
        "unreadable": ["a slow waltz.wav"],
    }


def test_an_id_goes_before_a_caption_that_reads_the_same(tmp_path):
    prompts = [Prompt("waltz", "a polka", 1.0, 0), Prompt("polka", "waltz", 1.0, 0)]
    folder = audio(tmp_path / "clips", "waltz.wav", "polka.wav")
    found, unmatched = match_files({path.stem: path for path in folder.iterdir()}, prompts)
    assert {name: path.name for name, path in found.items()} == {"waltz": "waltz.wav", "polka": "polka.wav"}
    assert unmatched == []


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["x.wav", "y.wav"], "not one of 2 files .* is called after a prompt"),
        (["a-1.wav", "calm piano.wav"], "both belong to prompt 'a-1'"),
        (["a-1.wav", "a-1.flac"], "of one name"),
        ([], "no audio files"),
    ],
)
def test_folders_that_cannot_be_matched(tmp_path, files, message):
    folder = audio(tmp_path / "clips", *files)
    with pytest.raises(InputError, match=message):
        PlainFolder("x", str(folder)).clips(PROMPTS, out(tmp_path), Options(), "cpu")


def test_a_caption_of_two_prompts_names_neither(tmp_path):
    folder = audio(tmp_path / "clips", "calm piano.wav")
    twice = [*PROMPTS, Prompt("a-4", "Calm piano.", 1.0, 0)]
    with pytest.raises(InputError, match="several prompts are called so"):
        PlainFolder("x", str(folder)).clips(twice, out(tmp_path), Options(), "cpu")


# ---- transformers ----------------------------------------------------------------------------------------------------
def test_transformers_makes_what_its_own_generate_makes(peer, tmp_path):
    from datamodules.sample_order import derived_seed

    system = HuggingFaceMusicGen("theirs", str(peer))
    made = system.clips(PROMPTS[:1], out(tmp_path), Options(batch_size=1, format="flac"), "cpu")
    assert (made.asked, made.made) == (1, 1)
    model = foreign_models.loaded(peer)
    tokens = foreign_models.tokenizer()(["calm piano"], return_tensors="pt")
    torch.manual_seed(derived_seed(0, "a-1"))
    # 0.5 s at 100 frames a second, after a delay of three.
    expected = model.generate(**tokens, do_sample=True, top_k=250, guidance_scale=3.0, max_new_tokens=53)[0, 0]
    heard, rate = soundfile.read(tmp_path / "out" / "a-1.flac", dtype="float32")
    assert rate == 800
    assert heard.shape == expected.shape == (400,)
    scale = max(1.0, float(expected.abs().max()))
    if scale == 1.0:  # else a limiter has rounded the peaks
        assert torch.allclose(torch.from_numpy(heard), expected, atol=2 / 2**15)
    assert float(expected.std()) > 1e-3


def test_what_is_finished_is_left_alone_and_what_changed_is_not(peer, tmp_path):
    system, folder = HuggingFaceMusicGen("theirs", str(peer)), out(tmp_path)

    def make(**options):
        system.clips(PROMPTS, folder, Options(batch_size=2, **options), "cpu")
        return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.glob("*.wav")}

    first = make()
    assert len(first) == 3
    assert make() == first
    (folder / "a-3.wav").unlink()
    again = make()
    assert {name: again[name] for name in ("a-1.wav", "a-2.wav")} == {n: first[n] for n in ("a-1.wav", "a-2.wav")}
    assert again["a-3.wav"][0] == first["a-3.wav"][0]
    other = make(temperature=2.0)
    assert all(other[name][0] != first[name][0] for name in first)
    back = make()  # what lies there was made at another temperature since
    assert {name: back[name][0] for name in back} == {name: first[name][0] for name in first}
    speed = json.loads((folder / "system.json").read_text())["speed"]
    assert speed["steps_per_second"] > 0


def test_what_cannot_be_made(peer, tmp_path):
    system = HuggingFaceMusicGen("theirs", str(peer))
    for prompts, options, message in (
        ([Prompt("x", "long", 31.0, 0)], Options(), "30 at most"),
        (PROMPTS, Options(guidance={"text": 3.0}), "one guidance"),
        (PROMPTS, Options(top_p=0.9), "top_p"),
    ):
        with pytest.raises(InputError, match=message):
            system.clips(prompts, tmp_path, options, "cpu")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_bytes((peer / "config.json").read_bytes())
    with pytest.raises(InputError, match="files are missing or damaged"):
        HuggingFaceMusicGen("broken", str(broken)).clips(PROMPTS, tmp_path, Options(), "cpu")
    (broken / "config.json").write_text('{"model_type": "encodec"}')
    with pytest.raises(InputError, match="generates no music"):
        HuggingFaceMusicGen("broken", str(broken))


def test_a_melody_model_hears_melodies_and_others_refuse_them(peer, tmp_path):
    sounds = audio(tmp_path / "sounds", "tune.wav")
    sung = [Prompt("m", "calm piano", 0.5, 0, melody=sounds / "tune.wav")]
    with pytest.raises(InputError, match="hears none; give --melody ''"):
        HuggingFaceMusicGen("theirs", str(peer)).clips(sung, out(tmp_path, "a"), Options(), "cpu")
    folder = foreign_models.save(foreign_models.musicgen(melody=True), tmp_path / "melody")
    system = HuggingFaceMusicGen("melody", str(folder))
    system.clips(sung, out(tmp_path, "b"), Options(), "cpu")
    system.clips([Prompt("m", "calm piano", 0.5, 0)], out(tmp_path, "c"), Options(), "cpu")
    assert (tmp_path / "b" / "m.wav").read_bytes() != (tmp_path / "c" / "m.wav").read_bytes()


@pytest.mark.parametrize("shape", [{}, {"books": 8}, {"melody": True}])
def test_parameters_are_those_that_transformers_counts(tmp_path, shape):
    model = foreign_models.musicgen(**shape)
    system = HuggingFaceMusicGen("x", str(foreign_models.save(model, tmp_path / "x")))
    counts = system.subject().counts
    sizes = {name: sum(p.numel() for p in getattr(model, name).parameters()) for name in ("text_encoder", "decoder")}
    projections = (getattr(model, name, None) for name in ("enc_to_dec_proj", "audio_enc_to_dec_proj"))
    projected = sum(p.numel() for part in projections if part is not None for p in part.parameters())
    assert counts.lm == sizes["decoder"] + projected
    assert counts.text_encoder == sizes["text_encoder"]
    assert counts.codec == sum(p.numel() for p in model.audio_encoder.parameters())


# ---- our own, and names ----------------------------------------------------------------------------------------------
def test_a_model_folder_makes_what_the_model_makes(model_folder, tmp_path):
    system_clips(f"mine={model_folder}", prompts=write_prompts(tmp_path), out=str(tmp_path / "clips"), device="cpu")
    expected = load_model(model_folder).generate(["calm piano"], duration=0.5, ids=["a-1"], seed=[0])[0]
    heard, rate = soundfile.read(tmp_path / "clips" / "a-1.wav", dtype="float32")
    assert rate == 800
    assert torch.allclose(torch.from_numpy(heard), expected[0].clamp(-1, 1), atol=2e-2)
    assert read_system(tmp_path / "clips")["name"] == "mine"


def write_prompts(folder):
    path = folder / "prompts.jsonl"
    lines = [json.dumps({"id": one.id, "caption": one.caption, "duration": one.duration}) for one in PROMPTS]
    path.write_text("\n".join(lines))
    return str(path)


def test_words_name_systems(model_folder, peer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_system("large").missing
    assert find_system(str(peer)).name == "tiny@transformers"
    assert find_system(f"folder:{audio(tmp_path / 'Mousai', 'a.wav')}").name == "Mousai"
    (tmp_path / "runs" / "small-delay-t5-s0").mkdir(parents=True)
    model_folder.rename(tmp_path / "runs" / "small-delay-t5-s0" / "model")
    found = find_system("small")
    assert (found.name, found.missing) == ("small", "")
    assert found.source == "runs/small-delay-t5-s0/model"
    assert find_system("a=runs/small-delay-t5-s0/model").name == "a"
    for word, message in (("nowhere", "no system"), ("a/b=small", "give NAME=WHAT"), ("x=", "give NAME=WHAT")):
        with pytest.raises(InputError, match=message):
            find_system(word)
    with pytest.raises(InputError, match="two systems are called 'small'"):
        find_systems(["small", "small"])


# ---- cost ------------------------------------------------------------------------------------------------------------
def test_cost_is_what_the_planner_says(tmp_path, monkeypatch):
    from experiments.commands.plan import plan

    monkeypatch.chdir(tmp_path)
    plan("medium", gpus=16, gpu="a100", json=str(tmp_path / "plan.json"))
    planned = json.loads((tmp_path / "plan.json").read_text())
    record = cost_record(find_system("medium"), None, "a100", 16)
    assert record["parameters"]["lm"] == planned["parameters"]["lm"] == 1_838_737_920
    assert record["training"]["gpu_hours"] == planned["gpu_hours"]
    assert record["training"]["flops"] == planned["step"]["flops"] * planned["max_steps"]
    assert record["training"]["memory"] == planned["layouts"][planned["recommended"]]["memory"]["total"]
    assert record["generation"] is None


def test_a_plain_folder_costs_nothing_that_is_known(tmp_path):
    record = cost_record(PlainFolder("x", str(audio(tmp_path / "x", "a.wav"))), None, "h100", 8)
    assert record["parameters"] is record["training"] is record["generation"] is None


def test_the_front_is_what_no_other_point_beats():
    generator = torch.Generator().manual_seed(0)
    for count in (1, 2, 5, 12):
        points = [tuple(row) for row in torch.randint(0, 6, (count, 2), generator=generator).tolist()]
        for lower in (True, False):
            sign = 1 if lower else -1
            beaten = {
                one
                for one, (cost, quality) in enumerate(points)
                for other_cost, other in points
                if other_cost <= cost
                and sign * other <= sign * quality
                and (other_cost < cost or sign * other < sign * quality)
            }
            assert sorted(pareto_front(points, lower)) == [one for one in range(count) if one not in beaten]


def test_published_numbers_have_source_and_certainty():
    tables = published_tables()
    rows = [row for table in tables for row in table.rows]
    assert {row["certainty"] for row in rows} == set(CERTAINTIES)
    assert all(row["source"].strip() for row in rows)
    for table in tables:
        assert table.rows
        assert all(row["values"] and row["values"].keys() <= table.metrics.keys() for row in table.rows)
        assert all(float(text) == row["values"][key] for row in table.rows for key, text in row["cells"].items())
    said = {(table.title, row["system"]): row["values"] for table in tables for row in table.rows}
    assert said["MusicCaps, weights as released", "MusicGen large 3.3B"] == {"fad": 5.48, "kld": 1.37, "clap": 0.28}
    assert said["MusicCaps, the MusicGen paper's table 1", "MusicGen 3.3B"]["fad"] == 3.8
