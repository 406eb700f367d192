"""Stages: what is finished is passed over, what changed is done again with all that is made from it."""

import pytest

from datamodules.errors import InputError
from experiments import __main__ as door
from experiments.pipeline import Stage, run_stages
from experiments.recipes import demo_stages

STAGES = [
    Stage("corpus", "corpus --out OUT/corpus", "corpus"),
    Stage("codec", "fit --run OUT/codec", "codec", ("corpus",)),
    Stage("tokens", "tokens --out OUT/tokens", "tokens", ("codec",)),
    Stage("judge", "fit --run OUT/judge", "judge", ("corpus",)),
]


@pytest.fixture
def ran(monkeypatch):
    """Names of the results that commands wrote."""
    names = []

    def run(name, arguments):
        result = arguments[-1]
        names.append(result.rpartition("/")[2])
        with open(result, "a") as file:
            file.write("x")

    monkeypatch.setattr(door, "run", run)
    return names


def again(ran, folder, stages=STAGES, until="judge"):
    ran.clear()
    run_stages(stages, folder, until)
    return list(ran)


def test_finished_stages_are_passed_over(tmp_path, ran):
    assert again(ran, tmp_path) == ["corpus", "codec", "tokens", "judge"]
    assert again(ran, tmp_path) == []


def test_a_stage_whose_result_is_gone_is_done_again_with_what_needs_it(tmp_path, ran):
    again(ran, tmp_path)
    (tmp_path / "codec").unlink()
    assert again(ran, tmp_path) == ["codec", "tokens"]
    assert again(ran, tmp_path) == []


def test_a_changed_command_is_done_again_with_what_needs_it(tmp_path, ran):
    again(ran, tmp_path)
    changed = [STAGES[0], Stage("codec", "fit --seed 1 --run OUT/codec", "codec", ("corpus",)), *STAGES[2:]]
    assert again(ran, tmp_path, changed) == ["codec", "tokens"]
    assert again(ran, tmp_path, changed) == []


def test_an_edited_layer_makes_its_stage_run_again(tmp_path, ran):
    layer = tmp_path / "mine.yaml"
    layer.write_text("a: 1")
    stages = [Stage("codec", f"fit -c {layer} --run OUT/codec", "codec")]
    again(ran, tmp_path, stages, "codec")
    assert again(ran, tmp_path, stages, "codec") == []
    layer.write_text("a: 2")
    assert again(ran, tmp_path, stages, "codec") == ["codec"]


def test_until_ends_early(tmp_path, ran):
    assert again(ran, tmp_path, until="codec") == ["corpus", "codec"]
    assert again(ran, tmp_path) == ["tokens", "judge"]
    with pytest.raises(InputError, match="no stage 'codek'"):
        run_stages(STAGES, tmp_path, "codek")


@pytest.mark.parametrize("broken", ["corpus", "codec", "tokens"])
def test_what_breaks_off_goes_on_there(tmp_path, ran, monkeypatch, broken):
    again(ran, tmp_path)
    (tmp_path / "corpus").unlink()  # everything has to be made again ...
    whole = door.run

    def run(name, arguments):
        if arguments[-1].endswith(broken):
            raise KeyboardInterrupt
        whole(name, arguments)

    monkeypatch.setattr(door, "run", run)
    with pytest.raises(KeyboardInterrupt):
        again(ran, tmp_path)
    before = list(ran)
    monkeypatch.setattr(door, "run", whole)
    rest = again(ran, tmp_path)  # ... although the old results still lie there
    assert before + rest == ["corpus", "codec", "tokens", "judge"]


def test_the_demos_stages_stand_in_order(tmp_path):
    stages = demo_stages(12, 0)
    names = [stage.name for stage in stages]
    assert len(set(names)) == len(names)
    for place, stage in enumerate(stages):
        assert set(stage.needs) <= set(names[:place])
    # Whatever a stage reads of another's folder, it needs that stage.
    for stage in stages:
        for other in stages:
            if other is not stage and f"OUT/{other.result}" in stage.command.split():
                assert other.name in stage.needs
