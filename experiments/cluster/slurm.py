"""A run as a job of SLURM: the file for sbatch, and its submission.

The job runs the same ``mgl train`` under srun, a task for each GPU. Shortly before its time is up SLURM signals every
task; the run ends after its step, with a checkpoint, and leaves a marker in its folder; the script then has SLURM queue
the job again, under the same number and with the same log and folder, where it goes on. It is the script that asks for
that, not the run: in a container there is no ``scontrol``.
"""

import shlex
import shutil
import subprocess
from pathlib import Path

from datamodules.errors import InputError
from experiments.callbacks.guards import QUEUE_AGAIN
from experiments.cluster.site import Site

SCRIPT = "job.sbatch"
_LOG = "slurm-%j.log"

_TEMPLATE = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node={gpus}
#SBATCH --gpus-per-node={gpus}
#SBATCH --cpus-per-task={site.cpus_per_task}
#SBATCH --time={site.time}
#SBATCH --chdir={here}
#SBATCH --output={run}/{log}
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=USR1@{site.warning}
{options}
{lines}
rm -f {marker}
srun --cpus-per-task={site.cpus_per_task} --kill-on-bad-exit=1 {command}
code=$?
# The run leaves this file when it was told that time is up, and has written its checkpoint.
if [ -e {marker} ]; then
  rm -f {marker}
  scontrol requeue "$SLURM_JOB_ID" && exit 0
  echo "the job could not be queued again; go on with: sbatch {run}/{script}" >&2
  exit 1
fi
exit $code
"""


def job(site: Site, run: str, nodes: int, command: list[str], gpus: int | None = None) -> str:
    """The text of the file for sbatch.

    Args:
        site: where it runs.
        run: folder of the run.
        nodes: how many.
        command: of a task: arguments of ``mgl``.
        gpus: of each node; by default all.
    """
    folder = Path(run).absolute()
    named = {"account": site.account, "partition": site.partition}
    options = [f"--{name}={value}" for name, value in named.items() if value] + site.options
    words = [*shlex.split(site.container), site.interpreter, "-m", "experiments", *command]
    text = _TEMPLATE.format(
        name=f"mgl-{folder.name}",  # "bash" and "interactive" would mean a shell to Lightning
        nodes=nodes,
        gpus=gpus or site.gpus_per_node,
        site=site,
        here=shlex.quote(str(Path.cwd())),
        run=shlex.quote(str(folder)),
        log=_LOG,
        script=SCRIPT,
        marker=shlex.quote(str(folder / QUEUE_AGAIN)),
        options="\n".join(f"#SBATCH {one}" for one in options),
        lines="\n".join([f"module load {' '.join(site.modules)}"] * bool(site.modules) + site.lines),
        command=shlex.join(words),
    )
    return "\n".join(line for line in text.splitlines() if line) + "\n"


def submit(text: str, run: str) -> dict[str, str]:
    """Writes the file into the run's folder and gives it to sbatch.

    Returns:
        What to tell the user: the job's number, its log, and the run's folder.

    Raises:
        InputError: there is no sbatch here, or it refused.
    """
    if shutil.which("sbatch") is None:
        raise InputError("there is no sbatch on this machine; submit from a login node, or print the file with DRY=1")
    folder = Path(run).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SCRIPT).write_text(text, encoding="utf-8")
    done = subprocess.run(["sbatch", "--parsable", str(folder / SCRIPT)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"sbatch refused {folder / SCRIPT}: {' '.join(done.stderr.split()) or 'it does not say why'}")
    number = done.stdout.strip().split(";")[0]
    return {"job": number, "log": str(folder / _LOG.replace("%j", number)), "run": str(folder)}
