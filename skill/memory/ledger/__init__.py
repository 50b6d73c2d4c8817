"""Analytic model: a step of training replayed on accounts instead of tensors."""

from skill.memory.ledger.step import Step, run

__all__ = ["Step", "run"]
