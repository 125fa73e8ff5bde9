"""Which models are up: a pure decision (`decision`), and the Serve policy that asks for it (`policy`)."""

from deployments.residency.decision import Decision, Demand, Model, decide
from deployments.residency.policy import ResidencyPolicy
from deployments.residency.room import Node

__all__ = ["Decision", "Demand", "Model", "Node", "ResidencyPolicy", "decide"]
