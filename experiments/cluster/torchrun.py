"""A run under torchrun, which starts it again when one of its processes fails."""

import sys
from collections.abc import Mapping

from datamodules.errors import InputError

# A place to meet for each start of the processes. torchrun would have them meet where those before them did, and read
# each other's old addresses there: they hang, or fail to connect (pytorch/pytorch issue 135712).
ENVIRONMENT = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
_RESTARTS = 3


def torchrun(command: list[str], devices: int, nodes: int, environment: Mapping[str, str]) -> list[str]:
    """The command line that starts ``mgl`` with these arguments once for each device of this node.

    With several nodes it is given on each; they meet at MASTER_ADDR and MASTER_PORT.

    Raises:
        InputError: there are several nodes, and no place to meet is named.
    """
    words = [sys.executable, "-m", "torch.distributed.run"]
    words += [f"--nproc-per-node={devices}", f"--max-restarts={_RESTARTS}"]
    if nodes == 1:
        words.append("--standalone")
    else:
        if "MASTER_ADDR" not in environment:
            raise InputError(
                f"{nodes} nodes have to meet somewhere: give MASTER_ADDR=the first node's name, on every node"
            )
        place = f"{environment['MASTER_ADDR']}:{environment.get('MASTER_PORT', '29400')}"
        words += [f"--nnodes={nodes}", "--rdzv-backend=c10d", f"--rdzv-endpoint={place}", "--rdzv-id=mgl"]
    # "--": or torchrun would take our --run for an abbreviation of its own.
    return [*words, "-m", "--", "experiments", *command]
