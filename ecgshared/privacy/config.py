"""What a study asks of private training; checked without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ecgshared.config import Config

Accountant = Literal["rdp", "prv"]


class PrivacyConfig(Config):
    """Differentially private local training with the PATIENT as the unit, over ALL planned rounds.

    ``expected_batch_size`` is a public constant, in patients: gradients are divided by it, never by a number that
    depends on the site's data. A site draws each patient at a step with probability expected_batch_size / patients.
    """

    epsilon: float = Field(gt=0, le=100, description="most that the step may spend for any patient")
    delta: float = Field(gt=0, lt=0.01, description="chance that is left outside of epsilon")
    max_grad_norm: float = Field(default=1.0, gt=0, description="bound on one patient's gradient, L2")
    expected_batch_size: int = Field(default=64, ge=1, description="patients per step, on average")
    accountant: Accountant = Field(default="rdp", description="which accountant adds up the rounds")


class StatisticsPrivacy(Config):
    """Noise on statistics that leave once, in one message, with the PATIENT as the unit."""

    epsilon: float = Field(gt=0, le=100, description="most that the step may spend for any patient")
    delta: float = Field(gt=0, lt=0.01, description="chance that is left outside of epsilon")
    accountant: Accountant = Field(default="prv", description="which accountant solves and adds up the noise")
