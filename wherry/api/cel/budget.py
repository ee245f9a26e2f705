"""What all expressions together may cost that are asked for one request, and when it is others' turn meanwhile.

Used by those who run several: rules of custom resources, conditions and policies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wherry.api.cel.program import RUN_LIMIT, Program
from wherry.api.cel.values import EvaluationError

_COST_OF_TURN = 20_000  # about 2 ms


class Budget:
    def __init__(self, total: float) -> None:
        self.left = total
        self._turn = total - _COST_OF_TURN

    def run(self, program: Program, given: Mapping[str, Any]) -> Any:
        """The value. Raises EvaluationError; what failed has cost something as well."""
        try:
            result = program.run(given, limit=min(self.left, RUN_LIMIT))
        except EvaluationError as error:
            self.left -= error.cost
            raise
        self.left -= result.cost
        return result.value

    def is_others_turn(self) -> bool:
        """Once for so much that has been spent since it last was."""
        if self.left > self._turn:
            return False
        self._turn = self.left - _COST_OF_TURN
        return True
