"""Files of models of tables that earlier versions wrote: they are read, and predict what they did."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from fastmlp.checks import CheckpointError
from fastmlp.cli.main import main
from fastmlp.files import archive
from fastmlp.tables.errors import TableError
from fastmlp.tables.estimators import load
from fastmlp.tables.kinds import Scaled
from fastmlp.tables.storage import READ
from fastmlp.tables.tasks import Classification, Several

GOLDEN = Path(__file__).parents[1] / "golden"
"""Files of commits f83d0c7, 5164554, bec636d, 456b492, b544dca, and of those that made formats 6 to 10, and
what each predicted of five rows."""

EXPECTED = json.loads((GOLDEN / "tables.json").read_text())


@pytest.mark.parametrize("name", EXPECTED["predicted"])
def test_files_of_all_formats_predict_what_they_did(name, tmp_path, capsys):
    model, rows = load(GOLDEN / name), pl.DataFrame(EXPECTED["rows"])
    outputs, task = model.outputs(rows), model.task_
    of_task = {Classification: lambda: outputs[:, 1], Several: lambda: outputs}
    found = of_task.get(type(task), lambda: task.decoded(outputs))()
    np.testing.assert_allclose(found, EXPECTED["predicted"][name], rtol=1e-5)  # float32, in any order
    assert main(["inspect", str(GOLDEN / name)]) == 0
    assert "place in the year" in capsys.readouterr().out
    model.save(tmp_path / "again")
    again = load(tmp_path / "again")
    assert again.encoding_ == model.encoding_
    np.testing.assert_array_equal(again.outputs(rows), outputs)


@pytest.mark.parametrize("number", [1, 3])
def test_columns_of_the_first_files_have_no_tails_and_tables_no_fingerprint(number):
    model = load(GOLDEN / f"table-{number}-numbers.model")
    assert {column.tails for column in model.encoding_.columns if isinstance(column, Scaled)} == {"clipped"}
    assert (model.fingerprint_ is None) == (number == 1)


def test_every_format_that_is_read_has_files():
    formats = {archive.read(GOLDEN / name)[0]["format"] for name in EXPECTED["predicted"]}
    assert formats == {*READ}


def test_codes_of_earlier_versions_are_served(tmp_path):
    """Numbers found to be codes have columns beside the number; a text is the code of its number."""
    model, rows = load(GOLDEN / "table-8-numbers.model"), pl.DataFrame(EXPECTED["rows"])
    (code,) = model.encoding_.codes
    assert [place.stop - place.start for place in model.encoding_.slices["district"]] == [1, code.width]
    model.save(tmp_path / "again")
    again = load(tmp_path / "again")
    assert again.encoding_ == model.encoding_
    expected = model.predict(rows)
    for texts in (pl.col("district").cast(pl.String), pl.format(" {}.0", "district")):
        np.testing.assert_array_equal(again.predict(rows.with_columns(district=texts)), expected)
    other = rows.with_columns(district=pl.Series(range(990, 990 + len(rows))))
    with pytest.warns(UserWarning, match="^column 'district': 5 of 5 rows have levels that were not learned"):
        assert (again.predict(other) != expected).any()
    with pytest.raises(TableError, match=r"row 1, column 'district': 'x' is not a number"):
        model.predict(rows.with_columns(district=pl.lit("x")))


@pytest.mark.parametrize(
    "change",
    [{"name": "city"}, {"name": "elsewhere"}, {"kind": "drop", "reason": "x"}],
    ids=["no number", "no column", "no category"],
)
def test_a_file_of_other_codes_is_refused_in_one_line(tmp_path, change):
    header, arrays = archive.read(GOLDEN / "table-8-numbers.model")
    table = json.loads(bytes(arrays["table"]))
    (code,) = table["codes"]
    table["codes"] = [{"name": "district"} | change if "kind" in change else code | change]
    text = np.frombuffer(json.dumps(table).encode(), np.uint8)
    archive.write(tmp_path / "m", header, arrays | {"table": text})
    with pytest.raises(CheckpointError, match="what is said to be the codes of a number is none"):
        load(tmp_path / "m")
