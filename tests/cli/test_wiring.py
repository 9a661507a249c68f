"""Every option reaches what it is an option of: commands are run with other values than the defaults."""

from types import SimpleNamespace

import pytest
from toy_tasks import write_task

from adaptmtl.cli.main import main


class Reached(Exception):
    """Ends a command where the library would begin to work."""


@pytest.fixture
def place(tmp_path, tiny_backbone):
    (tmp_path / "tasks").mkdir()
    for name in ("opinion", "mood"):
        write_task(tmp_path / "tasks", name)
    return SimpleNamespace(
        general=["--home", str(tmp_path / "home"), "--task-file", str(tmp_path / "tasks"), "--offline", "--quiet"],
        training=["--backbone", tiny_backbone, "--rows", "31", "--eval-rows", "13", "--rank", "3", "--alpha", "7",
                  "--lower-layers", "2", "--epochs", "1.5", "--batch-size", "5", "--learning-rate", "0.004",
                  "--max-length", "24"],
    )  # fmt: skip


@pytest.fixture
def reached(monkeypatch):
    """What the library's functions were given, under the first one's name."""
    found = {}
    for home, name in (
        ("adaptmtl.zoo.build", "train_adapters"), ("adaptmtl.selection.reading", "rank_sources"),
        ("adaptmtl.fusion.fuse", "fuse"), ("adaptmtl.evaluation.check", "check"),
    ):  # fmt: skip

        def stop(setup, *given, _name=name, **more):
            found.update(name=_name, setup=setup, given=given, more=more)
            raise Reached

        monkeypatch.setattr(f"{home}.{name}", stop)
    return found


def settings(setup):
    recipe = setup.recipe
    return (recipe.method.rank, recipe.method.alpha, recipe.lower_layers, recipe.epochs, recipe.steps,
            recipe.batch_size, recipe.learning_rate, setup.encoding.max_length, setup.eval_rows)  # fmt: skip


@pytest.mark.parametrize(
    ("command", "given", "more"),
    [
        (["train-adapters", "--tasks", "mood,opinion", "--seeds", "3"], (["mood", "opinion"],),
         {"rows": 31, "seeds": 3}),
        (["transfer", "--target", "opinion", "--sources", "mood", "--seed", "4"], ("opinion",),
         {"rows": 31, "sources": ["mood"], "seed": 4}),
        (["fuse", "--target", "opinion", "--sources", "mood", "--method", "scalearn", "--name", "mine", "--seed", "4",
          "--budget", "9%"], ("opinion",),
         {"rows": 31, "sources": ["mood"], "method": "scalearn", "name": "mine", "seed": 4, "budget": "9%"}),
        (["check", "--target", "opinion", "--method", "joint", "--seeds", "3", "--arms", "fused,best_source",
          "--margin", "0.02", "--budget", "7"], ("opinion",),
         {"rows": 31, "sources": "auto", "method": "joint", "seeds": 3, "arms_wanted": ["fused", "best_source"],
          "margin": 0.02, "budget": "7"}),
    ],
)  # fmt: skip
def test_options_reach_the_library(place, reached, command, given, more):
    with pytest.raises(Reached):
        main([*command, *place.training, *place.general])
    assert reached["name"] == command[0].replace("-", "_").replace("transfer", "rank_sources")
    assert settings(reached["setup"]) == (3, 7.0, 2, 1.5, None, 5, 0.004, 24, 13)
    assert reached["given"] == given and {**reached["more"], "budget": str(reached["more"].get("budget"))} == {
        **more, "budget": str(more.get("budget"))
    }  # fmt: skip


@pytest.mark.parametrize("command", ["transfer", "fuse", "check"])
def test_rules_for_sources_reach_the_library(place, reached, command):
    for options, expected in (
        ([], (False, ())), (["--allow-overlap"], (True, ())), (["--refuse-licence", "nc,nd"], (False, ("nc", "nd"))),
    ):  # fmt: skip
        with pytest.raises(Reached):
            main([command, "--target", "opinion", *options, *place.training, *place.general])
        assert (reached["setup"].allow_overlap, reached["setup"].refused_licences) == expected


def test_a_file_is_read_as_its_options_say(place, reached, tmp_path):
    lines = [f"{i},words {i} here,{'yes' if i % 2 else 'no'},{i % 3}" for i in range(40)]
    (tmp_path / "mine.csv").write_text("\n".join(["id,said,verdict,topic", *lines, ""]))
    (tmp_path / "held.csv").write_text("\n".join(["id,said,verdict,topic", *lines[:9], ""]))
    own = ["--data", str(tmp_path / "mine.csv"), "--validation", str(tmp_path / "held.csv"), "--label-column", "topic",
           "--text-columns", "said", "--kind", "sequence_classification", "--task-name", "ours"]  # fmt: skip
    general = [one for one in place.general if one not in ("--task-file", str(tmp_path / "tasks"))]
    with pytest.raises(Reached):
        main(["train-adapters", *own, *place.training, *general])
    (spec,) = [reached["setup"].catalogue.tasks[name] for name in reached["given"][0]]
    assert spec.name == "ours" and spec.rows[0].columns == {"text": "said", "label": "topic"}
    assert spec.rows[0].validation == str(tmp_path / "held.csv")
    with pytest.raises(Reached):
        main(["transfer", "--target", str(tmp_path / "mine.csv"), "--task-name", "ours", *place.training, *general])
    assert reached["setup"].catalogue.tasks["ours"] == spec, "the kept task is the one that is used"


def test_a_file_that_cannot_be_read_is_one_line(place, capsys, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", "/somewhere/rows.csv")

    monkeypatch.setattr("adaptmtl.zoo.build.train_adapters", refuse)
    assert main(["train-adapters", "--tasks", "mood", *place.training, *place.general]) == 2
    assert "error: Permission denied: /somewhere/rows.csv; check that path" in capsys.readouterr().err
