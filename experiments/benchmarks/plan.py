"""A plan's figures beside measured ones, of training steps at the nano size on a CPU."""

from collections.abc import Callable, Iterable
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from experiments.benchmarks.measuring import Row
from experiments.compose import language_model_layers, merged, overridden
from experiments.planning.memory import activations, encoder_activations, encoder_places, loss_kept, memory
from experiments.planning.subject import CodecFacts, Subject, subject
from lightning_modules.callbacks import WeightAverage
from lightning_modules.checkpoints import save_model
from lightning_modules.codec.folder import EMBEDDED
from lightning_modules.conditioning.conditions import Condition, Conditions
from lightning_modules.lm.adapters import AdapterConfig, hold_in_bfloat16
from lightning_modules.lm.losses import codebook_means, cross_entropy_sums
from lightning_modules.lm.training import LanguageModelTraining
from lightning_modules.optim import OptimConfig, scheduled

_WANTED, _EXACT = "within 10 %", "equal"
_CODEC = CodecFacts("none", 0, 4, 1024, 50.0)


def plan_rows(quick: bool, say: Callable[[str], None]) -> list[Row]:
    """Planned figures as ours, measured ones as the peer's.

    Parameters are counted in the module. FLOPs are those of ``torch.utils.flop_counter``, which takes attention for the
    whole square: so is the planned half of it doubled here. Weights, gradients, optimiser state and average are the
    bytes of the tensors that there are after a step (less the step counters, of 4 bytes a tensor). Activations are the
    bytes of the storages that autograd saves (``saved_tensors_hooks``), parameters apart, of two crops less those of
    one: what does not grow with the batch are mixed precision's copies of weights, which have a row of their own with
    the places of the text encoder's attention.

    Args:
        quick: crops of 3 s in place of 30.
        say: is told what is going on.
    """
    rows = []
    for title, layers in (
        ("text", []),
        ("text and melody", ["conditioning/melody"]),
        ("flattened", ["pattern/flatten"]),
        ("32-true", ["cluster/cpu"]),
        ("D-Adaptation", ["optim/dadaptation"]),
        ("LoRA", ["lora"]),
        ("LoRA, melody, 32-true", ["conditioning/melody", "lora", "cluster/cpu"]),
    ):
        say(f"nano, {title}")
        rows += [*measured(nano(layers, 3.0 if quick else 30.0), f"nano, {title}")]
    return rows


def nano(layers: list[str], seconds: float) -> Subject:
    """The smallest size with a byte-level encoder that learns along, and further layers."""
    recipe = merged([*language_model_layers("nano", "delay", "bytes", "gpus"), *layers])
    return subject(overridden(recipe, ["--data.init_args.seconds", str(seconds)]), _CODEC)


def measured(planned: Subject, title: str) -> list[Row]:
    """Rows of one subject, whose text encoder is the byte-level one."""
    module = built(planned)
    counts, held = planned.counts, memory(planned, 1)
    trained = sum(parameter.numel() for parameter in _trained(module))
    flops = planned.flops(1)
    length = planned.steps + sum(planned.places[name] for name in planned.lm.prefix)
    square = flops.total + flops.self_attention * (2 * length / (length + 1) - 1)
    kept, copies = saved_bytes(module, planned)
    ours = activations(planned) + loss_kept(planned) + encoder_activations(planned)
    found = state_bytes(module, planned)
    rows = [
        Row(f"{title}: parameters trained", "", counts.trained, trained, wanted=_EXACT),
        Row(
            f"{title}: arithmetic of a crop, whole squares",
            "GFLOP",
            square / 1e9,
            counted(module, planned) / 1e9,
            wanted=_WANTED,
        ),
        Row(f"{title}: activations of a crop", "MB", ours / 1e6, kept / 1e6, wanted=_WANTED),
    ]
    if held.copies:
        fixed = held.copies + encoder_places(planned)
        rows.append(Row(f"{title}: copies of weights", "MB", fixed / 1e6, copies / 1e6, wanted=_WANTED))
    for name, bytes_ in found.items():
        rows.append(Row(f"{title}: {name}", "MB", getattr(held, name) / 1e6, bytes_ / 1e6, wanted=_EXACT))
    return rows


def built(planned: Subject) -> LanguageModelTraining:
    """The module that the subject is of."""
    from lightning_modules.conditioning.melody import MelodyConfig
    from lightning_modules.conditioning.text import TextEncoderConfig

    assert planned.text is not None
    text = TextEncoderConfig("bytes", dim=planned.text.dim, layers=planned.text.layers, heads=planned.text.heads)
    melody = MelodyConfig(planned.places["melody"], "") if "melody" in planned.places else None
    torch.manual_seed(0)
    optim = OptimConfig(algorithm=planned.algorithm)  # type: ignore[arg-type]
    module = LanguageModelTraining(planned.lm, text, optim, melody)
    if not planned.lora:
        return module
    with TemporaryDirectory() as folder:
        save_model(folder, module.lm, text, module.conditioners, EMBEDDED)
        lora = AdapterConfig(planned.lora)
        module = LanguageModelTraining(planned.lm, text, optim, melody, start_from=folder, lora=lora)
    if planned.precision == "bf16-mixed":
        hold_in_bfloat16(module.lm)
    return module


def loss(module: LanguageModelTraining, planned: Subject, crops: int) -> Tensor:
    """Of a training step on random codes, texts of the length that plans assume, in the subject's precision."""
    codes = torch.randint(planned.lm.entries, (crops, planned.lm.codebooks, planned.frames))
    with torch.autocast("cpu", torch.bfloat16, enabled="mixed" in planned.precision):
        # The encoder's end token is a place too.
        conditions = module.conditioners(["a" * (planned.places["text"] - 1)] * crops)
        logits, targets = module.lm.teacher_forced(codes, conditions, torch.full((crops,), planned.frames))
        share, _ = codebook_means(*cross_entropy_sums(logits, targets, planned.lm.entries))
        return share.mean()


def saved_bytes(module: LanguageModelTraining, planned: Subject) -> tuple[int, int]:
    """What autograd saves of a crop, and what it saves whatever the number of crops."""
    one, two = (_saved(module, planned, crops) for crops in (1, 2))
    return two - one, 2 * one - two


def _saved(module: LanguageModelTraining, planned: Subject, crops: int) -> int:
    held = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in held:
            kept[address] = tensor  # alive, so that no other one is put there
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        alive = loss(module, planned, crops)
    assert alive.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def counted(module: LanguageModelTraining, planned: Subject) -> float:
    """FLOPs of a crop as torch counts them, of the language model alone, with those of the conditions' gradients.

    Where there are adapters conditions have none.
    """
    items = {
        name: Condition(
            torch.randn(1, places, planned.dims[name], requires_grad=not planned.lora),
            torch.ones(1, places, dtype=torch.bool),
        )
        for name, places in planned.places.items()
    }
    codes = torch.randint(planned.lm.entries, (1, planned.lm.codebooks, planned.frames))
    mixed = torch.autocast("cpu", torch.bfloat16, enabled="mixed" in planned.precision)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), mixed:
        logits, _ = module.lm.teacher_forced(codes, Conditions(items))
        logits.sum().backward()
    module.zero_grad()
    return counter.get_total_flops()


def state_bytes(module: LanguageModelTraining, planned: Subject) -> dict[str, int]:
    """Of weights, gradients, optimiser state and average after a step."""
    made = scheduled(module.parameters(), module.optim, planned.max_steps)
    average = WeightAverage()
    average.on_fit_start(None, module)  # type: ignore[arg-type]
    loss(module, planned, 1).backward()
    for parameter in _trained(module):
        if parameter.grad is None:  # a projection of what is never hidden, in a crop without padding
            parameter.grad = torch.zeros_like(parameter)
    made["optimizer"].step()
    state = made["optimizer"].state.values()
    moments = [value for of in state for value in of.values() if isinstance(value, Tensor) and value.dim()]
    return {
        # A text encoder that does not learn along is counted apart.
        "weights": _bytes([*module.lm.parameters(), *_trained(module.trained_conditioners)]),
        "gradients": _bytes(parameter.grad for parameter in module.parameters() if parameter.grad is not None),
        "optimiser": _bytes(moments),
        "average": _bytes(average.state_dict()["average"]),
    }


def _trained(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
