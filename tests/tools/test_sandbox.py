"""The sandbox as an attacker meets it: one test for every property it promises. Skipped, with the reason, where the
machine cannot make one."""

import os
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tools import sandbox
from tools.sandbox import Bubblewrap, Container, Limits, Local, SandboxUnavailable

MIB = 1 << 20
LIMITS = Limits(seconds=8, memory=200 * MIB, processes=24, file=4 * MIB, folder=8 * MIB, output=MIB // 4)


@pytest.fixture(scope="module")
def box(trusted):
    return trusted(LIMITS)


def python(box, code, **files):
    return box.run({"x.py": code.encode(), **files}, "python x.py")


def processes():
    return {int(name) for name in os.listdir("/proc") if name.isdigit()}


def test_a_command_gets_its_files_and_gives_back_what_it_leaves(box):
    ran = box.run({"a": b"1\n", "d/b": b"\xff\0", "e/": b""}, "cat a; ls -A; echo 2 >> a; rm d/b; mkdir f; exit 3")
    assert (ran.output, ran.status, ran.stopped) == (b"1\na\nd\ne\n", 3, None)
    assert ran.files == {"a": b"1\n2\n", "d/": b"", "e/": b"", "f/": b""}


def test_no_network(box):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code = f"""
import socket
for address in (("127.0.0.1", {port}), ("1.1.1.1", 53), ("169.254.169.254", 80)):
    try:
        socket.create_connection(address, 2)
        print("connected", address)
    except OSError:
        print("no")
try:
    socket.socket(socket.AF_UNIX).connect("/run/docker.sock")
except OSError:
    print("no")
try:  # abstract sockets belong to the network namespace
    socket.socket(socket.AF_UNIX).connect("\\0lengthwise-test")
except OSError:
    print("no")
"""
        with socket.socket(socket.AF_UNIX) as abstract:
            abstract.bind("\0lengthwise-test")
            abstract.listen()
            assert python(box, code).text == "no\n" * 5


def test_sockets_that_no_namespace_contains_are_refused(box):
    """AF_VSOCK reaches the host of a virtual machine, AF_ALG and AF_PACKET more of the kernel."""
    code = """
import socket
for family in (40, 38, 17, 29, 31):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
        try:
            socket.socket(family, kind)
            print("made", family)
        except PermissionError:
            pass
socket.socketpair()
socket.socket()
print("done")
"""
    assert python(box, code).text == "done\n"


def test_what_it_was_given_cannot_be_changed_from_inside(box):
    code = """
import glob, os
for at in glob.glob("/proc/[0-9]*/fd/*"):
    try:
        if "memfd" in os.readlink(at):
            open(at, "r+b", 0).write(b"x" * 600)
            print("written", at)
    except OSError as error:
        if error.errno != 2:
            print(error.errno == 1 or error)
"""
    assert set(python(box, code).text.split()) <= {"True"}


def test_other_processes_are_neither_seen_nor_signalled(box):
    victim = subprocess.Popen(["sleep", "60"])
    try:
        ran = box.run({}, f"ls /proc | grep -c '^[0-9]'; kill -9 {victim.pid}; echo alive")
        assert int(ran.text.split("\n")[0]) < 12
        assert "No such process" in ran.text
        box.run({}, "kill -9 -1")
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


def test_files_outside_cannot_be_read_or_written(box, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("treasure")
    tmp_path.chmod(0o755)
    secret.chmod(0o666)
    places = f"{secret} {Path(__file__)} /etc/shadow /etc/passwd /root /home /var /run/docker.sock /sys/kernel /boot"
    ran = box.run({}, f"for at in {places}; do [ -e $at ] && echo $at; done; echo x > {secret}; echo x > /usr/x; true")
    assert ran.text.count("\n") == 2, ran.text
    assert "No such file" in ran.text
    assert "Read-only file system" in ran.text
    assert secret.read_text() == "treasure"


@pytest.mark.parametrize(
    "place", ["/", "/usr", "/usr/bin", "/etc", "/dev", "/dev/shm", "/opt", "/opt/bin", "/proc", "/var"]
)
def test_nothing_can_be_written_but_its_folders(box, place):
    assert box.run({}, f"echo x > {place}/x; [ -e {place}/x ] && echo written").text.count("written") == 0


def test_the_environment_has_no_secrets(box, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "treasure")
    ran = box.run({}, "env; cat /proc/*/environ | tr '\\0' '\\n'; set")
    assert "treasure" not in ran.text
    assert "RAY" not in ran.text
    names = {line.partition("=")[0] for line in box.run({}, "env").text.splitlines()}
    assert names <= {*sandbox.ENVIRONMENT, "PWD", "SHLVL", "_", "OLDPWD"}


def test_it_has_no_privileges(box):
    ran = box.run(
        {}, "id -u; grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status; unshare -Ur true; su -c id"
    )
    lines = ran.text.splitlines()
    assert lines[:5] == [
        "1000",
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
    ]
    assert "uid=0" not in ran.text


def test_system_calls_that_reach_beyond_namespaces_are_refused(box):
    code = """
import ctypes, os
call = ctypes.CDLL(None, use_errno=True).syscall
numbers = {"x86_64": (250, 101, 321, 425, 319, 29, 272, 165), "aarch64": (219, 117, 280, 425, 279, 194, 97, 40)}
for number in numbers[os.uname().machine]:
    result = call(number, 0, 0, 0, 0, 0)
    print(number, result, ctypes.get_errno() == 1)
"""
    lines = python(box, code).text.splitlines()
    assert len(lines) == 8
    assert all(line.endswith(" -1 True") for line in lines), lines


def test_a_fork_bomb_ends_and_leaves_nothing(box):
    before = processes()
    began = time.monotonic()
    ran = box.run({}, "bomb() { bomb | bomb & }; bomb; sleep 3; echo survived")
    assert time.monotonic() - began < 60
    assert "fork" in ran.text or "Resource temporarily unavailable" in ran.text or ran.stopped
    assert gone("bomb", before)


def gone(text, before=frozenset()):
    """Whether no further process has this in its command line, once those that were killed had time to end."""
    for _ in range(100):
        if not [pid for pid in processes() - before if text in command_line(pid)]:
            return True
        time.sleep(0.1)
    return False


def command_line(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def test_processes_are_limited(box):
    code = """
import os, time
made = 0
try:
    for _ in range(1000):
        if os.fork() == 0:
            time.sleep(30)
            os._exit(0)
        made += 1
except OSError:
    print(made)
"""
    assert int(python(box, code).text) < LIMITS.processes


def test_a_memory_bomb_ends(box):
    assert "MemoryError" in python(box, "held = []\nwhile True:\n    held.append(bytearray(10_000_000))\n").text


def test_memory_is_limited_for_all_processes_together(box):
    code = """
import os, time
for _ in range(10):
    if os.fork() == 0:
        held = b"x" * 60_000_000
        time.sleep(30)
        os._exit(0)
time.sleep(30)
"""
    ran = python(box, code)
    assert ran.stopped == "memory"
    assert ran.status == -1


def test_a_full_disk_is_its_own(box):
    fill = "i=0; while head -c 1000000 /dev/zero > {place}/f$i 2>/dev/null; do i=$((i+1)); done; echo $i"
    for place in ("/work", "/tmp", "/out"):
        ran = box.run({}, fill.format(place=place))
        assert ran.stopped in (None, "files")
        assert sum(map(len, ran.files.values())) <= LIMITS.folder
        assert ran.stopped or place == "/out" or int(ran.text.split()[-1]) <= LIMITS.folder // 1_000_000 + 1


def test_a_file_is_limited_and_holes_do_not_help(box):
    ran = box.run({}, "head -c 6000000 /dev/zero > f; stat -c %s f; truncate -s 1T g; echo $?")
    assert "File size limit" in ran.text
    assert max(map(len, ran.files.values())) <= LIMITS.file
    assert not ran.text.endswith("\n0\n")
    sparse = box.run({}, "truncate -s 4000000 $(seq 1000)")
    assert sparse.stopped == "files"
    assert sparse.files == {}


def test_endless_output_ends(box):
    began = time.monotonic()
    ran = box.run({}, "yes")
    assert (ran.stopped, len(ran.output)) == (None, LIMITS.output)
    assert ran.status != 0
    assert time.monotonic() - began < 60
    assert box.run({}, "yes >&2").status != 0


def test_time_is_limited_and_the_files_stay_as_they_were(box):
    for command in ("sleep 60", "while true; do :; done", "trap '' TERM INT HUP; while true; do sleep 1; done"):
        began = time.monotonic()
        ran = Bubblewrap(Limits(seconds=1)).run({"a": b"1"}, f"echo 2 > a; {command}")
        assert (ran.status, ran.files) in ((-1, {"a": b"1"}), (137, {"a": b"2\n"}))
        assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    "survivor", ["sleep 987654 &", "setsid sleep 987654 & disown", "(trap '' TERM HUP; nohup setsid sleep 987654 &)"]
)
@pytest.mark.parametrize("end", ["", "; sleep 60"])
def test_nothing_survives_in_the_background(box, survivor, end):
    began = time.monotonic()
    ran = Bubblewrap(Limits(seconds=1)).run({}, f"{survivor}{end.removeprefix(';') if survivor.endswith('&') else end}")
    assert time.monotonic() - began < 30
    assert ran.stopped == ("time" if end else None)
    assert gone("987654")


def test_links_do_not_lead_out(box, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("treasure")
    made = box.run(
        {}, f"ln -s {secret} a; ln -s / root; ln -s /etc/passwd b; ln -s ../../.. up; mkfifo p; echo 1 > c; ln c d"
    )
    assert made.files == {"c": b"1\n", "d": b"1\n"}, (
        "links and devices do not come out, so they cannot be followed here"
    )
    assert b"treasure" not in box.run(made.files, "cat *").output


@pytest.mark.parametrize("name", ["../../../../tmp/lengthwise-out", "/tmp/lengthwise-out", "a/../../b", "\x1b[31mred"])
def test_a_forged_archive_names_no_file_outside(box, name):
    """The archive that comes out is data of unknown origin: the command writes one of its own in its place."""
    code = f"""
import io, os, tarfile, glob
sink = io.BytesIO()
with tarfile.open(fileobj=sink, mode="w") as archive:
    for name in ({name!r}, "./{name}", "./fine", "output"):
        member = tarfile.TarInfo(name)
        member.size = 2
        archive.addfile(member, io.BytesIO(b"7\\n"))
for place in glob.glob("/proc/[0-9]*/fd/1"):
    try:
        with open(place, "wb", 0) as pipe:
            if os.path.realpath(place).startswith("/proc"):
                pipe.write(sink.getvalue())
    except OSError:
        pass
"""
    ran = python(box, code)
    assert all(not file.startswith("/") and ".." not in file and "\x1b" not in file for file in ran.files)
    assert not Path("/tmp/lengthwise-out").exists()


@pytest.mark.parametrize(
    "size", [b"-0000001000", b"77777777777", b"\xff" * 12, b"\x80" + b"\0" * 10 + b"\1", b"x", b""]
)
def test_a_forged_size_ends_the_reading(size):
    header = bytearray(b"./bomb".ljust(512, b"\0"))
    header[124:136] = size.ljust(12, b"\0")
    header[156:157] = b"0"
    with pytest.raises(ValueError):
        sandbox._unpacked(bytes(header) * 4, LIMITS)


def test_a_million_files_are_refused():
    made = bytes(header_of("./a")) * (sandbox.MOST_FILES + 2)
    with pytest.raises(ValueError, match="more files"):
        sandbox._unpacked(made, LIMITS)


def header_of(name):
    header = bytearray(name.encode().ljust(512, b"\0"))
    header[124:136] = b"00000000000\0"
    header[156:157] = b"0"
    return header


def test_tricks_with_proc(box):
    tricks = (
        "cat /proc/1/root/etc/shadow; ls /proc/1/root/root; ls /proc/1/cwd/../..",
        "cat /proc/kcore | head -c 1; cat /proc/kmsg | head -c 1; cat /dev/mem /dev/sda",
        "echo c > /proc/sysrq-trigger; echo 1 > /proc/sys/kernel/panic; echo x > /proc/sys/kernel/core_pattern",
        "mount -t proc none /tmp; mount -o remount,rw /usr; umount /proc; chroot / true; pivot_root . .",
        "ls /proc/*/fd/ -l | grep -v pipe | grep -v /dev/null | grep -v /proc | grep -v /out/output | grep ' -> '",
    )
    for trick in tricks:
        ran = box.run({}, f"{{ {trick}; }} 2>/dev/null; true")
        assert (
            ran.text in ("", "bin\ndev\netc\nlib\nlib64\nopt\nout\nproc\nsbin\ntmp\nusr\nwork\n") or "memfd" in ran.text
        ), ran.text


def test_terminal_escapes_are_shown_and_not_sent(box):
    ran = box.run({}, r"printf '\033]0;title\007\033[2J\r\b\302\233\342\200\256\377ok\n'")
    assert ran.text == "\\x1b]0;title\\x07\\x1b[2J\\x0d\\x08\\x9b\\u202e\\xffok\n"
    assert all(char.isprintable() or char == "\n" for char in ran.text)


def test_commands_run_side_by_side(box):
    found = {}

    def one(name):
        found[name] = box.run({"a": name.encode()}, "cat a; echo x >> a; cat a").text

    threads = [threading.Thread(target=one, args=(f"n{at}",)) for at in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {f"n{at}": f"n{at}n{at}x\n" for at in range(12)}


def test_odd_commands_are_refused_or_survive(box):
    assert box.run({}, "a\0b").status == 126
    assert box.run({}, "x" * 200_000).status == 126
    assert box.run({}, "echo \ud800").text == "?\n"
    assert box.run({}, "exit 125").status == 125
    assert box.run({"a": b"1"}, "kill -9 $PPID; kill -9 $$").status in (-1, 137)


class Broken(Bubblewrap):
    """A sandbox that is none: the command runs in a plain shell."""

    def started(self, command):
        return Local(self.limits).started(command)

    def environment(self):
        return dict(os.environ)


def test_the_self_test_fails_closed(monkeypatch, tmp_path):
    with pytest.raises(SandboxUnavailable, match="fails its self-test"):
        Broken(LIMITS).run({}, f"touch {tmp_path}/ran")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SandboxUnavailable, match="no program `bwrap`"):
        Bubblewrap(Limits(seconds=7.5)).run({}, f"touch {tmp_path}/ran")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("engine", ["docker", "podman", "apptainer"])
def test_containers_are_asked_for_isolation_and_never_trusted_without_it(engine, monkeypatch, tmp_path):
    """The engine is a stand-in that runs the command without any isolation: the self-test must refuse it."""
    stand_in = tmp_path / engine
    stand_in.write_text(
        f'#!/bin/bash\necho "$@" > {tmp_path}/asked\nwhile [ "$1" != bash ]; do shift; done\n'
        f'mkdir -p {tmp_path}/work {tmp_path}/out\nexec "${{@:1:5}}" "$6" "$7" {tmp_path}/work {tmp_path}/out\n'
    )
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(SandboxUnavailable, match="fails its self-test"):
        Container(LIMITS, engine, "image").run({}, "true")
    asked = (tmp_path / "asked").read_text()
    wanted = {
        "apptainer": ("--containall", "--network none", "--pids-limit 24", f"--memory {LIMITS.memory}", "--no-privs"),
    }.get(engine, ("--network none", "--read-only", "--cap-drop ALL", "--pids-limit 24", "--user 65534:65534", "--rm"))
    assert all(option in asked for option in wanted), asked
