"""The tools, one file each. A name maps to an import path, so that listing them imports nothing."""

TOOLS = {
    "none": "tools.none:NoTool",
    "pointer": "tools.pointer:PointerMemory",
    "calculator": "tools.calculator:Calculator",
    "solver": "tools.solver:Solver",
    "tape": "tools.tape:Tape",
    "search": "tools.search:SearchMemory",
    "shell": "tools.shell:Shell",
}
