from tailrace.services.summary import condensed, coverage, keywords

TEXT = (
    "# River\nThe river feeds the dam. A cat. The dam stops the river, and the river waits! Rain?"
)


def test_most_frequent_words_come_first() -> None:
    assert keywords([TEXT, "the DAM"], 2) == ["river", "dam"]
    assert keywords(["it is 42"], 5) == []


def test_telling_sentences_are_kept_in_their_order() -> None:
    assert condensed(TEXT, 1) == "The dam stops the river, and the river waits!"
    assert condensed(TEXT, 2) == (
        "The river feeds the dam. The dam stops the river, and the river waits!"
    )
    assert condensed("", 2) == ""


def test_headings_tables_and_code_are_no_sentences() -> None:
    text = "# River\n| river | dam |\n```river\n![river](river.png)\nThe dam holds."
    assert condensed(text, 5) == "The dam holds."


def test_coverage_is_the_share_of_words_that_are_held() -> None:
    assert coverage(["river", "lake"], "a River") == 0.5
    assert coverage([], "") == 1.0
