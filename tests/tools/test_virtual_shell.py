"""The virtual shell is held to bash, GNU and CPython in the sandbox, and says so where it does not follow."""

import random
import time

import pytest

from tools import virtual_python
from tools.sandbox import Limits
from tools.virtual_shell import STATUS, VirtualShell

SHELL = VirtualShell()

PROGRAM = {
    "main.py": b"from f1 import f1\nfrom f20 import f20\n\nv10 = 7\nv1 = 3\nprint(v1)\nf1(v1)\nf20(v1, v1)\n",
    "f1.py": b"from f20 import f20\nfrom foo import foo\n\ndef f1(v2):\n    v5 = 4\n    f20(v5, v2)\n    foo(v2)\n",
    "f20.py": b"def f20(v0, v4):\n    print(v4)\n",
    "foo.py": b"def foo(v0):\n    print(v10)\n",
    "notes": b"one\ntwo\n  three\n\none more",
}


@pytest.fixture(scope="module")
def box(trusted):
    return trusted(Limits(seconds=20))


def word(rng):
    return rng.choice(["v1", "v2", "v10", "f1", "foo", "print", "one", "two", "x y", "a'b", "(v2", "*", "7", "-e", "#"])


def file(rng):
    return rng.choice([*PROGRAM, *PROGRAM, "none", "new.py", "f9.py", "./f1.py", "/work/foo.py", "*.py", "f*", "n?tes"])


def one_file(rng):
    return rng.choice([*PROGRAM, "none", "new.py", "f9.py"])


def quoted(rng, text):
    if "'" in text or rng.random() < 0.3:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"'{text}'"


def pattern(rng):
    return rng.choice(
        [
            "v1",
            "v10",
            "foo(",
            "f1(",
            "^    ",
            "one$",
            "^$",
            "v.",
            "v[0-9]",
            "o.*e",
            "n*",
            r"v.\b",
            r"\bf",
            "p",
            "  *",
            "[^a-z]",
        ]
    )


def extended(rng):
    return rng.choice(
        [
            r"(def f1|foo)\((v.\b)",
            r"(foo|f20)\(",
            r"(v)([0-9]+)",
            "v[0-9]+",
            r"\((v.)",
            r"(one|two)",
            r"^(from) ",
            r"(\w+)\(",
            "o+",
        ]
    )


def substitution(rng):
    if rng.random() < 0.5:
        what, new = pattern(rng), rng.choice(["&v10, ", "X", "", r"\&", "[&]", "a b"])
        return "sed {} 's/{}/{}/{}'", what, new
    return "sed -E{} 's/{}/{}/{}'", extended(rng), rng.choice([r"\1(v10, \2", "<&>", r"\1", r"\1\1"])


def sed(rng):
    form, what, new = substitution(rng)
    inplace = rng.random() < 0.5
    option = ("i" if inplace else "") if "-E{}" in form else ("-i" if inplace else "")
    address = rng.choice(["", "", "", "2", "$", "1,3", "/v1/", "2,$", "/def/,/v2/", "3,1"])
    command = form.format(option, what, new, rng.choice(["", "", "g", "p"])).replace("'s/", f"'{address}s/")
    if rng.random() < 0.3:
        command = f"sed {rng.choice(['-n', '-i', ''])} '{address}{rng.choice('dp')}'"
    return f"{command} {file(rng)}"


def simple(rng):
    return rng.choice(
        [
            lambda: f"echo {quoted(rng, word(rng))} {quoted(rng, word(rng))}",
            lambda: f"echo {rng.choice(['-n ', ''])}hello   world",
            lambda: f"cat {file(rng)}",
            lambda: f"cat {file(rng)} {file(rng)}",
            lambda: rng.choice(["ls", "ls", "ls -1", "ls -a", "ls *.py"]),
            lambda: f"ls {one_file(rng)} {one_file(rng)}",
            lambda: f"{rng.choice(['head', 'tail'])} {rng.choice(['', '-n 2 ', '-3 ', '-n1 '])}{file(rng)}",
            lambda: sed(rng),
            lambda: sed(rng),
            lambda: sed(rng),
            lambda: f"python {one_file(rng).replace('notes', 'f1.py')}",
            lambda: rng.choice(["python main.py", "python3 main.py", "python main.py 2>&1 >/dev/null | tail -n 7"]),
            lambda: rng.choice(["true", "false", "pwd", "cd /work", f"rm {one_file(rng)}", f"rm -f {one_file(rng)}"]),
        ]
    )()


def command(rng):
    made = simple(rng)
    kind = rng.randrange(12)
    if kind == 0:
        made = f"{made} > {one_file(rng)}"
    elif kind == 1:
        made = f"{made} >> {one_file(rng)}"
    elif kind == 2:
        made = f"{made} | {rng.choice(['cat', 'head -n 2', 'tail -n 1', 'sed s/v/w/'])}"
    elif kind == 3:
        made = f"{made} 2>&1"
    elif kind == 4:
        made = f"{made} 2>/dev/null"
    elif kind == 5:
        mark = rng.choice(["EOF", "'EOF'"])
        lines = "\n".join(rng.choice(["print(1)", "def f9(v1):", "    print(v1)", "", "x = y"]) for _ in range(3))
        made = f"cat <<{mark} > {one_file(rng)}\n{lines}\nEOF"
    elif kind == 6:
        made = f"{made} < {one_file(rng)}" if made.startswith(("cat", "head")) else f"cat < {one_file(rng)}"
    if kind != 5 and rng.random() < 0.3:
        made += rng.choice(["; ", " && ", " || "]) + simple(rng)
    return made


def compared(box, files, text):
    """Whether the two agree; None where the virtual shell does not follow."""
    mine = SHELL.run(files, text)
    if mine.status == STATUS and mine.output.startswith(b"virtual shell: "):
        assert mine.files == files
        return None, mine, None
    real = box.run(files, text)
    same = (mine.output, mine.status, dict(mine.files)) == (real.output, real.status, dict(real.files))
    return same, mine, real


def differential(box, seed, count, least):
    """Walks of commands, each from the files that the one before left."""
    rng, files, known = random.Random(seed), dict(PROGRAM), 0
    tried = 0
    while known < count:
        if rng.random() < 0.2:
            files = dict(PROGRAM)
        text = command(rng)
        tried += 1
        same, mine, real = compared(box, files, text)
        if same is None:
            continue
        assert same, f"{text!r}\nvirtual {mine.status}: {mine.output!r}\nbubblewrap {real.status}: {real.output!r}"
        known += 1
        files = dict(mine.files)
    assert known >= least * tried, f"only {known} of {tried} commands are known"


def test_commands_agree_with_bubblewrap(box):
    differential(box, 0, 100, 0.6)


@pytest.mark.slow
def test_thousands_of_commands_agree_with_bubblewrap(box):
    differential(box, 1, 2000, 0.6)


def broken(rng):
    """The program with lines changed, left out or doubled."""
    files = {}
    for name, content in PROGRAM.items():
        lines = content.decode().split("\n")
        if name.endswith(".py") and rng.random() < 0.5:
            at = rng.randrange(len(lines))
            change = rng.randrange(6)
            if change == 0:
                lines.pop(at)
            elif change == 1:
                lines.insert(at, lines[at])
            elif change == 2:
                lines[at] = lines[at].replace("v2", rng.choice(["v10", "v9", "v10, v2", "3", "foo", ""]))
            elif change == 3:
                lines[at] = lines[at].replace("(v", rng.choice(["(v10, v", "(", "( v"]))
            elif change == 4:
                lines.insert(
                    at, rng.choice(["    v2 = v7", "print(v3)", "v10 = 1", "    v5 = v2", "# note", "foo(1)", "f1()"])
                )
            else:
                lines[at] = lines[at].replace("f20", rng.choice(["f21", "foo", "f1"]))
        files[name] = "\n".join(lines).encode()
    return files


@pytest.mark.parametrize("count", [30, pytest.param(400, marks=pytest.mark.long)])
def test_broken_programs_fail_as_in_cpython(box, count):
    rng, known, tried = random.Random(count), 0, 0
    while known < count:
        tried += 1
        same, mine, real = compared(box, files := broken(rng), "python main.py")
        if same is not None:
            known += 1
            assert same, f"{files}\nvirtual: {mine.text}\nbubblewrap: {real.text}"
    assert known > 0.4 * tried


@pytest.mark.parametrize(
    "text",
    [
        *(
            "awk 1 main.py",
            "cat $HOME",
            "cat `ls`",
            "for f in *; do cat $f; done",
            "cat ../x",
            "cat /etc/passwd",
            "cd /",
        ),
        *(
            "python -c 'print(1)'",
            "python main.py &",
            "sed -Ei 's/(a|b)*//' f1.py",
            "sed 's/a?/b/' -E f1.py",
            "FOO=1 ls",
        ),
        *(
            "sed 's/x*/y/g' f1.py",
            "sed -E 's/(a|ab)(c|bcd)/x/' f1.py",
            "echo a{b,c}",
            "ls | sed -i 's/a/b/' f1.py",
            "echo -e a",
        ),
        *(
            "cat 'open",
            "cat <<EOF\nx",
            "ls &&",
            "(ls)",
            "ls ~",
            "cat <<EOF\n$HOME\nEOF",
            "exec ls",
            "echo 3>x",
            "ls -l",
            "!!",
        ),
    ],
)
def test_what_is_beyond_is_said_and_changes_nothing(text):
    ran = SHELL.run(PROGRAM, f"echo x > new\n{text}")
    assert ran.status == STATUS
    assert ran.output.startswith(b"virtual shell: ")
    assert ran.output.endswith(b"is not supported\n")
    assert ran.files == PROGRAM


@pytest.mark.parametrize(
    "source",
    [
        *(
            "import os\n",
            "x = open('a')\n",
            "while True:\n    pass\n",
            "print('a')\n",
            "print(1, end='')\n",
            "f = lambda: 1\n",
        ),
        *(
            "def f(:\n    print(1)\n",
            "def f(a=1):\n    print(a)\n",
            "print(__name__)\n",
            "print(print)\n",
            "x = 10**9\n",
        ),
        *(
            "def f(x):\n    f(x)\nf(1)\n",
            "exec(1)\n",
            "from os import path\n",
            "print(1);print(2)\n",
            "\tprint(1)\n",
            "é = 1\n",
        ),
        *(
            "def f(x):\n    from g import g\n",
            "async def f():\n    print(1)\n",
            "print(1) # note\n",
            "1\n",
            "x = y = 1\n",
        ),
    ],
)
def test_programs_that_are_beyond_are_not_guessed_at(source):
    assert SHELL.run({"main.py": source.encode()}, "python main.py").text.startswith("virtual shell: ")


def test_a_program_that_never_ends_is_beyond():
    lines = (
        "".join(f"def f{at}(x):\n    f{at + 1}(x)\n    f{at + 1}(x)\n" for at in range(40))
        + "def f40(x):\n    print(x)\nf0(1)\n"
    )
    began = time.monotonic()
    assert "does so much" in SHELL.run({"main.py": lines.encode()}, "python main.py").text
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    "text",
    [
        "sed 's/.*.*.*.*x/y/' long",
        "sed -n '/a*a*a*a*b/p' long",
        "; ".join(["cat long > f"] * 400),
        "; ".join(f"cat long long > f{at}" for at in range(400)),
        "; ".join(["cat long"] * 100),
        "cat " + "long " * 3000,
    ],
)
def test_no_command_takes_more_than_its_share(text):
    began = time.monotonic()
    ran = SHELL.run({"long": b"a" * 50_000 + b"\n"}, text)
    assert ran.text.startswith("virtual shell: ")
    assert time.monotonic() - began < 20


def test_nothing_is_executed(monkeypatch):
    """Neither processes nor code: `eval`, `exec` and `compile` are not even there."""
    names = set(vars(virtual_python)) | set(virtual_python.run.__code__.co_names)
    assert not names & {"eval", "exec", "compile", "subprocess", "os"}


def test_the_same_command_gives_the_same_result_and_leaves_its_input_alone():
    before = dict(PROGRAM)
    first = SHELL.run(before, "echo 1 > new; rm f1.py; python main.py")
    assert before == PROGRAM
    assert first == SHELL.run(before, "echo 1 > new; rm f1.py; python main.py")
    assert "ModuleNotFoundError: No module named 'f1'" in first.text
