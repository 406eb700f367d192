"""`mgl evaluate`: a folder of generated clips -> results.json."""


def evaluate(
    generated: str,
    reference: str,
    judge: str | dict[str, str] = "",
    out: str = "results.json",
    seed: int = 0,
    allow_failed: bool = False,
    protocol: str = "default",
    reference_statistics: str = "",
    devices: int = 0,
) -> None:
    """Scores generated clips: FAD, KL divergence, CLAP score and chroma similarity, each with an interval.

    Args:
        generated: Folder that `mgl generate` wrote, or any folder with a manifest.jsonl.
        reference: Manifest of the references, or a folder that holds one; clips are paired by id.
        judge: The network that listens, in place of the protocol's: "embedded", a judge's folder, or a published
            network that is on this machine (vggish, passt, passt-20s, pann, clap, encodec; `make weights` fetches
            them); for each metric its own: "{fad: vggish, kld: passt, clap: clap}".
        out: Where the results go.
        seed: Seed of everything random: bootstrap, groups of the jackknife, shuffled rows.
        allow_failed: Be content with the clips that could be heard; without it the results are written all the same,
            and the command ends with exit code 1.
        protocol: How every metric is computed: default, embedded, musicgen-paper, stable-audio-metrics, or a .yaml file
            of your own (see docs/metrics.md).
        reference_statistics: What FAD is taken to in place of the references: FILE.npz of this suite, or FILE.npz:MODEL
            of fadtk (fma_pop.npz:vggish).
        devices: How many GPUs listen, a process each, with the same results; 0 is every visible one. Where there is
            none, how many processes on the CPU; 0 is one.
    """
    import sys

    from rich.console import Console

    from evaluation.runner import evaluate as run
    from evaluation.tables import failures_text, scores_table

    results = run(
        generated,
        reference,
        judge or None,
        out,
        seed,
        protocol=protocol,
        reference_statistics=reference_statistics or None,
        devices=devices,
    )
    Console().print(scores_table([results]))
    for line in failures_text(results):
        print(line)
    print(f"wrote {out}")
    if results["failed"] and not allow_failed:
        count = len(results["failed"])
        print(
            f"mgl evaluate: {count} of {count + results['n']} clips could not be scored; mend them, or accept it with "
            "--allow_failed true",
            file=sys.stderr,
        )
        sys.exit(1)
