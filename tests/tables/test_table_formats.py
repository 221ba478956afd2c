"""Files of models of tables that earlier versions wrote: they are read, and predict what they did."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from fastmlp.cli.main import main
from fastmlp.files import archive
from fastmlp.tables.estimators import load
from fastmlp.tables.storage import READ
from fastmlp.tables.tasks import Classification, Several

GOLDEN = Path(__file__).parents[1] / "golden"
"""Files of commits f83d0c7, 5164554, bec636d, 456b492, b544dca, and of those that made formats 6 to 10, and
what each predicted of five rows."""

EXPECTED = json.loads((GOLDEN / "tables.json").read_text())


@pytest.mark.parametrize("name", EXPECTED["predicted"])
def test_files_of_all_formats_predict_what_they_did(name, capsys):
    model, rows = load(GOLDEN / name), pl.DataFrame(EXPECTED["rows"])
    outputs, task = model.outputs(rows), model.task_
    of_task = {Classification: lambda: outputs[:, 1], Several: lambda: outputs}
    found = of_task.get(type(task), lambda: task.decoded(outputs))()
    np.testing.assert_allclose(found, EXPECTED["predicted"][name], rtol=1e-5)  # float32, in any order
    assert main(["inspect", str(GOLDEN / name)]) == 0
    assert "place in the year" in capsys.readouterr().out


def test_every_format_that_is_read_has_files():
    formats = {archive.read(GOLDEN / name)[0]["format"] for name in EXPECTED["predicted"]}
    assert formats == {*READ}
