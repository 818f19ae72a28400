"""The round, written once: what is asked of whom, in which order, and what becomes of the answers.

It knows no folder, no message and no Prefect. Who runs rounds says by a :class:`~fedmed.engine.runner.Runner` how
hospitals are asked and how the coordinator's steps are run; the same rounds then go through a loop over tables in
memory, through Prefect's tasks, or to hospitals on hosts of their own.
"""
