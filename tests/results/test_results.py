"""The results in the repository: whole, as large as promised, and told of."""

import json

import pytest
from click.testing import CliRunner

from itd.store import open_result, verify
from itd_cli.main import cli

NAMES = [f"{m}-{a}-val1300.parquet" for m in ("resnet50", "mobilenet_v2") for a in ("stride", "dilation", "size")]


@pytest.mark.parametrize("name", NAMES)
def test_a_result_is_whole_and_large_enough(repository, name):
    folder = repository / "results" / name
    assert verify(folder).ok
    result = open_result(folder)
    assert not result.partial and result.nulls == 0
    assert result.n >= (32 if name.startswith("resnet50") else 100)
    attribute = result.attributes[0]
    counts = {"resnet50": {"stride": 361}, "mobilenet_v2": {"stride": 370}}
    assert result.configs == counts[name.split("-")[0]].get(attribute, 625)


def test_the_results_are_at_most_40_mb(repository):
    folders = [repository / "results" / name for name in NAMES]
    assert sum(f.stat().st_size for folder in folders for f in folder.rglob("*") if f.is_file()) < 40e6


def test_the_readmes_tables_show_what_itd_oracle_says(repository):
    paths = [str(repository / "results" / name) for name in NAMES]
    rows = json.loads(CliRunner().invoke(cli, ["oracle", *paths, "--json"]).stdout)
    for text in ((repository / "README.md").read_text(), (repository / "results" / "README.md").read_text()):
        for name, row in zip(NAMES, rows, strict=True):
            cells = [f"{100 * row[key]:.1f}" for key in ("static", "worst", "median", "best")]
            stem = name.removesuffix(".parquet")
            assert f"| {stem} | {row['n']} | {row['configs']} | {' | '.join(cells)} |" in text, (stem, row)
