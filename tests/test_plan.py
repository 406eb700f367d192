"""Plans: what they count against what is there, what they advise, and what they refuse."""

import json
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from datamodules.errors import InputError
from experiments.__main__ import main
from experiments.benchmarks.plan import built, loss, measured, nano
from experiments.compose import language_model_layers, merged, overridden
from experiments.planning.dealing import Deal, deal, deals
from experiments.planning.gpus import GPUS, find_gpu, gpu_named
from experiments.planning.links import machines, traffic
from experiments.planning.memory import FREE, activations, block_activations, encoder_activations, loss_kept, memory
from experiments.planning.plan import plan
from experiments.planning.subject import PRETRAINED, codec_layer_facts, subject
from experiments.planning.tables import record
from lightning_modules.lm.losses import codebook_means, cross_entropy_sums
from lightning_modules.lm.model import parameter_count

PAPER = codec_layer_facts("encodec_32khz")


def run(size, *layers, text="t5"):
    return subject(merged([*language_model_layers(size, "delay", text, "gpus"), *layers]), PAPER)


def planned(size, gpus, gpu="h100", *layers, crops=192, **options):
    return plan(run(size, *layers), machines(find_gpu(gpu), gpus, 0, 400.0), crops=crops, utilisation=0.4, **options)


@pytest.mark.parametrize(
    "layers",
    [
        [], ["conditioning/melody"], ["pattern/flatten"], ["cluster/cpu"], ["optim/dadaptation"], ["lora"],
        ["lora", "conditioning/melody", "cluster/cpu"],
    ],
)  # fmt: skip
def test_a_plan_is_what_is_measured(layers):
    rows = measured(nano(layers, 2.0), "nano")
    assert len(rows) in (7, 8)
    for row in rows:
        within = 0 if row.wanted == "equal" else 0.1
        assert row.ours == pytest.approx(row.peer, rel=within, abs=0), row.name


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_recomputing_keeps_what_lies_between(blocks):
    one = nano([], 2.0)
    module, kept = built(one), {}
    module.lm.transformer.recompute = blocks
    held = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() not in held:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    sizes = []
    for crops in (1, 2):
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            alive = loss(module, one, crops)
        sizes.append(sum(tensor.untyped_storage().nbytes() for tensor in kept.values()))
        del alive
    # The blocks that are computed again are not there yet.
    ours = activations(one, blocks) - blocks * block_activations(one) + loss_kept(one) + encoder_activations(one)
    assert ours == pytest.approx(sizes[1] - sizes[0], rel=0.1)


@pytest.mark.parametrize("layers", [[], ["cluster/cpu"]])
def test_the_loss_at_its_highest_is_what_torch_allocates(layers):
    one, crops = nano(layers, 2.0), 2
    books, entries = one.lm.codebooks, one.lm.entries
    head = torch.nn.Linear(2, books * entries, bias=False)  # so narrow that logits and loss are all there is
    places = torch.randn(crops, one.steps, 2, requires_grad=True)
    targets = torch.randint(entries, (crops, books, one.steps))
    now = highest = 0
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, acc_events=True
    ) as profiled:
        with torch.autocast("cpu", torch.bfloat16, enabled="mixed" in one.precision):
            logits = head(places).unflatten(-1, (books, entries)).transpose(1, 2)
            value = codebook_means(*cross_entropy_sums(logits, targets, entries))[0].mean()
        del logits
        value.backward()
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            highest = max(highest, now)
    assert memory(one, crops).loss == pytest.approx(highest, rel=0.06)


@pytest.mark.parametrize("size", ["small", "medium", "large"])
def test_parameters_of_the_paper(size):
    one = run(size)
    assert one.counts.lm == one.counts.trained == parameter_count(one.lm, one.dims)
    assert one.counts.projections == 768 * one.lm.dim + one.lm.dim
    assert (one.counts.text_encoder, one.counts.codec) == (109_628_544, 56_884_674)
    held = memory(one, 1)
    assert (held.weights, held.optimiser) == (4 * one.counts.lm, 8 * one.counts.lm)
    assert memory(one, 1, shards=8, sharding="full").average == one.counts.lm // 2


def test_pretrained_encoders_are_as_large_as_transformers_builds_them():
    from transformers import ClapConfig, ClapModel, T5Config, T5EncoderModel

    shape = {"vocab_size": 32128, "d_model": 768, "num_layers": 12, "num_heads": 12}
    with torch.device("meta"):
        t5 = T5EncoderModel(T5Config(d_ff=3072, **shape))
        flan = T5EncoderModel(T5Config(d_ff=2048, feed_forward_proj="gated-gelu", **shape))
        clap = ClapModel(ClapConfig())
    texts = [t5, flan, torch.nn.ModuleList([clap.text_model, clap.text_projection])]
    for model, encoder in zip(texts, PRETRAINED.values(), strict=True):
        assert sum(parameter.numel() for parameter in model.parameters()) == encoder.parameters
    linear = sum(part.weight.numel() for part in t5.modules() if isinstance(part, torch.nn.Linear))
    assert {encoder.linear for encoder in PRETRAINED.values()} == {linear, 0}


def test_gpus_are_found_by_key_and_by_name():
    assert len({gpu.key for gpu in GPUS}) == len(GPUS)
    for gpu in GPUS:
        assert find_gpu(gpu.key.upper()) is gpu
    assert find_gpu("RTX 4090").memory == 24e9
    named = {
        "NVIDIA A100-SXM4-40GB": "a100-40", "NVIDIA A100-SXM4-80GB": "a100", "NVIDIA H100 80GB HBM3": "h100",
        "NVIDIA H200 NVL": "h200-nvl", "Tesla V100-SXM2-32GB": "v100", "NVIDIA GeForce RTX 3090": "rtx3090",
    }  # fmt: skip
    assert {name: gpu_named(name).key for name in named} == named
    assert gpu_named("NVIDIA GeForce RTX 4070") is None
    with pytest.raises(InputError, match="choose from b200, b100"):
        find_gpu("abacus")


def test_crops_are_dealt_evenly_or_not_at_all():
    assert [(one.batch, one.accumulate) for one in deals(192, 96)] == [(2, 1), (1, 2)]
    assert {one.crops for one in deals(192, 8)} == {192}
    assert deal(192, 8, 6) == Deal(8, 6, 4)
    for crops, devices, message in (
        (192, 100, "take 96 or 192 devices, or 100 or 200 crops"),
        (192, 500, "take 192 devices, or 500 crops"),
        (0, 4, "give 1 or more"),
    ):
        with pytest.raises(InputError, match=message):
            deals(crops, devices)
    with pytest.raises(InputError, match="24 each, which are no whole micro-batches of 5; take 4 or 6 at once"):
        deal(192, 8, 5)


def test_traffic_by_hand():
    one, where = run("small"), machines(find_gpu("a100"), 16, 8, 200.0)
    size, cards = 420_371_456, 8 * 25e9
    ddp = traffic(one, where, "ddp", accumulate=4)
    # 15 of 16 parts out and 15 back, float32; two nodes, each with eight cards of 25 GB/s.
    assert ddp.reduced == pytest.approx(2 * 4 * size * 15 / 16)
    assert ddp.seconds == pytest.approx(ddp.reduced / cards)
    node = traffic(one, where, "node", accumulate=4)
    # Blocks in 16 bits: attention, cross-attention, feed-forward, three norms; what belongs to none in 32.
    blocks = 24 * (16 * 1024**2 + 6 * 1024)
    gathered = 2 * blocks + 4 * (size - blocks)
    assert node.gathered == pytest.approx(4 * 2 * gathered * 7 / 8)
    # Scattered in the node in every micro-batch; between nodes once a step.
    assert node.reduced == pytest.approx(4 * 4 * size * 7 / 8 + 2 * 4 * size / 8 / 2)
    assert node.last == pytest.approx(2 * 4 * size / 8 / 2 / 25e9)
    full = traffic(one, where, "full", accumulate=1)
    assert full.reduced == pytest.approx(4 * size * 15 / 16)
    assert full.gathered == pytest.approx(2 * gathered * 15 / 16)
    assert full.seconds == pytest.approx((full.reduced + full.gathered) / cards)
    alone = traffic(one, machines(find_gpu("a100"), 1, 0, 200.0), "ddp", accumulate=1)
    assert (alone.reduced, alone.seconds) == (0, 0)


@pytest.mark.parametrize(
    ("size", "gpus", "gpu", "sharding"),
    [
        ("small", 32, "a100", "ddp"), ("medium", 64, "h100", "ddp"), ("medium", 8, "a100-40", "full"),
        ("large", 96, "h100", "node"), ("large", 8, "h100", "full"), ("large", 96, "h200", "ddp"),
    ],
)  # fmt: skip
def test_the_simplest_of_the_fastest_is_recommended(size, gpus, gpu, sharding):
    made = planned(size, gpus, gpu)
    assert made.best.sharding == sharding
    assert made.best.recompute == 0
    assert made.best.deal.crops == 192
    assert made.best.memory.total <= (1 - FREE) * find_gpu(gpu).memory
    assert made.gpu_hours == pytest.approx(made.best.seconds * 1e6 * gpus / 3600)
    # At the peak's share that is assumed, and no faster.
    assert made.best.seconds >= made.flops / (gpus * find_gpu(gpu).peak * 0.4) * (1 - 1e-9)


def test_what_does_not_fit_is_said():
    made = planned("large", 1, "t4", "precision/16-mixed")
    assert made.best is None
    assert made.days is made.gpu_hours is None
    assert "none fits" in made.why
    assert "take more or larger GPUs" in made.why
    # Recomputing is what makes this one fit.
    one = run("small")
    kept, again = (memory(one, 1, recompute=blocks).total for blocks in (0, 2))
    card = replace(find_gpu("rtx4090"), memory=(kept + again) / 2 / (1 - FREE))
    tight = plan(one, machines(card, 1, 0, 400.0), crops=192, utilisation=0.4)
    assert tight.best.recompute == 2
    assert "DDP does not fit" in tight.why


def test_dadaptation_is_not_sharded():
    made = planned("small", 8, "h100", "optim/dadaptation")
    assert {one.sharding for one in made.layouts} == {"ddp"}
    assert made.best.memory.optimiser == 12 * 420_371_456


@pytest.mark.parametrize(
    ("size", "gigabytes", "gpu"), [("small", 8, "rtx3070"), ("large", 24, "rtx4090"), ("large", 24, "a10g")]
)
def test_adapters_fit_where_the_whole_model_does_not(size, gigabytes, gpu):
    card = find_gpu(gpu)
    assert card.memory == gigabytes * 1e9
    for crops_at_once in (None, 1):
        made = planned(size, 1, gpu, "finetune", "lora", crops=32, batch=crops_at_once)
        assert made.best is not None, made.why
        assert made.best.memory.total <= 0.9 * gigabytes * 1e9
    assert memory(made.subject, 1, recompute=2).total < made.best.memory.total - 0.8e9
    assert planned(size, 1, gpu, "finetune", crops=32).best is None
    # The frozen weights: of the blocks' products in bfloat16, of all else in float32; the trained ones as ever.
    counts = made.subject.counts
    width, layers = made.subject.lm.dim, made.subject.lm.layers
    products = layers * 16 * width**2
    assert counts.trained == 16 * layers * (4 + 2 + 2 + 3 + 2 + 5 + 5) * width
    held = made.best.memory
    assert held.weights == 2 * products + 4 * (counts.lm - products) + 4 * counts.trained
    assert (held.gradients, held.optimiser, held.average) == tuple(n * counts.trained for n in (4, 8, 4))
    # float16 has float32 weights, of which only the compiler keeps copies.
    halves = planned(size, 1, gpu, "finetune", "lora", "precision/16-mixed", crops=32)
    of_halves = halves.layouts[-1].memory
    assert of_halves.weights - held.weights == 2 * products
    assert of_halves.copies == held.copies
    assert memory(replace(halves.subject, compiled=True), 1).copies - held.copies == 2 * products
    assert memory(replace(made.subject, compiled=True), 1).copies == held.copies


def test_compiled_blocks_keep_copies_of_their_weights():
    recipe = merged(language_model_layers("small", "delay", "t5", "gpus"))
    plain = subject(recipe, PAPER)
    compiled = subject(overridden(recipe, ["--model.init_args.compiled", "true"]), PAPER)
    products = 24 * 16 * 1024**2
    assert memory(compiled, 1).copies - memory(plain, 1).copies == 2 * products


def test_adapters_are_neither_sharded_nor_left_to_dadaptation(capsys):
    assert {one.sharding for one in planned("large", 8, "h100", "lora", crops=32).layouts} == {"ddp"}
    with pytest.raises(InputError, match="D-Adaptation"):
        run("small", "lora", "optim/dadaptation")
    with pytest.raises(InputError, match="not sharded"):
        run("small", "lora", "cluster/sharded")
    main(["plan", "--size", "small", "--gpus", "1", "--gpu", "rtx3070", "--lora", "8"])
    said = " ".join(capsys.readouterr().out.split())
    assert "4,521,984 parameters, of rank 8: they alone are trained" in said
    assert "32 crops" in said
    assert "2,000 steps" in said


def test_less_memory_more_work():
    one = run("small")
    totals = [memory(one, 6, recompute=blocks).total for blocks in (0, 12, 6, 2)]
    assert all(later < earlier for earlier, later in pairwise(totals))
    made = planned("small", 8)
    kept, again = made.layouts[:2]
    assert again.compute == pytest.approx(kept.compute * 4 / 3)
    longer = replace(one, frames=2 * one.frames)
    assert activations(longer) == pytest.approx(2 * activations(one), rel=0.01)


def test_the_command_writes_what_it_prints(tmp_path, capsys):
    out = tmp_path / "plan.json"
    main(["plan", "--size", "large", "--gpus", "96", "--gpu", "h100", "--json", str(out)])
    said = capsys.readouterr().out
    written = json.loads(out.read_text())
    assert written == json.loads(json.dumps(record(planned("large", 96))))
    best = written["layouts"][written["recommended"]]
    assert "3,256,956,928" in said
    assert f"{written['gpu_hours']:,.0f} GPU-hours" in said
    assert (best["sharding"], best["deal"]) == ("node", {"devices": 96, "batch": 2, "accumulate": 1})
    assert best["memory"]["total"] < sum(best["memory"].values())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--gpus", "100", "--gpus_per_node", "4"], "take 96 or 192 devices"),
        (["--gpus", "12"], "do not fill nodes of 8; take 8 or 16"),
        (["--gpu", "tpu"], "there is no GPU 'tpu'"),
        (["--gpu", "v100"], "--precision 16-mixed"),
        (["--mfu", "40"], "give a share of the peak"),
        (["--batch_per_gpu", "5"], "take 4 or 6 at once"),
        (["--recompute", "99"], "1 to 24"),
        (["--network", "0"], "between nodes"),
        (["--codec", "nowhere"], "nowhere"),
        (["--json", "no/such/folder.json"], "its folder does not exist"),
        (["--steps", "0"], "give 1 or more"),
        (["--size", "huge"], "there is no config"),
        (["--lora", "0"], "rank 0; give 1 or more"),
    ],
)
def test_what_cannot_be_planned_is_refused(flags, message, capsys):
    with pytest.raises(SystemExit) as end:
        main(["plan", *([] if "--size" in flags else ["--size", "small"]), *flags])
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_other_plans(capsys):
    main(["plan", "--size", "small", "--gpu", "v100", "--precision", "16-mixed", "--optim", "dadaptation"])
    assert "16-mixed, dadaptation" in capsys.readouterr().out
    main(["plan", "--size", "nano", "--codec", "embedded", "--melody", "true", "--text", "bytes", "--steps", "100"])
    said = " ".join(capsys.readouterr().out.split())
    assert "235 places of melody" in said
    assert "100 steps" in said
