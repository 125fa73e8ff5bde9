"""Which models are up: a pure decision (`decision`), and the Serve policy that asks for it (`policy`)."""

from deployments.residency.decision import decide
from deployments.residency.demand import Decision, Demand, Model
from deployments.residency.policy import ResidencyPolicy
from deployments.residency.room import Node

__all__ = ["Decision", "Demand", "Model", "Node", "ResidencyPolicy", "decide"]
