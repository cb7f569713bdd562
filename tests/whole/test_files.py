import csv
import io
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ewnprune.files import write_rows, write_text

cells = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=4) | st.integers()


@given(st.lists(st.dictionaries(st.sampled_from("abc"), cells, min_size=1), min_size=1, max_size=4))
def test_rows_are_what_the_standard_writer_makes_of_them(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "rows.csv"
    for line_end in ("\r\n", "\n"):
        write_rows(path, rows, "abc", line_end)
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator=line_end)
        writer.writerow("abc")
        writer.writerows([[row.get(name, "") for name in "abc"] for row in rows])
        assert path.read_bytes().decode() == text.getvalue()


def test_columns_are_those_of_the_rows(tmp_path):
    write_rows(tmp_path / "rows.csv", [{"b": 1}, {"a": "x, y", "b": 2}])
    assert (tmp_path / "rows.csv").read_bytes() == b'b,a\r\n1,\r\n2,"x, y"\r\n'
    with pytest.raises(ValueError, match="not in fieldnames: 'c'"):
        write_rows(tmp_path / "rows.csv", [{"c": 1}], ["a"])
    assert (tmp_path / "rows.csv").read_bytes().startswith(b"b,a")
    assert len(list(tmp_path.iterdir())) == 1


def test_text_is_written_as_it_is(tmp_path):
    write_text(tmp_path / "a.txt", "ä\r\nb\n")
    assert (tmp_path / "a.txt").read_bytes() == "ä\r\nb\n".encode()


def test_what_is_flushed_to_the_disk_can_be_written_to(tmp_path, monkeypatch):
    """Windows flushes nothing else: writing no bytes fails on a handle that only reads."""
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda handle: flushed.append(os.write(handle, b"")))
    write_text(tmp_path / "a.txt", "a")
    assert flushed == [0]
