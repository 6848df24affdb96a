"""The benchmark of loading runs at toy size, and its sides make the same of the same files (it exits otherwise)."""


def test_loading(results):
    rows = results("loading.py")
    ours = [row for row in rows if row["side"] == "chiasm"]
    assert [row["pictures"] for row in ours] == ["64 thumbnails, 32 to 32 px", "24 photos, 100 to 48 px"]
    assert any(row["side"].startswith("datasets") for row in rows)
    assert all(row["first epoch"] > 0 and row["later epochs"] > 0 for row in rows)
