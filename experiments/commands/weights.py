"""``mgl weights``: fetches what others have published and this suite uses, once, where there is a network."""

from collections.abc import Callable


def weights(only: str = "") -> None:
    """Fetches the published networks that conditioning uses into their caches, after which everything works offline.

    What is there already is not fetched again. HF_HOME says where the Hugging Face cache is.

    Args:
        only: a few of them, with commas between: t5, flan_t5, clap, demucs, or any other T5 by its id on the hub
            (google/flan-t5-xl); by default all.
    """
    from datamodules.errors import InputError

    known = _known()
    chosen = [name.strip() for name in only.split(",")] if only else list(known)
    known |= {name: ("a T5 encoder", _text_encoder(name)) for name in chosen if "/" in name}
    for name in chosen:
        if name not in known:
            raise InputError(f"there are no weights {name!r}; choose of {', '.join(known)}")
    failed = []
    for name in chosen:
        what, load = known[name]
        print(f"{name:<8} {what} ...", flush=True)
        try:
            load()
        except InputError as error:
            failed.append(name)
            print(f"  {error}", flush=True)
    if failed:
        raise InputError(
            f"{len(failed)} of {len(chosen)} could not be had: {', '.join(failed)}; the reasons stand above"
        )
    print(f"{len(chosen)} of {len(chosen)} are on this machine")


def _known() -> dict[str, tuple[str, Callable[[], object]]]:
    """Name -> what it is, and what loads it: only what loads is there."""

    def clap() -> object:
        from datamodules.features.clap import load_clap

        return load_clap("laion/larger_clap_music")

    def demucs() -> object:
        from datamodules.features.stems import load_separator

        return load_separator()

    return {
        "t5": ("google-t5/t5-base, the paper's text encoder", _text_encoder("google-t5/t5-base")),
        "flan_t5": ("google/flan-t5-base", _text_encoder("google/flan-t5-base")),
        "clap": ("laion/larger_clap_music", clap),
        "demucs": ("htdemucs, which takes drums and bass out of melodies", demucs),
    }


def _text_encoder(name: str) -> Callable[[], object]:
    from lightning_modules.conditioning.t5 import load_text_encoder

    return lambda: load_text_encoder(name, trained=False)
