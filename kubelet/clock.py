"""Whether this node's clock agrees with the control plane's. Pure; asked by `kubelet.agent` with each acknowledgement, and by
`kubelet.identity` about certificates.

Nothing that the control plane decides about a node is judged by the node's clock (it counts its own seconds since the last
heartbeat). The node's own clock judges certificates and tokens, and is written into statuses and Events: so it is told.
"""

from __future__ import annotations

from datetime import UTC, datetime

LIMIT_S = 10.0


class ClockWatch:
    """Tells each change once."""

    def __init__(self) -> None:
        self.wrong = False

    def observe(self, sent: float, received: float, theirs: float) -> str:
        """What is new, or "". `theirs` is what their clock showed at some moment between `sent` and `received` of ours, which
        bounds the difference from both sides: an answer that was long under way proves neither."""
        if not theirs:
            return ""  # a control plane that does not say
        ahead, behind = sent - theirs, theirs - received
        wrong = max(ahead, behind) > LIMIT_S
        agrees = received - theirs <= LIMIT_S and theirs - sent <= LIMIT_S
        if wrong == self.wrong or not (wrong or agrees):
            return ""
        self.wrong = wrong
        if not wrong:
            return "This node's clock agrees with the control plane's again"
        amount = f"{ahead:.0f} s ahead of" if ahead > 0 else f"{behind:.0f} s behind"
        return (
            f"This node's clock is {amount} the control plane's: it judges certificates and tokens, and is in this node's "
            "statuses and Events; set it"
        )


def certificate_problem(not_before: float, not_after: float, now: float) -> str:
    """Why the node's certificate is of no use by the node's own clock, or ""."""
    if now < not_before:
        return (
            f"this node's clock says {_text(now)}, which is before the node's own certificate ({_text(not_before)}): "
            "the clock is wrong, and until it is set no new connection to the control plane is possible"
        )
    if now >= not_after:
        return (
            f"the node's certificate has expired at {_text(not_after)} by this node's clock, which says {_text(now)}: "
            "set the clock if it is wrong, else join with a new token"
        )
    return ""


def _text(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
