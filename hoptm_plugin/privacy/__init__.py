"""What a distilled set gives away of the images it was made from: measures, with intervals that hold their coverage.

Formulas: docs/audit.md. Nothing here distils or reads data. Modules are imported by name: most of them need SciPy, for
which commands that audit nothing should not wait.
"""
