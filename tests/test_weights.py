"""``mgl weights``: what cannot be had is named, and the rest is fetched all the same."""

import pytest

from datamodules.errors import InputError
from experiments.commands import weights as command


@pytest.fixture
def loaded(monkeypatch):
    """Names that were loaded; "b" cannot be had."""
    names = []

    def load(name):
        names.append(name)
        if name == "b":
            raise InputError("it is not on this machine")

    monkeypatch.setattr(command, "_known", lambda: {name: (f"the {name}", lambda n=name: load(n)) for name in "abc"})
    return names


def test_all_or_a_few(loaded, capsys):
    command.weights("c, a")
    assert loaded == ["c", "a"]
    assert capsys.readouterr().out.splitlines()[-1] == "2 of 2 are on this machine"
    loaded.clear()
    with pytest.raises(InputError, match="1 of 3 could not be had: b;"):
        command.weights()
    assert loaded == ["a", "b", "c"]
    assert "  it is not on this machine\n" in capsys.readouterr().out
    with pytest.raises(InputError, match="no weights 'd'; choose of a, b, c"):
        command.weights("a,d")


def test_what_errors_name_is_what_can_be_fetched():
    """The layers' encoders, and the separator that melodies are heard through."""
    import yaml

    from experiments.compose import CONFIGS

    known = " ".join(what for what, _ in command._known().values())
    for layer in ("t5", "flan_t5", "clap"):
        text = yaml.safe_load((CONFIGS / "conditioning" / f"{layer}.yaml").read_text())["model"]["init_args"]["text"]
        assert text["name"] in known
    assert "htdemucs" in known
