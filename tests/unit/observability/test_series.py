from __future__ import annotations

import pytest

from epp.observability.exposition import Page, le
from epp.observability.series import Gauge, Histogram, Names, View, counter_family, gauge_family, histogram_family


def test_a_value_on_a_bound_belongs_to_that_bucket() -> None:
    histogram = Histogram((1.0, 2.0))

    for value in (0.5, 1.0, 1.5, 2.0, 99.0):
        histogram.observe(value)

    assert (histogram.counts, histogram.total) == ([2, 2, 1], 104.0)


def test_a_counter_refuses_to_shrink() -> None:
    counter = counter_family((), View("c_total", "", ())).labels()

    with pytest.raises(ValueError, match="-1"):
        counter.inc(-1)


def test_a_gauge_goes_both_ways() -> None:
    gauge = Gauge()

    gauge.set(5)
    gauge.inc(2)
    gauge.dec(4)

    assert gauge.value == 3


def test_a_family_with_labels_cannot_be_written_directly() -> None:
    family = counter_family(("model",), View("c_total", "", ("model",)))

    with pytest.raises(TypeError, match="labels"):
        family.inc()


def test_the_wrong_number_of_label_values_is_refused() -> None:
    family = counter_family(("model",), View("c_total", "", ("model",)))

    with pytest.raises(ValueError, match="2 label values"):
        family.labels("a", "b")


def test_the_same_label_values_give_the_same_child() -> None:
    family = counter_family(("model",), View("c_total", "", ("model",)))

    assert family.labels("a") is family.labels("a")
    assert family.labels("a") is not family.labels("b")


def test_names_beyond_the_limit_become_other_and_known_ones_stay() -> None:
    names = Names(2)

    folded = [names.fold(n) for n in ("a", "b", "c", "a", "", "d")]

    assert folded == ["a", "b", "other", "a", "", "other"]


def test_kept_names_never_fold_and_do_not_count() -> None:
    names = Names(1)
    names.keep(["configured"])

    assert [names.fold(n) for n in ("configured", "a", "configured", "b")] == ["configured", "a", "configured", "other"]


def test_a_limit_of_zero_folds_every_name() -> None:
    assert Names(0).fold("a") == "other"


def test_folded_label_values_share_a_child() -> None:
    family = counter_family(("model",), View("c_total", "", ("model",)), folds={"model": Names(1)})
    family.labels("first")

    assert family.labels("x") is family.labels("y")


def test_a_view_sums_over_the_labels_it_leaves_out() -> None:
    family = counter_family(
        ("model", "flow"), View("full_total", "f", ("model", "flow")), View("short_total", "s", ("model",))
    )
    family.labels("m", "a").inc(2)
    family.labels("m", "b").inc(3)
    page = Page(process=False)
    page.families.append(family)

    text = page.render("")[0].decode()

    assert 'full_total{flow="a",model="m"} 2.0\n' in text
    assert 'short_total{model="m"} 5.0\n' in text


def test_a_view_shows_only_its_own_bounds_and_loses_no_count() -> None:
    views = View("old", "", ("m",), (10.0, 32778.0)), View("new", "", (), (10.0, 32768.0))
    family = histogram_family(("m",), *views, bounds=(10.0, 32768.0, 32778.0))
    family.labels("a").observe(32770)
    family.labels("b").observe(7)
    page = Page(process=False)
    page.families.append(family)

    lines = page.render("")[0].decode().splitlines()

    assert 'old_bucket{le="32778",m="a"} 1.0' in lines
    assert [line for line in lines if line.startswith("new")] == [
        'new_bucket{le="10"} 1.0',
        'new_bucket{le="32768"} 1.0',
        'new_bucket{le="+Inf"} 2.0',
        "new_count 2.0",
        "new_sum 32777.0",
    ]


def test_a_view_leaves_out_series_whose_needed_label_is_empty() -> None:
    family = gauge_family(("m",), View("g", "", ("m",), needs="m"))
    family.labels("").set(1)
    page = Page(process=False)
    page.families.append(family)

    assert "g{" not in page.render("")[0].decode()


@pytest.mark.parametrize(
    ("bound", "text"),
    [
        (0.0, "0"),
        (0.0001, "0.0001"),
        (0.00205, "0.00205"),
        (1, "1"),
        (32778, "32778"),
        (524288, "524288"),
        (1048576, "1.048576e+06"),
        (1073741824, "1.073741824e+09"),
        (1e6, "1e+06"),
        (1e-5, "1e-05"),
    ],
)
def test_bounds_are_printed_as_go_prints_them(bound: float, text: str) -> None:
    assert le(bound) == text


def test_a_page_may_be_asked_for_as_openmetrics() -> None:
    page = Page(process=False)
    page.families.append(counter_family((), View("c_total", "help", ())))
    page.families[0].labels().inc()

    body, content_type = page.render("application/openmetrics-text; version=1.0.0")

    assert content_type.startswith("application/openmetrics-text")
    assert body == b"# HELP c help\n# TYPE c counter\nc_total 1.0\n# EOF\n"


def test_the_parts_are_the_page() -> None:
    page = Page()
    page.families.append(counter_family((), View("c_total", "help", ())))
    page.families[0].labels().inc()

    parts, _ = page.parts("")

    assert b"c_total 1.0\n" in b"".join(parts)
    assert b"python_info" in page.render("")[0]


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0"])
def test_a_family_of_many_series_has_one_head_and_comes_in_pieces(accept: str) -> None:
    family = counter_family(("m",), View("c_total", "help", ("m",)))
    for i in range(35):
        family.labels(str(i)).inc()
    page = Page(process=False)
    page.families.append(family)

    parts = list(page.parts(accept)[0])

    text = b"".join(parts)
    assert (text.count(b"# HELP"), text.count(b"# TYPE"), text.count(b'c_total{m="')) == (1, 1, 35)
    assert len(parts) >= 4
