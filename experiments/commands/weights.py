"""``mgl weights``: fetches what others have published and this suite uses, once, where there is a network."""

from collections.abc import Callable


def weights(only: str = "") -> None:
    """Fetches the published networks for conditioning and judging into their caches; then everything works offline.

    What is there already is not fetched again, but checked. HF_HOME says where the Hugging Face cache is, TORCH_HOME
    where the judges' files lie.

    Args:
        only: a few of them, with commas between: t5, flan_t5, clap, demucs; the judges vggish, passt, passt-20s,
            laion_clap, pann, encodec; or any other T5 by its id on the hub (google/flan-t5-xl). By default all.
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
        print(f"{name:<10} {what} ...", flush=True)
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
        **_judges(),
    }


def _judges() -> dict[str, tuple[str, Callable[[], object]]]:
    """The judges of the paper's metrics, and two more; files are checked against the sha256 that is pinned here."""
    from evaluation.judges import published, resolve_judge

    def file(wanted: published.Published, judge: str) -> Callable[[], object]:
        return lambda: (published.fetch_published(wanted), resolve_judge(judge))

    return {
        "vggish": ("VGGish, the paper's judge of FAD", file(published.VGGISH, "vggish")),
        "passt": ("PaSST, the paper's judge of KL divergence", file(published.PASST, "passt")),
        "passt-20s": (
            "PaSST of twenty seconds, the judge of KL divergence in the protocol musicgen-paper",
            file(published.PASST_20S, "passt-20s"),
        ),
        "laion_clap": (
            f"{published.LAION_CLAP.file}, the paper's judge of CLAP score",
            file(published.LAION_CLAP, "clap"),
        ),
        "pann": ("Cnn14 at 16 kHz, another judge of FAD and KL divergence", file(published.PANN, "pann")),
        "encodec": ("facebook/encodec_24khz, another judge of FAD", lambda: resolve_judge("encodec")),
    }


def _text_encoder(name: str) -> Callable[[], object]:
    from lightning_modules.conditioning.t5 import load_text_encoder

    return lambda: load_text_encoder(name, trained=False)
