"""What a built site must not do: lead to nowhere, or load anything from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup

from utils.course.site.figures import SCRIPTS

# element → the attributes with which a browser loads something as soon as it sees them
LOADING = {
    **dict.fromkeys(("script", "iframe", "embed", "audio", "input", "track"), ("src",)),
    **dict.fromkeys(("img", "source"), ("src", "srcset")),
    **dict.fromkeys(("image", "use"), ("href", "xlink:href")),
    **{"object": ("data",), "video": ("src", "poster")},
}
LINK_RELATIONS = set("stylesheet icon preload prefetch modulepreload preconnect dns-prefetch manifest".split())
ELSEWHERE = re.compile(r"(?:https?:)?//[^/]", re.IGNORECASE)
IN_STYLE = re.compile(r"(?:url\(|@import)\s*['\"]?\s*((?:https?:)?//[^)'\"\s]+)", re.IGNORECASE)
IN_SCRIPT = re.compile(
    r"""(?:\bimport\s*\(?|importScripts\(|\bfrom|\bfetch\(|\.src\s*=|require\(\[?)\s*["'`]((?:https?:)?//[^"'`]+)"""
)


def loads_from_elsewhere(site: Path) -> list[str]:
    """One line for each script, style, font or picture that a page, a style or a script of the site would ask a host for.

    The scripts that draw figures are left out: plotly's can show maps, for which it would ask for tiles. No figure here
    does, and tests/test_site.py lets a browser say so.
    """
    found, looked_into = [], (".html", ".css", ".js", ".svg")
    for path in sorted(path for path in site.rglob("*") if path.suffix in looked_into):
        if path.name in SCRIPTS.values():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        if path.suffix == ".html":
            asked = set(_loaded(BeautifulSoup(text, "html.parser"))) | set(IN_STYLE.findall(text))
        else:
            asked = set((IN_SCRIPT if path.suffix == ".js" else IN_STYLE).findall(text))
        found += [f"{path.relative_to(site)}: loads {address}" for address in sorted(asked)]
    return found


def _loaded(page: BeautifulSoup) -> Iterator[str]:
    for element in page.find_all([*LOADING, "link"]):
        names = LOADING.get(element.name, ())
        if element.name == "link" and LINK_RELATIONS & set(element.get("rel", [])):
            names = ("href",)
        yield from (element[name] for name in names if element.has_attr(name) and ELSEWHERE.match(element[name]))
    for script in page.find_all("script"):
        yield from IN_SCRIPT.findall(script.string or "")


def dead_links(site: Path) -> list[str]:
    """One line for each link between the pages whose page is not there, or has no element of that name."""
    files = sorted(site.rglob("*.html"))
    pages = {path: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser") for path in files}
    named = {path: page.select("[id], a[name]") for path, page in pages.items()}
    names = {path: {element.get("id") or element.get("name") for element in found} for path, found in named.items()}
    found = set()
    for path, page in pages.items():
        for link in page.find_all("a", href=True):
            address = urlsplit(link["href"])
            if address.scheme or address.netloc:
                continue
            target = (path.parent / unquote(address.path)).resolve() if address.path else path
            fragment = unquote(address.fragment)
            if not target.exists() or (fragment and fragment not in names.get(target, {fragment})):
                found.add(f"{path.relative_to(site)}: {link['href']!r} leads nowhere")
    return sorted(found)
