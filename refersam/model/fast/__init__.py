"""Fast equivalents of formulas of `refersam.model`: the same sums reassociated, gathered or computed in chunks.

Each function is tested against a reference implementation. Only this package depends on whether a gradient or a graph
is recorded.
"""
