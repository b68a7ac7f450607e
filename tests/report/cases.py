"""What several tests of the report look at."""

import re
from html.parser import HTMLParser

from utils.circuits.report import ReportSettings

SMALL = ReportSettings(anyway=True, pairs=4, test_pairs=4, n_random=19, most=2)


class Loads(HTMLParser):
    """Whatever a page would ask somebody for, and its scripts."""

    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        asking = {"src", "href", "xlink:href", "srcset", "action", "data", "poster", "background"}
        self.found += [(tag, name, value) for name, value in attributes if name in asking]
        self.found += [(tag, "", "")] * (tag in ("script", "link", "iframe", "object", "embed", "img", "base"))


def loads_nothing(page):
    without_names = page.replace('xmlns="http://www.w3.org/2000/svg"', "")
    return not Loads(page).found and not re.search(r"https?:|@import|url\(|//\w+\.\w", without_names)
