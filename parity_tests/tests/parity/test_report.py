"""The formats of a parity report hold what the report holds, and their parsers accept them."""

import json
import math
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

from jaxvae.shared.runs.parity_record import number
from parity_tests.harness import plot, report
from parity_tests.harness.findings import PRESETS, Diagnosis, Finding, Report, Trajectory
from parity_tests.harness.formats import page as pages
from parity_tests.support.reports.schema import validated

ODD = "a<b>&\"c\"|'d'\x00\x1b\ud800\n*e*"
GOOD = Finding("every gradient", "float64", 3e-16, "decoder.logits.bias", 1e-12, "of the tensor's largest", "Rounding.")
NEAR = Finding("every output", "float32", 4e-06, "z", 1e-05, "of the tensor's largest", "A sum of 784 products.")
EXACT = Finding("every key", "float32", 0, "", 0, "words", "Integers have one answer.")
BAD = GOOD._replace(dtype="float32", size=2e-3, tolerance=5e-06)
LOSS = np.linspace(500, 100, 50)
RUN = Trajectory("float32", {"jaxvae": LOSS, "torchvae": LOSS * 1.001}, np.geomspace(1e-7, 1e-3, 50), np.full(50, 1e-6))
CAUSE = Diagnosis("decoder.logits, its bias", "0.1 and 0.2", "the bias is added twice")

PASSING = Report({"versions": {"jax": "0.10.2"}, "seed": 0}, (EXACT, NEAR, GOOD), (RUN,), subject=PRESETS)
REPORTS = {
    "passing": PASSING,
    "failing": PASSING._replace(findings=(EXACT, BAD, GOOD), diagnosis=CAUSE),
    "not a number": PASSING._replace(
        about={"learning_rate": math.nan, "floats": [math.inf, -math.inf], "counted": np.int64(3)},
        findings=(BAD._replace(size=math.nan), GOOD._replace(size=np.float64("inf"))),
        trajectories=(RUN._replace(gaps=np.where(np.arange(50) < 25, RUN.gaps, np.nan)), RUN._replace(floor=None)),
    ),
    "no steps": PASSING._replace(
        trajectories=(Trajectory("float64", {"jaxvae": LOSS[:0], "torchvae": LOSS[:0]}, LOSS[:0], None),)
    ),
    "no difference": PASSING._replace(trajectories=(RUN._replace(gaps=np.zeros(50)),)),
    "far from anything": PASSING._replace(
        trajectories=(
            RUN._replace(losses={"jaxvae": LOSS * 1e300, "torchvae": LOSS}, gaps=np.geomspace(5e-324, 1e300, 50)),
            RUN._replace(losses={"jaxvae": LOSS * np.nan, "torchvae": LOSS}, gaps=np.full(50, np.inf)),
        )
    ),
    "one step": PASSING._replace(trajectories=(Trajectory("float64", {"jaxvae": LOSS[:1]}, LOSS[:1] * 0, None),)),
    "odd names": Report(
        {ODD: {ODD: ODD}},
        (Finding(ODD, "float32", 1, ODD, 0, ODD, ODD), GOOD),
        (RUN._replace(dtype="<&>", losses={'<a> & "b"': LOSS, "$x$ $": LOSS}),),
        Diagnosis(ODD, ODD, ODD),
    ),
    "nothing": Report({}, ()),
}


@pytest.fixture(params=REPORTS)
def result(request: pytest.FixtureRequest) -> Report:
    return REPORTS[request.param]


class Page(HTMLParser):
    """The elements and the text of a page; elements must be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_verdicts() -> None:
    assert report.verdict(PASSING) == (
        "jaxvae and torchvae agree: 3 of 3 levels, the nearest to its tolerance every output (float32), 4.0e-06 of the "
        "tensor's largest in z, tolerance 1.0e-05."
    )
    failing = REPORTS["failing"]
    assert report.verdict(failing) == (
        "jaxvae and torchvae differ: 1 of 2 levels agree; the first that fails is every gradient (float32), 2.0e-03 of "
        "the tensor's largest in decoder.logits.bias, tolerance 5.0e-06. They first differ at decoder.logits, its "
        "bias (0.1 and 0.2); the likely cause: the bias is added twice."
    )
    unknown = failing._replace(diagnosis=CAUSE._replace(cause=None))
    assert report.verdict(unknown).endswith("(0.1 and 0.2); no known fault reproduces it.")
    one_backend = failing._replace(diagnosis=CAUSE._replace(backend="torchvae"))
    assert "(0.1 and 0.2), where torchvae departs from the plain formula; the likely cause" in report.verdict(
        one_backend
    )
    assert "nan of the tensor's largest" in report.verdict(REPORTS["not a number"])
    assert report.verdict(REPORTS["nothing"]) == "Nothing was compared."


def test_the_table_has_a_row_for_each_finding(result: Report) -> None:
    head, rule, *rows = report.to_table(result).splitlines()
    assert len(rows) == len(result.findings)
    for row in (head, rule, *rows):
        assert len(re.findall(r"(?<!\\)\|", row)) == 7
    assert [row.split()[-2] == "FAIL" for row in rows] == [not finding.passed for finding in result.findings]
    assert not any(re.search(r"(?<!\\)[<>&*]", row) for row in rows)


def test_the_brief_table_has_a_row_for_each_level(result: Report) -> None:
    head, _, *rows = report.to_brief(result).splitlines()
    assert len(rows) == len({finding.level for finding in result.findings})
    assert len(re.findall(r"(?<!\\)\|", head)) == 2 + 2 * len({finding.dtype for finding in result.findings})
    for finding in result.findings:
        assert any(number(finding.size) in row for row in rows)


def test_json_is_strict_and_can_be_read_back(result: Report) -> None:
    def forbid(constant: str) -> None:
        raise AssertionError(constant)

    plain = report.to_json(result)
    back = json.loads(json.dumps(validated(plain), allow_nan=False), parse_constant=forbid)
    assert back == plain
    assert back["passed"] == result.passed
    assert back["verdict"] == report.verdict(result)
    assert [finding["level"] for finding in back["findings"]] == [finding.level for finding in result.findings]
    for here, there in zip(back["findings"], result.findings, strict=True):
        np.testing.assert_equal(float(here["size"]), there.size)
        assert here["passed"] == there.passed
    for here, there in zip(back["trajectories"], result.trajectories, strict=True):
        np.testing.assert_array_equal(np.array(here["gaps"], float), there.gaps)
        for name, loss in there.losses.items():
            np.testing.assert_array_equal(np.array(here["losses"][name], float), loss)
        assert (here["floor"] is None) == (there.floor is None)


def test_json_has_strings_for_nan_and_infinity() -> None:
    plain = report.to_json(REPORTS["not a number"])
    assert plain["about"] == {"learning_rate": "NaN", "floats": ["Infinity", "-Infinity"], "counted": 3}
    assert [finding["size"] for finding in plain["findings"]] == ["NaN", "Infinity"]
    assert plain["diagnosis"] is None


def test_junit_counts_its_failures(result: Report) -> None:
    root = ElementTree.fromstring(report.to_junit(result))
    failed = [finding for finding in result.findings if not finding.passed]
    assert root.tag == "testsuites"
    for element in (root, *root.iter("testsuite")):
        assert (element.get("tests"), element.get("failures")) == (str(len(result.findings)), str(len(failed)))
    assert len(list(root.iter("testcase"))) == len(result.findings)
    failures = list(root.iter("failure"))
    assert len(failures) == len(failed)
    for failure, finding in zip(failures, failed, strict=True):
        assert number(finding.size) in (failure.get("message") or "")


def test_junit_keeps_odd_names_but_for_what_xml_forbids() -> None:
    case = next(ElementTree.fromstring(report.to_junit(REPORTS["odd names"])).iter("testcase"))
    assert case.get("name") == re.sub("[\x00\x1b\ud800]", "\N{REPLACEMENT CHARACTER}", ODD)


def test_the_page_is_complete_and_loads_nothing_from_the_network(result: Report) -> None:
    text = report.to_html(result)
    page = Page(text)
    assert not page.open
    tags = [tag for tag, _ in page.seen]
    drawn = [trajectory for trajectory in result.trajectories if len(trajectory.gaps)]
    assert tags.count("svg") == len(drawn)
    assert tags.count("tr") == 1 + len(result.findings) + len(list(pages.flat(result.about)))
    assert text.count("<table") == text.count('<table class="cards">'), "a narrow window shows a table as cards"
    assert not {"script", "link", "img", "iframe"} & set(tags)
    assert not re.search(r"https?://|@import|url\((?!#)", text)
    ids = [attributes["id"] for _, attributes in page.seen if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.seen:
        target = attributes.get("xlink:href") or attributes.get("href")
        assert target is None or target.removeprefix("#") in ids
        assert tag != "svg" or (attributes["role"] == "img" and attributes["aria-label"])
    assert text.encode()


def test_the_page_shows_the_verdict_and_the_findings() -> None:
    page = Page(report.to_html(REPORTS["failing"]))
    for text in ("jaxvae and torchvae differ", "every gradient", "2.0e-03", "the bias is added twice", "versions.jax"):
        assert text in page.text
    assert page.text.index(report.verdict(REPORTS["failing"])) < page.text.index("Levels")
    odd = Page(report.to_html(REPORTS["odd names"])).text
    assert "a<b>&\"c\"|'d'" in odd
    assert '<a> & "b"' in odd
    assert "$x$ $" in odd
    assert Page(report.to_html(REPORTS["nothing"])).text.count("were not compared") == 2


def test_captions_name_what_a_plot_cannot_show() -> None:
    assert "50 steps do not differ at all" in plot.caption(REPORTS["no difference"].trajectories[0])
    assert "25 steps have no finite difference" in plot.caption(REPORTS["not a number"].trajectories[0])
    assert plot.caption(REPORTS["no steps"].trajectories[0]) == "float64: no steps were taken."
    assert "one ulp" in plot.caption(RUN)


def test_the_same_report_is_the_same_page() -> None:
    assert report.to_html(PASSING) == report.to_html(PASSING)
