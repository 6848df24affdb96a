"""What a reader's browser makes of a page: requests, complaints, overflow, contrast, sizes of type."""

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

# Every visible text with its colour, the colour behind it, and its height as drawn. SVG's text is filled, not coloured.
TEXTS = """() => {
  document.querySelectorAll("details").forEach(d => { d.open = true; });
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
  const channels = text => text.match(/[\\d.]+/g).map(Number);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), element = walker.currentNode.parentElement;
    if (!text || element.closest("style, script") || !element.checkVisibility()) continue;
    const drawn = element.closest("svg"), style = getComputedStyle(element);
    let behind = element, ground = [255, 255, 255, 0];
    while (behind && (ground.length == 4 && ground[3] == 0)) {
      ground = channels(getComputedStyle(behind).backgroundColor); behind = behind.parentElement; }
    const scale = drawn ? drawn.getBoundingClientRect().width / drawn.viewBox.baseVal.width : 1;
    found.push({text, ink: channels(drawn ? style.fill : style.color), ground, drawn: !!drawn,
                pixels: parseFloat(style.fontSize) * scale});
  }
  return found;
}"""


@dataclass
class Visit:
    """An open page, and what came of opening it."""

    page: Any
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def overflow_pixels(self):
        """By how much the page is wider than its window."""
        return self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")

    def texts(self):
        """All texts that can be seen once everything is unfolded."""
        found = self.page.evaluate(TEXTS)
        assert any(text["drawn"] for text in found) and any(not text["drawn"] for text in found)
        return found


@contextmanager
def visit(browser, path, *, width=1280, scheme="light"):
    """Open a file; whatever it asks for beyond itself is noted and refused."""
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
    seen = Visit(context.new_page())

    def answer(route):
        if route.request.url != path.as_uri():
            seen.requests.append(route.request.url)
            route.abort()
        else:
            route.continue_()

    context.route(lambda url: not url.startswith("data:"), answer)
    seen.page.on("console", lambda message: seen.complaints.append(message.text))
    seen.page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    seen.page.goto(path.as_uri())
    yield seen
    context.close()


def contrast(text):
    """Of a text and what is behind it (WCAG 2.2: 4.5 is enough for small type)."""
    light, dark = sorted((_luminance(text["ink"]), _luminance(text["ground"])), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(channels):
    linear = [c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in channels[:3]]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
