"""Files of models of tables in which a part is another, as somebody who means harm would write it."""

import json
from fnmatch import fnmatchcase

import numpy as np
import pytest

from fastmlp import CheckpointError
from fastmlp.files import archive
from fastmlp.tables.estimators import load

GONE = object()
"""In the place of a part that is not there."""


def table_of(arrays):
    """What a file says of columns, targets and recipes, of JSON's types."""
    return json.loads(bytes(arrays["table"]))


def packed(table):
    """The array of a file that says so."""
    return np.frombuffer(json.dumps(table).encode(), np.uint8)


def changed(value, path, new):
    """A copy of a value in which the part at a path is another, or is gone; new : the part, or a function."""
    if not path:
        return new(value) if callable(new) else new
    copied = value.copy()
    if len(path) == 1 and new is GONE:
        del copied[path[0]]
    else:
        copied[path[0]] = changed(value[path[0]], path[1:], new)
    return copied


def refusal(model, folder, part, new):
    """The one line by which a model's file is refused once a part of it is another.

    part : steps after header, table or arrays, as "table/columns/0/name"; of arrays a pattern
    """
    path = folder / "changed"
    model.save(path)
    header, arrays = archive.read(path)
    place, _, name = part.partition("/")
    steps = [int(step) if step.isdigit() else step for step in name.split("/")]
    if place == "header":
        header = changed(header, steps, new)
    elif place == "table":
        arrays = arrays | {"table": packed(changed(table_of(arrays), steps, new))}
    else:
        for one in [one for one in arrays if fnmatchcase(one, name)]:
            arrays = changed(arrays, [one], new)
    archive.write(path, header, arrays)
    with pytest.raises(CheckpointError) as raised:
        load(path)
    line = str(raised.value)
    assert (str(path) in line, "\n" in line) == (True, False)
    return line
