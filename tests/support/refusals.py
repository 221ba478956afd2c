"""Tables of calls that are refused, each in one line."""

import functools

import pytest


def refusals(table, do=None):
    """A test of a table's calls: each has words of its error, and perhaps the error before them.

    do : where the table has options in the place of calls, the function that takes the options
    """
    cases = table if isinstance(table, dict) else dict(enumerate(table))

    @pytest.mark.parametrize("case", cases)
    def test(case):
        call, *error, words = cases[case]
        call = call if do is None else functools.partial(do, **call)
        with pytest.raises(error[0] if error else (ValueError, TypeError), match=words) as caught:
            call()
        assert "\n" not in str(caught.value)

    return test
