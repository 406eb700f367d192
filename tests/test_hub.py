"""What comes from the Hugging Face hub is looked for on this machine first. Nothing is asked here."""

import pytest
from safetensors import SafetensorError

from datamodules import hub
from datamodules.errors import InputError
from datamodules.hub import IncompleteError, local_first


class Loader:
    """Raises each of these in turn, and then gives its name; remembers how it was asked."""

    def __init__(self, *errors):
        self.errors, self.asked = list(errors), []

    def __call__(self, name, local):
        self.asked.append((name, local))
        if self.errors:
            raise self.errors.pop(0)
        return name.upper()


def asked(loader, name="some/net", reachable=True):
    """What comes of it, or the error's message, and how the loader was asked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub, "hub_reachable", lambda: reachable)
        try:
            made = local_first(loader, name, "the net", "give another")
        except InputError as error:
            made = str(error)
            assert "\n" not in made
    return made, [local for _, local in loader.asked]


ABSENT = "the net some/net is not on this machine and cannot be fetched; run `make weights` where there is a network "
ABSENT += "(HF_HOME is the cache), or give another"


@pytest.mark.parametrize("error", [OSError("x\ny"), ValueError(), SafetensorError(), IncompleteError("2 tokens")])
def test_the_hub_is_asked_only_for_what_is_not_there(tmp_path, error):
    assert asked(Loader()) == ("SOME/NET", [True])
    assert asked(Loader(error)) == ("SOME/NET", [True, False])
    found = " (found: 2 tokens)" if isinstance(error, IncompleteError) else ""
    told = ABSENT.replace("machine", f"machine{found}")
    assert asked(Loader(error, error)) == (told, [True, False])
    assert asked(Loader(error), reachable=False) == (told, [True])
    damaged = f"the net {tmp_path}: files are missing or damaged{found}; fetch it again"
    assert asked(Loader(error), str(tmp_path)) == (damaged, [True])


def test_what_a_loader_itself_refuses_is_not_asked_for_elsewhere():
    assert asked(Loader(InputError("no T5"))) == ("no T5", [True])
    assert asked(Loader(OSError(), InputError("no T5"))) == ("no T5", [True, False])
    # As transformers tells of a shape that does not fit.
    assert asked(Loader(RuntimeError("size mismatch"))) == (ABSENT, [True])
