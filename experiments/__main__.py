"""``mgl``, or ``python -m experiments``: every command of the suite.

Each command is a function whose signature gives its flags; ``fit`` and its kin are LightningCLI's. A command's module
is imported when it is called, so that help is quick and nothing heavy is loaded for nothing.
"""

import errno
import os
import sys
from importlib import import_module

from datamodules.errors import InputError, Terminated

# name: (module, function, one line for the help)
COMMANDS = {
    "demo": ("experiments.commands.demo", "demo", "the whole job on the embedded corpus, from scores to a report"),
    "corpus": ("experiments.commands.corpus", "corpus", "render public-domain scores to captioned audio"),
    "manifest": (
        "experiments.commands.manifest",
        "manifest",
        "folders of music to a manifest: decoded, split, refused",
    ),
    "tokens": ("experiments.commands.tokens", "tokens", "encode a manifest's tracks into a token store"),
    "convert": ("experiments.commands.convert", "convert", "models of transformers and audiocraft to ours, and back"),
    "verify-published": (
        "experiments.commands.verify_published",
        "verify_published",
        "a published checkpoint here and in transformers, side by side",
    ),
    "weights": ("experiments.commands.weights", "weights", "fetch published networks once, for work without a network"),
    "pack": ("experiments.commands.pack", "pack", "a token store at 11 bits a code, for transport, and back"),
    "recordings": ("experiments.commands.recordings", "recordings", "16 hours of free music from Debian's packages"),
    "show-sample": ("experiments.commands.show_sample", "show_sample", "any sample of a run, past or to come"),
    "plan": ("experiments.commands.plan", "plan", "memory, arithmetic, traffic and days of a run on GPUs elsewhere"),
    "train": (
        "experiments.commands.train",
        "train",
        "the paper's language-model recipe at a size, composed and checked",
    ),
    "finetune": (
        "experiments.commands.finetune",
        "finetune",
        "a trained model goes on learning from your music, whole or with adapters",
    ),
    "export": ("experiments.commands.export", "export", "the model of a run that has not ended, as a model folder"),
    "resume": ("experiments.commands.resume", "resume", "go on with an interrupted run"),
    "eval-set": ("experiments.commands.eval_set", "eval_set", "reference clips: held-out, MusicCaps, Song Describer"),
    "perplexity": ("experiments.commands.perplexity", "perplexity", "a model's cross-entropy on held-out tokens"),
    "generate": ("experiments.commands.generate", "generate", "prompts to audio files"),
    "evaluate": ("experiments.commands.evaluate", "evaluate", "score a folder of audio against references"),
    "evaluate-codec": (
        "experiments.commands.evaluate_codec",
        "evaluate_codec",
        "how well a codec reconstructs held-out music",
    ),
    "codec-card": ("experiments.commands.codec_card", "codec_card", "the embedded codec beside Opus and Vorbis"),
    "evaluate-judge": (
        "experiments.commands.evaluate_judge",
        "evaluate_judge",
        "how well a judge hears and reads music whose facts are known",
    ),
    "judge-card": ("experiments.commands.judge_card", "judge_card", "what the embedded judge is worth, in tables"),
    "evaluate-prompts": (
        "experiments.commands.evaluate_prompts",
        "evaluate_prompts",
        "whether clips are what their prompts ask for",
    ),
    "model-card": ("experiments.commands.model_card", "model_card", "what a text-to-music model is worth, in tables"),
    "sampling-search": (
        "experiments.commands.sampling_search",
        "sampling_search",
        "a model's clips at several guidances and temperatures",
    ),
    "untrained-model": (
        "experiments.commands.model_measurements",
        "untrained_model",
        "a model folder with random weights",
    ),
    "lend-ids": (
        "experiments.commands.model_measurements",
        "lend_ids",
        "clips in the place of references that they have nothing to do with",
    ),
    "bigram": ("experiments.commands.model_measurements", "bigram", "cross-entropy of counted pairs of codes"),
    "memorisation": (
        "experiments.commands.model_measurements",
        "memorisation",
        "whether a model continues training music as it went on",
    ),
    "generation-time": (
        "experiments.commands.model_measurements",
        "generation_time",
        "how long a model takes for a clip",
    ),
    "ablations": (
        "experiments.commands.ablations",
        "ablations",
        "the paper's tables, repeated in the small within a time budget",
    ),
    "degrade": ("experiments.commands.degrade", "degrade", "real music made worse, to see if an evaluation notices"),
    "score-run": ("experiments.commands.score_run", "score_run", "samples and scores of a run's checkpoints"),
    "compare": ("experiments.commands.compare", "compare", "results of several systems as one page"),
    "compare-sizes": (
        "experiments.commands.compare_sizes",
        "compare_sizes",
        "sizes and other systems side by side: clips, scores, perplexity, cost, one page",
    ),
    "system-clips": ("experiments.commands.compare_sizes", "system_clips", "clips of any system for the same prompts"),
    "system-cost": ("experiments.commands.compare_sizes", "system_cost", "what a system costs to train and to run"),
    "bench": ("experiments.commands.bench", "bench", "figures beside a peer's, measured in one run"),
}
LIGHTNING = {
    "fit": "train from layered configs: -c lm -c size/nano -c my.yaml --trainer.devices 8 ...",
    "validate": "validate a checkpoint under layered configs",
    "test": "test a checkpoint under layered configs",
    "predict": "predict under layered configs",
}


def main(arguments: list[str] | None = None) -> None:
    """Runs one command; ends with 0, 2 for what the user can mend, 1 for a full disk, 130 or 143 if told to stop."""
    arguments = sys.argv[1:] if arguments is None else arguments
    name, *rest = arguments or ["--help"]
    if name in ("-h", "--help", "help"):
        print(usage())
        return
    try:
        run(name, rest)
    except Terminated:
        sys.exit(_complain(f"mgl {name}: told to end", 143))
    except KeyboardInterrupt:
        sys.exit(_complain(f"mgl {name}: interrupted", 130))
    except BrokenPipeError:
        # The reader of our output went away; there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        full = _full_disk(error)
        if full is not None:
            where = full.filename or "the disk that it writes to"
            message = f"no space is left on {where}; make room and give the same command again: what is finished stays"
            sys.exit(_complain(f"mgl {name}: {_input_error(error) or message}", 1))
        wrong = _input_error(error)
        if wrong is None:
            raise
        sys.exit(_complain(f"mgl {name}: {' '.join(str(wrong).split())}", 2))


def run(name: str, arguments: list[str]) -> None:
    """Runs one command; what is wrong with its arguments is an ``InputError``."""
    if name in LIGHTNING:
        from experiments.cli import fit_cli

        fit_cli([name, *arguments])
    elif name in COMMANDS:
        module, function, _ = COMMANDS[name]
        from experiments.call import call

        call(getattr(import_module(module), function), name, arguments)
    else:
        raise InputError(f"there is no such command; `mgl --help` lists them: {', '.join([*COMMANDS, *LIGHTNING])}")


def usage() -> str:
    """The list of commands."""
    width = max(map(len, [*COMMANDS, *LIGHTNING]))
    lines = [f"  {name:<{width}} {text}" for name, (_, _, text) in COMMANDS.items()]
    lines += [f"  {name:<{width}} {text}" for name, text in LIGHTNING.items()]
    return "usage: mgl COMMAND ...   (`mgl COMMAND --help` explains one)\n\n" + "\n".join(lines)


def _input_error(error: BaseException | None) -> InputError | None:
    """The ``InputError`` at the root of ``error``: jsonargparse wraps what a constructor raises in its own errors."""
    while error is not None and not isinstance(error, InputError):
        error = error.__cause__ or error.__context__
    return error


def _full_disk(error: BaseException | None) -> OSError | None:
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return error
        error = error.__cause__ or error.__context__
    return None


def _complain(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
