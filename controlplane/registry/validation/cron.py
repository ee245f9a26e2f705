"""Schedules of CronJobs: what is wrong with one, in the words of the parser that Kubernetes uses. Pure."""

from __future__ import annotations

from wherry.api import integers

_MACROS = ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS: tuple[tuple[int, int, dict[str, int]], ...] = (
    (0, 59, {}), (0, 23, {}), (1, 31, {}), (1, 12, {name: number for number, name in enumerate(_MONTHS, 1)}),
    (0, 6, {name: number for number, name in enumerate(_DAYS)}),
)  # fmt: skip


def problem(schedule: str) -> str:
    """Empty when there is none."""
    if schedule.startswith("@"):
        if schedule in _MACROS or schedule.startswith("@every "):
            return ""
        return f"unrecognized descriptor: {schedule}"
    parts = schedule.split()
    if len(parts) != len(_FIELDS):
        return f"expected exactly {len(_FIELDS)} fields, found {len(parts)}: [{' '.join(parts)}]"
    for part, (low, high, words) in zip(parts, _FIELDS, strict=True):
        for item in part.split(","):
            found = _item(item, low, high, words)
            if found:
                return found
    return ""


def _item(item: str, low: int, high: int, words: dict[str, int]) -> str:
    span, slash, step_text = item.partition("/")
    start_text, dash, end_text = span.partition("-")
    if "/" in step_text:
        return f"too many slashes: {item}"
    if "-" in end_text:
        return f"too many hyphens: {item}"
    if start_text in ("*", "?"):
        start, end = low, high
    else:
        numbers = []
        for text in (start_text, end_text) if dash else (start_text,):
            number = words.get(text.lower(), integers.parse_unsigned(text))
            if number is None:
                return f'failed to parse int from {text}: strconv.Atoi: parsing "{text}": invalid syntax'
            numbers.append(number)
        start = numbers[0]
        end = numbers[1] if dash else high if slash else start
    if slash and not (step := integers.parse_unsigned(step_text)):
        if step == 0:
            return f"step of range should be a positive number: {item}"
        return f'failed to parse int from {step_text}: strconv.Atoi: parsing "{step_text}": invalid syntax'
    if start < low:
        return f"beginning of range ({start}) below minimum ({low}): {item}"
    if end > high:
        return f"end of range ({end}) above maximum ({high}): {item}"
    if start > end:
        return f"beginning of range ({start}) beyond end of range ({end}): {item}"
    return ""
