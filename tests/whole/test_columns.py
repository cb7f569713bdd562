from hypothesis import example, given
from hypothesis import strategies as st

from ewnprune.columns import WIDTH, align, blocks, fill

words = st.lists(st.text("abc%", min_size=1, max_size=9), min_size=1, max_size=14).map(" ".join)
numbers = st.floats(0, 100).map(lambda x: f"{x:.1f} [{x / 2:.1f}, {x * 2:.1f}]")
tables = st.integers(1, 4).flatmap(
    lambda rows: st.tuples(
        st.lists(words, min_size=rows, max_size=rows),
        st.lists(
            st.tuples(words, st.lists(numbers, min_size=rows, max_size=rows)),
            min_size=1,
            max_size=9,
        ),
    )
)


def test_columns_end_together():
    assert align([["a", "bcd"], ["10", "5"], ["x", "yz"]], left=1) == "a    10   x\nbcd   5  yz"
    assert align([]) == ""


@given(tables)
@example(
    (
        ["a a aaaaaaaa aaaaaaaaa aaaaaaaaa"],
        [("aaaaaa %aaa %aaaaa %aaaaaaa %aaaaaaa %aaaaaaaa", ["0.0 [0.0, 0.0]"])],
    )
)
def test_a_wide_table_is_cut_between_columns(table):
    names, columns = table
    found = blocks([["", *names]], [[head, *cells] for head, cells in columns], left=1)
    lines = [line for block in found for line in block.split("\n")]
    assert max(map(len, lines)) <= WIDTH
    assert all(lines)
    # every cell is there, whole and once; every block says whose rows these are
    first = names[0].split()[0]
    assert all(any(line.startswith(first) for line in block.split("\n")) for block in found)
    told = "\n".join(lines)
    for cell in (cell for _, column in columns for cell in column):
        assert cell in told
    assert sum(line.count("[") for line in lines) == sum(len(column) for _, column in columns)
    for word in " ".join(names).split():
        assert told.count(word) >= len(found)
    for head, _ in columns:
        assert all(word in told for word in head.split())


def test_a_long_heading_goes_on_below_and_short_ones_stand_at_its_foot():
    (block,) = blocks([["removed", "50 %"]], [["EWN, norm_product, bytes", "3"], ["loss", "0.5"]])
    assert block.split("\n") == [
        "                  EWN,",
        "         norm_product,",
        "removed          bytes  loss",
        "   50 %              3   0.5",
    ]


@given(words, st.integers(12, WIDTH))
def test_words_are_filled_and_percentages_are_kept_together(text, width):
    lines = fill(text, later="  ", width=width)
    assert " ".join(line.strip() for line in lines) == text
    assert not any(line.strip() == "%" for line in lines[1:])
