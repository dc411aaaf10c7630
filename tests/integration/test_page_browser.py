"""The page in a real Chromium, opened from a file as its reader opens it, with a real recording."""

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import soundfile
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from tests.support.browser import chromium
from tests.support.conversation import interview, long_talk, odd_talk, renamed
from tests.support.services import require
from workers.formats import render
from workers.page import render_page, subtitle_rules
from workers.spans import SAMPLE_RATE, SAMPLES_PER_MS
from workers.transcript import Provenance, Segment, SpeakerTurn, Transcript, Word

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

PATIENCE_S = 60  # what is waited for takes milliseconds; a busy machine may take long


class Page:
    """One page in a browser, by what its reader sees and does."""

    def __init__(self, driver: WebDriver, folder: Path) -> None:
        self.driver = driver
        self.folder = folder

    def open(self, transcript: Transcript, media: str | None, name: str = "talk") -> None:
        path = self.folder / f"{name}.html"
        path.write_text(render_page(transcript, media), encoding="utf-8")
        self.driver.get(path.as_uri())
        self.until(lambda: self.one("#player").is_displayed())

    def one(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        found = self.script("return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)", selector)
        return [str(text) for text in found]

    def word(self, text: str) -> WebElement:
        """The first word that reads so, scrolled to as a reader would."""
        paragraph = next(p for p in self.all(".block p") if text in str(p.get_attribute("textContent")).split())
        self.script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", paragraph)
        words: Callable[[], list[WebElement]] = lambda: [  # noqa: E731
            word for word in paragraph.find_elements(By.CSS_SELECTOR, ".w") if word.text == text
        ]
        self.until(words)
        return words()[0]

    def press(self, *keys: str) -> None:
        ActionChains(self.driver).send_keys(*keys).perform()

    def script(self, text: str, *arguments: Any) -> Any:
        return self.driver.execute_script(text, *arguments)

    def position(self) -> float:
        """Seconds, of the recording itself."""
        return float(self.script("return document.getElementById('media').currentTime"))

    def playing(self) -> bool:
        return not self.script("return document.getElementById('media').paused")

    def until(self, condition: Callable[[], Any]) -> Any:
        return WebDriverWait(self.driver, PATIENCE_S, 0.05).until(lambda _: condition())

    def ready(self) -> None:
        self.until(lambda: self.script("return document.getElementById('media').readyState >= 1"))

    def complaints(self) -> list[str]:
        """What the browser wrote to its console: errors, and what the policy refused."""
        log: list[dict[str, Any]] = self.driver.get_log("browser")  # type: ignore[attr-defined]
        return [str(entry["message"]) for entry in log]

    def requests(self) -> list[str]:
        """Addresses of all that was loaded besides the page."""
        return list(self.script("return performance.getEntriesByType('resource').map(entry => entry.name)"))

    def emulate(self, scheme: str, width: int | None = None) -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.cdp("Emulation.setEmulatedMedia", features=features)
        if width:
            size = {"width": width, "height": 740, "deviceScaleFactor": 2, "mobile": True}
            self.cdp("Emulation.setDeviceMetricsOverride", **size)

    def cdp(self, command: str, **arguments: Any) -> Any:
        return self.driver.execute_cdp_cmd(command, arguments)

    def saved(self, name: str) -> str:
        path = self.folder / "downloads" / name
        self.until(path.exists)  # a download has another name until it is whole
        return path.read_text(encoding="utf-8")

    def picture(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.driver.get_screenshot_as_png())


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    require("chromium")
    folder = tmp_path / "out"
    folder.mkdir()
    with chromium(tmp_path / "profile") as driver:
        driver.set_window_size(1200, 940)
        made = Page(driver, folder)
        made.cdp("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder / "downloads"))
        yield made


@pytest.fixture
def recording(tmp_path: Path) -> str:
    """A tone as long as the interview, beside the folder of the page; its path from there."""
    samples = np.arange(interview().duration_ms * SAMPLES_PER_MS) / SAMPLE_RATE
    (tmp_path / "tapes").mkdir()
    soundfile.write(tmp_path / "tapes" / "river talk.flac", 0.1 * np.sin(2 * np.pi * 440 * samples), SAMPLE_RATE)
    return "../tapes/river%20talk.flac"


def words_of(transcript: Transcript) -> list[Word]:
    return [word for segment in transcript.segments for word in segment.words]


# ---- listening ----


def test_a_click_on_a_word_plays_the_recording_from_there(page: Page, recording: str, pictures: Path) -> None:
    of = interview()
    page.open(of, recording)
    page.ready()
    assert page.requests() in ([], [(page.folder.parent / "tapes" / "river talk.flac").as_uri()])
    page.picture(pictures / "page-top.png")

    spoken = next(word for word in words_of(of) if word.text == "gravel.")
    page.word("gravel.").click()

    page.until(page.playing)
    page.until(lambda: page.position() > spoken.start_ms / 1000 + 0.2)
    page.press(Keys.SPACE)
    page.until(lambda: not page.playing())
    stopped_ms = page.position() * 1000
    assert spoken.start_ms < stopped_ms < spoken.start_ms + 60_000
    lit = page.one(".w.on").text
    near = [word.text for word in words_of(of) if word.start_ms <= stopped_ms < word.end_ms + 400]
    assert lit in near
    assert page.one(".block.on").find_element(By.CSS_SELECTOR, ".w.on").text == lit
    assert page.complaints() == []


def test_while_it_plays_the_text_follows_until_its_reader_scrolls(page: Page, recording: str) -> None:
    of = interview()
    page.open(of, recording)
    page.ready()
    top = page.script("return scrollY")
    last = of.segments[-1]

    page.script("document.getElementById('media').muted = true")
    click_on_timeline(page, (last.start_ms + 200) / of.duration_ms)
    page.press(Keys.SPACE)
    page.until(page.playing)
    page.until(lambda: page.script("return scrollY") > top + 200)
    assert page.one("#follow").get_attribute("aria-pressed") == "true"

    ActionChains(page.driver).scroll_by_amount(0, -5_000).perform()
    page.until(lambda: page.one("#follow").get_attribute("aria-pressed") == "false")
    page.one("#follow").click()
    assert page.one("#follow").get_attribute("aria-pressed") == "true"


def test_the_timeline_shows_every_turn_and_seeks(page: Page, recording: str) -> None:
    of = interview()
    page.open(of, recording)
    page.ready()

    names = ["Mara", "Jonas", "Wanjiru"]
    assert [button.text for button in page.all("#legend button")] == names
    paths = page.script("return [...document.querySelectorAll('.lane path')].map(p => p.getAttribute('d'))")
    drawn = {
        name: [tuple(map(int, bar.replace("h", " ").split()[::2])) for bar in heads(path)]
        for name, path in zip(names, paths, strict=False)
    }
    for name in names:
        assert drawn[name] == [(t.start_ms, t.end_ms - t.start_ms) for t in of.turns if t.speaker == name]
    assert len(page.all(".gap-mark")) == len(of.gaps)
    assert page.one(".both").get_attribute("d")  # two of the interview interrupt each other

    click_on_timeline(page, 0.5)
    page.until(lambda: abs(page.position() - of.duration_ms / 2000) < 1)
    page.one("#tracks").send_keys(Keys.END)
    page.until(lambda: abs(page.position() - of.duration_ms / 1000) < 1)
    page.one("#wider").click()
    zoomed = page.script("const s = document.getElementById('strip'); return s.scrollWidth / s.clientWidth")
    assert zoomed == pytest.approx(2, abs=0.05)


def heads(path: str) -> list[str]:
    """`M1000 0h500v1h-500z` to `1000 0 500`."""
    return [bar.split("v")[0] for bar in path.split("M")[1:]]


def click_on_timeline(page: Page, share: float) -> None:
    tracks = page.one("#tracks")
    box = tracks.rect
    ActionChains(page.driver).move_to_element_with_offset(
        tracks, round((share - 0.5) * box["width"]), 0
    ).click().perform()


def test_where_the_recording_is_not_there_the_page_says_so_and_takes_another(
    page: Page, recording: str, tmp_path: Path
) -> None:
    page.open(interview(), "gone%20away.flac")
    page.until(lambda: page.one("#missing").is_displayed())
    assert page.one("#why").text == "The recording “gone away.flac” cannot be opened from here."

    page.one("#file").send_keys(str(tmp_path / "tapes" / "river talk.flac"))
    page.ready()
    page.until(lambda: not page.one("#missing").is_displayed())
    page.word("gravel.").click()
    page.until(page.playing)

    short = tmp_path / "short.wav"
    soundfile.write(short, np.zeros(SAMPLE_RATE), SAMPLE_RATE)
    page.one("#file").send_keys(str(short))
    page.until(lambda: "is it the right one?" in page.one("#why").text)


def test_a_recording_on_the_web_is_played_from_there(page: Page, recording: str, tmp_path: Path) -> None:
    serve = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "tapes"))
    with ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/river%20talk.flac"
        page.open(interview(), address)
        page.ready()
        page.until(lambda: not page.one("#missing").is_displayed())
        assert page.script("return document.getElementById('media').currentSrc") == address
        assert page.complaints() == []
        page.driver.get("about:blank")  # which lets go of the server
        server.shutdown()


def test_a_film_is_shown_until_its_reader_hides_it(page: Page) -> None:
    require("ffmpeg")
    made = ("-f", "lavfi", "-i", "testsrc=d=3:s=160x90:r=5", "-c:v", "libvpx", str(page.folder / "talk.webm"))
    subprocess.run(("ffmpeg", "-v", "error", *made), check=True)
    page.open(interview("talk.webm"), "talk.webm")
    page.ready()

    page.until(lambda: page.one("#media").is_displayed())
    page.one("#picture").click()
    assert not page.one("#media").is_displayed()


# ---- searching ----


def test_search_counts_marks_and_goes_round(page: Page, pictures: Path) -> None:
    of = interview()
    page.open(of, None)
    text = " ".join(page.texts(".block p")).lower()
    page.press("/")
    page.press("the river")

    count = text.count("the river")
    assert count > 1
    page.until(lambda: page.one("#count").text == f"1 of {count}")
    assert page.one("mark.this").is_displayed()
    page.press(Keys.ENTER)
    assert page.one("#count").text == f"2 of {count}"
    page.press(Keys.SHIFT, Keys.ENTER)
    page.one("#previous").click()
    page.until(lambda: page.one("#count").text == f"{count} of {count}")
    page.picture(pictures / "page-search.png")
    page.one("#next").click()
    page.until(lambda: page.one("#count").text == f"1 of {count}")
    assert (
        "".join(page.texts(".block p")).lower() == "".join(text.split(" "))
        or " ".join(page.texts(".block p")).lower() == text
    )

    page.one("#query").send_keys(" (no such")
    page.until(lambda: page.one("#count").text == "no hits")
    assert page.all("mark") == []
    page.one("#query").send_keys(Keys.ESCAPE)
    assert page.one("#count").text == ""


# ---- names ----


def rename(page: Page, name: str, to: str) -> None:
    button = next(button for button in page.all("#legend button") if button.text == name)
    button.send_keys(Keys.ENTER)
    field = page.driver.switch_to.active_element
    assert field.tag_name == "input"
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys(to + Keys.ENTER)


def test_names_are_changed_everywhere_and_saved(page: Page, recording: str) -> None:
    of = interview()
    page.open(of, recording)
    names = {"Jonas": 'Jonas <b>Ö.</b> & "Co" --> x', "Mara": "Mara\u3000Lind"}
    for name, to in names.items():
        rename(page, name, to)
        assert " ".join(to.split()) in page.texts("#legend button")
    clean = {name: " ".join(to.split()) for name, to in names.items()}
    after = renamed(of, clean)
    assert page.texts(".block .name") == [turn.speaker for turn in after.turns]

    page.one("#save-json").click()
    page.one("#save-srt").click()
    assert Transcript.model_validate_json(page.saved("River talk, part 2.json")) == after
    assert page.saved("River talk, part 2.srt") == render(after, "srt")
    assert list(json.loads(page.saved("River talk, part 2.json"))) == list(json.loads(render(after, "json")))

    page.driver.refresh()
    page.until(lambda: page.one("#player").is_displayed())
    assert clean["Jonas"] in page.texts("#legend button")  # names are kept in this browser
    page.one("#forget").click()
    assert page.texts("#legend button") == ["Mara", "Jonas", "Wanjiru"]
    page.word("holding").find_element(By.XPATH, "ancestor::section").find_element(By.CSS_SELECTOR, ".name").click()
    page.press("Jo", Keys.ENTER)
    page.until(lambda: "Jo" in page.texts("#legend button"))
    assert page.complaints() == []


def test_nothing_renamed_is_saved_as_it_was(page: Page) -> None:
    of = interview()
    page.open(of, None)
    rename(page, "Jonas", Keys.ESCAPE)
    page.one("#save-json").click()
    page.one("#save-srt").click()

    assert Transcript.model_validate_json(page.saved("River talk, part 2.json")) == of
    assert page.saved("River talk, part 2.srt") == render(of, "srt")


def test_two_of_the_same_name_are_one_person(page: Page) -> None:
    of = interview()
    page.open(of, None)
    rename(page, "Jonas", "Mara")

    page.until(lambda: page.texts("#legend button") == ["Mara", "Wanjiru"])
    colours = page.script(
        "const look = e => e.textContent + getComputedStyle(e).color;"
        "return [...new Set([...document.querySelectorAll('.name')].map(look))]"
    )
    assert len(colours) == 2
    page.one("#save-json").click()
    saved = Transcript.model_validate_json(page.saved("River talk, part 2.json"))
    spoken = {one.name: one.spoken_ms for one in of.speakers}
    assert {one.name: one.spoken_ms for one in saved.speakers} == {
        "Mara": spoken["Mara"] + spoken["Jonas"],
        "Wanjiru": spoken["Wanjiru"],
    }
    assert {turn.speaker for turn in saved.turns} == {"Mara", "Wanjiru"}
    page.one("#save-srt").click()
    assert page.saved("River talk, part 2.srt") == render(saved, "srt")


def test_the_page_can_be_saved_with_its_names_and_works_as_before(page: Page, recording: str) -> None:
    of = interview()
    page.open(of, recording)
    rename(page, "Jonas", "Jonas & Co")
    page.press("/")
    page.press("river", Keys.ENTER)
    page.word("gravel.").click()
    page.one("#save-page").click()
    page.saved("River talk, part 2.html")
    page.cdp("Storage.clearDataForOrigin", origin="file://", storageTypes="local_storage")
    (page.folder / "downloads" / "River talk, part 2.html").rename(page.folder / "saved.html")

    page.driver.get((page.folder / "saved.html").as_uri())
    page.until(lambda: page.one("#player").is_displayed())
    assert page.texts("#legend button") == ["Mara", "Jonas & Co", "Wanjiru"]
    assert page.texts(".block .name") == [turn.speaker for turn in renamed(of, {"Jonas": "Jonas & Co"}).turns]
    assert len(page.all(".lane")) == 4
    assert page.all("mark") == []
    page.ready()
    page.word("gravel.").click()
    page.until(page.playing)
    page.one("#forget").click()
    page.one("#save-json").click()
    assert Transcript.model_validate_json(page.saved("River talk, part 2.json")) == of
    assert page.complaints() == []


def test_subtitles_are_what_python_writes(page: Page) -> None:
    talks = [interview(), long_talk(0.2), *(odd_talk(seed) for seed in range(300))]
    source = files("workers.page").joinpath("script", "subtitles.js").read_text(encoding="utf-8")
    given = [talk.model_dump(mode="json") for talk in talks]

    made = page.script(
        f"{source}; return arguments[0].map(talk => subtitles(talk, arguments[1]))", given, subtitle_rules()
    )
    for talk, text in zip(talks, made, strict=True):
        assert text == render(talk, "srt")


# ---- everybody ----


def test_all_of_it_by_keyboard(page: Page, recording: str) -> None:
    of = interview()
    page.open(of, recording)
    page.ready()
    page.script("document.getElementById('media').muted = true")
    reached = []
    for _ in range(16):
        page.press(Keys.TAB)
        active = page.driver.switch_to.active_element
        reached.append(active.get_attribute("id") or active.text)
        ring = page.script("const s = getComputedStyle(document.activeElement); return s.outlineStyle + s.outlineWidth")
        assert ring not in ("none0px", "none3px"), reached
    assert reached[:5] == ["Mara", "Jonas", "Wanjiru", "tracks", "wider"]
    assert {"uncertain", "save-json", "save-srt", "query", "play", "seek", "speed", "follow"} <= set(reached)

    page.script("document.activeElement.blur()")
    page.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    page.until(lambda: abs(page.position() - 10) < 0.5)
    page.press(Keys.ARROW_LEFT)
    page.until(lambda: abs(page.position() - 5) < 0.5)
    page.press(Keys.SPACE)
    page.until(page.playing)
    page.press(Keys.SPACE)
    page.until(lambda: not page.playing())
    page.press("/")
    page.press("a b ")  # spaces and arrows are typed, and play nothing
    assert page.one("#query").get_attribute("value") == "a b "
    assert not page.playing()
    stamps = page.all(".time")
    stamps[5].send_keys(Keys.ENTER)
    page.until(page.playing)
    assert all(button.accessible_name for button in page.all("button") if button.is_displayed())


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_is_wider_than_the_screen(page: Page, recording: str, scheme: str, pictures: Path) -> None:
    page.emulate(scheme, width=360)
    page.open(interview("A" * 80 + ".flac"), recording)
    page.ready()

    for at in (0, 900):
        page.script("scrollTo(0, arguments[0])", at)
        assert page.script("return document.documentElement.scrollWidth") == 360
        page.picture(pictures / f"page-phone-{scheme}-{at}.png")
    play = page.one("#play").rect
    assert 0 <= play["x"] < 360 - play["width"]


def test_dark_where_the_reader_has_it_dark(page: Page, recording: str, pictures: Path) -> None:
    ground = "return getComputedStyle(document.body).backgroundColor"
    page.emulate("light")
    page.open(interview(), recording)
    light = page.script(ground)
    page.emulate("dark")
    page.until(lambda: page.script(ground) != light)
    darker = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (page.script(ground), light)]
    assert darker[0] < darker[1]
    page.picture(pictures / "page-dark.png")


def test_hostile_names_and_texts_do_nothing(page: Page) -> None:
    nasty = "</script><script>document.title='owned'</script><img src=x onerror=document.title='owned'><!--"
    word = Word(start_ms=0, end_ms=900, text=nasty, probability=0.1, speaker=nasty)
    of = Transcript(
        duration_ms=5_000,
        language="en",
        segments=(Segment(start_ms=0, end_ms=900, text=nasty, speaker=nasty, words=(word,)),),
        turns=(SpeakerTurn(start_ms=0, end_ms=900, speaker=nasty),),
        warnings=(nasty,),
        provenance=Provenance(whisperfleet=nasty, job=nasty, media=nasty, model=nasty, engine="e", options={}),
    )
    page.open(of, None)
    page.until(lambda: page.all(".w"))

    assert page.texts("h1") == page.texts(".w") == page.texts(".block .name") == [nasty]
    assert page.driver.title == nasty
    assert page.all("img") == []
    page.press("/")
    page.press("<script>")
    page.until(lambda: page.one("#count").text == "1 of 1")
    assert len(page.requests()) <= 1  # the recording of that name, which is not there
    refused = [text for text in page.complaints() if "ERR_FILE_NOT_FOUND" not in text]
    assert refused == []


def test_ten_hours_open_and_can_be_read_to_the_end(page: Page) -> None:
    of = long_talk(10)
    page.open(of, None)
    assert page.script("return document.querySelectorAll('.w').length") < 5_000  # only what is near the screen

    last = next(segment for segment in reversed(of.segments) if segment.words)
    click_on_timeline(page, last.start_ms / of.duration_ms)
    page.until(
        lambda: page.script("return document.querySelector('.block.on')?.getBoundingClientRect().top < innerHeight")
    )
    page.press("/")
    page.press("barbel")
    count = " ".join(segment.text for segment in of.segments).count("barbel")
    page.until(lambda: page.one("#count").text.endswith(f"of {count}"))
    rename(page, "SPEAKER_00", "Ann")
    page.until(lambda: "SPEAKER_00" not in page.texts(".name"))


def test_without_speakers_it_is_a_text_with_times(page: Page, pictures: Path) -> None:
    of = interview()
    bare = of.model_copy(
        update={
            "speakers": (),
            "turns": (),
            "segments": tuple(
                segment.model_copy(update={"speaker": None, "no_speaker": "off"}) for segment in of.segments
            ),
        }
    )
    page.open(bare, None)

    assert page.texts(".name") == []
    assert page.texts(".nobody") == []
    assert page.texts("#legend .label") == ["Speech"]
    page.picture(pictures / "page-no-speakers.png")


def test_it_can_be_printed(page: Page) -> None:
    page.open(interview(), None)
    page.cdp("Emulation.setEmulatedMedia", media="print")

    shown = page.script(
        "const parts = [...document.querySelectorAll('#player, #search, .options, main')];"
        "return parts.filter(e => e.offsetHeight).map(e => e.id)"
    )
    assert shown == ["text"]


def test_a_picture_for_those_who_look_before_they_try(page: Page, recording: str, pictures: Path) -> None:
    page.emulate("light")
    page.open(interview(), recording)
    page.ready()
    page.script("document.getElementById('media').muted = true")
    page.word("began,").click()
    page.until(page.playing)
    page.until(lambda: page.all(".w.on"))
    page.press(Keys.SPACE)
    page.script("document.activeElement.blur(); scrollTo({top: 0, behavior: 'instant'})")
    page.until(lambda: page.script("return scrollY") == 0)
    page.picture(pictures / "page.png")
    assert [word.text for word in page.all(".w.on")] == ["began,"]
