"""Problems and their solvers, one file a task. A name maps to an import path, so that listing them imports nothing."""

TASKS = {
    "addition": "tasks.addition:Addition",
}
