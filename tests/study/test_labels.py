import pytest
from hypothesis import given
from hypothesis import strategies as st

from ewnprune.study.labels import Label, check_names, describe

names = st.text("abz019_.-+", min_size=1, max_size=6)
values = st.integers() | st.floats() | names | st.lists(st.integers(), max_size=2)
varied = st.dictionaries(st.lists(names, min_size=1, max_size=3).map(".".join), values, max_size=2)


@given(names, st.just("") | names, varied.map(describe))
def test_what_is_printed_is_read_again(method, candidate, settings):
    label = Label(method, candidate, settings)
    assert Label.parse(str(label)) == label
    check_names(method, [candidate] if candidate else [])


@pytest.mark.parametrize(
    ("label", "text"),
    [
        (Label("none"), "none"),
        (Label("lasso", "0.1"), "lasso[0.1]"),
        (Label("none", settings="e=5"), "none @ e=5"),
        (Label("lasso", "0.1", "e=5, hidden=(3)"), "lasso[0.1] @ e=5, hidden=(3)"),
    ],
)
def test_it_is_spelled_so(label, text):
    assert str(label) == text
    assert Label.parse(text) == label


@pytest.mark.parametrize(
    ("method", "candidates"),
    [("a[b", ()), ("a@b", ()), ("a/b", ()), ("a", ["1]"]), ("a", ["x @ y"])],
)
def test_names_that_break_a_label_are_refused(method, candidates):
    with pytest.raises(ValueError, match="without"):
        check_names(method, candidates)
