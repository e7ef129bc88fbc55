"""Owns what a Hub id looks like: ORG/NAME, with `:CONFIGURATION` of a dataset and `@REVISION` if need be."""

from __future__ import annotations

import re

HUB_ID = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(:(?P<config>[\w.-]+))?(@(?P<revision>[\w./-]+))?")
