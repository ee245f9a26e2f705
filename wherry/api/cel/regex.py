"""Regular expressions as Go knows them (RE2): no backtracking, so that no pattern takes more than linear time.

Called by `libraries`, `standard` and whoever checks a schema's `pattern`; RE2 is imported with the first pattern.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

MAX_PATTERN_CHARS = 50_000
_MAX_MEMORY_BYTES = 8 << 20


@lru_cache(maxsize=512)
def compiled(pattern: str) -> Any:
    """Raises ValueError."""
    import re2

    if len(pattern) > MAX_PATTERN_CHARS:
        raise ValueError(f"regular expression of more than {MAX_PATTERN_CHARS} characters")
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MAX_MEMORY_BYTES
    try:
        return re2.compile(pattern, options=options)
    except re2.error as error:
        text = error.args[0] if error.args else "invalid"
        text = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
        raise ValueError(f"error parsing regexp: {text}") from error
    except UnicodeEncodeError as error:
        raise ValueError("error parsing regexp: invalid UTF-8") from error


def search(pattern: str, text: str) -> bool:
    """Whether the pattern matches anywhere in the text."""
    return compiled(pattern).search(text) is not None
