"""The comparison of an arm with itself runs, and its two sides are not the same training."""

import pytest


@pytest.mark.slow
def test_the_same_arm_twice(results):
    (row,) = results("aa.py")
    assert row["low"] <= row["difference"] <= row["high"] and 0 <= row["p"] <= 1
    assert not row["claimed"]
