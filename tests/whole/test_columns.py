from hypothesis import given
from hypothesis import strategies as st

from ewnprune.columns import WIDTH, align, blocks, fill

words = st.lists(st.text("abc%", min_size=1, max_size=9), min_size=1, max_size=14).map(" ".join)
numbers = st.floats(0, 100).map(lambda x: f"{x:.1f} [{x / 2:.1f}, {x * 2:.1f}]")
tables = st.integers(1, 4).flatmap(
    lambda rows: st.tuples(
        st.lists(words, min_size=rows, max_size=rows),
        st.lists(st.lists(numbers, min_size=rows, max_size=rows), min_size=1, max_size=9),
    )
)


def test_columns_end_together():
    assert align([["a", "bcd"], ["10", "5"], ["x", "yz"]], left=1) == "a    10   x\nbcd   5  yz"
    assert align([]) == ""


@given(tables)
def test_a_wide_table_is_cut_between_columns(table):
    names, columns = table
    found = blocks([names], columns, left=1)
    lines = [line for block in found for line in block.split("\n")]
    assert max(map(len, lines)) <= WIDTH
    # every cell is there, whole and once; every block says whose rows these are
    assert all(block.startswith(names[0].split()[0]) for block in found)
    told = "\n".join(lines)
    for cell in (cell for column in columns for cell in column):
        assert cell in told
    assert sum(line.count("[") for line in lines) == sum(map(len, columns))
    for word in " ".join(names).split():
        assert told.count(word) >= len(found)


@given(words, st.integers(12, WIDTH))
def test_words_are_filled_and_percentages_are_kept_together(text, width):
    lines = fill(text, later="  ", width=width)
    assert " ".join(line.strip() for line in lines) == text
    assert not any(line.strip() == "%" for line in lines[1:])
