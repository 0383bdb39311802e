"""Tables and numbers, as the terminal and pages show them."""

import pytest

from counterpoise.pages.rendering import render
from counterpoise.pages.sections import Fold, Section, Text, sections_as_text
from counterpoise.utils.table import Cell, Table
from counterpoise.utils.text import counted, duration, listed, number, percent, signed, typographic

TABLE = Table(
    ("class", "boxes", "base", "change"),
    [("x-1", 3, "4.0", Cell("+1.0", "(-0.5 to +2.0)", "good")), ("all", 3, "4.0", "-")],
    title="Scores",
    note="With 95 % intervals.",
    groups=(("", 2), ("AP", 2)),
    totals=1,
)


def test_the_terminal_shows_all_that_a_table_holds():
    assert TABLE.as_text().splitlines() == [
        "Scores",
        "                      AP",
        "class      boxes    base                 change",
        "-------  -------  ------  ---------------------",
        "x-1            3     4.0  +1.0 (-0.5 to +2.0) *",
        "all            3     4.0                      -",
        "With 95 % intervals.",
    ]


def test_wrapped_text_stays_what_it_is():
    rows = [("PISA.ENABLED", "False"), ("a long name", "one two")]
    table = Table(("key", "value"), rows, left=frozenset({0, 1}), wrap={0: 20, 1: 4})
    assert table.as_text().splitlines()[3:] == [
        "PISA.ENABLED  Fals",
        "              e",
        "a long name   one",
        "              two",
    ]


def test_the_name_of_a_group_is_not_broken_within_a_word():
    rows = [("a", 1, 2)]
    groups = (("", 1), ("blood_cells_train (train)", 2))
    header = Table(("class", "images", "boxes"), rows, groups=groups).as_text().splitlines()
    assert header[0].split() == ["blood_cells_train"] and header[1].split() == ["(train)"]


def test_a_page_shows_the_same_with_signs_dashes_and_stress():
    page = render("Title", [Text("see `--opts`")], [Section("id", "Section", [TABLE])])
    for shown in (
        "<p>see <code>--opts</code></p>", "<h3>Scores</h3>",
        "With 95\N{NO-BREAK SPACE}% intervals.",
        '<th class="n" colspan="2">AP</th>', "<td>x-1</td>",
        '<strong class="good">+1.0</strong> <span class="note">(\N{MINUS SIGN}0.5 to +2.0)</span>',
        '<tr class="total"><td>all</td>', '<td class="n">\N{EN DASH}</td>',
    ):  # fmt: skip
        assert shown in page


def test_of_many_rows_the_first_and_last_are_shown_and_the_totals():
    table = Table(("class",), [(f"c{i}",) for i in range(9)] + [("all",)], totals=1)
    assert table.as_text(most_rows=4).split()[2:7] == ["c0", "c1", "c7", "c8", "all"]
    assert "(5 classes between are left out here)" in table.as_text(most_rows=4)
    assert table.as_text(most_rows=9) == table.as_text()


def test_a_section_without_text_is_left_out_and_folded_parts_are_shown():
    sections = [Section("a", "Empty", []), Section("b", "Full", [Fold("more", [Text("inside")])])]
    assert sections_as_text(sections) == "Full\n====\ninside"
    assert "Empty" not in render("Title", [], sections)


@pytest.mark.parametrize(
    "shown, expected",
    [
        (number(None), "-"), (number(-0.04), "0.0"), (number(2.25, 2), "2.25"),
        (signed(-0.04), "+0.0"), (signed(-1.25, 2), "-1.25"), (percent(0.125), "12.5 %"),
        (duration(3723.4), "1:02:03"), (duration(None), "-"),
        (counted(1, "box"), "1 box"), (counted(2, "class"), "2 classes"),
        (counted(0, "key"), "0 keys"),
        (listed("abc", 2), "a, b and 1 more"), (listed("ab", 2), "a, b"),
        (typographic("-"), "\N{EN DASH}"),
        (typographic("a-1 (-2 to 3)"), "a-1 (\N{MINUS SIGN}2 to 3)"),
    ],
)  # fmt: skip
def test_numbers_and_lists_are_written_in_one_way(shown, expected):
    assert shown == expected
