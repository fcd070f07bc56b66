"""Reports of hand-made rows."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import yaml
from benchmark import report
from benchmark.results import COLUMNS
from benchmark.suite import Suite

STEPS = {"Easy": 100, "Hard": 200}


@pytest.fixture
def suite(tmp_path):
    fields = dict(
        measure="training",
        window=50,
        last=100,
        seeds=[0, 1, 2],
        steps=STEPS,
        contenders={"A": dict(algo="dqn", entry={}), "B": dict(algo="dqn", entry={}), "C": dict(algo="dqn", entry={})},
        normalise=dict(source="made up", scores={"Easy": [0, 10], "Hard": [-100, 100]}),
        reference=dict(source="nobody", scores={"A": {"Easy": [4, 8]}, "B": {"Hard": 20}}),
    )
    path = tmp_path / "made.yml"
    path.write_text("# What it shows.\n" + yaml.safe_dump(fields))
    return Suite(path)


def rows(*runs):
    """
    :param runs: contender, environment, seed, and (step, mean, episodes) of each row
    :return: as a CSV file has them
    """
    table = [
        (algo, env, seed, step, mean, 1.0, episodes) for algo, env, seed, *of_run in runs for step, mean, episodes in of_run
    ]
    return pd.DataFrame(table, columns=COLUMNS)


ROWS = rows(
    ("A", "Easy", 0, (50, 2.0, 1), (100, 6.0, 3)),
    ("A", "Easy", 1, (50, 6.0, 2), (100, 6.0, 2)),
    ("A", "Hard", 0, (50, -100.0, 9), (100, -100.0, 9), (150, 0.0, 2), (200, 60.0, 1)),
    ("A", "Hard", 1, (150, 50.0, 1), (200, 50.0, 1)),
    ("B", "Easy", 0, (50, 10.0, 5), (100, 10.0, 5)),
)


def test_final_scores_count_each_episode_of_the_last_steps_once(suite):
    scores = report.final_scores(suite, ROWS).set_index(["algo", "env", "seed"])["score"]
    assert scores["A", "Easy", 0] == pytest.approx((2 + 3 * 6) / 4)
    assert scores["A", "Hard", 0] == pytest.approx((2 * 0 + 60) / 3)
    assert len(scores) == 5
    suite.last = 0
    assert report.final_scores(suite, ROWS).set_index(["algo", "env", "seed"])["score"]["A", "Hard", 0] == 60


def test_aggregates_take_normalised_scores_of_whole_seeds(suite):
    scores = report.matrices(suite, report.normalised(suite, report.final_scores(suite, ROWS)))
    assert list(scores) == ["A"]  # B has no seed on both environments
    np.testing.assert_allclose(scores["A"], [[0.5, 0.6], [0.6, 0.75]])
    points, intervals = report.estimates(scores, report.aggregates)
    np.testing.assert_allclose(points["A"], [0.6125, 0.6])  # mean, and mean of the middle half
    low, high = intervals["A"]
    assert (low <= points["A"]).all() and (points["A"] <= high).all() and (low < high).all()


@pytest.mark.slow
def test_intervals_cover_the_mean_about_as_often_as_they_say():
    generator = np.random.default_rng(0)
    covered = []
    for _ in range(100):
        values = {"": generator.normal(5.0, 2.0, (20, 2))}
        low, high = report.estimates(values, lambda scores: np.array([scores.mean()]))[1][""][:, 0]
        covered.append(low < 5.0 < high)
    assert 0.85 <= np.mean(covered) <= 1.0


def test_the_report_names_what_has_not_been_run(suite, tmp_path):
    ROWS.to_csv(tmp_path / "made.csv", index=False)
    text = report.write(suite, tmp_path)
    assert text == (tmp_path / "made.md").read_text()
    assert "What it shows." in text and "nobody" in text
    assert "| Easy | A | 5.5 [5, 6] | 2 | 4 to 8 | 5, 6 |" in text
    assert "| Easy | B | 10 | 1 |  | 10 |" in text
    assert "| Hard | B | not run | 0 | 20 | |" in text
    assert "| Hard | C | not run | 0 |  | |" in text
    assert "| A | 2 | 0.613 [" in text
    for kind in ("curves", "aggregates", "profiles"):
        assert f"made_{kind}.png" in text
        assert (tmp_path / f"made_{kind}.png").stat().st_size > 5000


def test_runs_of_one_row_have_no_curves(suite, tmp_path):
    ROWS[ROWS["step"] == 100].to_csv(tmp_path / "made.csv", index=False)
    assert "curves" not in report.write(suite, tmp_path)
    assert not list(tmp_path.glob("*_curves.png"))


def test_the_report_leaves_out_what_is_not_in_the_suite(suite):
    suite.contenders["C"]["envs"] = ["Easy"]
    lines = report.score_table(suite, report.final_scores(suite, ROWS))
    assert "| Easy | C | not run | 0 |  | |" in lines and not any("| Hard | C |" in line for line in lines)


def test_a_suite_without_rows(suite, tmp_path):
    with pytest.raises(ValueError, match="suite=made has no results in"):
        report.write(suite, tmp_path)


def test_intervals_are_the_same_each_time():
    scores = {"": np.random.default_rng(0).normal(size=(20, 3))}
    bounds = [report.estimates(scores, report.aggregates)[1][""] for _ in range(2)]
    assert np.array_equal(*bounds)


def test_many_contenders_with_long_names_have_their_own_colours_in_a_legend_that_fits(suite, tmp_path, monkeypatch):
    contenders = [f"{name}, with a name that is about as long as they get" for name in "ABCDEFGHIJKL"]
    suite.contenders = dict.fromkeys(contenders, suite.contenders["A"])
    table = rows(*((name, env, 0, (100, 1.0, 1)) for name in contenders for env in STEPS))
    monkeypatch.setattr(plt, "close", lambda figure: None)
    with plt.rc_context():
        plt.rcdefaults()  # whatever style a test before has set
        report.draw_curves(suite, table, tmp_path / "curves.png")
    figure = plt.gcf()
    monkeypatch.undo()
    (legend,) = figure.legends
    assert figure.bbox.count_contains(legend.get_window_extent().get_points()) == 2
    assert len({line.get_color() for line in figure.axes[0].lines}) == len(contenders)
    assert figure.axes[0].get_window_extent().height > 150
    plt.close(figure)


def test_numbers_have_four_digits_and_no_powers_of_ten():
    values = [17389.0, 16944.4, 1234567.0, 420.84, -77.649, 493.0, 0.05, -200.0, 0.0]
    assert [report.number(value) for value in values] == "17390 16940 1235000 420.8 -77.65 493 0.05 -200 0".split()
    assert report.interval(np.array([17389.0])) == "17390"
    assert report.interval(np.array([17389.0, 17389.0])) == "17390 [17390, 17390]"
