"""Plans: what is decided about each weight of a model, made from options or read from a file."""

from sn_graph.lazy import lazily

with lazily(__name__):
    from sn_graph.plan.carried import Carried, carried_plan
    from sn_graph.plan.convention import Origin, choose_convention
    from sn_graph.plan.decide import decide, left_out_by, matches, patterns
    from sn_graph.plan.file import load_plan, save_plan
    from sn_graph.plan.make import build_plan, make_plan, narrow_plan, rebind
    from sn_graph.plan.options import PlanOptions
    from sn_graph.plan.plan import Plan, PlannedSite, Status, Target, one_at_a_time
    from sn_graph.plan.record import record_of
    from sn_graph.plan.whole import require_whole

__all__ = [
    "Carried",
    "Origin",
    "Plan",
    "PlanOptions",
    "PlannedSite",
    "Status",
    "Target",
    "build_plan",
    "carried_plan",
    "choose_convention",
    "decide",
    "left_out_by",
    "load_plan",
    "make_plan",
    "matches",
    "narrow_plan",
    "one_at_a_time",
    "patterns",
    "rebind",
    "record_of",
    "require_whole",
    "save_plan",
]
