"""Problems and their solvers, one file a task. A name maps to an import path, so that listing them imports nothing."""

TASKS = {
    "addition": "tasks.addition:Addition",
    "multiplication": "tasks.multiplication:Multiplication",
    "hanoi": "tasks.hanoi:Hanoi",
    "hanoi_recursive": "tasks.hanoi_recursive:HanoiRecursive",
    "logical_graph": "tasks.logical_graph:LogicalGraph",
    "retrieval": "tasks.retrieval:Retrieval",
    "code_fix": "tasks.code_fix:CodeFix",
    "increment": "tasks.turing:increment",
    "palindrome": "tasks.turing:palindrome",
    "balanced": "tasks.turing:balanced",
    "unary_to_binary": "tasks.turing:unary_to_binary",
    "copy": "tasks.turing:copy",
    "sort": "tasks.turing:sort",
}
