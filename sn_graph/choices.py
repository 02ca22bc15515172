"""Choices: the words that an option of the API or the command line takes.

The enumerations of the rooms have the same words. These are literals, so that type checkers know them in a user's
project, and stand here, so that the command line knows them without importing a room.
"""

from typing import Literal

SigmaChoice = Literal["exact", "power", "upper"]
"""How σ is found: to 1e-6, by the frameworks' power iteration, or as a proven upper bound."""
MeasureChoice = Literal["exact", "upper"]
"""How `inspect` finds σ."""
NormChoice = Literal["matrix", "operator"]
"""Which norm: of the weight as a matrix, or of what its node does to its input."""
ConventionChoice = Literal["auto", "keras", "torch", "torch-parametrization"]
"""Whose matrix of a weight is taken."""
StateLayoutChoice = Literal["packed", "per-weight"]
"""One tensor that holds every u, or one a weight."""
StateModeChoice = Literal["default", "required"]
"""Whether the state's input has a default value."""
ScaleChoice = Literal["input", "weight"]
"""What is divided by σ: what the nodes read beside the weight, or the weight."""
LiftedSigmaChoice = Literal["graph", "exact"]
"""What lift divides by: the σ that the graph computes, or the norm itself."""
LiftedToChoice = Literal["fold", "insert"]
"""What lift makes of recognised arithmetic: a stored weight, or an iteration."""
FormChoice = Literal["plain", "fold", "insert"]
"""What becomes of the normalization of an exported model: kept apart, folded once, or inserted."""
LevelChoice = Literal["auto", "product", "fused", "lmi"]
"""How far `certify` goes: each level tries those before it too, and `auto` all that fit the time."""
ProviderChoice = Literal["cpu", "cuda"]
"""Execution providers of onnxruntime, by short name; StatefulSession takes onnxruntime's own names of any."""
ShellChoice = Literal["bash", "zsh", "fish"]
"""The shells that complete what is typed."""
