"""The everstep operator: turns one DurableApp into Deployments, migration Jobs and routing in SQL.

Four verbs, in this order, for every object, again and again: observe, plan, apply, report.
"""
