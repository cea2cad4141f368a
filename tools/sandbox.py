"""Running a shell command of unknown origin, in a sandbox: files and a command in, output and files out.

Nothing of a command stays but its output and the regular files it leaves in `/work`, and those come back as a value:
no untrusted file is ever written on this machine. What `Bubblewrap` stops, each held by a test of its own:

* network: a network namespace with nothing but its own loopback, and no sockets but those it contains;
* other processes: a PID namespace; they can be neither seen nor signalled, and when the command ends or is stopped
  the kernel ends whatever it left in the background;
* files: `/usr` read-only, `/work` and `/tmp` of limited size in memory; nothing else of this machine is there;
* the environment: cleared, so that no token or key is in it;
* privileges: an unprivileged user even where Lengthwise runs as root, no capabilities, no further namespaces, and no
  system calls that reach beyond namespaces (key rings, ptrace, BPF, io_uring, memory outside the limits);
* limits: CPU and wall-clock time, memory of a process and of all together, processes, sizes of files, of the folder and
  of output.

What it does not stop: flaws of the kernel itself, reading what is public in `/usr` and `/proc/cpuinfo`, a busy CPU for
as long as the time limit, and some hundred megabytes of the kernel's own memory (a million empty files) for as long.
"""

from __future__ import annotations

import fcntl
import io
import os
import selectors
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

from tools import seccomp

Files = Mapping[str, bytes]
"""Path below `/work` -> content. A path that ends in `/` is an empty folder."""

WORK = "/work"
MIB = 1 << 20
MOST_FILES = 20_000
"""Files that come back from a command, at most."""

ENVIRONMENT = {
    "PATH": "/opt/bin:/usr/local/bin:/usr/bin:/bin",
    "HOME": WORK,
    "LC_ALL": "C",
    # Output in the order it was made, tracebacks alike in every Python, and no files beside the program's own.
    "PYTHONUNBUFFERED": "1",
    "PYTHONUTF8": "1",
    "PYTHONNODEBUGRANGES": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}
"""All that a command finds in its environment."""


class SandboxUnavailable(ValueError):
    """The sandbox asked for cannot be made, or does not keep what it promises; nothing has been run."""


@dataclass(frozen=True)
class Limits:
    """What one command may use."""

    seconds: float = 10
    """Wall-clock, and CPU of each process."""
    memory: int = 512 * MIB
    """Bytes resident in all processes together, and address space of each."""
    processes: int = 32
    file: int = 8 * MIB
    """Bytes of a file."""
    folder: int = 16 * MIB
    """Bytes of all files."""
    output: int = 1 * MIB
    """Bytes of output; a process that writes more gets an error or a signal."""


@dataclass(frozen=True)
class Ran:
    """What came of a command."""

    output: bytes
    """Standard output and error in the order they were written."""
    status: int
    """Exit status; -1 where the command was stopped."""
    files: Files
    """The regular files it left, modes and links dropped; those it was given where it was stopped."""
    stopped: str | None = None
    """The limit it was stopped at: time, memory or files; None: it ended."""

    @property
    def text(self) -> str:
        """The output as text that is safe to show: bytes that are not UTF-8 and control characters as `\\x1b`."""
        return "".join(map(_shown, self.output.decode("utf-8", "backslashreplace")))


def _shown(char: str) -> str:
    code = ord(char)
    if char in "\n\t" or not (code < 32 or 127 <= code < 160 or 0x202A <= code <= 0x202E or 0x2066 <= code <= 0x2069):
        return char
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


class Backend(Protocol):
    """Where commands run. The same files and command may give the same result, or not: `repeats` says which."""

    repeats: bool

    def run(self, files: Files, command: str) -> Ran:
        """Run `bash -c command` in a folder with these files."""
        ...


# Unpacks the folder from its standard input, runs the command, and packs folder and output to standard output. The
# command could forge that, and say no more than what it could write itself.
_SCRIPT = """
cd "$2" && tar -xf - || exit 125
(ulimit -c 0; ulimit -f {file}; ulimit -t {cpu}; ulimit -n 128; ulimit -v {memory}; {processes}
 exec bash --norc --noprofile -c "$1") </dev/null >"$3/output" 2>&1
status=$?
{reap}
echo "status $status" >&2
tar --format=gnu --hard-dereference -cf - -C "$2" . -C "$3" output
"""


_REAP = "if [ $$ -lt 50 ]; then kill -9 -1 2>/dev/null; fi"
"""Ends what runs in the background, before the folder is packed; spares this shell. In a PID namespace of its own only,
where numbers are small: elsewhere it would end everything of the user's."""


@dataclass(frozen=True)
class Isolated:
    """What all backends share that start a process for a command."""

    limits: Limits = Limits()
    repeats = False

    def run(self, files: Files, command: str) -> Ran:
        """Run `bash -c command` in a folder with these files.

        Raises:
            SandboxUnavailable: the sandbox cannot be made here, or failed its self-test.
        """
        trusted(self)
        return self._run(files, command)

    def _run(self, files: Files, command: str) -> Ran:
        if "\0" in command or len(command.encode("utf-8", "replace")) > 100_000:
            return Ran(b"bash: the command has a NUL in it or more than 100,000 bytes\n", 126, files)
        command = command.encode("utf-8", "replace").decode()
        with self.started(command) as (arguments, passed), _in_memory(packed(files)) as given:
            process = subprocess.Popen(
                arguments,
                stdin=given,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=self.environment(),
                pass_fds=passed,
                start_new_session=True,
            )
            try:
                made, said, stopped = self._read(process)
            finally:
                self.end(process)
        if stopped:
            return Ran(f"stopped: over the limit of {stopped}\n".encode(), -1, files, stopped)
        return self._result(made, said, files)

    def _read(self, process: subprocess.Popen[bytes]) -> tuple[bytes, bytes, str | None]:
        """What the sandbox wrote to its outputs, and the limit at which it has to be stopped."""
        assert process.stdout is not None
        assert process.stderr is not None
        held: dict[object, bytearray] = {process.stdout: bytearray(), process.stderr: bytearray()}
        room = self.limits.folder + self.limits.output + 4 * MIB
        deadline = time.monotonic() + self.limits.seconds
        with selectors.DefaultSelector() as selector:
            for pipe in (process.stdout, process.stderr):
                selector.register(pipe, selectors.EVENT_READ)
            while selector.get_map():
                for key, _ in selector.select(timeout=0.02):
                    piece = os.read(key.fd, 1 << 16)
                    if not piece:
                        selector.unregister(key.fileobj)
                    held[key.fileobj] += piece
                if sum(map(len, held.values())) > room:
                    return b"", b"", "files"
                if time.monotonic() > deadline:
                    return b"", b"", "time"
                if _resident(process.pid) > self.limits.memory:
                    return b"", b"", "memory"
        return bytes(held[process.stdout]), bytes(held[process.stderr]), None

    def _result(self, made: bytes, said: bytes, files: Files) -> Ran:
        try:
            left, output = _unpacked(made, self.limits)
            (status,) = (int(line[7:]) for line in said.split(b"\n") if line.startswith(b"status "))
        except ValueError:
            why = said.decode("utf-8", "replace").strip().split("\n")[-1][:200] or "its folder cannot be read"
            return Ran(f"stopped: {why}\n".encode(), -1, files, "files")
        return Ran(output, status, left)

    @contextmanager
    def started(self, command: str) -> Iterator[tuple[list[str], list[int]]]:
        """The command line that runs `command` in the sandbox, and file descriptors it needs."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """Of the process that makes the sandbox, not of what runs in it."""
        return {"PATH": "/usr/local/bin:/usr/bin:/bin"}

    def end(self, process: subprocess.Popen[bytes]) -> None:
        """Leave nothing of it, whether it has ended or not."""
        _kill(process.pid)
        with suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()

    def script(self, processes: bool = True, reap: bool = True) -> str:
        limit = f"ulimit -u {self.limits.processes};" if processes else ""
        return _SCRIPT.format(
            file=self.limits.file // 1024,
            cpu=max(1, round(self.limits.seconds)),
            memory=self.limits.memory // 1024,
            processes=limit,
            reap=_REAP if reap else "",
        )


class Bubblewrap(Isolated):
    """Linux namespaces, through the program `bwrap` (Debian package `bubblewrap`); no root and no image needed."""

    @contextmanager
    def started(self, command: str) -> Iterator[tuple[list[str], list[int]]]:
        program = shutil.which("bwrap")
        if program is None:
            raise SandboxUnavailable("bubblewrap: no program `bwrap` here; install the package bubblewrap")
        try:
            rules = seccomp.program()
        except ValueError as error:
            raise SandboxUnavailable(f"bubblewrap: {error}") from error
        with _in_memory(rules) as filtered:
            arguments = [*_unprivileged(), program, *self._isolation(), "--seccomp", str(filtered), "--"]
            arguments += ["/usr/bin/env", "bash", "--norc", "--noprofile", "-c", self.script(), "bash"]
            yield [*arguments, command, WORK, "/out"], [filtered]

    def _isolation(self) -> list[str]:
        options = ["--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent", "--new-session"]
        options += ["--cap-drop", "ALL", "--uid", "1000", "--gid", "1000", "--hostname", "sandbox", "--clearenv"]
        options += ["--ro-bind", "/usr", "/usr"]
        for folder in ("bin", "lib", "lib64", "sbin"):
            path = Path("/", folder)
            if path.is_symlink():
                options += ["--symlink", f"usr/{folder}", f"/{folder}"]
            elif path.exists():
                options += ["--ro-bind", f"/{folder}", f"/{folder}"]
        options += ["--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache", "--symlink", _python(), "/opt/bin/python"]
        options += ["--symlink", _python(), "/opt/bin/python3"]
        options += ["--proc", "/proc", "--dev", "/dev"]
        for folder, size in ((WORK, self.limits.folder), ("/tmp", self.limits.folder), ("/out", self.limits.output)):
            options += ["--perms", "0700", "--size", str(size), "--tmpfs", folder]
        # The root, /dev and /dev/shm are file systems in memory, too, and without a limit.
        options += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", WORK]
        for name, value in ENVIRONMENT.items():
            options += ["--setenv", name, value]
        return options


@dataclass(frozen=True)
class Container(Isolated):
    """A fresh container for every command: docker, podman or apptainer, whichever `engine` names."""

    engine: str = "docker"
    image: str = "python:3.12-slim"
    """Needs bash, GNU tar and coreutils, and Python."""

    @contextmanager
    def started(self, command: str) -> Iterator[tuple[list[str], list[int]]]:
        if shutil.which(self.engine) is None:
            raise SandboxUnavailable(f"{self.engine}: no such program here")
        shell = ["bash", "--norc", "--noprofile", "-c", self.script(processes=False), "bash", command, WORK, "/out"]
        yield [self.engine, *(self._apptainer() if self.engine == "apptainer" else self._docker()), *shell], []

    def environment(self) -> dict[str, str]:
        kept = ("PATH", "HOME", "XDG_RUNTIME_DIR", "DOCKER_HOST", "APPTAINER_CACHEDIR")
        return {name: os.environ[name] for name in kept if name in os.environ}

    def _docker(self) -> list[str]:
        limits = self.limits
        options = ["run", "--rm", "--interactive", "--init", "--pull", "never", "--network", "none", "--read-only"]
        options += ["--user", "65534:65534", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
        options += ["--memory", str(limits.memory), "--memory-swap", str(limits.memory)]
        options += ["--pids-limit", str(limits.processes), "--cpus", "1", "--ipc", "private", "--workdir", WORK]
        for folder, size in ((WORK, limits.folder), ("/tmp", limits.folder), ("/out", limits.output)):
            options += ["--tmpfs", f"{folder}:rw,nosuid,nodev,mode=1777,size={size}"]
        for name, value in ENVIRONMENT.items():
            options += ["--env", f"{name}={value}"]
        return [*options, self.image]

    def _apptainer(self) -> list[str]:
        limits = self.limits
        options = ["exec", "--containall", "--cleanenv", "--no-home", "--net", "--network", "none", "--no-privs"]
        options += ["--memory", str(limits.memory), "--pids-limit", str(limits.processes), "--cpus", "1"]
        options += ["--writable-tmpfs", "--pwd", WORK]
        for name, value in ENVIRONMENT.items():
            options += ["--env", f"{name}={value}"]
        return [*options, self.image]


class Local(Isolated):
    """No sandbox at all: a plain process of yours in a temporary folder, for machines that may be lost."""

    @contextmanager
    def started(self, command: str) -> Iterator[tuple[list[str], list[int]]]:
        with tempfile.TemporaryDirectory(prefix="lengthwise-") as folder:
            work, out = Path(folder, "work"), Path(folder, "out")
            work.mkdir()
            out.mkdir()
            script = self.script(processes=False, reap=False)
            yield ["bash", "--norc", "--noprofile", "-c", script, "bash", command, str(work), str(out)], []

    def environment(self) -> dict[str, str]:
        return ENVIRONMENT


@cache
def trusted(backend: Isolated) -> None:
    """The self-test, once in a process: what a sandbox must keep, asked from inside. Fails closed.

    Raises:
        SandboxUnavailable: with what was found.
    """
    if isinstance(backend, Local):
        return
    os.environ.setdefault("LENGTHWISE_CANARY", "seen")
    with tempfile.NamedTemporaryFile() as secret:
        ran = backend._run({"given": b"1\n"}, _ASK.format(secret=secret.name, pid=os.getpid()))
    name = getattr(backend, "engine", type(backend).__name__.lower())
    said = ran.text.strip()
    if ran.stopped or said != "kept":
        hint = "; Docker's default seccomp profile and Ubuntu's AppArmor forbid it to make namespaces"
        raise SandboxUnavailable(
            f"{name}: the sandbox fails its self-test ({said[:200] or 'no answer'}{hint if ran.stopped else ''})"
        )


_ASK = """
bad() {{ echo "$1"; exit 1; }}
[ "$(cat given)" = 1 ] || bad "its files are not there"
[ -z "$LENGTHWISE_CANARY" ] || bad "the environment is not cleared"
[ ! -e {secret} ] || bad "files of this machine can be seen"
[ "$(grep -c : /proc/net/dev)" -le 1 ] || bad "there is a network"
[ "$(ls -d /proc/[0-9]* | wc -l)" -lt 15 ] || bad "other processes can be seen"
[ "$(id -u)" != 0 ] || bad "it is root"
grep -q '^CapEff:.0*$' /proc/self/status || bad "it has capabilities"
for place in / /usr /etc /dev /dev/shm /opt; do
    [ ! -d $place ] || ! touch $place/x 2>/dev/null || bad "$place can be written"
done
touch x || bad "its folder cannot be written"
echo kept
"""


def packed(files: Files) -> bytes:
    """Files as a tar archive."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            if name.endswith("/"):
                member.type, member.mode = tarfile.DIRTYPE, 0o755
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return sink.getvalue()


def _unpacked(made: bytes, limits: Limits) -> tuple[dict[str, bytes], bytes]:
    """Files and output from what a sandbox packed."""
    files: dict[str, bytes] = {}
    output, total = b"", 0
    for count, (kind, path, content) in enumerate(_members(made)):
        total += len(content)
        if total > limits.folder + limits.output + MIB or count > MOST_FILES:
            raise ValueError("more files than its folder can hold")
        name = path.removeprefix("./").removesuffix("/")
        if path == "output":
            output = content
        elif path.startswith("./") and kind in (b"0", b"\0", b"5") and _plain(name):
            files[name if kind != b"5" else f"{name}/"] = content
    used = {name[: at + 1] for name in files for at, char in enumerate(name[:-1]) if char == "/"}
    return {name: files[name] for name in sorted(files) if name not in used}, output[: limits.output]


def _members(made: bytes) -> Iterator[tuple[bytes, str, bytes]]:
    """Type, path and content of the members of a GNU tar archive of unknown origin.

    Read by hand: Python's `tarfile` has had endless loops on forged ones (CVE-2025-8194), and unfolds sparse files.
    """
    at, long = 0, None
    while at + 512 <= len(made) and made[at] != 0:
        header = made[at : at + 512]
        size, kind = int(header[124:136].rstrip(b" \0"), 8), header[156:157]
        content = made[at + 512 : at + 512 + size]
        if size < 0 or len(content) < size:
            raise ValueError("an archive that is cut off")
        at += 512 + -(-size // 512) * 512
        if kind == b"L":
            long = content
            continue
        path = (header[:100] if long is None else long).split(b"\0")[0]
        long = None
        yield kind, path.decode("utf-8", "backslashreplace"), content


def _plain(name: str) -> bool:
    return name not in ("", ".") and not name.startswith("/") and ".." not in name.split("/") and name.isprintable()


@contextmanager
def _in_memory(content: bytes) -> Iterator[int]:
    """A file that is nowhere, open at its beginning."""
    handle = os.memfd_create("lengthwise", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(handle, view) :]
        os.lseek(handle, 0, os.SEEK_SET)
        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
        fcntl.fcntl(handle, fcntl.F_ADD_SEALS, seals)  # who inherits it can read it and no more
        yield handle
    finally:
        os.close(handle)


def _unprivileged() -> list[str]:
    """Root becomes `nobody` before anything else: limits on processes do not bind root."""
    if os.geteuid() != 0:
        return []
    program = shutil.which("setpriv")
    if program is None:
        raise SandboxUnavailable("bubblewrap: run as root it needs the program `setpriv` (package util-linux)")
    return [program, "--reuid", "65534", "--regid", "65534", "--clear-groups", "--no-new-privs"]


@cache
def _python() -> str:
    """The Python of the sandbox: one that lies in /usr, which is all that the sandbox sees."""
    for name in ("/usr/bin/python3", "/usr/local/bin/python3"):
        if Path(name).exists():
            return name
    raise SandboxUnavailable("bubblewrap: no Python in /usr/bin or /usr/local/bin for programs to run with")


def _descendants(pid: int) -> list[int]:
    """Process ids of all below a process."""
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
                found += [int(child), *_descendants(int(child))]
    except OSError:
        pass
    return found


def _kill(pid: int) -> None:
    """End all below a process. Ids may be given to other processes meanwhile, handles may not: a handle is used if its
    process was below this one after it had been opened."""
    handles: dict[int, int] = {}
    for child in _descendants(pid):
        with suppress(OSError):
            handles[child] = os.pidfd_open(child)
    still = set(_descendants(pid))
    for child, handle in handles.items():
        with suppress(OSError):
            if child in still:
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        os.close(handle)


def _resident(pid: int) -> int:
    """Bytes in memory of all below a process."""
    pages = 0
    for child in _descendants(pid):
        with suppress(OSError, ValueError, IndexError):
            pages += int(Path(f"/proc/{child}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
