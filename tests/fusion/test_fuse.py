"""fuse(): which sources go in, what is said about it, and that a second call trains nothing."""

from dataclasses import replace

import pytest
from tiny import write_tiny_backbone
from toy_tasks import copied, toy_setup, write_task

import adaptmtl.fusion.fuse as module
from adaptmtl.adapters.bundle import ADAPTER, HEAD
from adaptmtl.adapters.methods import LoraMethod
from adaptmtl.errors import AdapterError, SelectionError, UnknownNameError
from adaptmtl.fusion.bench import FusionBench
from adaptmtl.fusion.fuse import fuse
from adaptmtl.selection.budget import Budget
from adaptmtl.transfer.sources import find_sources
from adaptmtl.zoo.build import train_adapters
from adaptmtl.zoo.store import Zoo

NAMES = ("opinion", "mood", "colour", "nouns")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_backbone):
    folder = tmp_path_factory.mktemp("fuse")
    setup = toy_setup(folder / "tasks", tiny_backbone, folder / "home", NAMES)
    train_adapters(setup, ["mood", "colour", "nouns"])
    return setup


@pytest.fixture
def setup(trained, tmp_path):
    """The same tasks and zoo, copied, so that each test starts from three source adapters."""
    return copied(trained, tmp_path / "home")


@pytest.fixture
def runs(monkeypatch):
    done = []
    real = module.run_fusion

    def counted(setup, target, entries, method, seed):
        done.append((target.spec.name, tuple(one.task for one in entries), method))
        return real(setup, target, entries, method, seed)

    monkeypatch.setattr(module, "run_fusion", counted)
    return done


def test_named_sources_make_one_adapter_that_is_served_from_the_zoo_the_second_time(setup, runs):
    first = fuse(setup, "opinion", sources=["mood", "colour"], name="best-opinion")
    assert runs == [("opinion", ("colour", "mood"), "merge")]
    assert (first.target, first.method, first.helped) == ("opinion", "merge", True)
    assert set(first.sources) == {"mood", "colour"} and first.choice.table is None
    assert first.summary == "sources as asked for: colour, mood"
    assert Zoo(setup.workspace).get("best-opinion").key == first.entry.key
    again = fuse(setup, "opinion", sources=["colour", "mood"])
    assert len(runs) == 1 and again.entry.key == first.entry.key
    manifest = first.entry.manifest()
    held = {entry.key: entry.name for entry in Zoo(setup.workspace).find(method="lora")}
    assert {one.key: one.name for one in manifest.sources} == {
        key: name for key, name in held.items() if name.startswith(("mood", "colour"))
    }
    assert manifest.method == "fused" and manifest.provenance["fusion"] == "merge"
    assert all(figure.n == 20 for figure in manifest.metrics.values())


def test_method_sources_rows_and_seed_are_other_adapters(setup):
    found = [
        fuse(setup, "opinion", sources=["mood", "colour"]),
        fuse(setup, "opinion", sources=["mood"]),
        fuse(setup, "opinion", sources=["mood", "colour"], method="scalearn"),
        fuse(setup, "opinion", sources=["mood", "colour"], rows=20),
        fuse(setup, "opinion", sources=["mood", "colour"], seed=1),
    ]
    assert len({one.entry.key for one in found}) == len(found)
    assert found[3].entry.train_rows == 20


NO_TRAINING = Budget(0, "trainings")


def test_auto_with_nothing_helpful_trains_the_target_alone_and_says_so(setup, expected, runs):
    expected(lambda sources: -0.1)
    made = fuse(setup, "opinion", budget=NO_TRAINING)
    assert (made.sources, made.helped, made.method) == ((), False, "target-only")
    assert made.summary.startswith("no source is expected to help (best: ")
    assert made.summary.endswith("the target is trained alone")
    assert set(made.choice.reasons) == {"mood", "colour", "nouns"}
    (own,) = train_adapters(setup, ["opinion"])
    assert own.key == made.entry.key, "target-only must be the adapter that train-adapters makes"
    assert made.entry.manifest().sources == () and made.entry.method == "lora"
    assert runs == []
    assert fuse(setup, "opinion", budget=NO_TRAINING).entry.key == own.key


def test_auto_takes_what_helps_and_gives_a_reason_for_each(setup, expected):
    expected(lambda sources: 0.1 if sources == {"mood"} else -0.1)
    made = fuse(setup, "opinion", budget=NO_TRAINING)
    assert made.sources == ("mood",) and made.helped and made.method == "merge"
    assert made.choice.reasons["mood"].startswith("kept: predicted +10.0%")
    assert made.choice.reasons["colour"].startswith("dropped: predicted −10.0%")
    assert made.summary.startswith("mood is expected to gain +10.0%")
    shown = made.to_dict()
    assert shown["sources"] == ["mood"] and shown["key"] == made.entry.key
    assert shown["choice"]["budget"] == "0" and len(shown["choice"]["sets"]) == 3


def test_auto_tries_the_best_for_real_by_default(setup):
    made = fuse(setup, "opinion")
    trial = made.choice.trial
    assert 3 <= trial.trainings <= 6 and trial.rows == 12 and len(trial.alone) >= 1
    assert made.helped is (trial.tried[0].gain.mean > 0)


def test_the_target_is_no_source_of_itself(setup, runs):
    train_adapters(setup, ["opinion"])
    with pytest.raises(SelectionError, match="target 'opinion' is among its own sources"):
        fuse(setup, "opinion", sources=["mood", "opinion"])
    assert "opinion" not in [entry.task for entry in find_sources(setup, setup.data("opinion")).entries]
    assert runs == []


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"sources": ["moood"]}, UnknownNameError, "unknown source 'moood'; did you mean mood"),
        ({"sources": ["trec"]}, SelectionError, "source 'trec' has no adapter .* train it: adaptmtl train-adapters"),
        ({"sources": []}, SelectionError, "sources is \\[\\]; give 'auto' or a list"),
        ({"sources": "mood"}, SelectionError, "sources is 'mood'; give 'auto' or a list"),
        ({"method": "mergee"}, UnknownNameError, "unknown fusion method 'mergee'; did you mean merge"),
    ],
)
def test_wrong_arguments_train_nothing(setup, runs, wrong, error, message):
    with pytest.raises(error, match=message):
        fuse(setup, "opinion", **{"sources": ["mood"], **wrong})
    assert runs == [] and len(Zoo(setup.workspace).entries()) == 3


def test_an_unknown_target_is_named(setup):
    with pytest.raises(UnknownNameError, match="unknown task 'opinoin'; did you mean opinion"):
        fuse(setup, "opinoin")


def test_an_empty_zoo_says_how_to_fill_it(trained, tmp_path):
    empty = replace(trained, workspace=replace(trained.workspace, home=tmp_path))
    with pytest.raises(SelectionError, match=r"the zoo has no source for 'opinion' .* adaptmtl train-adapters"):
        fuse(empty, "opinion")


def test_adapters_of_another_backbone_are_no_sources(setup, tmp_path):
    other = toy_setup(tmp_path / "tasks", str(write_tiny_backbone(tmp_path / "other", 1)), setup.workspace.home, NAMES)
    assert find_sources(other, other.data("opinion")).entries == ()
    with pytest.raises(SelectionError, match="source 'mood' has no adapter on backbone"):
        fuse(other, "opinion", sources=["mood"])


def test_adapters_on_other_layers_are_left_out_by_name_but_never_hide_one_that_fits(setup):
    wide = replace(setup, recipe=replace(setup.recipe, lower_layers=1))
    found = find_sources(wide, wide.data("opinion"))
    assert found.entries == ()
    assert {task for task, _ in found.excluded} == {"mood", "colour", "nouns"}
    assert all("other layers (lower_layers 2, targets all)" in reason for _, reason in found.excluded)
    (fewer,) = train_adapters(wide, ["mood"], rows=20)  # fewer rows than the one on other layers
    assert [entry.key for entry in find_sources(wide, wide.data("opinion")).entries] == [fewer.key]


def test_of_several_adapters_of_a_task_most_rows_then_the_lowest_seed_is_taken(setup):
    fewer, _ = train_adapters(setup, ["mood"], rows=20, seeds=(0, 1))
    full = next(entry for entry in find_sources(setup, setup.data("opinion")).entries if entry.task == "mood")
    assert full.train_rows == 48 and full.key != fewer.key


@pytest.mark.parametrize("method", ["merge", "scalearn", "joint"])
def test_sources_of_another_rank_and_scale_can_be_fused(setup, method):
    other = replace(setup, recipe=replace(setup.recipe, method=LoraMethod(rank=3, alpha=3.0)))
    made = fuse(other, "opinion", sources=["mood", "colour"], method=method)
    assert made.entry.load().lora_config["r"] == (4 if method == "scalearn" else 3)


def test_declared_overlap_is_excluded_and_refused_by_name(tmp_path, tiny_backbone):
    (tmp_path / "tasks").mkdir()
    write_task(tmp_path / "tasks", "mood")
    write_task(tmp_path / "tasks", "opinion", more="overlaps: [mood]\n")
    setup = toy_setup(tmp_path / "tasks", tiny_backbone, tmp_path / "home", ["mood", "opinion", "colour"])
    train_adapters(setup, ["mood", "colour"])
    found = find_sources(setup, setup.data("opinion"))
    assert [entry.task for entry in found.entries] == ["colour"]
    assert found.excluded == (("mood", "it shares rows with opinion"),)
    with pytest.raises(SelectionError, match="source 'mood' cannot be used for 'opinion': it shares rows"):
        fuse(setup, "opinion", sources=["mood"])


def test_measured_overlap_is_excluded_with_its_share(tmp_path, tiny_backbone):
    (tmp_path / "tasks").mkdir()
    for name in ("opinion", "mood", "colour"):
        write_task(tmp_path / "tasks", name)
    leaked = (tmp_path / "tasks" / "opinion-held.jsonl").read_text().splitlines(keepends=True)[:5]
    with (tmp_path / "tasks" / "mood-train.jsonl").open("a") as file:
        file.writelines(leaked)
    setup = toy_setup(tmp_path / "tasks", tiny_backbone, tmp_path / "home", [])
    train_adapters(setup, ["mood", "colour"])
    found = find_sources(setup, setup.data("opinion"))
    assert [entry.task for entry in found.entries] == ["colour"]
    assert found.excluded == (
        ("mood", "25.0% of the evaluation rows of opinion have a text that is in its training rows"),
    )


def test_a_source_whose_overlap_cannot_be_checked_is_told(setup):
    catalogue = replace(setup.catalogue, tasks={n: t for n, t in setup.catalogue.tasks.items() if n != "colour"})
    told = replace(setup, catalogue=catalogue)
    found = find_sources(told, told.data("opinion"))
    reason = "texts were not compared with those of opinion: no task of that name is known (--task-file)"
    assert "colour" in [entry.task for entry in found.entries] and found.unchecked == (("colour", reason),)
    made = fuse(told, "opinion", sources=["colour"])
    assert made.summary.endswith(f"; colour is used although {reason}")
    assert [one.overlap for one in made.entry.manifest().sources] == [reason]
    card = (made.entry.path / "README.md").read_text()
    assert "may be too good:**" in card and "was used although texts were not compared with" in card


def test_a_damaged_source_is_one_clear_error(setup, runs):
    entry = Zoo(setup.workspace).find(task="mood")[0]
    (entry.path / ADAPTER).write_bytes((entry.path / ADAPTER).read_bytes()[:200])
    with pytest.raises(AdapterError, match="was changed or truncated"):
        fuse(setup, "opinion", sources=["mood"])
    assert len(Zoo(setup.workspace).entries()) == 3


def test_a_damaged_source_is_left_out_by_an_automatic_choice_with_the_reason(setup, tmp_path):
    setup = copied(setup, tmp_path / "copy")
    entry = Zoo(setup.workspace).find(task="mood")[0]
    (entry.path / ADAPTER).write_bytes((entry.path / ADAPTER).read_bytes()[:200])
    made = fuse(setup, "opinion", budget=Budget(0, "trainings"))
    assert "mood" not in made.sources
    (reason,) = [reason for task, reason in made.choice.table.excluded if task == "mood"]
    assert "was changed or truncated" in reason


@pytest.mark.parametrize("rows", [3, 6])
def test_of_a_handful_of_rows_none_are_held_out(setup, rows):
    made = fuse(setup, "opinion", rows=rows)
    assert not made.choice.trial.trainings and "too few training rows to hold some out" in made.summary


def test_where_all_adapters_are_left_out_the_error_says_why(setup):
    other = replace(setup, recipe=replace(setup.recipe, lower_layers=1))
    with pytest.raises(SelectionError, match=r"no source for 'opinion' .*: 3 left out, 3 because its adapter sits on"):
        fuse(other, "opinion")


def test_a_trial_of_joint_training_is_priced_with_its_sources_steps(setup):
    entries = Zoo(setup.workspace).find(method="lora")
    merge, joint = (FusionBench(setup, setup.data("opinion"), method) for method in ("merge", "joint"))
    assert merge.price(entries) == joint.price([]) == 1.0
    one, both = joint.price(entries[:1]), joint.price(entries[:2])
    assert 1.5 < one < both < 6.0  # their own trainings were as long as the target's


def test_fused_again_from_nothing_gives_the_same_bytes(setup, tmp_path):
    import shutil

    first = fuse(setup, "opinion", sources=["mood", "colour"])
    bytes_of = {file: (first.entry.path / file).read_bytes() for file in (ADAPTER, HEAD)}
    shutil.rmtree(first.entry.path)
    shutil.rmtree(setup.workspace.home / "states", ignore_errors=True)
    again = fuse(setup, "opinion", sources=["colour", "mood"])
    assert {file: (again.entry.path / file).read_bytes() for file in bytes_of} == bytes_of
