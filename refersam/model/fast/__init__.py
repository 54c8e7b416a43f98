"""Fast equivalents of formulas of `refersam.model`: the same sums reassociated, gathered or computed in chunks.

Each function has a plain twin that its tests compare it with. Only this package depends on whether a gradient or a
graph is recorded.
"""
