"""Pipelines of diffusers as systems: from a folder to clips and manifest, beside diffusers called by hand."""

import json
import shutil
import sys

import foreign_pipelines
import pytest
import soundfile
import torch
from foreign_pipelines import RATE

from datamodules.errors import InputError
from datamodules.manifest import read_manifest
from datamodules.sample_order import derived_seed
from evaluation.pairing import read_system
from experiments.commands.compare_sizes import system_clips
from experiments.jobs import Options
from experiments.prompts import Prompt
from experiments.systems.cost import cost_record
from experiments.systems.diffusers_audio import DiffusersAudio
from experiments.systems.naming import find_system

diffusers = pytest.importorskip("diffusers", reason="needs diffusers")

PROMPTS = [Prompt(f"a-{n}", text, 0.5, 7) for n, text in enumerate(foreign_pipelines.PROMPTS)]
KINDS = {
    "stable audio": (foreign_pipelines.stable_audio, "audio_end_in_s", 2),
    "audioldm": (foreign_pipelines.audioldm, "audio_length_in_s", 1),
    "audioldm2": (foreign_pipelines.audioldm2, "audio_length_in_s", 1),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("pipelines")
    return {name: foreign_pipelines.save(make(), root / name) for name, (make, _, _) in KINDS.items()}


@pytest.fixture(scope="module")
def folder(folders):
    return folders["stable audio"]


def clips(system, prompts, out, **options):
    out.mkdir(exist_ok=True)
    system.clips(prompts, out, Options(**options), "cpu")
    return {one.id: heard(one.path) for one in read_manifest(out)}


def heard(path):
    return torch.from_numpy(soundfile.read(path, dtype="float32", always_2d=True)[0].T)


# A text beside a longer one, whose place in the batch must not be heard.
@pytest.mark.parametrize("name", KINDS)
def test_clips_are_what_diffusers_makes_alone_or_in_a_batch(folders, tmp_path, name):
    _, length, channels = KINDS[name]
    system = DiffusersAudio("theirs", f"{folders[name]}@4")
    made = clips(system, PROMPTS, tmp_path / "out", batch_size=2, guidance=2.0, negative="a bad egg")
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folders[name])
    for prompt in PROMPTS:
        generator = [torch.Generator().manual_seed(derived_seed(7, prompt.id))]
        expected = pipeline(
            [prompt.caption], negative_prompt=["a bad egg"], guidance_scale=2.0, num_inference_steps=4,
            generator=generator, output_type="pt", **{length: 0.5},
        ).audios.reshape(channels, -1)  # fmt: skip
        assert made[prompt.id].shape == expected.shape == (channels, RATE // 2)
        assert float(expected.std()) > 0.01
        assert float(expected.abs().max()) < 1  # else a limiter has rounded the peaks
        assert torch.allclose(made[prompt.id], expected, atol=2 / 2**15)
    facts = soundfile.info(tmp_path / "out" / "a-0.wav")
    assert (facts.samplerate, facts.channels) == (RATE, channels)


def test_beside_a_longer_text_diffusers_itself_makes_another_clip_of_audioldm2(folders):
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folders["audioldm2"])

    def draw(*texts):
        generators = [torch.Generator().manual_seed(5) for _ in texts]
        return pipeline(list(texts), audio_length_in_s=0.5, num_inference_steps=4, generator=generators).audios[0]

    short, long = foreign_pipelines.PROMPTS
    assert abs(draw(short) - draw(short, short)).max() < 1e-5
    assert abs(draw(short) - draw(short, long)).max() > 2e-4


def test_what_is_finished_is_left_alone_and_what_changed_is_not(folder, tmp_path):
    system = DiffusersAudio("theirs", f"{folder}@3")

    def make(**options):
        made = clips(system, PROMPTS, tmp_path, **options)
        return made, {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.wav")}

    first, written = make()
    assert make(batch_size=1)[1] == written
    other, _ = make(guidance=6.0)
    assert not torch.equal(other["a-0"], first["a-0"])
    again, _ = make()  # not what lies there: that was made with another guidance
    assert torch.equal(again["a-0"], first["a-0"])
    assert DiffusersAudio("theirs", f"{folder}@4").checksum() != system.checksum()


def test_a_seed_and_an_id_and_the_steps_change_a_clip(folder, tmp_path):
    one = PROMPTS[0]
    variants = [one, Prompt(one.id, one.caption, 0.5, 8), Prompt("b", one.caption, 0.5, 7)]
    made = [clips(DiffusersAudio("x", f"{folder}@3"), [v], tmp_path / str(n))[v.id] for n, v in enumerate(variants)]
    made.append(clips(DiffusersAudio("x", f"{folder}@5"), [one], tmp_path / "steps")[one.id])
    assert all(not torch.equal(a, b) for n, a in enumerate(made) for b in made[:n])


def test_the_command_takes_it_by_name_and_says_what_it_is(folder, tmp_path, capsys):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("\n".join(json.dumps({"id": one.id, "caption": one.caption}) for one in PROMPTS))
    with pytest.warns(UserWarning, match="no effect"):
        system_clips(
            f"Stable=diffusers:{folder}@3", str(prompts), str(tmp_path / "out"), 0.25, temperature=0.5, device="cpu"
        )
    assert "Stable: 2 clips for 2 prompts" in capsys.readouterr().out
    said = read_system(tmp_path / "out")
    assert (said["name"], said["model"]) == ("Stable", f"diffusers:{folder}@3")
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder)
    assert said["parameters"] == {
        name: sum(p.numel() for p in getattr(pipeline, name).parameters())
        for name in ("vae", "text_encoder", "projection_model", "transformer")
    }
    assert said["speed"]["steps_per_second"] > said["speed"]["audio_seconds_per_second"] > 0
    record = cost_record(find_system(f"Stable=diffusers:{folder}@3"), tmp_path / "out", "h100", 8)
    assert record["training"] is None
    assert record["generation"]["hours_per_hour"] > 0


def test_words_name_pipelines(folder):
    for word, name in ((str(folder), "stable audio@diffusers"), (f"diffusers:{folder}@20", "stable audio@diffusers")):
        assert find_system(word).name == name
    assert find_system(f"a=diffusers:{folder}").source == f"diffusers:{folder}"
    with pytest.raises(InputError, match=r"the Hugging Face hub cannot be asked.*HF_HOME"):
        find_system("diffusers:nobody/nothing@20")


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        (Prompt("x", "a", 0.0, 0), {}, "'x': 0 s; give more than 0"),
        (Prompt("x", "a", 2.5, 0), {}, "2.5 s cannot be made: .* longer than the model maximum"),
        (Prompt("x", "a", 0.5, 0, melody=True), {}, "hears none; give --melody ''"),
        (Prompt("x", "a", 0.5, 0, continuation=True), {}, "continuations are not tried"),
        (Prompt("x", "a", 0.5, 0), {"guidance": {"text": 3.0}}, "one guidance"),
    ],
)
def test_what_cannot_be_asked(folder, tmp_path, prompt, options, message):
    with pytest.raises(InputError, match=message) as found:
        DiffusersAudio("x", f"{folder}@2").clips([prompt], tmp_path, Options(**options), "cpu")
    assert "\n" not in str(found.value)
    assert not list(tmp_path.glob("*.wav"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index: index.update(_class_name="StableDiffusionPipeline"), "StableDiffusionPipeline is no pipeline"),
        (lambda index: index.update(_class_name="AutoencoderKL"), "AutoencoderKL is no pipeline"),
        (lambda index: index.update(_class_name=["own_code", "Pipeline"]), "is no pipeline"),
        (lambda index: index.update(vae=["subprocess", "Popen"]), "vae is of 'subprocess'; no code but"),
        (lambda index: index.pop("_class_name"), "not a folder of diffusers"),
        (lambda index: index.update(vae=["diffusers", "Nothing"]), "files are missing or damaged"),
    ],
)
def test_folders_that_are_no_audio_pipeline(folder, tmp_path, change, message):
    copy = shutil.copytree(folder, tmp_path / "copy")
    index = json.loads((copy / "model_index.json").read_text())
    change(index)
    (copy / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=message):
        DiffusersAudio("x", str(copy)).clips(PROMPTS, tmp_path, Options(), "cpu")


def test_pickled_and_damaged_weights_are_refused(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    weights = copy / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(InputError, match="files are missing or damaged"):
        DiffusersAudio("x", str(copy)).clips(PROMPTS, tmp_path, Options(), "cpu")
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(InputError, match="vae: has pickled weights alone"):
        DiffusersAudio("x", str(copy))


def test_without_the_extra_one_line_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(InputError, match=r"pip install 'musicgen-lightning\[diffusers\]'$"):
        find_system(f"diffusers:{folder}")


def test_a_pipeline_that_no_longer_goes_with_transformers_is_said(folder, tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise AttributeError("'BaseModelOutputWithPooling' object has no attribute 'to'")

    monkeypatch.setattr(diffusers.StableAudioPipeline, "encode_prompt", broken)
    with pytest.raises(InputError, match=r"StableAudioPipeline does not run with these versions .*attribute 'to'"):
        DiffusersAudio("x", f"{folder}@2").clips(PROMPTS, tmp_path, Options(), "cpu")
