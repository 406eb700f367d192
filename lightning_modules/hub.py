"""Whether the Hugging Face hub can be asked, found out in seconds.

huggingface_hub retries for half a minute where there is no network, and once more for every file.
"""

import os
import socket
from urllib.parse import urlsplit
from urllib.request import getproxies

_TIMEOUT_SECONDS = 3.0


def hub_reachable() -> bool:
    """False in offline mode (HF_HUB_OFFLINE) and where the hub's host does not answer; a proxy is trusted."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or os.environ.get("TRANSFORMERS_OFFLINE", "0") not in ("", "0"):
        return False
    if getproxies().get("https"):
        return True
    url = urlsplit(constants.ENDPOINT)
    try:
        socket.create_connection((url.hostname or "", url.port or 443), timeout=_TIMEOUT_SECONDS).close()
    except OSError:
        return False
    return True
