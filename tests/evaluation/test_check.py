"""The check: every arm, the figures behind it, and that what is done stays done."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file
from toy_tasks import copied, toy_setup

import adaptmtl.evaluation.check as module
from adaptmtl.errors import AdaptMTLError, SelectionError, UnknownNameError
from adaptmtl.evaluation.arms import arms, flops_per_token, random_sources, with_rows
from adaptmtl.evaluation.check import DEFAULT_ARMS, check, make_plan
from adaptmtl.fusion.bench import FusionBench
from adaptmtl.selection.budget import Budget
from adaptmtl.selection.halving import Trial
from adaptmtl.selection.planner import Choice, plan_sources
from adaptmtl.statistics import holm, paired
from adaptmtl.tasks.metrics import metrics
from adaptmtl.training.multitask import Mixing
from adaptmtl.transfer.history import History
from adaptmtl.zoo.build import train_adapters

ALL = (*DEFAULT_ARMS[:3], "random_sources", *DEFAULT_ARMS[3:])
SOURCES = ("mood", "colour", "nouns")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_backbone):
    folder = tmp_path_factory.mktemp("check")
    setup = toy_setup(folder / "tasks", tiny_backbone, folder / "home", ("opinion", *SOURCES)).with_steps(4)
    train_adapters(setup, SOURCES)
    return setup


@pytest.fixture(scope="module")
def result(trained):
    return check(trained, "opinion", sources=["mood", "colour"], seeds=2, arms_wanted=ALL)


@pytest.fixture
def no_training(monkeypatch):
    monkeypatch.setattr(module, "evaluate", lambda *_: pytest.fail("an arm was trained again"))


def done(setup, name):
    """Facts and statistics of every finished run of an arm, by seed."""
    found = {}
    for folder in setup.workspace.folder("checks").iterdir():
        facts = json.loads((folder / "facts.json").read_text())
        if facts["provenance"]["arm"] == name:
            found[facts["provenance"]["seed"]] = (facts, load_file(folder / "statistics.safetensors"), folder)
    return found


def test_every_arm_is_there_with_its_figures(trained, result):
    assert set(arms) == set(ALL)
    assert [arm.name for arm in result.arms] == list(ALL)
    assert (result.n_rows, result.train_rows, result.steps, result.n_seeds) == (20, 48, 4, 2)
    assert set(result.sources) == {"mood", "colour"} and set(result.all_sources) == set(SOURCES)
    assert result.majority == 0.5 and result.metric == "accuracy" and result.margin == 0.01
    for arm in result.arms:
        assert len(arm.values) == 2 and arm.mean == pytest.approx(np.mean(arm.values))
        assert arm.sd == pytest.approx(np.std(arm.values, ddof=1)) and arm.low <= arm.mean <= arm.high
        assert arm.seconds > 0 and arm.examples > 0 and arm.tokens > 0 and arm.flops > 0 and arm.trained_parameters > 0
        assert arm.beats_majority is not None
        if arm.name == "fused":
            assert arm.difference is None and arm.p_value is None and arm.verdict is None
        else:
            assert arm.difference_low <= arm.difference <= arm.difference_high
            assert 0 <= arm.p_value <= 1 and arm.verdict in (
                "better",
                "worse",
                "not inferior",
                "no difference shown",
                "identical",
            )
    by_name = {arm.name: arm for arm in result.arms}
    assert by_name["target_full"].trained_parameters > 10 * by_name["target_adapter"].trained_parameters
    assert by_name["target_adapter"].upstream_seconds == 0 < by_name["multitask_all"].upstream_seconds
    assert by_name["multitask_all"].examples > by_name["multitask_chosen"].examples > by_name["target_full"].examples


def test_a_second_run_trains_nothing_and_says_the_same(trained, result, no_training):
    again = check(trained, "opinion", sources=["colour", "mood"], seeds=2, arms_wanted=ALL)
    assert again.arms == result.arms and again.seconds < result.seconds


def test_saved_statistics_reproduce_every_figure(trained, result):
    score = metrics["accuracy"].score
    stacks = {}
    for arm in result.arms:
        runs = done(trained, arm.name)
        assert sorted(runs) == [0, 1]
        for seed, (facts, statistics, _) in runs.items():
            value = float(score(statistics["accuracy"].sum(axis=0)))
            assert value == arm.values[seed] == facts["values"]["accuracy"]
        stacks[arm.name] = np.stack([runs[seed][1]["accuracy"] for seed in (0, 1)])
    others = [arm for arm in result.arms if arm.name != "fused"]
    compared = [paired(stacks["fused"], stacks[arm.name], score) for arm in others]
    assert [arm.difference for arm in others] == [one.difference for one in compared]
    assert [arm.p_value for arm in others] == holm([one.p_two_sided for one in compared]).tolist()


def test_the_result_is_plain_json(result):
    text = json.dumps(result.to_dict(), allow_nan=False)
    assert len(json.loads(text)["arms"]) == len(ALL)


def test_interrupted_between_runs_it_goes_on_and_ends_with_the_same_numbers(trained, result, tmp_path, monkeypatch):
    import shutil

    shutil.copytree(trained.workspace.home / "zoo", tmp_path / "home" / "zoo")

    class Killed(Exception):
        pass

    class Stops:
        said = 0

        def say(self, message):
            if ", seed " in message:
                Stops.said += 1
                if Stops.said == 3:
                    raise Killed

        def track(self, items, description, total=None):
            yield from items

    workspace = replace(trained.workspace, home=tmp_path / "home", reporter=Stops())
    setup = replace(trained, workspace=workspace)
    wanted = ("target_adapter", "fused", "multitask_chosen")
    with pytest.raises(Killed):
        check(setup, "opinion", sources=["mood", "colour"], seeds=2, arms_wanted=wanted)
    first = {folder.name for folder in workspace.folder("checks").iterdir()}
    assert len(first) == 3
    trainings, evaluate = [], module.evaluate

    def counted(*given):
        trainings.append(1)
        return evaluate(*given)

    monkeypatch.setattr(module, "evaluate", counted)
    ended = check(setup, "opinion", sources=["mood", "colour"], seeds=2, arms_wanted=wanted)
    assert len(trainings) == 3
    figures = {arm.name: arm.values for arm in result.arms}
    assert {arm.name: arm.values for arm in ended.arms} == {name: figures[name] for name in wanted}


@pytest.mark.parametrize("damage", ["statistics gone", "statistics cut", "facts cut", "statistics changed"])
def test_a_damaged_run_is_made_again(trained, result, damage):
    facts, _, folder = done(trained, "target_adapter")[1]
    path = folder / ("facts.json" if damage == "facts cut" else "statistics.safetensors")
    raw = path.read_bytes()
    if damage == "statistics gone":
        path.unlink()
    elif damage == "statistics changed":
        path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 64]))
    else:
        path.write_bytes(raw[: len(raw) // 2])
    again = check(trained, "opinion", sources=["mood", "colour"], seeds=2, arms_wanted=["target_adapter"])
    assert again.arms[0].values == result.arms[0].values
    assert done(trained, "target_adapter")[1][0]["values"] == facts["values"]


def test_a_damaged_shared_encoder_is_trained_again_to_the_same_bytes(trained, result):
    (folder, *_) = sorted(trained.workspace.folder("shared").iterdir())
    path = folder / "encoder.safetensors"
    raw = path.read_bytes()
    path.write_bytes(raw[:-4] + b"abcd")
    after = [*done(trained, "multitask_chosen").values(), *done(trained, "multitask_all").values()]
    for _, _, run in after:
        (run / "facts.json").unlink()
    again = check(trained, "opinion", sources=["mood", "colour"], seeds=2, arms_wanted=ALL)
    assert path.read_bytes() == raw
    assert [arm.values for arm in again.arms] == [arm.values for arm in result.arms]


def test_random_sources_depend_on_how_many_are_drawn(trained, result):
    one, two = (make_plan(trained, "opinion", names, "merge", None)[0] for names in (["mood"], ["mood", "colour"]))
    assert (len(random_sources(one, 0)), len(random_sources(two, 0))) == (1, 2)
    before = len(done(trained, "random_sources"))
    check(trained, "opinion", sources=["mood"], seeds=2, arms_wanted=["random_sources"])
    folders = [
        folder
        for folder in trained.workspace.folder("checks").iterdir()
        if json.loads((folder / "facts.json").read_text())["provenance"]["arm"] == "random_sources"
    ]
    assert before == 2 and len(folders) == 4, "one random source was taken for two"


def test_one_seed_has_no_deviation_and_joint_counts_what_it_trains(trained, monkeypatch):
    monkeypatch.setattr("adaptmtl.training.kept.Mixing", lambda: Mixing(patience=0))  # all steps, whatever is held out
    wanted = ["target_adapter", "fused"]
    merge = check(trained, "opinion", sources=["mood", "colour"], seeds=1, arms_wanted=wanted)
    joint = check(trained, "opinion", sources=["mood", "colour"], seeds=1, arms_wanted=wanted, method="joint")
    assert merge.arms[0].sd is None and all(math.isfinite(arm.low) for arm in merge.arms)
    assert joint.arms[1].examples > merge.arms[1].examples + 50 and joint.arms[1].flops > 1.5 * merge.arms[1].flops


@pytest.mark.parametrize("target", ["nouns"])
def test_without_accuracy_of_classes_there_is_no_majority(trained, target):
    found = check(trained, target, sources=["mood"], seeds=1, arms_wanted=["target_adapter"])
    assert found.majority is None and all(arm.beats_majority is None for arm in found.arms)
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"seeds": 0}, AdaptMTLError, "seeds is 0; give how many, 1 or more"),
        ({"arms_wanted": ["fusd"]}, UnknownNameError, "unknown arm 'fusd'; did you mean fused"),
        ({"method": "mergd"}, UnknownNameError, "unknown fusion method 'mergd'; did you mean merge"),
        ({"sources": ["opinion"]}, SelectionError, "target 'opinion' is among its own sources"),
        ({"sources": ["moood"]}, UnknownNameError, "unknown source 'moood'; did you mean mood"),
    ],
)
def test_wrong_arguments_are_told_before_anything_is_trained(trained, no_training, wrong, error, message):
    with pytest.raises(error, match=message):
        check(trained, "opinion", **{"sources": ["mood"], "seeds": 1, **wrong})


@pytest.mark.parametrize("taken", [True, False])
def test_the_fused_arm_pays_for_the_trial_that_chose_its_sources(trained, monkeypatch, taken):
    named = check(trained, "opinion", sources=["mood"], seeds=1, arms_wanted=["target_adapter", "fused"])
    before = {arm.name: arm for arm in named.arms}
    trial = Trial((0.5,), (), rows=12, trainings=2, seconds=7.5, examples=100, tokens=900)
    source = make_plan(trained, "opinion", ["mood"], "merge", None)[0].chosen

    def after_trial(*_):
        return Choice(source if taken else (), "after a trial", {}, trial=trial)

    with monkeypatch.context() as patch:
        patch.setattr(module, "choose_sources", after_trial)
        tried = check(trained, "opinion", seeds=1, arms_wanted=["target_adapter", "fused"])
    alone, fused = tried.arms
    assert alone == replace(before["target_adapter"], difference=alone.difference, verdict=alone.verdict,
                            difference_low=alone.difference_low, difference_high=alone.difference_high,
                            p_value=alone.p_value)  # fmt: skip
    stands = before["fused" if taken else "target_adapter"]
    assert fused.upstream_seconds == pytest.approx(stands.upstream_seconds + 7.5)
    assert (fused.examples, fused.tokens) == (stands.examples + 100, stands.tokens + 900)
    assert fused.flops == pytest.approx(stands.flops + 900 * flops_per_token(trained, full=False))
    again = check(trained, "opinion", sources=["mood"], seeds=1, arms_wanted=["target_adapter", "fused"])
    assert again.arms == named.arms, "named sources take no trial"


def test_a_check_whose_trainings_are_held_tokenises_nothing(trained, result, no_training, monkeypatch):
    given = {"sources": ["colour", "mood"], "seeds": 2, "arms_wanted": ALL}
    first = check(trained, "opinion", **given)
    monkeypatch.setattr("adaptmtl.training.data.encode", lambda *_, **__: pytest.fail("rows were tokenised"))
    monkeypatch.setattr("adaptmtl.training.setup._LOADED", {})
    assert check(trained, "opinion", **given).arms == first.arms


def test_multi_task_training_takes_the_adapters_steps_whatever_the_targets(trained, result, monkeypatch):
    monkeypatch.setattr("adaptmtl.training.kept.train_shared", lambda *_, **__: pytest.fail("it was trained anew"))
    other = check(trained.with_steps(2), "opinion", sources=["mood", "colour"], seeds=1, arms_wanted=["multitask_all"])
    before = next(one for one in result.arms if one.name == "multitask_all")
    assert other.steps == 2 and other.arms[0].upstream_seconds == before.upstream_seconds


def test_adapters_of_unknown_tasks_are_no_part_of_multi_task_training():
    plan = SimpleNamespace(setup=SimpleNamespace(catalogue=SimpleNamespace(tasks={"rte": 1, "trec": 2})))
    rte, pulled = SimpleNamespace(task="rte"), SimpleNamespace(task="pulled")
    assert with_rows(plan, (pulled, rte)) == (rte,)
    with pytest.raises(SelectionError, match=r"no known task among pulled.*tasks add"):
        with_rows(plan, (pulled,))


def test_what_the_arms_gained_goes_into_the_history(trained):
    check(trained, "opinion", sources=["mood"], seeds=2, arms_wanted=["target_adapter", "best_source", "fused"])
    history = History(trained.workspace).history(trained.backbone.hash)
    assert history.embeddings["opinion"].shape == (trained.backbone.hidden_size,)
    rows = [row for row in history.rows if row.target == "opinion"]
    found = {(row.sources, row.method, row.seed) for row in rows if not row.method.startswith("trial")}
    assert {(("mood",), how, seed) for how in ("start", "merge") for seed in (0, 1)} <= found
    assert all(row.metric == "accuracy" and 0 <= row.score <= 1 and 0 <= row.baseline <= 1 for row in rows)


def test_what_owes_its_gain_to_shared_texts_is_no_part_of_the_history(trained, tmp_path):
    setup = replace(copied(trained, tmp_path / "home"), allow_overlap=True)
    history, spec = History(setup.workspace), setup.catalogue.tasks["mood"]
    history.path.unlink(missing_ok=True)  # of other tests
    leaking = setup.catalogue.tasks | {"mood": spec.model_copy(update={"overlaps": ("opinion",)})}
    setup = replace(setup, catalogue=replace(setup.catalogue, tasks=leaking))
    for source in ("mood", "colour"):
        check(setup, "opinion", sources=[source], seeds=1, arms_wanted=["target_adapter", "best_source"])
    plan_sources(setup, "opinion", FusionBench(setup, setup.data("opinion"), "merge"), budget=Budget(8, "trainings"))
    rows = history.history(setup.backbone.hash).rows
    assert {row.sources for row in rows if row.method in ("start", "merge")} == {("colour",)}
    assert {row.method for row in rows} == {"start", "merge", "trial of merge"}
    assert not any("mood" in row.sources for row in rows)


def test_a_named_source_beyond_those_that_are_looked_at_is_one_of_all_sources(trained, monkeypatch):
    monkeypatch.setattr("adaptmtl.transfer.sources.MOST_CHECKED", 1)
    plans = [make_plan(trained, "opinion", [name], "merge", None)[0] for name in ("mood", "colour")]
    assert all(plan.chosen[0] in plan.all_sources for plan in plans)
    assert {len(plan.all_sources) for plan in plans} == {1, 2}


def test_the_best_of_named_sources_is_the_best_predicted(trained, expected):
    for best, other in (("mood", "colour"), ("colour", "mood")):
        expected(lambda sources, best=best: 0.1 * (best in sources))
        plan, _ = make_plan(trained, "opinion", ["colour", "mood"], "merge", None)
        assert [entry.task for entry in plan.chosen] == [best, other]
        assert plan.all_sources[0].task == best
