"""The Conductor UI in a headless Chromium, by what a person sees and clicks."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

PATIENCE_S = 60  # a page of the UI takes 2 s; a busy machine may take long, and a test must not care

ENDS = ("Completed", "Failed", "Terminated", "Timed out", "Timed Out")

# Root in a container has no sandbox; the rest keeps the browser from calling its maker.
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1440,900",
)


@contextmanager
def chromium(profile: Path) -> Iterator[WebDriver]:
    """Debian's Chromium with a new `profile` folder; needs the programs chromium and chromedriver."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


class ConductorUi:
    """The pages /runWorkflow and /execution/<id> of the server at `root` (without /api)."""

    def __init__(self, driver: WebDriver, root: str) -> None:
        self._driver = driver
        self._root = root.rstrip("/")

    # ---- the form ----

    def open_form(self, workflow: str) -> dict[str, Any]:
        """Open the form and choose `workflow` from its list; the input that the form then proposes."""
        self._driver.get(f"{self._root}/runWorkflow")
        name = self._visible("#workflow-name-dropdown")
        name.click()
        name.send_keys(workflow)
        self._until(lambda: self._option(workflow)).click()
        return dict(json.loads(self._until(lambda: self._editors()[0].strip())))

    def fill(self, **values: str) -> None:
        """Type into the editor: the named fields change, the others stay as the form proposes them."""
        written = {**json.loads(self._editors()[0]), **values}
        text = json.dumps(written, indent=2)
        self._driver.execute_script("monaco.editor.getModels()[0].setValue(arguments[0])", text)
        self._until(lambda: json.loads(self._editors()[0]) == written)

    def run(self) -> str:
        """Press 'Run workflow'; the id of the execution that the page then links to."""
        before = set(self._execution_links())
        self._visible("#run-workflow-btn").click()
        new = self._until(lambda: [link for link in self._execution_links() if link not in before])
        return str(new[0].rsplit("/", 1)[1])

    # ---- an execution ----

    def open_execution(self, execution: str, tab: str | None = None) -> None:
        """Open the execution's page; tab is the label of one of its tabs, the diagram if none."""
        self._driver.get(f"{self._root}/execution/{execution}")
        self._visible("#workflow-execution-header-section-title")
        if tab:
            self._until(lambda: self._tab(tab)).click()

    def status(self) -> str:
        """What the chip beside the execution's name says: Running, Completed, Failed …"""
        return str(self._visible("[id$=-chip]").text)

    def wait_for_status(self, execution: str, status: str, timeout_s: float) -> None:
        """Look again and again, as a person would, until the execution's page says `status`.

        AssertionError where it ends in another way.
        """

        def reached() -> bool:
            self.open_execution(execution)
            shown = self.status()
            assert shown == status or shown not in ENDS, f"execution {execution} ended: {shown}"
            return shown == status

        self._until(reached, timeout_s)

    def diagram(self) -> str:
        """The text of the workflow's graph: its tasks' names and types."""
        return str(self._until(lambda: self._visible("#diagram-canvas-container").text))

    def fit_diagram(self, last: str) -> None:
        """Show the whole graph, down to the task `last`: the page draws only what is in view.

        In a tall window, and with the pointer off the button and its hint, so that a picture can be read.
        """
        self._driver.set_window_size(1200, 1500)
        self._visible("#fit-screen-button").click()
        title = self._visible("#workflow-execution-header-section-title")
        ActionChains(self._driver).move_to_element(title).perform()
        self._until(lambda: last in self.diagram() and not self._all("[role=tooltip]"))

    def input_and_output(self, execution: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the tab 'Workflow Input/Output' shows in its two editors."""
        self.open_execution(execution, "Workflow Input/Output")
        shown = self._until(lambda: [text for text in self._editors() if text.strip()][1:] and self._editors())
        return json.loads(shown[0]), json.loads(shown[1])

    def screenshot(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self._driver.get_screenshot_as_png())

    # ---- how it is found on the page ----

    def _visible(self, selector: str) -> WebElement:
        def found() -> WebElement | None:
            shown = [element for element in self._all(selector) if element.is_displayed()]
            return shown[0] if shown else None

        element: WebElement = self._until(found)
        return element

    def _all(self, selector: str) -> list[WebElement]:
        return self._driver.find_elements(By.CSS_SELECTOR, selector)

    def _option(self, label: str) -> WebElement | None:
        return next((option for option in self._all("[role=option]") if option.text == label), None)

    def _tab(self, label: str) -> WebElement | None:
        return next((tab for tab in self._all("[role=tab]") if tab.text == label), None)

    def _execution_links(self) -> list[str]:
        return [str(link.get_attribute("href")) for link in self._all("a[href*='/execution/']")]

    def _editors(self) -> list[str]:
        script = "return window.monaco ? monaco.editor.getModels().map(model => model.getValue()) : ['']"
        return list(self._driver.execute_script(script)) or [""]

    def _until(self, condition: Callable[[], Any], timeout_s: float = PATIENCE_S) -> Any:
        """The first true value of `condition`; elements that the page redraws meanwhile are looked for again."""
        from selenium.common.exceptions import ElementNotInteractableException, StaleElementReferenceException

        redrawn = (ElementNotInteractableException, StaleElementReferenceException)
        return WebDriverWait(self._driver, timeout_s, 0.2, ignored_exceptions=redrawn).until(lambda _: condition())
