"""Notebook 18, the form of 19 and the report as a person meets them: in JupyterLab, as Voilà's page, on a screen, on a phone.

Screenshots go to MTIVE_SHOTS where that is set, else to the test's own folder.
"""

import contextlib
import csv
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import nbformat
import pytest

from mtive_nb.run.graph import find_run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium"),
]
ROOT = Path(__file__).parents[1]
SCREEN, PHONE = {"width": 1280, "height": 1000}, {"width": 390, "height": 844}
PATIENCE_MS = 120_000  # for a kernel that imports torch and loads the experts on a busy machine
PARAMETERS = {"PROFILE": "smoke", "LIVE": "True", "SAMPLES": "2", "NEW_TOKENS": "12"}
FORM = """# notebook 19's form over records of 01, in the kernel that is there
from mtive_nb.data.annotations import AnnotationStore
from mtive_nb.show.annotate import AnnotationForm

polar = [r for r in emdiv if r["variant"] == "bin"][:3]
AnnotationForm(polar, ["yes"] * 3, AnnotationStore(uploads / f"decisions-{id(polar)}.jsonl", annotator="me"))
"""


@pytest.fixture(scope="module")
def live(tmp_path_factory, smoke_run):
    """A project with the smoke run's experts, with notebook 18 and the form of 19 prepared, and its environment."""
    home = tmp_path_factory.mktemp("browser")
    for name in ("notebooks", "params", "pyproject.toml"):
        (home / name).symlink_to(ROOT / name)
    own = os.environ | {"MTIVE_HOME": str(home)}
    own.pop("MTIVE_DATA", None)
    outputs, folder = smoke_run("06"), home / "outputs" / "smoke" / "18_demo.live"
    folder.mkdir(parents=True)
    for number in ("01", "04", "05", "06"):  # what a demo opens; further chapters may be running
        done = find_run(outputs, number)
        (folder.parent / done.name).symlink_to(done)
    given = [word for name, value in PARAMETERS.items() for word in ("-p", name, value)]
    _call(
        "papermill",
        str(ROOT / "notebooks/18_demo.ipynb"),
        str(folder / "demo.ipynb"),
        "--prepare-only",
        *given,
        env=own,
    )
    notebook = nbformat.read(folder / "demo.ipynb", as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(FORM))
    nbformat.write(notebook, folder / "demo.ipynb")
    return folder, own | {"MTIVE_RUN_DIR": str(folder)}


def _call(*command: str, env: dict) -> None:
    done = subprocess.run([sys.executable, "-m", *command], env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.fixture(params=["voila", "lab"])
def page(request, live):
    """The page with all cells run, and where its screenshot goes."""
    from playwright.sync_api import sync_playwright

    folder, environment = live
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    lab = ["jupyter", "lab", f"--ServerApp.root_dir={folder}", "--IdentityProvider.token=", "--allow-root"]
    command = lab if request.param == "lab" else ["voila", str(folder / "demo.ipynb")]
    with open(folder / f"{request.param}.log", "wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", *command, "--no-browser", f"--port={port}"], cwd=folder, env=environment, stdout=log, stderr=log
        )  # fmt: skip
    shots = Path(os.environ.get("MTIVE_SHOTS") or folder)
    try:
        _until_it_answers(server, f"http://127.0.0.1:{port}/")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1300, "height": 2400})
            page.set_default_timeout(PATIENCE_MS)
            dialog = page.locator(".jp-Dialog .jp-mod-accept")  # on a busy machine JupyterLab may ask for the kernel
            page.add_locator_handler(dialog, lambda accept: accept.first.click(), no_wait_after=True)  # or twice
            if request.param == "lab":
                page.goto(f"http://127.0.0.1:{port}/lab/tree/demo.ipynb?reset")
                page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for()
                _run_all_cells(page)
            else:
                page.goto(f"http://127.0.0.1:{port}/", timeout=PATIENCE_MS)
            page.get_by_role("button", name="Ask", exact=True).wait_for()
            yield page, shots / f"{request.param}.png"
            browser.close()
    finally:
        server.terminate()
        server.wait(30)


def _run_all_cells(page) -> None:  # noqa: ANN001 - playwright's Page
    """By JupyterLab's menu, again where a click came before the kernel took cells: then no prompt shows a star or number."""
    from playwright.sync_api import TimeoutError as NothingRuns

    for _ in range(3):
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.locator(".lm-Menu-itemLabel", has_text=re.compile("^Run All Cells$")).click()
        try:
            page.locator(".jp-InputPrompt", has_text=re.compile(r"\[[*\d]")).first.wait_for(timeout=20_000)
            return
        except NothingRuns:
            continue
    raise AssertionError("JupyterLab ran no cell after three clicks on Run All Cells")


def _until_it_answers(server: subprocess.Popen, url: str) -> None:
    end = time.monotonic() + PATIENCE_MS / 1000
    while time.monotonic() < end:
        assert server.poll() is None, f"the server ended with {server.returncode}"
        try:
            httpx.get(url, timeout=1)
            return
        except httpx.ConnectError:
            time.sleep(0.2)
        except httpx.TimeoutException:
            return  # Voilà runs the notebook before it answers
    raise AssertionError(f"{url} does not answer")


def test_a_person_asks_looks_and_changes_experts(page, photo_folder):
    from playwright.sync_api import expect

    page, shot = page
    expect.set_options(timeout=PATIENCE_MS)

    def button(name):
        return page.get_by_role("button", name=name, exact=True)

    page.locator(".samples button").nth(1).click()
    expect(page.locator(".samples button").nth(1)).to_have_class(re.compile("mod-info"))
    done = page.locator("table.demo td", has_text=re.compile("^done$"))
    button("Ask").click()
    expect(done).to_have_count(6)  # the base, the trunk and four experts
    button("Where they looked").click()
    expect(page.locator("img[src^='data:image/png']")).to_have_count(1)
    page.screenshot(path=shot, full_page=True)

    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Upload photos").click()
    chooser.value.set_files(photo_folder / "3.png")
    page.get_by_label("Question", exact=True).fill("Which colour is it?")
    page.get_by_label("Question", exact=True).press("Enter")
    expect(page.locator("table.answers td", has_text="3.png")).to_have_count(1)
    button("Ask").click()
    expect(page.locator("img[src^='data:image/png']")).to_have_count(0)
    expect(done).to_have_count(6)

    button("Score photos").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download answers.csv").click()
    with open(download.value.path(), newline="") as file:
        scored = list(csv.DictReader(file))
    assert {(r["photo"], r["task"], r["error"]) for r in scored} == {("3.png", t, "") for t in ("AE", "DD", "EX")}

    path = page.get_by_placeholder("or a photo's path, and Enter")
    path.fill("/nowhere/gone.png")
    path.press("Enter")
    expect(page.get_by_text("gone.png: not in one of the folders that this page may open")).to_be_visible()

    page.get_by_placeholder("name of the expert").fill("EX")
    page.get_by_placeholder("name of the expert").press("Tab")
    button("Remove").click()
    expect(page.locator("table.demo td", has_text=re.compile("^EX$"))).to_have_count(0)
    button("Ask").click()
    expect(done).to_have_count(5)
    if shot.stem == "voila":
        expect(page.get_by_role("heading", name="Samples")).to_be_hidden()  # the page alone, without the notebook
        page.set_viewport_size(PHONE)
        fits(page)
        page.get_by_role("button", name="Accept or save").scroll_into_view_if_needed()
        page.screenshot(path=shot.with_stem("phone-annotation"))
    annotate(page)
    if shot.stem == "voila":
        page.set_viewport_size(PHONE | {"height": 3000})  # Voilà scrolls inside its page: the picture has it all
        fits(page)
        page.screenshot(path=shot.with_stem("phone"), full_page=True)


# Controls and texts that stand out of a phone's screen; tables may scroll inside their own element.
WIDER = """() => [...document.querySelectorAll(".own-page button, .own-page input, .own-page select, .own-page .widget-html")]
    .filter(e => e.offsetParent && (e.getBoundingClientRect().right > innerWidth || e.getBoundingClientRect().left < 0))
    .map(e => e.outerHTML.slice(0, 200)).concat(document.documentElement.scrollWidth > innerWidth ? ["the page"] : [])"""


def fits(page):  # noqa: ANN001, ANN201 - playwright's Page
    """Nothing stands out of the screen, once the page has followed its new width."""
    from playwright.sync_api import TimeoutError as TooLate

    with contextlib.suppress(TooLate):
        page.wait_for_function(f"({WIDER})().length === 0")
    assert page.evaluate(WIDER) == []


def annotate(page):  # noqa: ANN001, ANN201 - playwright's Page
    """Decide the form's three records by button, by key and by Skip, and take one decision back."""
    from playwright.sync_api import expect

    form = page.locator(".own-page", has=page.get_by_role("button", name="Accept or save"))
    look_ms = 1000  # a decision within half a second of the photo is refused
    page.wait_for_timeout(look_ms)
    form.get_by_role("button", name="no", exact=True).click()
    expect(form.locator("li")).to_have_text([re.compile(r" no \(corrected\)$")])
    field = form.locator("input[type=text]")
    page.wait_for_timeout(look_ms)
    for key, decided in (("?", 2), ("<", 1)):
        field.fill(key)
        field.press("Enter")
        expect(form.locator("li")).to_have_count(decided)
    page.wait_for_timeout(look_ms)
    field.press("Enter")
    expect(form.locator("li").first).to_have_text(re.compile(r" yes \(accepted\)$"))
    page.wait_for_timeout(look_ms)
    form.get_by_role("button", name="Skip").click()
    expect(form.get_by_text("Every record is decided.")).to_be_visible()
    expect(form.get_by_text("1 accepted, 1 corrected, 1 skipped")).to_be_visible()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The report of the committed results, and where its screenshots go."""
    from mtive_nb.report.page import write_report
    from mtive_nb.run.graph import Project

    home = tmp_path_factory.mktemp("report")
    (home / "outputs").mkdir()
    for profile in ("pocket", "grocery"):
        (home / "outputs" / profile).symlink_to(ROOT / "outputs" / "reference" / profile)
    other = home / "outputs" / "pocket1" / "07_evaluation"  # a run to compare with: other values of the same numbers
    shutil.copytree(ROOT / "outputs" / "reference" / "pocket" / "07_evaluation", other)
    rows = [json.loads(line) for line in (other / "metrics.jsonl").read_text().splitlines()]
    moved = [json.dumps(row | {"value": row["value"] + k % 7}) for k, row in enumerate(rows)]
    (other / "metrics.jsonl").write_text("\n".join(moved))
    (home / "notebooks").symlink_to(ROOT / "notebooks")
    page = write_report(Project(home), "pocket", page=home / "report.html")
    return page, Path(os.environ.get("MTIVE_SHOTS") or home)


def test_the_report_is_well_formed_and_small(report):
    import html5lib

    file, _ = report
    parser = html5lib.HTMLParser()
    parser.parse(file.read_text())
    assert parser.errors == [] and file.stat().st_size < 8e6


@pytest.mark.parametrize("size", [SCREEN, PHONE], ids=["screen", "phone"])
def test_the_report_is_read_filtered_and_sorted_by_anybody(report, size):
    from axe_playwright_python.sync_playwright import Axe
    from playwright.sync_api import expect, sync_playwright

    file, shots = report
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport=size)
        page.set_default_timeout(PATIENCE_MS)
        faults = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: request.url.startswith(("file:", "data:")) or faults.append(request.url))
        page.goto(file.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        for scheme, rules in (("light", {}), ("dark", {"runOnly": ["color-contrast"]})):  # colours alone differ
            page.emulate_media(color_scheme=scheme)
            found = Axe().run(page, options={"resultTypes": ["violations"]} | rules).response
            assert found["passes"] and [fault["id"] for fault in found["violations"]] == []
            page.screenshot(path=shots / f"report-{size['width']}-{scheme}.png")

        board = page.locator("#claims table.filter tbody tr:visible")
        every = board.count()
        page.locator("#claims .filters").get_by_label("verdict").select_option("holds")
        assert 0 < board.count() < every
        expect(page.locator("#claims [role=status]")).to_have_text(f"{board.count()} of {every} claims")
        box = board.first.locator(".badge").bounding_box()  # on a phone, too, a verdict is seen whole
        assert 0 <= box["x"] and box["x"] + box["width"] <= size["width"]

        page.locator("#claims .filters").get_by_label("kind").select_option("comparative")
        assert {*page.locator("#claims tbody tr:visible td.kind").all_inner_texts()} <= {"comparative"}

        of_paper = page.locator("#mtive-T1 table.sort").first  # two rows of heads
        of_paper.locator("thead tr").nth(1).get_by_role("button", name="ours").first.click()
        ours = of_paper.locator("tbody tr:visible td.mine:nth-child(3) b").all_inner_texts()
        assert len(ours) > 5 and ours == sorted(ours, key=float)

        spread = page.locator("#compare table.filter tbody tr:visible td:last-child")
        head = page.locator("#compare thead").get_by_role("button", name="spread")
        head.focus()
        page.keyboard.press("Enter")  # no mouse is needed
        found = [float(text) for text in spread.all_inner_texts() if text != "–"]
        assert len(found) > 1 and found == sorted(found)

        button = page.locator("button.copy").first
        button.scroll_into_view_if_needed()
        button.click()
        expect(button).to_have_text(re.compile("Copied|Selected"))
        assert faults == []
        browser.close()
