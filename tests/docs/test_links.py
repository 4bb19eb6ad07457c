"""Every link between pages, and every page that code or text names, is there."""

import posixpath
import re
import unicodedata
from pathlib import Path

from docs.generate import sources

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]+))?\)")
OTHERS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "driftrec/models/tiny.md", "examples/CREDITS.md")


def texts() -> dict[str, str]:
    """Path in the repository -> text, of all pages, those that are made included."""
    paths = [*(ROOT / "docs").rglob("*.md"), *(ROOT / name for name in OTHERS)]
    known = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}
    return {f"docs/{path}": text for path, text in sources()} | known


def anchors(text: str) -> set[str]:
    """Of a page's headings, as MkDocs makes them."""
    plain = re.sub(r"^    .*$", "", text, flags=re.MULTILINE)
    headings = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", line) for line in re.findall(r"^#+ (.+)$", plain, re.MULTILINE))
    return {slug(heading) for heading in headings}


def slug(heading: str) -> str:
    letters = unicodedata.normalize("NFKD", heading).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", letters).strip().lower())


def test_every_link_leads_somewhere():
    known = texts()
    links = [(page, *link) for page, text in known.items() for link in LINK.findall(text)]
    assert len(links) > 100
    for page, path, anchor in links:
        if page.removeprefix("docs/") in {"contributing.md", "changelog.md", "credits.md", "reference/tiny.md"}:
            continue  # copies: their links are those of the file in the root
        target = posixpath.normpath(posixpath.join(posixpath.dirname(page), path)) if path else page
        assert target in known or (ROOT / target).is_file(), f"{page}: {path}"
        assert not anchor or anchor in anchors(known[target]), f"{page}: {path}#{anchor}"


def test_every_page_that_a_file_names_is_there():
    tops = ("driftrec", "pipeline", "jobs", "benchmarks", "recipes")
    files = [path for top in tops for path in (ROOT / top).rglob("*")]
    files = [path for path in (*files, *ROOT.glob("*.md")) if path.suffix in (".py", ".md", ".html")]
    named = {name for path in files for name in re.findall(r"\bdocs/[\w/-]+\.(?:md|jpg|png)", path.read_text())}
    assert len(named) > 10
    assert sorted(name for name in named if not (ROOT / name).is_file()) == []
